//! One run of one server under one load.

use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::args::VersusArgs;
use super::loads::{FAR, Load};
use super::program::Program;
use crate::cluster::{figures, sum_over_members};
use crate::interrupt::Interrupt;
use crate::load::{LoadArgs, Session, Stop};
use crate::process::ServerProcess;

/// The figures of one run of one server.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    /// Processor microseconds of the server for an operation.
    pub cpu_us: f64,
    /// Operations a second.
    pub per_second: f64,
    /// Latency in microseconds: median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Requests that failed.
    pub errors: u64,
    /// Share of the read keys that were found, 0 to 1.
    pub hit_ratio: Option<f64>,
    /// Share of the commands that nodes of a cluster sent to each other, 0 to 1.
    #[serde(default)]
    pub forwarded: Option<f64>,
}

/// What all runs of a comparison have in common.
pub(super) struct Setting<'a> {
    pub(super) args: &'a VersusArgs,
    /// CPUs of the load generator.
    pub(super) load_cpus: &'a [usize],
    /// Ends the comparison early.
    pub(super) interrupt: &'a Interrupt,
}

/// Starts the server, warms it up and measures one run.
///
/// # Errors
///
/// The server does not start, serves no request under this load, or the run was interrupted.
pub(super) fn measure(program: &Program, load: &Load, setting: &Setting<'_>) -> anyhow::Result<Run> {
    let Setting { args, load_cpus, interrupt } = setting;
    let servers = program.start_all()?;
    let all: Vec<String> = servers.iter().map(ServerProcess::address).collect();
    let addresses = if load.name == FAR { all[0].clone() } else { all.join(",") };
    let cpu_seconds = || servers.iter().map(ServerProcess::cpu_seconds).sum::<anyhow::Result<f64>>();
    let forwarded = || {
        let each = all.iter().map(|address| Ok(sum_over_members(&figures(address)?, "forwarded_in")));
        each.sum::<anyhow::Result<u64>>()
    };
    let threads = args.load_threads.to_string();
    let words = ["--no-progress", "--servers", &addresses, "--threads", &threads];
    let mut options = LoadArgs::from_words(words.into_iter().chain(load.options.split(' ')))?;
    options.cpus = load_cpus.to_vec();
    let session = Session::open_until(&options, (*interrupt).clone())?;
    if load.populate {
        session.populate()?;
    }
    let schedule = options.schedule();
    session.run(Duration::ZERO, Stop::After(args.warmup), schedule)?;
    let forwarded_before = if program.clustered { forwarded()? } else { 0 };
    let before = cpu_seconds()?;
    let report = session.run(Duration::ZERO, Stop::After(args.seconds), schedule)?;
    let cpu = cpu_seconds()? - before;
    ensure!(!report.interrupted, "interrupted");
    let total = &report.total;
    ensure!(total.keys > 0, "{} answered nothing under load {}", program.path.display(), load.name);
    Ok(Run {
        cpu_us: cpu * 1e6 / total.keys as f64,
        per_second: total.keys as f64 / report.seconds,
        p50: total.latency.p50,
        p99: total.latency.p99,
        p999: total.latency.p999,
        errors: total.errors,
        hit_ratio: report.hit_ratio(),
        forwarded: match program.clustered {
            true => Some((forwarded()? - forwarded_before) as f64 / total.keys as f64),
            false => None,
        },
    })
}
