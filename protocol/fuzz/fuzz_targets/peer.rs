//! Whatever arrives on the port of a cluster: it is a frame, no frame, or unfinished; and a frame is encoded to its own
//! bytes.
#![no_main]

use larder_protocol::peer::{Message, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = bytes;
    while let Ok(Some((frame, consumed))) = decode(input, 1 << 16) {
        let mut again = Vec::new();
        frame.message.encode(frame.id, &mut again);
        // A view may arrive with an id twice, of which one is kept.
        assert!(again == input[..consumed] || matches!(frame.message, Message::View(_)));
        input = &input[consumed..];
    }
});
