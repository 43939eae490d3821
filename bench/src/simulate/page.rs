//! A simulation as one page.

use maud::{Markup, html};

use crate::report::{Axis, Chart, LINES_MAX, Line, Scale, html_table, page, short};

/// Hit ratios by memory size and policy: by objects or by bytes.
pub(super) struct Ratios {
    /// What the ratios are of.
    pub(super) title: &'static str,
    /// The table, with its headings.
    pub(super) rows: Vec<Vec<String>>,
    /// For each policy the points (memory in percent of the footprint, hit ratio in percent); those of the engine last.
    pub(super) lines: Vec<Line>,
}

/// Returns the page. `about` is the trace; the first `references` policies are those by their published rules.
pub(super) fn to_html(about: &str, references: usize, all: &[Ratios], estimates: &[Vec<String>]) -> String {
    let body = html! {
        p { (about) }
        @for Ratios { title, rows, lines } in all {
            @let (published, engine) = lines.split_at(references.min(lines.len()));
            h2 { (title) }
            (table(rows))
            (figure(title, engine.first().into_iter().chain(published)))
            @if engine.len() > 1 {
                (figure("The engine's policies", engine.iter().take(LINES_MAX)))
            }
        }
        @if !estimates.is_empty() {
            h2 { "Reads that hit: as the node estimates / as simulated" }
            (table(estimates))
        }
    };
    page("larder-bench simulate", "larder-bench simulate", &body)
}

fn table(rows: &[Vec<String>]) -> Markup {
    let Some((headings, rows)) = rows.split_first() else { return html! {} };
    html_table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), rows)
}

fn figure<'a>(title: &'static str, lines: impl Iterator<Item = &'a Line>) -> Markup {
    let show = |percent| format!("{} %", short(percent));
    let x = Axis { label: "memory, percent of the footprint", unit: "of the footprint", scale: Scale::Log, show };
    let y = Axis { label: "hit ratio", unit: "", scale: Scale::Linear, show };
    let lines = lines.map(|line| Line { dots: line.points.clone(), ..line.clone() }).collect();
    Chart { title, x, y, lines, level: None }.to_figure()
}
