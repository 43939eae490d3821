//! Base64 keys of meta commands (flag b).

use base64::{Engine, engine::general_purpose::STANDARD};

/// Decodes `word` to the front of `room`; `None` where it is no base64.
pub(crate) fn decode<'a>(word: &[u8], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let len = STANDARD.decode_slice(word, room).ok()?;
    (len > 0).then_some(&room[..len])
}
