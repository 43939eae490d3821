//! Decodes arbitrary input as a client does. Decoding advances, needs more bytes, or reports malformed input.
#![no_main]

use larder_protocol::DecodedResponse;
use larder_protocol::udp::{self, Reassembly};
use larder_protocol::{binary, meta, text};
use libfuzzer_sys::fuzz_target;

fn drain<'a, R>(mut input: &'a [u8], decode: impl Fn(&'a [u8]) -> DecodedResponse<R>) {
    loop {
        match decode(input) {
            DecodedResponse::Response { consumed, .. } => {
                assert!(consumed > 0);
                input = &input[consumed..];
            }
            DecodedResponse::Incomplete { need } => return assert!(need > 0),
            DecodedResponse::Malformed => return,
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    drain(bytes, text::decode_response);
    drain(bytes, meta::decode_response);
    drain(bytes, binary::decode_response);
    let mut reassembly = Reassembly::new(0);
    for datagram in bytes.chunks(16) {
        let _ = udp::decode_request(datagram);
        let _ = reassembly.push(datagram);
    }
});
