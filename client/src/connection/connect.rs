//! Opening a connection: the addresses of a name, the transport, and the exchange before the first request.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use larder_protocol::{BinaryReply, Command, DecodedResponse, Reply, Request, Sasl, binary};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::connection::tls::Tls;

/// A connection of any transport.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Resolves names to addresses.
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
    /// Returns the resolver of the system.
    pub(crate) fn system() -> Resolver {
        Resolver(Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) })))
    }

    /// Returns the addresses of `host:port`.
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
    pub(crate) mechanism: Mechanism,
}

/// The exchange that logs a connection in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// ASCII authentication (memcached's `-Y`).
    Ascii,
    /// SASL PLAIN in a binary packet (memcached's `-S`).
    SaslPlain,
}

impl Login {
    pub(crate) fn new(user: impl Into<String>, password: impl Into<String>, mechanism: Mechanism) -> Login {
        Login { user: user.into(), password: password.into(), mechanism }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, {:?})", self.mechanism, self.user)
    }
}

/// Opens connections.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// Longest time to open a connection.
    pub(crate) timeout: Duration,
    /// Silence after which the kernel probes a TCP connection.
    pub(crate) keep_alive: Duration,
    pub(crate) resolver: Resolver,
    /// Time between two resolutions of a name.
    pub(crate) refresh: Duration,
    pub(crate) tls: Option<Tls>,
    pub(crate) login: Option<Login>,
    /// Whether the servers come from a list with host names and addresses.
    pub(crate) discovered: bool,
}

/// A connection that has answered, and its remote address; `None` for a unix socket.
pub(crate) type Connected = (Box<dyn Stream>, Option<SocketAddr>);

/// Time after which the next address of a name is tried beside the one before (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

impl Connector {
    /// Opens a connection to `host:port`, or to a unix socket if `address` is a path. With TLS, the certificate must be
    /// for `host`.
    ///
    /// The addresses of a name are tried in their order, each a moment after the one before and beside it: the first
    /// that answers a meta command wins.
    pub(crate) async fn connect(&self, address: &str, host: &str) -> io::Result<Connected> {
        let timeout = self.timeout;
        let connected = tokio::time::timeout(timeout, self.open(address, host)).await;
        connected.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}")))?
    }

    async fn open(&self, address: &str, host: &str) -> io::Result<Connected> {
        if address.starts_with('/') {
            return Ok((self.admit(Box::new(UnixStream::connect(address).await?)).await?, None));
        }
        let addresses = self.resolver.resolve(address).await?;
        let stagger = STAGGER.min(self.timeout / (addresses.len() as u32 + 1));
        let mut untried = addresses.into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        loop {
            match untried.next() {
                Some(peer) => attempts.push(self.open_tcp(peer, host)),
                None if attempts.is_empty() => return Err(failure),
                None => {}
            }
            match tokio::time::timeout(stagger, attempts.next()).await {
                Ok(Some(Ok(connected))) => return Ok(connected),
                Ok(Some(Err(error))) => failure = error,
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn open_tcp(&self, peer: SocketAddr, host: &str) -> io::Result<Connected> {
        let stream = TcpStream::connect(peer).await?;
        stream.set_nodelay(true)?;
        let keep_alive = TcpKeepalive::new().with_time(self.keep_alive).with_interval(self.keep_alive / 4);
        SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some(tls) => Box::new(tls.connect(host, stream).await?),
            None => Box::new(stream),
        };
        Ok((self.admit(stream).await?, Some(peer)))
    }

    /// Logs in if that is set, and checks that the node answers.
    async fn admit(&self, mut stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        match &self.login {
            Some(login) if login.mechanism == Mechanism::SaslPlain => {
                log_in_by_sasl(&mut stream, login).await?;
                greet(&mut stream, HEADER_LEN / GREETING.len()).await.map_err(after_sasl)?;
            }
            Some(login) => {
                log_in(&mut stream, login).await?;
                greet(&mut stream, 1).await?;
            }
            None => greet(&mut stream, 1).await?,
        }
        Ok(stream)
    }

    /// Waits until the name `address` no longer resolves to `peer`, and connects to its new address.
    pub(crate) async fn follow(&self, address: &str, host: &str, peer: Option<SocketAddr>) -> Connected {
        let Some(peer) = peer.filter(|_| address.parse::<SocketAddr>().is_err()) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(self.refresh).await;
            match self.resolver.resolve(address).await {
                Ok(addresses) if !addresses.is_empty() && !addresses.contains(&peer) => {
                    match self.connect(address, host).await {
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

/// Logs in by ASCII authentication (protocol.txt, "Authentication"): the first command stores the login under any key.
async fn log_in(stream: &mut Box<dyn Stream>, login: &Login) -> io::Result<()> {
    let data = format!("{} {}", login.user, login.password);
    stream.write_all(format!("set login 0 0 {}\r\n{data}\r\n", data.len()).as_bytes()).await?;
    stream.flush().await?;
    match &*read_line(stream).await? {
        "STORED" => Ok(()),
        other => Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the node refused the login: {other}"))),
    }
}

/// Logs in by SASL PLAIN (RFC 4616), in one binary packet. The requests that follow are meta commands, which memcached
/// itself does not take after it: with `-S` it speaks only the binary protocol.
async fn log_in_by_sasl(stream: &mut Box<dyn Stream>, login: &Login) -> io::Result<()> {
    let data = format!("\0{}\0{}", login.user, login.password);
    let command = Command::Sasl(Sasl::Auth { mechanism: b"PLAIN", data: data.as_bytes() });
    let opcode = binary::opcode_of(&command, false, false).unwrap_or_default();
    let reply = Reply::Binary(BinaryReply { opcode, opaque: 0 });
    let mut out = Vec::new();
    Request { command, reply }.encode(&mut out).map_err(|error| io::Error::other(error.to_string()))?;
    stream.write_all(&out).await?;
    stream.flush().await?;
    let mut input = Vec::new();
    loop {
        let need = match binary::decode_response(&input) {
            DecodedResponse::Response { response, .. } if response.status == binary::status::OK => return Ok(()),
            DecodedResponse::Response { response, .. } => {
                let reason = format!("the node refused the login: {}", String::from_utf8_lossy(response.value));
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
            }
            DecodedResponse::Incomplete { need } if input.len() + need <= LINE_MAX => need,
            _ => return Err(io::Error::other("the node does not speak the binary protocol, which SASL needs")),
        };
        let start = input.len();
        input.resize(start + need, 0);
        stream.read_exact(&mut input[start..]).await?;
    }
}

/// The meta command that does nothing.
const GREETING: &[u8] = b"mn\r\n";

/// Length of the header of a binary packet, in bytes. A server that speaks binary alone waits for as many bytes before
/// it refuses a meta command.
const HEADER_LEN: usize = 24;

/// Checks that the node answers, with so many greetings at once: the kernel accepts connections for a process that
/// hangs, and old servers have no meta commands.
async fn greet(stream: &mut Box<dyn Stream>, greetings: usize) -> io::Result<()> {
    stream.write_all(&GREETING.repeat(greetings)).await?;
    stream.flush().await?;
    for _ in 0..greetings {
        match &*read_line(stream).await? {
            "MN" => {}
            other => {
                let reason = format!("the node answers a meta command (memcached 1.6 and later): {other}");
                return Err(io::Error::other(reason));
            }
        }
    }
    Ok(())
}

/// Returns what a failed greeting after SASL means.
fn after_sasl(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => io::Error::new(
            io::ErrorKind::Unsupported,
            "the node takes no meta commands after SASL: memcached with -S speaks binary alone. Start it with -Y FILE \
             and log in with Builder::login (larder: without --sasl)",
        ),
        _ => error,
    }
}

/// Longest reply, in bytes, before the first request.
const LINE_MAX: usize = 1024;

/// Reads a line, and no byte after it. Returns it without its end.
pub(crate) async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < LINE_MAX {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
