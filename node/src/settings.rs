//! The command line: memcached's flags and their long names.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser};

use larder_protocol::Protocol;

use crate::address::{Address, ClientCertificate, Speech};
use crate::cluster::ClusterOptions;
use crate::options::ExtendedOption;
use crate::store::Eviction;

/// How much is logged.
pub type Verbosity = u8;

/// What a node is started with.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "larder-node",
    version = crate::VERSION,
    disable_version_flag = true,
    args_override_self = true,
    about = "A memcache server: memcached's protocols and flags, more items in the same memory.",
    after_help = "Without -l the node listens on 127.0.0.1 only: a cache that the whole network can reach is a choice \
                  to make (-l '*').\nStop it with SIGTERM or SIGINT; it answers what it has read, then ends. SIGHUP reads \
                  the users and the certificates again."
)]
pub struct Settings {
    /// TCP port [default: that of -U, or 11211]; -1 takes a free one, which the log tells; 0 is off
    #[arg(short = 'p', long, value_parser = clap::value_parser!(i32).range(-1..=65535), allow_negative_numbers = true, env = "LARDER_PORT")]
    pub port: Option<i32>,
    /// UDP port; 0 is off, -1 takes a free one
    #[arg(short = 'U', long = "udp-port", default_value_t = 0, value_parser = clap::value_parser!(i32).range(-1..=65535), allow_negative_numbers = true, value_name = "PORT")]
    pub udp_port: i32,
    /// Unix socket to listen on instead of TCP
    #[arg(short = 's', long = "unix-socket", value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Address to listen on, with or without a port, '*' for every one; several with commas or by repeating -l. Before it may
    /// stand `proto[ascii]:` or `proto[binary]:`, and with TLS notls:, btls: (asks for no certificate) or mtls: (requires one)
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
    /// What leaves first when memory is full: lru, s3fifo, sieve, or never to refuse writes instead
    #[arg(long, default_value_t, value_name = "POLICY")]
    pub eviction: Eviction,
    /// Largest item, in bytes or with a unit: 1k to 1024m
    #[arg(short = 'I', long = "max-item-size", default_value = "1m", value_parser = parse_item_size, value_name = "SIZE", env = "LARDER_MAX_ITEM_SIZE")]
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
    /// Protocol to speak: ascii, binary, or auto to tell by the first byte [default: auto; ascii with -Y, binary with -S]
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
    /// Extended options with commas: idle_timeout=SECONDS, no_maxconns_fast, and for TLS ssl_chain_cert, ssl_key,
    /// ssl_keyformat (1 is PEM, 2 DER), ssl_verify_mode (of clients: 0 none, 1 request, 2 and 3 require), ssl_ca_cert,
    /// ssl_ciphers, ssl_wbuf_size (KiB), ssl_session_cache, ssl_min_version (2 is 1.2, 3 is 1.3). memcached's others are
    /// accepted
    #[arg(short = 'o', long = "extended", value_parser = ExtendedOption::parse, value_delimiter = ',', value_name = "OPTIONS", env = "LARDER_EXTENDED")]
    pub extended: Vec<ExtendedOption>,
    /// Serve the debugtime command, by which tests move the clock
    #[arg(long, env = "LARDER_DEBUG_TIME", value_parser = BoolishValueParser::new(), hide = true)]
    pub debug_time: bool,
    /// Accepted for memcached's sake: this engine has no slabs
    #[arg(short = 'f', long = "slab-growth-factor", value_parser = parse_growth_factor, hide = true)]
    pub(crate) slab_growth_factor: Option<f64>,
    #[arg(short = 'n', long = "slab-min-size", value_parser = clap::value_parser!(u32).range(1..), hide = true)]
    pub(crate) slab_min_size: Option<u32>,
    #[arg(short = 'N', long = "napi-ids", value_parser = clap::value_parser!(u32).range(1..), hide = true)]
    napi_ids: Option<u32>,
    #[arg(short = 'L', long = "enable-largepages", hide = true)]
    large_pages: bool,
    /// Tell clients no CAS uniques: no compare-and-swap succeeds
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
    /// Print the version
    #[arg(short = 'V', long = "version", action = ArgAction::Version)]
    version: Option<bool>,
}

fn default_threads() -> u16 {
    std::thread::available_parallelism().map_or(4, |count| count.get().min(256) as u16)
}

/// The port to bind for a port as it is told: 0 is off, -1 is a free one.
fn bound_port(told: i32) -> Option<u16> {
    (told != 0).then_some(told.max(0) as u16)
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

fn parse_growth_factor(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&factor| factor > 1.0).ok_or("the factor is greater than 1".to_owned())
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

    /// What is wrong with flags that are right one by one.
    pub(crate) fn check(&self) -> Result<(), String> {
        let protocol = self.protocol.as_deref();
        if self.sasl && protocol.is_some_and(|protocol| protocol != "binary") {
            return Err("SASL (-S) is there in the binary protocol only: leave out -B, or give -B binary".to_owned());
        }
        if self.auth_file.is_some() && protocol.is_some_and(|protocol| protocol != "ascii") {
            return Err("-Y asks for a user in text: leave out -B, or give -B ascii".to_owned());
        }
        if (self.sasl || self.auth_file.is_some()) && self.udp_port != 0 {
            return Err("UDP (-U) cannot ask for a user: leave out -U, or -Y and -S".to_owned());
        }
        if self.cluster.cluster.is_some() && self.udp_port != 0 {
            return Err("a datagram cannot wait for another member: leave out -U, or --cluster".to_owned());
        }
        if self.cluster.cluster.is_some() && self.tls {
            return Err(
                "links between members are not encrypted yet, so -Z and --cluster exclude each other".to_owned()
            );
        }
        if self.item_size_max > self.memory_limit() / 2 {
            return Err("the largest item (-I) cannot be more than half of the memory (-m)".to_owned());
        }
        Ok(())
    }

    /// The flags that were given and mean nothing to this engine, for one line of log.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let given = [
            ("-f", self.slab_growth_factor.is_some()),
            ("-n", self.slab_min_size.is_some()),
            ("-N", self.napi_ids.is_some()),
            ("-L", self.large_pages),
        ];
        let flags = given.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned());
        let meaningless = self.extended.iter().filter(|option| option.is_meaningless());
        flags.chain(meaningless.map(|option| format!("-o {}", option.name))).collect()
    }

    /// What `-o name=value` told last.
    pub(crate) fn told(&self, name: &str) -> Option<&str> {
        self.extended.iter().rev().find(|option| option.name == name)?.value.as_deref()
    }

    /// Whether `-o name` is there.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.extended.iter().any(|option| option.name == name)
    }

    /// Whether a feature of `-o` is on: each is, unless `no_NAME` or `no_modern` came last.
    pub(crate) fn has(&self, name: &str) -> bool {
        let told = self.extended.iter().rev().find_map(|option| match option.name.strip_prefix("no_") {
            Some(off) if off == name || off == "modern" => Some(false),
            _ => (option.name == name).then_some(true),
        });
        told.unwrap_or(true)
    }

    /// What leaves when memory is full.
    pub(crate) fn eviction(&self) -> Eviction {
        if self.no_evictions { Eviction::Never } else { self.eviction }
    }

    /// Bytes of lines that may wait for one client that watches (`-o watcher_logbuf_size`, in KiB).
    pub(crate) fn watcher_buffer(&self) -> usize {
        self.told("watcher_logbuf_size").and_then(|kibibytes| kibibytes.parse().ok()).unwrap_or(256) * 1024
    }

    /// After how long an idle connection is closed; `None` is never.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        let seconds = self.told("idle_timeout")?.parse().ok()?;
        Some(Duration::from_secs(seconds)).filter(|timeout| !timeout.is_zero())
    }

    /// Bytes of a connection's buffer for what TLS has yet to send.
    pub(crate) fn tls_write_buffer(&self) -> usize {
        let kibibytes = self.told("ssl_wbuf_size").and_then(|size| size.parse().ok());
        kibibytes.unwrap_or(16) * 1024
    }

    /// Whether connections above the limit are refused at once; otherwise they wait.
    pub(crate) fn refuses_connections(&self) -> bool {
        self.has("maxconns_fast")
    }

    /// The TCP port to bind, where 0 takes a free one; `None` is off.
    pub(crate) fn tcp_port(&self) -> Option<u16> {
        let default = if self.udp_port == 0 { 11211 } else { self.udp_port };
        bound_port(self.port.unwrap_or(default))
    }

    /// The UDP port to bind, where 0 takes a free one; `None` is off.
    pub(crate) fn udp_port(&self) -> Option<u16> {
        bound_port(self.udp_port)
    }

    /// How connections speak where `-l` does not tell for a listener.
    pub(crate) fn speech(&self) -> Speech {
        let protocol = match self.protocol.as_deref() {
            Some("ascii") => Some(Protocol::Text),
            Some("binary") => Some(Protocol::Binary),
            Some(_) => None,
            None if self.auth_file.is_some() => Some(Protocol::Text),
            None => self.sasl.then_some(Protocol::Binary),
        };
        let client = match self.told("ssl_verify_mode") {
            None | Some("0") => ClientCertificate::NotAsked,
            Some("1") => ClientCertificate::Requested,
            Some(_) => ClientCertificate::Required,
        };
        Speech { protocol, tls: self.tls.then_some(client) }
    }

    /// The addresses to listen on.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>, String> {
        if self.listen.is_empty() {
            return Ok(vec![Address::new("127.0.0.1", self.speech())]);
        }
        let texts = self.listen.iter().flat_map(|text| text.split(';'));
        let addresses: Vec<Address> =
            texts.map(|text| Address::parse(text, self.speech())).collect::<Result<_, String>>()?;
        let asks_in_text = self.auth_file.is_some();
        match addresses.iter().find(|address| asks_in_text && address.speech.protocol != Some(Protocol::Text)) {
            Some(address) => Err(format!("{address}: -Y asks for a user in text, and this listener speaks binary")),
            None => Ok(addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_off_free_or_taken_from_each_other_as_in_memcached() {
        let cases: [(&[&str], Option<u16>, Option<u16>); 7] = [
            (&[], Some(11211), None),
            (&["-p", "0"], None, None),
            (&["-p", "-1"], Some(0), None),
            (&["-U", "7"], Some(7), Some(7)),
            (&["-p", "0", "-U", "7"], None, Some(7)),
            (&["-p", "5", "-U", "7"], Some(5), Some(7)),
            (&["-p", "5", "-p", "6", "-U", "-1"], Some(6), Some(0)),
        ];
        for (arguments, tcp, udp) in cases {
            let settings = Settings::parse_from([&["larder-node"], arguments].concat());
            assert_eq!((settings.tcp_port(), settings.udp_port()), (tcp, udp), "{arguments:?}");
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let wrong: [&[&str]; 7] = [
            &["-S", "-B", "auto"],
            &["-S", "-B", "binary", "-B", "ascii"],
            &["-Y", "users", "-B", "binary"],
            &["-Y", "users", "-U", "11211"],
            &["-S", "-U", "11211"],
            &["-I", "256m"],
            &["-m", "1"],
        ];
        for arguments in wrong {
            assert!(Settings::parse_from([&["larder-node"], arguments].concat()).check().is_err(), "{arguments:?}");
        }
        assert_eq!(Settings::parse_from(["larder-node", "-S", "-B", "binary"]).check(), Ok(()));
    }

    #[test]
    fn the_last_option_of_a_name_holds() {
        let options = |text| Settings::parse_from(["larder-node", "-o", text]);
        assert_eq!(options("idle_timeout=3,idle_timeout=5").idle_timeout(), Some(Duration::from_secs(5)));
        assert!(options("modern").refuses_connections());
        assert!(!options("no_maxconns_fast").refuses_connections());
        assert!(!options("no_modern").refuses_connections());
        assert!(options("no_modern,maxconns_fast").refuses_connections());
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
