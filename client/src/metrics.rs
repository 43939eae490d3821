//! What the client counts, for the [`metrics`](https://docs.rs/metrics) crate: with
//! [`Builder::metrics`](crate::Builder::metrics), through the recorder that is installed when the client is built.
//!
//! | name | kind | labels | counts |
//! | --- | --- | --- | --- |
//! | `db.client.operation.duration` | histogram, seconds | see below | from a call until its answer, or the failure; one for all keys of a node in a call for many |
//! | `larder_client_requests_total` | counter | `node` | keys requested from, or commands sent to, a node |
//! | `larder_client_hits_total` | counter | `node` | answers with a value |
//! | `larder_client_misses_total` | counter | `node` | reads that found no value, those included that won the right to load one |
//! | `larder_client_errors_total` | counter | `node` | requests without an answer, or that the node refused |
//! | `larder_client_ejections_total` | counter | `node` | times that the node was ejected |
//! | `larder_client_in_flight` | gauge | `node` | calls under way |
//! | `larder_client_connections` | gauge | `node` | open connections |
//! | `larder_client_circuit` | gauge | `node`, `state` | 1 for the state of the node (`closed`, `connecting`, or `open`: ejected), 0 for the others |
//! | `larder_client_loads_total` | counter | | loader calls of those who read through |
//! | `larder_client_load_errors_total` | counter | | those that failed |
//! | `larder_client_load_seconds` | histogram, seconds | | how long loaders took |
//! | `larder_client_near_hits_total` | counter | | reads that the near cache answered |
//!
//! `node` is the address as given to the builder.
//!
//! `db.client.operation.duration` and its labels are those of the OpenTelemetry semantic conventions for database
//! clients: `db.system.name` is `memcached`, `db.operation.name` is `get`, `set`, `delete` or `arithmetic`,
//! `server.address` and `server.port` are the node's, and a call that failed has `error.type`: `timeout`, `down`, or
//! `refused` (the node's error line). Exporters for Prometheus write the dots as underscores.
//!
//! Spans for `tracing`, whether metrics are wanted or not: `call` (level trace, field `node`) around each exchange with
//! a node, and `load` (debug) around each call of a loader. Events say what went on without the cache (debug), and what
//! an operator should know (warn): lost connections, values that cannot be decoded, old values taken because a load
//! failed.

use std::sync::OnceLock;
use std::time::Instant;

use ::metrics::{Counter, Gauge, Histogram, Label, Unit, counter, describe_histogram, gauge, histogram};
use larder_protocol::meta::Code;
use parking_lot::Mutex;

use crate::cluster::circuit::Circuit;
use crate::connection::link::Answer;
use crate::error::{Error, Result};

const DURATION: &str = "db.client.operation.duration";

/// The values of `db.operation.name`.
const OPERATIONS: [&str; 4] = ["get", "set", "delete", "arithmetic"];

/// Counters of one node; empty if metrics are off.
pub(crate) struct NodeMetrics(Option<Box<Handles>>);

struct Handles {
    requests: Counter,
    hits: Counter,
    misses: Counter,
    errors: Counter,
    ejections: Counter,
    in_flight: Gauge,
    connections: Gauge,
    circuits: [(Circuit, Gauge); 3],
    /// The circuit that was reported last.
    reported: Mutex<Option<Circuit>>,
    /// The labels of every duration.
    server: Vec<Label>,
    /// Durations of calls that succeeded, by operation.
    durations: [OnceLock<Histogram>; OPERATIONS.len()],
}

impl NodeMetrics {
    pub(crate) fn new(node: &str, wanted: bool) -> NodeMetrics {
        let handles = || {
            let (host, port) = match node.rsplit_once(':') {
                Some((host, port)) if !node.starts_with('/') => (host, Some(port)),
                _ => (node, None),
            };
            let mut server =
                vec![Label::new("db.system.name", "memcached"), Label::new("server.address", host.to_owned())];
            server.extend(port.map(|port| Label::new("server.port", port.to_owned())));
            let node = node.to_owned();
            let circuit = |circuit: Circuit| {
                (circuit, gauge!("larder_client_circuit", "node" => node.clone(), "state" => circuit.name()))
            };
            describe_histogram!(DURATION, Unit::Seconds, "duration of calls to memcache nodes");
            Box::new(Handles {
                requests: counter!("larder_client_requests_total", "node" => node.clone()),
                hits: counter!("larder_client_hits_total", "node" => node.clone()),
                misses: counter!("larder_client_misses_total", "node" => node.clone()),
                errors: counter!("larder_client_errors_total", "node" => node.clone()),
                ejections: counter!("larder_client_ejections_total", "node" => node.clone()),
                in_flight: gauge!("larder_client_in_flight", "node" => node.clone()),
                connections: gauge!("larder_client_connections", "node" => node.clone()),
                circuits: [Circuit::Closed, Circuit::Connecting, Circuit::Open].map(circuit),
                reported: Mutex::default(),
                server,
                durations: Default::default(),
            })
        };
        NodeMetrics(wanted.then(handles))
    }

    /// Begins to measure a call. Called before it is sent.
    #[inline]
    pub(crate) fn begin(&self) -> Measured<'_> {
        Measured(self.0.as_deref().map(|handles| {
            handles.in_flight.increment(1);
            (handles, Instant::now())
        }))
    }

    /// Brings the gauges up to date with the state that `state` reads: the circuit, and the number of connections.
    pub(crate) fn report(&self, state: impl FnOnce() -> (Circuit, usize)) {
        let Some(handles) = &self.0 else { return };
        // Read within the lock, so that the last to report has the newest state.
        let mut reported = handles.reported.lock();
        let (circuit, connections) = state();
        handles.connections.set(connections as f64);
        for (other, gauge) in &handles.circuits {
            gauge.set(f64::from(u8::from(*other == circuit)));
        }
        let before = reported.replace(circuit);
        if circuit == Circuit::Open && before != Some(Circuit::Open) {
            handles.ejections.increment(1);
        }
    }
}

impl Drop for Handles {
    /// A node that is no longer used has no state.
    fn drop(&mut self) {
        self.connections.set(0);
        self.circuits.iter().for_each(|(_, gauge)| gauge.set(0));
    }
}

/// A call under way.
pub(crate) struct Measured<'a>(Option<(&'a Handles, Instant)>);

impl Measured<'_> {
    /// Counts the call, which was for `requests` keys.
    #[inline]
    pub(crate) fn end(self, operation: &'static str, requests: usize, answers: Result<&[Answer], &Error>) {
        if let Some((handles, began)) = self.0 {
            handles.count(operation, began, requests, answers);
        }
    }
}

impl Drop for Measured<'_> {
    /// A caller may be gone before the answer comes.
    #[inline]
    fn drop(&mut self) {
        if let Some((handles, _)) = self.0 {
            handles.in_flight.decrement(1);
        }
    }
}

impl Handles {
    fn count(&self, operation: &'static str, began: Instant, requests: usize, answers: Result<&[Answer], &Error>) {
        let error = match answers {
            Err(Error::Timeout { .. }) => Some("timeout"),
            Err(_) => Some("down"),
            Ok([Answer::Refused(_)]) => Some("refused"),
            Ok(_) => None,
        };
        self.record(operation, error, began);
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

    /// Records how long a call took.
    fn record(&self, operation: &'static str, error: Option<&'static str>, began: Instant) {
        let register = || {
            let mut labels = self.server.clone();
            labels.push(Label::new("db.operation.name", operation));
            labels.extend(error.map(|error| Label::new("error.type", error)));
            histogram!(DURATION, labels)
        };
        let number = OPERATIONS.iter().position(|known| *known == operation).filter(|_| error.is_none());
        match number {
            Some(number) => self.durations[number].get_or_init(register).record(began.elapsed()),
            None => register().record(began.elapsed()),
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
            describe_histogram!("larder_client_load_seconds", Unit::Seconds, "duration of loader calls");
            Box::new(LoadHandles {
                loads: counter!("larder_client_loads_total"),
                errors: counter!("larder_client_load_errors_total"),
                seconds: histogram!("larder_client_load_seconds"),
                near_hits: counter!("larder_client_near_hits_total"),
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
