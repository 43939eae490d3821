//! The one command set behind the text, meta and binary protocols.

use crate::line::{Words, next_key, trim};

/// Longest key in bytes (memcached's `KEY_MAX_LENGTH`; protocol.txt, "Keys").
pub const KEY_MAX_LEN: usize = 250;

/// Longest opaque token of a meta command in bytes, its flag letter included (memcached's `MFLAG_MAX_OPAQUE_LENGTH`).
pub const OPAQUE_MAX_LEN: usize = 32;

/// Largest relative expiration time in seconds (30 days). A larger one is a Unix time (protocol.txt, "Expiration
/// times").
pub const RELATIVE_EXPTIME_MAX: i64 = 60 * 60 * 24 * 30;

/// A command with the form of its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The command to execute.
    pub command: Command<'a>,
    /// Form of the reply, and whether one is sent.
    pub reply: Reply<'a>,
}

/// An expiration time as a client sends it, in seconds (protocol.txt, "Expiration times").
///
/// 0 is never, a negative number is at once, a number up to [`RELATIVE_EXPTIME_MAX`] counts from now, and a larger one
/// is a Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exptime(pub i64);

/// A command of the one command set, in whichever protocol it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// Read one item or several: `get`, `gets`, `gat`, `gats`, `mg`, binary Get, GetK, Touch, GAT and GATK.
    Get(Get<'a>),
    /// Write an item: `set`, `add`, `replace`, `append`, `prepend`, `cas`, `ms` and their binary forms.
    Store(Store<'a>),
    /// Remove or invalidate an item: `delete`, `md`, binary Delete.
    Delete(Delete<'a>),
    /// Add to or subtract from a decimal value: `incr`, `decr`, `ma`, binary Increment and Decrement.
    Arithmetic(Arithmetic<'a>),
    /// Change an item's expiration time: `touch`. `gat`, `mg T` and binary Touch, which answers the client flags, are
    /// each a [`Get`].
    Touch {
        /// The item's key.
        key: &'a [u8],
        /// Its new expiration time.
        exptime: Exptime,
    },
    /// Show an item's metadata: `me`.
    Debug {
        /// The item's key.
        key: &'a [u8],
    },
    /// Send a reply and do nothing else: `mn`, binary Noop.
    Noop,
    /// Invalidate every item: `flush_all [delay]`, binary Flush.
    FlushAll {
        /// Time of the invalidation; `None` is at once.
        at: Option<Exptime>,
    },
    /// Report the server's version: `version`, binary Version.
    Version,
    /// Set the log level: `verbosity`, binary Verbosity.
    Verbosity {
        /// 0 warnings, 1 information, 2 and above every command.
        level: u32,
    },
    /// Report statistics: `stats [group [argument]]`, binary Stat.
    Stats {
        /// The words after `stats` as sent, without surrounding blanks. Empty for the general statistics.
        group: &'a [u8],
    },
    /// Close the connection: `quit`, binary Quit.
    Quit,
    /// An operator's command: [`Admin`].
    Admin(Admin<'a>),
    /// Authenticate by SASL: binary only.
    Sasl(Sasl<'a>),
}

impl<'a> Command<'a> {
    /// Returns the key of a single-key command; `None` for commands with no key or with a line of keys.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Command::Get(Get { keys: Keys::One(key), .. })
            | Command::Store(Store { key, .. })
            | Command::Delete(Delete { key, .. })
            | Command::Arithmetic(Arithmetic { key, .. })
            | Command::Touch { key, .. }
            | Command::Debug { key } => Some(key),
            Command::Get(Get { keys: Keys::Line(_), .. })
            | Command::Noop
            | Command::FlushAll { .. }
            | Command::Version
            | Command::Verbosity { .. }
            | Command::Stats { .. }
            | Command::Quit
            | Command::Admin(_)
            | Command::Sasl(_) => None,
        }
    }
}

/// Reads items, and may touch, create or claim them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get<'a> {
    /// The keys in the order sent. Only text `get`, `gets`, `gat` and `gats` send several.
    pub keys: Keys<'a>,
    /// New expiration time of a found item (`gat`, `mg T`).
    pub touch: Option<Exptime>,
    /// On a miss, creates an empty item with this expiration time; the caller wins the right to fill it (`mg N`).
    pub vivify: Option<Exptime>,
    /// The caller wins the right to recache an item that expires in less than this time (`mg R`).
    pub recache: Option<Exptime>,
    /// `touch` also sets the expiration time of an item that `vivify` creates (`T` follows `N` in the line).
    pub touch_vivified: bool,
    /// `recache` looks at the expiration time that `touch` sets (`R` follows `T` in the line).
    pub recache_touched: bool,
    /// CAS unique for an item that the command creates or changes (`mg E`).
    pub set_cas: Option<u64>,
    /// Omits the value if the item has this CAS unique (`mg C`).
    pub unless_cas: Option<u64>,
    /// Whether the reply has the value.
    pub want_value: bool,
    /// Neither promotes the item nor marks it as fetched (`mg u`).
    pub no_bump: bool,
}

impl<'a> Get<'a> {
    /// Returns a command that reads the keys' values and does nothing else.
    pub fn new(keys: Keys<'a>) -> Self {
        Get {
            keys,
            touch: None,
            vivify: None,
            recache: None,
            touch_vivified: false,
            recache_touched: false,
            set_cas: None,
            unless_cas: None,
            want_value: true,
            no_bump: false,
        }
    }
}

/// One key, or the blank-separated keys of a text retrieval line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys<'a> {
    /// One key as it is. A binary or base64 key may have any byte.
    One(&'a [u8]),
    /// The keys of a retrieval line: each of 1 to [`KEY_MAX_LEN`] bytes (checked), separated by runs of blanks.
    Line(&'a [u8]),
}

impl<'a> Keys<'a> {
    /// Returns the keys in order.
    #[inline]
    pub fn iter(&self) -> KeysIter<'a> {
        match *self {
            Keys::One(key) => KeysIter { one: Some(key), line: b"" },
            Keys::Line(line) => KeysIter { one: None, line },
        }
    }

    /// Returns the first `count` keys of a line, and the rest of the line, which is empty if there are no more.
    #[inline]
    pub fn split(line: &'a [u8], count: usize) -> (Keys<'a>, &'a [u8]) {
        let mut rest = line;
        (0..count).try_for_each(|_| next_key(&mut rest).map(drop));
        match trim(rest) {
            [] => (Keys::Line(line), b""),
            _ => (Keys::Line(&line[..line.len() - rest.len()]), rest),
        }
    }

    /// Returns the key if there is exactly one.
    pub(crate) fn single(&self) -> Option<&'a [u8]> {
        match *self {
            Keys::One(key) => Some(key),
            Keys::Line(mut line) => next_key(&mut line).filter(|_| next_key(&mut line).is_none()),
        }
    }
}

/// Iterator over [`Keys`].
#[derive(Debug, Clone)]
pub struct KeysIter<'a> {
    one: Option<&'a [u8]>,
    line: &'a [u8],
}

impl<'a> Iterator for KeysIter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(key) = self.one.take() {
            return Some(key);
        }
        next_key(&mut self.line)
    }
}

/// Writes an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// The value to store, append or prepend.
    pub value: &'a [u8],
    /// The client flags: opaque bits that are kept with the item.
    pub flags: u32,
    /// The item's expiration time.
    pub exptime: Exptime,
    /// Condition and kind of the write.
    pub mode: StoreMode,
    /// Writes only if the item has this CAS unique (`cas`, `ms C`, binary CAS field).
    pub compare_cas: Option<u64>,
    /// New CAS unique of the item (`ms E`).
    pub set_cas: Option<u64>,
    /// If `compare_cas` is lower than the item's CAS unique, stores the value nevertheless and marks the item stale
    /// (`ms I`).
    pub invalidate: bool,
    /// Makes an append or prepend create a missing item, with this expiration time (`ms N`).
    pub vivify: Option<Exptime>,
}

impl<'a> Store<'a> {
    /// Returns a command that stores the value without client flags, expiration time and CAS unique.
    #[inline]
    pub fn new(mode: StoreMode, key: &'a [u8], value: &'a [u8]) -> Self {
        Store {
            key,
            value,
            flags: 0,
            exptime: Exptime(0),
            mode,
            compare_cas: None,
            set_cas: None,
            invalidate: false,
            vivify: None,
        }
    }
}

/// Condition and kind of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// Stores unconditionally. A `cas` is a set with `compare_cas`.
    Set,
    /// Stores only if the item does not exist.
    Add,
    /// Stores only if the item exists.
    Replace,
    /// Appends to the item's value and keeps its flags and expiration time.
    Append,
    /// Prepends to the item's value and keeps its flags and expiration time.
    Prepend,
}

/// Removes an item, marks it stale, or empties it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// Acts only if the item has this CAS unique.
    pub compare_cas: Option<u64>,
    /// New CAS unique of an item that is kept (`md E`).
    pub set_cas: Option<u64>,
    /// Keeps the item, marks it stale and gives it a new CAS unique (`md I`).
    pub invalidate: bool,
    /// New expiration time of an item that is kept (`md T`). If it is `None`, `invalidate` keeps the old one and
    /// `remove_value` sets none.
    pub touch: Option<Exptime>,
    /// Keeps the item and removes its value (`md x`). Its client flags become `flags`.
    pub remove_value: bool,
    /// Client flags of an item whose value is removed (`md F`).
    pub flags: u32,
}

impl<'a> Delete<'a> {
    /// Returns a command that removes the item unconditionally.
    #[inline]
    pub fn new(key: &'a [u8]) -> Self {
        Delete { key, compare_cas: None, set_cas: None, invalidate: false, touch: None, remove_value: false, flags: 0 }
    }
}

/// Adds to or subtracts from an item's decimal value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arithmetic<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// The amount.
    pub delta: u64,
    /// Addition wraps at 2^64; subtraction stops at 0.
    pub direction: Direction,
    /// Creates a missing item with this expiration time and the value `initial`.
    pub vivify: Option<Exptime>,
    /// Value of an item that `vivify` creates.
    pub initial: u64,
    /// New expiration time if the command succeeds (`ma T`).
    pub touch: Option<Exptime>,
    /// `touch` also sets the expiration time of an item that `vivify` creates (`T` follows `N` in the line).
    pub touch_vivified: bool,
    /// Acts only if the item has this CAS unique.
    pub compare_cas: Option<u64>,
    /// New CAS unique of the item (`ma E`).
    pub set_cas: Option<u64>,
}

impl<'a> Arithmetic<'a> {
    /// Returns a command that changes an existing item's value and nothing else.
    #[inline]
    pub fn new(direction: Direction, key: &'a [u8], delta: u64) -> Self {
        Arithmetic {
            key,
            delta,
            direction,
            vivify: None,
            initial: 0,
            touch: None,
            touch_vivified: false,
            compare_cas: None,
            set_cas: None,
        }
    }
}

/// Sign of an [`Arithmetic`] command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Addition (`incr`).
    Up,
    /// Subtraction (`decr`).
    Down,
}

/// Commands for operators: text only, but for [`Admin::Config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin<'a> {
    /// `cache_memlimit <MiB>`.
    CacheMemlimit {
        /// The new limit in MiB.
        mebibytes: u64,
    },
    /// `config get <key>`, and binary opcode 0x60: the list of nodes, under the key `cluster` (the auto-discovery of
    /// managed memcache services).
    Config {
        /// The key.
        key: &'a [u8],
    },
    /// `lru_crawler …`, `lru …`, `slabs …`, `watch …`, `shutdown …`, `refresh_certs`, `debugtime …`, `config …`: the
    /// words, which the server reads.
    Words {
        /// The command's name.
        name: &'a [u8],
        /// The rest of the line, without surrounding blanks.
        arguments: &'a [u8],
    },
}

/// Steps of SASL authentication (memcached's wiki, "SASLAuthProtocol").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sasl<'a> {
    /// Lists the mechanisms.
    ListMechanisms,
    /// Begins with a mechanism and its first data.
    Auth {
        /// The mechanism's name, for example `PLAIN`.
        mechanism: &'a [u8],
        /// Its data.
        data: &'a [u8],
    },
    /// Continues with a mechanism.
    Step {
        /// The mechanism's name.
        mechanism: &'a [u8],
        /// Its data.
        data: &'a [u8],
    },
}

/// Form of the reply to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Classic text lines.
    Text(TextReply),
    /// A meta command's return code and flags.
    Meta(MetaReply<'a>),
    /// A binary packet.
    Binary(BinaryReply),
}

/// Form of the reply to a classic text command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextReply {
    /// No reply is sent (`noreply`), except for errors that are found before that word is read.
    pub noreply: bool,
    /// `VALUE` lines have the CAS unique (`gets`, `gats`).
    pub with_cas: bool,
    /// Another part of the same line follows, so this one has no `END` ([`Decoded::Part`](crate::Decoded::Part)).
    pub unfinished: bool,
}

/// Form of the reply to a meta command: its flags are answered in the order sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaReply<'a> {
    /// The command, whose return codes and quiet rule apply.
    pub command: MetaCommand,
    /// The flag words of the request as sent and already checked: separated by blanks, each a letter and its token.
    pub flags: &'a [u8],
    /// The key as sent, perhaps in base64, for flag `k`.
    pub key: &'a [u8],
    /// The command's nominal reply is not sent (`q`).
    pub quiet: bool,
    /// Length in bytes of the request's value (`ms`), which flag `s` reports if nothing was stored.
    pub value_len: usize,
}

impl<'a> MetaReply<'a> {
    /// A reply without flags.
    pub(crate) const EMPTY: MetaReply<'static> =
        MetaReply { command: MetaCommand::Noop, flags: b"", key: b"", quiet: false, value_len: 0 };

    /// Returns the flag words, each a letter and its token.
    #[inline]
    pub fn words(&self) -> Words<'a> {
        Words(self.flags)
    }
}

/// The meta commands. Their return codes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaCommand {
    /// `mg`
    Get,
    /// `ms`
    Set,
    /// `md`
    Delete,
    /// `ma`
    Arithmetic,
    /// `mn`
    Noop,
    /// `me`
    Debug,
}

/// Form of the reply to a binary request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BinaryReply {
    /// The request's opcode, which the reply repeats.
    pub opcode: u8,
    /// The request's opaque, which the reply repeats.
    pub opaque: u32,
}
