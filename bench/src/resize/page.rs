//! A run with its changes as one page.

use maud::{Markup, html};

use super::timeline::{Change, cost};
use super::traffic::Second;
use crate::report::{Axis, Chart, Line, Scale, html_table, page, short, short_duration};

/// One client of the page.
pub(crate) struct Track {
    pub(crate) name: String,
    pub(crate) seconds: Vec<Second>,
    /// The changes of the nodes that it uses.
    pub(crate) changes: Vec<Change>,
    /// Seconds until it learns of a change.
    pub(crate) behind: usize,
    pub(crate) kind: Kind,
}

/// Whose seconds a track has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Client,
    /// All clients of the cluster.
    All,
    /// A client to compare with: its nodes know nothing of each other.
    Control,
}

/// Headings of [`rows`].
pub(crate) const HEADINGS: [&str; 8] =
    ["client", "change", "dip of hit ratio", "by chance", "loads at most", "p99", "p99 before", "errors"];

/// The cost of each change to each client.
pub(crate) fn rows(tracks: &[Track]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for track in tracks {
        for change in &track.changes {
            let Some(cost) = cost(&track.seconds, change, track.behind) else { continue };
            rows.push(vec![
                track.name.clone(),
                change.name.clone(),
                format!("{:.2} points", cost.dip.max(0.0)),
                format!("{:.2}", cost.chance),
                format!("{:.2} x", cost.loads),
                format!("{:.2} x", cost.p99 / cost.p99_before.max(1.0)),
                short_duration(cost.p99_before),
                cost.errors.to_string(),
            ]);
        }
    }
    rows
}

/// The whole page.
pub(crate) fn to_html(title: &str, about: &[String], tracks: &[Track]) -> String {
    let x = Axis { label: "seconds", unit: "s", scale: Scale::Linear, show: short };
    let lines = |value: fn(&Second) -> f64, span: usize| -> Vec<Line> {
        let line = |track: &Track| Line {
            name: track.name.clone(),
            points: track
                .seconds
                .windows(span)
                .enumerate()
                .map(|(at, window)| ((at + span) as f64, value(&Second::sum(window)) / span as f64))
                .collect(),
            dots: Vec::new(),
        };
        tracks.iter().map(line).collect()
    };
    let linear = |label| Axis { label, unit: "", scale: Scale::Linear, show: short };
    let figure = |title, y, lines| -> Markup { Chart { title, x, y, lines, level: None }.to_figure() };
    // A mean over so many seconds is divided by them above: ratios and quantiles are not sums.
    let ratio = |second: &Second| 5.0 * 100.0 * second.hit_ratio();
    let p99 = |second: &Second| 5.0 * second.p99();
    let latency = Axis { label: "99th percentile", unit: "", scale: Scale::Log, show: short_duration };
    let body = html! {
        @for line in about { p { (line) } }
        h2 { "What the changes cost" }
        (html_table(&HEADINGS, &rows(tracks)))
        h2 { "Changes" }
        @for track in tracks {
            @for change in &track.changes {
                p.soft { (track.name) ": " (describe(change)) }
            }
        }
        h2 { "Over time" }
        (figure("Hit ratio, means over 5 s", linear("% of the reads"), lines(ratio, 5)))
        (figure("Reads of the datastore, means over 5 s", linear("a second"), lines(|second| second.loads as f64, 5)))
        (figure("Latency, over 5 s", latency, lines(p99, 5)))
        (figure("Requests", linear("a second"), lines(|second| second.reads as f64, 1)))
        (figure("Errors", linear("a second"), lines(|second| second.errors as f64, 1)))
    };
    page(title, title, &body)
}

/// A change in words.
pub(crate) fn describe(change: &Change) -> String {
    let settled = match change.settled {
        Some(time) => format!("settled after {:.1} s", time.as_secs_f64()),
        None => "not seen to settle".to_owned(),
    };
    match change.moved {
        0 => format!("{} at {} s", change.name, change.at),
        moved => format!("{} at {} s, {settled}, {moved} items moved", change.name, change.at),
    }
}
