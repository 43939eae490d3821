//! What the client counts, for the [`metrics`](https://docs.rs/metrics) crate: with
//! [`Builder::metrics`](crate::Builder::metrics), through the recorder that is installed when the client is built.
//!
//! | name | kind | label | counts |
//! | --- | --- | --- | --- |
//! | `larder_client_requests` | counter | `node` | keys asked of, or commands sent to, a node |
//! | `larder_client_hits` | counter | `node` | answers with a value |
//! | `larder_client_misses` | counter | `node` | reads that found no value, those included that won the right to load one |
//! | `larder_client_errors` | counter | `node` | requests without an answer, or that the node refused |
//! | `larder_client_latency_seconds` | histogram | `node` | seconds from a call until its answer, or the failure; one for all keys of a node in a call for many |
//! | `larder_client_loads` | counter | | loader calls of those who read through |
//! | `larder_client_load_errors` | counter | | those that failed |
//! | `larder_client_load_seconds` | histogram | | how long loaders took |
//! | `larder_client_near_hits` | counter | | reads that the near cache answered |
//!
//! `node` is the address as given to the builder.
//!
//! Spans for `tracing`, whether metrics are wanted or not: `call` (level trace, field `node`) around each exchange with
//! a node, and `load` (debug) around each call of a loader. Events say what went on without the cache (debug), and what
//! an operator should know (warn): lost connections, values that cannot be decoded, old values taken because a load
//! failed.

use std::time::Instant;

use ::metrics::{Counter, Histogram, counter, histogram};
use larder_protocol::meta::Code;

use crate::connection::link::Answer;
use crate::error::Result;

/// Counters of one node; empty if metrics are off.
pub(crate) struct NodeMetrics(Option<Box<Handles>>);

struct Handles {
    requests: Counter,
    hits: Counter,
    misses: Counter,
    errors: Counter,
    latency: Histogram,
}

impl NodeMetrics {
    pub(crate) fn new(node: &str, wanted: bool) -> NodeMetrics {
        let handles = || {
            let node = node.to_owned();
            Box::new(Handles {
                requests: counter!("larder_client_requests", "node" => node.clone()),
                hits: counter!("larder_client_hits", "node" => node.clone()),
                misses: counter!("larder_client_misses", "node" => node.clone()),
                errors: counter!("larder_client_errors", "node" => node.clone()),
                latency: histogram!("larder_client_latency_seconds", "node" => node),
            })
        };
        NodeMetrics(wanted.then(handles))
    }

    /// Returns the start time of a request. Called before it is sent.
    #[inline]
    pub(crate) fn begin(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    /// Counts a call for `requests` keys that began at `began`.
    #[inline]
    pub(crate) fn end(&self, began: Option<Instant>, requests: usize, answers: Result<&[Answer], ()>) {
        if let (Some(handles), Some(began)) = (&self.0, began) {
            handles.count(began, requests, answers);
        }
    }
}

impl Handles {
    fn count(&self, began: Instant, requests: usize, answers: Result<&[Answer], ()>) {
        self.latency.record(began.elapsed());
        self.requests.increment(requests as u64);
        let Ok(answers) = answers else {
            self.errors.increment(requests as u64);
            return;
        };
        let (mut hits, mut misses, mut errors) = (0, 0, 0);
        for answer in answers {
            match answer {
                Answer::Refused(_) => errors += 1,
                Answer::Code { code: Code::En, .. } => misses += 1,
                // An empty value with a winner is the placeholder of a load under way.
                Answer::Code { code: Code::Va, value, flags } => {
                    let placeholder =
                        (flags.won || flags.already_won) && value.as_ref().is_none_or(|value| value.is_empty());
                    if placeholder { misses += 1 } else { hits += 1 }
                }
                Answer::Code { .. } => {}
            }
        }
        for (counter, count) in [(&self.hits, hits), (&self.misses, misses), (&self.errors, errors)] {
            if count > 0 {
                counter.increment(count);
            }
        }
    }
}

/// Counters of reading through the cache.
pub(crate) struct LoadMetrics(Option<Box<LoadHandles>>);

struct LoadHandles {
    loads: Counter,
    errors: Counter,
    seconds: Histogram,
    near_hits: Counter,
}

impl LoadMetrics {
    pub(crate) fn new(wanted: bool) -> LoadMetrics {
        let handles = || {
            Box::new(LoadHandles {
                loads: counter!("larder_client_loads"),
                errors: counter!("larder_client_load_errors"),
                seconds: histogram!("larder_client_load_seconds"),
                near_hits: counter!("larder_client_near_hits"),
            })
        };
        LoadMetrics(wanted.then(handles))
    }

    /// Counts a loader call that began at `began`.
    pub(crate) fn load(&self, began: Instant, succeeded: bool) {
        if let Some(handles) = &self.0 {
            handles.loads.increment(1);
            handles.errors.increment(u64::from(!succeeded));
            handles.seconds.record(began.elapsed());
        }
    }

    #[inline]
    pub(crate) fn near_hit(&self) {
        if let Some(handles) = &self.0 {
            handles.near_hits.increment(1);
        }
    }
}
