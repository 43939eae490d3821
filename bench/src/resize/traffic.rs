//! Clients that read through a cache at a given rate, and what each of them saw in every second.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use hdrhistogram::Histogram;
use larder_client::Client;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tokio::task::JoinSet;

/// Time to live of cached values: longer than a run.
const TTL: Duration = Duration::from_secs(3600);

/// Requests of one client that are under way at most.
const HANDLERS: u32 = 48;

/// Loads the value of a key that is not in the cache.
pub(crate) type Loader = Arc<dyn Fn(u32) -> Pin<Box<dyn Future<Output = Result<Bytes>> + Send>> + Send + Sync>;

/// What a client saw in one second.
#[derive(Debug, Clone)]
pub(crate) struct Second {
    pub(crate) reads: u64,
    /// Reads that the loader answered.
    pub(crate) loads: u64,
    pub(crate) errors: u64,
    /// Microseconds from sending a request to its answer; of reads that loaded too.
    pub(crate) latency: Histogram<u64>,
}

impl Second {
    fn new() -> Second {
        let latency = Histogram::new_with_max(60_000_000, 3).expect("the bounds are valid");
        Second { reads: 0, loads: 0, errors: 0, latency }
    }

    /// Several seconds together.
    pub(crate) fn sum<'a>(seconds: impl IntoIterator<Item = &'a Second>) -> Second {
        seconds.into_iter().fold(Second::new(), |mut sum, second| {
            sum.reads += second.reads;
            sum.loads += second.loads;
            sum.errors += second.errors;
            sum.latency.add(&second.latency).expect("all have the same bounds");
            sum
        })
    }

    /// Share of the reads that the cache answered, 0 to 1.
    pub(crate) fn hit_ratio(&self) -> f64 {
        1.0 - self.loads as f64 / self.reads.max(1) as f64
    }

    /// 99th percentile, in microseconds.
    pub(crate) fn p99(&self) -> f64 {
        self.latency.value_at_quantile(0.99) as f64
    }
}

/// How a client reads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As Larder's client does: one load for all who wait, by leases.
    Leases,
    /// As most do: get, load, set.
    Plain,
}

/// A client and its load.
pub(crate) struct Reader {
    pub(crate) name: &'static str,
    way: Way,
    cache: Mutex<Client>,
    loader: Loader,
    keys: u32,
    zipf: Zipf<f64>,
    /// Requests a second.
    rate: AtomicU64,
    stop: AtomicBool,
    now: Mutex<Second>,
    pub(crate) seconds: Mutex<Vec<Second>>,
}

impl Reader {
    pub(crate) fn new(
        name: &'static str,
        way: Way,
        cache: Client,
        loader: Loader,
        keys: u32,
        zipf: f64,
    ) -> Arc<Reader> {
        Arc::new(Reader {
            name,
            way,
            cache: Mutex::new(cache),
            loader,
            keys,
            zipf: Zipf::new(f64::from(keys), zipf.max(0.0)).expect("a Zipf exponent from 0 on"),
            rate: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            now: Mutex::new(Second::new()),
            seconds: Mutex::default(),
        })
    }

    /// Sends so many requests a second from now on.
    pub(crate) fn set_rate(&self, per_second: u64) {
        self.rate.store(per_second.max(1), Ordering::Relaxed);
    }

    /// Uses another client, with another list of nodes, from now on.
    pub(crate) fn use_client(&self, cache: Client) {
        *self.cache.lock() = cache;
    }

    /// Ends the current second.
    pub(crate) fn turn_second(&self) {
        let second = std::mem::replace(&mut *self.now.lock(), Second::new());
        self.seconds.lock().push(second);
    }

    /// Lets the requests that are under way end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Sends requests until it is stopped.
    pub(crate) fn start(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        for seed in 0..HANDLERS {
            let reader = self.clone();
            tasks.spawn(async move {
                let mut random = StdRng::seed_from_u64(seed.into());
                let mut due = tokio::time::Instant::now();
                while !reader.stop.load(Ordering::Relaxed) {
                    let gap = f64::from(HANDLERS) / reader.rate.load(Ordering::Relaxed) as f64;
                    due += Duration::from_secs_f64(gap * random.random_range(0.5..1.5));
                    // A handler that is late does not make up for all that it missed.
                    due = due.max(tokio::time::Instant::now() - Duration::from_secs(1));
                    tokio::time::sleep_until(due).await;
                    reader.request(&mut random).await;
                }
            });
        }
    }

    async fn request(&self, random: &mut StdRng) {
        let rank = self.zipf.sample(random) as u64 - 1;
        // Popular keys are spread over all numbers.
        let number = (rank.wrapping_mul(2_654_435_761) % u64::from(self.keys)) as u32;
        let cache = self.cache.lock().clone();
        let started = Instant::now();
        let mut loaded = false;
        let result = self.read(&cache, number, &mut loaded).await;
        let micros = started.elapsed().as_micros() as u64;
        if let Err(error) = &result {
            tracing::warn!(client = self.name, "a read failed: {error:#}");
        }
        let mut now = self.now.lock();
        now.reads += 1;
        now.loads += u64::from(loaded);
        now.errors += u64::from(result.is_err());
        now.latency.saturating_record(micros);
    }

    async fn read(&self, cache: &Client, number: u32, loaded: &mut bool) -> Result<Bytes> {
        let key = key(number);
        match self.way {
            Way::Leases => {
                let load = || {
                    *loaded = true;
                    (self.loader)(number)
                };
                Ok(cache.get_or_load(key, TTL, load).await?)
            }
            Way::Plain => {
                if let Some(value) = cache.get(&key).await? {
                    return Ok(value);
                }
                *loaded = true;
                let value = (self.loader)(number).await?;
                cache.set(key, &value, TTL).await?;
                Ok(value)
            }
        }
    }
}

/// The key of a number.
pub(crate) fn key(number: u32) -> String {
    format!("page:{number}")
}

/// Sets every key once, in an order that is not that of their popularity.
pub(crate) async fn populate(cache: &Client, loader: &Loader, keys: u32) -> Result<()> {
    let mut tasks = JoinSet::new();
    for part in 0..HANDLERS {
        let (cache, loader) = (cache.clone(), loader.clone());
        tasks.spawn(async move {
            for number in (part..keys).step_by(HANDLERS as usize) {
                let value = loader(number).await?;
                cache.set(key(number), value, TTL).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
