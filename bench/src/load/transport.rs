//! Sockets to a server: TCP, unix, TLS over TCP, or UDP.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::datagrams::Datagrams;

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
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().with_context(|| format!("`{port}` is not a port"))?)
            }
            _ => (text, 11211),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        anyhow::ensure!(!host.is_empty(), "expected host:port, or the path of a unix socket");
        Ok(Address::Tcp { host, port })
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

impl TransportKind {
    /// TLS that trusts the certificate authorities in `file` (PEM).
    pub(crate) fn tls(file: &Path, name: Option<String>) -> anyhow::Result<TransportKind> {
        let cannot = || format!("--tls-ca: cannot read certificates from {}", file.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).with_context(cannot)? {
            roots.add(certificate.with_context(cannot)?).with_context(cannot)?;
        }
        anyhow::ensure!(!roots.is_empty(), "--tls-ca: {} holds no certificate", file.display());
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(TransportKind::Tls(Arc::new(config), name))
    }
}

/// Connects to `address` over TCP and closes the connection.
///
/// # Errors
///
/// Nobody accepts connections there within `patience`; the text says so to a user.
pub(crate) fn check_reachable(address: &Address, patience: Duration) -> anyhow::Result<()> {
    Transport::connect(address, &TransportKind::Tcp, patience).map(drop)
}

/// A connected, non-blocking socket.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Udp(Box<Datagrams>),
}

impl Transport {
    /// Connects to `address`; each of its addresses has `patience`.
    ///
    /// # Errors
    ///
    /// No address accepts the connection, or the TLS handshake fails.
    pub(crate) fn connect(address: &Address, kind: &TransportKind, patience: Duration) -> anyhow::Result<Transport> {
        let hint = || format!("no connection to {address}: is a server running there? (--servers HOST:PORT)");
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).with_context(hint)?;
                stream.set_nonblocking(true)?;
                Ok(Transport::Unix(stream))
            }
            Address::Tcp { host, port } if matches!(kind, TransportKind::Udp) => {
                Ok(Transport::Udp(Box::new(Datagrams::connect(host, *port).with_context(hint)?)))
            }
            Address::Tcp { host, port } => {
                let addresses = (host.as_str(), *port).to_socket_addrs().with_context(hint)?;
                let mut last = io::Error::other("the name has no address");
                for address in addresses {
                    match TcpStream::connect_timeout(&address, patience) {
                        Ok(stream) => return Transport::over_tcp(stream, host, kind, patience),
                        Err(error) => last = error,
                    }
                }
                Err(last).with_context(hint)
            }
        }
    }

    fn over_tcp(
        mut stream: TcpStream,
        host: &str,
        kind: &TransportKind,
        patience: Duration,
    ) -> anyhow::Result<Transport> {
        stream.set_nodelay(true)?;
        let TransportKind::Tls(config, name) = kind else {
            stream.set_nonblocking(true)?;
            return Ok(Transport::Tcp(stream));
        };
        let name = name.clone().unwrap_or_else(|| host.to_owned());
        let name = ServerName::try_from(name).context("not a name that TLS can check (--tls-name)")?;
        let mut session = ClientConnection::new(config.clone(), name)?;
        stream.set_read_timeout(Some(patience))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).with_context(|| format!("the TLS handshake with {host} failed"))?;
        }
        stream.set_read_timeout(None)?;
        stream.set_nonblocking(true)?;
        Ok(Transport::Tls(Box::new(StreamOwned::new(session, stream))))
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
