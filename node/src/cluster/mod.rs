//! Nodes that share one key space: any node answers for any key.
//!
//! A key is at home at one member, by the ring over all active ones. A node that a client asks for another member's key
//! sends the command there (`forward`), one hop, and the answer back. Who is a member is in a view, which travels between the
//! nodes on links (`link`, `membership`) and only grows; who may serve a key while views change is in `ownership`, pure
//! functions that the `model` searches to the end. `routing` is a node's standing to all keys under one view, a value that
//! does not change. Every worker holds its own copy behind a gate that it enters for a turn: so once a new one is behind all
//! gates, no command runs under the old one, and the node may say so to the others.

mod autoscale;
mod discovery;
mod forward;
mod hot_keys;
mod link;
mod membership;
#[cfg(test)]
mod model;
mod moves;
mod operator;
mod options;
mod ownership;
mod peers;
mod routing;
mod statistics;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_protocol::HostPort;
use larder_protocol::peer::{Status, View};
use parking_lot::{Mutex, MutexGuard};
use ring::hmac;
use tokio::sync::{mpsc, oneshot, watch};

pub use autoscale::{Autoscaler, Decision, Figures, Limits};
use discovery::LEGACY_KEY;
pub(crate) use forward::{Incomplete, NotHere, Router, answer_peer, resolve, waits_behind};
use hot_keys::HotKeys;
pub(crate) use membership::run;
use moves::{MoveCounts, Movers};
pub use operator::Operator;
pub use options::{ClusterOptions, HashingName};
use peers::Peer;
pub(crate) use routing::Routing;
pub(crate) use statistics::statistics;

use crate::config::settings::Settings;
use crate::net::tls::Tls;
use crate::store::Hash;
use link::{Encryption, Identity};
use membership::Event;

/// A node's part in a cluster.
pub(crate) struct Cluster {
    pub(crate) options: ClusterOptions,
    identity: Identity,
    /// What clients reach this node by.
    host: String,
    port: u16,
    name: String,
    /// Where other members reach it.
    peer: String,
    /// One for each worker, and the last for the cluster's own thread.
    gates: Box<[Gate]>,
    routing: watch::Sender<Arc<Routing>>,
    status: watch::Sender<Status>,
    advice: watch::Sender<Advice>,
    events: mpsc::UnboundedSender<Event>,
    pub(crate) counts: Counts,
    movers: Mutex<Movers>,
    pub(crate) moves: MoveCounts,
    hot_keys: Mutex<HotKeys>,
    /// Sets are carried out without their take: the checker of histories must find it. Debug builds only.
    broken: bool,
}

/// How many nodes there should be, for `stats cluster`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Advice {
    /// 0 while the node knows too little.
    pub(crate) wanted: u16,
    pub(crate) figures: Figures,
    pub(crate) reason: String,
}

/// What happened between nodes, for `stats cluster`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) links_refused: AtomicU64,
    pub(crate) between: AtomicU64,
    pub(crate) unreachable: AtomicU64,
    pub(crate) swept: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// On cache lines of its own: it is its worker's.
#[repr(align(128))]
struct Gate(Mutex<Arc<Routing>>);

thread_local! {
    /// Which gate is this thread's; without a number the last one.
    static GATE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What [`run`] is given beside the shared state.
pub(crate) struct Opened {
    listener: std::net::TcpListener,
    events: mpsc::UnboundedReceiver<Event>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.identity.id).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Opens the port for other members, where the node is to be in a cluster. `clients` is where it listens for clients,
    /// and `tls` what it has for them.
    pub(crate) fn open(
        settings: &Settings,
        clients: Option<SocketAddr>,
        tls: Option<&Arc<Tls>>,
    ) -> io::Result<Option<(Cluster, Opened)>> {
        let options = &settings.cluster;
        let Some(cluster) = options.cluster.clone() else { return Ok(None) };
        let clients = clients.ok_or_else(|| io::Error::other("--cluster needs a TCP port for clients (-p)"))?;
        let (host, port) = match &options.advertise {
            Some(advertise) => {
                let parsed = HostPort::parse(advertise).map_err(|error| io::Error::other(error.to_string()))?;
                (parsed.host.to_owned(), parsed.port.unwrap_or(clients.port()))
            }
            None if clients.ip().is_unspecified() => {
                return Err(io::Error::other(
                    "--cluster with -l '*' needs --advertise: the address by which clients and members reach this node",
                ));
            }
            None => (clients.ip().to_string(), clients.port()),
        };
        let listen = match &options.cluster_listen {
            Some(listen) => listen.clone(),
            None => match clients.port().checked_add(10_000) {
                Some(port) => SocketAddr::new(clients.ip(), port).to_string(),
                None => return Err(io::Error::other("the port above plus 10000 is none: give --cluster-listen")),
            },
        };
        let listener = std::net::TcpListener::bind(&listen)
            .map_err(|error| io::Error::new(error.kind(), format!("listening for members on {listen}: {error}")))?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        let peer_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let key = match &options.cluster_key_file {
            Some(file) => {
                let key = std::fs::read(file)
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
                let key = key.trim_ascii_end();
                if key.len() < 32 {
                    return Err(io::Error::other(format!("{}: a key has 32 bytes at least", file.display())));
                }
                key.to_vec()
            }
            None if local.ip().is_loopback() => Vec::new(),
            None => {
                return Err(io::Error::other(
                    "a cluster off loopback needs a key: give every member the same --cluster-key-file of 32 bytes or more \
                     (head -c 32 /dev/urandom | base64 > cluster.key)",
                ));
            }
        };
        let id = options.node_id.clone().unwrap_or_else(|| format!("{peer_host}:{port}"));
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'|') || id.len() > 255 {
            return Err(io::Error::other("--node-id is a short name without blanks"));
        }
        let name = options.advertise_host.clone().unwrap_or_else(|| host.clone());
        // A client looks for a line that contains END: a host named so would end its list.
        if name.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii_graphic() || byte == b'|') {
            return Err(io::Error::other("--advertise-host is a name in lower case without blanks"));
        }
        let (events, incoming) = mpsc::unbounded_channel();
        let outside = Arc::new(Routing::outside(Arc::default()));
        let gates = (0..=settings.threads).map(|_| Gate(Mutex::new(outside.clone()))).collect();
        let cluster = Cluster {
            identity: Identity {
                cluster,
                id,
                process: link::random()?,
                settings: format!(
                    "--cluster-hashing {}, -m {}, -I {}",
                    options.cluster_hashing, settings.memory_mebibytes, settings.item_size_max
                ),
                key: hmac::Key::new(hmac::HMAC_SHA256, &key),
                encryption: tls.map_or(Encryption::None, |tls| Encryption::Tls(tls.clone())),
                payload_max: settings.item_size_max + 64 * 1024,
            },
            peer: format!("{peer_host}:{}", local.port()),
            host,
            port,
            name,
            gates,
            routing: watch::Sender::new(outside),
            status: watch::Sender::new(Status::default()),
            advice: watch::Sender::default(),
            events,
            counts: Counts::default(),
            movers: Mutex::default(),
            moves: MoveCounts::default(),
            hot_keys: Mutex::default(),
            broken: cfg!(debug_assertions)
                && std::env::var_os("LARDER_CLUSTER_BREAK").is_some_and(|how| how == "set-without-take"),
            options: options.clone(),
        };
        Ok(Some((cluster, Opened { listener, events: incoming })))
    }

    /// The thread that calls is this worker from now on.
    pub(crate) fn become_worker(self: &Arc<Self>, number: usize) {
        GATE.set(Some(number));
        forward::set_cluster(self.clone());
    }

    /// The routing for a turn of this thread. While the guard lives, the node does not tell anybody of a newer one.
    #[inline]
    pub(crate) fn enter(&self) -> MutexGuard<'_, Arc<Routing>> {
        let own = self.gates.len() - 1;
        self.gates[GATE.get().unwrap_or(own)].0.lock()
    }

    /// Notes that a command on this key is carried out. It is called for those that are measured.
    pub(crate) fn note_key(&self, key: Hash) {
        // Where another thread counts just now, one command less is looked at.
        if hot_keys::is_due()
            && let Some(mut keys) = self.hot_keys.try_lock()
        {
            keys.count(key);
        }
    }

    /// Puts a new routing behind every gate.
    fn publish(&self, routing: &Arc<Routing>) {
        for gate in &self.gates {
            *gate.0.lock() = routing.clone();
        }
        self.routing.send_replace(routing.clone());
    }

    /// Waits until the routing is another than that of this epoch.
    async fn changed(&self, epoch: u64) {
        let mut routing = self.routing.subscribe();
        // The sender lives as long as this.
        let _ = routing.wait_for(|routing| routing.epoch != epoch).await;
    }

    /// A view came from another member: returns once the node has adopted it.
    async fn hear(&self, from: Option<String>, view: View) {
        if self.routing.borrow().view.covers(&view) && from.is_none() {
            return;
        }
        let (done, adopted) = oneshot::channel();
        if self.events.send(Event::Heard { from, view, done }).is_ok() {
            let _ = adopted.await;
        }
    }

    /// Leaves the cluster: returns once the node is needed no more.
    pub(crate) async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.events.send(Event::Leave(Some(done))).is_ok() {
            let _ = left.await;
        }
    }

    /// What `config get cluster` answers.
    pub(crate) fn config(&self) -> String {
        discovery::config(&self.routing.borrow().view)
    }

    /// The list alone, for the legacy key and the binary protocol.
    pub(crate) fn list(&self) -> String {
        discovery::list(&self.routing.borrow().view)
    }

    fn peer(&self, id: &str) -> Option<Arc<Peer>> {
        let routing = self.routing.borrow();
        routing.place(id).map(|place| routing.member(place).clone())
    }
}
