//! `larder-bench replay`: replays a key trace against servers, reading through on a miss.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use larder_client::Client;
use tokio::sync::mpsc;

use crate::trace::{self, Operation, Request};

/// What a replay is run with.
#[derive(Debug, Clone, Args)]
pub struct ReplayOptions {
    /// The trace: CSV lines timestamp,key,key size,value size,client id,operation,TTL (as the public Twitter cache
    /// traces); decompressed if the name ends in .zst, - is standard input
    trace: PathBuf,
    /// Servers, host:port, with commas or repeated
    #[arg(long, short, required = true, value_delimiter = ',')]
    servers: Vec<String>,
    /// How fast: 1 as the trace's timestamps say, 10 ten times as fast; as fast as it goes unless told
    #[arg(long)]
    speed: Option<f64>,
    /// Requests under way at once; requests of one key stay in order
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Replay only so many requests
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    hits: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
}

/// Requests that wait for one worker, at the most.
const QUEUE: usize = 256;

/// Replays the trace and prints the hit ratio. Exits with 1 where requests failed.
pub async fn run(options: ReplayOptions) -> Result<ExitCode> {
    let cache = Client::builder().servers(&options.servers).build()?;
    let requests = trace::read(&options.trace)?.take(options.limit.unwrap_or(usize::MAX));
    let counts = Arc::new(Counts::default());
    let workers: Vec<_> = (0..options.concurrency)
        .map(|_| {
            let (queue, mut requests) = mpsc::channel::<Request>(QUEUE);
            let (cache, counts) = (cache.clone(), counts.clone());
            let worker = tokio::spawn(async move {
                while let Some(request) = requests.recv().await {
                    if let Err(error) = replay(&cache, &request, &counts).await {
                        tracing::debug!(%error, key = request.key, "a request failed");
                        counts.errors.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            (queue, worker)
        })
        .collect();
    let bar = ProgressBar::no_length()
        .with_style(ProgressStyle::with_template("replaying  {human_pos} requests  {per_sec}  {msg}")?);
    let started = Instant::now();
    let mut sent = 0u64;
    for request in requests {
        let request = request?;
        if let Some(speed) = options.speed.filter(|&speed| speed > 0.0) {
            let due = started + Duration::from_secs_f64(request.time as f64 / speed);
            tokio::time::sleep_until(due.into()).await;
        }
        let mut hasher = DefaultHasher::new();
        request.key.hash(&mut hasher);
        let (queue, _) = &workers[hasher.finish() as usize % workers.len()];
        queue.send(request).await?;
        sent += 1;
        if sent.is_multiple_of(4096) {
            bar.set_position(sent);
            bar.set_message(format!("hit ratio {:.2} %", 100.0 * counts.hit_ratio()));
        }
    }
    for (queue, worker) in workers {
        drop(queue);
        worker.await?;
    }
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("requests   {sent} in {seconds:.1} s, {:.0} a second", sent as f64 / seconds);
    println!("reads      {}", get(&counts.reads));
    println!("writes     {} (fills after a miss not counted)", get(&counts.writes));
    println!("hit ratio  {:.2} %", 100.0 * counts.hit_ratio());
    println!("errors     {}", get(&counts.errors));
    Ok(if get(&counts.errors) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Counts {
    fn hit_ratio(&self) -> f64 {
        let reads = self.reads.load(Ordering::Relaxed);
        if reads == 0 { 0.0 } else { self.hits.load(Ordering::Relaxed) as f64 / reads as f64 }
    }
}

async fn replay(cache: &Client, request: &Request, counts: &Counts) -> larder_client::Result<()> {
    let ttl = Duration::from_secs(request.ttl);
    let value = || vec![b'v'; request.value_size];
    match request.operation {
        Operation::Get | Operation::Gets => {
            counts.reads.fetch_add(1, Ordering::Relaxed);
            match cache.get(&request.key).await? {
                Some(_) => {
                    counts.hits.fetch_add(1, Ordering::Relaxed);
                }
                None => cache.set(&request.key, value(), ttl).await?,
            }
            return Ok(());
        }
        Operation::Set | Operation::Cas => cache.set(&request.key, value(), ttl).await?,
        Operation::Add => drop(cache.add(&request.key, value(), ttl).await?),
        Operation::Replace => drop(cache.replace(&request.key, value(), ttl).await?),
        Operation::Append => drop(cache.append(&request.key, value()).await?),
        Operation::Prepend => drop(cache.prepend(&request.key, value()).await?),
        Operation::Delete => drop(cache.delete(&request.key).await?),
        Operation::Incr => drop(cache.incr(&request.key, 1).await?),
        Operation::Decr => drop(cache.decr(&request.key, 1).await?),
    }
    counts.writes.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
