//! The demo's request handlers, and what they measure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use larder_client::Client;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tokio::task::JoinSet;

use super::datastore::{Datastore, Page, sentence};
use super::options::DemoOptions;

/// Time to live of cached pages.
const TTL: Duration = Duration::from_secs(300);

/// How a page is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Datastore,
    Cache,
}

/// What all handlers share.
pub(super) struct Load {
    datastore: Datastore,
    cache: Client,
    users: Zipf<f64>,
    writes: f64,
    handlers: u32,
    /// By user, the newest version whose write has returned: a read that begins later must not see an older one.
    promised: Vec<AtomicU64>,
}

/// What one node was asked, as the client saw it.
#[derive(Debug, Default)]
pub(super) struct NodeCounts {
    pub(super) reads: AtomicU64,
    pub(super) hits: AtomicU64,
}

/// What is counted within a phase.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) datastore_reads: AtomicU64,
    /// Requests that a user would have seen fail.
    pub(super) errors: AtomicU64,
    /// Deletes that could not reach a node.
    pub(super) unreached: AtomicU64,
    /// Pages older than a write that had returned before the read began.
    pub(super) stale: AtomicU64,
    pub(super) by_node: Vec<NodeCounts>,
}

/// A moment of a phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) at: Duration,
    pub(super) p99: Duration,
}

/// One phase of the demo.
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) counts: Arc<Counts>,
    /// Microseconds of every request.
    latency: Arc<Mutex<Histogram<u64>>>,
    /// The same since the last window ended.
    recent: Arc<Mutex<Histogram<u64>>>,
    started: Instant,
    windows: Mutex<Vec<Window>>,
    marks: Mutex<Vec<(&'static str, Duration)>>,
    length: Mutex<Duration>,
}

/// Three digits, up to a minute in microseconds.
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

    /// Notes that something happened now.
    pub(super) fn mark(&self, what: &'static str) {
        self.marks.lock().push((what, self.started.elapsed()));
    }

    /// How long a window is.
    pub(super) fn window(&self) -> Duration {
        Duration::from_millis(250)
    }

    /// Ends a window and tells it in words.
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

    /// Requests in all.
    pub(super) fn operations(&self) -> u64 {
        self.latency.lock().len()
    }

    /// A quantile of latency, in milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.lock().value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The share of reads that did not go to the datastore.
    pub(super) fn hit_ratio(&self) -> f64 {
        let reads = self.counts.reads.load(Ordering::Relaxed);
        let missed = self.counts.datastore_reads.load(Ordering::Relaxed);
        if reads == 0 { 0.0 } else { 1.0 - (missed.min(reads) as f64 / reads as f64) }
    }

    /// After the event `mark`: the p99 before it in milliseconds, and how long until a window's p99 was within twice that
    /// again; `None` where it never was.
    pub(super) fn recovery(&self, mark: &str) -> Option<(f64, Option<Duration>)> {
        let at = self.marks.lock().iter().find(|(name, _)| *name == mark)?.1;
        let windows = self.windows.lock();
        // The first second is warm-up.
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

/// Handlers at work.
pub(super) struct Handlers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Handlers {
    /// Lets every handler finish its request.
    pub(super) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Load {
    pub(super) fn new(options: &DemoOptions, datastore: Datastore, cache: Client) -> Load {
        Load {
            datastore,
            cache,
            users: Zipf::new(f64::from(options.users), options.zipf.max(0.0)).expect("a Zipf exponent from 0 on"),
            writes: options.writes / 100.0,
            handlers: options.handlers,
            promised: (0..options.users).map(|_| AtomicU64::new(1)).collect(),
        }
    }

    pub(super) fn nodes(&self) -> usize {
        self.cache.nodes().len()
    }

    pub(super) fn start(self: &Arc<Self>, path: Path, phase: &Phase) -> Handlers {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for seed in 0..self.handlers {
            let (load, counts, stop) = (self.clone(), phase.counts.clone(), stop.clone());
            let (latency, recent) = (phase.latency.clone(), phase.recent.clone());
            tasks.spawn(async move {
                let mut random = StdRng::seed_from_u64(seed.into());
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    if load.request(path, &counts, &mut random).await.is_err() {
                        counts.errors.fetch_add(1, Ordering::Relaxed);
                    }
                    let micros = started.elapsed().as_micros() as u64;
                    latency.lock().saturating_record(micros);
                    recent.lock().saturating_record(micros);
                }
            });
        }
        Handlers { tasks, stop }
    }

    async fn request(&self, path: Path, counts: &Counts, random: &mut StdRng) -> anyhow::Result<()> {
        // Neighbours in popularity are no neighbours in number.
        let rank = self.users.sample(random) as u64 - 1;
        let id = (rank.wrapping_mul(2_654_435_761) % self.promised.len() as u64) as u32;
        if random.random_bool(self.writes) {
            let words = random.random_range(5..30);
            counts.writes.fetch_add(1, Ordering::Relaxed);
            self.write(path, id, sentence(words, random), counts).await
        } else {
            counts.reads.fetch_add(1, Ordering::Relaxed);
            self.read(path, id, counts).await
        }
    }

    /// A change: committed first, then deleted from the cache.
    async fn write(&self, path: Path, id: u32, text: String, counts: &Counts) -> anyhow::Result<()> {
        let version = self.datastore.post(id, text).await?;
        if path == Path::Cache && self.cache.delete(key(id)).await.is_err() {
            counts.unreached.fetch_add(1, Ordering::Relaxed);
        }
        self.promised[id as usize].fetch_max(version, Ordering::Relaxed);
        Ok(())
    }

    async fn read(&self, path: Path, id: u32, counts: &Counts) -> anyhow::Result<()> {
        let promised = self.promised[id as usize].load(Ordering::Relaxed);
        let from_datastore = || {
            counts.datastore_reads.fetch_add(1, Ordering::Relaxed);
            self.datastore.page(id)
        };
        let page: Bytes = match path {
            Path::Datastore => from_datastore().await?,
            Path::Cache => {
                let node = &counts.by_node[self.cache.owner(key(id))];
                node.reads.fetch_add(1, Ordering::Relaxed);
                let mut loaded = false;
                let loader = || {
                    loaded = true;
                    from_datastore()
                };
                let page = self.cache.get_or_load(key(id), TTL, loader).await?;
                node.hits.fetch_add(u64::from(!loaded), Ordering::Relaxed);
                page
            }
        };
        let page: Page = serde_json::from_slice(&page)?;
        anyhow::ensure!(page.id == id, "asked for user {id}, got the page of {}", page.id);
        if page.version < promised {
            counts.stale.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn key(id: u32) -> String {
    format!("page:{id}")
}
