//! The flags of a cluster.

use std::path::PathBuf;

use clap::Args;
use larder_protocol::ring::Hashing;

use crate::config::numbers::bytes;

/// What a node is started with to be in a cluster. Without `--cluster` it is in none, and nothing else here has a meaning.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster (see docs/cluster.md)")]
pub struct ClusterOptions {
    /// Be in the cluster of this name: any member answers for any key
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Where to listen for other members [default: the first address for clients, its port plus 10000]
    #[arg(long, value_name = "HOST:PORT", requires = "cluster", hide_short_help = true)]
    pub cluster_listen: Option<String>,
    /// Members to ask for the cluster at the start, as host:port of --cluster-listen; dns:NAME:PORT is every address of a name.
    /// Without any the node founds a cluster
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', requires = "cluster")]
    pub seeds: Vec<String>,
    /// File with the key that members prove themselves by, 32 bytes or more; needed off loopback
    #[arg(long, value_name = "FILE", requires = "cluster", hide_short_help = true)]
    pub cluster_key_file: Option<PathBuf>,
    /// Address by which clients and members reach this node [default: the first address for clients]
    #[arg(long, value_name = "HOST[:PORT]", requires = "cluster", hide_short_help = true)]
    pub advertise: Option<String>,
    /// Name of the host in lists for clients, where addresses change [default: the address]
    #[arg(long, value_name = "NAME", requires = "cluster", hide_short_help = true)]
    pub advertise_host: Option<String>,
    /// Name of this node among the members, kept over restarts [default: the address for clients]
    #[arg(long, value_name = "ID", requires = "cluster", hide_short_help = true)]
    pub node_id: Option<String>,
    /// How keys are spread over members; that of most clients saves them a hop: ketama-weighted, ketama, ketama-md5,
    /// rendezvous, twemproxy-md5, twemproxy-fnv1a_64, twemproxy-one_at_a_time, twemproxy-murmur, twemproxy-crc32a
    #[arg(long, value_name = "HASHING", default_value = "ketama-weighted", value_parser = parse_hashing, hide_default_value = true, hide_short_help = true)]
    pub cluster_hashing: HashingName,
    /// Reads of the datastore a second that the memory of one node is worth: where one more saves as many,
    /// `stats cluster` wants one more [default: only the processors count]
    #[arg(long, value_name = "READS", requires = "cluster", hide_short_help = true)]
    pub worth: Option<f64>,
    /// Bytes of items a second that this node pulls from others while it joins or another one leaves
    #[arg(long, value_name = "BYTES", default_value = "32m", value_parser = parse_bytes, hide_short_help = true)]
    pub move_rate: u64,
    /// Longest time, in seconds, that a node which leaves waits until its items are taken over
    #[arg(long, value_name = "SECONDS", default_value_t = 60, hide_short_help = true)]
    pub drain_limit: u64,
    /// Seconds for which a node that left still forwards, until clients know the new list
    #[arg(long, value_name = "SECONDS", default_value_t = 90, hide_short_help = true)]
    pub linger: u64,
    /// Forget a member that was silent for so many seconds: its keys go to others, and if it lives in truth, who reaches it
    /// sees old values [default: only an operator forgets members]
    #[arg(long, value_name = "SECONDS", requires = "cluster", hide_short_help = true, value_parser = clap::value_parser!(u64).range(5..))]
    pub eject_after: Option<u64>,
}

/// A hashing, and the name by which it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashingName {
    pub(crate) hashing: Hashing,
    name: String,
}

impl std::fmt::Display for HashingName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

fn parse_hashing(name: &str) -> Result<HashingName, String> {
    Ok(HashingName { hashing: name.parse()?, name: name.to_owned() })
}

fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    bytes(text, 1).filter(|&bytes| bytes >= 1024).ok_or("bytes as a whole number, or with a unit (32m): 1k at least")
}
