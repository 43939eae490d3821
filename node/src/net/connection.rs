//! A connection: reads what there is, carries out every whole command in it, and writes the answers at once.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use larder_protocol::{Command, Decoded, Error, Limits, Outcome, Protocol, Request, Scratch};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::commands::dump::{BUSY, Dump, Listing};
use crate::commands::events::{Topics, Watching};
use crate::commands::items::{BATCH, Next, execute, forget};
use crate::counters::Counters;
use crate::net::auth::Asked;
use crate::net::open_sockets::{OpenSocket, State, Transport};
use crate::net::output::Output;
use crate::net::tls::TlsSocket;
use crate::server::Shared;
use crate::store::{Hash, Store};

/// A stream socket of any kind.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsSocket>),
}

impl Socket {
    fn open(&self, shared: &Shared) -> OpenSocket {
        let now = shared.clock.now();
        let tcp = |socket: &TcpStream| {
            OpenSocket::connection(socket, Transport::Tcp, socket.peer_addr().ok(), socket.local_addr().ok(), now)
        };
        match self {
            Socket::Tcp(socket) => tcp(socket),
            Socket::Unix(socket) => OpenSocket::connection(socket, Transport::Local, None, None, now),
            Socket::Tls(socket) => tcp(socket.stream()),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        let mut receive = |socket: SockRef<'_>| {
            read = (&*socket).read(buffer)?;
            // A socket that had less than it was asked for is empty. The runtime learns that from an error alone, and would
            // let the next read ask the kernel in vain.
            if 0 < read && read < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        let result = match self {
            Socket::Tcp(socket) => socket.try_io(Interest::READABLE, || receive(SockRef::from(socket))),
            Socket::Unix(socket) => socket.try_io(Interest::READABLE, || receive(SockRef::from(socket))),
            Socket::Tls(socket) => return socket.try_read(buffer),
        };
        if read > 0 { Ok(read) } else { result.map(|()| 0) }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_write(bytes),
            Socket::Unix(socket) => socket.try_write(bytes),
            Socket::Tls(socket) => socket.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_write_vectored(slices),
            Socket::Unix(socket) => socket.try_write_vectored(slices),
            Socket::Tls(socket) => socket.try_write_vectored(slices),
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.readable().await,
            Socket::Unix(socket) => socket.readable().await,
            Socket::Tls(socket) => socket.readable().await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.writable().await,
            Socket::Unix(socket) => socket.writable().await,
            Socket::Tls(socket) => socket.writable().await,
        }
    }

    /// Sends what a layer below still holds, before the end.
    async fn finish(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => Ok(()),
            Socket::Tls(socket) => socket.finish().await,
        }
    }
}

/// Bytes that one read asks for, and that an input buffer starts with.
const READ: usize = 16 * 1024;

/// Buffers larger than this are not kept.
const KEPT_BUFFER: usize = 256 * 1024;

/// Answers are written before further commands are carried out once there are this many bytes of them: a client that
/// sends and does not read is not read from either.
const OUTPUT_HIGH_WATER: usize = 256 * 1024;

/// Buffers that no connection of this worker is using, so that an idle connection holds none.
const POOLED_BUFFERS: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

/// A connection's buffers, which it holds only while it has something in them.
struct Buffers {
    input: Vec<u8>,
    /// Where unread input begins and ends in `input`.
    start: usize,
    end: usize,
    scratches: Box<[Scratch; BATCH]>,
    output: Output,
}

impl Buffers {
    fn new(input: Vec<u8>) -> Self {
        Buffers { input, start: 0, end: 0, scratches: Box::default(), output: Output::default() }
    }

    fn take() -> Self {
        POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Buffers::new(vec![0; READ]))
    }

    fn give_back(self) {
        if self.input.len() + self.output.bytes.capacity() <= KEPT_BUFFER {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED_BUFFERS {
                    pool.push(self);
                }
            });
        }
    }

    /// Makes room to read at least one byte, and as far as possible `need` more bytes.
    fn make_room(&mut self, need: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let wanted = need.max(READ / 4);
        if self.input.len() - self.end >= wanted {
            return;
        }
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.input.len() - self.end < wanted {
            let len = (self.end + wanted).max(self.input.len().saturating_mul(2).min(self.end + 4 * wanted));
            self.input.resize(len, 0);
        }
    }
}

/// Why a connection's input was left for now.
enum Progress {
    /// More bytes must come, at least so many.
    NeedInput(usize),
    /// Answers are to be written, and other connections to be served, first.
    OthersFirst,
    /// The connection ends when the answers are written.
    Close(Ended),
    /// Events are shown from now on.
    Watch(Topics),
    /// Keys are listed, then other commands carried out.
    Dump(Dump),
}

/// Why a connection ended. memcached's names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Normal,
    Error,
    IdleTimeout,
    Shutdown,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Ended::Normal => "normal",
            Ended::Error => "error",
            Ended::IdleTimeout => "idle_timeout",
            Ended::Shutdown => "shutdown",
        }
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(socket: Socket, protocol: Option<Protocol>, shared: Arc<Shared>, counters: Arc<Counters>) {
    // Declared behind the socket, so dropped before it is closed.
    let open = shared.sockets.note(socket.open(&shared));
    tracing::debug!(client = open.descriptor, peer = open.peer_address(), "connected");
    if shared.watchers.wants(Topics::CONNECTIONS) {
        shared.watchers.connected(&open);
    }
    // A stopping worker drops its connections where they wait for their clients: what was read has been answered.
    let ended = converse(&socket, protocol, &open, &shared, &counters).await.unwrap_or_else(|error| {
        tracing::debug!(client = open.descriptor, %error, "connection broke");
        Ended::Error
    });
    tracing::debug!(client = open.descriptor, reason = ended.name(), "disconnected");
    if shared.watchers.wants(Topics::CONNECTIONS) {
        shared.watchers.closed(&open, ended.name());
    }
    shared.connections.closed();
}

async fn converse(
    socket: &Socket,
    protocol: Option<Protocol>,
    open: &OpenSocket,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<Ended> {
    let limits = Limits { item_size_max: shared.store.item_size_max() };
    let mut session = Session::new(protocol, shared, open);
    let idle_timeout = shared.settings.idle_timeout();
    loop {
        if !wait_for_input(socket, idle_timeout, counters).await? {
            return Ok(Ended::IdleTimeout);
        }
        let mut buffers = Buffers::take();
        let mut need = 1;
        loop {
            buffers.make_room(need);
            let room = &mut buffers.input[buffers.end..];
            let asked = room.len();
            let read = match socket.try_read(room) {
                Ok(0) => return Ok(Ended::Normal),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if buffers.start == buffers.end {
                        break;
                    }
                    if !wait_for_input(socket, idle_timeout, counters).await? {
                        return Ok(Ended::IdleTimeout);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            counters.bytes_read.add(read as u64);
            buffers.end += read;
            loop {
                let progress = work(&mut buffers, &mut session, &limits, shared, counters);
                flush(socket, &mut buffers.output, counters).await?;
                match progress {
                    Progress::NeedInput(bytes) => {
                        need = bytes;
                        break;
                    }
                    Progress::OthersFirst => {
                        counters.conn_yields.add(1);
                        tokio::task::yield_now().await;
                    }
                    Progress::Close(why) => return socket.finish().await.map(|()| why),
                    Progress::Watch(topics) => {
                        open.set(State::Watch);
                        if let Some(watching) = shared.watchers.add(topics) {
                            return watch(socket, watching, &mut buffers, shared, counters).await;
                        }
                        buffers.output.bytes.extend_from_slice(b"WATCHER_TOO_MANY log watcher limit reached\r\n");
                    }
                    Progress::Dump(asked) => {
                        open.set(State::Watch);
                        dump(socket, asked, &mut buffers.output, shared, counters).await?;
                    }
                }
            }
            open.set(if buffers.start == buffers.end { State::Read } else { State::ReadRest });
            if buffers.start == buffers.end && read < asked {
                break;
            }
            if read == asked {
                // There is more at once: the worker's other connections go first.
                counters.conn_yields.add(1);
                tokio::task::yield_now().await;
            }
        }
        buffers.give_back();
    }
}

/// Waits until there may be something to read; `false` where the client has been idle for too long.
async fn wait_for_input(socket: &Socket, timeout: Option<Duration>, counters: &Counters) -> io::Result<bool> {
    let Some(timeout) = timeout else { return socket.readable().await.map(|()| true) };
    match tokio::time::timeout(timeout, socket.readable()).await {
        Ok(ready) => ready.map(|()| true),
        Err(_) => {
            counters.idle_kicks.add(1);
            Ok(false)
        }
    }
}

/// What a connection has said of itself.
pub(crate) struct Session<'a> {
    /// Found by the first byte unless the listener told.
    protocol: Option<Protocol>,
    /// Bytes of a refused body that are still to come.
    swallow: usize,
    authenticated: bool,
    open: &'a OpenSocket,
}

impl<'a> Session<'a> {
    pub(crate) fn new(protocol: Option<Protocol>, shared: &Shared, open: &'a OpenSocket) -> Self {
        Session { protocol, swallow: 0, authenticated: shared.users.is_none(), open }
    }
}

/// A decoded command, about to be carried out.
struct Planned<'a> {
    request: Request<'a>,
    /// Of its key; of nothing where it has none.
    hash: Hash,
    /// Bytes of input it took.
    consumed: usize,
}

/// Carries out the whole commands at the front of the input, a batch at a time.
fn work(
    buffers: &mut Buffers,
    session: &mut Session<'_>,
    limits: &Limits,
    shared: &Shared,
    counters: &Counters,
) -> Progress {
    let Buffers { input, start, end, scratches, output } = buffers;
    let mut now = shared.clock.now();
    session.open.begin(now);
    let mut done = 0;
    while done < shared.settings.requests_per_turn as usize {
        let skipped = session.swallow.min(*end - *start);
        session.swallow -= skipped;
        *start += skipped;
        if start == end {
            return Progress::NeedInput(1);
        }
        let protocol = *session.protocol.get_or_insert_with(|| Protocol::of_first_byte(input[*start]));
        if let (Some(users), false) = (&shared.users, session.authenticated) {
            match users.ask(protocol, &input[*start..*end], counters, &mut output.bytes) {
                Asked::NeedInput(bytes) => return Progress::NeedInput(bytes),
                Asked::Answered { consumed, authenticated } => {
                    *start += consumed;
                    session.authenticated = authenticated;
                }
                Asked::Close => return Progress::Close(Ended::Normal),
            }
            done += 1;
            continue;
        }
        let most = BATCH.min(shared.settings.requests_per_turn as usize - done);
        let mut batch = ArrayVec::new();
        let other =
            decode_batch(protocol, &input[*start..*end], limits, &mut scratches[..most], &shared.store, &mut batch);
        if batch.len() > 1 {
            shared.store.prefetch(batch.iter().map(|planned| planned.hash));
        }
        for Planned { request, hash, consumed } in &batch {
            if output.len() >= OUTPUT_HIGH_WATER {
                return Progress::OthersFirst;
            }
            if shared.settings.debug_time {
                now = shared.clock.now();
            }
            let next = match (&request.command, &shared.users) {
                (Command::Sasl(sasl), Some(users)) => {
                    request.reply.outcome(&users.sasl(sasl, counters).0, &mut output.bytes);
                    Next::Continue
                }
                _ => execute(request, *hash, shared, counters, now, session.open.descriptor, output),
            };
            *start += consumed;
            match next {
                Next::Continue => {}
                Next::Close => return Progress::Close(Ended::Normal),
                Next::ShutDown => return Progress::Close(Ended::Shutdown),
                Next::Watch(topics) => return Progress::Watch(topics),
                Next::Dump(asked) => return Progress::Dump(asked),
            }
        }
        done += batch.len().max(1);
        drop(batch);
        match other {
            // Requests are in the batch.
            None | Some(Decoded::Request { .. }) => {}
            Some(Decoded::Part { request, consumed, repeat }) => {
                execute(&request, shared.store.hash(b""), shared, counters, now, session.open.descriptor, output);
                // The command's name goes before the keys that are left.
                let front = *start;
                *start += consumed - repeat;
                input.copy_within(front..front + repeat, *start);
            }
            Some(Decoded::Incomplete { need }) => return Progress::NeedInput(need),
            Some(Decoded::Error { error, reply, consumed, swallow, outdated, close }) => {
                counters.store_too_large.add((error == Error::TOO_LARGE).into());
                if let Some(key) = outdated {
                    forget(key, &shared.store, now);
                    if shared.watchers.wants(Topics::MUTATIONS) {
                        shared.watchers.refused(key, session.open.descriptor);
                    }
                }
                reply.outcome(&Outcome::Error(error), &mut output.bytes);
                *start += consumed;
                session.swallow = swallow;
                if close {
                    return Progress::Close(Ended::Error);
                }
            }
            Some(Decoded::Close) => return Progress::Close(Ended::Error),
        }
    }
    Progress::OthersFirst
}

/// Decodes the commands at the front of `input`, as many as there are `scratches`; tells what comes instead of one more.
#[inline]
fn decode_batch<'a>(
    protocol: Protocol,
    input: &'a [u8],
    limits: &Limits,
    scratches: &'a mut [Scratch],
    store: &Store,
    batch: &mut ArrayVec<Planned<'a>, BATCH>,
) -> Option<Decoded<'a>> {
    let mut at = 0;
    for scratch in scratches {
        if at == input.len() {
            break;
        }
        match protocol.decode(&input[at..], limits, scratch) {
            Decoded::Request { request, consumed } => {
                at += consumed;
                let hash = store.hash(request.command.key().unwrap_or(b""));
                batch.push(Planned { request, hash, consumed });
            }
            other => return Some(other),
        }
    }
    None
}

/// Carries out the commands of a datagram.
pub(crate) fn work_on_datagram(
    payload: &[u8],
    protocol: Option<Protocol>,
    open: &OpenSocket,
    shared: &Shared,
    counters: &Counters,
    output: &mut Output,
) {
    let mut buffers = Buffers { end: payload.len(), output: std::mem::take(output), ..Buffers::new(payload.to_vec()) };
    let limits = Limits { item_size_max: shared.store.item_size_max() };
    // What is cut off is lost, as everything is in a datagram.
    work(&mut buffers, &mut Session::new(protocol, shared, open), &limits, shared, counters);
    *output = buffers.output;
}

async fn flush(socket: &Socket, output: &mut Output, counters: &Counters) -> io::Result<()> {
    while !output.is_sent() {
        let result = match output.unsent() {
            Some(bytes) => socket.try_write(bytes),
            None => {
                let (slices, count) = output.slices();
                socket.try_write_vectored(&slices[..count])
            }
        };
        match result {
            Ok(sent) => {
                counters.bytes_written.add(sent as u64);
                output.advance(sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    output.clear();
    Ok(())
}

/// Shows events until the client goes. What it sends meanwhile is not looked at.
async fn watch(
    socket: &Socket,
    watching: Watching,
    buffers: &mut Buffers,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<Ended> {
    if shared.watchers.wants(Topics::EVICTIONS) {
        // From now on, not from the next round of background work on.
        shared.watchers.show_evictions(&shared.store, shared.clock.now());
    }
    buffers.output.bytes.extend_from_slice(b"OK\r\n");
    loop {
        flush(socket, &mut buffers.output, counters).await?;
        tokio::select! {
            () = watching.take(&mut buffers.output.bytes) => {}
            ready = socket.readable() => {
                ready?;
                match socket.try_read(&mut buffers.input) {
                    Ok(0) => return Ok(Ended::Normal),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// A client that takes longer than this to read a slice of a dump is given up.
const DUMP_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Lists all items.
async fn dump(
    socket: &Socket,
    asked: Dump,
    output: &mut Output,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<()> {
    let Some(mut listing) = Listing::begin(asked, shared, &mut output.bytes) else {
        output.bytes.extend_from_slice(BUSY.as_bytes());
        output.bytes.extend_from_slice(b"\r\n");
        return Ok(());
    };
    loop {
        let more = listing.slice(&mut output.bytes);
        if output.len() >= OUTPUT_HIGH_WATER || !more {
            tokio::time::timeout(DUMP_PATIENCE, flush(socket, output, counters)).await??;
        }
        if !more {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}
