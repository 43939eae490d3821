//! The memcache wire formats: decodes bytes to commands and responses, and encodes them.
//!
//! One command set ([`Command`]) has three encodings: [`text`], its [`meta`] commands, and [`binary`]. A [`Request`] is
//! a command with the form of its reply ([`Reply`]).
//!
//! - A server decodes requests ([`Protocol::decode`]) and encodes outcomes ([`Reply::outcome`], [`Reply::hit`]).
//! - A client encodes requests ([`Request::encode`], or [`meta::Line`] flag by flag) and decodes responses
//!   ([`meta::decode_response`], [`text::decode_response`], [`binary::decode_response`]).
//!
//! The formats are those of `protocol.txt` and `protocol-binary.txt` in memcached's folder `doc`. Every function is
//! pure over byte slices: it does no I/O, reads no clock, and decoding allocates nothing.
//!
//! Files, from the bottom up: `number`, `base64` and `line` read and write parts; `command`, `outcome` and `error` are
//! the types; `decoded` and `response` are what decoders return; `text`, `meta` and `binary` are the formats; `udp`
//! frames them in datagrams. This file chooses the format.
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
mod decoded;
mod error;
mod hash;
mod line;
pub mod meta;
mod number;
mod outcome;
pub mod peer;
mod response;
pub mod ring;
pub mod text;
pub mod udp;

pub use address::{AddressError, HostPort};
pub use command::*;
pub use decoded::*;
pub use error::*;
pub use line::Words;
pub use number::{parse_lenient_u64, push_number};
pub use outcome::*;
pub use response::DecodedResponse;

/// The encoding that a connection speaks. Classic and meta commands mix on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Text lines.
    Text,
    /// Binary packets.
    Binary,
}

impl Protocol {
    /// Returns the protocol of a connection by the first byte that its client sends.
    #[inline]
    pub fn of_first_byte(byte: u8) -> Protocol {
        if byte == binary::REQUEST_MAGIC { Protocol::Binary } else { Protocol::Text }
    }

    /// Decodes the request at the front of `input`, all bytes that a connection has received and not consumed.
    ///
    /// The result depends on the bytes alone, not on how they were split into packets. `scratch` receives the key if
    /// the request sends it in base64.
    #[inline]
    pub fn decode<'a>(self, input: &'a [u8], limits: &Limits, scratch: &'a mut Scratch) -> Decoded<'a> {
        match self {
            Protocol::Text if meta::is_request(input) => meta::decode_request(input, limits, scratch),
            Protocol::Text => text::decode_request(input, limits),
            Protocol::Binary => binary::decode_request(input, limits),
        }
    }
}

impl Request<'_> {
    /// Appends the request's bytes to `out`, in the protocol that its [`Reply`] names.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] where that protocol cannot send the command or its key; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let encoded = match &self.reply {
            Reply::Text(reply) => text::encode_request(&self.command, *reply, out),
            Reply::Meta(reply) => meta::encode_request(&self.command, reply, out),
            Reply::Binary(reply) => binary::encode_request(&self.command, *reply, out),
        };
        if encoded.is_err() {
            out.truncate(start);
        }
        encoded
    }
}

impl Reply<'_> {
    /// Appends the reply for `outcome`, or nothing if the client asked not to be sent it (`noreply`, `q`, a quiet
    /// opcode).
    #[inline]
    pub fn outcome(&self, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        match self {
            Reply::Text(reply) => reply.outcome(outcome, out),
            Reply::Meta(reply) => reply.outcome(outcome, out),
            Reply::Binary(reply) => reply.outcome(outcome, out),
        }
    }

    /// Appends the part of a hit's reply before the value, which is the whole reply if no value is wanted.
    #[inline]
    pub fn hit(&self, hit: &Hit<'_>, out: &mut Vec<u8>) {
        match self {
            Reply::Text(reply) => reply.hit(hit, out),
            Reply::Meta(reply) => reply.hit(hit, out),
            Reply::Binary(reply) => reply.hit(hit, out),
        }
    }

    /// Returns the bytes that follow a hit's value.
    #[inline]
    pub fn after_value(&self) -> &'static [u8] {
        match self {
            Reply::Text(_) | Reply::Meta(_) => b"\r\n",
            Reply::Binary(_) => b"",
        }
    }

    /// Appends the reply for one key of a retrieval that was not found.
    #[inline]
    pub fn miss(&self, key: &[u8], out: &mut Vec<u8>) {
        match self {
            // A classic retrieval leaves missing keys out.
            Reply::Text(_) => {}
            Reply::Meta(reply) => reply.outcome(&Outcome::Miss, out),
            Reply::Binary(reply) => reply.miss(key, out),
        }
    }

    /// Appends one statistic.
    pub fn statistic(&self, name: &str, value: &str, out: &mut Vec<u8>) {
        match self {
            Reply::Binary(reply) => reply.statistic(name.as_bytes(), value.as_bytes(), out),
            Reply::Text(_) | Reply::Meta(_) => text::statistic(name, value, out),
        }
    }

    /// Appends the end of a list of statistics.
    pub fn end_of_statistics(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Binary(reply) => reply.statistic(b"", b"", out),
            Reply::Text(_) | Reply::Meta(_) => out.extend_from_slice(text::END),
        }
    }

    /// Appends the end of a retrieval's reply.
    #[inline]
    pub fn end_of_get(&self, out: &mut Vec<u8>) {
        if let Reply::Text(TextReply { unfinished: false, .. }) = self {
            out.extend_from_slice(text::END);
        }
    }
}
