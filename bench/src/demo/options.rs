//! The command line of `larder-bench demo`.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use crate::report::parse_percent;

/// Options of `larder-bench demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Users in the datastore
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(super) users: u32,
    /// Concurrent request handlers
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) handlers: u32,
    /// Share of requests that change the datastore, in percent
    #[arg(long, default_value_t = 1.0, value_parser = percent)]
    pub(super) writes: f64,
    /// Exponent of the Zipf distribution of the users' popularity
    #[arg(long, default_value_t = 0.99)]
    pub(super) zipf: f64,
    /// Seconds for each of the three phases. The last takes twice as long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
    pub(super) seconds: u64,
    /// Show a cluster instead: load rises and a node is added, load falls and it is drained; then the same without
    /// a cluster. Exit status 1 where a client notices more than is promised
    #[arg(long)]
    pub(super) grow: bool,
    /// With --grow: reads a second while load is high
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(30..=1_000_000), requires = "grow")]
    pub(super) rate: u64,
    /// With --grow: memory of each node in MiB
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65_536), requires = "grow")]
    pub(super) memory: u32,
    /// With --grow: seconds until the client that learns late has the new list
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=80), requires = "grow")]
    pub(super) late: u64,
    /// With --grow: write a page with charts
    #[arg(long, value_name = "FILE", requires = "grow")]
    pub(super) html: Option<PathBuf>,
}

/// Parses a percentage of at most 100.
fn percent(text: &str) -> anyhow::Result<f64> {
    let percent = parse_percent(text)?;
    ensure!(percent <= 100.0, "a share is at most 100 %");
    Ok(percent)
}
