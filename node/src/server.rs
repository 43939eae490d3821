//! The server: its workers, its listeners, and how it stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};

use crate::auth::Users;
use crate::clock::Clock;
use crate::connection::{Socket, serve};
use crate::counters::Counters;
use crate::dump::Crawler;
use crate::listener::{Connections, listen_tcp, listen_unix};
use crate::settings::Settings;
use crate::sockets::{Noted, OpenSocket, Sockets, Transport};
use crate::statistics::Prefixes;
use crate::store::{Config, Store};
use crate::udp;
use crate::watch::{Topics, Watchers};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) workers: Vec<Arc<Counters>>,
    pub(crate) connections: Connections,
    /// Who may use the node; everybody where there is none.
    pub(crate) users: Option<Users>,
    /// A client asked for the end of the process.
    pub(crate) shutdown: Notify,
    pub(crate) stop: watch::Receiver<bool>,
    verbosity: AtomicU32,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) prefixes: Prefixes,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) crawler: Crawler,
    /// Rounds of background work.
    pub(crate) maintenance: AtomicU64,
}

impl Shared {
    /// Whether what commands do is counted by prefix or watched.
    #[inline]
    pub(crate) fn observed(&self) -> bool {
        self.watchers.wants(Topics::COMMANDS) | self.prefixes.on()
    }

    pub(crate) fn set_verbosity(&self, level: u32) {
        self.verbosity.store(level, Ordering::Relaxed);
    }

    pub(crate) fn verbosity(&self) -> u32 {
        self.verbosity.load(Ordering::Relaxed)
    }
}

/// A socket on its way from the acceptor to a worker.
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A running node.
///
/// ```
/// use larder_node::{Server, Settings};
///
/// # fn main() -> std::io::Result<()> {
/// let mut settings = Settings::default();
/// settings.port = 0;
/// let server = Server::start(settings)?;
/// println!("listening on {}", server.addresses()[0]);
/// server.stop();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts the workers and listens. Fails where an address cannot be listened on.
    pub fn start(settings: Settings) -> io::Result<Server> {
        let mut tcp = Vec::new();
        let mut unix = None;
        match &settings.socket {
            Some(path) => {
                unix = Some(
                    listen_unix(path, settings.socket_mode)
                        .map_err(|error| in_words("unix socket", path.display(), error))?,
                )
            }
            None => {
                for address in settings.tcp_addresses() {
                    tcp.extend(
                        listen_tcp(&address, settings.backlog).map_err(|error| in_words("TCP", &address, error))?,
                    );
                }
            }
        }
        let addresses = tcp.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let users = match (&settings.auth_file, settings.sasl) {
            (Some(path), _) => Some(Users::read(path)?),
            (None, true) => {
                let path = std::env::var_os("MEMCACHED_SASL_PWDB").ok_or_else(|| {
                    io::Error::other("-S needs MEMCACHED_SASL_PWDB to name a file of user:password lines")
                })?;
                Some(Users::read(path.as_ref())?)
            }
            (None, false) => None,
        };
        let mut udp = udp::bind(&settings, users.is_some(), &addresses)?;
        if !settings.ignored().is_empty() {
            tracing::info!("accepted, and without meaning for this engine: {}", settings.ignored().join(" "));
        }
        let (stop, stopping) = watch::channel(false);
        let clock = Clock::start();
        let shared = Arc::new(Shared {
            store: Store::new(&Config {
                memory_limit: settings.memory_limit(),
                item_size_max: settings.item_size_max,
                eviction: settings.eviction(),
                now: clock.now(),
            })
            .map_err(io::Error::other)?,
            workers: (0..settings.threads).map(|_| Arc::new(Counters::default())).collect(),
            verbosity: AtomicU32::new(settings.verbosity.into()),
            sockets: Arc::default(),
            prefixes: Prefixes::new(settings.prefix_delimiter),
            watchers: Arc::new(Watchers::new(settings.watcher_buffer())),
            crawler: Crawler::new(settings.has("lru_crawler")),
            maintenance: AtomicU64::new(0),
            settings,
            clock,
            connections: Connections::default(),
            users,
            shutdown: Notify::new(),
            stop: stopping,
        });
        let listening = listening(&shared, &tcp, unix.as_ref(), &udp);
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for (number, counters) in shared.workers.iter().enumerate() {
            let (queue, accepted) = mpsc::unbounded_channel();
            queues.push(queue);
            let (shared, counters) = (shared.clone(), counters.clone());
            // Datagrams have no connection to spread: the first worker serves them.
            let udp = if number == 0 { std::mem::take(&mut udp) } else { Vec::new() };
            threads.push(spawn(format!("worker-{number}"), move || work(shared, counters, accepted, udp))?);
        }
        threads.push(spawn("acceptor".to_owned(), {
            let shared = shared.clone();
            move || {
                accept(shared, tcp, unix, queues);
                drop(listening);
            }
        })?);
        for address in &addresses {
            tracing::info!(%address, "listening");
        }
        Ok(Server { shared, addresses, stop, threads })
    }

    /// The TCP addresses it listens on, with the ports that were free.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Comes to an end when a client sends `shutdown` (only served with -A).
    pub(crate) async fn shutdown_requested(&self) {
        self.shared.shutdown.notified().await;
    }

    /// Stops: no new connections, every command that was read is answered, then the threads end.
    pub fn stop(self) {
        // The receivers live as long as the threads.
        let _ = self.stop.send(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the server had panicked");
            }
        }
    }
}

/// Notes the sockets that listen.
fn listening(
    shared: &Shared,
    tcp: &[std::net::TcpListener],
    unix: Option<&std::os::unix::net::UnixListener>,
    udp: &[std::net::UdpSocket],
) -> Vec<Noted> {
    let now = shared.clock.now();
    let tcp = tcp.iter().map(|socket| OpenSocket::listening(socket, Transport::Tcp, socket.local_addr().ok(), now));
    let unix = unix.into_iter().map(|socket| OpenSocket::listening(socket, Transport::Local, None, now));
    let udp = udp.iter().map(|socket| OpenSocket::listening(socket, Transport::Udp, socket.local_addr().ok(), now));
    tcp.chain(unix).chain(udp).map(|socket| shared.sockets.note(socket)).collect()
}

fn in_words(what: &str, address: impl std::fmt::Display, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to listen on {what} {address}: {error}"))
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(body)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs an epoll descriptor")
}

/// A worker: serves the connections it is handed, on one thread, until the server stops.
fn work(
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    udp: Vec<std::net::UdpSocket>,
) {
    runtime().block_on(async move {
        for socket in udp {
            tokio::spawn(udp::serve(socket, shared.clone(), counters.clone()));
        }
        let mut stop = shared.stop.clone();
        loop {
            let socket = tokio::select! {
                socket = accepted.recv() => socket,
                _ = stop.wait_for(|&stopping| stopping) => None,
            };
            let Some(socket) = socket else { break };
            let socket = match socket {
                Accepted::Tcp(socket) => TcpStream::from_std(socket).map(Socket::Tcp),
                Accepted::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
            };
            match socket {
                Ok(socket) => {
                    tokio::spawn(serve(socket, shared.clone(), counters.clone()));
                }
                Err(error) => {
                    shared.connections.closed();
                    tracing::warn!(%error, "a connection could not be served");
                }
            }
        }
    });
}

/// Seconds between slices of background work.
const MAINTENANCE: Duration = Duration::from_millis(100);

/// Background work that no request waits for.
fn maintain(shared: &Shared) {
    let now = shared.clock.now();
    shared.store.maintain(now);
    shared.maintenance.fetch_add(1, Ordering::Relaxed);
    shared.watchers.show_evictions(&shared.store, now);
}

/// The acceptor: takes connections and hands them to the workers in turn.
fn accept(
    shared: Arc<Shared>,
    tcp: Vec<std::net::TcpListener>,
    unix: Option<std::os::unix::net::UnixListener>,
    queues: Vec<mpsc::UnboundedSender<Accepted>>,
) {
    runtime().block_on(async move {
        let (hand_over, mut sockets) = mpsc::channel::<Accepted>(64);
        for listener in tcp {
            let hand_over = hand_over.clone();
            tokio::spawn(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                loop {
                    let socket = listener.accept().await.and_then(|(socket, _)| {
                        socket.set_nodelay(true)?;
                        socket.into_std()
                    });
                    hand(socket.map(Accepted::Tcp), &hand_over).await;
                }
            });
        }
        if let Some(listener) = unix {
            let hand_over = hand_over.clone();
            tokio::spawn(async move {
                let Ok(listener) = UnixListener::from_std(listener) else { return };
                loop {
                    let socket = listener.accept().await.and_then(|(socket, _)| socket.into_std());
                    hand(socket.map(Accepted::Unix), &hand_over).await;
                }
            });
        }
        let mut stop = shared.stop.clone();
        let mut maintenance = tokio::time::interval(MAINTENANCE);
        let mut turn = 0;
        loop {
            tokio::select! {
                Some(socket) = sockets.recv() => {
                    // With no_maxconns_fast the newcomer waits, and those behind it in the kernel's queue.
                    while !shared.settings.refuses_connections()
                        && shared.connections.statistics().current >= shared.settings.max_connections.into()
                        && !*shared.stop.borrow()
                    {
                        shared.connections.count_pause();
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    if shared.connections.try_open(shared.settings.max_connections) {
                        // A worker ends only when the server does.
                        let _ = queues[turn % queues.len()].send(socket);
                        turn += 1;
                    } else if let Accepted::Tcp(mut socket) = socket {
                        use std::io::Write;
                        let _ = socket.write_all(b"ERROR Too many open connections\r\n");
                    }
                }
                _ = maintenance.tick() => maintain(&shared),
                _ = stop.wait_for(|&stopping| stopping) => break,
            }
        }
    });
}

async fn hand(socket: io::Result<Accepted>, hand_over: &mpsc::Sender<Accepted>) {
    match socket {
        Ok(socket) => {
            let _ = hand_over.send(socket).await;
        }
        Err(error) => {
            // Out of descriptors, mostly: accepting again at once would spin.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
