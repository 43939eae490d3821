//! A memcache node for the tests of an application: a whole larder-node in this process, on a free port, with a clock
//! that the test moves and failures on demand.
//!
//! ```
//! use std::time::Duration;
//! use larder_client::Client;
//! use larder_testing::{Fault, Node};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start()?;
//! let cache = Client::builder().server(node.address()).build()?;
//! cache.set("greeting", "hello", Duration::from_secs(60)).await?;
//! node.advance(Duration::from_secs(60));
//! assert_eq!(cache.get("greeting").await?, None, "it has expired");
//!
//! node.fail(Fault::Errors);
//! assert!(cache.get("greeting").await.is_err());
//! node.heal();
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod front;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use larder_node::{Server, Settings, StartError};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::front::{Change, Front};

/// What goes wrong at a [`Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Each request is answered with `SERVER_ERROR out of memory storing object`, or by its binary form. No-ops are
    /// answered as ever, so that clients keep their connections.
    Errors,
    /// Requests are read and never answered. Connections stay open, and new ones are accepted.
    Silent,
    /// Each answer comes so much later.
    Slow(Duration),
    /// Connections are closed and new ones refused, as after the end of the process. The port stays the node's.
    Dead,
}

/// The reason why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node refused its settings, or the system refused the node.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system refused a socket or a thread.
    #[error("starting a node for tests: {0}")]
    Io(#[from] io::Error),
}

/// A memcache node in this process. It ends when it is dropped.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    fault: Arc<Mutex<Option<Fault>>>,
    changes: Option<mpsc::UnboundedSender<Change>>,
    front: Option<JoinHandle<()>>,
    server: Option<Server>,
    /// A connection to the node itself, past the faults.
    clock: Mutex<TcpStream>,
}

impl Node {
    /// Starts a node of 64 MiB on a free port of 127.0.0.1. Its clock stands still until [`Node::advance`] moves it.
    ///
    /// # Errors
    ///
    /// [`Error`], where the system has no port, thread or memory for it.
    pub fn start() -> Result<Node, Error> {
        let mut settings = Settings { port: Some(-1), threads: 1, ..Settings::default() };
        // The clock is moved by memcached's command for that.
        settings.debug_time = true;
        let server = Server::start(settings)?;
        let node = server.addresses()[0];
        let mut clock = TcpStream::connect(node)?;
        command(&mut clock, "debugtime p")?;
        let fault = Arc::new(Mutex::new(None));
        let (changes, wanted) = mpsc::unbounded_channel();
        let front = Front::open(node, fault.clone())?;
        let address = front.address();
        let front = std::thread::Builder::new().name("larder-testing".to_owned()).spawn(move || front.run(wanted))?;
        let clock = Mutex::new(clock);
        Ok(Node { address, fault, changes: Some(changes), front: Some(front), server: Some(server), clock })
    }

    /// Returns the node's address, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Moves the node's clock: what expires within `by` has expired. A part of a second counts as a whole one.
    ///
    /// Only the node's clock moves. A client has its own, by which it waits for answers and keeps values near.
    ///
    /// # Panics
    ///
    /// If the node has panicked.
    pub fn advance(&self, by: Duration) {
        let seconds = by.as_secs() + u64::from(by.subsec_nanos() > 0);
        command(&mut self.clock.lock(), &format!("debugtime {seconds}")).expect("the node answers");
    }

    /// Lets the node fail from the next request on. Calls under way, and answers that the node has already given, are
    /// finished first, except by [`Fault::Dead`].
    pub fn fail(&self, fault: Fault) {
        self.set(Some(fault));
    }

    /// Ends the fault. Requests that were read during [`Fault::Silent`] stay without an answer.
    pub fn heal(&self) {
        self.set(None);
    }

    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
        let (done, is_done) = std::sync::mpsc::channel();
        let changed = self.changes.as_ref().map(|changes| changes.send(Change { done }));
        if changed.is_some_and(|sent| sent.is_ok()) {
            // An error means that the front has ended, and with it every connection.
            let _ = is_done.recv();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The front ends with its channel.
        self.changes = None;
        if let Some(front) = self.front.take() {
            let _ = front.join();
        }
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

/// Sends a command whose reply is one line, and waits for that.
fn command(node: &mut TcpStream, line: &str) -> io::Result<()> {
    node.write_all(format!("{line}\r\n").as_bytes())?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n") {
        let mut byte = [0];
        node.read_exact(&mut byte)?;
        reply.push(byte[0]);
    }
    match &reply[..] {
        b"OK\r\n" => Ok(()),
        other => Err(io::Error::other(format!("{line}: {}", String::from_utf8_lossy(other).trim_end()))),
    }
}
