//! A comparison as a page.

use std::fmt::Write;

use super::comparison::{Comparison, LoadComparison};
use super::measure::Run;
use crate::report::{Spread, bars, escape, html_table, page};

impl Comparison {
    /// The comparison as a page with its plots.
    pub fn to_html(&self) -> String {
        let mut body = String::new();
        let _ = writeln!(body, "<p><code>{}</code></p>", escape(&self.command.join(" ")));
        let _ = writeln!(
            body,
            "<p>{} against {}, on {} ({}). Medians of {} pairs of runs.</p>",
            escape(&self.node),
            escape(&self.peer),
            escape(&self.machine.processor),
            escape(&self.machine.kernel),
            self.loads.first().map_or(0, |load| load.node.len())
        );
        for note in self.notes() {
            let _ = writeln!(body, "<p>{}</p>", escape(&note));
        }
        let names: Vec<String> = self.loads.iter().map(|load| load.name.clone()).collect();
        let medians = |side: fn(&LoadComparison) -> &Vec<Run>, field: fn(&Run) -> f64| -> Vec<f64> {
            self.loads.iter().map(|load| Spread::of(side(load).iter().map(field)).median).collect()
        };
        let pair = |field: fn(&Run) -> f64| {
            [
                (self.node.clone(), medians(|load| &load.node, field)),
                (self.peer.clone(), medians(|load| &load.peer, field)),
            ]
        };
        let ratios = self.loads.iter().map(|load| load.ratio().median).collect();
        let title = "Server CPU time for an operation, relative to the peer's";
        body.push_str(&bars(title, "ratio", &names, &[(self.node.clone(), ratios)]));
        body.push_str(&bars("Server CPU time for an operation", "us", &names, &pair(|run| run.cpu_us)));
        body.push_str(&bars("Operations a second", "1/s", &names, &pair(|run| run.per_second)));
        body.push_str(&bars("Latency, 99th percentile", "us", &names, &pair(|run| run.p99)));
        body.push_str(&bars("Latency, median", "us", &names, &pair(|run| run.p50)));
        body.push_str(&bars("Latency, 99.9th percentile", "us", &names, &pair(|run| run.p999)));
        body.push_str(&html_table(&Self::HEADINGS, &self.rows()));
        let about = self.loads.iter().map(|load| vec![load.name.clone(), load.about.clone()]);
        body.push_str(&html_table(&["load", "what it is"], &about.collect::<Vec<_>>()));
        if self.checks.is_some() {
            body.push_str(&html_table(&["check", "node", "peer"], &self.check_rows()));
        }
        page("larder-bench versus", &body)
    }
}
