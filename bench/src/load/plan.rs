//! What the workers of a run share: servers, workload, and the phases of the run.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use larder_client::Ring;

use super::transport::{Address, Opening};
use super::verify::Verifier;
use super::wire::Protocol;
use crate::interrupt::Interrupt;
use crate::workload::{Filler, Workload};

/// The settings of a run, which do not change while it runs.
pub(crate) struct Plan {
    pub(crate) servers: Vec<Address>,
    /// Returns the server that owns a key.
    pub(crate) ring: Ring,
    pub(crate) opening: Opening,
    pub(crate) protocol: Protocol,
    /// The requests of a batch are quiet, and a no-op ends it.
    pub(crate) quiet: bool,
    /// Requests under way on a connection.
    pub(crate) pipeline: u32,
    /// Groups of connections, each with one to every server.
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    /// CPUs to pin the threads to, in turn; empty pins none.
    pub(crate) cpus: Vec<usize>,
    /// A request that has no answer after this time has failed, and its connection with it.
    pub(crate) timeout: Duration,
    pub(crate) workload: Workload,
    pub(crate) filler: Filler,
    pub(crate) verifier: Option<Verifier>,
    /// Once set, workers send no more requests, and the run ends with a report of what was measured.
    pub(crate) interrupt: Interrupt,
    /// Once set, the phase ends: every request so far has failed.
    pub(crate) hopeless: AtomicBool,
    /// Whether progress is printed.
    pub(crate) shows_progress: bool,
}

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// A closed loop: the next requests are due when the last ones are answered.
    Closed,
    /// An open loop: requests are due at a fixed rate, whatever the server does.
    Open {
        /// Requests a second over all connections.
        per_second: f64,
        /// Gaps are random (a Poisson process) instead of even.
        poisson: bool,
    },
}

/// When a phase stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After this many requests.
    Requests(u64),
}

/// One phase of load: populating, warming up or measuring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) start: Instant,
    pub(crate) stop: Stop,
    pub(crate) schedule: Schedule,
    /// Set every key once instead of running the workload.
    pub(crate) populate: bool,
    /// The length of an interval: workers report after each.
    pub(crate) interval: Duration,
}
