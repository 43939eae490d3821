//! The other members as a node sees them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use larder_protocol::peer::{Member, Status};
use parking_lot::Mutex;

/// A member of one generation: where it is, how it is, and what went to it and came from it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) generation: u32,
    /// Where it is reached by other members.
    pub(crate) address: String,
    reachable: AtomicBool,
    /// It is no member any more: that it does not answer is no news.
    departed: AtomicBool,
    heard: Mutex<(Instant, Status)>,
    /// Commands that were sent to it, and that came from it.
    pub(crate) forwarded_out: AtomicU64,
    pub(crate) forwarded_in: AtomicU64,
}

impl Peer {
    pub(crate) fn new(id: &str, member: &Member) -> Peer {
        Peer {
            id: id.to_owned(),
            generation: member.generation,
            address: member.peer.clone(),
            reachable: AtomicBool::new(true),
            departed: AtomicBool::new(false),
            heard: Mutex::new((Instant::now(), Status::default())),
            forwarded_out: AtomicU64::new(0),
            forwarded_in: AtomicU64::new(0),
        }
    }

    /// Whether commands are sent to it: it answered within the last seconds.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        if self.reachable.swap(reachable, Ordering::Relaxed) != reachable {
            match reachable {
                true => tracing::info!(member = self.id, "the member answers again"),
                false if self.departed.load(Ordering::Relaxed) => {}
                false => tracing::warn!(member = self.id, "the member does not answer: its keys are misses for now"),
            }
        }
    }

    /// It is no member any more.
    pub(crate) fn depart(&self) {
        self.departed.store(true, Ordering::Relaxed);
    }

    /// It said how it is.
    pub(crate) fn heard(&self, status: Status) {
        *self.heard.lock() = (Instant::now(), status);
        self.set_reachable(true);
    }

    /// When it was last heard of, and what it said.
    pub(crate) fn last(&self) -> (Instant, Status) {
        *self.heard.lock()
    }
}
