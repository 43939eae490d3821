//! `larder-bench versus`: this node and a peer by turns under the same loads.
//!
//! What counts is the server's own CPU time for an operation: on a machine that runs other things too it is steadier
//! than throughput, and ratios within a pair of neighbouring runs are steadier still.

mod checks;
mod loads;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};

pub use checks::Checks;
pub use loads::*;
pub use server::*;

use crate::load::{LoadArgs, Session, Stop};
use crate::report::{Machine, count, duration, parse_duration, table, write};

/// Options of `larder-bench versus`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Servers are started with memcached's flags (-l -p -U -c -m -t), one at a time, node and peer in turns. \
CPU us/op is the server's own processor time, user and system; operations are keys where a request names many.

Example:
  larder-bench versus --peer /usr/bin/memcached --loads p16,mget --pairs 5 --seconds 2")]
pub struct VersusArgs {
    /// The server to compare with
    #[arg(long, default_value = "memcached", value_name = "PROGRAM")]
    pub peer: PathBuf,
    /// The node [default: larder-node beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub node: Option<PathBuf>,
    /// Which loads, by name [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub loads: Vec<String>,
    /// Check memory of idle connections, fairness between connections, and a second thread too
    #[arg(long)]
    pub checks: bool,
    /// Pairs of runs for each load
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub pairs: usize,
    /// Length of a run
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "TIME")]
    pub seconds: Duration,
    /// Load before each run that is not counted
    #[arg(long, default_value = "300ms", value_parser = parse_duration, value_name = "TIME")]
    pub warmup: Duration,
    /// Worker threads of the servers
    #[arg(short, long, default_value_t = 1, value_name = "COUNT")]
    pub threads: usize,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub load_threads: usize,
    /// Memory of the servers for items, in MiB
    #[arg(short, long, default_value_t = 512, value_name = "MIB")]
    pub memory: u64,
    /// CPUs of the servers [default: as many as they have threads, from 0]
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pub server_cpus: Vec<usize>,
    /// CPUs of the load generator [default: those after the servers']
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pub load_cpus: Vec<usize>,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What a comparison came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// Where it ran.
    pub machine: Machine,
    /// The node, in its own words.
    pub node: String,
    /// The peer, in its own words.
    pub peer: String,
    /// The command line.
    pub command: Vec<String>,
    /// By load.
    pub loads: Vec<LoadComparison>,
    /// The node and the peer in the checks, where they were asked for.
    pub checks: Option<[Checks; 2]>,
}

/// Both servers under one load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadComparison {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Options of `larder-bench load`.
    pub options: String,
    /// Runs of the node.
    pub node: Vec<Run>,
    /// Runs of the peer, each next to the node's of the same place.
    pub peer: Vec<Run>,
}

/// One run of one server.
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
    /// Keys found of those read, 0 to 1.
    pub hit_ratio: Option<f64>,
}

/// A median and how far the values lie apart.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Median.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of some values; zeros of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let (middle, last) = (values.len() / 2, values.len().saturating_sub(1));
        let median =
            if values.len().is_multiple_of(2) { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 } else { at(middle) };
        Spread { min: at(0), median, max: at(last) }
    }
}

impl LoadComparison {
    /// The node's CPU time over the peer's, pair by pair.
    pub fn ratio(&self) -> Spread {
        Spread::of(self.node.iter().zip(&self.peer).map(|(node, peer)| node.cpu_us / peer.cpu_us))
    }

    fn row(&self) -> Vec<String> {
        let median = |runs: &[Run], field: fn(&Run) -> f64| Spread::of(runs.iter().map(field)).median;
        let both = |field: fn(&Run) -> f64, show: fn(f64) -> String| {
            [show(median(&self.node, field)), show(median(&self.peer, field))]
        };
        let ratio = self.ratio();
        let mut cells = vec![self.name.clone()];
        cells.extend(both(|run| run.cpu_us, |us| format!("{us:.3}")));
        cells.push(format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max));
        cells.extend(both(|run| run.per_second, |number| count(number as u64)));
        cells.extend(both(|run| run.p50, duration));
        cells.extend(both(|run| run.p99, duration));
        cells.extend(both(|run| run.p999, duration));
        let errors: u64 = self.node.iter().chain(&self.peer).map(|run| run.errors).sum();
        cells.push(count(errors));
        cells
    }
}

impl Comparison {
    /// Of [`Comparison::rows`].
    pub(crate) const HEADINGS: [&str; 13] = [
        "load",
        "us/op",
        "peer",
        "ratio (spread)",
        "op/s",
        "peer",
        "p50",
        "peer",
        "p99",
        "peer",
        "p99.9",
        "peer",
        "errors",
    ];

    /// A row for each load, under [`Comparison::HEADINGS`].
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        self.loads.iter().map(LoadComparison::row).collect()
    }

    /// What was checked, and what the node and the peer came to. Empty without checks.
    pub(crate) fn check_rows(&self) -> Vec<Vec<String>> {
        let Some([node, peer]) = &self.checks else { return Vec::new() };
        let row = |name: &str, show: fn(&Checks) -> String| vec![name.to_owned(), show(node), show(peer)];
        vec![
            row("resident memory of an idle connection, of 10,000", |checks| {
                format!("{:.0} B", checks.bytes_per_idle_connection)
            }),
            row("p99 of single gets, 2,000 a second", |checks| duration(checks.single_p99_alone)),
            row("the same beside a connection with 4,000 gets at a time", |checks| {
                duration(checks.single_p99_beside_pipeline)
            }),
            row("operations a second of two threads over one's, pipeline 16", |checks| {
                let [one, two] = checks.per_second_by_threads;
                format!("{:.2}", two / one)
            }),
            row("CPU time for an operation of two threads over one's", |checks| {
                let [one, two] = checks.cpu_us_by_threads;
                format!("{:.2}", two / one)
            }),
        ]
    }

    /// The comparison as a table.
    pub fn to_text(&self) -> String {
        let with_headings = |headings: &[&str], rows: Vec<Vec<String>>| {
            let headings = headings.iter().map(|&heading| heading.to_owned()).collect();
            table(&[vec![headings], rows].concat())
        };
        let loads = self.loads.iter().map(|load| format!("  {:<7} {}\n", load.name, load.about));
        let mut out = format!(
            "{}\n{}\n{} against {}; server CPU microseconds an operation, medians of {} pairs.\n{}, {}\n",
            with_headings(&Self::HEADINGS, self.rows()),
            loads.collect::<String>(),
            self.node,
            self.peer,
            self.loads.first().map_or(0, |load| load.node.len()),
            self.machine.processor,
            self.machine.kernel,
        );
        if self.checks.is_some() {
            out.push_str(&format!("\n{}", with_headings(&["", "node", "peer"], self.check_rows())));
        }
        out
    }
}

/// Runs `larder-bench versus`.
pub fn run(args: &VersusArgs) -> anyhow::Result<ExitCode> {
    let comparison = compare(args)?;
    print!("{}", comparison.to_text());
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&comparison)?)?;
    }
    if let Some(path) = &args.html {
        write(path, &comparison.to_html())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs every load on both servers by turns.
pub fn compare(args: &VersusArgs) -> anyhow::Result<Comparison> {
    ensure!(args.pairs > 0, "--pairs: at least one is needed");
    let cpus = std::thread::available_parallelism()?.get();
    let server_cpus =
        if args.server_cpus.is_empty() { (0..args.threads.min(cpus)).collect() } else { args.server_cpus.clone() };
    let load_cpus: Vec<usize> = match &args.load_cpus[..] {
        [] => (0..cpus).filter(|cpu| !server_cpus.contains(cpu)).collect(),
        given => given.to_vec(),
    };
    let (node, words) = match &args.node {
        Some(path) => (path.clone(), Vec::new()),
        None => node_beside()?,
    };
    let program = |path, words| Program {
        path,
        words,
        memory_mebibytes: args.memory,
        threads: args.threads,
        cpus: server_cpus.clone(),
    };
    let (node, peer) = (program(node, words), program(args.peer.clone(), peer_words()));
    let mut comparison = Comparison {
        machine: Machine::this(),
        node: node.version(),
        peer: peer.version(),
        command: std::iter::once("larder-bench".to_owned()).chain(std::env::args().skip(1)).collect(),
        loads: Vec::new(),
        checks: None,
    };
    if args.checks {
        comparison.checks = Some([checks::check(&node, args, &load_cpus)?, checks::check(&peer, args, &load_cpus)?]);
    }
    for load in chosen(&args.loads)? {
        let mut result = LoadComparison {
            name: load.name.to_owned(),
            about: load.about.to_owned(),
            options: load.options.to_owned(),
            node: Vec::new(),
            peer: Vec::new(),
        };
        for pair in 1..=args.pairs {
            result.node.push(measure(&node, &load, args, &load_cpus)?);
            result.peer.push(measure(&peer, &load, args, &load_cpus)?);
            let (ours, theirs) = (result.node[pair - 1].cpu_us, result.peer[pair - 1].cpu_us);
            eprintln!("{} {pair}/{}: {ours:.3} us/op, peer {theirs:.3}", load.name, args.pairs);
        }
        comparison.loads.push(result);
    }
    Ok(comparison)
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Load>> {
    if names.is_empty() {
        return Ok(LOADS.to_vec());
    }
    let find = |name: &String| {
        let Some(load) = LOADS.iter().find(|load| load.name == name) else {
            let known: Vec<_> = LOADS.iter().map(|load| load.name).collect();
            bail!("--loads: there is no `{name}`; there are {}", known.join(", "));
        };
        Ok(*load)
    };
    names.iter().map(find).collect()
}

/// One run of one server.
fn measure(program: &Program, load: &Load, args: &VersusArgs, load_cpus: &[usize]) -> anyhow::Result<Run> {
    let server = program.start()?;
    let address = format!("127.0.0.1:{}", server.port);
    let threads = args.load_threads.to_string();
    let words = ["--no-progress", "--servers", &address, "--threads", &threads];
    let mut options = LoadArgs::from_words(words.into_iter().chain(load.options.split(' ')))?;
    options.cpus = load_cpus.to_vec();
    let session = Session::open(&options)?;
    if load.populate {
        session.populate()?;
    }
    let schedule = options.schedule();
    session.run(Duration::ZERO, Stop::After(args.warmup), schedule)?;
    let before = server.cpu_seconds()?;
    let report = session.run(Duration::ZERO, Stop::After(args.seconds), schedule)?;
    let cpu = server.cpu_seconds()? - before;
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]).median, 2.5);
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([]).median, 0.0);
    }

    #[test]
    fn every_load_is_a_command_line_of_load() {
        for load in LOADS {
            LoadArgs::from_words(load.options.split(' ')).unwrap_or_else(|error| panic!("{}: {error}", load.name));
        }
        assert!(chosen(&["p17".to_owned()]).is_err());
    }
}
