//! The meta commands with all their flags (protocol.txt, "Meta Commands"), for uses that the plain operations lack.
//!
//! A request goes to the node that serves the key now, and to no other. The client itself uses the flags k, O, q and b.

use std::time::Duration;

use bytes::Bytes;
use larder_protocol::meta::{Code, Line};
use larder_protocol::{Direction, StoreMode};

use crate::error::Result;
use crate::exchange::{Reply, accepted};
use crate::operations::client::Client;
use crate::ttl::{clamped, exptime};

/// A node's reply to a meta command.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MetaReply {
    /// The result of the command.
    pub status: MetaStatus,
    /// The value, if requested.
    pub value: Option<Bytes>,
    /// The item's flags, if requested.
    pub flags: u32,
    /// The CAS unique, if requested.
    pub cas: u64,
    /// Seconds until the item expires; `None` if never, or if not requested.
    pub ttl: Option<u32>,
    /// The value's size in bytes, if requested.
    pub size: Option<u32>,
    /// Seconds since the item was last read, if requested.
    pub last_access: Option<u32>,
    /// Whether the item had been read before, if requested.
    pub hit_before: Option<bool>,
    /// The caller has won the right to load the value (W).
    pub won: bool,
    /// Another caller had won it before (Z).
    pub already_won: bool,
    /// The item was invalidated (X).
    pub stale: bool,
}

/// The result of a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaStatus {
    /// The command was carried out (HD, VA).
    Done,
    /// The item does not exist (EN, NF).
    Missing,
    /// A condition did not hold (NS).
    NotStored,
    /// The CAS unique differs (EX).
    Changed,
}

impl MetaReply {
    fn of(Reply { code, value, flags }: Reply) -> MetaReply {
        let status = match code {
            Code::En | Code::Nf => MetaStatus::Missing,
            Code::Ns => MetaStatus::NotStored,
            Code::Ex => MetaStatus::Changed,
            _ => MetaStatus::Done,
        };
        MetaReply {
            status,
            value,
            flags: flags.client_flags,
            cas: flags.cas,
            ttl: flags.ttl,
            size: flags.size,
            last_access: flags.last_access,
            hit_before: flags.hit_before,
            won: flags.won,
            already_won: flags.already_won,
            stale: flags.stale,
        }
    }
}

/// A command with its flags; each letter once.
#[derive(Debug, Clone)]
struct Request<'c> {
    client: &'c Client,
    command: Command,
    key: Vec<u8>,
    flags: Vec<(u8, Option<u64>)>,
}

#[derive(Debug, Clone)]
enum Command {
    Get,
    Set { value: Bytes, mode: StoreMode },
    Delete,
    Arithmetic { direction: Direction },
}

impl<'c> Request<'c> {
    fn new(client: &'c Client, command: Command, key: &[u8]) -> Self {
        Request { client, command, key: key.to_vec(), flags: Vec::new() }
    }

    /// The operation's name in the metrics.
    fn name(&self) -> &'static str {
        match self.command {
            Command::Get => "get",
            Command::Set { .. } => "set",
            Command::Delete => "delete",
            Command::Arithmetic { .. } => "arithmetic",
        }
    }

    fn set(&mut self, letter: u8, token: Option<u64>) {
        match self.flags.iter_mut().find(|(other, _)| *other == letter) {
            Some(flag) => flag.1 = token,
            None => self.flags.push((letter, token)),
        }
    }

    fn set_mode(&mut self, new: StoreMode) {
        if let Command::Set { mode, .. } = &mut self.command {
            *mode = new;
        }
    }

    /// Limits every time to live to `ttl_max`: the node stands in for the key's owner.
    fn limit(&mut self, ttl_max: Duration) {
        if matches!(self.command, Command::Set { .. }) && !self.flags.iter().any(|(letter, _)| *letter == b'T') {
            self.set(b'T', Some(0));
        }
        for (letter, token) in &mut self.flags {
            if let (b'T' | b'N', Some(ttl)) = (letter, token) {
                *ttl = seconds(clamped(Duration::from_secs(*ttl), Some(ttl_max)));
            }
        }
    }

    fn encode(&self, key: &[u8], out: &mut Vec<u8>) {
        let mut line = match &self.command {
            Command::Get => Line::get(out, key),
            Command::Set { value, .. } => Line::set(out, key, value),
            Command::Delete => Line::delete(out, key),
            Command::Arithmetic { .. } => Line::arithmetic(out, key),
        };
        match self.command {
            Command::Set { mode, .. } => _ = line.store_mode(mode),
            Command::Arithmetic { direction } => _ = line.direction(direction),
            Command::Get | Command::Delete => {}
        }
        for &(letter, number) in &self.flags {
            match number {
                Some(number) => line.number(letter, number),
                None => line.flag(letter),
            };
        }
        line.end();
    }

    async fn send(mut self) -> Result<MetaReply> {
        let key = self.client.key(&self.key)?.into_owned();
        let (writing, reading);
        let (node, ttl_max) = match self.command {
            Command::Get => {
                reading = self.client.inner.topology.load().node_of(&key);
                (&reading.0, reading.1)
            }
            _ => {
                writing = self.client.writer(&key);
                (&writing.node, writing.ttl_max)
            }
        };
        if let Some(ttl_max) = ttl_max {
            self.limit(ttl_max);
        }
        let answer = node.call(self.name(), |out| self.encode(&key, out)).await?;
        accepted(node, answer).map(MetaReply::of)
    }
}

/// Returns a time to live as the token of a flag.
fn seconds(ttl: Duration) -> u64 {
    exptime(ttl).0 as u64
}

/// Defines the methods of a builder; each sets a flag.
macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty)?) = $letter:literal, $token:expr;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self $(, $argument: $type)?) -> Self {
                self.0.set($letter, $token);
                self
            }
        )*

        /// Sends the command.
        ///
        /// # Errors
        /// Those of [`Client::get`].
        pub async fn send(self) -> Result<MetaReply> {
            self.0.send().await
        }
    };
}

/// `mg`: reads an item, or only its metadata. Made by [`Client::meta_get`].
///
/// ```no_run
/// # async fn example(cache: larder_client::Client) -> Result<(), larder_client::Error> {
/// // The age of the item, without marking it as used.
/// let reply = cache.meta_get("user:1").last_access().hit_before().no_bump().send().await?;
/// # let _ = reply;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "the command is not sent before `send`"]
pub struct MetaGet<'c>(Request<'c>);

impl MetaGet<'_> {
    flags! {
        /// Requests the value (v).
        value() = b'v', None;
        /// Requests the item's flags (f).
        flags() = b'f', None;
        /// Requests the CAS unique (c).
        cas() = b'c', None;
        /// Requests the remaining time to live (t).
        ttl() = b't', None;
        /// Requests the value's size (s).
        size() = b's', None;
        /// Requests the time since the last access (l).
        last_access() = b'l', None;
        /// Requests whether the item was read before (h).
        hit_before() = b'h', None;
        /// Does not mark the item as used (u).
        no_bump() = b'u', None;
        /// Gives the item a new time to live (T).
        touch(ttl: Duration) = b'T', Some(seconds(ttl));
        /// On a miss, creates an empty item that lives for `ttl`, and wins the right to load it (N).
        vivify(ttl: Duration) = b'N', Some(seconds(ttl));
        /// Wins the right to load an item that expires in less than `within` (R).
        recache(within: Duration) = b'R', Some(within.as_secs());
        /// Omits the value if the item still has this CAS unique (C; larder-node and memcached from 1.6.42 on).
        unless_cas(cas: u64) = b'C', Some(cas);
        /// Gives an item that this command creates or changes this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
    }
}

/// `ms`: stores an item. Made by [`Client::meta_set`].
#[derive(Debug, Clone)]
#[must_use = "the command is not sent before `send`"]
pub struct MetaSet<'c>(Request<'c>);

impl MetaSet<'_> {
    /// Stores only if there is no item (ME).
    pub fn add(mut self) -> Self {
        self.0.set_mode(StoreMode::Add);
        self
    }

    /// Stores only if there is an item (MR).
    pub fn replace(mut self) -> Self {
        self.0.set_mode(StoreMode::Replace);
        self
    }

    /// Appends to the item (MA).
    pub fn append(mut self) -> Self {
        self.0.set_mode(StoreMode::Append);
        self
    }

    /// Prepends to the item (MP).
    pub fn prepend(mut self) -> Self {
        self.0.set_mode(StoreMode::Prepend);
        self
    }

    flags! {
        /// Sets the time to live (T). Zero, the default, keeps the item until it is evicted.
        ttl(ttl: Duration) = b'T', Some(seconds(ttl));
        /// Sets the item's flags (F).
        flags(flags: u32) = b'F', Some(flags.into());
        /// With `append` or `prepend`: creates an item that lives for `ttl` if there is none (N).
        vivify(ttl: Duration) = b'N', Some(seconds(ttl));
        /// Takes effect only if the item has this CAS unique (C).
        cas(cas: u64) = b'C', Some(cas);
        /// Gives the item this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
        /// With `cas`: stores the value even if that is lower than the item's CAS unique, and marks it as stale (I). An
        /// older value then replaces a newer one.
        invalidate() = b'I', None;
        /// Requests the CAS unique (c).
        return_cas() = b'c', None;
        /// Requests the stored size (s).
        return_size() = b's', None;
    }
}

/// `md`: removes or invalidates an item. Made by [`Client::meta_delete`].
#[derive(Debug, Clone)]
#[must_use = "the command is not sent before `send`"]
pub struct MetaDelete<'c>(Request<'c>);

impl MetaDelete<'_> {
    flags! {
        /// Takes effect only if the item has this CAS unique (C).
        cas(cas: u64) = b'C', Some(cas);
        /// Gives an item that is kept this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
        /// Marks the item as stale instead of deleting it (I).
        invalidate() = b'I', None;
        /// With `invalidate`: sets the time to live of the stale item (T).
        ttl(ttl: Duration) = b'T', Some(seconds(ttl));
        /// Keeps the item, with an empty value and no flags (x).
        remove_value() = b'x', None;
    }
}

/// `ma`: adds to or subtracts from a number; the new number is the reply's value. Made by [`Client::meta_arithmetic`].
#[derive(Debug, Clone)]
#[must_use = "the command is not sent before `send`"]
pub struct MetaArithmetic<'c>(Request<'c>);

impl MetaArithmetic<'_> {
    /// Subtracts, stopping at 0 (MD).
    pub fn decrement(mut self) -> Self {
        self.0.command = Command::Arithmetic { direction: Direction::Down };
        self
    }

    /// Creates an item with this number that lives for `ttl` if there is none (J, N).
    pub fn initial(mut self, number: u64, ttl: Duration) -> Self {
        self.0.set(b'J', Some(number));
        self.0.set(b'N', Some(seconds(ttl)));
        self
    }

    flags! {
        /// Sets the number to add or subtract, 1 by default (D).
        delta(delta: u64) = b'D', Some(delta);
        /// Gives the item a new time to live (T).
        touch(ttl: Duration) = b'T', Some(seconds(ttl));
        /// Takes effect only if the item has this CAS unique (C).
        cas(cas: u64) = b'C', Some(cas);
        /// Gives the item this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
        /// Requests the CAS unique (c).
        return_cas() = b'c', None;
        /// Requests the remaining time to live (t).
        return_ttl() = b't', None;
    }
}

impl Client {
    /// Begins a meta get of `key`.
    pub fn meta_get(&self, key: impl AsRef<[u8]>) -> MetaGet<'_> {
        MetaGet(Request::new(self, Command::Get, key.as_ref()))
    }

    /// Begins a meta set of `key` to `value`.
    pub fn meta_set(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> MetaSet<'_> {
        let command = Command::Set { value: value.into(), mode: StoreMode::Set };
        MetaSet(Request::new(self, command, key.as_ref()))
    }

    /// Begins a meta delete of `key`.
    pub fn meta_delete(&self, key: impl AsRef<[u8]>) -> MetaDelete<'_> {
        MetaDelete(Request::new(self, Command::Delete, key.as_ref()))
    }

    /// Begins a meta arithmetic command on `key`.
    pub fn meta_arithmetic(&self, key: impl AsRef<[u8]>) -> MetaArithmetic<'_> {
        let mut request = Request::new(self, Command::Arithmetic { direction: Direction::Up }, key.as_ref());
        request.set(b'v', None);
        MetaArithmetic(request)
    }
}
