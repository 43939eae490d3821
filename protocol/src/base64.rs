//! Base64 of binary keys in meta commands (RFC 4648, section 4).
//!
//! The decoder skips bytes outside the alphabet, as memcached's does. No crate's decoder does the same, so this one is
//! ours.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const SKIP: u8 = 0x80;

const VALUES: [u8; 256] = {
    let mut values = [SKIP; 256];
    let mut i = 0;
    while i < 64 {
        values[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    values[b'=' as usize] = 0;
    values
};

/// Decodes into `out`, which must be at least as long as `text`. Returns the decoded length in bytes, or `None` if
/// `text` is empty or not base64.
pub(crate) fn decode(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let symbols = text.iter().filter(|&&b| VALUES[b as usize] != SKIP).count();
    if symbols == 0 || symbols % 4 != 0 {
        return None;
    }
    let (mut len, mut count, mut padding, mut block) = (0, 0, 0, 0u32);
    for &byte in text {
        let value = VALUES[byte as usize];
        if value == SKIP {
            continue;
        }
        padding += usize::from(byte == b'=');
        block = block << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            out[len..len + 3].copy_from_slice(&block.to_be_bytes()[1..]);
            len += 3;
            (count, block) = (0, 0);
            if padding > 0 {
                return (padding <= 2).then(|| len - padding);
            }
        }
    }
    Some(len)
}

/// Appends `bytes` as base64 with padding.
pub(crate) fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let block = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let symbol = ALPHABET[(block >> (18 - 6 * i)) as usize & 63];
            out.push(if i > chunk.len() { b'=' } else { symbol });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; text.len()];
        decode(text, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn bytes_outside_the_alphabet_are_skipped() {
        assert_eq!(decoded(b"aG!k=").as_deref(), Some(&b"hi"[..]));
        assert_eq!(decoded(b"aGk"), None);
        assert_eq!(decoded(b"a==="), None);
        assert_eq!(decoded(b"!!!"), None);
    }

    proptest! {
        #[test]
        fn encoded_bytes_decode_to_themselves(bytes in prop::collection::vec(any::<u8>(), 1..100)) {
            let mut text = Vec::new();
            encode(&mut text, &bytes);
            prop_assert_eq!(decoded(&text), Some(bytes));
        }
    }
}
