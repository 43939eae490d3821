//! What is common to the responses of every protocol, and to the lines of the two text ones.

use crate::decoded::{BODY_MAX, LINE_MAX};

/// What the front of a server's answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodedResponse<R> {
    /// At least `need` more bytes must come.
    Incomplete {
        /// How many more bytes at least.
        need: usize,
    },
    /// One response of `consumed` bytes.
    Response {
        /// The response.
        response: R,
        /// Bytes it took.
        consumed: usize,
    },
    /// No memcache server sends this: the connection is of no more use.
    Malformed,
}

/// Response lines are short; one that does not end is no memcache server's.
pub(crate) fn unfinished_response<R>(input: &[u8]) -> DecodedResponse<R> {
    if input.len() > LINE_MAX { DecodedResponse::Malformed } else { DecodedResponse::Incomplete { need: 1 } }
}

/// The value of `len` bytes at the front of `input`, if it is whole and ends in a line end.
pub(crate) fn response_value<R>(input: &[u8], len: usize) -> Result<&[u8], DecodedResponse<R>> {
    if len > BODY_MAX {
        return Err(DecodedResponse::Malformed);
    }
    if input.len() < len + 2 {
        return Err(DecodedResponse::Incomplete { need: len + 2 - input.len() });
    }
    if &input[len..len + 2] != b"\r\n" {
        return Err(DecodedResponse::Malformed);
    }
    Ok(&input[..len])
}
