//! What the workers of a run share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use larder_client::Ring;

use super::transport::{Address, TransportKind};
use super::verify::Verifier;
use super::wire::Protocol;
use crate::workload::{Filler, Workload};

/// Everything that stays the same through a run.
pub(crate) struct Plan {
    pub(crate) servers: Vec<Address>,
    /// Which server owns a key.
    pub(crate) ring: Ring,
    pub(crate) transport_kind: TransportKind,
    pub(crate) protocol: Protocol,
    /// Requests of a batch are quiet and closed by a no-op.
    pub(crate) quiet: bool,
    /// Requests on their way at a time, a connection.
    pub(crate) pipeline: u32,
    /// Clients, each with a connection to every server.
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    /// CPUs to pin threads to, in turns; empty leaves them free.
    pub(crate) cpus: Vec<usize>,
    /// A request without an answer for so long has failed, and its connection with it.
    pub(crate) timeout: Duration,
    pub(crate) workload: Workload,
    pub(crate) filler: Filler,
    pub(crate) verifier: Option<Verifier>,
    /// Set by ctrl-C: no new requests, and the report of what there is.
    pub(crate) interrupted: Arc<AtomicBool>,
    /// Whether progress is shown.
    pub(crate) shows_progress: bool,
}

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// As soon as the answers to the last ones are in.
    Closed,
    /// A request every so often, whatever the server does.
    Open {
        /// Requests a second over all connections.
        per_second: f64,
        /// Random gaps (a Poisson process) instead of even ones.
        poisson: bool,
    },
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stop {
    /// After so long.
    After(Duration),
    /// After so many requests.
    Requests(u64),
}

/// A stretch of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) start: Instant,
    pub(crate) stop: Stop,
    pub(crate) schedule: Schedule,
    /// Write every key once instead of the workload.
    pub(crate) populate: bool,
    /// How often workers report.
    pub(crate) interval: Duration,
}
