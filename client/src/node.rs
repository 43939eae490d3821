//! A node as the client sees it: its connection, and making a new one when that breaks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::{Notify, oneshot, watch};

use crate::error::{Error, Result};
use crate::link::{Answer, Link, Waited, within};

/// How long the client waits for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    pub(crate) operation: Duration,
}

/// Pauses between attempts to connect grow from the first to the last, each shortened by up to half at random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// What is known of the connection.
#[derive(Clone)]
enum State {
    /// The first attempt is under way.
    Connecting,
    Up(Arc<Link>),
    Down(Arc<str>),
}

pub(crate) struct Node {
    address: Arc<str>,
    patience: Patience,
    state: watch::Receiver<State>,
    /// The task that connects ends when this does.
    _connector: oneshot::Sender<()>,
    broken: Arc<Notify>,
    link: Mutex<Option<Arc<Link>>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("address", &self.address).field("is_up", &self.is_up()).finish()
    }
}

impl Node {
    /// A node at `address`; connecting begins at once, in the background.
    pub(crate) fn new(address: &str, patience: Patience) -> Node {
        let (publish, state) = watch::channel(State::Connecting);
        let (connector, stop) = oneshot::channel();
        let broken = Arc::new(Notify::new());
        let address: Arc<str> = address.into();
        tokio::spawn(keep_connected(address.clone(), patience.connect, publish, stop, broken.clone()));
        Node { address, patience, state, _connector: connector, broken, link: Mutex::default() }
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Whether a call would find a connection now.
    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(link) if link.broken().is_none())
    }

    /// Whether a call is worth trying: the connection is up, or the first attempt is still under way.
    pub(crate) fn may_serve(&self) -> bool {
        match &*self.state.borrow() {
            State::Connecting => true,
            State::Up(link) => link.broken().is_none(),
            State::Down(_) => false,
        }
    }

    /// The connection: the one in use, or the result of the first attempt, or an error at once while the node is down.
    async fn link(&self) -> Result<Arc<Link>> {
        if let Some(link) = &*self.link.lock()
            && link.broken().is_none()
        {
            return Ok(link.clone());
        }
        let mut state = self.state.clone();
        let down = |reason: Arc<str>| Error::Down { node: self.address.clone(), reason };
        let state = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match state.as_deref() {
            Ok(State::Up(link)) => match link.broken() {
                None => {
                    *self.link.lock() = Some(link.clone());
                    Ok(link.clone())
                }
                Some(reason) => Err(down(reason)),
            },
            Ok(State::Down(reason)) => Err(down(reason.clone())),
            Ok(State::Connecting) | Err(_) => Err(down("the client is shutting down".into())),
        }
    }

    /// Sends one request and waits for its answer.
    pub(crate) async fn call(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<Answer> {
        let link = self.link().await?;
        let receiver = link.send(encode).map_err(|reason| self.down(reason))?;
        self.wait(&link, receiver).await
    }

    /// Sends quiet requests and waits until all are answered.
    pub(crate) async fn call_many(
        &self,
        count: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<Option<Answer>>> {
        let link = self.link().await?;
        let receiver = link.send_many(count, encode).map_err(|reason| self.down(reason))?;
        self.wait(&link, receiver).await
    }

    async fn wait<T>(&self, link: &Link, receiver: oneshot::Receiver<T>) -> Result<T> {
        let answered = link.answered();
        match within(receiver, self.patience.operation).await {
            Waited::Answer(answer) => Ok(answer),
            Waited::Broken => Err(self.down(link.broken().unwrap_or_else(|| "the connection ended".into()))),
            Waited::TimedOut => {
                // Nothing came in all that time: the node hangs, and who else waits should not wait longer.
                if link.answered() == answered {
                    link.close("the node stopped answering");
                    self.broken.notify_one();
                }
                Err(Error::Timeout { node: self.address.clone(), after: self.patience.operation })
            }
        }
    }

    fn down(&self, reason: Arc<str>) -> Error {
        self.broken.notify_one();
        Error::Down { node: self.address.clone(), reason }
    }
}

/// Connects, and connects again whenever the connection breaks, until the node is dropped.
async fn keep_connected(
    address: Arc<str>,
    patience: Duration,
    state: watch::Sender<State>,
    mut stop: oneshot::Receiver<()>,
    broken: Arc<Notify>,
) {
    let mut pause = FIRST_PAUSE;
    let mut current: Option<Arc<Link>> = None;
    let work = async {
        loop {
            match Link::open(&address, patience).await {
                Ok(link) => {
                    tracing::debug!(node = %address, "connected");
                    current = Some(link.clone());
                    state.send_replace(State::Up(link.clone()));
                    pause = FIRST_PAUSE;
                    loop {
                        tokio::select! {
                            () = broken.notified() => {}
                            () = tokio::time::sleep(FIRST_PAUSE) => {}
                        }
                        if let Some(reason) = link.broken() {
                            tracing::warn!(node = %address, %reason, "connection lost");
                            state.send_replace(State::Down(reason));
                            break;
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(node = %address, %error, "connecting failed");
                    state.send_replace(State::Down(error.to_string().into()));
                }
            }
            let shortened = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::time::sleep(shortened).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    };
    tokio::select! {
        () = work => {}
        _ = &mut stop => {}
    }
    if let Some(link) = current {
        link.close("the client was dropped");
    }
}
