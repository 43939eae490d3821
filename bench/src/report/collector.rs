//! Sums the counts of a run, interval by interval, up to its report.

use std::collections::VecDeque;
use std::time::Duration;

use super::tally::{Interval, Tallies, Tally};
use super::{Figures, Latency, Machine, OperationFigures, Point, Report, ServerFigures};
use crate::workload::Operation;
use larder_cli::format::count;

/// How many intervals one worker may lag behind another. Later counts still reach the totals, but not the time series.
const OPEN_INTERVALS: usize = 8;
/// Requests that must have failed, without a single one served, for a run to end early: in its first second, and later.
const HOPELESS_AT_ONCE: u64 = 1000;
const HOPELESS: u64 = 20;
const HOPELESS_TIME: Duration = Duration::from_secs(1);
/// Faults kept as text.
const FAULTS_MAX: usize = 10;

/// The sum of what all workers have counted so far.
pub(crate) struct Collector {
    total: Tallies,
    interval: Duration,
    timeout: Duration,
    /// Intervals that are closed.
    points: Vec<Point>,
    /// Counts of the intervals that are still open: of reads, and of everything else.
    open: VecDeque<(Tally, Tally)>,
    requests: u64,
    errors: u64,
    unsent: u64,
    faults: Vec<String>,
}

impl Collector {
    /// A collector without counts, for intervals of this length. Requests that were never sent count in the percentiles
    /// of the total as if they had failed after `timeout`: that long they waited at least.
    pub(crate) fn new(servers: usize, interval: Duration, timeout: Duration) -> Collector {
        let (points, open, faults) = (Vec::new(), VecDeque::new(), Vec::new());
        Collector {
            total: Tallies::new(servers),
            interval,
            timeout,
            points,
            open,
            requests: 0,
            errors: 0,
            unsent: 0,
            faults,
        }
    }

    /// Adds the counts of a worker's interval.
    pub(crate) fn take(&mut self, interval: Interval) {
        self.total.add(&interval.tallies);
        self.requests += interval.tallies.iter().map(|(.., tally)| tally.requests).sum::<u64>();
        self.errors += interval.tallies.iter().map(|(.., tally)| tally.errors).sum::<u64>();
        self.unsent += interval.unsent;
        if let Some(fault) = interval.fault
            && self.faults.len() < FAULTS_MAX
            && !self.faults.contains(&fault)
        {
            self.faults.push(fault);
        }
        let Some(mut place) = interval.index.checked_sub(self.points.len()) else { return };
        if interval.tallies.iter().next().is_none() {
            return;
        }
        while place >= self.open.len() {
            self.open.push_back((Tally::new(), Tally::new()));
            if self.open.len() > OPEN_INTERVALS {
                self.close_first(f64::INFINITY);
                place -= 1;
            }
        }
        let (reads, others) = &mut self.open[place];
        for (_, operation, tally) in interval.tallies.iter() {
            if operation == Operation::Get { &mut *reads } else { &mut *others }.add(tally);
        }
    }

    /// Returns the number of requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether every request of a run that is `elapsed` old has failed, and enough have to expect no better.
    pub(crate) fn is_hopeless(&self, elapsed: Duration) -> bool {
        let enough = if elapsed < HOPELESS_TIME { HOPELESS_AT_ONCE } else { HOPELESS };
        self.errors == self.requests && self.requests >= enough
    }

    /// Notes that the run ends because it is hopeless.
    pub(crate) fn give_up(&mut self) {
        self.faults.push(format!("all of the first {} requests failed, so the run was ended", count(self.requests)));
    }

    /// Returns the figures of the interval before the newest, which most workers have finished.
    pub(crate) fn recent(&self) -> Option<Point> {
        let place = self.open.len().checked_sub(2)?;
        Some(self.point(self.points.len() + place, &self.open[place], f64::INFINITY))
    }

    /// Closes the first open interval of a run of `seconds`.
    fn close_first(&mut self, seconds: f64) {
        if let Some(tallies) = self.open.pop_front() {
            let index = self.points.len();
            // Answers after the end count in the totals alone: an interval without length has no rate.
            if index as f64 * self.interval.as_secs_f64() < seconds {
                self.points.push(self.point(index, &tallies, seconds));
            }
        }
    }

    /// Returns the report of a run of `seconds`. The caller fills in when it began, its rate and its CPU time.
    pub(crate) fn report(mut self, servers: &[String], seconds: f64) -> Report {
        while !self.open.is_empty() {
            self.close_first(seconds);
        }
        let operations = Operation::ALL
            .map(|operation| OperationFigures { operation, figures: self.figures(seconds, None, Some(operation)) });
        let by_server = servers.iter().enumerate().map(|(index, address)| ServerFigures {
            address: address.clone(),
            used: None,
            figures: self.figures(seconds, Some(index), None),
        });
        let all = self.total.sum(|_, _| true);
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: 0,
            command: std::iter::once("larder-bench".to_owned()).chain(std::env::args().skip(1)).collect(),
            machine: Machine::this(),
            seconds,
            interrupted: false,
            rate_asked: None,
            rate_kept: if seconds > 0.0 { all.kept as f64 / seconds } else { 0.0 },
            unsent: self.unsent,
            fills: all.fills,
            client_cpu_seconds: 0.0,
            total: self.figures(seconds, None, None),
            operations: operations.into_iter().filter(|entry| entry.figures.requests > 0).collect(),
            servers: by_server.collect(),
            series: self.points,
            faults: self.faults,
            verdict: None,
            thresholds: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Returns the figures of one server or all, and of one operation or all. Over all operations, hits are those of
    /// the reads.
    fn figures(&self, seconds: f64, server: Option<usize>, operation: Option<Operation>) -> Figures {
        let of = |wanted: Option<Operation>| {
            self.total.sum(|at, kind| server.is_none_or(|server| server == at) && wanted.is_none_or(|it| it == kind))
        };
        let (mut sum, looked_up) = (of(operation), of(operation.or(Some(Operation::Get))));
        if server.is_none() && operation.is_none() {
            sum.record(self.timeout.as_nanos() as u64, self.unsent);
        }
        Figures {
            requests: sum.requests,
            keys: sum.keys,
            failed_keys: looked_up.failed_keys,
            per_second: if seconds > 0.0 { sum.in_time as f64 / seconds } else { 0.0 },
            hits: looked_up.hits,
            misses: looked_up.misses,
            errors: sum.errors,
            latency: Latency::of(&sum.latency),
        }
    }

    /// Returns the figures of interval `index` of a run of `seconds`. The last interval may be shorter than the others.
    fn point(&self, index: usize, (reads, others): &(Tally, Tally), seconds: f64) -> Point {
        let mut all = reads.clone();
        all.add(others);
        let quantile = |quantile| all.latency.value_at_quantile(quantile) as f64 / 1e3;
        let looked_up = reads.hits + reads.misses;
        let step = self.interval.as_secs_f64();
        let from = index as f64 * step;
        let length = if seconds > from { (seconds - from).min(step) } else { step };
        Point {
            at: from + length,
            per_second: all.in_time as f64 / length,
            hit_ratio: (looked_up > 0).then(|| reads.hits as f64 / looked_up as f64),
            errors: all.errors,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: all.latency.max() as f64 / 1e3,
        }
    }
}
