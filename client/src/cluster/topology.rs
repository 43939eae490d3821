//! Which node serves a key: the ring, the nodes, and what happens while one of them is down.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use larder_protocol::HostPort;
use larder_protocol::ring::{Hashing, Ring, Server};

use crate::cluster::node::{Node, NodeSettings};
use crate::error::Result;

/// Selects what happens to the keys of a node that is ejected (see [`Circuit`](crate::Circuit)).
///
/// [`Client::delete`](crate::Client::delete) reaches a key's owner and the node that would stand in for it, so that
/// neither keeps an old value. If clients disagree on which nodes are up, `ttl` limits how long one of them may see an
/// old value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failover {
    /// Calls for them fail at once, until the node is back.
    Error,
    /// The next node on the ring that is up serves them, and keeps their items for at most `ttl`.
    Next {
        /// Longest time to live on a node that stands in, at least a second.
        ttl: Duration,
    },
    /// Nodes of a separate pool serve them, so that no node of the ring gets the load of another.
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

/// The settings that all topologies of a client share.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) hashing: Hashing,
    pub(crate) node: NodeSettings,
    pub(crate) stand_ins: StandIns,
    /// Time after which a read is sent a second time.
    pub(crate) hedge: Option<Duration>,
}

/// The nodes that serve the keys of an ejected node.
#[derive(Debug, Clone)]
pub(crate) enum StandIns {
    None,
    Ring { ttl: Duration },
    Gutter { servers: Vec<Server>, ttl: Duration },
}

/// The nodes and the ring over them. A change creates a new topology, which replaces this one.
#[derive(Debug)]
pub(crate) struct Topology {
    plan: Arc<Plan>,
    servers: Vec<Server>,
    pub(crate) ring: Ring,
    /// The nodes of the ring, then those of the gutter.
    pub(crate) nodes: Vec<Arc<Node>>,
    gutter: Option<Ring>,
}

/// The node that serves a key now.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    /// Its index.
    pub(crate) node: usize,
    /// Longest time to live on this node, if it stands in for the owner.
    pub(crate) ttl_max: Option<Duration>,
}

impl Topology {
    /// Creates the topology over `servers`, at least one. Nodes that `old` has too keep their connections.
    pub(crate) fn new(plan: Arc<Plan>, servers: Vec<Server>, old: Option<&Topology>) -> Topology {
        let (gutter_servers, gutter) = match &plan.stand_ins {
            StandIns::Gutter { servers, .. } => (&servers[..], Some(Ring::new(servers, plan.hashing))),
            _ => (&[][..], None),
        };
        let node = |server: &Server| {
            let address = server.address();
            let host = certified_host(server, plan.node.connector.discovered);
            let is_same = |node: &&Arc<Node>| **node.address() == *address && node.host() == host;
            let known = old.and_then(|old| old.nodes.iter().find(is_same));
            known.cloned().unwrap_or_else(|| Arc::new(Node::new(&address, host, &plan.node)))
        };
        let nodes = servers.iter().chain(gutter_servers).map(node).collect();
        Topology { ring: Ring::new(&servers, plan.hashing), nodes, gutter, servers, plan }
    }

    /// Returns this topology over other servers.
    pub(crate) fn with_servers(&self, servers: Vec<Server>) -> Topology {
        Topology::new(self.plan.clone(), servers, Some(self))
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Returns the node that serves `key` now.
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

    /// Like [`Topology::route`], with the node itself and the longest time to live there. Writers use `Client::writer`.
    pub(crate) fn node_of(&self, key: &[u8]) -> (Arc<Node>, Option<Duration>) {
        let Route { node, ttl_max } = self.route(key);
        (self.nodes[node].clone(), ttl_max)
    }

    /// Returns the node at this address, spelled as in the list of servers.
    pub(crate) fn node_at(&self, address: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| **node.address() == *address)
    }

    /// Returns the first `count` nodes that stand in for `key`'s owner, in the order of preference.
    fn stand_ins(&self, key: &[u8], count: usize) -> Vec<usize> {
        match (&self.plan.stand_ins, &self.gutter) {
            (StandIns::Ring { .. }, _) => self.ring.owners(key, count.saturating_add(1)).split_off(1),
            (StandIns::Gutter { .. }, Some(ring)) => {
                ring.owners(key, count).into_iter().map(|node| self.servers.len() + node).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the nodes that may hold `key`, its owner first: a delete must reach them.
    pub(crate) fn copies(&self, key: &[u8]) -> Vec<Arc<Node>> {
        let owner = self.ring.owner(key);
        [owner].into_iter().chain(self.stand_ins(key, 1)).map(|node| self.nodes[node].clone()).collect()
    }

    /// Returns the node that `key` is read from and, if reads are hedged, the node for the second read: the same one if
    /// it has several connections, otherwise the first stand-in.
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

/// Returns the host that a server's certificate must be for. A discovered server is reached by its address, and its
/// name is the host name of the list.
pub(crate) fn certified_host(server: &Server, discovered: bool) -> &str {
    let text = server.name.as_deref().filter(|_| discovered).unwrap_or(&server.host);
    HostPort::parse(text).map_or(text, |address| address.host)
}

/// The time after which a read is sent again, and the node that it is sent to.
pub(crate) struct Hedge {
    pub(crate) after: Duration,
    pub(crate) node: Arc<Node>,
}

/// Returns the result of `first` or, if that takes longer than `after`, of the first of the two that succeeds.
///
/// The other one continues in the background: its reply may give a right that has to be given back.
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
