//! The demo's application: request handlers that read and change users' pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_client::Client;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tokio::task::JoinSet;

use super::datastore::{Datastore, Page, sentence};
use super::options::DemoOptions;
use super::phase::{Counts, Phase};

/// Time to live of cached pages.
const TTL: Duration = Duration::from_secs(300);

/// The way to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Datastore,
    Cache,
}

/// The application: what all request handlers share.
pub(super) struct Application {
    datastore: Datastore,
    cache: Client,
    users: Zipf<f64>,
    writes: f64,
    handlers: u32,
    /// The newest version by user whose write has returned. A read that begins later must not return an older one.
    promised: Vec<AtomicU64>,
}

/// Running request handlers.
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

impl Application {
    pub(super) fn new(options: &DemoOptions, datastore: Datastore, cache: Client) -> Application {
        Application {
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
            let (application, counts, stop) = (self.clone(), phase.counts.clone(), stop.clone());
            let (latency, recent) = (phase.latency.clone(), phase.recent.clone());
            tasks.spawn(async move {
                let mut random = StdRng::seed_from_u64(seed.into());
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let failed = application.request(path, &counts, &mut random).await.is_err();
                    counts.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
                    let micros = started.elapsed().as_micros() as u64;
                    latency.lock().saturating_record(micros);
                    recent.lock().saturating_record(micros);
                }
            });
        }
        Handlers { tasks, stop }
    }

    async fn request(&self, path: Path, counts: &Counts, random: &mut StdRng) -> anyhow::Result<()> {
        // Popular users are spread over all numbers.
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

    /// Changes a page: commits to the datastore first, then deletes the page from the cache.
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
