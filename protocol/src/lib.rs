//! The memcache wire formats: bytes to commands and responses, and back.
//!
//! One command set ([`Command`]) has three encodings: text with its meta commands ([`text`], [`meta`]) and
//! [`binary`]. A [`Request`] is a command and the way its answer is to be written ([`Reply`]). A server decodes
//! requests and encodes outcomes; a client encodes requests and decodes responses; both directions are here.
//!
//! Everything is a pure function over byte slices: no I/O, no clock, no allocation while decoding.
#![forbid(unsafe_code)]

mod command;

pub use command::*;
