//! The node's settings: memcached's flags and their long names.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Command, FromArgMatches};

use larder_protocol::Protocol;

use crate::cluster::ClusterOptions;
use crate::config::address::{Address, ClientCertificate, ListenError, ListenerProtocol};
use crate::config::options::Extended;
use crate::store::Eviction;

/// Descriptors that a node needs besides one for each connection.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 64;

/// The settings that a node is started with. Each is a flag of the command line, declared here with its help, its type
/// and its default.
///
/// ```
/// use larder_node::Settings;
///
/// let settings = Settings { port: Some(-1), memory_mebibytes: 256, ..Settings::default() };
/// # assert_eq!(settings.threads, Settings::default().threads);
/// ```
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// TCP port [default: that of -U, or 11211]; -1 takes a free one, which the log shows; 0 is off
    #[arg(short = 'p', long, value_parser = clap::value_parser!(i32).range(-1..=65535), allow_negative_numbers = true, env = "LARDER_PORT")]
    pub port: Option<i32>,
    /// UDP port; 0 is off, -1 takes a free one
    #[arg(short = 'U', long = "udp-port", default_value_t = 0, value_parser = clap::value_parser!(i32).range(-1..=65535), allow_negative_numbers = true, value_name = "PORT")]
    pub udp_port: i32,
    /// Unix socket to listen on instead of TCP
    #[arg(short = 's', long = "unix-socket", value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Address to listen on, with or without a port, '*' for every one; several with commas or by repeating -l. Before
    /// it may stand `proto[ascii]:` or `proto[binary]:`, and with TLS notls:, btls: (asks for no certificate) or mtls:
    /// (requires one)
    #[arg(short = 'l', long, value_name = "ADDRESS", value_delimiter = ',', env = "LARDER_LISTEN")]
    pub listen: Vec<String>,
    /// Worker threads
    #[arg(short = 't', long, default_value_t = default_threads(), value_parser = clap::value_parser!(u16).range(1..=256), value_name = "COUNT", env = "LARDER_THREADS")]
    pub threads: u16,
    /// Memory for items, in MiB: items, their index and their slack together
    #[arg(short = 'm', long = "memory-limit", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=(1 << 24)), value_name = "MIB", env = "LARDER_MEMORY_LIMIT")]
    pub memory_mebibytes: u64,
    /// Connections at a time; more are refused, or wait with -o no_maxconns_fast
    #[arg(short = 'c', long = "conn-limit", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT", env = "LARDER_CONN_LIMIT")]
    pub max_connections: u32,
    /// What leaves first when memory is full. density: the items with the fewest uses for their bytes; the most hits
    /// where sizes differ (47.8 % on average of six traces). lru: the items not used for longest (39.2 %); for keys
    /// whose popularity lasts only briefly, or where hits are counted in bytes. s3fifo (42.6 %), sieve (40.6 %): for
    /// values of one size. never: nothing leaves, writes are refused. Method and figures: docs/eviction.md
    #[arg(long, default_value_t, value_name = "POLICY")]
    pub eviction: Eviction,
    /// Largest item, in bytes or with a unit: 1k to 1024m
    #[arg(short = 'I', long = "max-item-size", default_value = "1m", value_parser = parse_item_size, value_name = "SIZE", env = "LARDER_MAX_ITEM_SIZE")]
    pub item_size_max: usize,
    /// Log more; twice logs every connection
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count)]
    pub verbosity: u8,
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
    /// Protocol to speak: ascii, binary, or auto to choose by the first byte [default: auto; ascii with -Y, binary with
    /// -S]
    #[arg(short = 'B', long, value_parser = ["auto", "ascii", "binary"], hide_possible_values = true)]
    pub protocol: Option<String>,
    /// Ask for a user and a password: the first command is a set of `user password`. The file has user:password lines
    #[arg(short = 'Y', long = "auth-file", value_name = "FILE", env = "LARDER_AUTH_FILE", conflicts_with = "sasl")]
    pub auth_file: Option<PathBuf>,
    /// Ask for SASL PLAIN authentication, which the binary protocol has. MEMCACHED_SASL_PWDB names the file of
    /// user:password lines
    #[arg(short = 'S', long = "enable-sasl")]
    pub sasl: bool,
    /// Speak TLS 1.2 and 1.3 on TCP; -o ssl_chain_cert=FILE,ssl_key=FILE name the certificate and its key
    #[arg(short = 'Z', long = "enable-ssl", env = "LARDER_ENABLE_SSL", value_parser = BoolishValueParser::new())]
    pub tls: bool,
    /// Run in the background
    #[arg(short = 'd', long)]
    pub daemon: bool,
    /// Write the process id to a file
    #[arg(short = 'P', long = "pidfile", value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// User to become when started as root; without it root stays root, and the log warns
    #[arg(short = 'u', long, value_name = "NAME")]
    pub user: Option<String>,
    /// Allow core dumps
    #[arg(short = 'r', long = "enable-coredumps")]
    pub core_dumps: bool,
    /// Lock all memory
    #[arg(short = 'k', long = "lock-memory")]
    pub lock_memory: bool,
    /// The extended options (`-o`).
    #[command(flatten)]
    pub extended: Extended,
    /// Serve the debugtime command, by which tests move the clock
    #[arg(long, env = "LARDER_DEBUG_TIME", value_parser = BoolishValueParser::new(), hide = true)]
    pub debug_time: bool,
    /// Accepted for memcached's sake: this engine has no slabs
    #[arg(short = 'f', long = "slab-growth-factor", value_parser = parse_growth_factor, hide = true)]
    pub slab_growth_factor: Option<f64>,
    /// Accepted for memcached's sake: this engine has no slabs
    #[arg(short = 'n', long = "slab-min-size", value_parser = clap::value_parser!(u32).range(1..), hide = true)]
    pub slab_min_size: Option<u32>,
    /// Accepted for memcached's sake: connections are not bound to network queues
    #[arg(short = 'N', long = "napi-ids", value_parser = clap::value_parser!(u32).range(1..), hide = true)]
    pub napi_ids: Option<u32>,
    /// Accepted for memcached's sake: the engine asks for no large pages
    #[arg(short = 'L', long = "enable-largepages", hide = true)]
    pub large_pages: bool,
    /// Show clients no CAS uniques: no compare-and-swap succeeds
    #[arg(short = 'C', long = "disable-cas")]
    pub no_cas: bool,
    /// Refuse writes when memory is full instead of evicting
    #[arg(short = 'M', long = "disable-evictions")]
    pub no_evictions: bool,
    /// Count by key prefix (stats detail); a prefix ends at this character, : without -D
    #[arg(short = 'D', value_parser = parse_delimiter, value_name = "CHARACTER")]
    pub prefix_delimiter: Option<u8>,
    /// The node's part in a cluster
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

fn default_threads() -> u16 {
    std::thread::available_parallelism().map_or(4, |count| count.get().min(256) as u16)
}

/// Returns the port to bind for `-p` or `-U`, where 0 is off and -1 is a free one, which is 0 for the kernel.
fn bound_port(port: i32) -> Option<u16> {
    (port != 0).then_some(port.max(0) as u16)
}

fn parse_octal(text: &str) -> Result<u32, &'static str> {
    u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o777).ok_or("a mask is octal, like 770")
}

fn parse_delimiter(text: &str) -> Result<u8, &'static str> {
    match text.as_bytes() {
        &[delimiter] => Ok(delimiter),
        _ => Err("a delimiter is one ASCII character"),
    }
}

fn parse_growth_factor(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|&factor| factor > 1.0).ok_or("the factor is greater than 1")
}

fn parse_item_size(text: &str) -> Result<usize, &'static str> {
    let (digits, unit) = match text.to_ascii_lowercase() {
        text if text.ends_with('k') => (text[..text.len() - 1].to_owned(), 1024),
        text if text.ends_with('m') => (text[..text.len() - 1].to_owned(), 1024 * 1024),
        text => (text, 1),
    };
    let size = digits.parse::<usize>().ok().and_then(|size| size.checked_mul(unit));
    match size {
        Some(size @ 1024..=0x4000_0000) => Ok(size),
        _ => Err("an item size limit is between 1k and 1024m"),
    }
}

impl Default for Settings {
    /// Returns the settings of an empty command line. Reads no environment variables, unlike the command line itself.
    fn default() -> Self {
        // The defaults stand once, at the flags.
        let flags = Settings::augment_args(Command::new("defaults")).mut_args(|flag| flag.env(None::<&'static str>));
        let matches = flags.try_get_matches_from(["defaults"]).expect("no flag is required");
        Settings::from_arg_matches(&matches).expect("each flag has a default or is optional")
    }
}

impl Settings {
    /// Returns the memory limit in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory_mebibytes as usize * 1024 * 1024
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    ///
    /// The flags that contradict each other, and the remedy.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let protocol = self.protocol.as_deref();
        if self.sasl && protocol.is_some_and(|protocol| protocol != "binary") {
            return Err("SASL (-S) is there in the binary protocol only: leave out -B, or give -B binary");
        }
        if self.auth_file.is_some() && protocol.is_some_and(|protocol| protocol != "ascii") {
            return Err("-Y asks for a user in text: leave out -B, or give -B ascii");
        }
        if (self.sasl || self.auth_file.is_some()) && self.udp_port != 0 {
            return Err("UDP (-U) cannot ask for a user: leave out -U, or -Y and -S");
        }
        if self.cluster.cluster.is_some() && self.udp_port != 0 {
            return Err("a datagram cannot wait for another member: leave out -U, or --cluster");
        }
        if self.cluster.cluster.is_some() && self.tls {
            return Err("links between members are not encrypted yet, so -Z and --cluster exclude each other");
        }
        if self.item_size_max > self.memory_limit() / 2 {
            return Err("the largest item (-I) cannot be more than half of the memory (-m)");
        }
        Ok(())
    }

    /// Returns the given flags that have no effect on this engine, for one line of log.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let given = [
            ("-f", self.slab_growth_factor.is_some()),
            ("-n", self.slab_min_size.is_some()),
            ("-N", self.napi_ids.is_some()),
            ("-L", self.large_pages),
        ];
        let flags = given.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned());
        flags.chain(self.extended.engine.given().map(|name| format!("-o {name}"))).collect()
    }

    /// Returns which items are evicted when memory is full.
    pub(crate) fn eviction(&self) -> Eviction {
        if self.no_evictions { Eviction::Never } else { self.eviction }
    }

    /// Returns the TCP port to bind, where 0 takes a free one; `None` is off.
    pub(crate) fn tcp_port(&self) -> Option<u16> {
        let default = if self.udp_port == 0 { 11211 } else { self.udp_port };
        bound_port(self.port.unwrap_or(default))
    }

    /// Returns the UDP port to bind, where 0 takes a free one; `None` is off.
    pub(crate) fn udp_port(&self) -> Option<u16> {
        bound_port(self.udp_port)
    }

    /// Returns the protocol of listeners for which `-l` names none.
    pub(crate) fn listener_protocol(&self) -> ListenerProtocol {
        let protocol = match self.protocol.as_deref() {
            Some("ascii") => Some(Protocol::Text),
            Some("binary") => Some(Protocol::Binary),
            Some(_) => None,
            None if self.auth_file.is_some() => Some(Protocol::Text),
            None => self.sasl.then_some(Protocol::Binary),
        };
        let client = match self.extended.tls.verify_mode {
            0 => ClientCertificate::NotAsked,
            1 => ClientCertificate::Requested,
            _ => ClientCertificate::Required,
        };
        ListenerProtocol { protocol, tls: self.tls.then_some(client) }
    }

    /// Returns the addresses to listen on.
    ///
    /// # Errors
    ///
    /// The first address of `-l` that is refused, and why.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>, (String, ListenError)> {
        let default = self.listener_protocol();
        if self.listen.is_empty() {
            return Ok(vec![Address::new("127.0.0.1", default)]);
        }
        let texts = self.listen.iter().flat_map(|text| text.split(';'));
        let addresses = texts.map(|text| Address::parse(text, default).map_err(|error| (format!("{text:?}"), error)));
        let addresses: Vec<Address> = addresses.collect::<Result<_, _>>()?;
        let asks_in_text = self.auth_file.is_some();
        match addresses.iter().find(|address| asks_in_text && address.listener.protocol != Some(Protocol::Text)) {
            Some(address) => Err((address.to_string(), ListenError::AsksInText)),
            None => Ok(addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_size_takes_units_and_bounds() {
        assert_eq!(parse_item_size("1m"), Ok(1024 * 1024));
        assert_eq!(parse_item_size("2048"), Ok(2048));
        assert!(parse_item_size("1025m").is_err());
        assert!(parse_item_size("12").is_err());
        assert!(parse_item_size("-1k").is_err());
    }

    #[test]
    fn defaults_read_no_environment_variables() {
        const NO_PORT: &str = "not a port";
        if std::env::var("LARDER_PORT").as_deref() == Ok(NO_PORT) {
            assert_eq!(Settings::default().port, None);
            return;
        }
        // The environment of a process with threads cannot be changed: the test runs itself in another one.
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "config::settings::tests::defaults_read_no_environment_variables"])
            .env("LARDER_PORT", NO_PORT)
            .output()
            .unwrap();
        assert!(child.status.success());
        // With another name the process runs no test and succeeds.
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "the other process runs this test");
    }
}
