//! The plot: hit ratio over memory, a line a policy.

use std::fmt::Write;

/// A policy's points: memory in percent of the footprint, hit ratio in percent.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 60.0;
const COLORS: [&str; 6] = ["#555555", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e"];

/// An SVG picture; memory is on a logarithmic scale.
pub(super) fn svg(lines: &[Line]) -> String {
    let sizes = || lines.iter().flat_map(|line| line.points.iter().map(|point| point.0.max(1e-6).ln()));
    let (least, most) = (sizes().fold(f64::MAX, f64::min), sizes().fold(f64::MIN, f64::max));
    let x = |size: f64| {
        let share = if most > least { (size.max(1e-6).ln() - least) / (most - least) } else { 0.5 };
        MARGIN + share * (WIDTH - 3.0 * MARGIN)
    };
    let y = |ratio: f64| HEIGHT - MARGIN - ratio / 100.0 * (HEIGHT - 2.0 * MARGIN);
    // Writing to a String cannot fail.
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>"#
    );
    for ratio in [0.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
        let (left, right, at) = (MARGIN, WIDTH - 2.0 * MARGIN, y(ratio));
        let _ = write!(
            out,
            r##"<line x1="{left}" x2="{right}" y1="{at}" y2="{at}" stroke="#dddddd"/><text x="{}" y="{at}" text-anchor="end">{ratio} %</text>"##,
            left - 6.0
        );
    }
    for &(size, _) in lines.first().map_or(&[][..], |line| &line.points) {
        let _ = write!(out, r#"<text x="{}" y="{}" text-anchor="middle">{size} %</text>"#, x(size), HEIGHT - 40.0);
    }
    for (number, line) in lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let points: Vec<String> =
            line.points.iter().map(|&(size, ratio)| format!("{},{}", x(size), y(ratio))).collect();
        let _ = write!(
            out,
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="2"/><text x="{}" y="{}" fill="{color}">{}</text>"#,
            points.join(" "),
            WIDTH - 2.0 * MARGIN + 8.0,
            MARGIN + 18.0 * number as f64,
            line.name
        );
    }
    let _ = write!(
        out,
        r#"<text x="{MARGIN}" y="{}">memory, percent of the footprint; hit ratio</text></svg>"#,
        HEIGHT - 14.0
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_its_line_in_the_plot() {
        let lines = ["exact lru", "engine lru"]
            .map(|name| Line { name: name.to_owned(), points: vec![(1.0, 20.0), (10.0, 60.0)] });
        let picture = svg(&lines);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.contains("engine lru") && picture.ends_with("</svg>"));
    }
}
