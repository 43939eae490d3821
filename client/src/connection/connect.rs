//! Opening a connection: where to, by which transport, and the exchange before the first request.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::connection::tls::Tls;

/// A connection of any transport.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How names become addresses.
#[derive(Clone)]
pub(crate) struct Resolver(pub(crate) Arc<Resolve>);

pub(crate) type Resolve = dyn Fn(String) -> Resolving + Send + Sync;
pub(crate) type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// The system's.
    pub(crate) fn system() -> Resolver {
        Resolver(Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) })))
    }

    /// The addresses of `host:port`.
    pub(crate) async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        match address.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => (self.0)(address.to_owned()).await,
        }
    }
}

/// A user name and its password.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?})", self.user)
    }
}

/// How connections are made.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// Silence after which the kernel probes a TCP connection.
    pub(crate) keep_alive: Duration,
    pub(crate) resolver: Resolver,
    /// How often names are resolved again.
    pub(crate) refresh: Duration,
    pub(crate) tls: Option<Tls>,
    pub(crate) login: Option<Login>,
}

/// A connection that has answered, and where it leads; `None` for a unix socket.
pub(crate) type Connected = (Box<dyn Stream>, Option<SocketAddr>);

impl Connector {
    /// A connection to `host:port`, or to a unix socket where `address` is a path.
    pub(crate) async fn connect(&self, address: &str) -> io::Result<Connected> {
        let timeout = self.timeout;
        let connected = tokio::time::timeout(timeout, self.open(address)).await;
        connected.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}")))?
    }

    async fn open(&self, address: &str) -> io::Result<Connected> {
        let (mut stream, peer): Connected = if address.starts_with('/') {
            (Box::new(UnixStream::connect(address).await?), None)
        } else {
            let stream = TcpStream::connect(&*self.resolver.resolve(address).await?).await?;
            stream.set_nodelay(true)?;
            let keep_alive = TcpKeepalive::new().with_time(self.keep_alive).with_interval(self.keep_alive / 4);
            SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
            let peer = stream.peer_addr()?;
            match &self.tls {
                Some(tls) => (Box::new(tls.connect(address, stream).await?), Some(peer)),
                None => (Box::new(stream), Some(peer)),
            }
        };
        if let Some(login) = &self.login {
            log_in(&mut stream, login).await?;
        }
        greet(&mut stream).await?;
        Ok((stream, peer))
    }

    /// Waits until the name `address` no longer answers `peer`, and connects to what it answers then.
    pub(crate) async fn follow(&self, address: &str, peer: Option<SocketAddr>) -> Connected {
        let Some(peer) = peer.filter(|_| address.parse::<SocketAddr>().is_err()) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(self.refresh).await;
            match self.resolver.resolve(address).await {
                Ok(addresses) if !addresses.is_empty() && !addresses.contains(&peer) => {
                    match self.connect(address).await {
                        Ok(connected) => return connected,
                        Err(error) => tracing::warn!(node = %address, %error, "the name moved, connecting failed"),
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(node = %address, %error, "resolving failed"),
            }
        }
    }
}

/// ASCII authentication, protocol.txt "Authentication": the first command stores the login under any key.
async fn log_in(stream: &mut Box<dyn Stream>, login: &Login) -> io::Result<()> {
    let data = format!("{} {}", login.user, login.password);
    stream.write_all(format!("set login 0 0 {}\r\n{data}\r\n", data.len()).as_bytes()).await?;
    stream.flush().await?;
    match &*read_line(stream).await? {
        "STORED" => Ok(()),
        other => Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the node refused the login: {other}"))),
    }
}

/// Asks for a sign of life: the kernel accepts for a process that hangs, and old servers know no meta commands.
async fn greet(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    stream.write_all(b"mn\r\n").await?;
    stream.flush().await?;
    match &*read_line(stream).await? {
        "MN" => Ok(()),
        other => Err(io::Error::other(format!("the node answers a meta command (memcached 1.6 and later): {other}"))),
    }
}

/// Longest line of an exchange before the first request.
const LINE_MAX: usize = 1024;

/// Reads a line, without its end, and not a byte more.
pub(crate) async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < LINE_MAX {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
