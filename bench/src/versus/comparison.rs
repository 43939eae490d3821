//! The result of a comparison, as figures and as text.

use serde::{Deserialize, Serialize};

use super::checks::Checks;
use super::measure::Run;
use crate::report::{Machine, Spread, count, duration, table};

/// The result of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// The machine that it ran on.
    pub machine: Machine,
    /// Name and version of the node.
    pub node: String,
    /// Name and version of the peer.
    pub peer: String,
    /// The command line.
    pub command: Vec<String>,
    /// The results by load.
    pub loads: Vec<LoadComparison>,
    /// Whether a signal ended the comparison early: further loads are missing.
    #[serde(default)]
    pub interrupted: bool,
    /// The checks of the node and of the peer, with `--checks`.
    pub checks: Option<[Checks; 2]>,
}

/// Both servers under one load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadComparison {
    /// The load's name.
    pub name: String,
    /// What the load is.
    pub about: String,
    /// Its options of `larder-bench load`.
    pub options: String,
    /// The runs of the node.
    pub node: Vec<Run>,
    /// The runs of the peer. Each pair of the same index ran one after the other.
    pub peer: Vec<Run>,
}

impl LoadComparison {
    /// Returns the node's CPU time over the peer's, pair by pair.
    pub fn ratio(&self) -> Spread {
        Spread::of(self.node.iter().zip(&self.peer).map(|(node, peer)| node.cpu_us / peer.cpu_us))
    }

    /// What a command costs that a node of a cluster sends to another one, over one that it carries out itself: from a
    /// load of which a part was sent on. `None` where too few were.
    fn forwarded_ratio(&self) -> Option<Spread> {
        let ratio = |(node, peer): (&Run, &Run)| {
            let share = node.forwarded.filter(|&share| share > 0.2)?;
            Some((node.cpu_us - (1.0 - share) * peer.cpu_us) / (share * peer.cpu_us))
        };
        let ratios: Option<Vec<f64>> = self.node.iter().zip(&self.peer).map(ratio).collect();
        ratios.map(Spread::of)
    }

    fn row(&self) -> Vec<String> {
        let median = |runs: &[Run], field: fn(&Run) -> f64| Spread::of(runs.iter().map(field)).median;
        let both = |field: fn(&Run) -> f64, show: fn(f64) -> String| {
            [show(median(&self.node, field)), show(median(&self.peer, field))]
        };
        let ratio = self.ratio();
        let mut cells = vec![self.name.clone()];
        cells.extend(both(|run| run.cpu_us, |us| format!("{us:.3}")));
        cells.push(format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max));
        cells.extend(both(|run| run.per_second, |number| count(number as u64)));
        cells.extend(both(|run| run.p50, duration));
        cells.extend(both(|run| run.p99, duration));
        cells.extend(both(|run| run.p999, duration));
        let errors: u64 = self.node.iter().chain(&self.peer).map(|run| run.errors).sum();
        cells.push(count(errors));
        cells
    }
}

impl Comparison {
    /// The headings of [`Comparison::rows`].
    pub(crate) const HEADINGS: [&str; 13] = [
        "load",
        "µs/op",
        "peer",
        "ratio (spread)",
        "op/s",
        "peer",
        "p50",
        "peer",
        "p99",
        "peer",
        "p99.9",
        "peer",
        "errors",
    ];

    /// Returns a row for each load, under [`Comparison::HEADINGS`].
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        self.loads.iter().map(LoadComparison::row).collect()
    }

    /// Returns a row for each check: its name, the node's figure and the peer's. Empty without checks.
    pub(crate) fn check_rows(&self) -> Vec<Vec<String>> {
        let Some([node, peer]) = &self.checks else { return Vec::new() };
        let row = |name: &str, show: fn(&Checks) -> String| vec![name.to_owned(), show(node), show(peer)];
        vec![
            row("resident memory of an idle connection, of 10,000", |checks| {
                format!("{:.0} B", checks.bytes_per_idle_connection)
            }),
            row("p99 of single gets, 2,000 a second", |checks| duration(checks.single_p99_alone)),
            row("the same beside a connection with 4,000 gets at a time", |checks| {
                duration(checks.single_p99_beside_pipeline)
            }),
            row("operations a second of two threads over one's, pipeline 16", |checks| {
                let [one, two] = checks.per_second_by_threads;
                format!("{:.2}", two / one)
            }),
            row("CPU time for an operation of two threads over one's", |checks| {
                let [one, two] = checks.cpu_us_by_threads;
                format!("{:.2}", two / one)
            }),
        ]
    }

    /// Requests that failed, in all runs.
    pub(crate) fn errors(&self) -> u64 {
        self.loads.iter().flat_map(|load| load.node.iter().chain(&load.peer)).map(|run| run.errors).sum()
    }

    /// Returns the sentences beside the figures.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.interrupted {
            notes.push("The comparison was cut short: these are the pairs of runs that ended before.".to_owned());
        }
        for load in &self.loads {
            let Some(ratio) = load.forwarded_ratio() else { continue };
            notes.push(format!(
                "{}: a command that goes to another node costs {:.2} times ({:.2}-{:.2}) the CPU time of one that does \
                 not, both nodes together.",
                load.name, ratio.median, ratio.min, ratio.max
            ));
        }
        if self.errors() > 0 {
            notes.push(format!(
                "{} requests failed: the figures of their loads cannot be compared.",
                count(self.errors())
            ));
        }
        notes
    }

    /// Renders the comparison as a table.
    pub fn to_text(&self) -> String {
        let with_headings = |headings: &[&str], rows: Vec<Vec<String>>| {
            let headings = headings.iter().map(|&heading| heading.to_owned()).collect();
            table(&[vec![headings], rows].concat())
        };
        let loads = self.loads.iter().map(|load| format!("  {:<7} {}\n", load.name, load.about));
        let mut out = format!(
            "{}\n{}\n{} against {}; server CPU microseconds an operation, medians of {} pairs.\n{}, {}\n",
            with_headings(&Self::HEADINGS, self.rows()),
            loads.collect::<String>(),
            self.node,
            self.peer,
            self.loads.first().map_or(0, |load| load.node.len()),
            self.machine.processor,
            self.machine.kernel,
        );
        out.push_str(&self.notes().iter().map(|note| format!("{note}\n")).collect::<String>());
        if self.checks.is_some() {
            out.push_str(&format!("\n{}", with_headings(&["", "node", "peer"], self.check_rows())));
        }
        out
    }
}
