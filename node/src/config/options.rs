//! The options of `-o`. An option is one row of a table here, with what memcached checks of its value, and one field of
//! [`Extended`].

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// The extended options (`-o`).
#[derive(Debug, Clone, PartialEq)]
pub struct Extended {
    /// Time after which an idle connection is closed (`idle_timeout`, in seconds); `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Whether connections above the limit of `-c` are refused at once (`maxconns_fast`). Otherwise they wait.
    pub maxconns_fast: bool,
    /// Bytes of log lines that may wait for one client that watches (`watcher_logbuf_size`, in KiB).
    pub watcher_buffer: usize,
    /// Whether `stats sizes` counts items (`track_sizes`).
    pub track_sizes: bool,
    /// Whether dumps and crawls are allowed from the start (`lru_crawler`).
    pub lru_crawler: bool,
    /// The options of TLS (`ssl_…`).
    pub tls: TlsOptions,
    /// Options of memcached's own engine, which change only what `stats` shows.
    pub engine: EngineOptions,
}

impl Default for Extended {
    fn default() -> Self {
        Extended {
            idle_timeout: None,
            maxconns_fast: true,
            watcher_buffer: 256 * KIB,
            track_sizes: false,
            lru_crawler: true,
            tls: TlsOptions::default(),
            engine: EngineOptions::default(),
        }
    }
}

/// The options of TLS. They have an effect only with `-Z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file of the node's certificate and its chain (`ssl_chain_cert`).
    pub chain_cert: Option<PathBuf>,
    /// File of the certificate's key (`ssl_key`); without it, the key is read from `chain_cert`.
    pub key: Option<PathBuf>,
    /// Whether the key is in DER, not in PEM (`ssl_keyformat`: 2 is DER).
    pub key_is_der: bool,
    /// Which certificate a client must show (`ssl_verify_mode`): 0 none, 1 requested, 2 and 3 required.
    pub verify_mode: u32,
    /// PEM file of the authorities that sign clients' certificates (`ssl_ca_cert`).
    pub ca_cert: Option<PathBuf>,
    /// OpenSSL's names of the ciphers of TLS 1.2, separated by colons (`ssl_ciphers`).
    pub ciphers: Option<String>,
    /// Bytes of a connection's buffer for data that TLS has not yet sent (`ssl_wbuf_size`, in KiB).
    pub write_buffer: usize,
    /// Whether clients can resume sessions (`ssl_session_cache`).
    pub session_cache: bool,
    /// Lowest version of TLS 1 (`ssl_min_version`). 1.2 is the lowest that is spoken.
    pub min_version: u32,
    /// Whether `ssl_kernel_tls` was given, which has no effect.
    pub kernel_tls: bool,
}

impl Default for TlsOptions {
    fn default() -> Self {
        TlsOptions {
            chain_cert: None,
            key: None,
            key_is_der: false,
            verify_mode: 0,
            ca_cert: None,
            ciphers: None,
            write_buffer: 16 * KIB,
            session_cache: false,
            min_version: 2,
            kernel_tls: false,
        }
    }
}

/// Options of memcached's own engine. They are accepted so that command lines keep working, and logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Whether `stats` shows the LRU maintainer (`lru_maintainer`).
    pub lru_maintainer: bool,
    /// Whether `stats` shows the moving of slab pages (`slab_reassign`).
    pub slab_reassign: bool,
    /// The mode of the slab automover (`slab_automove`).
    pub slab_automove: u32,
    given: Vec<ParsedOption>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { lru_maintainer: true, slab_reassign: true, slab_automove: 1, given: Vec::new() }
    }
}

impl EngineOptions {
    /// Returns the names of the options that were given, in their order.
    pub(crate) fn given(&self) -> impl Iterator<Item = &'static str> {
        self.given.iter().map(|option| option.row.name)
    }

    /// Whether `temporary_ttl` was given.
    pub(crate) fn has_temporary_ttl(&self) -> bool {
        self.given().any(|name| name == "temporary_ttl")
    }

    /// Returns the lines of `stats settings` that show these options: as they were given, or memcached's defaults.
    pub(crate) fn statistics(&self) -> impl Iterator<Item = (&'static str, String)> {
        ENGINE_ROWS.iter().filter_map(|row| {
            let given = self.given.iter().rev().find(|option| option.row.name == row.name);
            let value = given.and_then(|option| option.value.as_deref());
            match row.role {
                Role::Shown(statistic, default) => Some((statistic, value.unwrap_or(default).to_owned())),
                Role::ShownInBytes(default, unit) => {
                    let units = value.and_then(|value| value.parse().ok()).unwrap_or(default);
                    Some((row.name, units.saturating_mul(unit).to_string()))
                }
                Role::Sets(_) | Role::Ignored => None,
            }
        })
    }
}

const KIB: usize = 1024;

/// One option.
#[derive(Debug)]
struct Row {
    name: &'static str,
    takes: Takes,
    role: Role,
}

/// The values that an option takes behind its `=`.
#[derive(Debug)]
enum Takes {
    /// No value; one that is given is not looked at.
    Nothing,
    /// A whole number of this range.
    Whole(RangeInclusive<u32>),
    /// A whole number of this range, or no value.
    MaybeWhole(RangeInclusive<u32>),
    /// A number above 0, and at most this.
    Above0(f64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any text.
    Text,
}

/// The effect of an option.
#[derive(Debug)]
enum Role {
    /// Sets a field.
    Sets(fn(&mut Extended, Value<'_>)),
    /// Is shown by `stats settings`: the statistic's name, and memcached's default.
    Shown(&'static str, &'static str),
    /// Is shown by `stats settings` under its own name, in bytes: memcached's default, and the bytes of a unit.
    ShownInBytes(u64, u64),
    /// None.
    Ignored,
}

/// The value of an option, which [`Takes::check`] has accepted.
#[derive(Clone, Copy)]
struct Value<'a>(Option<&'a str>);

impl Value<'_> {
    /// Returns the number of an option that takes one; `None` without a value.
    fn number(self) -> Option<u32> {
        self.0?.parse().ok()
    }

    /// Returns the bytes of a number of KiB; 0 without a value.
    fn kibibytes(self) -> usize {
        self.number().map_or(0, |number| number as usize * KIB)
    }

    fn text(self) -> Option<String> {
        self.0.map(str::to_owned)
    }

    fn path(self) -> Option<PathBuf> {
        self.0.map(PathBuf::from)
    }
}

use Role::{Ignored, Sets, Shown, ShownInBytes};
use Takes::{Above0, MaybeWhole, Nothing, OneOf, Text, Whole};

const ANY: RangeInclusive<u32> = 0..=u32::MAX;
const SECONDS: u32 = i32::MAX as u32;

const fn row(name: &'static str, takes: Takes, role: Role) -> Row {
    Row { name, takes, role }
}

/// Options that this node acts on. The last one of a name holds; `no_modern` turns off what is on by default.
static ROWS: &[Row] = &[
    row("maxconns_fast", Nothing, Sets(|all, _| all.maxconns_fast = true)),
    row("no_maxconns_fast", Nothing, Sets(|all, _| all.maxconns_fast = false)),
    row("modern", Nothing, Ignored),
    row("no_modern", Nothing, Sets(|all, _| no_modern(all))),
    row("idle_timeout", Whole(0..=SECONDS), Sets(|all, value| all.idle_timeout = idle_timeout(value))),
    row("watcher_logbuf_size", Whole(ANY), Sets(|all, value| all.watcher_buffer = value.kibibytes())),
    row("track_sizes", Nothing, Sets(|all, _| all.track_sizes = true)),
    row("lru_crawler", Nothing, Sets(|all, _| all.lru_crawler = true)),
    row("no_lru_crawler", Nothing, Sets(|all, _| all.lru_crawler = false)),
    row("ssl_chain_cert", Text, Sets(|all, value| all.tls.chain_cert = value.path())),
    row("ssl_key", Text, Sets(|all, value| all.tls.key = value.path())),
    row("ssl_keyformat", Whole(1..=2), Sets(|all, value| all.tls.key_is_der = value.number() == Some(2))),
    row("ssl_verify_mode", Whole(0..=3), Sets(|all, value| all.tls.verify_mode = value.number().unwrap_or(0))),
    row("ssl_ca_cert", Text, Sets(|all, value| all.tls.ca_cert = value.path())),
    row("ssl_ciphers", Text, Sets(|all, value| all.tls.ciphers = value.text())),
    row("ssl_wbuf_size", Whole(1..=1024 * 1024), Sets(|all, value| all.tls.write_buffer = value.kibibytes())),
    row("ssl_session_cache", Nothing, Sets(|all, _| all.tls.session_cache = true)),
    row("ssl_min_version", Whole(0..=3), Sets(|all, value| all.tls.min_version = value.number().unwrap_or(2))),
];

/// Options that only memcached's own engine needs.
static ENGINE_ROWS: &[Row] = &[
    row("hashpower", Whole(12..=32), Shown("hashpower_init", "0")),
    row("no_hashexpand", Nothing, Ignored),
    row("hash_algorithm", OneOf(&["jenkins", "murmur3", "xxh3"]), Ignored),
    row("tail_repair_time", Whole(10..=SECONDS), Shown("tail_repair_time", "0")),
    row("lru_crawler_sleep", Whole(0..=1_000_000), Shown("lru_crawler_sleep", "100")),
    row("lru_crawler_tocrawl", Whole(ANY), Shown("lru_crawler_tocrawl", "0")),
    row("lru_maintainer", Nothing, Sets(|all, _| all.engine.lru_maintainer = true)),
    row("no_lru_maintainer", Nothing, Sets(|all, _| all.engine.lru_maintainer = false)),
    row("hot_lru_pct", Whole(1..=79), Shown("hot_lru_pct", "20")),
    row("warm_lru_pct", Whole(1..=79), Shown("warm_lru_pct", "40")),
    row("hot_max_factor", Above0(f64::MAX), Shown("hot_max_factor", "0.20")),
    row("warm_max_factor", Above0(f64::MAX), Shown("warm_max_factor", "2.00")),
    row("temporary_ttl", Whole(ANY), Shown("temporary_ttl", "61")),
    row("slab_reassign", Nothing, Sets(|all, _| all.engine.slab_reassign = true)),
    row("no_slab_reassign", Nothing, Sets(|all, _| all.engine.slab_reassign = false)),
    row("slab_automove", MaybeWhole(0..=2), Sets(|all, value| all.engine.slab_automove = value.number().unwrap_or(1))),
    row("no_slab_automove", Nothing, Sets(|all, _| all.engine.slab_automove = 0)),
    row("slab_automove_ratio", Above0(1.0), Shown("slab_automove_ratio", "0.80")),
    row("slab_automove_freeratio", Above0(1.0), Ignored),
    row("slab_automove_window", Whole(3..=1800), Shown("slab_automove_window", "10")),
    row("slab_chunk_max", Whole(1..=1024), ShownInBytes(512, 1 << 10)),
    row("slab_sizes", Text, Ignored),
    row("no_chunked_items", Nothing, Ignored),
    row("worker_logbuf_size", Whole(ANY), ShownInBytes(64, 1 << 10)),
    row("inline_ascii_resp", Nothing, Ignored),
    row("no_inline_ascii_resp", Nothing, Ignored),
    row("read_buf_mem_limit", Whole(ANY), ShownInBytes(0, 1 << 20)),
    row("resp_obj_mem_limit", MaybeWhole(ANY), Ignored),
    row("drop_privileges", Nothing, Ignored),
    row("no_drop_privileges", Nothing, Ignored),
    row("relaxed_privileges", Nothing, Ignored),
    row("ssl_kernel_tls", Nothing, Sets(|all, _| all.tls.kernel_tls = true)),
    row("sock_cookie_id", Whole(ANY), Ignored),
];

fn no_modern(all: &mut Extended) {
    (all.maxconns_fast, all.lru_crawler) = (false, false);
    (all.engine.lru_maintainer, all.engine.slab_reassign, all.engine.slab_automove) = (false, false, 0);
}

/// Returns the timeout of a number of seconds, of which 0 is never.
fn idle_timeout(value: Value<'_>) -> Option<Duration> {
    value.number().filter(|&seconds| seconds > 0).map(|seconds| Duration::from_secs(seconds.into()))
}

/// Why an option of `-o` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("there is no external storage here: leave out ext_… and give memory by -m")]
    ExternalStorage,
    #[error("there is no proxy here: leave out proxy_…")]
    Proxy,
    #[error("unknown option {0:?}")]
    Unknown(String),
    #[error("{0} needs a value: {0}=…")]
    NoValue(&'static str),
    #[error("{name} is {expected}, not {value:?}")]
    Value { name: &'static str, expected: String, value: String },
}

/// One option of the list: its row, and a value that the row accepts.
#[derive(Debug, Clone)]
pub(crate) struct ParsedOption {
    row: &'static Row,
    value: Option<String>,
}

impl PartialEq for ParsedOption {
    fn eq(&self, other: &Self) -> bool {
        (self.row.name, &self.value) == (other.row.name, &other.value)
    }
}

impl Eq for ParsedOption {}

impl ParsedOption {
    /// Parses an element of the list, which may be empty: templates leave commas behind.
    ///
    /// # Errors
    ///
    /// Those of [`ParsedOption::parse`].
    fn parse_element(element: &str) -> Result<Option<ParsedOption>, OptionError> {
        Some(element.trim()).filter(|option| !option.is_empty()).map(ParsedOption::parse).transpose()
    }

    /// Parses `name` or `name=value`.
    ///
    /// # Errors
    ///
    /// [`OptionError`] if no row has this name, or its row does not accept the value.
    pub(crate) fn parse(option: &str) -> Result<ParsedOption, OptionError> {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        if name.starts_with("ext_") {
            return Err(OptionError::ExternalStorage);
        }
        if name.starts_with("proxy_") {
            return Err(OptionError::Proxy);
        }
        let row = ROWS.iter().chain(ENGINE_ROWS).find(|row| row.name == name);
        let row = row.ok_or_else(|| OptionError::Unknown(name.to_owned()))?;
        row.check(value)?;
        Ok(ParsedOption { row, value: value.map(str::to_owned) })
    }

    fn is_of_the_engine(&self) -> bool {
        ENGINE_ROWS.iter().any(|row| row.name == self.row.name)
    }

    fn apply(&self, extended: &mut Extended) {
        if let Sets(set) = self.row.role {
            set(extended, Value(self.value.as_deref()));
        }
        if self.is_of_the_engine() {
            extended.engine.given.push(self.clone());
        }
    }
}

impl Row {
    fn check(&self, value: Option<&str>) -> Result<(), OptionError> {
        let refuse = |expected: String, value: &str| {
            Err(OptionError::Value { name: self.name, expected, value: value.to_owned() })
        };
        match (&self.takes, value) {
            (Nothing | MaybeWhole(_), None) | (Nothing, Some(_)) | (Text, Some(_)) => Ok(()),
            (_, None) => Err(OptionError::NoValue(self.name)),
            (Whole(range) | MaybeWhole(range), Some(value)) => match value.parse() {
                Ok(number) if range.contains(&number) => Ok(()),
                _ => refuse(format!("a whole number from {} to {}", range.start(), range.end()), value),
            },
            (Above0(most), Some(value)) => match value.parse::<f64>() {
                Ok(number) if number > 0.0 && number <= *most => Ok(()),
                _ if *most == f64::MAX => refuse("a number above 0".to_owned(), value),
                _ => refuse(format!("a number above 0 and at most {most}"), value),
            },
            (OneOf(words), Some(value)) if words.contains(&value) => Ok(()),
            (OneOf(words), Some(value)) => refuse(format!("one of {}", words.join(", ")), value),
        }
    }
}

/// Name of the argument among clap's.
const EXTENDED: &str = "extended";

impl Args for Extended {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new(EXTENDED)
                .short('o')
                .long("extended")
                .value_name("OPTIONS")
                .value_delimiter(',')
                .value_parser(ParsedOption::parse_element)
                .action(ArgAction::Append)
                .help_heading("Compatibility")
                .help("memcached's extended options, with commas: idle_timeout=SECONDS, ssl_chain_cert=FILE, …")
                .long_help(
                    "memcached's extended options, with commas:\n\
                     idle_timeout=SECONDS         closes connections that are idle for so long\n\
                     no_maxconns_fast             lets connections above -c wait instead of refusing them\n\
                     track_sizes                  lets stats sizes count items\n\
                     watcher_logbuf_size=KIB      lines that wait for a client that watches\n\
                     ssl_chain_cert=FILE          the certificate and its chain (PEM)\n\
                     ssl_key=FILE                 its key; without it, the key is in the chain's file\n\
                     ssl_keyformat=1|2            the key is PEM (1) or DER (2)\n\
                     ssl_verify_mode=0..3         asks clients for a certificate: no, if they have one, must (2, 3)\n\
                     ssl_ca_cert=FILE             authorities that sign clients' certificates (PEM)\n\
                     ssl_ciphers=NAMES            OpenSSL's names of suites for TLS 1.2, with colons\n\
                     ssl_wbuf_size=KIB            buffer of a connection\n\
                     ssl_session_cache            lets clients resume sessions\n\
                     ssl_min_version=2|3          TLS 1.2 or 1.3 at least\n\
                     Those that tune memcached's own engine are accepted, logged, and without effect.",
                ),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Extended::augment_args(command)
    }
}

impl FromArgMatches for Extended {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut extended = Extended::default();
        for option in matches.get_many::<Option<ParsedOption>>(EXTENDED).into_iter().flatten().flatten() {
            option.apply(&mut extended);
        }
        Ok(extended)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Extended::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_their_values_checked() {
        let mut extended = Extended::default();
        let option = ParsedOption::parse("idle_timeout=30").unwrap();
        assert!(!option.is_of_the_engine());
        option.apply(&mut extended);
        assert_eq!(extended, Extended { idle_timeout: Some(Duration::from_secs(30)), ..Extended::default() });
        for meaningless in ["no_hashexpand", "hashpower=20", "slab_automove", "slab_automove=2", "hot_max_factor=0.2"] {
            assert!(ParsedOption::parse(meaningless).unwrap().is_of_the_engine(), "{meaningless}");
        }
        let wrong = [
            "idle_timeout",
            "idle_timeout=soon",
            "hashpower=11",
            "hashpower=33",
            "hash_algorithm=md5",
            "slab_automove_ratio=0",
            "slab_automove_ratio=1.1",
            "slab_automove_window=2",
            "tail_repair_time=9",
            "ssl_verify_mode=4",
            "ssl_chain_cert",
            "ext_path=/data:1g",
            "no_such_option",
            "no_idle_timeout",
            "",
        ];
        for wrong in wrong {
            assert!(ParsedOption::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refused_option_is_named_with_the_values_that_it_takes() {
        let message = |option| ParsedOption::parse(option).unwrap_err().to_string();
        assert_eq!(message("idle_timeout"), "idle_timeout needs a value: idle_timeout=…");
        assert_eq!(message("hashpower=11"), "hashpower is a whole number from 12 to 32, not \"11\"");
        assert_eq!(message("hash_algorithm=md5"), "hash_algorithm is one of jenkins, murmur3, xxh3, not \"md5\"");
        assert_eq!(message("no_such_option"), "unknown option \"no_such_option\"");
    }

    #[test]
    fn options_of_memcacheds_engine_are_shown_as_they_were_given() {
        let mut extended = Extended::default();
        for option in ["hot_max_factor=0.3", "read_buf_mem_limit=2", "hashpower=20", "hashpower=21"] {
            ParsedOption::parse(option).unwrap().apply(&mut extended);
        }
        let shown: Vec<_> = extended.engine.statistics().collect();
        for (name, value) in [
            ("hashpower_init", "21"),
            ("hot_max_factor", "0.3"),
            ("warm_max_factor", "2.00"),
            ("read_buf_mem_limit", "2097152"),
            ("slab_chunk_max", "524288"),
        ] {
            assert!(shown.contains(&(name, value.to_owned())), "{name}: {shown:?}");
        }
    }
}
