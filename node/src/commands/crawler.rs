//! The state of dumps and crawls: whether they are enabled, whether one is running, and counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The reply while another dump is running.
pub(crate) const BUSY: &str = "BUSY currently processing crawler request";

/// memcached's LRU crawler. Here it only lists items; background work reclaims expired ones.
#[derive(Debug, Default)]
pub(crate) struct Crawler {
    enabled: AtomicBool,
    running: AtomicBool,
    /// Dumps and crawls started so far.
    pub(crate) starts: AtomicU64,
    /// Items listed.
    pub(crate) checked: AtomicU64,
}

impl Crawler {
    pub(crate) fn new(enabled: bool) -> Self {
        Crawler { enabled: enabled.into(), ..Crawler::default() }
    }

    pub(crate) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(crate) fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    pub(crate) fn running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Starts a dump. Returns `false` if one is running.
    pub(crate) fn begin(&self) -> bool {
        let free = !self.running.swap(true, Ordering::Acquire);
        self.starts.fetch_add(free.into(), Ordering::Relaxed);
        free
    }

    /// Ends a dump.
    pub(crate) fn end(&self) {
        self.running.store(false, Ordering::Release);
    }

    /// Counts a crawl. It has nothing to do, so it ends at once.
    pub(crate) fn count_crawl(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
    }
}
