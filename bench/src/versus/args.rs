//! The command line of `larder-bench versus`.

use std::path::PathBuf;
use std::time::Duration;

use crate::report::parse_duration;

/// Options of `larder-bench versus`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Servers are started with memcached's flags (-l -p -U -c -m -t), one at a time, node and peer in turns. \
CPU us/op is the server's own processor time, user and system; operations are keys where a request names many.

Example:
  larder-bench versus --peer /usr/bin/memcached --loads p16,mget --pairs 5 --seconds 2
  larder-bench versus --cluster 3 --loads p16,mget,set16,far")]
pub struct VersusArgs {
    /// The server to compare with
    #[arg(long, default_value = "memcached", value_name = "PROGRAM")]
    pub peer: PathBuf,
    /// Compare so many nodes in a cluster with as many in none, instead of with a peer: what a settled cluster costs,
    /// and, with the load `far`, what a get costs that goes on to the node that owns its key
    #[arg(long, value_name = "NODES", conflicts_with_all = ["peer", "checks"])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16))]
    pub cluster: Option<u16>,
    /// The node [default: larder-node beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub node: Option<PathBuf>,
    /// Which loads, by name [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub loads: Vec<String>,
    /// Also check the memory of idle connections, fairness between connections, and a second thread
    #[arg(long)]
    pub checks: bool,
    /// Pairs of runs for each load
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub pairs: usize,
    /// Length of a run
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "TIME")]
    pub seconds: Duration,
    /// Load before each run, which is not counted
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
    /// Write the figures to a JSON file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the comparison as a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
