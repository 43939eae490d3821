//! A comparison as a page.

use maud::html;

use super::comparison::{Comparison, LoadComparison};
use super::measure::Run;
use crate::report::{Spread, bars, html_table, page};

impl Comparison {
    /// Renders the comparison as a page with plots.
    pub fn to_html(&self) -> String {
        let names: Vec<String> = self.loads.iter().map(|load| load.name.clone()).collect();
        let medians = |side: fn(&LoadComparison) -> &Vec<Run>, field: fn(&Run) -> f64| -> Vec<f64> {
            self.loads.iter().map(|load| Spread::of(side(load).iter().map(field)).median).collect()
        };
        let pair = |title: &str, unit: &str, field: fn(&Run) -> f64| {
            let node = (self.node.clone(), medians(|load| &load.node, field));
            bars(title, unit, &names, &[node, (self.peer.clone(), medians(|load| &load.peer, field))])
        };
        let ratios = self.loads.iter().map(|load| load.ratio().median).collect();
        let about: Vec<_> = self.loads.iter().map(|load| vec![load.name.clone(), load.about.clone()]).collect();
        let pairs = self.loads.first().map_or(0, |load| load.node.len());
        let body = html! {
            p { code { (self.command.join(" ")) } }
            p {
                (self.node) " against " (self.peer) ", on " (self.machine.processor) " (" (self.machine.kernel)
                "). Medians of " (pairs) " pairs of runs."
            }
            @for note in self.notes() { p { (note) } }
            (bars("Server CPU time for an operation over the peer's", "ratio", &names, &[(self.node.clone(), ratios)]))
            (pair("Server CPU time for an operation", "µs", |run| run.cpu_us))
            (pair("Operations a second", "1/s", |run| run.per_second))
            (pair("Latency, 99th percentile", "µs", |run| run.p99))
            (pair("Latency, median", "µs", |run| run.p50))
            (pair("Latency, 99.9th percentile", "µs", |run| run.p999))
            (html_table(&Self::HEADINGS, &self.rows()))
            (html_table(&["load", "what it is"], &about))
            @if self.checks.is_some() {
                (html_table(&["check", "node", "peer"], &self.check_rows()))
            }
        };
        page(&format!("larder-bench versus: {} and {}", self.node, self.peer), "larder-bench versus", &body)
    }
}
