//! The command line of `larder`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use larder_client::Hashing;

use crate::access::AccessArgs;
use crate::format::parse_duration;

/// Read, write, list, dump and watch memcache servers: larder-node, memcached, or any with the meta commands.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    after_help = "\
Examples:
  export LARDER_SERVERS=cache1,cache2:11212,cache3
  larder ping                               are they there?
  larder stats --filter evict               a statistic of all of them, side by side
  larder set --ttl 5m greeting hello && larder get greeting
  larder which user:17 --look               which server owns a key, and which ones have it
  larder dump -o items.dump && larder -s new1,new2 restore items.dump
  larder --tls-ca ca.pem --user reader --password secret top

Exit status: 0; 1 where an item was not found or not stored; 2 for wrong usage or a failure.
larder help COMMAND has examples of each command."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which servers there are, and how they are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Servers")]
pub(crate) struct Reach {
    /// Servers: HOST, HOST:PORT or the path of a unix socket, separated by commas. A weight may follow, and a name of
    /// the ring, after blanks. Spell them as the application does: keys are spread by it
    #[arg(
        short,
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:11211",
        value_name = "SERVERS",
        env = "LARDER_SERVERS"
    )]
    pub(crate) servers: Vec<String>,
    /// Ask this member of a cluster for the servers (config get cluster)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) discover: Option<String>,
    /// How keys are spread: ketama-weighted, ketama, ketama-md5, rendezvous, or twemproxy- and md5, fnv1a_64,
    /// one_at_a_time, murmur or crc32a
    #[arg(long, value_name = "NAME", default_value = "ketama-weighted", env = "LARDER_HASHING")]
    pub(crate) hashing: Hashing,
    /// How long a server may take to answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print values. One value is printed as it is; of several, each is a line behind its key
    #[command(after_help = "\
Examples:
  larder get user:17 > value
  larder get --json user:17 user:18         with flags and CAS uniques")]
    Get {
        /// The keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Store a value
    #[command(after_help = "\
Examples:
  larder set --ttl 5m greeting hello
  larder set picture < picture.png
  larder set --mode add lock \"$$\"           exit status 1 if there is one")]
    Set(SetOptions),
    /// Delete items
    #[command(after_help = "Example:\n  larder delete user:17 user:18")]
    Delete {
        /// The keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Give an item a new time to live
    #[command(after_help = "Example:\n  larder touch session:9 30m")]
    Touch {
        /// The key
        key: String,
        /// The time to live (300, 5m, 1d); 0 is for ever
        #[arg(value_parser = parse_duration)]
        ttl: Duration,
    },
    /// Add to a number, and print the new one
    #[command(after_help = "Example:\n  larder incr --initial 1 --ttl 1h visits")]
    Incr(CountOptions),
    /// Subtract from a number, not below 0, and print the new one
    #[command(after_help = "Example:\n  larder decr stock 5")]
    Decr(CountOptions),
    /// Print the server that owns a key; no server is asked
    #[command(after_help = "\
Examples:
  larder -s cache1,cache2,cache3 which user:17
  larder which --look user:17               which servers have the key: others keep old copies after a change of the list
  larder --hashing ketama-md5 which user:17 the owner to a client with another hashing")]
    Which {
        /// The keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Ask every server for its metadata of the key, which does not count as a read
        #[arg(long)]
        look: bool,
    },
    /// List the keys that begin with a prefix. Servers walk all their items
    #[command(after_help = "\
Examples:
  larder scan session: --limit 10
  larder scan --long                        all keys, with size and time to live
  larder scan session: | xargs larder delete")]
    Scan(ScanOptions),
    /// Print the largest items, and what there is in all. Servers walk all their items
    #[command(after_help = "Example:\n  larder bigkeys -n 50 session:")]
    Bigkeys {
        /// Count keys with this prefix only
        #[arg(default_value = "")]
        prefix: String,
        /// How many to print
        #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
        count: usize,
    },
    /// Print the keys that are read most, from a sample of the reads (watch fetchers)
    #[command(after_help = "Example:\n  larder hotkeys --duration 30s -n 5")]
    Hotkeys {
        /// How long to listen
        #[arg(short, long, default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
        duration: Duration,
        /// How many to print
        #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
        count: usize,
    },
    /// Write all items to a file, with flags and times to live
    #[command(after_help = "\
The file holds meta commands, which restore, nc and any server read: for each item `ms KEY LENGTH TEXPIRY FFLAGS`, then \
the value; a key that is no text is in base64 (flag b). Expiry is a Unix time. `mn` ends the file. Items that change \
meanwhile are in it or not.

Examples:
  larder dump -o items.dump
  larder dump --prefix session: | zstd > sessions.dump.zst
  larder -s old1,old2 dump | larder -s new1,new2,new3 restore")]
    Dump(DumpOptions),
    /// Store the items of a dump, each at the server that owns it
    #[command(after_help = "\
Times to live go on from the dump, and what has expired since is left out. The files of memcached-tool dump are read \
too.

Examples:
  larder restore items.dump
  zstdcat sessions.dump.zst | larder restore --add")]
    Restore(RestoreOptions),
    /// Print what servers do, as it happens (memcached's watch)
    #[command(after_help = "\
Examples:
  larder watch                              reads (fetchers)
  larder watch mutations evictions --count 100
  larder --json watch connevents")]
    Watch {
        /// fetchers, mutations, deletions, evictions, connevents and others, if the server has them
        #[arg(default_value = "fetchers", value_name = "TOPIC")]
        topics: Vec<String>,
        /// Stop after so many events
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<u64>,
    },
    /// Print the statistics of all servers, side by side
    #[command(after_help = "\
Examples:
  larder stats --filter hits
  larder stats settings
  larder stats --json | jq '.[].curr_items'")]
    Stats {
        /// A group: items, slabs, settings, sizes, conns, cluster
        #[arg(default_value = "")]
        group: String,
        /// Print only those whose name holds this text
        #[arg(short, long, value_name = "TEXT", default_value = "")]
        filter: String,
    },
    /// Show rates of all servers again and again
    #[command(after_help = "\
Examples:
  larder top
  larder top --once --interval 10s          one table, over ten seconds, for a script
  larder top --json                         a line of JSON for each interval")]
    Top {
        /// Time between two looks
        #[arg(short, long, default_value = "1s", value_parser = parse_duration, value_name = "TIME")]
        interval: Duration,
        /// Stop after so many tables
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<u64>,
        /// Show one table
        #[arg(long, conflicts_with = "count")]
        once: bool,
    },
    /// Connect to every server, log in, and ask for its version. Exit status 2 if one does not answer
    #[command(after_help = "Example:\n  larder -s 127.0.0.1 --timeout 200ms ping        a health check")]
    Ping,
    /// Measure round trips to every server, one at a time
    #[command(after_help = "Example:\n  larder latency -n 10000")]
    Latency {
        /// Round trips to each server
        #[arg(short = 'n', long, default_value_t = 1000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
        requests: u64,
    },
}

/// Options of `set`.
#[derive(Debug, Args)]
pub(crate) struct SetOptions {
    /// The key
    pub(crate) key: String,
    /// The value [default: standard input]
    pub(crate) value: Option<OsString>,
    /// Time to live (300, 5m, 1d); 0 is for ever
    #[arg(short, long, default_value = "0", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) ttl: Duration,
    /// Flags of the item, which mean something to the client that wrote it
    #[arg(short, long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) flags: u32,
    /// Which item must be there
    #[arg(short, long, value_enum, default_value = "set")]
    pub(crate) mode: Mode,
}

/// Which item must be there for a store, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Any or none
    Set,
    /// None
    Add,
    /// One, which is replaced
    Replace,
    /// One, and the value goes behind its value
    Append,
    /// One, and the value goes before its value
    Prepend,
}

/// Options of `incr` and `decr`.
#[derive(Debug, Args)]
pub(crate) struct CountOptions {
    /// The key
    pub(crate) key: String,
    /// By how much
    #[arg(default_value_t = 1)]
    pub(crate) delta: u64,
    /// Store this number if there is none
    #[arg(long, value_name = "NUMBER")]
    pub(crate) initial: Option<u64>,
    /// Time to live of a number stored by --initial; 0 is for ever
    #[arg(short, long, default_value = "0", value_parser = parse_duration, value_name = "TIME", requires = "initial")]
    pub(crate) ttl: Duration,
}

/// Options of `scan`.
#[derive(Debug, Args)]
pub(crate) struct ScanOptions {
    /// The first bytes of the keys
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    /// Print server, size, time to live and seconds since the last read, too
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Stop after so many keys
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) limit: Option<u64>,
}

/// Options of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpOptions {
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Only keys that begin with this
    #[arg(short, long, default_value = "")]
    pub(crate) prefix: String,
    /// Only keys that their server owns: old copies, left by another list of servers, stay out
    #[arg(long)]
    pub(crate) owned: bool,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreOptions {
    /// The file to read; - is standard input
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// Keep items that are there
    #[arg(long)]
    pub(crate) add: bool,
}
