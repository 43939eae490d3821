//! The one command set behind the text, meta and binary protocols.

use crate::line::{Words, next_key};

/// Longest key in bytes (`KEY_MAX_LENGTH`, protocol.txt "Keys").
pub const KEY_MAX_LEN: usize = 250;

/// Longest opaque token of a meta command in bytes (protocol.txt "Meta Get", flag O).
pub const OPAQUE_MAX_LEN: usize = 32;

/// A relative expiration time longer than this many seconds is a Unix time (protocol.txt "Expiration times").
pub const RELATIVE_EXPTIME_MAX: i64 = 60 * 60 * 24 * 30;

/// One command and how its answer is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is to be done.
    pub command: Command<'a>,
    /// How the answer is written, and whether there is one.
    pub reply: Reply<'a>,
}

/// An expiration time as a client sends it: 0 is never, negative is at once, up to [`RELATIVE_EXPTIME_MAX`]
/// seconds from now, and beyond that a Unix time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exptime(pub i64);

/// What a client can ask for, whichever protocol it speaks.
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
    /// Change an item's expiration time: `touch`. (`gat`, `mg T` and binary Touch, which answers the client's flags, are a
    /// [`Get`].)
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
    /// Answer and do nothing else: `mn`, binary Noop.
    Noop,
    /// Invalidate every item: `flush_all [delay]`, binary Flush.
    FlushAll {
        /// When to: at once where absent.
        at: Option<Exptime>,
    },
    /// The server's version: `version`.
    Version,
    /// Set the log level: `verbosity`.
    Verbosity {
        /// 0 warnings, 1 information, 2 and above every command.
        level: u32,
    },
    /// Statistics: `stats [group [argument]]`.
    Stats {
        /// Words after `stats`, as sent and without surrounding blanks; empty for the general statistics.
        group: &'a [u8],
    },
    /// Close the connection: `quit`.
    Quit,
    /// An operator's command: [`Admin`].
    Admin(Admin<'a>),
    /// A step of SASL authentication: binary only.
    Sasl(Sasl<'a>),
}

impl<'a> Command<'a> {
    /// The key of a command that has one; of a line with several there is no such.
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

/// Read items, and what to do to them on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get<'a> {
    /// The keys, in the order asked. Only text `get`, `gets`, `gat` and `gats` send more than one.
    pub keys: Keys<'a>,
    /// New expiration time of an item that is found (`gat`, `mg T`).
    pub touch: Option<Exptime>,
    /// Create an empty item with this expiration time on a miss, and win it (`mg N`).
    pub vivify: Option<Exptime>,
    /// Win the right to recache when less than this time remains (`mg R`).
    pub recache: Option<Exptime>,
    /// CAS unique of an item that the command creates or changes (`mg E`).
    pub set_cas: Option<u64>,
    /// Leave the value out where the item's CAS unique is this (`mg C`).
    pub unless_cas: Option<u64>,
    /// Whether the value is wanted.
    pub want_value: bool,
    /// Neither promote the item nor mark it as fetched (`mg u`).
    pub no_bump: bool,
}

impl<'a> Get<'a> {
    /// Reads the keys' values and does nothing else.
    pub fn new(keys: Keys<'a>) -> Self {
        Get {
            keys,
            touch: None,
            vivify: None,
            recache: None,
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
    /// One key, taken as it is (a binary or base64 key may hold any byte).
    One(&'a [u8]),
    /// The rest of a retrieval line: keys of 1 to [`KEY_MAX_LEN`] bytes between runs of blanks, already checked.
    Line(&'a [u8]),
}

impl<'a> Keys<'a> {
    /// The keys in order.
    #[inline]
    pub fn iter(&self) -> KeysIter<'a> {
        match *self {
            Keys::One(key) => KeysIter { one: Some(key), line: b"" },
            Keys::Line(line) => KeysIter { one: None, line },
        }
    }

    /// The key, where there is exactly one.
    pub(crate) fn single(&self) -> Option<&'a [u8]> {
        let mut keys = self.iter();
        keys.next().filter(|_| keys.next().is_none())
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

/// Write an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// The value to store, append or prepend.
    pub value: &'a [u8],
    /// The client's flags, kept with the item and never looked at.
    pub flags: u32,
    /// When the item expires.
    pub exptime: Exptime,
    /// Under which condition, and how.
    pub mode: StoreMode,
    /// Store only if the item's CAS unique is this (`cas`, `ms C`, binary CAS field).
    pub compare_cas: Option<u64>,
    /// CAS unique to give the item (`ms E`).
    pub set_cas: Option<u64>,
    /// Where `compare_cas` is lower than the item's, store all the same and mark the item stale (`ms I`).
    pub invalidate: bool,
    /// Append or prepend creates a missing item with this expiration time (`ms N`).
    pub vivify: Option<Exptime>,
}

impl<'a> Store<'a> {
    /// Stores the value for ever, without client flags and CAS uniques.
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

/// How a [`Store`] treats an item that is there or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// Store in any case (a `cas` is a set with `compare_cas`).
    Set,
    /// Store only where there is no item.
    Add,
    /// Store only where there is an item.
    Replace,
    /// Add the value behind the item's, keeping its flags and expiration time.
    Append,
    /// Add the value before the item's, keeping its flags and expiration time.
    Prepend,
}

/// Remove an item, or mark it as stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// Only if the item's CAS unique is this.
    pub compare_cas: Option<u64>,
    /// CAS unique of an item that stays (`md E`).
    pub set_cas: Option<u64>,
    /// Keep the item, marked stale and with a new CAS unique (`md I`).
    pub invalidate: bool,
    /// With `invalidate` or `remove_value`, the item's new expiration time (`md T`). Where absent, `invalidate` keeps
    /// the old one and `remove_value` means never.
    pub touch: Option<Exptime>,
    /// Keep the item and remove its value and flags (`md x`).
    pub remove_value: bool,
}

impl<'a> Delete<'a> {
    /// Removes the item, whatever its CAS unique.
    #[inline]
    pub fn new(key: &'a [u8]) -> Self {
        Delete { key, compare_cas: None, set_cas: None, invalidate: false, touch: None, remove_value: false }
    }
}

/// Add to or subtract from an item's decimal value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arithmetic<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// How much.
    pub delta: u64,
    /// Up, wrapping at 2^64, or down, stopping at 0.
    pub direction: Direction,
    /// Create a missing item with this expiration time and the value `initial`.
    pub vivify: Option<Exptime>,
    /// The value of an item that is created.
    pub initial: u64,
    /// New expiration time on success (`ma T`).
    pub touch: Option<Exptime>,
    /// Only if the item's CAS unique is this.
    pub compare_cas: Option<u64>,
    /// CAS unique to give the item (`ma E`).
    pub set_cas: Option<u64>,
}

impl<'a> Arithmetic<'a> {
    /// Changes the item's value and nothing else. A missing item stays missing.
    #[inline]
    pub fn new(direction: Direction, key: &'a [u8], delta: u64) -> Self {
        Arithmetic { key, delta, direction, vivify: None, initial: 0, touch: None, compare_cas: None, set_cas: None }
    }
}

/// Which way an [`Arithmetic`] command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Increment.
    Up,
    /// Decrement.
    Down,
}

/// Commands for operators. Text only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin<'a> {
    /// `cache_memlimit <MiB>`.
    CacheMemlimit {
        /// The new limit in MiB.
        mebibytes: u64,
    },
    /// `lru_crawler …`, `lru …`, `slabs …`, `extstore …`, `watch …`, `shutdown …`, `refresh_certs`,
    /// `debugtime …`, `config …`: the first word and the rest of the line, which `node` reads.
    Words {
        /// The command's name.
        name: &'a [u8],
        /// What follows it, without surrounding blanks.
        arguments: &'a [u8],
    },
}

/// Steps of SASL (binary protocol, SASLAuthProtocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sasl<'a> {
    /// List the mechanisms.
    ListMechanisms,
    /// Begin with a mechanism and its first data.
    Auth {
        /// The mechanism's name, for example `PLAIN`.
        mechanism: &'a [u8],
        /// Its data.
        data: &'a [u8],
    },
    /// Go on with a mechanism.
    Step {
        /// The mechanism's name.
        mechanism: &'a [u8],
        /// Its data.
        data: &'a [u8],
    },
}

/// How the answer to a [`Request`] is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Classic text lines.
    Text(TextReply),
    /// A meta command's return code and flags.
    Meta(MetaReply<'a>),
    /// A binary packet.
    Binary(BinaryReply),
}

/// How a classic text command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextReply {
    /// Nothing is answered but errors in the line itself.
    pub noreply: bool,
    /// `VALUE` lines carry the CAS unique (`gets`, `gats`).
    pub with_cas: bool,
    /// More of the same line follows: no `END` yet.
    pub unfinished: bool,
}

/// How a meta command is answered: its flags are given back in the order sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaReply<'a> {
    /// Which command's return codes and quiet rules apply.
    pub command: MetaCommand,
    /// The flag words of the request line, as sent, already checked (blank-separated, each a letter and its token).
    pub flags: &'a [u8],
    /// The key as sent, base64 or not, for the `k` flag.
    pub key: &'a [u8],
    /// Suppress the uninteresting answer (`q`).
    pub quiet: bool,
    /// Length of the request's value (`ms`), which flag `s` tells where nothing was stored.
    pub value_len: usize,
}

impl<'a> MetaReply<'a> {
    /// An answer without flags.
    pub(crate) const EMPTY: MetaReply<'static> =
        MetaReply { command: MetaCommand::Noop, flags: b"", key: b"", quiet: false, value_len: 0 };

    /// The flag words, each a letter and its token.
    #[inline]
    pub fn words(&self) -> Words<'a> {
        Words(self.flags)
    }
}

/// The meta commands, which differ in return codes.
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

/// How a binary request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BinaryReply {
    /// The request's opcode, given back.
    pub opcode: u8,
    /// The request's opaque, given back.
    pub opaque: u32,
}
