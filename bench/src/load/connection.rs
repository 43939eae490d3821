//! One connection: encoded requests, received bytes, and the requests that wait for an answer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::transport::Transport;
use super::wire::Ending;
use crate::workload::Operation;

/// A request, or a run of quiet requests, that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) operation: Operation,
    /// How the answer ends.
    pub(crate) ending: Ending,
    /// Requests that this answer covers.
    pub(crate) requests: u32,
    /// Keys without an answer so far; [`Connection::keys`] holds them.
    pub(crate) keys: u32,
    /// Keys that the requests ask for.
    pub(crate) keys_asked: u32,
    /// When the request was due, in nanoseconds since the phase began.
    pub(crate) due: u64,
    /// When it was encoded, in nanoseconds since the phase began.
    pub(crate) sent: u64,
    /// Keys answered with a value so far.
    pub(crate) hits: u32,
    /// Errors so far.
    pub(crate) errors: u32,
    /// The end of this request frees a slot of the open loop. Of a request that went to several servers, only the last
    /// part does.
    pub(crate) frees_slot: bool,
    /// The request sets a key that was missed.
    pub(crate) is_fill: bool,
}

pub(crate) struct Connection {
    pub(crate) transport: Transport,
    /// Number of the server.
    pub(crate) server: usize,
    /// Number of the group: one connection to each server, like a client's.
    pub(crate) group: usize,
    /// Encoded requests. The bytes before `written` are sent.
    pub(crate) out: Vec<u8>,
    pub(crate) written: usize,
    /// The front of an answer that has not been received whole.
    input: Vec<u8>,
    /// Bytes that must be received before decoding can go on.
    need: usize,
    pub(crate) pending: VecDeque<Pending>,
    /// Keys of the pending requests, each with the verifier's note.
    pub(crate) keys: VecDeque<(u64, u64)>,
    /// The connection is in the worker's list of connections to flush.
    pub(crate) is_dirty: bool,
    /// The poll reports room to write.
    pub(crate) watches_output: bool,
    /// When to open the lost connection again, in nanoseconds since the phase began; `None` if it is open.
    pub(crate) retry_at: Option<u64>,
}

/// The result of a read.
pub(crate) enum Input {
    /// The socket has nothing more.
    Drained,
    /// The socket may have more.
    More,
    /// The server closed the connection.
    Closed,
}

impl Connection {
    /// An open connection without requests.
    pub(crate) fn new(transport: Transport, server: usize, group: usize) -> Connection {
        Connection {
            transport,
            server,
            group,
            out: Vec::new(),
            written: 0,
            input: Vec::new(),
            need: 0,
            pending: VecDeque::new(),
            keys: VecDeque::new(),
            is_dirty: false,
            watches_output: false,
            retry_at: None,
        }
    }

    /// Replaces a lost socket by a new one, and forgets all requests.
    pub(crate) fn replace(&mut self, transport: Transport) {
        *self = Connection::new(transport, self.server, self.group);
    }

    /// Drops the front of an answer that will not be received whole.
    pub(crate) fn forget_input(&mut self) {
        self.input.clear();
        self.need = 0;
    }

    /// Writes what the socket accepts. Returns whether something is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.transport.write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        if self.transport.holds_output() {
            match self.transport.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                other => other?,
            }
        }
        Ok(false)
    }

    /// Reads once and hands the input to `decode`, which returns the bytes it consumed and how many more it needs.
    ///
    /// Input goes through the worker's `buffer`, which stays in the processor's cache. The connection keeps only the
    /// front of an answer that is not whole.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        decode: impl FnOnce(&mut Connection, &[u8]) -> anyhow::Result<(usize, usize)>,
    ) -> anyhow::Result<Input> {
        if self.input.is_empty() {
            let count = match self.transport.read(buffer) {
                Ok(0) => return Ok(Input::Closed),
                Ok(count) => count,
                Err(error) if is_nothing(&error) => return Ok(Input::Drained),
                Err(error) => return Err(error.into()),
            };
            let (taken, need) = decode(self, &buffer[..count])?;
            self.input.extend_from_slice(&buffer[taken..count]);
            self.need = need;
            let more = count == buffer.len() || self.transport.may_hold_input();
            return Ok(if more { Input::More } else { Input::Drained });
        }
        let old = self.input.len();
        self.input.resize(old + self.need.max(buffer.len()), 0);
        let count = match self.transport.read(&mut self.input[old..]) {
            Ok(count) => count,
            Err(error) => {
                self.input.truncate(old);
                return if is_nothing(&error) { Ok(Input::Drained) } else { Err(error.into()) };
            }
        };
        let full = old + count == self.input.len();
        self.input.truncate(old + count);
        if count == 0 {
            return Ok(Input::Closed);
        }
        self.need = self.need.saturating_sub(count);
        if self.need == 0 {
            let input = std::mem::take(&mut self.input);
            let (taken, need) = decode(self, &input)?;
            self.input = input;
            self.input.drain(..taken);
            self.need = need;
        }
        Ok(if full || self.transport.may_hold_input() { Input::More } else { Input::Drained })
    }
}

/// Whether the error says only that there is nothing to read.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
