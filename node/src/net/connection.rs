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
use crate::net::output::Output;
use crate::net::session::{Ended, OUTPUT_HIGH_WATER, Progress, Session};
use crate::net::socket::Socket;
use crate::shared::Shared;
use crate::statistics::counters::Counters;

/// Serves a connection until it ends.
pub(crate) async fn serve(socket: Socket, protocol: Option<Protocol>, shared: Arc<Shared>, counters: Arc<Counters>) {
    // Declared after the socket, so that it is dropped before the socket is closed.
    let open = shared.sockets.register(socket.open(&shared));
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
    let idle_timeout = shared.settings.extended.idle_timeout;
    loop {
        // An idle connection holds no buffers: they are taken once there is something to read.
        if !wait_for_input(socket, idle_timeout, counters).await? {
            return Ok(Ended::IdleTimeout);
        }
        let mut buffers = Buffers::take();
        let mut need = 1;
        loop {
            buffers.make_room(need);
            let (read, room) = match read_once(socket, &mut buffers, counters)? {
                Read::Bytes { read, room } => (read, room),
                Read::EndOfFile => return Ok(Ended::Normal),
                Read::Nothing if buffers.start == buffers.end => break,
                Read::Nothing => {
                    if !wait_for_input(socket, idle_timeout, counters).await? {
                        return Ok(Ended::IdleTimeout);
                    }
                    continue;
                }
            };
            need = match drain(socket, &mut session, &mut buffers, open, shared, counters).await? {
                Drained::NeedInput(bytes) => bytes,
                Drained::Ended(why) => return Ok(why),
            };
            let is_empty = buffers.start == buffers.end;
            open.set(if is_empty { State::Read } else { State::ReadRest });
            // A read that leaves room has emptied the socket.
            if is_empty && read < room {
                break;
            }
            if read == room {
                // There is more at once: the worker's other connections go first.
                counters.conn_yields.add(1);
                tokio::task::yield_now().await;
            }
        }
        buffers.give_back();
    }
}

/// The result of one read.
enum Read {
    /// `read` bytes came; there was room for `room`.
    Bytes {
        read: usize,
        room: usize,
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
            Ok(Read::Bytes { read, room: len })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
        Err(error) => Err(error),
    }
}

/// Why all that was read has been carried out.
enum Drained {
    /// At least so many more bytes must come.
    NeedInput(usize),
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
    loop {
        let progress = session.work(buffers);
        if !buffers.holes.is_empty() {
            resolve(shared, counters, &mut buffers.holes, &mut buffers.output).await;
        }
        flush(socket, &mut buffers.output, counters).await?;
        match progress {
            Progress::NeedInput(bytes) => return Ok(Drained::NeedInput(bytes)),
            Progress::OthersFirst => {
                counters.conn_yields.add(1);
                tokio::task::yield_now().await;
            }
            Progress::Close(why) => return socket.finish().await.map(|()| Drained::Ended(why)),
            Progress::Watch(topics) => {
                open.set(State::Watch);
                if let Some(watching) = shared.watchers.add(topics) {
                    return watch(socket, watching, buffers, shared, counters).await.map(Drained::Ended);
                }
                buffers.output.bytes.extend_from_slice(b"WATCHER_TOO_MANY log watcher limit reached\r\n");
            }
            Progress::Dump(asked) => {
                open.set(State::Watch);
                dump(socket, asked, &mut buffers.output, shared, counters).await?;
            }
        }
    }
}

/// Waits until there may be something to read. Returns `false` if the client has been idle for too long.
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

/// How long a client may take to read a slice of a dump before the connection is closed.
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
