//! Responses to meta commands, which a client reads.

use crate::line::{Words, first_line, next_word};
use crate::number::{parse_u32, parse_u64};
use crate::response::{DecodedResponse, response_value, unfinished_response};

/// Return code of a meta response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// `HD`: success without a value.
    Hd,
    /// `VA`: success with a value.
    Va,
    /// `EN`: the item to read does not exist.
    En,
    /// `NF`: the item to change does not exist.
    Nf,
    /// `NS`: not stored.
    Ns,
    /// `EX`: the CAS unique differs.
    Ex,
    /// `MN`: the reply to `mn`.
    Mn,
    /// `ME`: an item's metadata.
    Me,
}

/// A server's response to a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// A return code with its value (for `VA`) and flags.
    Code {
        /// The return code.
        code: Code,
        /// The value, for `VA`.
        value: Option<&'a [u8]>,
        /// The flags.
        flags: ResponseFlags<'a>,
    },
    /// An error line: `ERROR`, `CLIENT_ERROR …` or `SERVER_ERROR …`.
    Error(&'a [u8]),
}

/// The flags of a meta response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFlags<'a>(&'a [u8]);

impl<'a> ResponseFlags<'a> {
    /// Returns the flags in the order sent, each a letter and its token.
    #[inline]
    pub fn words(&self) -> Words<'a> {
        Words(self.0)
    }

    /// Returns the token of flag `letter`; `None` if the flag was not sent.
    pub fn token(&self, letter: u8) -> Option<&'a [u8]> {
        self.words().find(|word| word[0] == letter).map(|word| &word[1..])
    }

    /// Returns the number of flag `letter`, for example `c` (CAS unique), `f` (client flags) or `s` (size in bytes).
    pub fn number(&self, letter: u8) -> Option<u64> {
        parse_u64(self.token(letter)?)
    }

    /// Returns whether flag `letter` was sent, for example `W` (won), `Z` (won by another) or `X` (stale).
    pub fn has(&self, letter: u8) -> bool {
        self.token(letter).is_some()
    }

    /// Returns the seconds until the item expires (flag `t`); `None` if it never expires or the flag was not sent.
    pub fn ttl(&self) -> Option<u32> {
        parse_u32(self.token(b't')?)
    }
}

/// Decodes the meta response at the front of `input`.
#[inline]
pub fn decode_response(input: &[u8]) -> DecodedResponse<Response<'_>> {
    let Some((line, consumed)) = first_line(input) else { return unfinished_response(input) };
    if line.len() < 2 || (line.len() > 2 && line[2] != b' ') {
        return if is_error(line) {
            DecodedResponse::Response { response: Response::Error(line), consumed }
        } else {
            DecodedResponse::Malformed
        };
    }
    let (code, rest) = line.split_at(2);
    let code = match code {
        b"HD" => Code::Hd,
        b"EN" => Code::En,
        b"NF" => Code::Nf,
        b"NS" => Code::Ns,
        b"EX" => Code::Ex,
        b"MN" => Code::Mn,
        b"ME" => Code::Me,
        b"VA" => {
            let mut flags = rest;
            let Some(len) = next_word(&mut flags) else { return DecodedResponse::Malformed };
            let Some(len) = parse_u32(len) else { return DecodedResponse::Malformed };
            return match response_value(&input[consumed..], len as usize) {
                Ok(value) => DecodedResponse::Response {
                    response: Response::Code { code: Code::Va, value: Some(value), flags: ResponseFlags(flags) },
                    consumed: consumed + value.len() + 2,
                },
                Err(other) => other,
            };
        }
        _ => return DecodedResponse::Malformed,
    };
    let response = Response::Code { code, value: None, flags: ResponseFlags(rest) };
    DecodedResponse::Response { response, consumed }
}

fn is_error(line: &[u8]) -> bool {
    line.starts_with(b"ERROR") || line.starts_with(b"CLIENT_ERROR ") || line.starts_with(b"SERVER_ERROR ")
}
