//! The exchange with a node that keeps old values out of the cache.
//!
//! | step | request | answer |
//! | --- | --- | --- |
//! | look up | `mg key v c f N<lease>`, with `R<early>` where values are refreshed early | a value, or `W` (this caller loads; `c` is the lease), or `Z` (another does) |
//! | fill | `ms key … C<lease>` | `HD`, or `NF`/`EX`: the key was deleted since, and the value is not cached |
//! | give back | `md key C<lease>`, with `I` where an old value stays | whatever: it is no longer this caller's |
//!
//! A fill never has the flag `I`: with it a node stores the value of a lease that an invalidation has overtaken.

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::meta::Code;
use larder_protocol::{RELATIVE_EXPTIME_MAX, push_number};
use tokio::runtime::Handle;

use super::options::Terms;
use crate::cluster::node::Node;
use crate::error::Result;
use crate::operations::client::{Accepted, Client, Stored, call_node, give_back, store_at};
use crate::value::Encoded;

/// The right, and the duty, to load a key.
pub(super) struct Lease {
    /// Where it was won: CAS uniques of other nodes mean nothing here.
    pub(super) node: Arc<Node>,
    pub(super) ttl_max: Option<Duration>,
    pub(super) cas: u64,
}

/// A value that is there while it is loaded anew.
pub(super) struct Old {
    pub(super) value: Encoded,
    /// It was invalidated, and not only close to its end.
    pub(super) stale: bool,
}

/// What the cache says of a key.
pub(super) enum Lookup {
    Hit(Encoded),
    /// This caller loads.
    Won {
        lease: Lease,
        old: Option<Old>,
    },
    /// Another caller is loading; until then there may be a value that was invalidated.
    Wait {
        stale: Option<Encoded>,
    },
    /// The node has no room for a lease.
    NoLease,
}

/// The exchanges of a read, one by one: the client's are on real nodes, and the model of the tests stops before each.
pub(super) trait Cache {
    async fn look_up(&self, key: &[u8], terms: &Terms) -> Result<Lookup>;

    /// Stores a value that was loaded under `lease`; `false` where a delete came between.
    async fn fill(&self, key: &[u8], lease: &Lease, value: &Encoded, ttl: Duration) -> Result<bool>;

    /// Lets the next caller load. `keep` leaves the old value there, as stale.
    async fn give_back(&self, key: &[u8], lease: &Lease, keep: bool);

    /// As [`Cache::give_back`], of a caller that was dropped and cannot wait for it.
    fn abandon(&self, key: &[u8], lease: Lease, keep: bool);

    /// Waits for another process to load.
    async fn pause(&self, length: Duration);
}

impl Cache for Client {
    async fn look_up(&self, key: &[u8], terms: &Terms) -> Result<Lookup> {
        let (node, ttl_max) = self.inner.topology.load().node_of(key);
        let mark = self.inner.near.as_ref().map(|near| near.mark(key));
        let answer = call_node(&node, b"mg", key, |out| push_terms(out, terms)).await?;
        let lookup = understand(answer, node, ttl_max);
        if let (Some(near), Some(mark), Lookup::Hit(value)) = (&self.inner.near, mark, &lookup) {
            near.insert(key, value, mark);
        }
        Ok(lookup)
    }

    async fn fill(&self, key: &[u8], lease: &Lease, value: &Encoded, ttl: Duration) -> Result<bool> {
        let mark = self.inner.near.as_ref().map(|near| near.mark(key));
        let stored = store_at(&lease.node, lease.ttl_max, key, &value.value, ttl, |out| {
            if value.flags != 0 {
                out.extend_from_slice(b" F");
                push_number(out, value.flags);
            }
            out.extend_from_slice(b" C");
            push_number(out, lease.cas);
        })
        .await?;
        if let (Some(near), Some(mark), Stored::Yes) = (&self.inner.near, mark, stored) {
            near.insert(key, value, mark);
        }
        Ok(stored == Stored::Yes)
    }

    async fn give_back(&self, key: &[u8], lease: &Lease, keep: bool) {
        give_back(&lease.node, key, Some(lease.cas), keep).await;
    }

    fn abandon(&self, key: &[u8], lease: Lease, keep: bool) {
        // Outside a runtime nothing can be sent, and the lease runs out by itself.
        if let Ok(runtime) = Handle::try_current() {
            let key = key.to_vec();
            runtime.spawn(async move { give_back(&lease.node, &key, Some(lease.cas), keep).await });
        }
    }

    async fn pause(&self, length: Duration) {
        tokio::time::sleep(length).await;
    }
}

/// Appends the flags of a look-up.
fn push_terms(out: &mut Vec<u8>, terms: &Terms) {
    // A longer time would be read as a date.
    let seconds = |time: Duration| time.as_secs().clamp(1, RELATIVE_EXPTIME_MAX as u64);
    out.extend_from_slice(b" v c f N");
    push_number(out, seconds(terms.lease));
    let recache = terms.recache();
    if !recache.is_zero() {
        out.extend_from_slice(b" R");
        push_number(out, seconds(recache));
    }
}

/// What the answer to a look-up means.
fn understand(answer: Accepted, node: Arc<Node>, ttl_max: Option<Duration>) -> Lookup {
    let facts = answer.facts;
    let Some(value) = answer.value.filter(|_| answer.code == Code::Va) else { return Lookup::NoLease };
    let value = Encoded { value, flags: facts.flags };
    // A lease on a missing key is an empty value, and stays one when it is invalidated. What the datastore has as an empty
    // value cannot be told from it while it is refreshed.
    let is_stub = value.value.is_empty() && !value.is_absent();
    if facts.won {
        let old = (!is_stub).then_some(Old { value, stale: facts.stale });
        Lookup::Won { lease: Lease { node, ttl_max, cas: facts.cas }, old }
    } else if facts.already_won && (is_stub || facts.stale) {
        Lookup::Wait { stale: (!is_stub).then_some(value) }
    } else {
        Lookup::Hit(value)
    }
}
