//! Accepting connections and counting them.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

/// Counts of connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    current: AtomicU64,
    total: AtomicU64,
    rejected: AtomicU64,
    paused: AtomicU64,
}

/// A reading of [`Connections`].
pub(crate) struct ConnectionStatistics {
    pub(crate) current: u64,
    pub(crate) total: u64,
    pub(crate) rejected: u64,
    pub(crate) paused: u64,
}

impl Connections {
    /// Counts a new connection, unless there are `most` already.
    pub(crate) fn try_open(&self, most: u32) -> bool {
        if self.current.load(Ordering::Relaxed) >= u64::from(most) {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.current.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Counts a time that a new connection had to wait.
    pub(crate) fn count_pause(&self) {
        self.paused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.current.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn statistics(&self) -> ConnectionStatistics {
        ConnectionStatistics {
            current: self.current.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            paused: self.paused.load(Ordering::Relaxed),
        }
    }
}

/// Listens on every address that `address` (`host:port`) stands for.
pub(crate) fn listen_tcp(address: &str, backlog: i32) -> io::Result<Vec<std::net::TcpListener>> {
    address.to_socket_addrs()?.map(|address| listen_on(address, backlog)).collect()
}

fn listen_on(address: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Listens on a unix socket that `mode` gives access to, taking the place of one that a dead process left.
pub(crate) fn listen_unix(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err()
    {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
