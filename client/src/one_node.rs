//! Commands to one chosen node: for programs that look after nodes. Readers and writers of keys leave the choice of the
//! node to the ring.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use larder_protocol::StoreMode;

use crate::cluster::node::Node;
use crate::error::Result;
use crate::exchange::{Item, Stored, Storing, Verb, accepted, call_node, store_at, value_cas_and_flags};
use crate::operations::admin::call_text;
use crate::operations::client::Client;

/// Most deletes in one exchange: a longer one would hold up other callers of the node.
const AT_ONCE: usize = 1000;

/// One node, asked directly, whichever keys it owns. Made by [`Client::one_node`] and [`Client::every_node`].
///
/// [`Client::get`] does not find an item that is stored here under a key that another node owns.
#[derive(Debug, Clone)]
pub struct OneNode {
    client: Client,
    node: Arc<Node>,
}

impl Client {
    /// Returns the node at this address, spelled as in [`Client::nodes`]; `None` if the client has no such node.
    pub fn one_node(&self, address: &str) -> Option<OneNode> {
        let node = self.inner.topology.load().node_at(address)?.clone();
        Some(OneNode { client: self.clone(), node })
    }

    /// Returns all nodes, in the order of [`Client::nodes`].
    pub fn every_node(&self) -> Vec<OneNode> {
        let topology = self.inner.topology.load();
        topology.nodes.iter().map(|node| OneNode { client: self.clone(), node: node.clone() }).collect()
    }

    /// Deletes `keys` at every node, whichever owns them, and returns the result of each node, by address.
    ///
    /// A delete thus also reaches a node that stands in for another one, or that clients with another list of servers
    /// use.
    ///
    /// ```no_run
    /// # async fn example(cache: larder_client::Client) {
    /// for (node, deleted) in cache.delete_everywhere(&["user:1", "user:2"]).await {
    ///     if let Err(error) = deleted {
    ///         println!("{node} may keep an old value: {error}");
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn delete_everywhere<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<(Arc<str>, Result<()>)> {
        let nodes = self.every_node();
        let deletes = nodes.iter().map(async |node| (node.address().clone(), node.delete_many(keys).await));
        join_all(deletes).await
    }
}

impl OneNode {
    /// Returns its address, as given to the builder.
    pub fn address(&self) -> &Arc<str> {
        self.node.address()
    }

    /// Returns the item of `key` at this node; `None` is a miss. The item does not count as used, so that a look keeps
    /// nothing from being evicted.
    pub async fn peek(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let key = self.client.key(key.as_ref())?;
        let reply = call_node(&self.node, Verb::Get, &key, |line| {
            value_cas_and_flags(line);
            line.flag(b'u');
        });
        Ok(reply.await?.item())
    }

    /// Stores a value at this node if it has none.
    pub async fn add(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Stored> {
        let storing = Storing { mode: StoreMode::Add, ..Storing::set(value.as_ref(), ttl, 0) };
        self.store(key.as_ref(), storing).await
    }

    /// Stores a value at this node if the item still has the CAS unique `cas`.
    pub async fn cas(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration, cas: u64) -> Result<Stored> {
        self.store(key.as_ref(), Storing { cas: Some(cas), ..Storing::set(value.as_ref(), ttl, 0) }).await
    }

    /// Deletes `keys` at this node.
    ///
    /// # Errors
    /// One of the keys may still be there: the node was not reached, or refused.
    /// [`Error::InvalidKey`](crate::Error::InvalidKey) if one is not a key; then none was deleted.
    pub async fn delete_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<()> {
        let keys = keys.iter().map(|key| self.client.key(key.as_ref())).collect::<Result<Vec<_>>>()?;
        let _changing: Vec<_> = keys.iter().map(|key| self.client.changing(key)).collect();
        for keys in keys.chunks(AT_ONCE) {
            let answers = self.node.call_many("delete", keys.len(), |out| {
                for key in keys {
                    Verb::Delete.begin(out, key).end();
                }
            });
            for answer in answers.await? {
                accepted(&self.node, answer)?;
            }
        }
        Ok(())
    }

    /// Invalidates all items of this node.
    pub async fn flush_all(&self) -> Result<()> {
        let flushed = call_text(&self.node, "flush_all").await;
        if let Some(near) = &self.client.inner.near {
            near.clear();
        }
        flushed.map(|_| ())
    }

    async fn store(&self, key: &[u8], storing: Storing<'_>) -> Result<Stored> {
        let key = self.client.key(key)?;
        let _changing = self.client.changing(&key);
        store_at(&self.node, None, &key, &storing).await
    }
}
