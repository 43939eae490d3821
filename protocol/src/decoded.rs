//! The arguments and results of decoding requests, and the limits of the formats.

use crate::command::{KEY_MAX_LEN, Reply, Request, TextReply};
use crate::error::Error;

/// Configurable limits on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest item in bytes (`-I`): key, flags, value and [`ITEM_OVERHEAD`], as memcached counts. The value of a
    /// larger item is skipped and answered with an error.
    pub item_size_max: usize,
    /// Whether a value that has not arrived is skipped and answered with [`Error::OUT_OF_MEMORY`]: the server has no
    /// room to receive it.
    pub refuse_unfinished: bool,
}

/// Bytes that memcached adds to an item's key, flags and value when it checks `-I`: the header (48), the CAS unique
/// (8), the key's terminator (1) and the value's line end (2).
pub const ITEM_OVERHEAD: usize = 59;

impl Default for Limits {
    fn default() -> Self {
        Limits { item_size_max: 1024 * 1024, refuse_unfinished: false }
    }
}

impl Limits {
    /// Returns whether an item of these lengths in bytes exceeds the limit. Client flags count only if they are not 0.
    #[inline]
    pub fn too_large(&self, key_len: usize, flags: u32, value_len: usize) -> bool {
        let flags_len = if flags == 0 { 0 } else { 4 };
        value_len.saturating_add(key_len + flags_len + ITEM_OVERHEAD) > self.item_size_max
    }
}

/// Longest command line in bytes, except for lines that list keys to read. A connection that sends more without a line
/// end is closed (memcached: `too large command`).
pub const LINE_MAX: usize = 2048;

/// Length in bytes from which an unfinished line of keys to read is decoded in parts ([`Decoded::Part`]). Such lines
/// have no limit in memcached; parts bound the memory of a connection all the same.
pub const RETRIEVAL_PART: usize = 16 * 1024;

/// Largest value of a response, and largest body of a binary request, in bytes (memcached's largest `-I`). A header
/// that announces more is malformed.
pub const BODY_MAX: usize = 1 << 30;

/// Buffer for a key that is sent in base64.
#[derive(Debug)]
pub struct Scratch(pub(crate) [u8; KEY_MAX_LEN + 2]);

impl Scratch {
    /// Returns an empty buffer.
    pub fn new() -> Self {
        Scratch([0; KEY_MAX_LEN + 2])
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Result of decoding the front of an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// The request is not complete.
    Incomplete {
        /// Least number of further bytes that completes it.
        need: usize,
        /// Key of the item to store, if all but its value has arrived.
        key: Option<&'a [u8]>,
    },
    /// A complete request.
    Request {
        /// The request.
        request: Request<'a>,
        /// Length of the request in bytes, which the caller drops.
        consumed: usize,
    },
    /// The first part of a long line of keys to read whose end has not arrived ([`RETRIEVAL_PART`]).
    ///
    /// The caller executes the request, drops `consumed` bytes, and puts a copy of the first `repeat` bytes of the
    /// input (the command's name) before the rest, so that the rest is again a retrieval. `consumed` is at least
    /// `repeat`: the copy fits into the dropped bytes.
    Part {
        /// A retrieval of the complete keys so far. Its [`Reply::end_of_get`] writes nothing.
        request: Request<'a>,
        /// Length of this part in bytes.
        consumed: usize,
        /// Length in bytes of the command's name, with the expiration time of `gat` and `gats`.
        repeat: usize,
    },
    /// A malformed or refused request.
    Error {
        /// The error to answer with.
        error: Error,
        /// Form of the answer: the caller passes the error to [`Reply::outcome`].
        reply: Reply<'a>,
        /// Number of bytes to drop now.
        consumed: usize,
        /// Number of bytes to drop after those, as they arrive: a value that is refused.
        swallow: usize,
        /// Key of the item to delete: its new value is refused, and the old one would be out of date.
        outdated: Option<&'a [u8]>,
        /// Whether to close the connection after the answer.
        close: bool,
    },
    /// The rest of the input cannot be decoded: close the connection without an answer, as memcached does.
    Close,
}

impl<'a> Decoded<'a> {
    /// Refuses a line. The error is sent even if the line ends in `noreply`, which was not reached.
    #[cold]
    pub(crate) fn refuse(error: Error, consumed: usize) -> Decoded<'a> {
        Decoded::refuse_quietly(error, TextReply::default(), consumed)
    }

    /// Refuses a line that was decoded as far as its `noreply`: no error is sent if `reply` says so.
    #[cold]
    pub(crate) fn refuse_quietly(error: Error, reply: TextReply, consumed: usize) -> Decoded<'a> {
        Decoded::Error { error, reply: Reply::Text(reply), consumed, swallow: 0, outdated: None, close: false }
    }

    /// Refuses a storage line together with the value of `value_len` bytes that follows it.
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
