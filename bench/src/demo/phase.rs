//! The measurements of one phase of the demo.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Reads of one node's keys, and hits, as the client saw them.
#[derive(Debug, Default)]
pub(super) struct NodeCounts {
    pub(super) reads: AtomicU64,
    pub(super) hits: AtomicU64,
}

/// The counts of a phase.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) datastore_reads: AtomicU64,
    /// Requests that failed.
    pub(super) errors: AtomicU64,
    /// Deletes that did not reach a node.
    pub(super) unreached: AtomicU64,
    /// Pages that were older than a write that had returned before the read began.
    pub(super) stale: AtomicU64,
    pub(super) by_node: Vec<NodeCounts>,
}

/// A short interval of a phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) at: Duration,
    pub(super) p99: Duration,
}

/// What the demo has to show.
#[derive(Default)]
pub(super) struct Results {
    /// The addresses of the nodes.
    pub(super) nodes: Vec<String>,
    /// The phases that have ended.
    pub(super) phases: Vec<Phase>,
}

/// One phase of the demo.
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) counts: Arc<Counts>,
    /// Latencies of all requests, in microseconds.
    pub(super) latency: Arc<Mutex<Histogram<u64>>>,
    /// Latencies of the current window, in microseconds.
    pub(super) recent: Arc<Mutex<Histogram<u64>>>,
    started: Instant,
    windows: Mutex<Vec<Window>>,
    marks: Mutex<Vec<(&'static str, Duration)>>,
    length: Mutex<Duration>,
}

/// A histogram of microseconds up to one minute, with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("the bounds are valid")
}

impl Phase {
    pub(super) fn new(name: &'static str, nodes: usize) -> Phase {
        let counts = Counts { by_node: (0..nodes).map(|_| NodeCounts::default()).collect(), ..Counts::default() };
        Phase {
            name,
            counts: Arc::new(counts),
            latency: Arc::new(Mutex::new(histogram())),
            recent: Arc::new(Mutex::new(histogram())),
            started: Instant::now(),
            windows: Mutex::default(),
            marks: Mutex::default(),
            length: Mutex::default(),
        }
    }

    /// Notes that an event happened now.
    pub(super) fn mark(&self, what: &'static str) {
        self.marks.lock().push((what, self.started.elapsed()));
    }

    /// The length of a window.
    pub(super) fn window(&self) -> Duration {
        Duration::from_millis(250)
    }

    /// Ends a window and returns its figures as text.
    pub(super) fn turn_window(&self) -> String {
        let recent = std::mem::replace(&mut *self.recent.lock(), histogram());
        let p99 = Duration::from_micros(recent.value_at_quantile(0.99));
        self.windows.lock().push(Window { at: self.started.elapsed(), p99 });
        let rate = recent.len() as f64 / self.window().as_secs_f64();
        format!("{rate:>7.0} ops/s  p99 {:.2} ms  hit ratio {:.1} %", p99.as_secs_f64() * 1e3, 100.0 * self.hit_ratio())
    }

    pub(super) fn end(&self, length: Duration) {
        *self.length.lock() = length;
    }

    pub(super) fn seconds(&self) -> f64 {
        self.length.lock().as_secs_f64()
    }

    /// Number of requests that were served.
    pub(super) fn operations(&self) -> u64 {
        self.latency.lock().len().saturating_sub(self.counts.errors.load(Ordering::Relaxed))
    }

    /// Returns a quantile of latency, in milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.lock().value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Returns the share of reads that did not go to the datastore.
    pub(super) fn hit_ratio(&self) -> f64 {
        let reads = self.counts.reads.load(Ordering::Relaxed);
        let missed = self.counts.datastore_reads.load(Ordering::Relaxed);
        if reads == 0 { 0.0 } else { 1.0 - (missed.min(reads) as f64 / reads as f64) }
    }

    /// Returns the usual p99 before the event `mark`, in milliseconds, and the time from the event until a window's p99
    /// was at most twice the usual. That time is `None` if no window was; the whole is `None` without the event.
    pub(super) fn recovery(&self, mark: &str) -> Option<(f64, Option<Duration>)> {
        let at = self.marks.lock().iter().find(|(name, _)| *name == mark)?.1;
        let windows = self.windows.lock();
        // The first second is the warm-up.
        let mut before: Vec<Duration> = windows
            .iter()
            .filter(|window| window.at > Duration::from_secs(1) && window.at < at)
            .map(|window| window.p99)
            .collect();
        before.sort_unstable();
        let usual = *before.get(before.len() / 2)?;
        // A window that began before the event does not count.
        let after = windows.iter().filter(|window| window.at >= at + self.window());
        let recovered = after.clone().find(|window| window.p99 <= 2 * usual).map(|window| window.at - at);
        Some((usual.as_secs_f64() * 1e3, recovered))
    }
}
