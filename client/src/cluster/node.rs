//! A node as the client sees it: its connections, which are made again when they break.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Instrument;

use crate::cluster::circuit::Circuit;
use crate::connection::connect::{Connected, Connector};
use crate::connection::link::{Answer, Failure, Link, Patience, drive};
use crate::error::{Error, Result};
use crate::metrics::NodeMetrics;

/// Pauses between attempts to connect grow from the first to the last, each shortened by up to half at random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Settings of a node's connections.
#[derive(Debug, Clone)]
pub(crate) struct NodeSettings {
    pub(crate) connector: Connector,
    pub(crate) connections: usize,
    pub(crate) patience: Patience,
    pub(crate) metrics: bool,
}

/// State of a node at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeStatus {
    /// The address, as given.
    pub address: Arc<str>,
    /// Whether calls go to the node.
    pub circuit: Circuit,
    /// Number of open connections.
    pub connections: usize,
    /// Number of requests under way, including those whose callers are gone.
    pub in_flight: usize,
    /// The reason why the last connection ended or failed; `None` if that never happened.
    pub last_failure: Option<Arc<str>>,
}

/// A node; its connections are made in the background and end with it.
pub(crate) struct Node {
    shared: Arc<Shared>,
    timeout: Duration,
    connector: Connector,
    next: AtomicUsize,
    connectors: Vec<AbortHandle>,
}

struct Shared {
    address: Arc<str>,
    /// The name that the node's certificate must bear.
    host: Box<str>,
    warned_of_no_cas: AtomicBool,
    links: Vec<ArcSwapOption<Link>>,
    open: AtomicUsize,
    /// Whether an attempt to connect has ended, with or without success.
    tried: AtomicBool,
    first_try: Notify,
    last_failure: Mutex<Option<Arc<str>>>,
    metrics: NodeMetrics,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.status()).finish()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.connectors.iter().for_each(AbortHandle::abort);
    }
}

impl Node {
    /// Creates a node at `address`, whose certificate, with TLS, must be for `host`. Connecting begins at once, in the
    /// background.
    pub(crate) fn new(address: &str, host: &str, settings: &NodeSettings) -> Node {
        let shared = Arc::new(Shared {
            address: address.into(),
            host: host.into(),
            links: (0..settings.connections.max(1)).map(|_| ArcSwapOption::empty()).collect(),
            open: AtomicUsize::new(0),
            tried: AtomicBool::new(false),
            warned_of_no_cas: AtomicBool::new(false),
            first_try: Notify::new(),
            last_failure: Mutex::default(),
            metrics: NodeMetrics::new(address, settings.metrics),
        });
        shared.report();
        let connector = |number| tokio::spawn(keep_connected(shared.clone(), number, settings.clone())).abort_handle();
        let connectors = (0..shared.links.len()).map(connector).collect();
        Node {
            shared,
            timeout: settings.patience.operation,
            connector: settings.connector.clone(),
            next: AtomicUsize::new(0),
            connectors,
        }
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.shared.address
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn host(&self) -> &str {
        &self.shared.host
    }

    /// Opens a connection that is not shared.
    pub(crate) async fn connect(&self) -> io::Result<Connected> {
        self.connector.connect(self.address(), self.host()).await
    }

    /// Logs, once, that values cannot be cached by reading through because the node gives no CAS uniques.
    pub(crate) fn warn_of_no_cas(&self) {
        if !self.shared.warned_of_no_cas.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                node = %self.address(),
                "the node gives no CAS uniques (-C): values read through the cache are loaded each time and not cached"
            );
        }
    }

    pub(crate) fn circuit(&self) -> Circuit {
        self.shared.circuit()
    }

    /// Returns whether calls may go to the node.
    pub(crate) fn may_serve(&self) -> bool {
        self.circuit() != Circuit::Open
    }

    pub(crate) fn status(&self) -> NodeStatus {
        let links = self.shared.links.iter().filter_map(ArcSwapOption::load_full);
        NodeStatus {
            address: self.address().clone(),
            circuit: self.circuit(),
            connections: self.shared.open.load(Ordering::Relaxed),
            in_flight: links.map(|link| link.in_flight()).sum(),
            last_failure: self.shared.last_failure.lock().clone(),
        }
    }

    /// Returns a connection, by turns. Waits while the first attempt to connect is under way.
    async fn link(&self) -> Result<Arc<Link>> {
        loop {
            let links = &self.shared.links;
            let first = if links.len() == 1 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % links.len() };
            if let Some(link) = links[first..].iter().chain(&links[..first]).find_map(ArcSwapOption::load_full) {
                return Ok(link);
            }
            let first_try = self.shared.first_try.notified();
            if self.shared.tried.load(Ordering::Acquire) {
                return Err(self.down(self.shared.last_failure.lock().clone()));
            }
            first_try.await;
        }
    }

    /// Sends one request and returns its answer.
    pub(crate) async fn call(&self, operation: &'static str, encode: impl FnOnce(&mut Vec<u8>)) -> Result<Answer> {
        let measured = self.shared.metrics.begin();
        let call = async { self.link().await?.call(encode).await.map_err(|failure| self.failed(failure)) };
        let answer = call.instrument(tracing::trace_span!("call", node = %self.address())).await;
        measured.end(operation, 1, answer.as_ref().map(std::slice::from_ref));
        answer
    }

    /// Sends `count` requests and returns their answers, in the same order.
    pub(crate) async fn call_many(
        &self,
        operation: &'static str,
        count: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<Answer>> {
        let measured = self.shared.metrics.begin();
        let call = async { self.link().await?.call_many(count, encode).await.map_err(|failure| self.failed(failure)) };
        let answers = call.instrument(tracing::trace_span!("call", node = %self.address(), count)).await;
        measured.end(operation, count, answers.as_deref());
        answers
    }

    fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::TimedOut => Error::Timeout { node: self.address().clone(), after: self.timeout },
            Failure::Broken(reason) => self.down(Some(reason)),
        }
    }

    fn down(&self, reason: Option<Arc<str>>) -> Error {
        let reason = reason.unwrap_or_else(|| "connecting goes on".into());
        Error::Down { node: self.address().clone(), reason }
    }
}

/// Connects, drives the connection, and connects again whenever it breaks.
async fn keep_connected(shared: Arc<Shared>, number: usize, settings: NodeSettings) {
    let address = &shared.address;
    let mut pause = FIRST_PAUSE;
    loop {
        let opened = settings.connector.connect(address, &shared.host).await;
        let reason = match opened {
            Ok(connected) => {
                tracing::debug!(node = %address, "connected");
                let opened_at = Instant::now();
                let reason = serve(&shared, number, &settings, connected).await;
                // The pauses go on growing for a node that fails again right after it came back.
                if opened_at.elapsed() > LAST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                tracing::warn!(node = %address, %reason, "connection lost");
                reason
            }
            Err(error) => {
                tracing::debug!(node = %address, %error, "connecting failed");
                error.to_string().into()
            }
        };
        *shared.last_failure.lock() = Some(reason);
        shared.tried();
        let shortened = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        tokio::time::sleep(shortened).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Drives a connection until it ends, and returns the reason. If the node's name moves to another address, a new
/// connection takes its place.
async fn serve(shared: &Shared, number: usize, settings: &NodeSettings, mut connected: Connected) -> Arc<str> {
    let open = Open::new(shared, number);
    loop {
        let (stream, peer) = connected;
        let link = Arc::new(Link::new(settings.patience));
        open.replace(link.clone());
        let mut driving = Box::pin(drive(link, stream));
        connected = tokio::select! {
            reason = &mut driving => return reason,
            connected = settings.connector.follow(&shared.address, &shared.host, peer) => connected,
        };
        tracing::info!(node = %shared.address, "the name moved, and the connection with it");
        // Callers on the old connection get their answers or time out.
        tokio::spawn(tokio::time::timeout(2 * settings.patience.operation, driving));
    }
}

impl Shared {
    fn circuit(&self) -> Circuit {
        match self.open.load(Ordering::Relaxed) {
            0 if !self.tried.load(Ordering::Relaxed) => Circuit::Connecting,
            0 => Circuit::Open,
            _ => Circuit::Closed,
        }
    }

    fn tried(&self) {
        self.tried.store(true, Ordering::Release);
        self.first_try.notify_waiters();
        self.report();
    }

    /// Brings the gauges up to date.
    fn report(&self) {
        self.metrics.report(|| (self.circuit(), self.open.load(Ordering::Relaxed)));
    }
}

/// The connection that callers find, for as long as this lives.
struct Open<'a> {
    shared: &'a Shared,
    number: usize,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, number: usize) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Open { shared, number }
    }

    fn replace(&self, link: Arc<Link>) {
        self.shared.links[self.number].store(Some(link));
        self.shared.tried();
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.links[self.number].store(None);
        self.shared.report();
    }
}
