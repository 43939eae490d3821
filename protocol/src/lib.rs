//! The memcache wire formats: bytes to commands and responses, and back.
//!
//! One command set ([`Command`]) has three encodings: [`text`], its [`meta`] commands, and [`binary`]. A [`Request`] is a
//! command and the way its answer is to be written ([`Reply`]). A server decodes requests ([`Protocol::decode`]) and encodes
//! outcomes ([`Reply::outcome`]); a client encodes requests ([`Request::encode`]) and decodes responses
//! ([`meta::decode_response`], [`text::decode_response`], [`binary::decode_response`]).
//!
//! Everything is a pure function over byte slices: no I/O, no clock, no allocation while decoding.
//!
//! ```
//! use larder_protocol::{Command, Decoded, Limits, Protocol, Scratch};
//!
//! let mut scratch = Scratch::new();
//! let input = b"get apple\r\nget pear";
//! let decoded = Protocol::of_first_byte(input[0]).decode(input, &Limits::default(), &mut scratch);
//! let Decoded::Request { request, consumed } = decoded else { panic!("a whole line is a request") };
//! assert_eq!(consumed, 11);
//! let Command::Get(get) = request.command else { panic!("it was a get") };
//! assert_eq!(get.keys.iter().collect::<Vec<_>>(), [b"apple"]);
//! ```
#![forbid(unsafe_code)]

mod address;
mod base64;
pub mod binary;
mod command;
mod error;
pub mod meta;
mod number;
mod outcome;
pub mod text;
pub mod udp;

pub use address::{AddressError, HostPort};
pub use command::*;
pub use error::*;
pub use number::{parse_lenient_u64, push_number};
pub use outcome::*;

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
pub struct Scratch([u8; KEY_MAX_LEN + 2]);

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

/// Which encoding a connection speaks. Classic and meta commands mix on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Text lines.
    Text,
    /// Binary packets.
    Binary,
}

impl Protocol {
    /// The protocol of a connection, by the first byte its client sends.
    #[inline]
    pub fn of_first_byte(byte: u8) -> Protocol {
        if byte == binary::REQUEST_MAGIC { Protocol::Binary } else { Protocol::Text }
    }

    /// Decodes the request at the front of a connection's input.
    ///
    /// Pure: the same bytes give the same answer, however they were split on their way. `scratch` holds a base64 key.
    #[inline]
    pub fn decode<'a>(self, input: &'a [u8], limits: &Limits, scratch: &'a mut Scratch) -> Decoded<'a> {
        match self {
            Protocol::Text => text::decode_request(input, limits, scratch),
            Protocol::Binary => binary::decode_request(input, limits),
        }
    }
}

impl Request<'_> {
    /// Appends the request's bytes to `out`, in the protocol its [`Reply`] names.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match &self.reply {
            Reply::Text(reply) => text::encode_request(&self.command, *reply, out),
            Reply::Meta(reply) => meta::encode_request(&self.command, reply, out),
            Reply::Binary(reply) => binary::encode_request(&self.command, *reply, out),
        }
    }
}
