//! Charts as SVG, small enough to make by hand.

use std::fmt::Write;

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

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 48.0;
/// Lines in one chart: there are this many colours.
pub const LINES_MAX: usize = 6;

/// The style of charts. Colours follow the reader's setting, light or dark.
pub const CHART_STYLE: &str = "
:root { color-scheme: light dark; --ink: #1f2937; --soft: #5b6472; --grid: #e5e7eb; --paper: #ffffff; --panel: #f6f7f9;
  --c0: #2563eb; --c1: #dc2626; --c2: #059669; --c3: #d97706; --c4: #7c3aed; --c5: #0891b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9aa3b2; --grid: #2c333f; --paper: #14181f;
  --panel: #1c222b; --c0: #60a5fa; --c1: #f87171; --c2: #34d399; --c3: #fbbf24; --c4: #a78bfa; --c5: #22d3ee; } }
svg { font: 11px system-ui, sans-serif; background: var(--paper); } svg text { fill: var(--soft); }
svg .title { font-size: 14px; font-weight: 600; fill: var(--ink); } svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; } svg .grid { stroke: var(--grid); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .level { stroke: var(--soft); stroke-dasharray: 5 4; }
svg .dot { stroke: var(--paper); stroke-width: 1; }
";

/// Escapes text for HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Turns a chart into a file of its own, with its style.
pub fn standalone(svg: &str) -> String {
    svg.replacen(
        "<svg ",
        &format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" "),
        1,
    )
    .replacen("<title>", &format!("<style>{CHART_STYLE}</style><title>"), 1)
}

/// Formats a number briefly: 1.5M, 20k, 0.125.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", (v / 1e4).round() / 100.0),
        v if v >= 1e4 => format!("{}k", (v / 1e2).round() / 10.0),
        v if v >= 10.0 || v == v.trunc() => format!("{}", (v * 10.0).round() / 10.0),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}

/// Formats a time in microseconds briefly: 500 us, 2 ms, 5 s.
pub fn short_duration(microseconds: f64) -> String {
    match microseconds {
        us if us < 1_000.0 => format!("{} us", short(us)),
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

    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * self.at(value)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self.at(value)
    }
}

/// Returns the next lower number of the form 1, 2 or 5 times a power of ten.
fn below(tick: f64) -> f64 {
    round_up(tick / 2.6)
}

/// Writes the front of a chart: title, horizontal grid and legend.
fn frame(out: &mut String, title: &str, label: &str, show: fn(f64) -> String, span: &Span, legend: &[&str]) {
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{title}</title><text x="{LEFT}" y="18" class="title">{title}</text>"#,
        title = escape(title)
    );
    for &tick in &span.ticks {
        let (y, x, x2) = (span.y(tick), LEFT - 6.0, WIDTH - RIGHT);
        let _ = write!(out, r#"<line x1="{LEFT}" x2="{x2}" y1="{y:.1}" y2="{y:.1}" class="grid"/>"#);
        if span.is_labelled(tick) {
            let _ = write!(out, r#"<text x="{x}" y="{:.1}" class="end">{}</text>"#, y + 4.0, show(tick));
        }
    }
    let _ = write!(out, r#"<text x="{LEFT}" y="{}">{}</text>"#, TOP - 10.0, escape(label));
    let mut x = WIDTH - RIGHT;
    for (index, name) in legend.iter().enumerate().rev() {
        x -= 6.5 * name.chars().count() as f64 + 26.0;
        let _ = write!(
            out,
            r#"<rect x="{x:.0}" y="{}" width="10" height="10" rx="2" style="fill:var(--c{})"/><text x="{:.0}" y="{}">{}</text>"#,
            TOP - 19.0,
            index % LINES_MAX,
            x + 14.0,
            TOP - 10.0,
            escape(name)
        );
    }
}

fn x_tick(out: &mut String, x: f64, label: &str) {
    let y = HEIGHT - BOTTOM;
    let _ = write!(
        out,
        r#"<line x1="{x:.1}" x2="{x:.1}" y1="{y}" y2="{}" class="grid"/><text x="{x:.1}" y="{}" class="middle">{}</text>"#,
        y + 5.0,
        y + 18.0,
        escape(label)
    );
}

impl Chart {
    /// Renders the chart as an element of a page.
    pub fn to_svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let level = self.level.map(|(_, value)| value);
        let x = Span::of(self.x.scale, points().map(|point| point.0));
        let y = Span::of(self.y.scale, points().map(|point| point.1).chain(level));
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let mut out = String::new();
        frame(&mut out, self.title, self.y.label, self.y.show, &y, if names.len() > 1 { &names } else { &[] });
        for &tick in x.ticks.iter().filter(|&&tick| x.is_labelled(tick)) {
            x_tick(&mut out, x.x(tick), &(self.x.show)(tick));
        }
        if let Some((name, value)) = self.level {
            let (at, x2) = (y.y(value), WIDTH - RIGHT);
            let _ = write!(
                out,
                r#"<line x1="{LEFT}" x2="{x2}" y1="{at:.1}" y2="{at:.1}" class="level"/><text x="{x2}" y="{:.1}" class="end">{}</text>"#,
                at - 5.0,
                escape(name)
            );
        }
        for (index, line) in self.lines.iter().enumerate() {
            let color = format!("var(--c{})", index % LINES_MAX);
            for part in line.points.split(|point| !point.1.is_finite()) {
                let points: Vec<String> =
                    part.iter().map(|&(px, py)| format!("{:.1},{:.1}", x.x(px), y.y(py))).collect();
                let _ = write!(out, r#"<polyline points="{}" class="line" style="stroke:{color}"/>"#, points.join(" "));
            }
            for &(px, py) in line.dots.iter().filter(|dot| dot.1.is_finite()) {
                let _ = write!(
                    out,
                    r#"<circle cx="{:.1}" cy="{:.1}" r="3" class="dot" style="fill:{color}"><title>{} at {}: {}</title></circle>"#,
                    x.x(px),
                    y.y(py),
                    escape(&line.name),
                    (self.x.show)(px),
                    (self.y.show)(py)
                );
            }
        }
        let (at, y) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0);
        let _ = write!(out, r#"<text x="{at}" y="{y}" class="middle">{}</text></svg>"#, escape(self.x.label));
        out
    }
}

/// Renders a chart of bars: for each name, one bar of every series.
pub fn bars(title: &str, unit: &str, names: &[String], series: &[(String, Vec<f64>)]) -> String {
    let y = Span::of(Scale::Linear, series.iter().flat_map(|(_, values)| values).copied());
    let mut out = String::new();
    frame(&mut out, title, unit, short, &y, &series.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    let slot = (WIDTH - LEFT - RIGHT) / names.len().max(1) as f64;
    let width = slot * 0.8 / series.len().max(1) as f64;
    for (place, name) in names.iter().enumerate() {
        let left = LEFT + slot * place as f64;
        x_tick(&mut out, left + slot / 2.0, name);
        for (index, (_, values)) in series.iter().enumerate() {
            let Some(value) = values.get(place) else { continue };
            let top = y.y(*value);
            let _ = write!(
                out,
                r#"<rect x="{:.1}" y="{top:.1}" width="{width:.1}" height="{:.1}" style="fill:var(--c{})"><title>{name}: {value:.3}</title></rect>"#,
                left + slot * 0.1 + width * index as f64,
                HEIGHT - BOTTOM - top,
                index % LINES_MAX,
                name = escape(name),
            );
        }
    }
    out.push_str("</svg>");
    out
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
        assert_eq!([short_duration(500.0), short_duration(2e3), short_duration(5e6)], ["500 us", "2 ms", "5 s"]);
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
            let axis = Axis { label: "", scale, show: short };
            let svg = Chart { title: "t", x: axis, y: axis, lines: Vec::new(), level: None }.to_svg();
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        }
        assert!(bars("t", "us", &[], &[]).ends_with("</svg>"));
    }
}
