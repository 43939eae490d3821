//! The frame around requests and replies in datagrams (protocol.txt, "UDP protocol").
//!
//! Each datagram starts with a header of four big-endian 16-bit numbers: request id, sequence number, number of datagrams, and
//! 0. A request is one datagram; a reply may be several, which can arrive in any order.

use crate::error::Error;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Longest datagram that a server sends, header included, in bytes (memcached's, chosen to fit an Ethernet frame).
pub const DATAGRAM_MAX_LEN: usize = 1400;

/// Longest reply in bytes: its datagrams are counted in 16 bits.
pub const REPLY_MAX_LEN: usize = (DATAGRAM_MAX_LEN - HEADER_LEN) * u16::MAX as usize;

/// The header of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Chosen by the client, and given back.
    pub request_id: u16,
    /// The datagram's place in the message, from 0.
    pub sequence: u16,
    /// Datagrams in the message.
    pub total: u16,
}

impl Frame {
    /// The header as bytes.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let Frame { request_id, sequence, total } = self;
        let mut bytes = [0; HEADER_LEN];
        for (two, number) in bytes.chunks_exact_mut(2).zip([request_id, sequence, total, 0]) {
            two.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }
}

/// Takes a datagram apart; `None` if it is too short to have a header.
pub fn decode(datagram: &[u8]) -> Option<(Frame, &[u8])> {
    let (header, payload) = datagram.split_first_chunk::<HEADER_LEN>()?;
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Some((Frame { request_id: number(0), sequence: number(2), total: number(4) }, payload))
}

/// Takes a request's datagram apart. A request of several datagrams is refused, as memcached does.
pub fn decode_request(datagram: &[u8]) -> Option<(Frame, Result<&[u8], Error>)> {
    let (frame, payload) = decode(datagram)?;
    let single = if frame.total == 1 { Ok(payload) } else { Err(Error::Server("multi-packet request not supported")) };
    Some((frame, single))
}

/// Cuts a reply into datagrams: each a header and the bytes behind it. Bytes beyond [`REPLY_MAX_LEN`] are left out.
pub fn frames(request_id: u16, reply: &[u8]) -> impl Iterator<Item = ([u8; HEADER_LEN], &[u8])> {
    let chunks = reply[..reply.len().min(REPLY_MAX_LEN)].chunks(DATAGRAM_MAX_LEN - HEADER_LEN);
    let total = chunks.len() as u16;
    let header = move |sequence| Frame { request_id, sequence, total }.encode();
    chunks.zip(0u16..).map(move |(chunk, sequence)| (header(sequence), chunk))
}

/// Puts a reply together from its datagrams, in whatever order they come.
#[derive(Debug)]
pub struct Reassembly {
    request_id: u16,
    parts: Vec<Option<Vec<u8>>>,
    missing: usize,
}

impl Reassembly {
    /// Waits for the reply to a request.
    pub fn new(request_id: u16) -> Self {
        Reassembly { request_id, parts: Vec::new(), missing: 0 }
    }

    /// Takes a datagram. The whole reply, once every part is there.
    ///
    /// A datagram of another request, one that came before or comes after the end, or one that does not fit the others is
    /// passed over.
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
