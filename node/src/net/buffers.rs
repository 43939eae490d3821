//! What a connection holds: working memory while it works; while it waits, only what it has not carried out or sent.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use larder_protocol::Scratch;

use crate::cluster::Incomplete;
use crate::commands::items::BATCH;
use crate::net::output::Output;
use crate::shared::Shared;

/// Bytes of input that a connection works on at a time. A longer command is received into memory that the store lends.
pub(crate) const INPUT: usize = 32 * 1024;

/// Output buffers larger than this are not pooled.
const POOLED_OUTPUT: usize = 256 * 1024;

/// A worker's free working memories. It needs more than one only where connections end while they have one.
const POOLED: usize = 2;

thread_local! {
    static POOL: RefCell<Vec<Working>> = const { RefCell::new(Vec::new()) };
}

/// The working memory of the connection that a worker serves at the moment.
struct Working {
    input: Vec<u8>,
    scratches: Vec<Scratch>,
    output: Vec<u8>,
}

impl Working {
    fn new(input: Vec<u8>) -> Self {
        Working { input, scratches: std::iter::repeat_with(Scratch::new).take(BATCH).collect(), output: Vec::new() }
    }
}

/// The input and output of a connection.
#[derive(Default)]
pub(crate) struct Buffers {
    /// [`INPUT`] bytes while the connection works; nothing while it waits.
    pub(crate) input: Vec<u8>,
    /// A command that is longer than `input`, in its place.
    pub(crate) long: Option<Bytes>,
    /// Range of the input that has not been carried out.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// That range, while the connection waits.
    kept: Bytes,
    pub(crate) scratches: Vec<Scratch>,
    pub(crate) output: Output,
    /// Commands that wait for other members of the cluster.
    pub(crate) holes: Vec<Incomplete>,
}

impl Buffers {
    /// Returns buffers with this input.
    pub(crate) fn of(input: Vec<u8>) -> Self {
        let Working { input, scratches, .. } = Working::new(input);
        Buffers { end: input.len(), input, scratches, ..Buffers::default() }
    }

    /// Returns the input that has not been carried out.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.long.as_deref().unwrap_or(&self.input)[self.start..self.end]
    }

    /// Takes working memory, with what was kept at the front of the input.
    pub(crate) fn work(&mut self) {
        if !self.input.is_empty() {
            return;
        }
        let working = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Working::new(vec![0; INPUT]));
        (self.input, self.scratches) = (working.input, working.scratches);
        if self.output.is_empty() {
            self.output.bytes = working.output;
        }
        let kept = std::mem::take(&mut self.kept);
        self.input[..kept.len()].copy_from_slice(&kept);
    }

    /// Gives the working memory back, before the connection waits.
    ///
    /// # Errors
    ///
    /// There is no memory for what is left: the connection cannot go on.
    pub(crate) fn rest(&mut self, shared: &Shared) -> io::Result<()> {
        let now = || shared.clock.now();
        let keep = |bytes: &[u8]| shared.store.keep(bytes, now()).ok_or(io::ErrorKind::OutOfMemory);
        let output = self.output.keep(keep)?;
        if self.input.is_empty() {
            return Ok(());
        }
        if self.long.is_none() {
            self.kept = keep(&self.input[self.start..self.end])?;
            (self.start, self.end) = (0, self.kept.len());
        }
        let (input, scratches) = (std::mem::take(&mut self.input), std::mem::take(&mut self.scratches));
        if input.len() == INPUT && output.capacity() <= POOLED_OUTPUT {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(Working { input, scratches, output });
                }
            });
        }
        Ok(())
    }
}
