//! `larder-bench simulate`: the engine's hit ratio on a trace, by memory size and eviction policy, beside exact LRU.
//!
//! Everything runs in this process, without a server. A get that misses is followed by a set, as readers of a cache do.
//! Time is that of the trace.

mod cache;
mod engine;
mod lru;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use larder_node::store::{Config, Eviction, Store, Time};

use crate::interrupt::Interrupt;
use crate::report::{self, Axis, Chart, Line, Scale};
use crate::trace::{self, Command};
use cache::{Cache, ITEM_OVERHEAD};
use engine::Engine;
use lru::ExactLru;

/// The start of the trace, in seconds since 1970.
const START: u32 = 1_700_000_000;

/// Options of `larder-bench simulate`.
#[derive(Debug, Args)]
pub struct SimulateOptions {
    /// A trace (generate-trace has the format); decompressed if the name ends in .zst. - is standard input
    trace: PathBuf,
    /// Memory sizes, in percent of the footprint: all keys of the trace at their largest size, plus 24 bytes each
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 3.0, 10.0, 30.0], value_parser = report::parse_percent)]
    sizes: Vec<f64>,
    /// Eviction policies
    #[arg(long, value_delimiter = ',', default_values_t = [Eviction::Lru, Eviction::S3Fifo, Eviction::Sieve])]
    policies: Vec<Eviction>,
    /// Write a plot as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
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
    let trace = Trace::read(&options.trace)?;
    ensure!(!trace.requests.is_empty(), "{} has no requests", options.trace.display());
    println!(
        "{} requests, {} keys, footprint {} bytes\n",
        report::count(trace.requests.len() as u64),
        report::count(trace.keys.len() as u64),
        report::count(trace.footprint)
    );
    let names: Vec<String> = ["exact lru".to_owned()]
        .into_iter()
        .chain(options.policies.iter().map(|policy| format!("engine {policy}")))
        .collect();
    let mut lines: Vec<Line> = names.iter().map(|name| Line { name: name.clone(), ..Line::default() }).collect();
    let mut rows = vec![["memory", "bytes"].map(str::to_owned).into_iter().chain(names).collect::<Vec<_>>()];
    'sizes: for &size in &options.sizes {
        let bytes = (trace.footprint as f64 * size / 100.0) as usize;
        let mut row = vec![format!("{size} %"), report::count(bytes as u64)];
        for (line, policy) in lines.iter_mut().zip([None].into_iter().chain(options.policies.iter().map(Some))) {
            match trace.hit_ratio(bytes, policy.copied(), &interrupt) {
                // A pass that was cut short has no ratio.
                _ if interrupt.is_set() => {
                    rows.push(row);
                    break 'sizes;
                }
                Ok(ratio) => {
                    line.points.push((size, 100.0 * ratio));
                    row.push(format!("{:.2} %", 100.0 * ratio));
                }
                // The engine refuses very small sizes: its column has a gap there.
                Err(error) => {
                    tracing::warn!(%error, bytes, "not simulated");
                    row.push("-".to_owned());
                }
            }
        }
        rows.push(row);
    }
    report::print(&report::table(&rows))?;
    if interrupt.is_set() {
        report::print("\nThe simulation was cut short: further sizes and policies are missing.\n")?;
    }
    if let Some(path) = &options.plot {
        report::write(path, &plot(lines))?;
    }
    Ok(ExitCode::from(interrupt.exit_status().unwrap_or(0)))
}

/// Plots the hit ratio over the memory size, with a line for each policy.
fn plot(mut lines: Vec<Line>) -> String {
    lines.iter_mut().for_each(|line| line.dots.clone_from(&line.points));
    let show = |percent| format!("{} %", report::short(percent));
    let x = Axis { label: "memory, percent of the footprint", unit: "", scale: Scale::Log, show };
    let y = Axis { label: "hit ratio", unit: "", scale: Scale::Linear, show };
    Chart { title: "Hit ratio by memory", x, y, lines, level: None }.to_svg()
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

    /// Returns the share of reads that hit with `bytes` of memory: of the engine under `policy`, or of exact LRU.
    fn hit_ratio(&self, bytes: usize, policy: Option<Eviction>, interrupt: &Interrupt) -> Result<f64> {
        match policy {
            None => Ok(self.run(&mut ExactLru::new(bytes as u64, &self.keys), interrupt)),
            Some(eviction) => {
                let config = Config {
                    memory_limit: bytes,
                    item_size_max: (1 << 20).max(self.largest),
                    eviction,
                    now: Time(START),
                };
                let store = Store::new(&config)?;
                Ok(self.run(&mut Engine::new(store, &self.keys, self.largest, START), interrupt))
            }
        }
    }

    /// Runs the trace on `cache`, until `interrupt` is set, and returns the share of reads that hit.
    fn run(&self, cache: &mut impl Cache, interrupt: &Interrupt) -> f64 {
        let (mut reads, mut hits) = (0u64, 0u64);
        for &Request { time, key, value_size, ttl, action } in self.requests.iter().take_while(|_| !interrupt.is_set())
        {
            match action {
                Action::Read => {
                    reads += 1;
                    if cache.read(key, time) {
                        hits += 1;
                    } else {
                        cache.write(key, value_size, ttl, time);
                    }
                }
                Action::Write => cache.write(key, value_size, ttl, time),
                Action::Delete => cache.delete(key, time),
            }
        }
        if reads == 0 { 0.0 } else { hits as f64 / reads as f64 }
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
        for policy in [None, Some(Eviction::Lru)] {
            assert_eq!(trace.hit_ratio(1 << 20, policy, &Interrupt::default()).unwrap(), 0.5);
        }
    }

    #[test]
    fn a_deleted_key_is_missed() {
        let trace = trace("0,a,1,10,1,set,0\n0,a,1,10,1,get,0\n0,a,1,10,1,delete,0\n0,a,1,10,1,get,0\n");
        for policy in [None, Some(Eviction::Lru)] {
            assert_eq!(trace.hit_ratio(1 << 20, policy, &Interrupt::default()).unwrap(), 0.5);
        }
    }

    #[test]
    fn the_footprint_takes_each_key_once_at_its_largest() {
        let trace = trace("0,ab,2,10,1,set,0\n0,ab,2,30,1,set,0\n0,c,1,5,1,get,0\n");
        assert_eq!(trace.footprint, (2 + 30 + 24) + (1 + 5 + 24));
    }
}
