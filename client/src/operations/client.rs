//! The client: memcache's operations on one key.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_protocol::meta::Code;
use larder_protocol::{RELATIVE_EXPTIME_MAX, push_number};

use crate::cluster::node::Node;
use crate::cluster::topology::{Hedge, Topology, hedged};
use crate::connection::link::{Answer, Facts};
use crate::error::{Error, Result};
use crate::key;
use crate::metrics::LoadMetrics;
use crate::near_cache::{Changing, Near};
use crate::single_flight::Flights;
use crate::value::flag;

/// A value with what the server keeps beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// The flags it was stored with.
    pub flags: u32,
    /// Its CAS unique, for [`Client::cas`].
    pub cas: u64,
}

/// What came of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was stored.
    Yes,
    /// The condition did not hold: there was an item (add) or none (replace, append, prepend).
    No,
    /// Another writer changed the item since it was read (cas).
    Changed,
    /// There is no such item any more (cas).
    Gone,
}

/// A memcache client. Clones share connections; keep one for the program.
///
/// ```no_run
/// use std::time::Duration;
/// use larder_client::Client;
///
/// # async fn example() -> Result<(), larder_client::Error> {
/// let cache = Client::builder().servers(["10.0.1.1:11211", "10.0.1.2:11211"]).build()?;
/// cache.set("greeting", "hello", Duration::from_secs(60)).await?;
/// assert_eq!(cache.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("topology", &self.inner.topology.load()).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) topology: ArcSwap<Topology>,
    pub(crate) loads: Flights,
    pub(crate) lease: Duration,
    pub(crate) hash_long_keys: bool,
    pub(crate) near: Option<Near>,
    pub(crate) metrics: LoadMetrics,
}

impl Client {
    /// The value of `key`; `None` is a miss.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let key = self.key(key.as_ref())?;
        let (node, hedge) = self.inner.topology.load().reader_of(&key);
        let answer = match hedge {
            None => call_node(&node, b"mg", &key, |out| out.extend_from_slice(b" v")).await?,
            Some(hedge) => Box::pin(read_hedged(node, hedge, &key, b" v")).await?,
        };
        match answer.is_plain() {
            true => Ok(answer.value),
            // Boxed, so that the common case stays small.
            false => Box::pin(self.look_closer(&key, answer.facts.won)).await,
        }
    }

    /// As [`Client::get`], with flags and CAS unique.
    #[doc(alias = "gets")]
    pub async fn get_item(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let key = self.key(key.as_ref())?;
        let (node, hedge) = self.inner.topology.load().reader_of(&key);
        let answer = match hedge {
            None => read_at(&node, &key, b" v c f", None).await?,
            Some(hedge) => Box::pin(read_hedged(node, hedge, &key, b" v c f")).await?,
        };
        Ok(answer.item())
    }

    /// As [`Client::get`], and gives the item a new time to live.
    #[doc(alias = "gat")]
    pub async fn get_and_touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<Option<Bytes>> {
        let answer = self.read_and_touch(key.as_ref(), b" v c f", ttl).await?;
        Ok(answer.item().map(|item| item.value))
    }

    /// Stores a value. A `ttl` of zero keeps it until it is evicted; parts of a second count as a whole one.
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<()> {
        self.store(key.as_ref(), value.as_ref(), ttl, 0, b"").await.map(|_| ())
    }

    /// Stores a value where there is none.
    pub async fn add(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Stored> {
        self.store(key.as_ref(), value.as_ref(), ttl, 0, b" ME").await
    }

    /// Stores a value where there is one already.
    pub async fn replace(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Stored> {
        self.store(key.as_ref(), value.as_ref(), ttl, 0, b" MR").await
    }

    /// Adds to the end of a value that is there.
    pub async fn append(&self, key: impl AsRef<[u8]>, tail: impl AsRef<[u8]>) -> Result<Stored> {
        self.store(key.as_ref(), tail.as_ref(), Duration::ZERO, 0, b" MA").await
    }

    /// Adds to the front of a value that is there.
    pub async fn prepend(&self, key: impl AsRef<[u8]>, head: impl AsRef<[u8]>) -> Result<Stored> {
        self.store(key.as_ref(), head.as_ref(), Duration::ZERO, 0, b" MP").await
    }

    /// Stores a value if nobody changed the item since it had CAS unique `cas` (see [`Client::get_item`], and
    /// [`Client::update`], which tries again where somebody did).
    pub async fn cas(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration, cas: u64) -> Result<Stored> {
        let mut flags = Vec::with_capacity(24);
        flags.extend_from_slice(b" C");
        push_number(&mut flags, cas);
        self.store(key.as_ref(), value.as_ref(), ttl, 0, &flags).await
    }

    /// Removes an item; `false` where there was none. After a change is committed, this keeps old values out: also one
    /// that a caller of [`Client::get_or_load`] has read and not yet stored.
    ///
    /// # Errors
    /// Where the key's owner could not be reached, which may then keep the old value: delete again, or the value lives on for
    /// its time to live.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.delete_copies(key.as_ref(), |_| ()).await
    }

    /// As [`Client::delete`], and lets those who read through the cache take the old value for up to `stale_for` while one of
    /// them loads the new one. For [`Client::get`] the item is gone at once.
    pub async fn invalidate(&self, key: impl AsRef<[u8]>, stale_for: Duration) -> Result<bool> {
        let flags = |out: &mut Vec<u8>| {
            out.extend_from_slice(b" I");
            // For ever is too long to be stale.
            push_ttl(out, b'T', stale_for.max(Duration::from_secs(1)));
        };
        self.delete_copies(key.as_ref(), flags).await
    }

    /// Gives an item a new time to live; `false` where there is none.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool> {
        let answer = self.read_and_touch(key.as_ref(), b"", ttl).await?;
        Ok(answer.code == Code::Hd && !answer.facts.stale)
    }

    /// Adds to a decimal value, wrapping at 2^64, and returns the new one; `None` where there is no item.
    pub async fn incr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.calculate(key.as_ref(), b" MI", delta, None).await
    }

    /// Subtracts from a decimal value, stopping at 0, and returns the new one; `None` where there is no item.
    pub async fn decr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.calculate(key.as_ref(), b" MD", delta, None).await
    }

    /// As [`Client::incr`]; where there is no item it is made with the value `initial`, which is returned, and kept for `ttl`.
    pub async fn incr_or_init(&self, key: impl AsRef<[u8]>, delta: u64, initial: u64, ttl: Duration) -> Result<u64> {
        Ok(self.calculate(key.as_ref(), b" MI", delta, Some((initial, ttl))).await?.unwrap_or(initial))
    }

    /// As [`Client::decr`]; where there is no item it is made with the value `initial`, which is returned, and kept for `ttl`.
    pub async fn decr_or_init(&self, key: impl AsRef<[u8]>, delta: u64, initial: u64, ttl: Duration) -> Result<u64> {
        Ok(self.calculate(key.as_ref(), b" MD", delta, Some((initial, ttl))).await?.unwrap_or(initial))
    }

    /// The key to send.
    #[inline]
    pub(crate) fn key<'k>(&self, key: &'k [u8]) -> Result<Cow<'k, [u8]>> {
        key::checked(key, self.inner.hash_long_keys)
    }

    /// To be kept while a key is changed.
    #[inline]
    pub(crate) fn changing<'a>(&'a self, key: &'a [u8]) -> Option<Changing<'a>> {
        self.inner.near.as_ref().map(|near| near.changing(key))
    }

    /// Reads with `mg` and `flags`, and gives the item a new time to live.
    async fn read_and_touch(&self, key: &[u8], flags: &[u8], ttl: Duration) -> Result<Accepted> {
        let key = self.key(key)?;
        let (node, ttl_max) = self.inner.topology.load().node_of(&key);
        read_at(&node, &key, flags, Some(clamped(ttl, ttl_max))).await
    }

    /// The value behind an answer that was not plain; with `won` the right to load it came along.
    #[cold]
    pub(crate) async fn look_closer(&self, key: &[u8], won: bool) -> Result<Option<Bytes>> {
        if won {
            let key = self.key(key)?;
            let (node, _) = self.inner.topology.load().node_of(&key);
            give_back(&node, &key, None, true).await;
            return Ok(None);
        }
        Ok(self.get_item(key).await?.map(|item| item.value))
    }

    async fn calculate(
        &self,
        key: &[u8],
        mode: &[u8],
        delta: u64,
        initial: Option<(u64, Duration)>,
    ) -> Result<Option<u64>> {
        let key = self.key(key)?;
        let _changing = self.changing(&key);
        let (node, ttl_max) = self.inner.topology.load().node_of(&key);
        let answer = call_node(&node, b"ma", &key, |out| {
            out.extend_from_slice(b" v");
            out.extend_from_slice(mode);
            out.extend_from_slice(b" D");
            push_number(out, delta);
            if let Some((initial, ttl)) = initial {
                out.extend_from_slice(b" J");
                push_number(out, initial);
                push_ttl(out, b'N', clamped(ttl, ttl_max));
            }
        });
        Ok(answer.await?.value.and_then(|digits| std::str::from_utf8(&digits).ok()?.parse().ok()))
    }

    pub(crate) async fn store(
        &self,
        key: &[u8],
        value: &[u8],
        ttl: Duration,
        client_flags: u32,
        mode: &[u8],
    ) -> Result<Stored> {
        let key = self.key(key)?;
        let _changing = self.changing(&key);
        let (node, ttl_max) = self.inner.topology.load().node_of(&key);
        store_at(&node, ttl_max, &key, value, ttl, |out| {
            if client_flags != 0 {
                out.extend_from_slice(b" F");
                push_number(out, client_flags);
            }
            out.extend_from_slice(mode);
        })
        .await
    }

    /// Deletes on the key's owner and where a copy may be; what the owner answered.
    pub(crate) async fn delete_copies(&self, key: &[u8], flags: impl Fn(&mut Vec<u8>)) -> Result<bool> {
        let key = self.key(key)?;
        let _changing = self.changing(&key);
        let nodes = self.inner.topology.load().copies(&key);
        let deletes = nodes.iter().map(|node| call_node(node, b"md", &key, &flags));
        let mut results = futures_util::future::join_all(deletes).await.into_iter();
        let of_owner = results.next().unwrap_or(Ok(Accepted::MISS))?;
        // The stand-in may be down while the owner is up; what it kept dies with it or with its short time to live.
        let _ = results.next();
        Ok(of_owner.code == Code::Hd)
    }
}

/// Reads with `mg` and `flags` at a node, and gives the item a new time to live where there is one to give.
///
/// Whoever reads an item that was invalidated wins the right to load it, asked or not. Here it goes back.
async fn read_at(node: &Node, key: &[u8], flags: &[u8], ttl: Option<Duration>) -> Result<Accepted> {
    let answer = call_node(node, b"mg", key, |out| {
        out.extend_from_slice(flags);
        if let Some(ttl) = ttl {
            push_ttl(out, b'T', ttl);
        }
    })
    .await?;
    if answer.facts.stale && (ttl.is_some() || answer.facts.won) {
        // What was invalidated may not become older than its writer allowed.
        give_back(node, key, None, ttl.is_none()).await;
    }
    Ok(answer)
}

/// Reads with `mg` and `flags` at a node, and elsewhere too where that takes long ([`Builder::hedge`](crate::Builder::hedge)).
///
/// The right to load, where one of the two reads wins it, goes back there.
async fn read_hedged(node: Arc<Node>, hedge: Hedge, key: &[u8], flags: &'static [u8]) -> Result<Accepted> {
    let at = |node: Arc<Node>| {
        let key = key.to_vec();
        async move {
            let mut answer = call_node(&node, b"mg", &key, |out| out.extend_from_slice(flags)).await?;
            if std::mem::take(&mut answer.facts.won) {
                give_back(&node, &key, None, true).await;
            }
            Ok(answer)
        }
    };
    hedged(hedge.after, at(node), at(hedge.node)).await
}

/// Sends the meta command `name` for `key` with the flags that `flags` writes.
pub(crate) async fn call_node(
    node: &Node,
    name: &[u8],
    key: &[u8],
    flags: impl FnOnce(&mut Vec<u8>),
) -> Result<Accepted> {
    let answer = node
        .call(|out| {
            out.extend_from_slice(name);
            out.push(b' ');
            out.extend_from_slice(key);
            flags(out);
            out.extend_from_slice(b"\r\n");
        })
        .await?;
    accepted(node, answer)
}

/// Stores on this node, where an item may live for `ttl_max`, with the further flags that `flags` writes.
pub(crate) async fn store_at(
    node: &Node,
    ttl_max: Option<Duration>,
    key: &[u8],
    value: &[u8],
    ttl: Duration,
    flags: impl FnOnce(&mut Vec<u8>),
) -> Result<Stored> {
    let answer = node
        .call(|out| {
            out.extend_from_slice(b"ms ");
            out.extend_from_slice(key);
            out.push(b' ');
            push_number(out, value.len());
            push_ttl(out, b'T', clamped(ttl, ttl_max));
            flags(out);
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        })
        .await?;
    Ok(match accepted(node, answer)?.code {
        Code::Hd => Stored::Yes,
        Code::Ex => Stored::Changed,
        Code::Nf => Stored::Gone,
        _ => Stored::No,
    })
}

/// Gives the right to load a key back; `keep` leaves the value there, as stale. Without a CAS unique a later item may be met:
/// it is loaded once more than it had to be.
pub(crate) async fn give_back(node: &Node, key: &[u8], cas: Option<u64>, keep: bool) {
    let returned = call_node(node, b"md", key, |out| {
        if let Some(cas) = cas {
            out.extend_from_slice(b" C");
            push_number(out, cas);
        }
        if keep {
            out.extend_from_slice(b" I");
        }
    });
    if let Err(error) = returned.await {
        tracing::debug!(%error, "a lease was not given back");
    }
}

pub(crate) fn accepted(node: &Node, answer: Answer) -> Result<Accepted> {
    match answer {
        Answer::Code { code, value, facts } => Ok(Accepted { code, value, facts }),
        Answer::Refused(line) => Err(Error::Refused { node: node.address().clone(), line }),
    }
}

/// An answer that is no error.
pub(crate) struct Accepted {
    pub(crate) code: Code,
    pub(crate) value: Option<Bytes>,
    pub(crate) facts: Facts,
}

impl Accepted {
    const MISS: Accepted = Accepted { code: Code::Nf, value: None, facts: Facts::NONE };

    /// Whether the value, if any, is what it seems. One that is empty or was invalidated takes a closer look, with all flags.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.value.as_ref().is_none_or(|value| !value.is_empty() && !self.facts.stale)
    }

    /// The item, unless it is none to a plain reader: the empty value that stands for a load under way, a value that was
    /// invalidated, or the note that the datastore has none.
    pub(crate) fn item(self) -> Option<Item> {
        let Facts { cas, flags, won, already_won, stale, .. } = self.facts;
        let is_none = |value: &Bytes| stale || value.is_empty() && (won || already_won || flags & flag::ABSENT != 0);
        let value = self.value.filter(|value| !is_none(value))?;
        Some(Item { value, flags, cas })
    }
}

/// A time to live on a node that keeps items for at most `ttl_max`.
pub(crate) fn clamped(ttl: Duration, ttl_max: Option<Duration>) -> Duration {
    match ttl_max {
        // Zero is for ever.
        Some(ttl_max) if ttl.is_zero() || ttl > ttl_max => ttl_max,
        _ => ttl,
    }
}

/// Longer than anybody waits, and short enough to be added to the clock.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A time to live as it is sent: whole seconds, rounded up. Beyond 30 days it must be a Unix time.
pub(crate) fn exptime(ttl: Duration) -> u64 {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    if seconds <= RELATIVE_EXPTIME_MAX as u64 {
        return seconds;
    }
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    (unix.saturating_add(seconds)).min(i32::MAX as u64)
}

/// Appends the flag `letter` (T, N) for a time to live.
pub(crate) fn push_ttl(out: &mut Vec<u8>, letter: u8, ttl: Duration) {
    out.extend_from_slice(&[b' ', letter]);
    push_number(out, exptime(ttl));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_counts_parts_of_a_second_as_a_whole_one_and_months_as_unix_time() {
        assert_eq!(exptime(Duration::ZERO), 0);
        assert_eq!(exptime(Duration::from_millis(1)), 1);
        assert_eq!(exptime(Duration::from_secs(2_592_000)), 2_592_000);
        assert!(exptime(Duration::from_secs(2_592_001)) > 1_700_000_000);
        assert_eq!(exptime(Duration::MAX), i32::MAX as u64);
    }
}
