//! A connection reads what there is, has every whole command in it carried out, and sends the replies in one write.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use larder_protocol::Protocol;

use crate::cluster::resolve;
use crate::commands::crawler::BUSY;
use crate::commands::dump::{Dump, Listing};
use crate::commands::events::{Topics, Watching};
use crate::net::buffers::Buffers;
use crate::net::open_sockets::{OpenSocket, State};
use crate::net::session::{Ended, OUTPUT_HIGH_WATER, Progress, Session};
use crate::net::socket::Socket;
use crate::shared::Shared;
use crate::statistics::counters::Counters;
use crate::store::Block;

/// Serves a connection until it ends.
pub(crate) async fn serve(socket: Socket, protocol: Option<Protocol>, shared: Arc<Shared>, counters: Arc<Counters>) {
    // Declared after the socket, so that it is dropped before the socket is closed.
    let open = shared.sockets.register(socket.open(shared.clock.now()));
    tracing::debug!(client = open.descriptor, peer = open.peer_address(), "connected");
    if shared.watchers.wants(Topics::CONNECTIONS) {
        shared.watchers.connected(&open);
    }
    // A stopping worker drops its connections while they wait for their clients; every command that was read has its
    // reply.
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

/// Reads requests and sends replies until the connection ends. Returns why it ended.
async fn converse(
    socket: &Socket,
    protocol: Option<Protocol>,
    open: &OpenSocket,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<Ended> {
    let mut session = Session::new(protocol, open, shared, counters);
    let mut buffers = Buffers::default();
    let mut more = false;
    loop {
        buffers.rest(shared)?;
        if more {
            // There is more to read at once: the worker's other connections go first.
            counters.conn_yields.add(1);
            tokio::task::yield_now().await;
        } else if !wait_for_input(socket, shared, counters).await? {
            return Ok(Ended::IdleTimeout);
        }
        buffers.work();
        let filled = match read_once(socket, &mut buffers, counters)? {
            Read::Bytes { filled } => filled,
            Read::EndOfFile => return Ok(Ended::Normal),
            Read::Nothing => {
                more = false;
                continue;
            }
        };
        let received = match drain(socket, &mut session, &mut buffers, open, shared, counters).await? {
            Drained::NeedInput { received } => received,
            Drained::Ended(why) => return Ok(why),
        };
        open.set(if buffers.start == buffers.end { State::Read } else { State::ReadRest });
        // A read that leaves room has emptied the socket.
        more = filled || received;
    }
}

/// The result of one read.
enum Read {
    /// Bytes came; `filled` says whether they left no room.
    Bytes {
        filled: bool,
    },
    EndOfFile,
    /// There is nothing to read yet.
    Nothing,
}

/// Reads once into the room behind the input.
fn read_once(socket: &Socket, buffers: &mut Buffers, counters: &Counters) -> io::Result<Read> {
    let room = &mut buffers.input[buffers.end..];
    let len = room.len();
    match socket.try_read(room) {
        Ok(0) => Ok(Read::EndOfFile),
        Ok(read) => {
            counters.bytes_read.add(read as u64);
            buffers.end += read;
            Ok(Read::Bytes { filled: read == len })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
        Err(error) => Err(error),
    }
}

/// Why all that was read has been carried out.
enum Drained {
    /// The next command is incomplete. After a long one was received, there may be more to read at once.
    NeedInput {
        received: bool,
    },
    Ended(Ended),
}

/// Carries out all whole commands in the input and sends their replies.
async fn drain(
    socket: &Socket,
    session: &mut Session<'_>,
    buffers: &mut Buffers,
    open: &OpenSocket,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<Drained> {
    let (mut received, mut refused) = (false, false);
    loop {
        buffers.work();
        let progress = session.work(buffers);
        if !buffers.holes.is_empty() {
            buffers.rest(shared)?;
            resolve(shared, counters, &mut buffers.holes, &mut buffers.output).await;
        }
        flush(socket, buffers, shared, counters).await?;
        match progress {
            Progress::NeedInput => match buffers.rest(shared) {
                Ok(()) => return Ok(Drained::NeedInput { received }),
                Err(_) if !refused => {
                    session.refuse_unfinished();
                    refused = true;
                }
                Err(error) => {
                    // It is no value that could be refused.
                    let _ = socket.try_write(b"SERVER_ERROR out of memory reading request\r\n");
                    return Err(error);
                }
            },
            Progress::OthersFirst => {
                counters.conn_yields.add(1);
                buffers.rest(shared)?;
                tokio::task::yield_now().await;
            }
            Progress::Receive { hash, len } => match shared.store.lend(hash, len, shared.clock.now()) {
                Some(block) => {
                    open.set(State::ReadRest);
                    if let Some(why) = receive(socket, block, buffers, shared, counters).await? {
                        return Ok(Drained::Ended(why));
                    }
                    received = true;
                }
                None => session.refuse_unfinished(),
            },
            Progress::Close(why) => {
                (buffers.start, buffers.end) = (0, 0);
                buffers.rest(shared)?;
                return socket.finish().await.map(|()| Drained::Ended(why));
            }
            Progress::Watch(topics) => {
                open.set(State::Watch);
                if let Some(watching) = shared.watchers.add(topics) {
                    return watch(socket, watching, buffers, shared, counters).await.map(Drained::Ended);
                }
                buffers.output.bytes.extend_from_slice(b"WATCHER_TOO_MANY log watcher limit reached\r\n");
            }
            Progress::Dump(asked) => {
                open.set(State::Watch);
                dump(socket, asked, buffers, shared, counters).await?;
            }
        }
    }
}

/// Most bytes of a long command that are read before other connections are served.
const RECEIVED_AT_ONCE: usize = 256 * 1024;

/// Receives the rest of a long command into a block, which takes the place of the input. Returns why the connection
/// ends, if it does.
async fn receive(
    socket: &Socket,
    mut block: Block,
    buffers: &mut Buffers,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<Option<Ended>> {
    buffers.work();
    let begun = buffers.unread();
    let (len, mut filled) = (block.bytes_mut().len(), begun.len());
    block.bytes_mut()[..filled].copy_from_slice(begun);
    (buffers.start, buffers.end) = (0, 0);
    buffers.rest(shared)?;
    while filled < len {
        let end = len.min(filled + RECEIVED_AT_ONCE);
        match socket.try_read(&mut block.bytes_mut()[filled..end]) {
            Ok(0) => return Ok(Some(Ended::Normal)),
            Ok(read) => {
                counters.bytes_read.add(read as u64);
                filled += read;
                if filled == end && end < len {
                    counters.conn_yields.add(1);
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait_for_input(socket, shared, counters).await? {
                    return Ok(Some(Ended::IdleTimeout));
                }
            }
            Err(error) => return Err(error),
        }
    }
    buffers.long = Some(block.into_bytes());
    buffers.end = len;
    Ok(None)
}

/// Waits until there may be something to read. Returns `false` if the client has been idle for too long.
async fn wait_for_input(socket: &Socket, shared: &Shared, counters: &Counters) -> io::Result<bool> {
    let Some(timeout) = shared.settings.extended.idle_timeout else { return socket.readable().await.map(|()| true) };
    match tokio::time::timeout(timeout, socket.readable()).await {
        Ok(ready) => ready.map(|()| true),
        Err(_) => {
            counters.idle_kicks.add(1);
            Ok(false)
        }
    }
}

async fn flush(socket: &Socket, buffers: &mut Buffers, shared: &Shared, counters: &Counters) -> io::Result<()> {
    while !buffers.output.is_sent() {
        let result = match buffers.output.unsent() {
            Some(bytes) => socket.try_write(bytes),
            None => {
                let (slices, count) = buffers.output.slices();
                socket.try_write_vectored(&slices[..count])
            }
        };
        match result {
            Ok(sent) => {
                counters.bytes_written.add(sent as u64);
                buffers.output.advance(sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                buffers.rest(shared)?;
                socket.writable().await?;
            }
            Err(error) => return Err(error),
        }
    }
    buffers.output.clear();
    Ok(())
}

/// Shows events until the client closes the connection. Bytes that it sends meanwhile are dropped, as in memcached.
async fn watch(
    socket: &Socket,
    watching: Watching,
    buffers: &mut Buffers,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<Ended> {
    if shared.watchers.wants(Topics::EVICTIONS) {
        // Evictions are recorded from this moment, not from the next round of background work.
        shared.watchers.show_evictions(&shared.store, shared.clock.now());
    }
    buffers.output.bytes.extend_from_slice(b"OK\r\n");
    loop {
        flush(socket, buffers, shared, counters).await?;
        buffers.work();
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

/// How long a client may take to read a slice of a dump before the connection is closed.
const DUMP_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Lists all items.
async fn dump(
    socket: &Socket,
    asked: Dump,
    buffers: &mut Buffers,
    shared: &Shared,
    counters: &Counters,
) -> io::Result<()> {
    buffers.work();
    let Some(mut listing) = Listing::begin(asked, shared, &mut buffers.output.bytes) else {
        buffers.output.bytes.extend_from_slice(BUSY.as_bytes());
        buffers.output.bytes.extend_from_slice(b"\r\n");
        return Ok(());
    };
    loop {
        let more = listing.slice(&mut buffers.output.bytes);
        if buffers.output.len() >= OUTPUT_HIGH_WATER || !more {
            tokio::time::timeout(DUMP_PATIENCE, flush(socket, buffers, shared, counters)).await??;
        }
        if !more {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}
