//! `larder-bench simulate`: the engine's hit ratio on a trace, by memory size and eviction policy, beside policies by
//! their published rules: exact LRU, GDSF, S3-FIFO, W-TinyLFU and LHD.
//!
//! Everything runs in this process, without a server. A get that misses is followed by a set, as readers of a cache do.
//! Time is that of the trace.

mod cache;
mod engine;
mod gdsf;
mod lhd;
mod lru;
mod page;
mod queue;
mod s3fifo;
mod wtinylfu;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use larder_node::store::{Config, Eviction, Store, Time};

use crate::interrupt::Interrupt;
use crate::report::{self, Line};
use crate::trace::{self, Command};
use cache::{Cache, ITEM_OVERHEAD};
use engine::Engine;
use gdsf::Gdsf;
use lhd::Lhd;
use lru::ExactLru;
use page::Ratios;
use s3fifo::S3Fifo;
use wtinylfu::WTinyLfu;

/// The start of the trace, in seconds since 1970.
const START: u32 = 1_700_000_000;

/// Options of `larder-bench simulate`.
#[derive(Debug, Args)]
pub struct SimulateOptions {
    /// A trace (generate-trace has the format); decompressed if the name ends in .zst. - is standard input
    #[arg(required_unless_present = "sizes")]
    trace: Option<PathBuf>,
    /// Memory sizes, with commas or spaces between them, in percent of the footprint: all keys of the trace at their
    /// largest size, plus 24 bytes each
    #[arg(long, num_args = 1.., value_delimiter = ',', default_values = ["1", "3", "10", "30"], value_name = "PERCENT")]
    sizes: Vec<String>,
    /// Eviction policies of the engine
    #[arg(long, value_delimiter = ',', default_values_t = [Eviction::Density, Eviction::Lru, Eviction::S3Fifo])]
    policies: Vec<Eviction>,
    /// Also show how well the node's running estimate of its hit ratio with half, twice and four times the memory
    /// agrees with simulations of these sizes
    #[arg(long)]
    estimate: bool,
    /// Write the tables and plots of them as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl SimulateOptions {
    /// Returns the trace and the sizes. A trace that follows the sizes was taken for the last of them.
    fn trace_and_sizes(&self) -> Result<(PathBuf, Vec<f64>)> {
        let (trace, sizes) = match (&self.trace, self.sizes.split_last()) {
            (None, Some((last, sizes))) if last.parse::<f64>().is_err() => (PathBuf::from(last), sizes),
            (Some(trace), _) => (trace.clone(), &self.sizes[..]),
            (None, _) => bail!("no trace is given"),
        };
        let percent = |size: &String| report::parse_percent(size);
        Ok((trace, sizes.iter().map(percent).collect::<Result<_>>()?))
    }
}

/// A policy that a trace is run on.
#[derive(Clone, Copy)]
enum Policy {
    /// One by its published rules, without the engine's overhead.
    ExactLru,
    Gdsf,
    S3Fifo,
    WTinyLfu,
    Lhd,
    Engine(Eviction),
}

impl Policy {
    /// Those by their published rules.
    const REFERENCES: [Policy; 5] = [Policy::ExactLru, Policy::Gdsf, Policy::S3Fifo, Policy::WTinyLfu, Policy::Lhd];

    fn name(self) -> String {
        match self {
            Policy::ExactLru => "exact lru".to_owned(),
            Policy::Gdsf => "exact gdsf".to_owned(),
            Policy::S3Fifo => "exact s3fifo".to_owned(),
            Policy::WTinyLfu => "exact w-tinylfu".to_owned(),
            Policy::Lhd => "exact lhd".to_owned(),
            Policy::Engine(eviction) => format!("engine {eviction}"),
        }
    }
}

/// The shares of reads that hit: by their number, and by the bytes of key and value.
#[derive(Debug, Default, PartialEq)]
struct HitRatio {
    objects: f64,
    bytes: f64,
}

/// A request with its key as a number.
struct Request {
    time: u32,
    key: u32,
    value_size: u32,
    ttl: u32,
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Read,
    Write,
    Delete,
}

/// A trace in memory.
struct Trace {
    requests: Vec<Request>,
    keys: Vec<Box<[u8]>>,
    footprint: u64,
    largest: usize,
}

/// Runs `larder-bench simulate` and prints its table. A signal ends it early, with the table so far.
pub fn run(options: &SimulateOptions) -> Result<ExitCode> {
    let interrupt = Interrupt::on_signals()?;
    let (path, sizes) = options.trace_and_sizes()?;
    let trace = Trace::read(&path)?;
    ensure!(!trace.requests.is_empty(), "{} has no requests", path.display());
    let about = format!(
        "{} requests, {} keys, footprint {} bytes",
        report::count(trace.requests.len() as u64),
        report::count(trace.keys.len() as u64),
        report::count(trace.footprint)
    );
    println!("{about}\n");
    let engine = options.policies.iter().copied().map(Policy::Engine);
    let policies: Vec<Policy> = Policy::REFERENCES.into_iter().chain(engine).collect();
    let ratios = trace.hit_ratios(&sizes, &policies, &interrupt);
    for Ratios { title, rows, .. } in &ratios {
        report::print(&format!("{title}\n{}\n", report::table(rows)))?;
    }
    let mut estimates = Vec::new();
    if options.estimate {
        estimates = trace.estimates(&sizes, &options.policies, &interrupt);
        report::print(&format!("Reads that hit: as the node estimates / as simulated\n{}", report::table(&estimates)))?;
    }
    if interrupt.is_set() {
        report::print("\nThe simulation was cut short: further sizes and policies are missing.\n")?;
    }
    if let Some(file) = &options.html {
        let about = format!("{}: {about}", path.display());
        report::write(file, &page::to_html(&about, Policy::REFERENCES.len(), &ratios, &estimates))?;
    }
    Ok(ExitCode::from(interrupt.exit_status().unwrap_or(0)))
}

impl Trace {
    fn read(path: &std::path::Path) -> Result<Trace> {
        let mut numbers: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        let mut sizes: Vec<u32> = Vec::new();
        let mut requests = Vec::new();
        let bar = ProgressBar::new(0)
            .with_style(ProgressStyle::with_template("reading the trace  [{bar:30}] {percent:>3} %")?);
        for request in trace::read(path, &bar)? {
            let request = request?;
            let action = match request.command {
                Command::Get | Command::Gets => Action::Read,
                Command::Delete => Action::Delete,
                _ => Action::Write,
            };
            let key = *numbers.entry(request.key).or_insert_with_key(|key| {
                keys.push(key.as_slice().into());
                sizes.push(0);
                (keys.len() - 1) as u32
            });
            let value_size = u32::try_from(request.value_size).context("a value of more than 4 GiB")?;
            sizes[key as usize] = sizes[key as usize].max(value_size);
            let ttl = u32::try_from(request.ttl).unwrap_or(u32::MAX);
            let time = START.saturating_add(u32::try_from(request.time).unwrap_or(u32::MAX));
            requests.push(Request { time, key, value_size, ttl, action });
        }
        let items = keys.iter().zip(&sizes).map(|(key, &size)| key.len() as u64 + u64::from(size));
        let largest = items.clone().max().unwrap_or(0) as usize;
        let footprint = items.map(|item| item + ITEM_OVERHEAD).sum();
        Ok(Trace { requests, keys, footprint, largest })
    }

    /// Returns the hit ratios with each of these sizes, in percent of the footprint, under each policy: by objects and
    /// by bytes. Where `interrupt` is set, those that are known by then.
    fn hit_ratios(&self, sizes: &[f64], policies: &[Policy], interrupt: &Interrupt) -> [Ratios; 2] {
        let names = || policies.iter().map(|policy| policy.name());
        let mut all = ["Reads that hit", "Bytes of reads that hit"].map(|title| Ratios {
            title,
            rows: vec![["memory", "bytes"].map(str::to_owned).into_iter().chain(names()).collect()],
            lines: names().map(|name| Line { name, ..Line::default() }).collect(),
        });
        for &size in sizes {
            let bytes = (self.footprint as f64 * size / 100.0) as usize;
            for Ratios { rows, .. } in &mut all {
                rows.push(vec![format!("{size} %"), report::count(bytes as u64)]);
            }
            for (at, &policy) in policies.iter().enumerate() {
                let ratio = self.hit_ratio(bytes, policy, interrupt);
                if interrupt.is_set() {
                    // A pass that was cut short has no ratio.
                    return all;
                }
                // The engine refuses very small sizes: its column has a gap there.
                let refused = |error: &anyhow::Error| tracing::warn!(%error, bytes, "not simulated");
                let ratio = ratio.inspect_err(refused).ok();
                let both = [ratio.as_ref().map(|ratio| ratio.objects), ratio.as_ref().map(|ratio| ratio.bytes)];
                for (Ratios { rows, lines, .. }, share) in all.iter_mut().zip(both) {
                    let shown = share.map_or("-".to_owned(), |share| format!("{:.2} %", 100.0 * share));
                    rows.last_mut().expect("a row was begun").push(shown);
                    lines[at].points.extend(share.map(|share| (size, 100.0 * share)));
                }
            }
        }
        all
    }

    /// Returns the shares of reads that hit with `bytes` of memory under `policy`.
    fn hit_ratio(&self, bytes: usize, policy: Policy, interrupt: &Interrupt) -> Result<HitRatio> {
        let limit = bytes as u64;
        match policy {
            Policy::ExactLru => Ok(self.run(&mut ExactLru::new(limit, &self.keys), interrupt)),
            Policy::Gdsf => Ok(self.run(&mut Gdsf::new(limit, &self.keys), interrupt)),
            Policy::S3Fifo => Ok(self.run(&mut S3Fifo::new(limit, &self.keys), interrupt)),
            Policy::WTinyLfu => Ok(self.run(&mut WTinyLfu::new(limit, &self.keys), interrupt)),
            Policy::Lhd => Ok(self.run(&mut Lhd::new(limit, &self.keys), interrupt)),
            Policy::Engine(eviction) => {
                let store = self.store(bytes, eviction)?;
                Ok(self.run(&mut Engine::new(store, &self.keys, self.largest, START), interrupt))
            }
        }
    }

    /// Returns what the engine with `bytes` of memory estimates for other sizes: pairs of a factor and a hit ratio.
    fn estimate(&self, bytes: usize, eviction: Eviction, interrupt: &Interrupt) -> Result<[(f64, f64); 3]> {
        let mut engine = Engine::new(self.store(bytes, eviction)?, &self.keys, self.largest, START);
        let ratio = self.run(&mut engine, interrupt).objects;
        let reads = self.requests.iter().filter(|request| request.action == Action::Read).count() as f64;
        Ok(engine.hits_with_other_memory().map(|other| (other.factor, ratio + other.hits / reads)))
    }

    /// Returns a table of estimates beside simulations, without sizes that the engine refuses.
    fn estimates(&self, sizes: &[f64], policies: &[Eviction], interrupt: &Interrupt) -> Vec<Vec<String>> {
        let mut rows = vec![["memory", "policy", "half", "twice", "four times"].map(str::to_owned).to_vec()];
        for (&size, &eviction) in sizes.iter().flat_map(|size| policies.iter().map(move |policy| (size, policy))) {
            let bytes = |factor: f64| (self.footprint as f64 * size / 100.0 * factor) as usize;
            let Ok(estimates) = self.estimate(bytes(1.0), eviction, interrupt) else { continue };
            let shown = estimates.map(|(factor, estimate)| {
                let simulated = self.hit_ratio(bytes(factor), Policy::Engine(eviction), interrupt);
                let simulated = simulated.map_or("-".to_owned(), |ratio| format!("{:.2}", 100.0 * ratio.objects));
                format!("{:.2} / {simulated} %", 100.0 * estimate)
            });
            if interrupt.is_set() {
                break;
            }
            rows.push([format!("{size} %"), eviction.to_string()].into_iter().chain(shown).collect());
        }
        rows
    }

    fn store(&self, bytes: usize, eviction: Eviction) -> Result<Store> {
        Ok(Store::new(&Config {
            memory_limit: bytes,
            item_size_max: (1 << 20).max(self.largest),
            eviction,
            now: Time(START),
        })?)
    }

    /// Runs the trace on `cache`, until `interrupt` is set, and returns the shares of reads that hit.
    fn run(&self, cache: &mut impl Cache, interrupt: &Interrupt) -> HitRatio {
        // Reads and bytes read: all, and those that hit.
        let (mut all, mut hit) = ([0u64; 2], [0u64; 2]);
        for &Request { time, key, value_size, ttl, action } in self.requests.iter().take_while(|_| !interrupt.is_set())
        {
            match action {
                Action::Read => {
                    let bytes = self.keys[key as usize].len() as u64 + u64::from(value_size);
                    let is_hit = cache.read(key, time);
                    for (count, by) in [(&mut all, true), (&mut hit, is_hit)] {
                        count[0] += u64::from(by);
                        count[1] += if by { bytes } else { 0 };
                    }
                    if !is_hit {
                        cache.write(key, value_size, ttl, time);
                    }
                }
                Action::Write => cache.write(key, value_size, ttl, time),
                Action::Delete => cache.delete(key, time),
            }
        }
        let share = |of: usize| if all[of] == 0 { 0.0 } else { hit[of] as f64 / all[of] as f64 };
        HitRatio { objects: share(0), bytes: share(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(lines: &str) -> Trace {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.csv");
        std::fs::write(&path, lines).unwrap();
        Trace::read(&path).unwrap()
    }

    #[test]
    fn a_read_hits_what_was_read_before_until_it_expires() {
        let trace = trace("0,a,1,10,1,get,5\n4,a,1,10,1,get,5\n5,a,1,10,1,get,5\n9,a,1,10,1,get,5\n");
        for policy in Policy::REFERENCES.into_iter().chain([Policy::Engine(Eviction::Density)]) {
            let ratio = trace.hit_ratio(1 << 20, policy, &Interrupt::default()).unwrap();
            assert_eq!(ratio, HitRatio { objects: 0.5, bytes: 0.5 });
        }
    }

    #[test]
    fn a_deleted_key_is_missed() {
        let trace = trace("0,a,1,10,1,set,0\n0,a,1,10,1,get,0\n0,a,1,10,1,delete,0\n0,a,1,10,1,get,0\n");
        for policy in Policy::REFERENCES.into_iter().chain([Policy::Engine(Eviction::Density)]) {
            let ratio = trace.hit_ratio(1 << 20, policy, &Interrupt::default()).unwrap();
            assert_eq!(ratio, HitRatio { objects: 0.5, bytes: 0.5 });
        }
    }

    #[test]
    fn the_footprint_takes_each_key_once_at_its_largest() {
        let trace = trace("0,ab,2,10,1,set,0\n0,ab,2,30,1,set,0\n0,c,1,5,1,get,0\n");
        assert_eq!(trace.footprint, (2 + 30 + 24) + (1 + 5 + 24));
    }
}
