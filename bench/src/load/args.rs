//! The command line of `larder-bench load`.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};
use clap::Parser;
use larder_cli::access::AccessArgs;
use larder_client::{Hashing, Ring, Server};

use super::plan::{Plan, Schedule, Stop};
use super::transport::{Address, Login, Opening, TransportKind};
use super::verify::Verifier;
use super::wire::Protocol;
use crate::interrupt::Interrupt;
use crate::report::{ReportArgs, parse_duration};
use crate::workload::{Filler, HEADER_LEN, Operation, WorkloadArgs};

/// Options of `larder-bench load`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  larder-bench load --servers 127.0.0.1:11211 --populate
      50 connections, reads and writes 9:1, as fast as the server answers (a closed loop)
  larder-bench load --servers cache1,cache2,cache3 --rate 50000 --preset etc --populate --duration 1m
      an open loop: 50,000 requests a second are due whatever the servers do, and latency counts from when a request
      was due, so that a stall shows in full
  larder-bench load --find-max --p99 1ms --duration 3s --populate
      the highest rate at which 99 % of the requests are answered within a millisecond
  larder-bench load --servers 127.0.0.1 --pipeline 16 --threads 2 --json run.json --p99 1ms
      for CI: exit status 1 where p99 is above one millisecond")]
pub struct LoadArgs {
    /// Servers: HOST, HOST:PORT or the path of a unix socket. Ketama spreads keys over several
    #[arg(short, long, value_delimiter = ',', default_value = "127.0.0.1:11211", value_name = "ADDRESS")]
    pub servers: Vec<Address>,
    /// Protocol to speak
    #[arg(long, value_enum, default_value = "text")]
    pub protocol: Protocol,
    /// Read over UDP: text, one get under way on each connection; populate over TCP first
    #[arg(long)]
    pub udp: bool,
    /// Send batches as quiet requests closed by a no-op (meta and binary)
    #[arg(long)]
    pub quiet: bool,
    /// Connections to each server
    #[arg(short, long, default_value_t = 50, value_name = "COUNT")]
    pub connections: usize,
    /// Requests under way on a connection. A closed loop sends them together and waits for all answers
    #[arg(short = 'P', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "COUNT")]
    pub pipeline: u32,
    /// Threads of this load generator
    #[arg(short, long, default_value_t = 1, value_name = "COUNT")]
    pub threads: usize,
    /// CPUs to pin the threads to
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pub cpus: Vec<usize>,
    /// Open loop: requests a second over all connections, due on a schedule. Without this option, a closed loop
    #[arg(short, long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Random gaps between the requests of an open loop (a Poisson process) instead of even ones
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// Search for the highest rate at which --p99 holds, in steps of --duration. --rate is the first rate tried
    #[arg(long, requires = "p99", conflicts_with = "requests")]
    pub find_max: bool,
    /// How long to measure: 10s, 500ms, 2m
    #[arg(short, long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub duration: Duration,
    /// Stop after this many requests instead
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with = "duration")]
    pub requests: Option<u64>,
    /// Load before the measured part, which is not counted
    #[arg(short, long, default_value = "0s", value_parser = parse_duration, value_name = "TIME")]
    pub warmup: Duration,
    /// Set every key once before anything else
    #[arg(long)]
    pub populate: bool,
    /// A request that has no answer after this time has failed
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    pub timeout: Duration,
    /// Access to protected servers
    #[command(flatten)]
    pub access: AccessArgs,
    /// Which requests are sent
    #[command(flatten)]
    pub workload: WorkloadArgs,
    /// Write key and version into every value, and report wrong, stale and lost values. Exit status 1 if one is wrong
    /// or stale. Populates first; values have at least 16 bytes
    #[arg(long, help_heading = "Checks")]
    pub verify: bool,
    /// Where the report goes, and its bounds
    #[command(flatten)]
    pub output: ReportArgs,
}

/// The rates of an open loop, in requests a second: the gap between two requests of a worker must fit a clock of
/// nanoseconds.
const RATE_MIN: f64 = 0.000_001;
const RATE_MAX: f64 = 100_000_000.0;
/// The most requests under way: each has a slot in memory.
const UNDER_WAY_MAX: u64 = 10_000_000;

/// Checks that no server stands twice in the list: the second would own no key.
///
/// # Errors
///
/// A server stands twice; the error names it.
pub(crate) fn no_server_twice(servers: &[Address]) -> anyhow::Result<()> {
    let twice = servers.iter().enumerate().find(|(index, server)| servers[..*index].contains(server));
    twice.map_or(Ok(()), |(_, server)| bail!("--servers: {server} stands there twice"))
}

/// Checks that the kernel's CPU sets can hold these CPUs.
///
/// # Errors
///
/// A CPU's number is too high; the error names `option`.
pub(crate) fn cpus_exist(option: &str, cpus: &[usize]) -> anyhow::Result<()> {
    let max = rustix::thread::CpuSet::MAX_CPU;
    cpus.iter().try_for_each(|cpu| {
        ensure!(*cpu < max, "{option}: there is no CPU {cpu}");
        Ok(())
    })
}

/// The options of `load` as a command line of their own.
#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    args: LoadArgs,
}

impl LoadArgs {
    /// Parses the options in `words`, which do not include the program's name.
    ///
    /// # Errors
    ///
    /// An option or a value is not valid; the error's text is what the command line prints.
    pub fn from_words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<LoadArgs, clap::Error> {
        CommandLine::try_parse_from(std::iter::once("load").chain(words)).map(|line| line.args)
    }

    /// Returns when requests are due.
    pub fn schedule(&self) -> Schedule {
        match self.rate {
            None => Schedule::Closed,
            Some(per_second) => Schedule::Open { per_second, poisson: self.poisson },
        }
    }

    /// Returns when the run stops.
    pub fn stop(&self) -> Stop {
        self.requests.map_or(Stop::After(self.duration), Stop::Requests)
    }

    /// Whether every key is set before the load.
    pub fn populates(&self) -> bool {
        self.populate || self.verify
    }

    /// Checks the options against each other and returns what the workers share.
    pub(super) fn plan(&self, interrupt: Interrupt) -> anyhow::Result<Plan> {
        let mut workload = self.workload.resolve()?;
        no_server_twice(&self.servers)?;
        ensure!(!self.duration.is_zero(), "--duration: must be above 0");
        ensure!(self.connections > 0, "--connections: at least one is needed");
        ensure!(!self.timeout.is_zero(), "--timeout: must be above 0");
        ensure!(self.requests != Some(0), "--requests: at least one is needed");
        let rates = RATE_MIN..=RATE_MAX;
        ensure!(self.rate.is_none_or(|rate| rates.contains(&rate)), "--rate: from {RATE_MIN} to {RATE_MAX} a second");
        let under_way = (self.connections as u64).saturating_mul(self.pipeline.into());
        ensure!(
            under_way <= UNDER_WAY_MAX,
            "--connections times --pipeline: at most {UNDER_WAY_MAX} requests can be under way"
        );
        cpus_exist("--cpus", &self.cpus)?;
        if self.quiet {
            ensure!(self.protocol != Protocol::Text, "--quiet: text has no quiet reads; use --protocol meta or binary");
            ensure!(self.rate.is_none() && !self.find_max, "--quiet: an open loop sends single requests");
            ensure!(!self.verify, "--quiet: answers that are held back cannot be verified");
            ensure!(!workload.fill, "--quiet: misses that are held back cannot be filled");
        }
        if self.verify {
            workload.value_min = HEADER_LEN;
        }
        if self.udp {
            let reads = Operation::ALL.iter().all(|&each| each == Operation::Get || !workload.mix.has(each));
            let access = &self.access;
            ensure!(!access.speaks_tls() && access.user.is_none(), "--udp: servers have neither TLS nor login there");
            ensure!(reads && !workload.fill, "--udp: servers take reads alone (--mix get, no --fill)");
            ensure!(self.protocol == Protocol::Text, "--udp: servers take text alone");
            ensure!(self.pipeline == 1, "--udp: one request is on its way a connection; use more --connections");
            ensure!(!self.populates(), "--udp: populate over TCP first: the same command without --udp, with -n 1");
        }
        let kind = match self.access.tls()?.map(|tls| tls.config()) {
            _ if self.udp => TransportKind::Udp,
            Some(config) => TransportKind::Tls(config, self.access.tls_name.clone()),
            None => TransportKind::Tcp,
        };
        let sasl = self.access.sasl;
        let login = self.access.login()?.map(|(user, password)| Login::new(self.protocol, sasl, user, password));
        let spelled = self.servers.iter().map(|address| match address {
            Address::Tcp { host, port } => Server { host: host.clone(), port: *port, weight: 1, name: None },
            Address::Unix(path) => Server { host: path.display().to_string(), port: 0, weight: 1, name: None },
        });
        let servers: Vec<Server> = spelled.collect();
        // A later run on the same server begins above the versions of an earlier run.
        let first_version = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()) << 24;
        Ok(Plan {
            ring: Ring::new(&servers, Hashing::KetamaWeighted),
            servers: self.servers.clone(),
            opening: Opening { kind, login },
            protocol: self.protocol,
            quiet: self.quiet,
            pipeline: self.pipeline,
            connections: self.connections,
            threads: self.threads.clamp(1, self.connections),
            cpus: self.cpus.clone(),
            timeout: self.timeout,
            filler: Filler::new(workload.value_size.largest()),
            verifier: self.verify.then(|| Verifier::new(workload.keys.count, first_version)).transpose()?,
            workload,
            interrupt,
            hopeless: AtomicBool::new(false),
            shows_progress: !self.output.no_progress,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const OPTIONS: [&str; 22] = [
        "--servers",
        "--protocol",
        "--connections",
        "--pipeline",
        "--threads",
        "--cpus",
        "--rate",
        "--duration",
        "--requests",
        "--warmup",
        "--timeout",
        "--mix",
        "--keys",
        "--key-distribution",
        "--key-size",
        "--value-size",
        "--ttl",
        "--multiget",
        "--p99",
        "--min-rate",
        "--min-hit-ratio",
        "--max-errors",
    ];

    proptest! {
        #[test]
        fn any_value_of_an_option_is_parsed_or_refused(
            option in select(&OPTIONS[..]),
            text in "\\PC{0,12}|[0-9a-z.:,%µ-]{0,12}",
        ) {
            let _ = LoadArgs::from_words([option, &text]);
        }
    }

    #[test]
    fn the_options_of_the_property_exist() {
        for option in OPTIONS {
            let error = LoadArgs::from_words([option]).expect_err("a value is missing");
            assert_ne!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{option}");
        }
    }
}
