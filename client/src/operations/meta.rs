//! The meta commands with all their flags (protocol.txt, "Meta Commands"), for what the plain operations do not do.
//!
//! A request goes to the node that serves the key now, and to no other. The flags k, O, q and b are the client's own.

use std::time::Duration;

use bytes::Bytes;
use larder_protocol::meta::Code;
use larder_protocol::push_number;

use crate::error::Result;
use crate::operations::client::{Accepted, Client, accepted, clamped, exptime};

/// What a node answered to a meta command.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MetaReply {
    /// What became of it.
    pub status: MetaStatus,
    /// The value, where asked for.
    pub value: Option<Bytes>,
    /// The item's flags, where asked for.
    pub flags: u32,
    /// The CAS unique, where asked for.
    pub cas: u64,
    /// Seconds until the item expires; `None` is never, or not asked.
    pub ttl: Option<u32>,
    /// The value's size in bytes, where asked for.
    pub size: Option<u32>,
    /// Seconds since the item was last read, where asked for.
    pub last_access: Option<u32>,
    /// Whether the item had been read before, where asked for.
    pub hit_before: Option<bool>,
    /// The caller has won the right to load the value (W).
    pub won: bool,
    /// Another caller had won it before (Z).
    pub already_won: bool,
    /// The item was invalidated (X).
    pub stale: bool,
}

/// What became of a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaStatus {
    /// It was carried out (HD, VA).
    Done,
    /// There is no such item (EN, NF).
    Missing,
    /// A condition did not hold (NS).
    NotStored,
    /// The CAS unique was another (EX).
    Changed,
}

impl MetaReply {
    fn of(Accepted { code, value, facts }: Accepted) -> MetaReply {
        let status = match code {
            Code::En | Code::Nf => MetaStatus::Missing,
            Code::Ns => MetaStatus::NotStored,
            Code::Ex => MetaStatus::Changed,
            _ => MetaStatus::Done,
        };
        MetaReply {
            status,
            value,
            flags: facts.flags,
            cas: facts.cas,
            ttl: facts.ttl,
            size: facts.size,
            last_access: facts.last_access,
            hit_before: facts.hit_before,
            won: facts.won,
            already_won: facts.already_won,
            stale: facts.stale,
        }
    }
}

/// A command with its flags; each letter once.
#[derive(Debug, Clone)]
struct Request<'c> {
    client: &'c Client,
    name: &'static str,
    key: Vec<u8>,
    value: Option<Bytes>,
    flags: Vec<(u8, Option<u64>)>,
}

impl<'c> Request<'c> {
    fn new(client: &'c Client, name: &'static str, key: &[u8]) -> Self {
        Request { client, name, key: key.to_vec(), value: None, flags: Vec::new() }
    }

    fn set(&mut self, letter: u8, token: Option<u64>) {
        match self.flags.iter_mut().find(|(other, _)| *other == letter) {
            Some(flag) => flag.1 = token,
            None => self.flags.push((letter, token)),
        }
    }

    /// Lets nothing live for longer than `ttl_max`: the node stands in for the key's owner.
    fn limit(&mut self, ttl_max: Duration) {
        if self.name == "ms" && !self.flags.iter().any(|(letter, _)| *letter == b'T') {
            self.set(b'T', Some(0));
        }
        for (letter, token) in &mut self.flags {
            if let (b'T' | b'N', Some(seconds)) = (letter, token) {
                *seconds = exptime(clamped(Duration::from_secs(*seconds), Some(ttl_max)));
            }
        }
    }

    async fn send(mut self) -> Result<MetaReply> {
        let key = self.client.key(&self.key)?.into_owned();
        let _changing = (self.name != "mg").then(|| self.client.changing(&key));
        let (node, ttl_max) = self.client.inner.topology.load().node_of(&key);
        if let Some(ttl_max) = ttl_max {
            self.limit(ttl_max);
        }
        let answer = node.call(|out| {
            out.extend_from_slice(self.name.as_bytes());
            out.push(b' ');
            out.extend_from_slice(&key);
            if let Some(value) = &self.value {
                out.push(b' ');
                push_number(out, value.len());
            }
            for (letter, token) in &self.flags {
                out.extend_from_slice(&[b' ', *letter]);
                match (letter, token) {
                    // The mode of `ms` and `ma` is a letter.
                    (b'M', Some(mode)) => out.push(*mode as u8),
                    (_, Some(number)) => push_number(out, *number),
                    (_, None) => {}
                }
            }
            out.extend_from_slice(b"\r\n");
            if let Some(value) = &self.value {
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        });
        accepted(&node, answer.await?).map(MetaReply::of)
    }
}

/// Makes a builder's methods, each of which sets a flag.
macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty)?) = $letter:literal, $token:expr;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self $(, $argument: $type)?) -> Self {
                self.0.set($letter, $token);
                self
            }
        )*

        /// Sends it.
        ///
        /// # Errors
        /// As the client's plain operations.
        pub async fn send(self) -> Result<MetaReply> {
            self.0.send().await
        }
    };
}

/// `mg`: reads an item, or only what is known of it. Made by [`Client::meta_get`].
///
/// ```no_run
/// # async fn example(cache: larder_client::Client) -> Result<(), larder_client::Error> {
/// // How old is it, without making it younger?
/// let reply = cache.meta_get("user:1").last_access().hit_before().no_bump().send().await?;
/// # let _ = reply;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens before it is sent"]
pub struct MetaGet<'c>(Request<'c>);

impl MetaGet<'_> {
    flags! {
        /// Asks for the value (v).
        value() = b'v', None;
        /// Asks for the item's flags (f).
        flags() = b'f', None;
        /// Asks for the CAS unique (c).
        cas() = b'c', None;
        /// Asks for the time to live that is left (t).
        ttl() = b't', None;
        /// Asks for the value's size (s).
        size() = b's', None;
        /// Asks for the time since the last access (l).
        last_access() = b'l', None;
        /// Asks whether the item was read before (h).
        hit_before() = b'h', None;
        /// Leaves the item as recently used as it was (u).
        no_bump() = b'u', None;
        /// Gives the item a new time to live (T).
        touch(ttl: Duration) = b'T', Some(exptime(ttl));
        /// On a miss makes an empty item that lives for `ttl`, and wins the right to load it (N).
        vivify(ttl: Duration) = b'N', Some(exptime(ttl));
        /// Wins the right to load an item that expires in less than `within` (R).
        recache(within: Duration) = b'R', Some(within.as_secs());
        /// Leaves the value out where the CAS unique is still this (C; larder-node and memcached from 1.6.42 on).
        unless_cas(cas: u64) = b'C', Some(cas);
        /// Gives an item that this makes or changes this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
    }
}

/// `ms`: stores an item. Made by [`Client::meta_set`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before it is sent"]
pub struct MetaSet<'c>(Request<'c>);

impl MetaSet<'_> {
    flags! {
        /// How long it is kept; zero, as without this, until it is evicted (T).
        ttl(ttl: Duration) = b'T', Some(exptime(ttl));
        /// The item's flags (F).
        flags(flags: u32) = b'F', Some(flags.into());
        /// Only where there is no item (ME).
        add() = b'M', Some(b'E'.into());
        /// Only where there is an item (MR).
        replace() = b'M', Some(b'R'.into());
        /// To the end of the item (MA).
        append() = b'M', Some(b'A'.into());
        /// To the front of the item (MP).
        prepend() = b'M', Some(b'P'.into());
        /// With `append` or `prepend`: makes an item that lives for `ttl` where there is none (N).
        vivify(ttl: Duration) = b'N', Some(exptime(ttl));
        /// Only where the CAS unique is this (C).
        cas(cas: u64) = b'C', Some(cas);
        /// Gives the item this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
        /// With `cas`: where that is lower than the item's, stores the value all the same, as stale (I). Mind that an older
        /// value then takes a newer one's place.
        invalidate() = b'I', None;
        /// Asks for the CAS unique (c).
        return_cas() = b'c', None;
        /// Asks for the size stored (s).
        return_size() = b's', None;
    }
}

/// `md`: removes or invalidates an item. Made by [`Client::meta_delete`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before it is sent"]
pub struct MetaDelete<'c>(Request<'c>);

impl MetaDelete<'_> {
    flags! {
        /// Only where the CAS unique is this (C).
        cas(cas: u64) = b'C', Some(cas);
        /// Gives an item that stays this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
        /// Leaves the item there, as stale (I).
        invalidate() = b'I', None;
        /// With `invalidate`: for how long (T).
        ttl(ttl: Duration) = b'T', Some(exptime(ttl));
        /// Leaves an empty item without flags there (x).
        remove_value() = b'x', None;
    }
}

/// `ma`: counts up or down; the new number is the answer's value. Made by [`Client::meta_arithmetic`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before it is sent"]
pub struct MetaArithmetic<'c>(Request<'c>);

impl MetaArithmetic<'_> {
    /// Where there is no item, makes one of this number that lives for `ttl` (J, N).
    pub fn initial(mut self, number: u64, ttl: Duration) -> Self {
        self.0.set(b'J', Some(number));
        self.0.set(b'N', Some(exptime(ttl)));
        self
    }

    flags! {
        /// By how much; 1 unless told (D).
        delta(delta: u64) = b'D', Some(delta);
        /// Down, stopping at 0 (MD).
        decrement() = b'M', Some(b'D'.into());
        /// Gives the item a new time to live (T).
        touch(ttl: Duration) = b'T', Some(exptime(ttl));
        /// Only where the CAS unique is this (C).
        cas(cas: u64) = b'C', Some(cas);
        /// Gives the item this CAS unique (E).
        new_cas(cas: u64) = b'E', Some(cas);
        /// Asks for the CAS unique (c).
        return_cas() = b'c', None;
        /// Asks for the time to live that is left (t).
        return_ttl() = b't', None;
    }
}

impl Client {
    /// A meta get of `key`.
    pub fn meta_get(&self, key: impl AsRef<[u8]>) -> MetaGet<'_> {
        MetaGet(Request::new(self, "mg", key.as_ref()))
    }

    /// A meta set of `key` to `value`.
    pub fn meta_set(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> MetaSet<'_> {
        MetaSet(Request { value: Some(value.into()), ..Request::new(self, "ms", key.as_ref()) })
    }

    /// A meta delete of `key`.
    pub fn meta_delete(&self, key: impl AsRef<[u8]>) -> MetaDelete<'_> {
        MetaDelete(Request::new(self, "md", key.as_ref()))
    }

    /// A meta arithmetic on `key`.
    pub fn meta_arithmetic(&self, key: impl AsRef<[u8]>) -> MetaArithmetic<'_> {
        let mut request = Request::new(self, "ma", key.as_ref());
        request.set(b'v', None);
        MetaArithmetic(request)
    }
}
