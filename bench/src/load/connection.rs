//! One connection: what is on its way out, what has come in, and which requests wait for an answer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::transport::Transport;
use super::wire::Ending;
use crate::workload::Operation;

/// A request, or a run of quiet ones, that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) operation: Operation,
    pub(crate) ending: Ending,
    /// Requests that this answer covers.
    pub(crate) requests: u32,
    /// Keys without an answer yet; as many wait in [`Connection::keys`].
    pub(crate) keys: u32,
    /// Keys in them at first.
    pub(crate) keys_asked: u32,
    /// When it was due, in nanoseconds since the phase began.
    pub(crate) due: u64,
    /// When it was handed to the connection, likewise.
    pub(crate) sent: u64,
    /// Keys answered with a value so far.
    pub(crate) hits: u32,
    /// Errors so far.
    pub(crate) errors: u32,
    /// Its end makes room for another request in an open loop.
    pub(crate) frees_slot: bool,
    /// It sets a key that was missed.
    pub(crate) is_fill: bool,
}

pub(crate) struct Connection {
    pub(crate) transport: Transport,
    /// Index of the server.
    pub(crate) server: usize,
    /// The client that this connection belongs to: one connection to each server.
    pub(crate) group: usize,
    /// Encoded requests; those before `written` are sent.
    pub(crate) out: Vec<u8>,
    pub(crate) written: usize,
    /// The front of an answer whose rest has not come.
    input: Vec<u8>,
    /// How many more bytes must come before it is worth a look.
    need: usize,
    pub(crate) pending: VecDeque<Pending>,
    /// Keys of the pending requests, with the verifier's note.
    pub(crate) keys: VecDeque<(u64, u64)>,
    /// Waits in the list of connections to be flushed.
    pub(crate) is_dirty: bool,
    /// The poll watches for room to write.
    pub(crate) watches_output: bool,
    /// Lost; when to try again, in nanoseconds since the phase began.
    pub(crate) retry_at: Option<u64>,
}

/// What reading came to.
pub(crate) enum Input {
    /// Nothing more for now.
    Drained,
    /// There may be more.
    More,
    /// The server closed the connection.
    Closed,
}

impl Connection {
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

    /// Puts a fresh socket in the place of a lost one.
    pub(crate) fn replace(&mut self, transport: Transport) {
        *self = Connection::new(transport, self.server, self.group);
    }

    /// Drops the front of an answer whose rest will not come.
    pub(crate) fn forget_input(&mut self) {
        self.input.clear();
        self.need = 0;
    }

    /// Writes what the socket takes; whether something is left.
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

    /// Reads once and hands whole answers to `decode`, which gives the bytes it took and how many more it needs.
    ///
    /// Input goes through the worker's `buffer`, which stays in the processor's cache; only the front of an unfinished
    /// answer is kept here.
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

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
