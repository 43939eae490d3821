//! The client: memcache's operations on one key.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_protocol::meta::{Code, Line};
use larder_protocol::{Direction, StoreMode};

use crate::cluster::node::{Node, NodeStatus};
use crate::cluster::topology::Topology;
use crate::error::{Error, Result};
use crate::exchange::{
    Item, Reply, Stored, Storing, Verb, call_node, give_back, read_at, read_hedged, store_reply, stored,
    value_cas_and_flags,
};
use crate::key;
use crate::metrics::LoadMetrics;
use crate::near_cache::{Changing, NearCache};
use crate::single_flight::Flights;
use crate::ttl::{YEAR, clamped, exptime};

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
    pub(crate) near: Option<NearCache>,
    pub(crate) metrics: LoadMetrics,
}

/// The node that a key is written to. While this lives, the near cache does not take the key; when it is dropped, the
/// near cache forgets the key.
pub(crate) struct Writing<'a> {
    pub(crate) node: Arc<Node>,
    /// Longest time to live on this node, if it stands in for the key's owner.
    pub(crate) ttl_max: Option<Duration>,
    _change: Option<Changing<'a>>,
}

impl Client {
    /// Returns the value of `key`; `None` is a miss.
    ///
    /// # Errors
    /// As every operation of this client: [`Error::InvalidKey`], [`Error::Timeout`], [`Error::Down`], and
    /// [`Error::Refused`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let key = self.key(key.as_ref())?;
        let (node, hedge) = self.inner.topology.load().reader_of(&key);
        let reply = match hedge {
            None => call_node(&node, Verb::Get, &key, |line| _ = line.flag(b'v')).await?,
            Some(hedge) => Box::pin(read_hedged(node, hedge, &key, |line| _ = line.flag(b'v'))).await?,
        };
        match reply.is_plain() {
            true => Ok(reply.value),
            // Boxed, so that the common case stays small.
            false => Box::pin(self.read_again(&key, reply.flags.won)).await,
        }
    }

    /// Like [`Client::get`], with flags and CAS unique.
    #[doc(alias = "gets")]
    pub async fn get_item(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let key = self.key(key.as_ref())?;
        let (node, hedge) = self.inner.topology.load().reader_of(&key);
        let reply = match hedge {
            None => read_at(&node, &key, value_cas_and_flags, None).await?,
            Some(hedge) => Box::pin(read_hedged(node, hedge, &key, value_cas_and_flags)).await?,
        };
        Ok(reply.item())
    }

    /// Like [`Client::get`]; the item gets a new time to live.
    #[doc(alias = "gat")]
    pub async fn get_and_touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<Option<Bytes>> {
        let reply = self.read_and_touch(key.as_ref(), value_cas_and_flags, ttl).await?;
        Ok(reply.item().map(|item| item.value))
    }

    /// Stores a value. A `ttl` of zero keeps it until it is evicted; a part of a second counts as a whole one.
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<()> {
        self.store(key.as_ref(), Storing::set(value.as_ref(), ttl, 0)).await.map(|_| ())
    }

    /// Stores a value if there is no item.
    ///
    /// While a caller of [`Client::get_or_load`] loads the key, the placeholder of that load counts as an item, for at
    /// most [`Builder::lease`](crate::Builder::lease). So does the note that the datastore has no such thing.
    pub async fn add(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Stored> {
        let storing = Storing { mode: StoreMode::Add, ..Storing::set(value.as_ref(), ttl, 0) };
        self.store(key.as_ref(), storing).await
    }

    /// Stores a value if there is an item. The placeholder of a load under way and the note that the datastore has no
    /// such thing count as one, as for [`Client::add`].
    pub async fn replace(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Stored> {
        let storing = Storing { mode: StoreMode::Replace, ..Storing::set(value.as_ref(), ttl, 0) };
        self.store(key.as_ref(), storing).await
    }

    /// Appends to the value of an item. [`Stored::No`] if there is none, or only the placeholder of a load under way.
    pub async fn append(&self, key: impl AsRef<[u8]>, tail: impl AsRef<[u8]>) -> Result<Stored> {
        self.extend(key.as_ref(), tail.as_ref(), StoreMode::Append).await
    }

    /// Prepends to the value of an item. [`Stored::No`] if there is none, or only the placeholder of a load under way.
    pub async fn prepend(&self, key: impl AsRef<[u8]>, head: impl AsRef<[u8]>) -> Result<Stored> {
        self.extend(key.as_ref(), head.as_ref(), StoreMode::Prepend).await
    }

    /// Stores a value if the item still has the CAS unique `cas` (see [`Client::get_item`], and [`Client::update`],
    /// which tries again after another writer's change).
    ///
    /// # Errors
    /// [`Error::NoCas`] if `cas` is 0, which servers without CAS uniques report for every item.
    pub async fn cas(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration, cas: u64) -> Result<Stored> {
        if cas == 0 {
            let key = self.key(key.as_ref())?;
            return Err(Error::NoCas { node: self.writer(&key).node.address().clone() });
        }
        self.store(key.as_ref(), Storing { cas: Some(cas), ..Storing::set(value.as_ref(), ttl, 0) }).await
    }

    /// Deletes an item; `false` if there was none. After a commit, this keeps old values out, including a value that a
    /// caller of [`Client::get_or_load`] has read from the datastore and not stored yet.
    ///
    /// # Errors
    /// An error means that the key's owner could not be reached and may keep the old value. Delete again: otherwise the
    /// old value lives on for its time to live.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.delete_copies(key.as_ref(), |_| ()).await
    }

    /// Like [`Client::delete`], but callers that read through the cache may use the old value for up to `stale_for`
    /// while one of them loads the new one. For [`Client::get`] the item is gone at once.
    pub async fn invalidate(&self, key: impl AsRef<[u8]>, stale_for: Duration) -> Result<bool> {
        let flags = |line: &mut Line<'_>| {
            // Zero would mean forever.
            line.flag(b'I').exptime(b'T', exptime(stale_for.max(Duration::from_secs(1))));
        };
        self.delete_copies(key.as_ref(), flags).await
    }

    /// Gives an item a new time to live; `false` if there is none.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool> {
        let reply = self.read_and_touch(key.as_ref(), |_| (), ttl).await?;
        Ok(reply.code == Code::Hd && !reply.flags.stale)
    }

    /// Adds to a decimal value, modulo 2^64, and returns the new one; `None` if there is no item.
    pub async fn incr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.calculate(key.as_ref(), Direction::Up, delta, None).await
    }

    /// Subtracts from a decimal value, stopping at 0, and returns the new one; `None` if there is no item.
    pub async fn decr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.calculate(key.as_ref(), Direction::Down, delta, None).await
    }

    /// Like [`Client::incr`]. If there is no item, one with the value `initial` is created, kept for `ttl`, and
    /// `initial` is returned.
    pub async fn incr_or_init(&self, key: impl AsRef<[u8]>, delta: u64, initial: u64, ttl: Duration) -> Result<u64> {
        Ok(self.calculate(key.as_ref(), Direction::Up, delta, Some((initial, ttl))).await?.unwrap_or(initial))
    }

    /// Like [`Client::decr`]. If there is no item, one with the value `initial` is created, kept for `ttl`, and
    /// `initial` is returned.
    pub async fn decr_or_init(&self, key: impl AsRef<[u8]>, delta: u64, initial: u64, ttl: Duration) -> Result<u64> {
        Ok(self.calculate(key.as_ref(), Direction::Down, delta, Some((initial, ttl))).await?.unwrap_or(initial))
    }

    /// Returns the nodes with the state of their circuits: first those of the ring, in the order of the servers given
    /// or discovered, then those of the gutter.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.inner.topology.load().nodes.iter().map(|node| node.status()).collect()
    }

    /// Returns the index, in [`Client::nodes`], of the node that owns `key`.
    ///
    /// While that node is down, another one may stand in (see [`Failover`](crate::Failover)).
    pub fn owner(&self, key: impl AsRef<[u8]>) -> usize {
        self.inner.topology.load().ring.owner(key.as_ref())
    }

    /// Returns the key as it is sent.
    #[inline]
    pub(crate) fn key<'k>(&self, key: &'k [u8]) -> Result<Cow<'k, [u8]>> {
        key::checked(key, self.inner.hash_long_keys)
    }

    /// Returns the node that `key` is written to. Every write takes its node from here, because the near cache learns
    /// of the change by it.
    #[inline]
    pub(crate) fn writer<'a>(&'a self, key: &'a [u8]) -> Writing<'a> {
        let (node, ttl_max) = self.inner.topology.load().node_of(key);
        Writing { node, ttl_max, _change: self.changing(key) }
    }

    /// Returns a guard that removes the key from the near cache when it is dropped.
    #[inline]
    pub(crate) fn changing<'a>(&'a self, key: &'a [u8]) -> Option<Changing<'a>> {
        self.inner.near.as_ref().map(|near| near.changing(key))
    }

    /// Reads with the flags that `flags` writes, and gives the item a new time to live.
    async fn read_and_touch(&self, key: &[u8], flags: fn(&mut Line<'_>), ttl: Duration) -> Result<Reply> {
        let key = self.key(key)?;
        let (node, ttl_max) = self.inner.topology.load().node_of(&key);
        read_at(&node, &key, flags, Some(clamped(ttl, ttl_max))).await
    }

    /// Returns the value of a reply that was not plain. `won`: the reply also gave the right to load the key.
    #[cold]
    pub(crate) async fn read_again(&self, key: &[u8], won: bool) -> Result<Option<Bytes>> {
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
        direction: Direction,
        delta: u64,
        initial: Option<(u64, Duration)>,
    ) -> Result<Option<u64>> {
        let key = self.key(key)?;
        let to = self.writer(&key);
        let calculate = || {
            call_node(&to.node, Verb::Arithmetic, &key, |line| {
                line.flag(b'v').direction(direction).number(b'D', delta);
                if let Some((initial, ttl)) = initial {
                    line.number(b'J', initial).exptime(b'N', exptime(clamped(ttl, to.ttl_max)));
                }
            })
        };
        let reply = match calculate().await {
            // The empty placeholder of a load is not a number.
            Err(Error::Refused { node, line }) if line.contains("non-numeric") => {
                if !remove_placeholder(&to.node, &key).await? {
                    return Err(Error::Refused { node, line });
                }
                calculate().await?
            }
            reply => reply?,
        };
        Ok(reply.value.and_then(|digits| std::str::from_utf8(&digits).ok()?.parse().ok()))
    }

    pub(crate) async fn store(&self, key: &[u8], storing: Storing<'_>) -> Result<Stored> {
        let key = self.key(key)?;
        let to = self.writer(&key);
        Ok(stored(store_reply(&to.node, to.ttl_max, &key, &storing).await?.code))
    }

    /// Appends or prepends.
    ///
    /// The placeholder of a load is an empty item: what is appended to it would be taken for the whole value. So if the
    /// new size is the size of what was sent, the item is looked at, and deleted if it was a placeholder.
    async fn extend(&self, key: &[u8], value: &[u8], mode: StoreMode) -> Result<Stored> {
        let key = self.key(key)?;
        let to = self.writer(&key);
        let storing = Storing { mode, ..Storing::set(value, Duration::ZERO, 0) };
        let reply = store_reply(&to.node, to.ttl_max, &key, &storing).await?;
        let was_empty = reply.code == Code::Hd && reply.flags.size == Some(value.len() as u32);
        if was_empty && self.remove_extended_placeholder(&to.node, &key, reply.flags.cas).await? {
            return Ok(Stored::No);
        }
        Ok(stored(reply.code))
    }

    /// Deletes the item with the CAS unique `cas`, which was empty before it was appended to, if it was a placeholder.
    /// An empty value of an application differs from one by its time to live, which is seldom shorter than a lease.
    async fn remove_extended_placeholder(&self, node: &Node, key: &[u8], cas: u64) -> Result<bool> {
        let reply = call_node(node, Verb::Get, key, |line| _ = line.flag(b't').flag(b'c').flag(b'f')).await?;
        let flags = reply.flags;
        let is_short_lived = flags.ttl.is_some_and(|ttl| u64::from(ttl) <= self.inner.lease.min(YEAR).as_secs().max(1));
        let placeholder = is_short_lived || flags.client_flags & crate::value::flag::ABSENT != 0;
        if reply.code != Code::Hd || flags.cas != cas || !placeholder {
            return Ok(false);
        }
        delete_exactly(node, key, cas).await?;
        Ok(true)
    }

    /// Deletes on the key's owner and on the node that may hold a copy. Returns whether the owner had the item.
    async fn delete_copies(&self, key: &[u8], flags: impl Fn(&mut Line<'_>)) -> Result<bool> {
        let key = self.key(key)?;
        let _change = self.changing(&key);
        let nodes = self.inner.topology.load().copies(&key);
        let deletes = nodes.iter().map(|node| call_node(node, Verb::Delete, &key, &flags));
        let mut results = futures_util::future::join_all(deletes).await.into_iter();
        let of_owner = results.next().unwrap_or(Ok(Reply::MISS))?;
        // The stand-in may be down while the owner is up. Its copy then ends with it, or with its short time to live.
        let _ = results.next();
        Ok(of_owner.code == Code::Hd)
    }
}

/// Deletes the item of `key` if a plain reader sees none there: the placeholder of a load, or the note that the
/// datastore has no such thing. The load's value is then not cached, as after any delete.
async fn remove_placeholder(node: &Node, key: &[u8]) -> Result<bool> {
    let reply = call_node(node, Verb::Get, key, value_cas_and_flags).await?;
    let cas = reply.flags.cas;
    if reply.value.as_ref().is_none_or(|value| !value.is_empty()) || reply.item().is_some() {
        return Ok(false);
    }
    delete_exactly(node, key, cas).await?;
    Ok(true)
}

/// Deletes the item with this CAS unique. Where a server has none (0), what was stored in a moment's time goes with it.
async fn delete_exactly(node: &Node, key: &[u8], cas: u64) -> Result<Reply> {
    let flags = |line: &mut Line<'_>| {
        if cas != 0 {
            line.number(b'C', cas);
        }
    };
    call_node(node, Verb::Delete, key, flags).await
}
