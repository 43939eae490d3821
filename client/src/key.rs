//! Keys as they go to the nodes.

use std::borrow::Cow;
use std::fmt::Write as _;

use larder_protocol::KEY_MAX_LEN;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The key to send: `key` itself, or where `hash_long` a name for one that is too long.
///
/// Refuses what would not arrive as one key, or as a command of its own.
#[inline]
pub(crate) fn checked(key: &[u8], hash_long: bool) -> Result<Cow<'_, [u8]>> {
    if key.is_empty() || key.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Err(invalid(key));
    }
    match key.len() <= KEY_MAX_LEN {
        true => Ok(Cow::Borrowed(key)),
        false if hash_long => Ok(Cow::Owned(shortened(key))),
        false => Err(invalid(key)),
    }
}

#[cold]
fn invalid(key: &[u8]) -> Error {
    Error::InvalidKey(String::from_utf8_lossy(&key[..key.len().min(80)]).into_owned())
}

/// Returns `key` if it has up to 250 bytes. For a longer one, returns what
/// [`Builder::hash_long_keys`](crate::Builder::hash_long_keys) sends in its place: its first 100 bytes, `#sha256:` and
/// the SHA-256 of the whole in hexadecimal.
pub fn short_key(key: &[u8]) -> Cow<'_, [u8]> {
    if key.len() <= KEY_MAX_LEN { Cow::Borrowed(key) } else { Cow::Owned(shortened(key)) }
}

/// How many bytes of a long key its name begins with, so that it can still be recognised.
const HEAD: usize = 100;

/// The first 100 bytes of a key, `#sha256:`, and the hash of the whole in hexadecimal.
#[cold]
fn shortened(key: &[u8]) -> Vec<u8> {
    let mut hash = String::with_capacity(64);
    for byte in Sha256::digest(key) {
        let _ = write!(hash, "{byte:02x}");
    }
    [&key[..HEAD], b"#sha256:", hash.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_could_be_more_than_a_key_is_refused() {
        for wrong in [&b""[..], b"two words", b"line\r\nflush_all", b"tab\t", &[b'k'; 251]] {
            assert!(matches!(checked(wrong, false), Err(Error::InvalidKey(_))));
        }
        assert_eq!(&*checked(&[b'k'; 250], false).unwrap(), &[b'k'; 250]);
        assert!(checked("ключ".as_bytes(), false).is_ok());
    }

    #[test]
    fn a_long_key_gets_a_name_that_no_other_key_has() {
        let long = "k".repeat(300);
        let name = checked(long.as_bytes(), true).unwrap();
        let hash = "17b16d8ef494060fefa36a6a41567b8c32d213a17e02b7eeae86158cc4495461";
        assert_eq!(*name, *format!("{}#sha256:{hash}", "k".repeat(100)).into_bytes());
        assert_ne!(name, checked("k".repeat(301).as_bytes(), true).unwrap());
        // Length is no licence for blanks.
        assert!(checked(format!("{long} x").as_bytes(), true).is_err());
        assert_eq!(&*checked(&[b'k'; 250], true).unwrap(), &[b'k'; 250]);
    }
}
