//! What decoding takes and gives: limits, room for a key, and what the bytes at the front of an input are.

use crate::command::{KEY_MAX_LEN, Reply, Request, TextReply};
use crate::error::Error;

/// What bounds a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest item in bytes (`-I`), counted as memcached counts: key, flags, value and [`ITEM_OVERHEAD`]. A larger one is
    /// refused and its bytes are skipped.
    pub item_size_max: usize,
}

/// What memcached counts to an item beside its key, flags and value, in bytes: header, CAS unique and the value's line end.
pub const ITEM_OVERHEAD: usize = 59;

impl Default for Limits {
    fn default() -> Self {
        Limits { item_size_max: 1024 * 1024 }
    }
}

impl Limits {
    /// Whether an item would be too large.
    #[inline]
    pub fn too_large(&self, key_len: usize, flags: u32, value_len: usize) -> bool {
        let flags_len = if flags == 0 { 0 } else { 4 };
        value_len.saturating_add(key_len + flags_len + ITEM_OVERHEAD) > self.item_size_max
    }
}

/// A command line without an end is refused beyond this many bytes, unless it lists keys to read.
pub const LINE_MAX: usize = 2048;

/// A line that lists keys to read is carried out in parts ([`Decoded::Part`]) once it is longer than this many bytes, so
/// that such lines have no limit, and a connection's memory has one.
pub const RETRIEVAL_PART: usize = 16 * 1024;

/// A response's value, and a binary request's body, are at most so many bytes (memcached's largest `-I`). What
/// announces more is malformed.
pub const BODY_MAX: usize = 1 << 30;

/// Room for a key that arrives as base64.
#[derive(Debug)]
pub struct Scratch(pub(crate) [u8; KEY_MAX_LEN + 2]);

impl Scratch {
    /// Empty room.
    pub fn new() -> Self {
        Scratch([0; KEY_MAX_LEN + 2])
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What the bytes at the front of an input are.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// The front of a request: at least `need` more bytes must come.
    Incomplete {
        /// How many more bytes at least.
        need: usize,
    },
    /// A whole request of `consumed` bytes.
    Request {
        /// The request.
        request: Request<'a>,
        /// Bytes it took.
        consumed: usize,
    },
    /// The beginning of a very long line of keys to read, whose end has not come yet.
    ///
    /// Carry out the request; then drop `consumed` bytes, but put the first `repeat` bytes of the input (the command's name)
    /// before the rest. `consumed` is never less than `repeat`, so there is room for that in place.
    Part {
        /// A retrieval of the whole keys so far. Its [`Reply::end_of_get`] writes nothing.
        request: Request<'a>,
        /// Bytes it took.
        consumed: usize,
        /// Bytes of the command's name, with what belongs to it.
        repeat: usize,
    },
    /// Something that is no request.
    Error {
        /// What is wrong.
        error: Error,
        /// How it is answered, by [`Reply::outcome`].
        reply: Reply<'a>,
        /// Bytes to drop now.
        consumed: usize,
        /// Further bytes of a body to drop as they come.
        swallow: usize,
        /// The key whose item must go, because its new value is refused and the old one is out of date.
        outdated: Option<&'a [u8]>,
        /// Close the connection once the answer is sent.
        close: bool,
    },
    /// Nothing that follows can be understood: close the connection without a word, as memcached does.
    Close,
}

impl<'a> Decoded<'a> {
    /// A line that is refused whole, with an answer that cannot be silenced.
    #[cold]
    pub(crate) fn refuse(error: Error, consumed: usize) -> Decoded<'a> {
        Decoded::refuse_quietly(error, TextReply::default(), consumed)
    }

    /// A line that is refused whole, and could be read as far as its `noreply`, which silences the answer.
    #[cold]
    pub(crate) fn refuse_quietly(error: Error, reply: TextReply, consumed: usize) -> Decoded<'a> {
        Decoded::Error { error, reply: Reply::Text(reply), consumed, swallow: 0, outdated: None, close: false }
    }

    /// A line that is refused together with the value of `value_len` bytes behind it.
    #[cold]
    pub(crate) fn refuse_value(
        error: Error,
        reply: TextReply,
        consumed: usize,
        value_len: usize,
        outdated: Option<&'a [u8]>,
    ) -> Decoded<'a> {
        let (reply, swallow) = (Reply::Text(reply), value_len + 2);
        Decoded::Error { error, reply, consumed, swallow, outdated, close: false }
    }
}
