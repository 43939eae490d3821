//! Charts as SVG. A page has each chart twice, for wide and for narrow screens, and a script that shows the values
//! under the pointer.

use maud::{Markup, html};
use serde::Serialize;

/// A line of a chart.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// The name in the legend.
    pub name: String,
    /// The points, x ascending. The line has a gap where y is not a number.
    pub points: Vec<(f64, f64)>,
    /// Points with a mark, whose values a pointer shows.
    pub dots: Vec<(f64, f64)>,
}

/// How values map to positions on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0, every unit equally wide.
    Linear,
    /// Every power of ten equally wide.
    Log,
    /// Quantiles below 1: every further nine (0.9, 0.99, 0.999) equally wide.
    Quantile,
}

/// An axis.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// What the axis shows, with its unit.
    pub label: &'static str,
    /// What follows a value in a sentence: `s`, or nothing if `show` has the unit.
    pub unit: &'static str,
    /// How values map to positions.
    pub scale: Scale,
    /// Formats a value.
    pub show: fn(f64) -> String,
}

/// A chart of lines.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What the chart shows.
    pub title: &'static str,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
    /// The name and value of a level to compare with.
    pub level: Option<(&'static str, f64)>,
}

/// The size of a chart and of the margins around its plot.
struct Shape {
    class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    bottom: f64,
}

const WIDE: Shape = Shape { class: "wide", width: 880.0, height: 320.0, left: 64.0, right: 24.0, bottom: 48.0 };
const NARROW: Shape = Shape { class: "narrow", width: 400.0, height: 320.0, left: 58.0, right: 14.0, bottom: 46.0 };
/// Height of a row of the legend.
const ROW: f64 = 18.0;
/// Lines in one chart: there are this many colours.
pub const LINES_MAX: usize = 6;

/// The style of charts. Colours follow the reader's setting, light or dark. Readers who cannot tell all colours apart
/// have the dashes.
pub(super) const CHART_STYLE: &str = "
:root { color-scheme: light dark; --ink: #1f2937; --soft: #5b6472; --grid: #e5e7eb; --paper: #ffffff; --panel: #f6f7f9;
  --c0: #0072b2; --c1: #c1500a; --c2: #00795f; --c3: #9c3587; --c4: #7a6200; --c5: #4b5563; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9aa3b2; --grid: #2c333f; --paper: #14181f;
  --panel: #1c222b; --c0: #56b4e9; --c1: #ff9a57; --c2: #3fd4b4; --c3: #ee8fd0; --c4: #e6c84a; --c5: #b4bcc8; } }
svg { font: 11px system-ui, sans-serif; background: var(--paper); } svg text { fill: var(--soft); }
svg .title { font-size: 14px; font-weight: 600; fill: var(--ink); } svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; } svg .grid { stroke: var(--grid); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .level { stroke: var(--soft); stroke-dasharray: 5 4; }
svg .over { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; } svg .hair { stroke: var(--soft); display: none; }
svg .dot { stroke: var(--paper); stroke-width: 1; }
.d1 { stroke-dasharray: 8 3; } .d2 { stroke-dasharray: 2 3; } .d3 { stroke-dasharray: 10 3 2 3; }
.d4 { stroke-dasharray: 14 4; } .d5 { stroke-dasharray: 4 4; }
";

/// The style of charts in a page, which has them in two sizes.
pub(super) const FIGURE_STYLE: &str = "
figure { position: relative; margin: 1rem 0; } figure svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
figure .narrow { display: none; } figure .narrow { font-size: 12px; }
@media (max-width: 640px) { figure .wide { display: none; } figure .narrow { display: block; } }
.tip { position: absolute; top: 2.2rem; display: none; pointer-events: none; background: var(--panel); color: var(--ink);
  border: 1px solid var(--grid); border-radius: 6px; padding: .3rem .5rem; font-size: 13px; white-space: nowrap; }
.tip i { display: inline-block; width: .6rem; height: .6rem; border-radius: 2px; margin-right: .4rem; }
";

/// Shows a line at the pointer, and the nearest point of each line of the chart.
pub(super) const FIGURE_SCRIPT: &str = r#"
for (const figure of document.querySelectorAll("figure[data-lines]")) {
  const lines = JSON.parse(figure.dataset.lines), tip = figure.querySelector(".tip");
  for (const svg of figure.querySelectorAll("svg")) {
    const [left, width] = svg.dataset.box.split(" ").map(Number), hair = svg.querySelector(".hair");
    const hide = () => { hair.style.display = tip.style.display = "none"; };
    const show = event => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const x = (at.x - left) / width;
      const near = points => points.reduce((a, b) => Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a);
      const found = lines.filter(line => line.points.length).map(line => [line, near(line.points)]);
      if (x < -0.02 || x > 1.02 || !found.length) return hide();
      const first = near(found.map(([, point]) => point)), px = left + first.x * width;
      hair.setAttribute("x1", px); hair.setAttribute("x2", px); hair.style.display = "inline";
      tip.replaceChildren(first.at);
      for (const [line, point] of found.filter(([, point]) => Math.abs(point.x - first.x) < 0.02)) {
        const row = document.createElement("div"), swatch = document.createElement("i");
        swatch.style.background = `var(--c${line.color})`;
        row.append(swatch, `${line.name}: ${point.value}`); tip.append(row);
      }
      tip.style.display = "block";
      const box = figure.getBoundingClientRect(), screen = event.clientX - box.left;
      tip.style.left = `${Math.max(0, screen < box.width / 2 ? screen + 12 : screen - 12 - tip.offsetWidth)}px`;
    };
    svg.addEventListener("pointermove", show); svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
  }
}
"#;

/// Formats a number briefly: 1.5M, 20k, 0.125.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", (v / 1e4).round() / 100.0),
        v if v >= 1e4 => format!("{}k", (v / 1e2).round() / 10.0),
        v if v >= 10.0 || v == v.trunc() => format!("{}", (v * 10.0).round() / 10.0),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}

/// Formats a time in microseconds briefly: 500 µs, 2 ms, 5 s.
pub fn short_duration(microseconds: f64) -> String {
    match microseconds {
        us if us < 1_000.0 => format!("{} µs", short(us)),
        us if us < 1_000_000.0 => format!("{} ms", short(us / 1e3)),
        us => format!("{} s", short(us / 1e6)),
    }
}

/// Returns the smallest number of the form 1, 2 or 5 times a power of ten that is not below `value`.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= value * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// An axis with its ends and the values that are marked on it.
struct Span {
    scale: Scale,
    ends: (f64, f64),
    ticks: Vec<f64>,
}

impl Span {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Span {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let top = values.iter().copied().fold(0.0, f64::max);
        let (ends, ticks) = match scale {
            Scale::Linear => {
                let step = round_up(top / 6.0);
                let steps = (top / step - 1e-9).ceil().max(1.0);
                ((0.0, steps * step), (0..=steps as u32).map(|index| f64::from(index) * step).collect())
            }
            Scale::Log => {
                let positive = values.iter().copied().filter(|&value| value > 0.0);
                let (low, high) = (positive.fold(f64::INFINITY, f64::min).min(top.max(1.0)), round_up(top.max(1e-9)));
                let mut ticks = vec![high];
                while ticks[0] > low * (1.0 + 1e-9) || ticks.len() < 2 {
                    ticks.insert(0, below(ticks[0]));
                }
                ((ticks[0], high), ticks)
            }
            Scale::Quantile => {
                let ticks = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
                ((0.0, top.max(0.5)), ticks.into_iter().filter(|&tick| tick <= top).collect())
            }
        };
        Span { scale, ends, ticks }
    }

    /// Returns the position of a value, 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let (low, high) = self.ends;
        let place = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(low).log10(),
            Scale::Quantile => -(1.0 - value.min(0.999_999_9)).log10(),
        };
        (place(value) - place(low)) / (place(high) - place(low))
    }

    /// Whether a tick has a label: of many ticks on a logarithmic axis, only powers of ten have one.
    fn is_labelled(&self, tick: f64) -> bool {
        self.scale != Scale::Log || self.ticks.len() <= 8 || (tick.log10() - tick.log10().round()).abs() < 1e-9
    }
}

/// Returns the next lower number of the form 1, 2 or 5 times a power of ten.
fn below(tick: f64) -> f64 {
    round_up(tick / 2.6)
}

/// A place on which a chart is drawn.
struct Canvas<'a> {
    shape: &'a Shape,
    /// The upper end of the plot, below title and legend.
    top: f64,
}

impl Canvas<'_> {
    fn x(&self, share: f64) -> f64 {
        self.shape.left + self.width() * share
    }

    fn y(&self, share: f64) -> f64 {
        self.bottom() - (self.bottom() - self.top) * share
    }

    fn width(&self) -> f64 {
        self.shape.width - self.shape.left - self.shape.right
    }

    fn right(&self) -> f64 {
        self.shape.width - self.shape.right
    }

    fn bottom(&self) -> f64 {
        self.shape.height - self.shape.bottom
    }

    fn x_tick(&self, x: f64, label: &str, is_tilted: bool) -> Markup {
        let (y, tilt) = (self.bottom(), format!("rotate(-38 {x:.1} {:.1})", self.bottom() + 14.0));
        html! {
            line x1=(one(x)) x2=(one(x)) y1=(y) y2=(y + 5.0) class="grid" {}
            @if is_tilted {
                text x=(one(x)) y=(y + 14.0) class="end" transform=(tilt) { (label) }
            } @else {
                text x=(one(x)) y=(y + 18.0) class="middle" { (label) }
            }
        }
    }
}

/// A coordinate with one digit.
fn one(value: f64) -> String {
    format!("{value:.1}")
}

/// What stands in the legend: a name, and whether it is a line (or a bar).
struct Legend<'a> {
    names: &'a [&'a str],
    is_line: bool,
}

impl Legend<'_> {
    /// The place of each name, and the number of rows.
    fn places(&self, shape: &Shape) -> (Vec<(f64, f64)>, f64) {
        let (mut x, mut row) = (shape.left, 0.0);
        let mut places = Vec::new();
        for name in self.names {
            let width = 6.8 * name.chars().count() as f64 + 40.0;
            if x + width > shape.width && x > shape.left {
                (x, row) = (shape.left, row + 1.0);
            }
            places.push((x, 26.0 + ROW * row));
            x += width;
        }
        (places, if self.names.is_empty() { 0.0 } else { row + 1.0 })
    }
}

/// Draws title, legend and horizontal grid, and what `plot` adds.
fn frame(
    shape: &Shape,
    title: &str,
    label: &str,
    (span, show): (&Span, fn(f64) -> String),
    legend: &Legend<'_>,
    plot: impl FnOnce(&Canvas<'_>) -> Markup,
) -> Markup {
    let (places, rows) = legend.places(shape);
    let canvas = Canvas { shape, top: 50.0 + ROW * rows };
    let (width, height, left) = (shape.width, shape.height, shape.left);
    html! {
        svg viewBox=(format!("0 0 {width} {height}")) class=(shape.class) role="img"
            data-box=(format!("{left} {}", canvas.width())) {
            title { (title) }
            text x=(left) y="18" class="title" { (title) }
            @for (index, (name, (x, y))) in legend.names.iter().zip(places).enumerate() {
                @if legend.is_line {
                    line x1=(x) x2=(x + 22.0) y1=(y + 6.0) y2=(y + 6.0) class=(format!("line d{}", index % LINES_MAX))
                        style=(format!("stroke:var(--c{})", index % LINES_MAX)) {}
                } @else {
                    rect x=(x + 8.0) y=(y + 1.0) width="10" height="10" rx="2"
                        style=(format!("fill:var(--c{})", index % LINES_MAX)) {}
                }
                text x=(x + 27.0) y=(y + 10.0) { (name) }
            }
            @for &tick in &span.ticks {
                @let y = canvas.y(span.at(tick));
                line x1=(left) x2=(canvas.right()) y1=(one(y)) y2=(one(y)) class="grid" {}
                @if span.is_labelled(tick) {
                    text x=(left - 6.0) y=(one(y + 4.0)) class="end" { (show(tick)) }
                }
            }
            text x=(left) y=(canvas.top - 10.0) { (label) }
            (plot(&canvas))
            line class="hair" y1=(canvas.top) y2=(canvas.bottom()) {}
        }
    }
}

/// A line as the script of a page reads it.
#[derive(Serialize)]
struct ScriptLine<'a> {
    name: &'a str,
    color: usize,
    points: Vec<ScriptPoint>,
}

#[derive(Serialize)]
struct ScriptPoint {
    /// Place within the plot, 0 to 1.
    x: f64,
    /// The values on both axes, as text.
    at: String,
    value: String,
}

impl Chart {
    fn spans(&self) -> (Span, Span) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let level = self.level.map(|(_, value)| value);
        let x = Span::of(self.x.scale, points().map(|point| point.0));
        (x, Span::of(self.y.scale, points().map(|point| point.1).chain(level)))
    }

    /// Renders the chart as an element of a page: in two sizes, with its values for the script.
    pub(crate) fn to_figure(&self) -> Markup {
        let (x, _) = self.spans();
        let lines = self.lines.iter().enumerate().map(|(index, line)| ScriptLine {
            name: &line.name,
            color: index % LINES_MAX,
            points: line
                .points
                .iter()
                .filter(|point| point.1.is_finite())
                .map(|&(px, py)| ScriptPoint {
                    x: (x.at(px) * 1e4).round() / 1e4,
                    at: format!("{} {}", (self.x.show)(px), self.x.unit),
                    value: (self.y.show)(py),
                })
                .collect(),
        });
        // Texts and numbers always serialize.
        let lines = serde_json::to_string(&lines.collect::<Vec<_>>()).unwrap_or_default();
        html! {
            figure data-lines=(lines) { (self.draw(&WIDE)) (self.draw(&NARROW)) div.tip {} }
        }
    }

    fn draw(&self, shape: &Shape) -> Markup {
        let (x, y) = self.spans();
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let legend = Legend { names: if names.len() > 1 { &names } else { &[] }, is_line: true };
        frame(shape, self.title, self.y.label, (&y, self.y.show), &legend, |canvas| {
            let place = |&(px, py): &(f64, f64)| (canvas.x(x.at(px)), canvas.y(y.at(py)));
            let labels: Vec<f64> = x.ticks.iter().copied().filter(|&tick| x.is_labelled(tick)).collect();
            // On a narrow screen, every second label is enough of many.
            let step = if labels.len() > 7 && shape.class == NARROW.class { 2 } else { 1 };
            html! {
                @for &tick in labels.iter().step_by(step) {
                    (canvas.x_tick(canvas.x(x.at(tick)), &(self.x.show)(tick), false))
                }
                @for (index, line) in self.lines.iter().enumerate() {
                    @let color = format!("var(--c{})", index % LINES_MAX);
                    @for part in line.points.split(|point| !point.1.is_finite()).filter(|part| !part.is_empty()) {
                        @let points: Vec<String> =
                            part.iter().map(place).map(|(px, py)| format!("{px:.1},{py:.1}")).collect();
                        polyline points=(points.join(" ")) class=(format!("line d{}", index % LINES_MAX))
                            style=(format!("stroke:{color}")) {}
                    }
                    @for dot in line.dots.iter().filter(|dot| dot.1.is_finite()) {
                        @let (px, py) = place(dot);
                        circle cx=(one(px)) cy=(one(py)) r="3" class="dot" style=(format!("fill:{color}")) {
                            title { (line.name) " at " ((self.x.show)(dot.0)) ": " ((self.y.show)(dot.1)) }
                        }
                    }
                }
                @if let Some((name, value)) = self.level {
                    @let at = canvas.y(y.at(value));
                    line x1=(shape.left) x2=(canvas.right()) y1=(one(at)) y2=(one(at)) class="level" {}
                    text x=(canvas.right()) y=(one(at - 7.0)) class="end over" { (name) " " ((self.y.show)(value)) }
                }
                text x=(canvas.x(0.5)) y=(shape.height - 8.0) class="middle" { (self.x.label) }
            }
        })
    }
}

/// Renders a chart of bars as an element of a page: for each name, one bar of every series.
pub(crate) fn bars(title: &str, unit: &str, names: &[String], series: &[(String, Vec<f64>)]) -> Markup {
    let y = Span::of(Scale::Linear, series.iter().flat_map(|(_, values)| values).copied());
    let legend: Vec<&str> = series.iter().map(|(name, _)| name.as_str()).collect();
    let draw = |shape: &Shape| {
        frame(shape, title, unit, (&y, short), &Legend { names: &legend, is_line: false }, |canvas| {
            let slot = canvas.width() / names.len().max(1) as f64;
            let width = slot * 0.8 / series.len().max(1) as f64;
            html! {
                @for (place, name) in names.iter().enumerate() {
                    @let left = shape.left + slot * place as f64;
                    (canvas.x_tick(left + slot / 2.0, name, slot < 45.0))
                    @for (index, (_, values)) in series.iter().enumerate() {
                        @if let Some(&value) = values.get(place) {
                            @let top = canvas.y(y.at(value));
                            rect x=(one(left + slot * 0.1 + width * index as f64)) y=(one(top)) width=(one(width))
                                height=(one(canvas.bottom() - top))
                                style=(format!("fill:var(--c{})", index % LINES_MAX)) {
                                title { (name) ": " (format!("{value:.3}")) }
                            }
                        }
                    }
                }
            }
        })
    };
    html! { figure { (draw(&WIDE)) (draw(&NARROW)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_top() {
        assert_eq!(Span::of(Scale::Linear, [97.0].into_iter()).ticks, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Span::of(Scale::Linear, [0.0].into_iter()).ends, (0.0, 1.0));
        let near = |ticks: Vec<f64>, expected: &[f64]| {
            assert!(ticks.len() == expected.len(), "{ticks:?}");
            assert!(ticks.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-9), "{ticks:?}");
        };
        near(
            Span::of(Scale::Log, [30.0, 1500.0].into_iter()).ticks,
            &[20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0],
        );
        near(Span::of(Scale::Log, [0.0, 0.2].into_iter()).ticks, &[0.1, 0.2]);
        assert_eq!(round_up(0.03), 0.05);
        assert_eq!([short(1_500_000.0), short(20_000.0), short(0.125)], ["1.5M", "20k", "0.125"]);
        assert_eq!([short_duration(500.0), short_duration(2e3), short_duration(5e6)], ["500 µs", "2 ms", "5 s"]);
    }

    #[test]
    fn a_value_lies_between_its_neighbours() {
        for scale in [Scale::Linear, Scale::Log, Scale::Quantile] {
            let span = Span::of(scale, [0.01, 0.5, 0.95].into_iter());
            assert!(span.at(0.01) >= 0.0 && span.at(0.01) < span.at(0.5) && span.at(0.95) <= 1.0, "{scale:?}");
        }
    }

    #[test]
    fn an_empty_chart_is_a_chart() {
        for scale in [Scale::Linear, Scale::Log, Scale::Quantile] {
            let axis = Axis { label: "", unit: "", scale, show: short };
            let chart = Chart { title: "t", x: axis, y: axis, lines: Vec::new(), level: None };
            let figure = chart.to_figure().into_string();
            assert!(figure.contains("</svg>") && !figure.contains("NaN"), "{figure}");
        }
        assert!(bars("t", "µs", &[], &[]).into_string().ends_with("</svg></figure>"));
    }
}
