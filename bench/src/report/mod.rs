//! The report of a run: its figures, as JSON files, tables and pages show them.

mod args;
mod chart;
mod collector;
mod export;
mod histogram;
mod machine;
mod page;
mod progress;
mod server_use;
mod spread;
mod table;
mod tally;
mod verdict;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

pub use args::ReportArgs;
pub(crate) use args::parse_percent;
pub(crate) use chart::bars;
pub use chart::{Axis, Chart, LINES_MAX, Line, Scale, short, short_duration};
pub(crate) use collector::Collector;
pub use histogram::*;
pub use larder_cli::format::{bytes, count, duration, parse_duration, percent, rate, table};
pub use machine::*;
pub(crate) use page::{html_table, page};
pub(crate) use progress::ProgressDisplay;
pub(crate) use server_use::ServerStats;
pub use server_use::ServerUse;
pub use spread::Spread;
pub(crate) use tally::{Interval, Tallies};
pub use verdict::Verdict;

use crate::workload::Operation;

/// The report of a run of `larder-bench load` or `replay`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Version of larder-bench that wrote the report.
    pub version: String,
    /// When the run began, in seconds since 1970.
    pub started: u64,
    /// The command line.
    pub command: Vec<String>,
    /// The machine that it ran on.
    pub machine: Machine,
    /// Seconds measured, without the warm-up.
    pub seconds: f64,
    /// Whether a signal, or a bad line of a trace, ended the run early: the figures are of the part before.
    #[serde(default)]
    pub interrupted: bool,
    /// Requests a second on the schedule; absent in a closed loop.
    pub rate_asked: Option<f64>,
    /// Requests a second that were served within the measured time, without the fills of misses. Of a schedule, at most
    /// `rate_asked`: an end between two requests does not raise it.
    pub rate_kept: f64,
    /// Requests that came due and were never sent, because the servers were too far behind.
    pub unsent: u64,
    /// Sets that filled a miss, in addition to the requests of the workload.
    pub fills: u64,
    /// Processor seconds, user and system, that the load generator spent on the measured part.
    pub client_cpu_seconds: f64,
    /// All operations on all servers.
    pub total: Figures,
    /// The figures by operation.
    pub operations: Vec<OperationFigures>,
    /// The figures by server.
    pub servers: Vec<ServerFigures>,
    /// The figures over time.
    pub series: Vec<Point>,
    /// The first faults, as text.
    pub faults: Vec<String>,
    /// The result of `--verify`.
    pub verdict: Option<Verdict>,
    /// The bounds that were set, and whether they hold.
    pub thresholds: Vec<Threshold>,
    /// The steps of `--find-max`, in order.
    pub steps: Vec<Step>,
}

/// A step of the search for the highest rate.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Step {
    /// Requests a second.
    pub rate: f64,
    /// 99th percentile in microseconds.
    pub p99: f64,
    /// Whether the step kept the bound, without errors.
    pub holds: bool,
}

/// The figures of one kind of request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Requests that are over, failed ones included.
    pub requests: u64,
    /// Keys of the requests that were served.
    pub keys: u64,
    /// Keys of the requests that failed. In a sum over operations, those of the reads.
    #[serde(default)]
    pub failed_keys: u64,
    /// Requests a second that were served within the measured time. Failed requests are not.
    pub per_second: f64,
    /// Keys found. In a sum over operations, those of the reads.
    pub hits: u64,
    /// Keys not found. In a sum over operations, those of the reads.
    pub misses: u64,
    /// Requests that failed: answered with an error, or not at all.
    pub errors: u64,
    /// Latencies in microseconds, from when a request was due until its answer was read. A failed request counts with
    /// the time until it failed, and at least the time-out.
    pub latency: Latency,
}

/// The figures of an operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationFigures {
    /// The operation.
    pub operation: Operation,
    /// The figures.
    pub figures: Figures,
}

/// The figures of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerFigures {
    /// The server's address.
    pub address: String,
    /// The figures.
    pub figures: Figures,
    /// What the run cost the server; `None` if it did not answer `stats`.
    #[serde(default)]
    pub used: Option<ServerUse>,
}

/// The figures of an interval of the run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Point {
    /// End of the interval, in seconds since the measured part began.
    pub at: f64,
    /// Requests a second.
    pub per_second: f64,
    /// Share of the read keys that were found, 0 to 1; absent if none was read.
    pub hit_ratio: Option<f64>,
    /// Errors.
    pub errors: u64,
    /// Latency in microseconds: median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

/// A bound that the run had to keep.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Threshold {
    /// The option that sets the bound.
    pub name: String,
    /// The unit of the bound and the measured value.
    #[serde(default)]
    pub unit: Unit,
    /// The bound.
    pub bound: f64,
    /// The measured value; `None` if nothing was measured, which holds no bound.
    pub measured: Option<f64>,
    /// Whether the bound holds.
    pub holds: bool,
}

/// The unit of a bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A number of things.
    #[default]
    Count,
    /// Microseconds.
    Microseconds,
    /// Requests a second.
    PerSecond,
    /// A share, 0 to 1.
    Share,
}

impl Figures {
    /// Share of the keys that were found, 0 to 1; `None` if none was looked up.
    pub fn hit_ratio(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

impl Report {
    /// Returns the figures of `operation`; `None` if it did not occur.
    pub fn operation(&self, operation: Operation) -> Option<&Figures> {
        self.operations.iter().find(|entry| entry.operation == operation).map(|found| &found.figures)
    }

    /// Sets the rate of the schedule, and the rate kept on it. The schedule was as long as its requests take at this
    /// rate: of few requests, that is longer than the time from the first to the last.
    pub(crate) fn set_rate(&mut self, asked: f64) {
        let scheduled = (self.total.requests - self.fills + self.unsent) as f64 / asked;
        self.rate_asked = Some(asked);
        if scheduled > self.seconds {
            self.rate_kept *= self.seconds / scheduled;
        }
    }

    /// Adds what the run cost the servers.
    pub(crate) fn set_use(&mut self, before: &ServerStats, after: &ServerStats) {
        for (index, server) in self.servers.iter_mut().enumerate() {
            server.used = after.since(before, index);
        }
    }

    /// Share of the keys of all reads that were found, 0 to 1; keys of failed reads were not. `None` without reads.
    pub(crate) fn found_ratio(&self) -> Option<f64> {
        let reads = self.operation(Operation::Get)?;
        let keys = reads.hits + reads.misses + reads.failed_keys;
        (keys > 0).then(|| reads.hits as f64 / keys as f64)
    }

    /// Hit ratio of the reads, 0 to 1; `None` without reads.
    pub fn hit_ratio(&self) -> Option<f64> {
        self.operation(Operation::Get)?.hit_ratio()
    }

    /// Processor microseconds that the load generator spent on a request.
    pub fn client_cpu_per_request(&self) -> f64 {
        self.client_cpu_seconds * 1e6 / (self.total.requests.max(1)) as f64
    }

    /// Reads a report from a JSON file.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not a report.
    pub fn read(path: &Path) -> anyhow::Result<Report> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a report of larder-bench (load --json FILE)", path.display()))
    }
}

/// Writes a file.
///
/// # Errors
///
/// The file cannot be written; the error names it.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints to standard output. A reader that has closed the pipe has read enough.
///
/// # Errors
///
/// Standard output cannot be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot print the report"),
        _ => Ok(()),
    }
}
