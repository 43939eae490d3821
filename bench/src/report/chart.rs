//! Charts as SVG, small enough to make by hand.

use std::fmt::Write;

/// A line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points, x ascending.
    pub points: Vec<(f64, f64)>,
}

/// How a position on the x axis is made of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XAxis {
    /// Seconds.
    Linear,
    /// Quantiles below 1, each further nine as wide as the one before.
    Quantile,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
const COLORS: [&str; 6] = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2"];

/// Text that may stand in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The smallest number of the form 1, 2 or 5 times a power of ten that is not below `value`.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= value * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// Every 1, 2 or 5 times a power of ten, so that there are at most six steps up to `max`.
fn ticks(max: f64) -> Vec<f64> {
    let step = round_up(max / 6.0);
    (0..=(max / step).round() as usize).map(|index| index as f64 * step).collect()
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e4 => format!("{}k", v / 1e3),
        v if v >= 10.0 || v == v.trunc() => format!("{}", (v * 10.0).round() / 10.0),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}

/// Opens a chart with its title, its horizontal grid, and the legend.
fn frame(out: &mut String, title: &str, unit: &str, y_max: f64, legend: &[&str]) {
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{title}</title><text x="{LEFT}" y="18" class="title">{title}</text>"#,
        title = escape(title)
    );
    for tick in ticks(y_max) {
        let y = y_at(tick, y_max);
        let _ = write!(
            out,
            r#"<line x1="{LEFT}" x2="{x2}" y1="{y:.1}" y2="{y:.1}" class="grid"/><text x="{x}" y="{ty:.1}" class="tick end">{label}</text>"#,
            x2 = WIDTH - RIGHT,
            x = LEFT - 6.0,
            ty = y + 4.0,
            label = short(tick)
        );
    }
    let _ = write!(out, r#"<text x="{}" y="{}" class="tick end">{}</text>"#, LEFT - 6.0, TOP - 10.0, escape(unit));
    let mut x = WIDTH - RIGHT;
    for (index, name) in legend.iter().enumerate().rev() {
        x -= 7.0 * name.chars().count() as f64 + 22.0;
        let color = COLORS[index % COLORS.len()];
        let _ = write!(
            out,
            r#"<rect x="{x:.0}" y="9" width="10" height="10" fill="{color}"/><text x="{:.0}" y="18" class="tick">{}</text>"#,
            x + 14.0,
            escape(name)
        );
    }
}

fn y_at(value: f64, y_max: f64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / y_max
}

fn x_tick(out: &mut String, x: f64, label: &str) {
    let y = HEIGHT - BOTTOM;
    let _ = write!(
        out,
        r#"<line x1="{x:.1}" x2="{x:.1}" y1="{y}" y2="{}" class="grid"/><text x="{x:.1}" y="{}" class="tick middle">{}</text>"#,
        y + 5.0,
        y + 18.0,
        escape(label)
    );
}

fn x_label(out: &mut String, label: &str) {
    let (x, y) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
    let _ = write!(out, r#"<text x="{x}" y="{y}" class="tick middle">{}</text></svg>"#, escape(label));
}

/// A chart of lines.
pub fn lines(title: &str, unit: &str, label: &str, axis: XAxis, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let y_max = points().map(|point| point.1).fold(0.0, f64::max);
    let y_max =
        ticks(round_up(y_max * 1.02 / 6.0) * 6.0).into_iter().find(|tick| *tick >= y_max).unwrap_or(1.0).max(1e-9);
    let place = |x: f64| match axis {
        XAxis::Linear => x,
        XAxis::Quantile => -(1.0 - x.min(0.999_999_9)).log10(),
    };
    let x_max = points().map(|point| place(point.0)).fold(0.0, f64::max).max(1e-9);
    let x_at = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * place(x) / x_max;
    let mut out = String::new();
    frame(&mut out, title, unit, y_max, &lines.iter().map(|line| line.name.as_str()).collect::<Vec<_>>());
    match axis {
        XAxis::Linear => {
            ticks(x_max)
                .into_iter()
                .filter(|tick| *tick <= x_max)
                .for_each(|tick| x_tick(&mut out, x_at(tick), &short(tick)));
        }
        XAxis::Quantile => {
            let marks = [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
            let marks = marks.into_iter().chain([(0.99999, "99.999 %"), (0.999999, "99.9999 %")]);
            marks.filter(|(x, _)| place(*x) <= x_max).for_each(|(x, name)| x_tick(&mut out, x_at(x), name));
        }
    }
    for (index, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_at(*x), y_at(*y, y_max))).collect();
        let color = COLORS[index % COLORS.len()];
        let _ = write!(out, r#"<polyline points="{}" stroke="{color}" class="line"/>"#, points.join(" "));
    }
    x_label(&mut out, label);
    out
}

/// A chart of bars: for each name a bar of every series.
pub fn bars(title: &str, unit: &str, names: &[String], series: &[(String, Vec<f64>)]) -> String {
    let top = series.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max);
    let y_max = ticks(round_up(top / 6.0) * 6.0).into_iter().find(|tick| *tick >= top).unwrap_or(1.0).max(1e-9);
    let mut out = String::new();
    frame(&mut out, title, unit, y_max, &series.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    let slot = (WIDTH - LEFT - RIGHT) / names.len().max(1) as f64;
    let width = slot * 0.8 / series.len().max(1) as f64;
    for (place, name) in names.iter().enumerate() {
        let left = LEFT + slot * place as f64;
        x_tick(&mut out, left + slot / 2.0, name);
        for (index, (_, values)) in series.iter().enumerate() {
            let Some(value) = values.get(place) else { continue };
            let y = y_at(*value, y_max);
            let _ = write!(
                out,
                r#"<rect x="{:.1}" y="{y:.1}" width="{width:.1}" height="{:.1}" fill="{}"><title>{name}: {value:.3}</title></rect>"#,
                left + slot * 0.1 + width * index as f64,
                HEIGHT - BOTTOM - y,
                COLORS[index % COLORS.len()],
                name = escape(name),
            );
        }
    }
    x_label(&mut out, "");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_top() {
        assert_eq!(ticks(100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(round_up(0.03), 0.05);
        assert_eq!([short(1_500_000.0), short(20_000.0), short(0.125)], ["1.5M", "20k", "0.125"]);
    }

    #[test]
    fn an_empty_chart_is_a_chart() {
        assert!(lines("t", "us", "s", XAxis::Linear, &[]).ends_with("</svg>"));
        assert!(bars("t", "us", &[], &[]).ends_with("</svg>"));
    }
}
