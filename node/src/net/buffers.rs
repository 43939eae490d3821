//! The buffers of connections, and a pool of those that no connection is using.

use std::cell::RefCell;

use larder_protocol::Scratch;

use crate::cluster::Incomplete;
use crate::commands::items::BATCH;
use crate::net::output::Output;

/// Bytes that one read asks for, and that an input buffer starts with.
const READ: usize = 16 * 1024;

/// Buffers larger than this are not kept.
const KEPT_BUFFER: usize = 256 * 1024;

/// This worker's free buffers: an idle connection holds none.
const POOLED_BUFFERS: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

/// The buffers of a connection with bytes in them.
pub(crate) struct Buffers {
    pub(crate) input: Vec<u8>,
    /// Range of `input` that has not been decoded.
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) scratches: Box<[Scratch; BATCH]>,
    pub(crate) output: Output,
    /// Commands that wait for other members of the cluster.
    pub(crate) holes: Vec<Incomplete>,
}

impl Buffers {
    pub(crate) fn new(input: Vec<u8>) -> Self {
        Buffers { input, start: 0, end: 0, scratches: Box::default(), output: Output::default(), holes: Vec::new() }
    }

    pub(crate) fn take() -> Self {
        POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Buffers::new(vec![0; READ]))
    }

    pub(crate) fn give_back(self) {
        if self.input.len() + self.output.bytes.capacity() <= KEPT_BUFFER {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED_BUFFERS {
                    pool.push(self);
                }
            });
        }
    }

    /// Makes room to read at least one byte, and as far as possible `need` more bytes.
    pub(crate) fn make_room(&mut self, need: usize) {
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
