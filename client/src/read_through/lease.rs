//! The exchanges with a node that keep old values out of the cache.
//!
//! | step | request | answer |
//! | --- | --- | --- |
//! | look up | `mg key v c f N<lease>`, with `R<early>` where values are refreshed early | a value, or `W` (this caller loads; `c` is the lease), or `Z` (another does) |
//! | fill | `ms key … C<lease>` | `HD`, or `NF`/`EX`: the key was deleted since, and the value is not cached |
//! | give back | `md key C<lease>`, with `I` where an old value stays | any: the lease is no longer this caller's |
//!
//! A fill never has the flag `I`: with it a node stores the value of a lease that an invalidation has overtaken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_protocol::meta::{Code, Line};
use tokio::runtime::Handle;

use super::freshness::{Freshness, NotFresh};
use super::options::ReadPolicy;
use crate::cluster::node::Node;
use crate::error::{Error, Result};
use crate::exchange::{Reply, Stored, Storing, Verb, call_node, give_back, store_at, value_cas_and_flags};
use crate::operations::client::Client;
use crate::ttl::relative;
use crate::value::Encoded;

/// The right and the duty to load a key.
pub(super) struct Lease {
    /// The node that gave the lease. CAS uniques of other nodes mean nothing there.
    pub(super) node: Arc<Node>,
    pub(super) ttl_max: Option<Duration>,
    pub(super) cas: u64,
    /// The near cache may keep the loaded value until then; `None` for its own time to live.
    pub(super) near_until: Option<Instant>,
}

/// A cached value that is being loaded again.
pub(super) struct Old {
    pub(super) value: Encoded,
    /// Whether it was invalidated; otherwise it is only about to expire.
    pub(super) stale: bool,
}

/// The result of a look-up.
pub(super) enum Lookup {
    Hit(Encoded),
    /// This caller loads the value.
    Won {
        lease: Lease,
        old: Option<Old>,
    },
    /// Another caller loads the value. Until then there may be a stale one.
    Wait {
        stale: Option<Encoded>,
    },
    /// The node gives no lease: it has no room for one, or no CAS uniques.
    NoLease,
}

/// The exchanges of a read. The client's go to real nodes; the model of the tests stops before each.
pub(super) trait Cache {
    async fn look_up(&self, key: &[u8], policy: &ReadPolicy) -> Result<Lookup>;

    /// Stores a value that was loaded under `lease`; `false` if the key was deleted since.
    async fn fill(&self, key: &[u8], lease: &Lease, value: &Encoded, ttl: Duration) -> Result<bool>;

    /// Gives the lease back, so that the next caller loads. With `keep`, the old value stays, as a stale one.
    async fn give_back(&self, key: &[u8], lease: &Lease, keep: bool);

    /// Like [`Cache::give_back`], for a caller that was dropped and cannot wait.
    fn abandon(&self, key: &[u8], lease: Lease, keep: bool);

    /// Waits for another process to load.
    async fn pause(&self, length: Duration);
}

impl Cache for Client {
    async fn look_up(&self, key: &[u8], policy: &ReadPolicy) -> Result<Lookup> {
        let (node, ttl_max) = self.inner.topology.load().node_of(key);
        let mark = self.inner.near.as_ref().map(|near| near.mark(key));
        let age = policy.freshness.as_deref().map(|freshness| Age::before_asking(freshness, &node));
        let reply = call_node(&node, Verb::Get, key, |line| write_lookup(line, policy)).await?;
        let mut lookup = interpret(reply, node.clone(), ttl_max);
        if let Some(age) = &age {
            lookup = age.judge(lookup, &node)?;
        }
        if let (Some(near), Some(mark), Lookup::Hit(value)) = (&self.inner.near, mark, &lookup) {
            near.insert(key, value, mark, age.and_then(|age| age.until));
        }
        Ok(lookup)
    }

    async fn fill(&self, key: &[u8], lease: &Lease, value: &Encoded, ttl: Duration) -> Result<bool> {
        let mark = self.inner.near.as_ref().map(|near| near.mark(key));
        let storing = Storing { cas: Some(lease.cas), ..Storing::set(&value.value, ttl, value.flags) };
        let stored = store_at(&lease.node, lease.ttl_max, key, &storing).await?;
        if let (Some(near), Some(mark), Stored::Yes) = (&self.inner.near, mark, stored) {
            near.insert(key, value, mark, lease.near_until);
        }
        Ok(stored == Stored::Yes)
    }

    async fn give_back(&self, key: &[u8], lease: &Lease, keep: bool) {
        give_back(&lease.node, key, Some(lease.cas), keep).await;
    }

    fn abandon(&self, key: &[u8], lease: Lease, keep: bool) {
        // Outside a runtime nothing can be sent, and the lease expires.
        if let Ok(runtime) = Handle::try_current() {
            let key = key.to_vec();
            runtime.spawn(async move { give_back(&lease.node, &key, Some(lease.cas), keep).await });
        }
    }

    async fn pause(&self, length: Duration) {
        tokio::time::sleep(length).await;
    }
}

/// Writes the flags of a look-up.
fn write_lookup(line: &mut Line<'_>, policy: &ReadPolicy) {
    value_cas_and_flags(line);
    line.exptime(b'N', relative(policy.lease));
    let recache = policy.recache();
    if !recache.is_zero() {
        line.exptime(b'R', relative(recache));
    }
}

/// Returns what the reply to a look-up means.
fn interpret(reply: Reply, node: Arc<Node>, ttl_max: Option<Duration>) -> Lookup {
    let flags = reply.flags;
    let Some(value) = reply.value.filter(|_| reply.code == Code::Va) else { return Lookup::NoLease };
    if flags.cas == 0 && (flags.won || flags.already_won) {
        // Without CAS uniques nothing tells a fill that the key was deleted since: nothing is cached, and nobody waits
        // for a value that will not come.
        node.warn_of_no_cas();
        return Lookup::NoLease;
    }
    let value = Encoded { value, flags: flags.client_flags };
    // The placeholder of a load is an empty value, and stays one when it is invalidated. An empty value of the
    // datastore cannot be distinguished from it while it is refreshed.
    let is_placeholder = value.value.is_empty() && !value.is_absent();
    if flags.won {
        let old = (!is_placeholder).then_some(Old { value, stale: flags.stale });
        Lookup::Won { lease: Lease { node, ttl_max, cas: flags.cas, near_until: None }, old }
    } else if flags.already_won && (is_placeholder || flags.stale) {
        Lookup::Wait { stale: (!is_placeholder).then_some(value) }
    } else {
        Lookup::Hit(value)
    }
}

/// What was known of a node before a look-up was sent. What is learnt later says nothing of its reply.
pub(super) struct Age<'a> {
    freshness: &'a dyn Freshness,
    sent: Instant,
    /// When a hit reaches the bound.
    pub(super) until: Option<Instant>,
}

impl<'a> Age<'a> {
    pub(super) fn before_asking(freshness: &'a dyn Freshness, node: &Node) -> Age<'a> {
        let until = freshness.as_of(node.address()).and_then(|as_of| as_of.checked_add(freshness.bound()));
        Age { freshness, sent: Instant::now(), until }
    }

    /// Returns what the reader makes of a look-up at `node`.
    pub(super) fn judge(&self, lookup: Lookup, node: &Arc<Node>) -> Result<Lookup> {
        let fresh = self.until.is_some_and(|until| until >= self.sent);
        match lookup {
            Lookup::Hit(_) if !fresh => match self.freshness.not_fresh(node.address()) {
                NotFresh::Load => Ok(Lookup::NoLease),
                NotFresh::Serve => Ok(lookup),
                NotFresh::Fail => Err(Error::NotFresh { node: node.address().clone() }),
            },
            // A value that is loaded now is current. The old value, taken if loading fails, is not.
            Lookup::Won { mut lease, old } => {
                lease.near_until = self.sent.checked_add(self.freshness.bound());
                Ok(Lookup::Won { lease, old: old.filter(|_| fresh) })
            }
            lookup => Ok(lookup),
        }
    }
}
