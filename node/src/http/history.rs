//! The last minutes, a sample a second.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::shared::Shared;
use crate::statistics::counters::Totals;
use crate::statistics::latency::Latencies;

/// Samples kept: ten minutes.
const SAMPLES: usize = 600;

/// One second.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Counts the samples since the start, from 1.
    number: u64,
    gets: u64,
    hits: u64,
    sets: u64,
    evictions: u64,
    bytes_in: u64,
    bytes_out: u64,
    items: u64,
    bytes: u64,
    connections: u64,
    /// Microseconds; the upper bounds of the histogram's buckets.
    p50: f64,
    p99: f64,
}

/// What was counted up to now.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    totals: Totals,
    evictions: u64,
}

/// The last ten minutes.
#[derive(Debug)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    before: Counted,
    latencies: Latencies,
}

impl History {
    pub(super) fn new(shared: &Shared) -> History {
        let before = counted(shared);
        History { samples: VecDeque::with_capacity(SAMPLES), before, latencies: Latencies::of(&shared.workers) }
    }

    /// Takes the sample of the second that has passed.
    pub(super) fn sample(&mut self, shared: &Shared) {
        let (now, before) = (counted(shared), self.before);
        let latencies = Latencies::of(&shared.workers);
        let passed = latencies.since(&self.latencies);
        let store = shared.store.statistics();
        // A reset in between makes a sum smaller than before.
        let gained = |count: fn(&Counted) -> u64| count(&now).saturating_sub(count(&before));
        let number = self.samples.back().map_or(1, |last| last.number + 1);
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            number,
            gets: gained(|counted| counted.totals.cmd_get + counted.totals.cmd_touch),
            hits: gained(|counted| counted.totals.get_hits + counted.totals.touch_hits),
            sets: gained(|counted| counted.totals.cmd_set),
            evictions: gained(|counted| counted.evictions),
            bytes_in: gained(|counted| counted.totals.bytes_read),
            bytes_out: gained(|counted| counted.totals.bytes_written),
            items: store.items,
            bytes: store.bytes,
            connections: shared.connections.statistics().current,
            p50: passed.quantile(0.5).as_secs_f64() * 1e6,
            p99: passed.quantile(0.99).as_secs_f64() * 1e6,
        });
        (self.before, self.latencies) = (now, latencies);
    }

    /// The samples behind number `since`: arrays, one for each figure.
    pub(super) fn json(&self, since: u64) -> Value {
        let from = self.samples.partition_point(|sample| sample.number <= since);
        let column = |of: fn(&Sample) -> Value| Value::from_iter(self.samples.range(from..).map(of));
        json!({
            "last": self.samples.back().map_or(0, |sample| sample.number),
            "gets": column(|sample| sample.gets.into()),
            "hits": column(|sample| sample.hits.into()),
            "sets": column(|sample| sample.sets.into()),
            "evictions": column(|sample| sample.evictions.into()),
            "in": column(|sample| sample.bytes_in.into()),
            "out": column(|sample| sample.bytes_out.into()),
            "items": column(|sample| sample.items.into()),
            "bytes": column(|sample| sample.bytes.into()),
            "connections": column(|sample| sample.connections.into()),
            "p50": column(|sample| sample.p50.into()),
            "p99": column(|sample| sample.p99.into()),
        })
    }
}

fn counted(shared: &Shared) -> Counted {
    let totals = Totals::of(shared.workers.iter().map(Arc::as_ref));
    Counted { totals, evictions: shared.store.statistics().evictions }
}
