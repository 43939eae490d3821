//! The frame of requests and replies in datagrams (protocol.txt, "UDP protocol").
//!
//! Each datagram begins with a header of four big-endian 16-bit numbers: request id, sequence number, number of
//! datagrams, and 0. A request is one datagram. A reply may be several datagrams, which can arrive in any order.

use crate::error::Error;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Longest datagram that a server sends in bytes, header included (memcached's `UDP_MAX_PAYLOAD_SIZE`, which fits an
/// Ethernet frame).
pub const DATAGRAM_MAX_LEN: usize = 1400;

/// Longest reply in bytes: the number of its datagrams has 16 bits.
pub const REPLY_MAX_LEN: usize = (DATAGRAM_MAX_LEN - HEADER_LEN) * u16::MAX as usize;

/// The header of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Number that the client chooses for the request; the reply repeats it.
    pub request_id: u16,
    /// Position of the datagram in the message, from 0.
    pub sequence: u16,
    /// Number of datagrams in the message.
    pub total: u16,
}

impl Frame {
    /// Returns the header's bytes.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let Frame { request_id, sequence, total } = self;
        let mut bytes = [0; HEADER_LEN];
        for (two, number) in bytes.chunks_exact_mut(2).zip([request_id, sequence, total, 0]) {
            two.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }
}

/// Splits a datagram into header and payload; `None` if it is too short for a header.
pub fn decode(datagram: &[u8]) -> Option<(Frame, &[u8])> {
    let (header, payload) = datagram.split_first_chunk::<HEADER_LEN>()?;
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Some((Frame { request_id: number(0), sequence: number(2), total: number(4) }, payload))
}

/// Splits the datagram of a request. The payload is an error if the request has several datagrams, as in memcached;
/// `None` if the datagram is too short for a header.
pub fn decode_request(datagram: &[u8]) -> Option<(Frame, Result<&[u8], Error>)> {
    let (frame, payload) = decode(datagram)?;
    let single = if frame.total == 1 { Ok(payload) } else { Err(Error::Server("multi-packet request not supported")) };
    Some((frame, single))
}

/// Splits a reply into datagrams: pairs of header and payload. Bytes beyond [`REPLY_MAX_LEN`] are left out.
pub fn frames(request_id: u16, reply: &[u8]) -> impl Iterator<Item = ([u8; HEADER_LEN], &[u8])> {
    let chunks = reply[..reply.len().min(REPLY_MAX_LEN)].chunks(DATAGRAM_MAX_LEN - HEADER_LEN);
    let total = chunks.len() as u16;
    let header = move |sequence| Frame { request_id, sequence, total }.encode();
    chunks.zip(0u16..).map(move |(chunk, sequence)| (header(sequence), chunk))
}

/// Joins the datagrams of a reply, in whatever order they arrive.
#[derive(Debug)]
pub struct Reassembly {
    request_id: u16,
    parts: Vec<Option<Vec<u8>>>,
    missing: usize,
}

impl Reassembly {
    /// Returns a reassembly of the reply to a request.
    pub fn new(request_id: u16) -> Self {
        Reassembly { request_id, parts: Vec::new(), missing: 0 }
    }

    /// Adds a datagram, and returns the reply if that completes it.
    ///
    /// A datagram is ignored if it belongs to another request, repeats an earlier one, follows the complete reply, or
    /// disagrees with the others about their number.
    pub fn push(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (frame, payload) = decode(datagram)?;
        let (sequence, total) = (usize::from(frame.sequence), usize::from(frame.total));
        if frame.request_id != self.request_id || sequence >= total {
            return None;
        }
        if self.parts.is_empty() {
            self.parts = vec![None; total];
            self.missing = total;
        }
        if self.missing == 0 || self.parts.len() != total || self.parts[sequence].is_some() {
            return None;
        }
        self.parts[sequence] = Some(payload.to_vec());
        self.missing -= 1;
        (self.missing == 0).then(|| self.parts.iter_mut().flat_map(std::mem::take).flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_of_several_datagrams_is_refused() {
        let (frame, payload) = decode_request(b"\x12\x34\0\0\0\x01\0\0get a\r\n").unwrap();
        assert_eq!((frame.request_id, payload), (0x1234, Ok(&b"get a\r\n"[..])));
        let (_, refused) = decode_request(b"\x12\x34\0\0\0\x02\0\0get a\r\n").unwrap();
        let mut reply = Vec::new();
        refused.unwrap_err().encode(&mut reply);
        assert_eq!(reply, b"SERVER_ERROR multi-packet request not supported\r\n");
        assert_eq!(decode_request(b"get a\r\n"), None);
    }

    proptest! {
        #[test]
        fn a_reply_survives_its_datagrams_in_any_order(
            reply in prop::collection::vec(any::<u8>(), 1..5000),
            request_id: u16,
            order in any::<prop::sample::Index>(),
        ) {
            let mut datagrams: Vec<Vec<u8>> =
                frames(request_id, &reply).map(|(header, payload)| [&header[..], payload].concat()).collect();
            prop_assert!(datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM_MAX_LEN));
            let last = order.index(datagrams.len());
            datagrams.rotate_left(last);
            let mut reassembly = Reassembly::new(request_id);
            prop_assert_eq!(reassembly.push(&frames(!request_id, b"other").next().unwrap().0), None);
            let (last, earlier) = datagrams.split_last().unwrap();
            for datagram in earlier {
                prop_assert_eq!(reassembly.push(datagram), None);
                prop_assert_eq!(reassembly.push(datagram), None);
            }
            prop_assert_eq!(reassembly.push(last), Some(reply));
            prop_assert_eq!(reassembly.push(last), None);
        }
    }
}
