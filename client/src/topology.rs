//! Which node serves a key: the ring, the nodes, and what happens while one of them is down.

use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::node::{Node, NodeStatus};
use crate::ring::Ring;

/// What happens to the keys of a node that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// Their calls fail at once, until the node is back.
    Error,
    /// The next node on the ring that is up serves them, keeping what is stored there for at most `ttl`.
    ///
    /// [`Client::delete`] reaches a key's owner and the node that would stand in for it, so that neither keeps an old
    /// value. Where clients disagree on which nodes are up, `ttl` bounds how long one of them may see an old value.
    Next {
        /// Longest time to live on a node that stands in, at least a second.
        ttl: Duration,
    },
}

/// The nodes and the ring over them. A change makes a new one and swaps it in whole.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) ring: Ring,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) failover: Failover,
}

/// The node that serves a key now.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    /// Its index.
    pub(crate) node: usize,
    /// Longest time to live there, where it stands in for the owner.
    pub(crate) ttl_max: Option<Duration>,
}

impl Topology {
    /// Where `key` is read and written now.
    pub(crate) fn route(&self, key: &[u8]) -> Route {
        let owner = self.ring.owner(key);
        if let Failover::Next { ttl } = self.failover
            && !self.nodes[owner].may_serve()
            && let Some(&node) =
                self.ring.owners(key, self.nodes.len()).iter().find(|&&node| self.nodes[node].may_serve())
        {
            return Route { node, ttl_max: Some(ttl.max(Duration::from_secs(1))) };
        }
        Route { node: owner, ttl_max: None }
    }

    /// As [`Topology::route`], with the node itself.
    pub(crate) fn node_of(&self, key: &[u8]) -> (Arc<Node>, Option<Duration>) {
        let Route { node, ttl_max } = self.route(key);
        (self.nodes[node].clone(), ttl_max)
    }

    /// The nodes that may hold `key`, its owner first: those that a delete must reach.
    pub(crate) fn copies(&self, key: &[u8]) -> Vec<Arc<Node>> {
        let copies = match self.failover {
            Failover::Error => 1,
            Failover::Next { .. } => 2,
        };
        self.ring.owners(key, copies).into_iter().map(|node| self.nodes[node].clone()).collect()
    }
}

impl Client {
    /// The nodes with the state of their circuits, in the order of the servers given.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.inner.topology.load().nodes.iter().map(|node| node.status()).collect()
    }

    /// The index, in [`Client::nodes`], of the node that owns `key`.
    ///
    /// While that node is down, another one may stand in (see [`Failover`]).
    pub fn owner(&self, key: impl AsRef<[u8]>) -> usize {
        self.inner.topology.load().ring.owner(key.as_ref())
    }
}
