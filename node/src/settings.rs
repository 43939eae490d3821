//! The command line: memcached's flags and their long names.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::options::{self, ExtendedOption};
use crate::store::Eviction;

/// How much is logged.
pub type Verbosity = u8;

/// What a node is started with.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "larder-node",
    version,
    disable_version_flag = true,
    about = "A memcache server: memcached's protocols and flags, more items in the same memory.",
    after_help = "Without -l the node listens on 127.0.0.1 only: a cache that the whole network can reach is a choice \
                  to make (-l 0.0.0.0).\nStop it with SIGTERM or SIGINT; it answers what it has read, then ends."
)]
pub struct Settings {
    /// TCP port; 0 takes a free one, and the log tells which
    #[arg(short = 'p', long, default_value_t = 11211, env = "LARDER_PORT")]
    pub port: u16,
    /// UDP port; 0 is off
    #[arg(short = 'U', long = "udp-port", default_value_t = 0, value_name = "PORT")]
    pub udp_port: u16,
    /// Unix socket to listen on instead of TCP
    #[arg(short = 's', long = "unix-socket", value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Address to listen on, with or without a port; several with commas or by repeating -l
    #[arg(short = 'l', long, value_name = "ADDRESS", value_delimiter = ',', env = "LARDER_LISTEN")]
    pub listen: Vec<String>,
    /// Worker threads
    #[arg(short = 't', long, default_value_t = default_threads(), value_parser = clap::value_parser!(u16).range(1..=256), value_name = "COUNT", env = "LARDER_THREADS")]
    pub threads: u16,
    /// Memory for items, in MiB: items, their index and their slack together
    #[arg(short = 'm', long = "memory-limit", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=(1 << 24)), value_name = "MIB", env = "LARDER_MEMORY_LIMIT")]
    pub memory_mebibytes: u64,
    /// Connections at a time; more are refused
    #[arg(short = 'c', long = "conn-limit", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT", env = "LARDER_CONN_LIMIT")]
    pub max_connections: u32,
    /// What leaves first when memory is full: lru, s3fifo, sieve, or never to refuse writes instead
    #[arg(long, default_value_t, value_name = "POLICY")]
    pub eviction: Eviction,
    /// Largest item, in bytes or with a unit: 1k to 1024m
    #[arg(short = 'I', long = "max-item-size", default_value = "1m", value_parser = parse_item_size, value_name = "SIZE")]
    pub item_size_max: usize,
    /// Log more; twice logs every connection
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count)]
    pub verbosity: Verbosity,
    /// Access to the unix socket, in octal
    #[arg(short = 'a', long = "unix-mask", default_value = "700", value_parser = parse_octal, value_name = "MASK")]
    pub socket_mode: u32,
    /// Serve the shutdown command
    #[arg(short = 'A', long = "enable-shutdown")]
    pub shutdown: bool,
    /// Refuse the flush_all command
    #[arg(short = 'F', long = "disable-flush-all")]
    pub no_flush_all: bool,
    /// Refuse commands that list keys
    #[arg(short = 'X', long = "disable-dumping")]
    pub no_dumping: bool,
    /// Refuse the watch command
    #[arg(short = 'W', long = "disable-watch")]
    pub no_watch: bool,
    /// Requests of one connection served before the others get their turn
    #[arg(short = 'R', long = "max-reqs-per-event", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub requests_per_turn: u32,
    /// Connections that may wait to be accepted
    #[arg(short = 'b', long = "listen-backlog", default_value_t = 1024, value_parser = clap::value_parser!(i32).range(1..), value_name = "COUNT")]
    pub backlog: i32,
    /// Protocol to speak: ascii, binary, or auto to tell by the first byte
    #[arg(short = 'B', long, default_value = "auto", value_parser = ["auto", "ascii", "binary"], hide_possible_values = true)]
    pub protocol: String,
    /// Ask for a user and a password, in text as a first set command; the file has user:password lines
    #[arg(short = 'Y', long = "auth-file", value_name = "FILE", env = "LARDER_AUTH_FILE", conflicts_with = "sasl")]
    pub auth_file: Option<PathBuf>,
    /// Ask for SASL PLAIN authentication in the binary protocol; the file of user:password lines is named by
    /// MEMCACHED_SASL_PWDB
    #[arg(short = 'S', long = "enable-sasl")]
    pub sasl: bool,
    /// Run in the background
    #[arg(short = 'd', long)]
    pub daemon: bool,
    /// Write the process id to a file
    #[arg(short = 'P', long = "pidfile", value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// User to become when started as root
    #[arg(short = 'u', long, value_name = "NAME")]
    pub user: Option<String>,
    /// Allow core dumps
    #[arg(short = 'r', long = "enable-coredumps")]
    pub core_dumps: bool,
    /// Lock all memory
    #[arg(short = 'k', long = "lock-memory")]
    pub lock_memory: bool,
    /// Extended options with commas: idle_timeout=SECONDS, no_maxconns_fast; memcached's others are accepted
    #[arg(short = 'o', long = "extended", value_parser = options::parse, value_delimiter = ',', value_name = "OPTIONS")]
    pub extended: Vec<ExtendedOption>,
    /// Serve the debugtime command, by which tests move the clock
    #[arg(long, env = "LARDER_DEBUG_TIME", value_parser = clap::builder::BoolishValueParser::new(), hide = true)]
    pub debug_time: bool,
    /// Accepted for memcached's sake: this engine has no slabs
    #[arg(short = 'f', long = "slab-growth-factor", hide = true)]
    pub(crate) slab_growth_factor: Option<f64>,
    #[arg(short = 'n', long = "slab-min-size", hide = true)]
    pub(crate) slab_min_size: Option<u32>,
    #[arg(short = 'L', long = "enable-largepages", hide = true)]
    large_pages: bool,
    #[arg(short = 'C', long = "disable-cas", hide = true)]
    no_cas: bool,
    /// Refuse writes when memory is full instead of evicting
    #[arg(short = 'M', long = "disable-evictions")]
    pub no_evictions: bool,
    /// Count by key prefix (stats detail); a prefix ends at this character, : without -D
    #[arg(short = 'D', value_parser = parse_delimiter, value_name = "CHARACTER")]
    pub prefix_delimiter: Option<u8>,
    /// Print the version
    #[arg(short = 'V', long = "version", action = ArgAction::Version)]
    version: Option<bool>,
}

fn default_threads() -> u16 {
    std::thread::available_parallelism().map_or(4, |count| count.get().min(256) as u16)
}

fn parse_octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o777).ok_or("a mask is octal, like 770".to_owned())
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        &[delimiter] => Ok(delimiter),
        _ => Err("a delimiter is one ASCII character".to_owned()),
    }
}

fn parse_item_size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.to_ascii_lowercase() {
        text if text.ends_with('k') => (text[..text.len() - 1].to_owned(), 1024),
        text if text.ends_with('m') => (text[..text.len() - 1].to_owned(), 1024 * 1024),
        text => (text, 1),
    };
    let size = digits.parse::<usize>().ok().and_then(|size| size.checked_mul(unit));
    match size {
        Some(size @ 1024..=0x4000_0000) => Ok(size),
        _ => Err("an item size limit is between 1k and 1024m".to_owned()),
    }
}

impl Default for Settings {
    /// What an empty command line gives.
    fn default() -> Self {
        Settings::parse_from(["larder-node"])
    }
}

impl Settings {
    /// The memory limit in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory_mebibytes as usize * 1024 * 1024
    }

    /// The flags that were given and mean nothing to this engine, for one line of log.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let given = [
            ("-f", self.slab_growth_factor.is_some()),
            ("-n", self.slab_min_size.is_some()),
            ("-L", self.large_pages),
            ("-C", self.no_cas),
        ];
        let flags = given.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned());
        let options = self.extended.iter().filter_map(|option| match option {
            ExtendedOption::Meaningless(name) => Some(format!("-o {name}")),
            _ => None,
        });
        flags.chain(options).collect()
    }

    /// What leaves when memory is full.
    pub(crate) fn eviction(&self) -> Eviction {
        if self.no_evictions { Eviction::Never } else { self.eviction }
    }

    /// Bytes of lines that may wait for one client that watches (`-o watcher_logbuf_size`, in KiB).
    pub(crate) fn watcher_buffer(&self) -> usize {
        self.told("watcher_logbuf_size").and_then(|kibibytes| kibibytes.parse().ok()).unwrap_or(256) * 1024
    }

    /// What `-o name=value` told last, for an option without meaning here: dashboards read it in `stats settings`.
    pub(crate) fn told(&self, name: &str) -> Option<&str> {
        self.extended.iter().rev().find_map(|option| match option {
            ExtendedOption::Meaningless(option) => {
                option.split_once('=').filter(|told| told.0 == name).map(|told| told.1)
            }
            _ => None,
        })
    }

    /// Whether memcached would have this feature on: those of `modern` are, unless `no_modern` or `no_name` came last.
    pub(crate) fn has(&self, name: &str) -> bool {
        let told = self.extended.iter().rev().find_map(|option| match option {
            ExtendedOption::Meaningless(option) if option == name || option == "modern" => Some(true),
            ExtendedOption::Meaningless(option)
                if option.strip_prefix("no_").is_some_and(|off| off == name || off == "modern") =>
            {
                Some(false)
            }
            _ => None,
        });
        told.unwrap_or(true)
    }

    /// After how long an idle connection is closed; `None` is never.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        let seconds = self.extended.iter().rev().find_map(|option| match option {
            ExtendedOption::IdleTimeout(seconds) => Some(*seconds),
            _ => None,
        });
        seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs)
    }

    /// Whether connections above the limit are refused at once; otherwise they wait.
    pub(crate) fn refuses_connections(&self) -> bool {
        let told = self.extended.iter().rev().find_map(|option| match option {
            ExtendedOption::RefuseConnections(refuse) => Some(*refuse),
            _ => None,
        });
        told.unwrap_or(true)
    }

    /// Whether CAS was disabled: it costs nothing here and goes on working, but dashboards read the setting.
    pub(crate) fn cas_enabled(&self) -> bool {
        !self.no_cas
    }

    /// The addresses to listen on over TCP, as `host:port`.
    pub(crate) fn tcp_addresses(&self) -> Vec<String> {
        if self.listen.is_empty() {
            return vec![format!("127.0.0.1:{}", self.port)];
        }
        self.listen.iter().map(|address| with_port(address, self.port)).collect()
    }
}

/// `address` with `port` where it names none: `host`, `host:port`, `::1` and `[::1]:port` all work.
fn with_port(address: &str, port: u16) -> String {
    let has_port = match address.rfind(']') {
        Some(end) => address[end..].contains(':'),
        None => address.matches(':').count() == 1,
    };
    match has_port {
        true => address.to_owned(),
        false if address.contains(':') && !address.starts_with('[') => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_the_one_of_p() {
        let cases = [
            ("10.0.0.1", "10.0.0.1:7"),
            ("10.0.0.1:8", "10.0.0.1:8"),
            ("::1", "[::1]:7"),
            ("[::1]", "[::1]:7"),
            ("[::1]:8", "[::1]:8"),
            ("cache.local", "cache.local:7"),
        ];
        for (given, expected) in cases {
            assert_eq!(with_port(given, 7), expected);
        }
    }

    #[test]
    fn an_item_size_takes_units_and_bounds() {
        assert_eq!(parse_item_size("1m"), Ok(1024 * 1024));
        assert_eq!(parse_item_size("2048"), Ok(2048));
        assert!(parse_item_size("1025m").is_err());
        assert!(parse_item_size("12").is_err());
        assert!(parse_item_size("-1k").is_err());
    }

    #[test]
    fn flags_are_memcacheds_and_so_are_long_names() {
        let short = Settings::parse_from(["larder-node", "-p", "0", "-m", "100", "-c", "10", "-I", "2m", "-vv"]);
        let long = Settings::parse_from([
            "larder-node",
            "--port=0",
            "--memory-limit=100",
            "--conn-limit=10",
            "--max-item-size=2m",
            "--verbose",
            "--verbose",
        ]);
        assert_eq!(format!("{short:?}"), format!("{long:?}"));
        assert!(Settings::try_parse_from(["larder-node", "--no-such-flag"]).is_err());
    }
}
