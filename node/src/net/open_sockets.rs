//! The open sockets by descriptor, for `stats conns` (protocol.txt, "Connection statistics").

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use dashmap::DashMap;

use crate::store::Time;

/// What a socket is doing.
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
    /// Showing events or keys.
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

/// How peers reach a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Local,
    Tcp,
    Udp,
}

/// One socket. Its connection writes what it does, anybody may read.
#[derive(Debug)]
pub(crate) struct OpenSocket {
    pub(crate) descriptor: RawFd,
    pub(crate) transport: Transport,
    /// Of a connection that has such an address.
    pub(crate) peer: Option<SocketAddr>,
    /// Where it has one.
    own: Option<SocketAddr>,
    state: AtomicU8,
    last_command: AtomicU32,
}

impl OpenSocket {
    /// Of a connection.
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

    /// Of a socket that waits for connections or datagrams.
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

    /// Commands have come.
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

    /// The own address in memcached's words; `path` is the unix socket's.
    pub(crate) fn own_address(&self, path: &str) -> String {
        match self.own {
            Some(address) => self.in_words(address),
            None => format!("unix:{path}"),
        }
    }

    /// The peer's address in memcached's words: a client of a unix socket has none.
    pub(crate) fn peer_address(&self) -> String {
        self.peer.map_or("?:<AF 0>".to_owned(), |peer| self.in_words(peer))
    }

    fn in_words(&self, address: SocketAddr) -> String {
        let name = if self.transport == Transport::Udp { "udp" } else { "tcp" };
        let version = if address.is_ipv4() { "" } else { "6" };
        format!("{name}{version}:{address}")
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sockets(DashMap<RawFd, Arc<OpenSocket>>);

impl Sockets {
    /// Notes a socket for as long as the answer lives, which must be dropped before the socket: its descriptor is given
    /// away again.
    pub(crate) fn note(self: &Arc<Self>, socket: OpenSocket) -> Noted {
        let socket = Arc::new(socket);
        self.0.insert(socket.descriptor, socket.clone());
        Noted { sockets: self.clone(), socket }
    }

    /// All sockets in the order of their descriptors.
    pub(crate) fn list(&self) -> Vec<Arc<OpenSocket>> {
        let mut list: Vec<_> = self.0.iter().map(|entry| entry.value().clone()).collect();
        list.sort_by_key(|socket| socket.descriptor);
        list
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A socket in the list.
#[derive(Debug)]
pub(crate) struct Noted {
    sockets: Arc<Sockets>,
    socket: Arc<OpenSocket>,
}

impl std::ops::Deref for Noted {
    type Target = OpenSocket;

    #[inline]
    fn deref(&self) -> &OpenSocket {
        &self.socket
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.sockets.0.remove(&self.socket.descriptor);
    }
}
