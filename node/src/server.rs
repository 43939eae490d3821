//! The server starts workers and listeners, and stops them.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use larder_protocol::Protocol;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cluster::{self, Cluster};
use crate::config::settings::Settings;
use crate::error::StartError;
use crate::http;
use crate::log::Seldom;
use crate::maintenance::maintain;
use crate::net::acceptor::{Work, accept};
use crate::net::auth::Users;
use crate::net::connection::serve;
use crate::net::listener::Listeners;
use crate::net::open_sockets::{OpenSocket, Registered, Transport};
use crate::net::tls::Tls;
use crate::net::udp;
use crate::privileges;
use crate::shared::Shared;
use crate::statistics::counters::Counters;
use crate::version::{LARDER_VERSION, VERSION};

/// A running node.
///
/// ```
/// use larder_node::{Server, Settings};
///
/// # fn main() -> Result<(), larder_node::StartError> {
/// let server = Server::start(Settings { port: Some(-1), ..Settings::default() })?;
/// println!("listening on {}", server.addresses()[0]);
/// server.stop();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    udp_addresses: Vec<SocketAddr>,
    http: Option<Http>,
    /// The file of the unix socket, if the node created it.
    socket: Option<PathBuf>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// The thread of the metrics and the status page. It is there from before the items are read until they are written.
#[derive(Debug)]
struct Http {
    address: SocketAddr,
    /// The thread ends when this is dropped.
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Http {
    /// Starts the thread, which waits for the state of the node to show.
    fn start(listener: TcpListener) -> io::Result<(Http, oneshot::Sender<Arc<Shared>>)> {
        let address = listener.local_addr()?;
        let ((stop, stopped), (node, shared)) = (oneshot::channel(), oneshot::channel());
        let thread = spawn("http".to_owned(), move || {
            if let Err(error) = runtime().block_on(http::serve(listener, shared, stopped)) {
                tracing::error!("HTTP is not served: {error}");
            }
        })?;
        Ok((Http { address, stop, thread }, node))
    }
}

impl Server {
    /// Starts the workers and listens.
    ///
    /// # Errors
    ///
    /// [`StartError`] says which flags contradict each other, which address cannot be listened on, which file of users,
    /// certificates or keys cannot be used, or what the system refuses.
    pub fn start(settings: Settings) -> Result<Server, StartError> {
        settings.check().map_err(StartError::Flags)?;
        // Files that only root can read, and ports below 1024, are opened before `-u` takes effect.
        let users = Users::of(&settings)?;
        let tls = settings.tls.then(|| Tls::new(&settings.extended.tls)).transpose()?.map(Arc::new);
        let mut listeners = Listeners::open(&settings)?;
        let http = settings.http.as_deref().map(http::listen).transpose()?;
        privileges::leave_root(&settings)?;
        let socket = listeners.open_unix(&settings)?;
        if listeners.is_empty() {
            // As memcached does, whose own tests want it.
            tracing::warn!("-p 0 leaves nothing to listen on: give a port by -p or -U, or a unix socket by -s");
        }
        let (addresses, udp_addresses) = (listeners.tcp_addresses()?, listeners.udp_addresses()?);
        if !settings.ignored().is_empty() {
            tracing::info!("accepted, and without meaning for this engine: {}", settings.ignored().join(" "));
        }
        let (cluster, members) = Cluster::open(&settings, addresses.first().copied(), tls.as_ref())?.unzip();
        let (stop, stopping) = watch::channel(false);
        let (http, page) = http.map(Http::start).transpose()?.unzip();
        let shared = Arc::new(Shared::new(settings, users, tls, stopping, cluster.map(Arc::new))?);
        let listening = listening(&shared, &listeners);
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for (number, counters) in shared.workers.iter().enumerate() {
            let (queue, accepted) = mpsc::unbounded_channel();
            queues.push(queue);
            let (shared, counters) = (shared.clone(), counters.clone());
            // Datagrams have no connection to hand out, so the first worker serves them all.
            let udp = if number == 0 { std::mem::take(&mut listeners.udp) } else { Vec::new() };
            threads.push(spawn(format!("worker-{number}"), move || {
                if let Some(cluster) = &shared.cluster {
                    cluster.become_worker(number);
                }
                work(shared, counters, accepted, udp);
            })?);
        }
        if let Some(members) = members {
            let (shared, queues) = (shared.clone(), queues.clone());
            let run = move || runtime().block_on(cluster::run(shared, members, queues));
            threads.push(spawn("cluster".to_owned(), run)?);
        }
        threads.push(spawn("acceptor".to_owned(), {
            let shared = shared.clone();
            move || {
                runtime().block_on(async {
                    accept(&shared, listeners, queues);
                    maintain(&shared).await;
                });
                drop(listening);
            }
        })?);
        if let Some(page) = page {
            // An error is ignored: the thread has ended, and has said why.
            let _ = page.send(shared.clone());
        }
        announce(&shared, &addresses);
        if let Some(Http { address, .. }) = &http {
            tracing::info!("metrics and status page at http://{address}/");
        }
        Ok(Server { shared, addresses, udp_addresses, http, socket, stop, threads })
    }

    /// Returns the TCP addresses that the server listens on. A port of -1 is reported as the free port that was taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the address of the status page and the metrics, if the settings ask for them.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|http| http.address)
    }

    pub(crate) fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp_addresses
    }

    /// Reads users and certificates again. A file that cannot be used is logged, and the old one stays in force.
    pub(crate) fn reload(&self) {
        let users = self.shared.users.as_ref().map_or(Ok(()), |users| users.reload());
        let certificates = self.shared.tls.as_ref().map_or(Ok(()), |tls| tls.refresh());
        for error in [users.err(), certificates.err()].into_iter().flatten() {
            tracing::error!("not read again: {error}");
        }
    }

    /// Waits until a client sends `shutdown` (only with -A).
    pub(crate) async fn shutdown_requested(&self) {
        self.shared.shutdown.notified().await;
    }

    /// Leaves the cluster, if the node is in one: returns once nobody needs it any more. A second call does not wait for
    /// its items to be taken over.
    pub(crate) async fn leave(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        if let Some(cluster) = &self.shared.cluster {
            cluster.leave().await;
        }
    }

    /// Stops the server: accepts no more connections, replies to every command that was read, ends the threads,
    /// writes the items to the file of `-e`, and removes the file of its unix socket.
    pub fn stop(self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        // An error is ignored: it means that all threads have ended.
        let _ = self.stop.send(true);
        let mut in_order = true;
        for thread in self.threads {
            if thread.join().is_err() {
                in_order = false;
                tracing::error!("a thread of the server had panicked");
            }
        }
        // What a thread has left half done is not kept.
        if in_order && let Some(file) = &self.shared.memory_file {
            file.save(&self.shared.store, self.shared.clock.now());
        }
        if let Some(Http { stop, thread, .. }) = self.http {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the thread of the status page had panicked");
            }
        }
        if let Some(path) = &self.socket
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("the unix socket {} stays: {error}", path.display());
        }
    }
}

/// Logs what the node is and where it listens.
fn announce(shared: &Shared, addresses: &[SocketAddr]) {
    let settings = &shared.settings;
    tracing::info!(
        "larder-node {LARDER_VERSION}, as memcached {VERSION}: {} MiB, {} threads, eviction {}, TLS {}, login {}",
        settings.memory_mebibytes,
        settings.threads,
        settings.eviction(),
        if settings.tls { "on" } else { "off" },
        if settings.sasl || settings.auth_file.is_some() { "asked for" } else { "not asked for" },
    );
    for address in addresses {
        tracing::info!(%address, "listening");
    }
    if let Some(path) = &settings.socket {
        tracing::info!(path = %path.display(), "listening");
    }
}

/// Registers the listening sockets for `stats conns`.
fn listening(shared: &Shared, listeners: &Listeners) -> Vec<Registered> {
    let now = shared.clock.now();
    let tcp = listeners
        .tcp
        .iter()
        .map(|(socket, _)| OpenSocket::listening(socket, Transport::Tcp, socket.local_addr().ok(), now));
    let unix = listeners.unix.iter().map(|(socket, _)| OpenSocket::listening(socket, Transport::Local, None, now));
    let udp = listeners
        .udp
        .iter()
        .map(|(socket, _)| OpenSocket::listening(socket, Transport::Udp, socket.local_addr().ok(), now));
    tcp.chain(unix).chain(udp).map(|socket| shared.sockets.register(socket)).collect()
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(body)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs an epoll descriptor")
}

/// Runs a worker: one thread that serves its connections until the server stops.
fn work(
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    mut accepted: mpsc::UnboundedReceiver<Work>,
    udp: Vec<(std::net::UdpSocket, Option<Protocol>)>,
) {
    runtime().block_on(async move {
        for (socket, protocol) in udp {
            tokio::spawn(udp::serve(socket, protocol, shared.clone(), counters.clone()));
        }
        let mut stop = shared.stop.clone();
        loop {
            let socket = tokio::select! {
                socket = accepted.recv() => socket,
                _ = stop.wait_for(|&stopping| stopping) => None,
            };
            let accepted = match socket {
                Some(Work::Client(accepted)) => accepted,
                Some(Work::Peer(socket, rest, member)) => {
                    tokio::spawn(cluster::answer_peer(socket, rest, member, shared.clone(), counters.clone()));
                    continue;
                }
                None => break,
            };
            let protocol = accepted.protocol();
            match accepted.into_socket(shared.tls.as_ref()) {
                Ok(socket) => {
                    tokio::spawn(serve(socket, protocol, shared.clone(), counters.clone()));
                }
                Err(error) => {
                    shared.connections.closed();
                    static UNSERVED: Seldom = Seldom::new();
                    if UNSERVED.is_due() {
                        tracing::warn!(%error, "a connection could not be served");
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn connections_are_spread_evenly_over_the_workers() {
        let mut settings = Settings::default();
        (settings.port, settings.threads) = (Some(-1), 4);
        let server = Server::start(settings).unwrap();
        let ask = |_| {
            let mut socket = std::net::TcpStream::connect(server.addresses()[0]).unwrap();
            socket.write_all(b"get nothing\r\n").unwrap();
            socket.read_exact(&mut [0; b"END\r\n".len()]).unwrap();
            socket
        };
        let _connections: Vec<_> = (0..8).map(ask).collect();
        let served: Vec<u64> = server.shared.workers.iter().map(|counters| counters.cmd_get.get()).collect();
        assert_eq!(served, [2, 2, 2, 2]);
        server.stop();
    }
}
