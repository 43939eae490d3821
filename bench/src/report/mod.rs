//! What a run of load comes to: the figures as they stand in JSON files, tables and pages.

mod args;
mod chart;
mod collector;
mod histogram;
mod machine;
mod page;
mod progress;
mod spread;
mod table;
mod tally;
mod verdict;

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

pub use args::ReportArgs;
pub(crate) use args::parse_duration;
pub use chart::*;
pub(crate) use collector::Collector;
pub use histogram::*;
pub use machine::*;
pub(crate) use page::{html_table, page};
pub(crate) use progress::ProgressDisplay;
pub use spread::Spread;
pub use table::{count, duration, table};
pub(crate) use tally::{Interval, Tallies};
pub use verdict::Verdict;

use crate::workload::Operation;

/// A run of `larder-bench load`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Version of larder-bench that wrote it.
    pub version: String,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// The command line.
    pub command: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// Seconds measured, warm-up aside.
    pub seconds: f64,
    /// Requests a second that were asked for; absent in a closed loop.
    pub rate_asked: Option<f64>,
    /// Requests a second that were answered while it was measured, fills of misses aside.
    pub rate_kept: f64,
    /// Requests that came due and were never sent: the servers were too far behind.
    pub unsent: u64,
    /// Sets that filled a miss: they come on top of what was asked for.
    pub fills: u64,
    /// Processor seconds, user and system, that the load generator spent on the measured part.
    pub client_cpu_seconds: f64,
    /// All operations on all servers.
    pub total: Figures,
    /// By operation.
    pub operations: Vec<OperationFigures>,
    /// By server.
    pub servers: Vec<ServerFigures>,
    /// Over time.
    pub series: Vec<Point>,
    /// The first few things that went wrong, in words.
    pub faults: Vec<String>,
    /// What `--verify` found.
    pub verdict: Option<Verdict>,
    /// Thresholds that were set, and whether they hold.
    pub thresholds: Vec<Threshold>,
    /// Steps of `--find-max`, in their order.
    pub steps: Vec<Step>,
}

/// A step of the search for the highest rate.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Step {
    /// Requests a second.
    pub rate: f64,
    /// 99th percentile in microseconds.
    pub p99: f64,
    /// Whether it kept the bound, without errors.
    pub holds: bool,
}

/// Figures of one kind of request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Requests with an answer, errors included.
    pub requests: u64,
    /// Keys in them.
    pub keys: u64,
    /// Requests a second, of those answered while it was measured.
    pub per_second: f64,
    /// Keys found: by reads, where the figures are of several operations.
    pub hits: u64,
    /// Keys not found, likewise.
    pub misses: u64,
    /// Requests answered with an error, or not at all.
    pub errors: u64,
    /// Latencies in microseconds, from when a request was due until its answer was read.
    pub latency: Latency,
}

/// Figures of an operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationFigures {
    /// Which.
    pub operation: Operation,
    /// Its figures.
    pub figures: Figures,
}

/// Figures of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerFigures {
    /// Its address.
    pub address: String,
    /// Its figures.
    pub figures: Figures,
}

/// A stretch of the run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the measured part began, at the end of the stretch.
    pub at: f64,
    /// Requests a second.
    pub per_second: f64,
    /// Keys found of those read, 0 to 1; absent where none was read.
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
    /// Its name, as on the command line.
    pub name: String,
    /// The bound.
    pub bound: f64,
    /// What was measured.
    pub measured: f64,
    /// Whether it holds.
    pub holds: bool,
}

impl Figures {
    /// Keys found of those asked for, 0 to 1.
    pub fn hit_ratio(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

impl Report {
    /// The figures of `operation`, if it occurred.
    pub fn operation(&self, operation: Operation) -> Option<&Figures> {
        self.operations.iter().find(|entry| entry.operation == operation).map(|found| &found.figures)
    }

    /// Hit ratio of the reads.
    pub fn hit_ratio(&self) -> Option<f64> {
        self.operation(Operation::Get)?.hit_ratio()
    }

    /// Processor microseconds of the load generator for a request.
    pub fn client_cpu_per_request(&self) -> f64 {
        self.client_cpu_seconds * 1e6 / (self.total.requests.max(1)) as f64
    }

    /// Reads a report from a file.
    pub fn read(path: &Path) -> anyhow::Result<Report> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a report of larder-bench (load --json FILE)", path.display()))
    }
}

/// Writes a file, and says which where it cannot.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
