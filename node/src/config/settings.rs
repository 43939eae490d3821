//! The node's settings: memcached's flags and their long names.

use std::path::PathBuf;

use clap::{ArgAction, Args, Command, FromArgMatches, ValueEnum};

use larder_protocol::Protocol;

use crate::cluster::ClusterOptions;
use crate::config::address::{Address, ClientCertificate, ListenError, ListenerProtocol};
use crate::config::numbers::{MIB, bytes, whole};
use crate::config::options::Extended;
use crate::store::Eviction;

/// The largest memory limit, in MiB: 16 TiB.
const MEBIBYTES_MAX: u64 = 1 << 24;

/// Connections to the status page (`--http`) at a time. Further ones wait.
pub(crate) const HTTP_CONNECTIONS_MAX: usize = 64;

/// Descriptors that a node needs besides one for each connection.
const RESERVED_DESCRIPTORS: u64 = 64;

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object a line, for collectors of logs.
    Json,
}

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
#[command(next_help_heading = "Listening")]
pub struct Settings {
    /// TCP port; -1 takes a free one, 0 is off [default: the port of -U, or 11211]
    ///
    /// The log shows the port that -1 took.
    #[arg(short = 'p', long, value_parser = whole(-1..=65535), allow_negative_numbers = true)]
    pub port: Option<i32>,
    /// Address to listen on, '*' for every one; several with commas or by repeating -l [default: 127.0.0.1]
    ///
    /// HOST or HOST:PORT. Before it may stand `proto[ascii]:` or `proto[binary]:`, and with TLS notls:, btls: (asks
    /// for no certificate) or mtls: (requires one).
    #[arg(short = 'l', long, value_name = "ADDRESS", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// Address of the status page, of metrics for Prometheus (/metrics) and of health checks (/livez, /readyz)
    ///
    /// HOST:PORT, HOST or :PORT; the port is 11280 unless given. It is plain HTTP without a login: keep it on a network
    /// of the operators.
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// Unix socket to listen on instead of TCP
    #[arg(short = 's', long = "unix-socket", value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Permissions of the unix socket, in octal: who may connect
    ///
    /// 700 lets only the node's user connect, 770 its group too, 777 everybody on this machine.
    #[arg(short = 'a', long = "unix-mask", default_value = "700", value_parser = parse_octal, value_name = "MODE", hide_short_help = true)]
    pub socket_mode: u32,
    /// UDP port; -1 takes a free one, 0 is off
    #[arg(short = 'U', long = "udp-port", default_value_t = 0, value_parser = whole(-1..=65535), allow_negative_numbers = true, value_name = "PORT", hide_short_help = true)]
    pub udp_port: i32,
    /// Connections that the kernel keeps for the node until it accepts them
    #[arg(short = 'b', long = "listen-backlog", default_value_t = 1024, value_parser = whole(1..=i32::MAX), value_name = "COUNT", hide_short_help = true)]
    pub backlog: i32,
    /// Protocol to speak: ascii, binary, or auto to choose by a connection's first byte
    ///
    /// [default: auto; ascii with -Y; binary with -S, and auto after the login]
    #[arg(short = 'B', long, value_parser = ["auto", "ascii", "binary"], hide_possible_values = true, hide_short_help = true)]
    pub protocol: Option<String>,
    /// Memory for items, in MiB or with a unit (4g): items, their index and their slack together
    #[arg(short = 'm', long = "memory-limit", default_value = "64", value_parser = parse_memory, value_name = "SIZE", help_heading = "Memory")]
    pub memory_mebibytes: u64,
    /// Largest item, in bytes or with a unit: 1k to 1024m
    #[arg(short = 'I', long = "max-item-size", default_value = "1m", value_parser = parse_item_size, value_name = "SIZE", help_heading = "Memory")]
    pub item_size_max: usize,
    /// What leaves first when memory is full: density, lru, s3fifo, sieve or never
    ///
    /// density: the items with the fewest uses for their bytes; the most hits where sizes differ (47.9 % on average of
    /// six traces). lru: the items not used for longest (39.2 %); for keys whose popularity lasts only briefly, or
    /// where hits are counted in bytes. s3fifo (42.6 %), sieve (40.6 %): for values of one size. never: nothing leaves,
    /// writes are refused. Method and figures: docs/eviction.md
    #[arg(long, default_value_t, value_name = "POLICY", help_heading = "Memory")]
    pub eviction: Eviction,
    /// The same as --eviction never: refuse writes when memory is full
    #[arg(short = 'M', long = "disable-evictions", help_heading = "Memory", hide_short_help = true)]
    pub no_evictions: bool,
    /// File that keeps the items while the node is stopped, best on a tmpfs: /dev/shm/larder
    ///
    /// A node that stops in good order (SIGTERM, SIGINT, SIGUSR1, shutdown) writes its items there, and has them again
    /// when it starts with the same settings. After a crash it starts without items.
    #[arg(short = 'e', long = "memory-file", value_name = "FILE", help_heading = "Memory", hide_short_help = true)]
    pub memory_file: Option<PathBuf>,
    /// Lock all memory, so that none is swapped out
    #[arg(short = 'k', long = "lock-memory", help_heading = "Memory", hide_short_help = true)]
    pub lock_memory: bool,
    /// Connections at a time; more are refused, or wait with -o no_maxconns_fast
    #[arg(short = 'c', long = "conn-limit", default_value_t = 1024, value_parser = whole(1..=u32::MAX), value_name = "COUNT", help_heading = "Limits")]
    pub max_connections: u32,
    /// Worker threads [default: the number of processors]
    #[arg(short = 't', long, default_value_t = default_threads(), hide_default_value = true, value_parser = whole(1u16..=256), value_name = "COUNT", help_heading = "Limits")]
    pub threads: u16,
    /// Requests that one connection may have served in a row while others wait
    #[arg(short = 'R', long = "max-reqs-per-event", default_value_t = 1000, value_parser = whole(1..=u32::MAX), value_name = "COUNT", help_heading = "Limits", hide_short_help = true)]
    pub requests_per_turn: u32,
    /// Refuse the flush_all command
    #[arg(short = 'F', long = "disable-flush-all", help_heading = "Limits", hide_short_help = true)]
    pub no_flush_all: bool,
    /// Refuse commands that list keys
    #[arg(short = 'X', long = "disable-dumping", help_heading = "Limits", hide_short_help = true)]
    pub no_dumping: bool,
    /// Refuse the watch command
    #[arg(short = 'W', long = "disable-watch", help_heading = "Limits", hide_short_help = true)]
    pub no_watch: bool,
    /// Serve the shutdown command, by which any client stops the node
    #[arg(short = 'A', long = "enable-shutdown", help_heading = "Limits", hide_short_help = true)]
    pub shutdown: bool,
    /// Speak TLS 1.2 and 1.3 on TCP, with the certificate that -o names
    ///
    /// -o ssl_chain_cert=FILE,ssl_key=FILE name the certificate and its key.
    #[arg(short = 'Z', long = "enable-ssl", help_heading = "TLS and login")]
    pub tls: bool,
    /// Ask for a user and a password of this file, which has lines of user:password
    ///
    /// The first command of a connection is a set whose value is `user password`.
    #[arg(
        short = 'Y',
        long = "auth-file",
        value_name = "FILE",
        conflicts_with = "sasl",
        help_heading = "TLS and login"
    )]
    pub auth_file: Option<PathBuf>,
    /// Ask for SASL PLAIN authentication, which the binary protocol has
    ///
    /// The variable MEMCACHED_SASL_PWDB names the file, which has lines of user:password. After the login a connection
    /// speaks binary or text, by its next byte; with -B binary, as with memcached, only binary.
    #[arg(short = 'S', long = "enable-sasl", help_heading = "TLS and login")]
    pub sasl: bool,
    /// Log more: -v also what libraries log, -vv every connection
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count, help_heading = "Process")]
    pub verbosity: u8,
    /// The form of the log
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Process", hide_short_help = true)]
    pub log_format: LogFormat,
    /// Run in the background, once the node serves
    #[arg(short = 'd', long, help_heading = "Process")]
    pub daemon: bool,
    /// File to write the process id to
    #[arg(short = 'P', long = "pidfile", value_name = "FILE", help_heading = "Process", hide_short_help = true)]
    pub pid_file: Option<PathBuf>,
    /// User, by name or number, to become when started as root
    ///
    /// Without it root stays root, and the log warns.
    #[arg(short = 'u', long, value_name = "USER", help_heading = "Process")]
    pub user: Option<String>,
    /// Allow core dumps
    #[arg(short = 'r', long = "enable-coredumps", help_heading = "Process", hide_short_help = true)]
    pub core_dumps: bool,
    /// The extended options (`-o`).
    #[command(flatten)]
    pub extended: Extended,
    /// Serve the debugtime command, by which tests move the clock
    #[arg(long, hide = true)]
    pub debug_time: bool,
    /// Show clients no CAS uniques: no compare-and-swap succeeds
    #[arg(short = 'C', long = "disable-cas", help_heading = "Compatibility", hide_short_help = true)]
    pub no_cas: bool,
    /// Count by key prefix (stats detail); a prefix ends at this character, : without -D
    #[arg(short = 'D', value_parser = parse_delimiter, value_name = "CHARACTER", help_heading = "Compatibility", hide_short_help = true)]
    pub prefix_delimiter: Option<u8>,
    /// Accepted, without effect: this engine has no slabs
    #[arg(short = 'f', long = "slab-growth-factor", value_parser = parse_growth_factor, value_name = "FACTOR", help_heading = "Compatibility", hide_short_help = true)]
    pub slab_growth_factor: Option<f64>,
    /// Accepted, without effect: this engine has no slabs
    #[arg(short = 'n', long = "slab-min-size", value_parser = whole(1..=u32::MAX), value_name = "BYTES", help_heading = "Compatibility", hide_short_help = true)]
    pub slab_min_size: Option<u32>,
    /// Accepted, without effect: connections are not bound to network queues
    #[arg(short = 'N', long = "napi-ids", value_parser = whole(1..=u32::MAX), value_name = "COUNT", help_heading = "Compatibility", hide_short_help = true)]
    pub napi_ids: Option<u32>,
    /// Accepted, without effect: the log is held in huge pages where the system has them
    #[arg(short = 'L', long = "enable-largepages", help_heading = "Compatibility", hide_short_help = true)]
    pub large_pages: bool,
    /// The node's part in a cluster
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Words that belong to no flag. memcached ignores them, and units hand over the rest of a shell's line.
    #[arg(hide = true)]
    pub stray_words: Vec<String>,
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

fn parse_memory(text: &str) -> Result<u64, &'static str> {
    // Parts of a MiB are cut off, as memcached cuts them off.
    let mebibytes = bytes(text, MIB).map(|bytes| bytes / MIB);
    mebibytes
        .filter(|mebibytes| (1..=MEBIBYTES_MAX).contains(mebibytes))
        .ok_or("MiB as a whole number, or with a unit (64, 64m, 4g)")
}

fn parse_item_size(text: &str) -> Result<usize, &'static str> {
    let size = bytes(text, 1).and_then(|size| usize::try_from(size).ok());
    size.filter(|size| (1024..=0x4000_0000).contains(size))
        .ok_or("bytes as a whole number, or with a unit, from 1k to 1024m")
}

impl Default for Settings {
    /// Returns the settings of an empty command line. Reads no environment variables, unlike the command line itself.
    fn default() -> Self {
        // The defaults stand once, at the flags.
        let matches = Settings::augment_args(Command::new("defaults"))
            .try_get_matches_from(["defaults"])
            .expect("no flag is required");
        Settings::from_arg_matches(&matches).expect("each flag has a default or is optional")
    }
}

impl Settings {
    /// Returns the memory limit in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory_mebibytes as usize * 1024 * 1024
    }

    /// Returns how many descriptors the node needs besides one for each client.
    pub(crate) fn reserved_descriptors(&self) -> u64 {
        RESERVED_DESCRIPTORS + if self.http.is_some() { HTTP_CONNECTIONS_MAX as u64 } else { 0 }
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
        if self.cluster.cluster.is_some() && self.memory_file.is_some() {
            return Err("others own a member's items while it is away, so -e and --cluster exclude each other");
        }
        if self.item_size_max > self.memory_limit() / 2 {
            return Err("the largest item (-I) cannot be more than half of the memory (-m)");
        }
        Ok(())
    }

    /// Returns the given flags and words that have no effect on this engine, for one line of log.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let given = [
            ("-f", self.slab_growth_factor.is_some()),
            ("-n", self.slab_min_size.is_some()),
            ("-N", self.napi_ids.is_some()),
            ("-L", self.large_pages),
        ];
        let flags = given.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned());
        let options = self.extended.engine.given().map(|name| format!("-o {name}"));
        flags.chain(options).chain(self.stray_words.iter().cloned()).collect()
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

    /// Whether the first byte after a login by SASL chooses the protocol of the connection: a client that logs in so
    /// can then use meta commands, which memcached does not offer. `-B binary` leaves the connection as memcached's.
    pub(crate) fn speaks_text_after_sasl(&self) -> bool {
        self.sasl && self.protocol.is_none()
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
        let texts = self.listen.iter().flat_map(|text| text.split(';')).map(str::trim).filter(|text| !text.is_empty());
        let mut addresses = Vec::new();
        for text in texts {
            let address = Address::parse(text, default).map_err(|error| (format!("{text:?}"), error))?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            addresses.push(Address::new("127.0.0.1", default));
        }
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
    fn sizes_take_units_and_have_bounds() {
        assert_eq!(parse_item_size("1m"), Ok(1024 * 1024));
        assert_eq!(parse_item_size("2048"), Ok(2048));
        for wrong in ["1025m", "12", "-1k", "large"] {
            assert!(parse_item_size(wrong).is_err(), "{wrong}");
        }
        let sizes =
            [("64", 64), ("64m", 64), ("64.5", 64), ("1.5g", 1536), ("4g", 4096), ("65536k", 64), ("16t", 1 << 24)];
        for (text, mebibytes) in sizes {
            assert_eq!(parse_memory(text), Ok(mebibytes), "{text}");
        }
        for wrong in ["0", "0.5", "1k", "17t", "-1", "all"] {
            assert_eq!(parse_memory(wrong), Err("MiB as a whole number, or with a unit (64, 64m, 4g)"), "{wrong}");
        }
    }

    #[test]
    fn empty_addresses_are_left_out_and_the_same_one_is_there_once() {
        let addresses = |texts: &[&str]| {
            let listen = texts.iter().map(|&text| text.to_owned()).collect();
            let addresses = Settings { listen, ..Settings::default() }.addresses().unwrap();
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&["10.0.0.1", "", "10.0.0.1", " 10.0.0.2:5 "]), ["10.0.0.1", "10.0.0.2 port 5"]);
        assert_eq!(addresses(&["", ";"]), ["127.0.0.1"]);
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
