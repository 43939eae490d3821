//! The counts of requests that are over.

use hdrhistogram::Histogram;

use crate::workload::Operation;

/// The largest latency that is kept, in nanoseconds: one hour. Longer ones count as one hour.
const LATENCY_MAX: u64 = 3_600_000_000_000;

/// The counts of one operation on one server.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Requests that are over.
    pub(crate) requests: u64,
    /// Keys of the requests that were served.
    pub(crate) keys: u64,
    /// Keys of the requests that failed.
    pub(crate) failed_keys: u64,
    /// Requests served within the measured time.
    pub(crate) in_time: u64,
    /// Requests served within the measured time that were on the schedule: no fills of misses.
    pub(crate) kept: u64,
    /// Requests that filled a miss.
    pub(crate) fills: u64,
    /// Keys found. A set looks up none.
    pub(crate) hits: u64,
    /// Keys not found.
    pub(crate) misses: u64,
    /// Requests answered with an error, or not at all.
    pub(crate) errors: u64,
    /// Nanoseconds from the time a request was due until its answer was read. A failed request counts with the time
    /// until it failed, and at least the time-out.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    /// A tally without counts.
    pub(crate) fn new() -> Tally {
        let latency = Histogram::new_with_bounds(100, LATENCY_MAX, 3).expect("constant bounds are valid");
        Tally {
            requests: 0,
            keys: 0,
            failed_keys: 0,
            in_time: 0,
            kept: 0,
            fills: 0,
            hits: 0,
            misses: 0,
            errors: 0,
            latency,
        }
    }

    /// Records a latency of `requests` requests, in nanoseconds.
    #[inline]
    pub(crate) fn record(&mut self, latency: u64, requests: u64) {
        // A value that is recorded no time would still become the largest.
        if requests > 0 {
            self.latency.saturating_record_n(latency, requests);
        }
    }

    /// Adds the counts of `other`.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.keys += other.keys;
        self.failed_keys += other.failed_keys;
        self.in_time += other.in_time;
        self.kept += other.kept;
        self.fills += other.fills;
        self.hits += other.hits;
        self.misses += other.misses;
        self.errors += other.errors;
        self.latency += &other.latency;
    }
}

/// A tally for each server and operation. Those that never occur take no memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tallies(Vec<Option<Box<Tally>>>);

impl Tallies {
    /// Tallies without counts, for this many servers.
    pub(crate) fn new(servers: usize) -> Tallies {
        Tallies(vec![None; servers * Operation::ALL.len()])
    }

    /// Returns the tally of `operation` on a server.
    #[inline]
    pub(crate) fn at(&mut self, server: usize, operation: Operation) -> &mut Tally {
        let slot = &mut self.0[server * Operation::ALL.len() + operation as usize];
        slot.get_or_insert_with(|| Box::new(Tally::new()))
    }

    /// Returns the tallies that have counts, each with its server and operation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Operation, &Tally)> {
        let places = self.0.iter().enumerate();
        places.filter_map(|(index, tally)| {
            let operations = Operation::ALL.len();
            Some((index / operations, Operation::ALL[index % operations], tally.as_deref()?))
        })
    }

    /// Adds the counts of `other`.
    pub(crate) fn add(&mut self, other: &Tallies) {
        for (server, operation, tally) in other.iter() {
            self.at(server, operation).add(tally);
        }
    }

    /// Returns the sum of the tallies that `which` selects.
    pub(crate) fn sum(&self, which: impl Fn(usize, Operation) -> bool) -> Tally {
        let mut sum = Tally::new();
        self.iter().filter(|(server, operation, _)| which(*server, *operation)).for_each(|(.., tally)| sum.add(tally));
        sum
    }
}

/// The counts of a worker in one interval.
#[derive(Debug)]
pub(crate) struct Interval {
    /// The number of the interval, from 0.
    pub(crate) index: usize,
    pub(crate) tallies: Tallies,
    /// Requests that came due and were never sent.
    pub(crate) unsent: u64,
    /// The first fault of the interval, as text.
    pub(crate) fault: Option<String>,
}

impl Interval {
    /// An interval without counts.
    pub(crate) fn new(index: usize, servers: usize) -> Interval {
        Interval { index, tallies: Tallies::new(servers), unsent: 0, fault: None }
    }
}
