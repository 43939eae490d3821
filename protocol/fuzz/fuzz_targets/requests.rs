//! Decodes arbitrary input as a server does. Decoding advances or needs more bytes, and a decoded command is the same
//! after it is encoded and decoded again.
#![no_main]

use larder_protocol::{Decoded, Limits, Outcome, Protocol, Reply, Scratch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut input)) = bytes.split_first() else { return };
    let protocol = Protocol::of_first_byte(first);
    let limits = Limits { item_size_max: 4096, ..Limits::default() };
    while !input.is_empty() {
        let mut scratch = Scratch::new();
        match protocol.decode(input, &limits, &mut scratch) {
            Decoded::Request { request, consumed } => {
                assert!(consumed > 0 && consumed <= input.len());
                let mut out = Vec::new();
                request.reply.outcome(&Outcome::NotFound, &mut out);
                // Classic text is decoded more leniently than it is encoded. And a key with control bytes, which
                // decoding accepts, is encoded in base64, which may exceed the length of a key.
                let comparable = match &request.reply {
                    Reply::Text(_) => false,
                    Reply::Meta(reply) => !reply.key.iter().any(|&b| b <= b' ' || b == 0x7f),
                    Reply::Binary(_) => true,
                };
                if comparable {
                    let mut encoded = Vec::new();
                    if let Err(error) = request.encode(&mut encoded) {
                        panic!("{request:?}: {error}");
                    }
                    let mut scratch = Scratch::new();
                    let Decoded::Request { request: again, consumed } =
                        protocol.decode(&encoded, &limits, &mut scratch)
                    else {
                        panic!("{request:?} became {:?}", encoded.escape_ascii().to_string())
                    };
                    assert_eq!((&again.command, consumed), (&request.command, encoded.len()));
                }
                input = &input[consumed..];
            }
            Decoded::Error { error, reply, consumed, swallow, close, .. } => {
                assert!(close || consumed > 0);
                reply.outcome(&Outcome::Error(error), &mut Vec::new());
                let rest = &input[consumed..];
                input = if close { b"" } else { &rest[swallow.min(rest.len())..] };
            }
            Decoded::Incomplete { need, .. } => {
                assert!(need > 0);
                return;
            }
            Decoded::Close | Decoded::Part { .. } => return,
        }
    }
});
