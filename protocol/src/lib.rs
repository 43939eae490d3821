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
mod decoded;
mod error;
mod line;
pub mod meta;
mod number;
mod outcome;
mod response;
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
    /// Appends what is sent for `outcome`; nothing where the client asked for quiet.
    #[inline]
    pub fn outcome(&self, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        match self {
            Reply::Text(reply) => reply.outcome(outcome, out),
            Reply::Meta(reply) => reply.outcome(outcome, out),
            Reply::Binary(reply) => reply.outcome(outcome, out),
        }
    }

    /// Appends what goes before the value of a hit (all there is to send where no value is wanted).
    #[inline]
    pub fn hit(&self, hit: &Hit<'_>, out: &mut Vec<u8>) {
        match self {
            Reply::Text(reply) => reply.hit(hit, out),
            Reply::Meta(reply) => reply.hit(hit, out),
            Reply::Binary(reply) => reply.hit(hit, out),
        }
    }

    /// What goes behind a hit's value.
    #[inline]
    pub fn after_value(&self) -> &'static [u8] {
        match self {
            Reply::Text(_) | Reply::Meta(_) => b"\r\n",
            Reply::Binary(_) => b"",
        }
    }

    /// Appends the answer to a read of one key that found nothing.
    #[inline]
    pub fn miss(&self, key: &[u8], out: &mut Vec<u8>) {
        match self {
            // A text retrieval is silent about a key that is not there.
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

    /// Appends what closes a list of statistics.
    pub fn end_of_statistics(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Binary(reply) => reply.statistic(b"", b"", out),
            Reply::Text(_) | Reply::Meta(_) => out.extend_from_slice(text::END),
        }
    }

    /// Appends what closes a read command.
    #[inline]
    pub fn end_of_get(&self, out: &mut Vec<u8>) {
        if let Reply::Text(TextReply { unfinished: false, .. }) = self {
            out.extend_from_slice(text::END);
        }
    }
}
