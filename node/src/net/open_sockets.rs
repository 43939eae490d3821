//! The open sockets by descriptor, for `stats conns` (protocol.txt, "Connection statistics").

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use dashmap::DashMap;

use crate::store::Time;

/// The state of a socket, as `stats conns` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Listening,
    /// Waiting for a command.
    Read,
    /// Carrying out commands.
    ParseCommand,
    /// Waiting for the rest of a command.
    ReadRest,
    /// Showing events, or listing keys.
    Watch,
}

impl State {
    const ALL: [State; 5] = [State::Listening, State::Read, State::ParseCommand, State::ReadRest, State::Watch];

    /// memcached's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Listening => "conn_listening",
            State::Read => "conn_read",
            State::ParseCommand => "conn_parse_cmd",
            State::ReadRest => "conn_nread",
            State::Watch => "conn_watch",
        }
    }
}

/// The transport of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Local,
    Tcp,
    Udp,
}

/// One open socket. Its connection sets the state; any thread may read it.
#[derive(Debug)]
pub(crate) struct OpenSocket {
    pub(crate) descriptor: RawFd,
    pub(crate) transport: Transport,
    /// Address of the peer, if the transport has one.
    pub(crate) peer: Option<SocketAddr>,
    /// The socket's own address, if the transport has one.
    own: Option<SocketAddr>,
    state: AtomicU8,
    last_command: AtomicU32,
}

impl OpenSocket {
    /// Returns the entry of a connection.
    pub(crate) fn connection(
        socket: &impl AsRawFd,
        transport: Transport,
        peer: Option<SocketAddr>,
        own: Option<SocketAddr>,
        now: Time,
    ) -> Self {
        OpenSocket {
            descriptor: socket.as_raw_fd(),
            transport,
            peer,
            own,
            state: AtomicU8::new(State::Read as u8),
            last_command: AtomicU32::new(now.0),
        }
    }

    /// Returns the entry of a socket that waits for connections or datagrams.
    pub(crate) fn listening(socket: &impl AsRawFd, transport: Transport, own: Option<SocketAddr>, now: Time) -> Self {
        let listening = OpenSocket::connection(socket, transport, None, own, now);
        if transport != Transport::Udp {
            listening.set(State::Listening);
        }
        listening
    }

    #[inline]
    pub(crate) fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Sets the state while commands are carried out, and the time of the last one.
    #[inline]
    pub(crate) fn begin(&self, now: Time) {
        self.set(State::ParseCommand);
        self.last_command.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> State {
        State::ALL[self.state.load(Ordering::Relaxed) as usize]
    }

    pub(crate) fn idle_seconds(&self, now: Time) -> u32 {
        now.0.saturating_sub(self.last_command.load(Ordering::Relaxed))
    }

    /// Whether it waits for connections or datagrams.
    pub(crate) fn listens(&self) -> bool {
        self.state() == State::Listening || self.transport == Transport::Udp
    }

    /// The socket's own address in memcached's form; `path` is the unix socket's file.
    pub(crate) fn own_address(&self, path: &str) -> String {
        match self.own {
            Some(address) => self.formatted(address),
            None => format!("unix:{path}"),
        }
    }

    /// The peer's address in memcached's form. A client of a unix socket has none.
    pub(crate) fn peer_address(&self) -> String {
        self.peer.map_or("?:<AF 0>".to_owned(), |peer| self.formatted(peer))
    }

    fn formatted(&self, address: SocketAddr) -> String {
        let name = if self.transport == Transport::Udp { "udp" } else { "tcp" };
        let version = if address.is_ipv4() { "" } else { "6" };
        format!("{name}{version}:{address}")
    }
}

/// The open sockets by descriptor.
#[derive(Debug, Default)]
pub(crate) struct Sockets(DashMap<RawFd, Arc<OpenSocket>>);

impl Sockets {
    /// Registers a socket until the returned guard drops. The guard must drop before the socket: the kernel reuses
    /// descriptors.
    pub(crate) fn register(self: &Arc<Self>, socket: OpenSocket) -> Registered {
        let socket = Arc::new(socket);
        self.0.insert(socket.descriptor, socket.clone());
        Registered { sockets: self.clone(), socket }
    }

    /// Returns all sockets, ordered by descriptor.
    pub(crate) fn list(&self) -> Vec<Arc<OpenSocket>> {
        let mut list: Vec<_> = self.0.iter().map(|entry| entry.value().clone()).collect();
        list.sort_by_key(|socket| socket.descriptor);
        list
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Keeps a socket in the list until it drops.
#[derive(Debug)]
pub(crate) struct Registered {
    sockets: Arc<Sockets>,
    socket: Arc<OpenSocket>,
}

impl std::ops::Deref for Registered {
    type Target = OpenSocket;

    #[inline]
    fn deref(&self) -> &OpenSocket {
        &self.socket
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sockets.0.remove(&self.socket.descriptor);
    }
}
