//! The limit of connections (-c), and counts of open, refused and waiting ones.

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts of connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    current: AtomicU64,
    total: AtomicU64,
    rejected: AtomicU64,
    pauses: AtomicU64,
    paused_microseconds: AtomicU64,
    /// Listeners that are not accepting now.
    pausing: AtomicU32,
}

/// A reading of [`Connections`].
pub(crate) struct ConnectionStatistics {
    pub(crate) current: u64,
    pub(crate) total: u64,
    pub(crate) rejected: u64,
    pub(crate) pauses: u64,
    pub(crate) paused_microseconds: u64,
    pub(crate) accepting: bool,
}

/// Interval between checks for room, while the limit is reached.
pub(crate) const RETRY: Duration = Duration::from_millis(10);

impl Connections {
    /// Counts a new connection. Returns `false` if there are `most` already.
    pub(crate) fn try_open(&self, most: u32) -> bool {
        let room = |current| (current < u64::from(most)).then_some(current + 1);
        if self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return false;
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Waits until there is room for a new connection and counts it. Its listener accepts no others meanwhile.
    pub(crate) async fn open(&self, most: u32) {
        if self.try_open(most) {
            return;
        }
        self.pause(async {
            while !self.try_open(most) {
                tokio::time::sleep(RETRY).await;
            }
        })
        .await;
    }

    /// Counts a connection that was refused.
    pub(crate) fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.current.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds the time until `end` to the time in which a listener did not accept.
    pub(crate) async fn pause<T>(&self, end: impl Future<Output = T>) -> T {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        self.pausing.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        let result = end.await;
        self.paused_microseconds.fetch_add(since.elapsed().as_micros() as u64, Ordering::Relaxed);
        self.pausing.fetch_sub(1, Ordering::Relaxed);
        result
    }

    pub(crate) fn statistics(&self) -> ConnectionStatistics {
        ConnectionStatistics {
            current: self.current.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            pauses: self.pauses.load(Ordering::Relaxed),
            paused_microseconds: self.paused_microseconds.load(Ordering::Relaxed),
            accepting: self.pausing.load(Ordering::Relaxed) == 0,
        }
    }
}
