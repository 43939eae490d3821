//! The acceptor: takes connections, within the limit, and hands them to the workers in turn.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_protocol::Protocol;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;

use crate::config::address::ListenerProtocol;
use crate::log::Seldom;
use crate::net::connection_limit::RETRY;
use crate::net::listener::Listeners;
use crate::net::socket::Socket;
use crate::net::tls::Tls;
use crate::shared::Shared;

/// An accepted socket, before its worker takes it, and the listener's protocol and TLS settings.
pub(crate) enum Accepted {
    Tcp(std::net::TcpStream, ListenerProtocol),
    Unix(std::os::unix::net::UnixStream, ListenerProtocol),
}

/// What a worker is handed.
pub(crate) enum Work {
    Client(Accepted),
    /// A member's link for commands: its socket, what was read of it and not yet used, and the member's id.
    Peer(Socket, Vec<u8>, String),
}

impl Accepted {
    /// The listener's one protocol; with `None` the first byte of the connection decides.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        match self {
            Accepted::Tcp(_, listener) | Accepted::Unix(_, listener) => listener.protocol,
        }
    }

    /// Returns the socket, registered with the runtime of the calling worker.
    pub(crate) fn into_socket(self, tls: Option<&Arc<Tls>>) -> io::Result<Socket> {
        match self {
            Accepted::Tcp(socket, listener) => {
                let stream = TcpStream::from_std(socket)?;
                match (tls, listener.tls) {
                    (Some(tls), Some(client)) => Ok(Socket::Tls(tls.accept(stream, client)?)),
                    _ => Ok(Socket::Tcp(stream)),
                }
            }
            Accepted::Unix(socket, _) => UnixStream::from_std(socket).map(Socket::Unix),
        }
    }
}

enum Listener {
    Tcp(TcpListener, ListenerProtocol),
    Unix(UnixListener, ListenerProtocol),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener, protocol) => {
                let socket = listener.accept().await?.0.into_std()?;
                socket.set_nodelay(true)?;
                Ok(Accepted::Tcp(socket, *protocol))
            }
            Listener::Unix(listener, protocol) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?, *protocol)),
        }
    }
}

/// Starts a task for each listener that accepts until the caller's runtime ends.
pub(crate) fn accept(shared: &Arc<Shared>, listeners: Listeners, queues: Vec<UnboundedSender<Work>>) {
    let queues: Arc<[_]> = queues.into();
    let turn = Arc::new(AtomicUsize::new(0));
    let tcp =
        listeners.tcp.into_iter().map(|(socket, protocol)| Ok(Listener::Tcp(TcpListener::from_std(socket)?, protocol)));
    let unix = listeners
        .unix
        .into_iter()
        .map(|(socket, protocol)| Ok(Listener::Unix(UnixListener::from_std(socket)?, protocol)));
    for listener in tcp.chain(unix) {
        match listener {
            Ok(listener) => {
                tokio::spawn(accept_from(listener, shared.clone(), queues.clone(), turn.clone()));
            }
            Err(error) => {
                let error: io::Error = error;
                tracing::error!(%error, "a listener could not be served");
            }
        }
    }
}

async fn accept_from(
    listener: Listener,
    shared: Arc<Shared>,
    queues: Arc<[UnboundedSender<Work>]>,
    turn: Arc<AtomicUsize>,
) {
    let connections = &shared.connections;
    let most = shared.settings.max_connections;
    loop {
        let accepted = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client has closed the connection already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Usually the process has no free descriptor. Accepting again at once would spin until one is closed.
                static REFUSED: Seldom = Seldom::new();
                if REFUSED.is_due() {
                    tracing::warn!(%error, "no connection is accepted for now");
                }
                let retry = async {
                    loop {
                        tokio::time::sleep(RETRY).await;
                        if let Ok(accepted) = listener.accept().await {
                            break accepted;
                        }
                    }
                };
                connections.pause(retry).await
            }
        };
        if shared.settings.extended.maxconns_fast {
            if !connections.try_open(most) {
                connections.rejected();
                refuse(accepted);
                continue;
            }
        } else {
            connections.open(most).await;
        }
        // A worker ends only when the server does.
        let _ = queues[turn.fetch_add(1, Ordering::Relaxed) % queues.len()].send(Work::Client(accepted));
    }
}

/// Sends the reason if the socket takes it at once, and closes.
fn refuse(accepted: Accepted) {
    let words = b"ERROR Too many open connections\r\n";
    let _ = match accepted {
        Accepted::Tcp(mut socket, _) => socket.write(words),
        Accepted::Unix(mut socket, _) => socket.write(words),
    };
}
