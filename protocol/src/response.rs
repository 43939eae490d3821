//! The result of decoding a response in any format, and the parts that text and meta responses share.

use crate::decoded::{BODY_MAX, LINE_MAX};

/// Result of decoding the front of a server's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodedResponse<R> {
    /// The response is not complete.
    Incomplete {
        /// Least number of further bytes that completes it.
        need: usize,
    },
    /// A complete response.
    Response {
        /// The response.
        response: R,
        /// Length of the response in bytes, which the caller drops.
        consumed: usize,
    },
    /// No memcache server sends this. The caller closes the connection: where the next response begins is unknown.
    Malformed,
}

/// Returns the result for a response line without an end. Response lines are short: a long one is malformed.
pub(crate) fn unfinished_response<R>(input: &[u8]) -> DecodedResponse<R> {
    if input.len() > LINE_MAX { DecodedResponse::Malformed } else { DecodedResponse::Incomplete { need: 1 } }
}

/// Returns the value of `len` bytes at the front of `input` if it is complete and a line end follows it.
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
