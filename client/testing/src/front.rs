//! What stands between the clients and the node, and carries out the faults.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use larder_protocol::{Command, Decoded, Error, Limits, Outcome, Protocol, Scratch};
use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::Fault;

/// The fault has changed. `done` gets a message once the listener and the connections are as it demands.
pub(crate) struct Change {
    pub(crate) done: std::sync::mpsc::Sender<()>,
}

/// The listener of a node for tests.
pub(crate) struct Front {
    node: SocketAddr,
    fault: Arc<Mutex<Option<Fault>>>,
    /// Bound and never listening: connections are refused while there is no listener, and the port stays the node's.
    port: Socket,
    address: SocketAddr,
    runtime: Runtime,
    listener: Option<TcpListener>,
    connections: JoinSet<()>,
}

impl Front {
    /// Takes a free port and listens on it.
    pub(crate) fn open(node: SocketAddr, fault: Arc<Mutex<Option<Fault>>>) -> io::Result<Front> {
        let port = bound(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = port.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without an address"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = Some({
            let _within = runtime.enter();
            listen(address)?
        });
        Ok(Front { node, fault, port, address, runtime, listener, connections: JoinSet::new() })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the channel of changes is closed.
    pub(crate) fn run(self, mut changes: mpsc::UnboundedReceiver<Change>) {
        let Front { node, fault, port, address, runtime, mut listener, mut connections } = self;
        runtime.block_on(async {
            loop {
                let accept = async {
                    match &listener {
                        Some(listener) => listener.accept().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    change = changes.recv() => {
                        let Some(Change { done }) = change else { return };
                        let is_dead = *fault.lock() == Some(Fault::Dead);
                        if is_dead {
                            listener = None;
                            connections.shutdown().await;
                        } else if listener.is_none() {
                            listener = Some(listen(address).expect("the port was kept"));
                        }
                        let _ = done.send(());
                    }
                    Ok((client, _)) = accept => {
                        let fault = fault.clone();
                        connections.spawn(async move { _ = serve(client, node, &fault).await });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        drop(port);
    }
}

/// Returns a socket that is bound to `address`, beside others of this process.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address)?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Who writes to the client: the node, through a task that copies what it sends, or nobody but us.
enum Writer {
    Node { requests: OwnedWriteHalf, copying: JoinHandle<io::Result<OwnedWriteHalf>> },
    Us(OwnedWriteHalf),
}

impl Writer {
    /// Connects to the node unless that is done.
    async fn node(self, node: SocketAddr) -> io::Result<Writer> {
        let Writer::Us(client) = self else { return Ok(self) };
        let (replies, requests) = TcpStream::connect(node).await?.into_split();
        Ok(Writer::Node { requests, copying: tokio::spawn(copy(replies, client)) })
    }

    /// Takes the client back when the node has answered everything that it was sent.
    async fn us(self) -> io::Result<OwnedWriteHalf> {
        match self {
            Writer::Us(client) => Ok(client),
            Writer::Node { mut requests, copying } => {
                requests.shutdown().await?;
                copying.await.map_err(io::Error::other)?
            }
        }
    }
}

/// Copies the node's replies until it closes the connection.
async fn copy(mut replies: OwnedReadHalf, mut client: OwnedWriteHalf) -> io::Result<OwnedWriteHalf> {
    tokio::io::copy(&mut replies, &mut client).await?;
    Ok(client)
}

/// Serves a client: its whole requests go to the node, or meet the fault.
async fn serve(client: TcpStream, node: SocketAddr, fault: &Mutex<Option<Fault>>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut requests, client) = client.into_split();
    let mut writer = Writer::Us(client);
    let mut input = Vec::new();
    // Bytes that are still to come of a value that the node refuses.
    let mut refused = 0;
    while requests.read_buf(&mut input).await? > 0 {
        let Requests { bytes, errors, closes } = whole_requests(&input, &mut refused);
        if bytes == 0 && !closes {
            continue;
        }
        let fault = *fault.lock();
        match fault {
            None | Some(Fault::Slow(_)) => {
                tokio::time::sleep(match fault {
                    Some(Fault::Slow(pause)) => pause,
                    _ => Duration::ZERO,
                })
                .await;
                writer = writer.node(node).await?;
                if let Writer::Node { requests, .. } = &mut writer {
                    // The node closes the connection after what it cannot decode.
                    requests.write_all(if closes { &input } else { &input[..bytes] }).await?;
                }
            }
            Some(Fault::Errors) => {
                let mut client = writer.us().await?;
                client.write_all(&errors).await?;
                writer = Writer::Us(client);
                if closes {
                    return Ok(());
                }
            }
            Some(Fault::Silent | Fault::Dead) => {}
        }
        input.drain(..bytes);
    }
    // The client sends no more: it has its answers, then the end.
    writer.us().await.map(drop)
}

/// The whole requests at the front of the input.
struct Requests {
    /// Their length.
    bytes: usize,
    /// What a node that can do nothing answers to them.
    errors: Vec<u8>,
    /// Whether the rest cannot be decoded.
    closes: bool,
}

fn whole_requests(input: &[u8], refused: &mut usize) -> Requests {
    let mut requests = Requests { bytes: (*refused).min(input.len()), errors: Vec::new(), closes: false };
    *refused -= requests.bytes;
    let mut scratch = Scratch::new();
    while let Some(&first) = input.get(requests.bytes) {
        let decoded = Protocol::of_first_byte(first).decode(&input[requests.bytes..], &Limits::default(), &mut scratch);
        match decoded {
            Decoded::Request { request, consumed } => {
                let outcome = match request.command {
                    Command::Noop => Outcome::Noop,
                    _ => Outcome::Error(Error::OUT_OF_MEMORY),
                };
                request.reply.outcome(&outcome, &mut requests.errors);
                requests.bytes += consumed;
            }
            Decoded::Error { error, reply, consumed, swallow, close, .. } => {
                reply.outcome(&Outcome::Error(error), &mut requests.errors);
                let skipped = swallow.min(input.len() - requests.bytes - consumed);
                *refused = swallow - skipped;
                requests.bytes += consumed + skipped;
                requests.closes = close;
                if close {
                    return requests;
                }
            }
            // A long line of keys is taken when it is whole.
            Decoded::Incomplete { .. } | Decoded::Part { .. } => return requests,
            Decoded::Close => {
                requests.closes = true;
                return requests;
            }
        }
    }
    requests
}
