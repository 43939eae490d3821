//! Which node serves a key: the ring, the nodes, and what happens while one of them is down.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::cluster::node::{Node, NodeSettings, NodeStatus};
use crate::error::Result;
use crate::operations::client::Client;
use larder_protocol::ring::{Hashing, Ring, Server};

/// What happens to the keys of a node that is ejected (see [`Circuit`](crate::Circuit)).
///
/// [`Client::delete`] reaches a key's owner and the node that would stand in for it, so that neither keeps an old value.
/// Where clients disagree on which nodes are up, `ttl` bounds how long one of them may see an old value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failover {
    /// Their calls fail at once, until the node is back.
    Error,
    /// The next node on the ring that is up serves them, keeping what is stored there for at most `ttl`.
    Next {
        /// Longest time to live on a node that stands in, at least a second.
        ttl: Duration,
    },
    /// A pool of nodes that serve nothing else stands in, so that no node of the ring gets another one's load.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_client::Error> {
    /// use std::time::Duration;
    /// use larder_client::{Client, Failover};
    ///
    /// let cache = Client::builder()
    ///     .servers(["10.0.1.1:11211", "10.0.1.2:11211"])
    ///     .failover(Failover::Gutter { servers: vec!["10.0.9.1:11211".into()], ttl: Duration::from_secs(10) })
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    Gutter {
        /// The pool's servers, spelled as for [`Builder::server`](crate::Builder::server).
        servers: Vec<String>,
        /// Longest time to live there, at least a second.
        ttl: Duration,
    },
}

/// What all topologies of a client have in common.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) hashing: Hashing,
    pub(crate) node: NodeSettings,
    pub(crate) stand_ins: StandIns,
    /// After so long a read is sent a second time.
    pub(crate) hedge: Option<Duration>,
}

/// Who serves the keys of a node that is ejected.
#[derive(Debug, Clone)]
pub(crate) enum StandIns {
    None,
    Ring { ttl: Duration },
    Gutter { servers: Vec<Server>, ttl: Duration },
}

/// The nodes and the ring over them. A change makes a new one and swaps it in whole.
#[derive(Debug)]
pub(crate) struct Topology {
    plan: Arc<Plan>,
    servers: Vec<Server>,
    pub(crate) ring: Ring,
    /// Those of the ring, then those of the gutter.
    pub(crate) nodes: Vec<Arc<Node>>,
    gutter: Option<Ring>,
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
    /// The topology over `servers`, of which there is at least one. Nodes that `old` has keep their connections.
    pub(crate) fn new(plan: Arc<Plan>, servers: Vec<Server>, old: Option<&Topology>) -> Topology {
        let (gutter_servers, gutter) = match &plan.stand_ins {
            StandIns::Gutter { servers, .. } => (&servers[..], Some(Ring::new(servers, plan.hashing))),
            _ => (&[][..], None),
        };
        let node = |server: &Server| {
            let address = server.address();
            let known = old.and_then(|old| old.nodes.iter().find(|node| **node.address() == *address));
            known.cloned().unwrap_or_else(|| Arc::new(Node::new(&address, &plan.node)))
        };
        let nodes = servers.iter().chain(gutter_servers).map(node).collect();
        Topology { ring: Ring::new(&servers, plan.hashing), nodes, gutter, servers, plan }
    }

    /// As this one, over other servers.
    pub(crate) fn with_servers(&self, servers: Vec<Server>) -> Topology {
        Topology::new(self.plan.clone(), servers, Some(self))
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Where `key` is read and written now.
    pub(crate) fn route(&self, key: &[u8]) -> Route {
        let owner = self.ring.owner(key);
        if self.nodes[owner].may_serve() {
            return Route { node: owner, ttl_max: None };
        }
        let stand_in = self.stand_ins(key, usize::MAX).into_iter().find(|&node| self.nodes[node].may_serve());
        match (&self.plan.stand_ins, stand_in) {
            (StandIns::Ring { ttl } | StandIns::Gutter { ttl, .. }, Some(node)) => {
                Route { node, ttl_max: Some((*ttl).max(Duration::from_secs(1))) }
            }
            _ => Route { node: owner, ttl_max: None },
        }
    }

    /// As [`Topology::route`], with the node itself.
    pub(crate) fn node_of(&self, key: &[u8]) -> (Arc<Node>, Option<Duration>) {
        let Route { node, ttl_max } = self.route(key);
        (self.nodes[node].clone(), ttl_max)
    }

    /// The first `count` nodes that stand in for `key`'s owner, in the order in which they are asked.
    fn stand_ins(&self, key: &[u8], count: usize) -> Vec<usize> {
        match (&self.plan.stand_ins, &self.gutter) {
            (StandIns::Ring { .. }, _) => self.ring.owners(key, count.saturating_add(1)).split_off(1),
            (StandIns::Gutter { .. }, Some(ring)) => {
                ring.owners(key, count).into_iter().map(|node| self.servers.len() + node).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The nodes that may hold `key`, its owner first: those that a delete must reach.
    pub(crate) fn copies(&self, key: &[u8]) -> Vec<Arc<Node>> {
        let owner = self.ring.owner(key);
        [owner].into_iter().chain(self.stand_ins(key, 1)).map(|node| self.nodes[node].clone()).collect()
    }

    /// Where `key` is read, and where a second time, over another connection of the node or at the first stand-in, where
    /// that is asked for.
    pub(crate) fn reader_of(&self, key: &[u8]) -> (Arc<Node>, Option<Hedge>) {
        let first = self.route(key).node;
        let hedge = self.plan.hedge.and_then(|after| {
            let second = match self.plan.node.connections {
                0 | 1 => {
                    let usable = |&node: &usize| node != first && self.nodes[node].may_serve();
                    self.stand_ins(key, usize::MAX).into_iter().find(usable)?
                }
                _ => first,
            };
            Some(Hedge { after, node: self.nodes[second].clone() })
        });
        (self.nodes[first].clone(), hedge)
    }
}

/// When and where a read is sent a second time.
pub(crate) struct Hedge {
    pub(crate) after: Duration,
    pub(crate) node: Arc<Node>,
}

/// The answer of `first`, or, where that takes longer than `after`, of whichever of the two succeeds first.
///
/// The other one goes on in the background: what it brings may ask for something to be done.
pub(crate) async fn hedged<T: Send + 'static>(
    after: Duration,
    first: impl Future<Output = Result<T>> + Send + 'static,
    second: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (mut first, second) = (Box::pin(first), Box::pin(second));
    if let Ok(answer) = tokio::time::timeout(after, &mut first).await {
        return answer;
    }
    match select(first, second).await {
        Either::Left((Ok(answer), second)) => {
            tokio::spawn(second);
            Ok(answer)
        }
        Either::Right((Ok(answer), first)) => {
            tokio::spawn(first);
            Ok(answer)
        }
        Either::Left((Err(_), second)) => second.await,
        Either::Right((Err(_), first)) => first.await,
    }
}

impl Client {
    /// The nodes with the state of their circuits: those of the ring in the order of the servers given or discovered,
    /// then those of the gutter.
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
