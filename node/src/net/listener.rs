//! The listening sockets: opened by the settings, or inherited from systemd.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use larder_protocol::Protocol;
use listenfd::ListenFd;
use nix::sys::stat::{Mode, umask};
use socket2::{Domain, Socket, Type};

use crate::config::address::{Address, ListenerProtocol};
use crate::config::settings::Settings;
use crate::error::StartError;

/// The listening sockets, each with its protocol and TLS settings. All are non-blocking.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) tcp: Vec<(std::net::TcpListener, ListenerProtocol)>,
    pub(crate) unix: Vec<(std::os::unix::net::UnixListener, ListenerProtocol)>,
    pub(crate) udp: Vec<(std::net::UdpSocket, Option<Protocol>)>,
}

impl Listeners {
    /// Returns the sockets that systemd opened for this process, if any (sd_listen_fds(3)); otherwise those of `-p`,
    /// `-U` and `-l`, unless `-s` takes their place.
    pub(crate) fn open(settings: &Settings) -> Result<Listeners, StartError> {
        let mut listeners = Listeners::default();
        listeners.inherit(settings.listener_protocol())?;
        if !listeners.is_empty() || settings.socket.is_some() {
            return Ok(listeners);
        }
        let addresses = settings.addresses().map_err(|(address, error)| StartError::Address { address, error })?;
        // An address is bound once, by whichever names it was given.
        let mut bound = Vec::new();
        for address in addresses {
            let mut is_new = |kind, socket: SocketAddr| {
                let named = (kind, socket, address.listener);
                let is_new = socket.port() == 0 || !bound.contains(&named);
                bound.push(named);
                is_new
            };
            if let Some(port) = settings.tcp_port() {
                let sockets = bind(&address, port, Type::STREAM, |socket| is_new(Type::STREAM, socket))
                    .and_then(|sockets| listen(sockets, settings.backlog));
                let sockets = sockets.map_err(|error| refused("TCP", address.with_port(port), error))?;
                listeners.tcp.extend(sockets.into_iter().map(|socket| (socket, address.listener)));
            }
            if let Some(port) = settings.udp_port() {
                let sockets = bind(&address, port, Type::DGRAM, |socket| is_new(Type::DGRAM, socket))
                    .map_err(|error| refused("UDP", address.with_port(port), error))?;
                listeners.udp.extend(sockets.into_iter().map(|socket| (socket.into(), address.listener.protocol)));
            }
        }
        Ok(listeners)
    }

    /// Opens the socket of `-s`, and returns its file. It is called after `-u` took effect, so the file belongs to the
    /// serving user.
    pub(crate) fn open_unix(&mut self, settings: &Settings) -> Result<Option<PathBuf>, StartError> {
        let Some(path) = settings.socket.as_deref().filter(|_| self.is_empty()) else { return Ok(None) };
        let listener = listen_unix(path, settings.socket_mode, settings.backlog)
            .map_err(|error| refused("unix socket", path.display(), error))?;
        self.unix.push((listener, ListenerProtocol { tls: None, ..settings.listener_protocol() }));
        Ok(Some(path.to_owned()))
    }

    pub(crate) fn tcp_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.tcp.iter().map(|(socket, _)| socket.local_addr()).collect()
    }

    pub(crate) fn udp_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.udp.iter().map(|(socket, _)| socket.local_addr()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.unix.is_empty() && self.udp.is_empty()
    }

    fn inherit(&mut self, protocol: ListenerProtocol) -> Result<(), StartError> {
        let mut inherited = ListenFd::from_env();
        for index in 0..inherited.len() {
            if let Ok(Some(socket)) = inherited.take_tcp_listener(index) {
                socket.set_nonblocking(true)?;
                self.tcp.push((socket, protocol));
            } else if let Ok(Some(socket)) = inherited.take_unix_listener(index) {
                socket.set_nonblocking(true)?;
                self.unix.push((socket, ListenerProtocol { tls: None, ..protocol }));
            } else if let Ok(Some(socket)) = inherited.take_udp_socket(index) {
                socket.set_nonblocking(true)?;
                self.udp.push((socket, protocol.protocol));
            } else {
                return Err(StartError::Inherited(index));
            }
        }
        Ok(())
    }
}

fn refused(transport: &'static str, address: impl std::fmt::Display, error: io::Error) -> StartError {
    StartError::Listen { transport, address: address.to_string(), error }
}

/// Binds all addresses of `address` that are new. It is enough if one can be bound: a name, or `*`, may have addresses
/// of a family that this machine does not have.
fn bind(
    address: &Address,
    port: u16,
    kind: Type,
    mut is_new: impl FnMut(SocketAddr) -> bool,
) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut failure = Some(io::Error::other("it stands for no address"));
    for address in address.resolve(port)? {
        if !is_new(address) {
            failure = None;
            continue;
        }
        match bind_one(address, kind) {
            Ok(socket) => sockets.push(socket),
            Err(error) => failure = failure.and(Some(error)),
        }
    }
    match failure {
        Some(failure) if sockets.is_empty() => Err(failure),
        _ => Ok(sockets),
    }
}

fn bind_one(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit it. Keep-alive probes detect clients that are gone.
        socket.set_keepalive(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen(sockets: Vec<Socket>, backlog: i32) -> io::Result<Vec<std::net::TcpListener>> {
    sockets.into_iter().map(|socket| socket.listen(backlog).map(|()| socket.into())).collect()
}

/// Listens on a unix socket with the access rights `mode`. A socket file is replaced if its process is dead.
fn listen_unix(path: &Path, mode: u32, backlog: i32) -> io::Result<std::os::unix::net::UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err()
    {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The mask gives the file its mode when it is created, so it never has a wider one.
    let before = umask(Mode::from_bits_truncate(!mode & 0o777));
    let bound = socket.bind(&socket2::SockAddr::unix(path)?);
    umask(before);
    bound?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
