//! Sockets to a server: TCP, unix, TLS over TCP, or UDP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use larder_client::Tls;
use larder_protocol::HostPort;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::datagrams::Datagrams;
use super::wire::{Answer, Decoded, Encoder, Protocol};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// The path of a unix socket: begins with `/` or `unix:`.
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        let HostPort { host, port } =
            HostPort::parse(text).context("expected HOST, HOST:PORT or the path of a unix socket")?;
        Ok(Address::Tcp { host: host.to_owned(), port: port.unwrap_or(11211) })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The transport to addresses that are not unix sockets.
#[derive(Clone)]
pub(crate) enum TransportKind {
    Tcp,
    Udp,
    /// TLS over TCP, and the name that certificates must have; `None` is the host's.
    Tls(Arc<ClientConfig>, Option<String>),
}

/// How every connection of a run is opened.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) kind: TransportKind,
    pub(crate) login: Option<Login>,
}

/// The first request of a connection to a server that demands a login.
#[derive(Clone)]
pub(crate) struct Login {
    encoder: Encoder,
    request: Vec<u8>,
}

impl Login {
    /// A login by memcached's ASCII authentication in the text protocols, and by SASL PLAIN with `sasl` and in binary
    /// (protocol.txt, "Authentication"; RFC 4616).
    pub(crate) fn new(protocol: Protocol, sasl: bool, user: &str, password: &str) -> Login {
        // ASCII authentication is a classic set, before meta commands too.
        let protocol = if sasl || protocol == Protocol::Binary { Protocol::Binary } else { Protocol::Text };
        let encoder = Encoder { protocol, with_keys: false };
        let mut request = Vec::new();
        match protocol {
            Protocol::Binary => encoder.sasl_plain(user, password, &mut request),
            _ => encoder.set(b"login", format!("{user} {password}").as_bytes(), 0, false, &mut request),
        }
        Login { encoder, request }
    }

    /// Logs in on a connection that blocks.
    fn perform(&self, transport: &mut Transport) -> anyhow::Result<()> {
        transport.write_all(&self.request)?;
        transport.flush()?;
        let (mut input, mut buffer) = (Vec::new(), [0; 256]);
        loop {
            match self.encoder.decode(&input) {
                Decoded::Answer { answer: Answer::Done, .. } => return Ok(()),
                Decoded::Answer { answer: Answer::Error(words), .. } => {
                    bail!("the server refused the login (--user, --password): {}", words.escape_ascii())
                }
                Decoded::Incomplete { .. } if input.len() < 4096 => {}
                _ => bail!("the server did not understand the login (--user, --password)"),
            }
            let count = transport.read(&mut buffer).context("no answer to the login")?;
            ensure!(count > 0, "the server closed the connection at the login (--user, --password)");
            input.extend_from_slice(&buffer[..count]);
        }
    }
}

/// Connects to `address` over TCP and closes the connection.
///
/// # Errors
///
/// Nobody accepts connections there within `patience`; the text says so to a user.
pub(crate) fn check_reachable(address: &Address, patience: Duration) -> anyhow::Result<()> {
    Transport::connect(address, &Opening { kind: TransportKind::Tcp, login: None }, patience).map(drop)
}

/// A connected, non-blocking socket.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Udp(Box<Datagrams>),
}

impl Transport {
    /// Connects to `address` and logs in. A name with several addresses is tried address by address, each within
    /// `patience`: one that does not answer, or answers wrongly, gives way to the next.
    ///
    /// # Errors
    ///
    /// No address accepts the connection, the TLS handshake fails, or the server refuses the login.
    pub(crate) fn connect(address: &Address, opening: &Opening, patience: Duration) -> anyhow::Result<Transport> {
        let hint = || format!("no connection to {address}: is a server running there? (--servers HOST:PORT)");
        match address {
            Address::Unix(path) => {
                Transport::Unix(UnixStream::connect(path).with_context(hint)?).open(address, opening, patience)
            }
            Address::Tcp { host, port } => {
                let mut last = anyhow::anyhow!("the name has no address").context(hint());
                for socket_address in (host.as_str(), *port).to_socket_addrs().with_context(hint)? {
                    let opened = Transport::to(socket_address, host, &opening.kind, patience)
                        .map_err(|error| error.context(hint()))
                        .and_then(|transport| transport.open(address, opening, patience));
                    match opened {
                        Ok(transport) => return Ok(transport),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn to(address: SocketAddr, host: &str, kind: &TransportKind, patience: Duration) -> anyhow::Result<Transport> {
        if matches!(kind, TransportKind::Udp) {
            return Ok(Transport::Udp(Box::new(Datagrams::connect(address)?)));
        }
        Transport::over_tcp(TcpStream::connect_timeout(&address, patience)?, host, kind, patience)
    }

    /// Logs in on a fresh connection, and stops it from blocking.
    fn open(mut self, address: &Address, opening: &Opening, patience: Duration) -> anyhow::Result<Transport> {
        if let Some(login) = &opening.login {
            self.set_read_timeout(Some(patience))?;
            login.perform(&mut self).with_context(|| address.to_string())?;
            self.set_read_timeout(None)?;
        }
        self.set_nonblocking()?;
        Ok(self)
    }

    fn over_tcp(
        mut stream: TcpStream,
        host: &str,
        kind: &TransportKind,
        patience: Duration,
    ) -> anyhow::Result<Transport> {
        stream.set_nodelay(true)?;
        let TransportKind::Tls(config, name) = kind else { return Ok(Transport::Tcp(stream)) };
        let name = name.clone().unwrap_or_else(|| host.to_owned());
        let name = ServerName::try_from(name).context("not a name that TLS can check (--tls-name)")?;
        let mut session = ClientConnection::new(config.clone(), name)?;
        stream.set_read_timeout(Some(patience))?;
        while session.is_handshaking() {
            let done = session.complete_io(&mut stream).map_err(Tls::explain);
            done.with_context(|| format!("the TLS handshake with {host} failed"))?;
        }
        stream.set_read_timeout(None)?;
        Ok(Transport::Tls(Box::new(StreamOwned::new(session, stream))))
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => stream.set_read_timeout(timeout),
            Transport::Unix(stream) => stream.set_read_timeout(timeout),
            Transport::Tls(stream) => stream.sock.set_read_timeout(timeout),
            Transport::Udp(_) => Ok(()),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => stream.set_nonblocking(true),
            Transport::Unix(stream) => stream.set_nonblocking(true),
            Transport::Tls(stream) => stream.sock.set_nonblocking(true),
            // Datagrams never block.
            Transport::Udp(_) => Ok(()),
        }
    }

    /// Whether the transport itself may hold input that the poll does not report: read until nothing is left.
    pub(crate) fn may_hold_input(&self) -> bool {
        matches!(self, Transport::Tls(_) | Transport::Udp(_))
    }

    /// Whether the transport itself holds bytes that the socket has not accepted.
    pub(crate) fn holds_output(&self) -> bool {
        matches!(self, Transport::Tls(stream) if stream.conn.wants_write())
    }
}

impl Read for Transport {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.read(buffer),
            Transport::Unix(stream) => stream.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
            Transport::Udp(datagrams) => datagrams.receive(buffer),
        }
    }
}

impl Write for Transport {
    #[inline]
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.write(buffer),
            Transport::Unix(stream) => stream.write(buffer),
            Transport::Tls(stream) => stream.write(buffer),
            Transport::Udp(datagrams) => datagrams.send(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Tls(stream) => stream.flush(),
            _ => Ok(()),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Tcp(stream) => stream.as_fd(),
            Transport::Unix(stream) => stream.as_fd(),
            Transport::Tls(stream) => stream.sock.as_fd(),
            Transport::Udp(datagrams) => datagrams.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports_or_paths() {
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port };
        let cases = [
            ("cache.local", tcp("cache.local", 11211)),
            ("10.0.0.1:7", tcp("10.0.0.1", 7)),
            ("[::1]:7", tcp("::1", 7)),
            ("/run/cache.sock", Address::Unix("/run/cache.sock".into())),
            ("unix:cache.sock", Address::Unix("cache.sock".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Address>().expect("valid"), expected);
        }
        assert!("host:port".parse::<Address>().is_err());
    }
}
