//! Strings, integers and bytes without a format of their own.

use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;

use super::{Codec, CodecError, Encoded, expect_flags, flag};

/// Strings, integers and bytes, with the flags that pymemcache and pylibmc give them: their programs read them as
/// `str`, `int` and `bytes`, and theirs are read here. Integers can be counted up and down by the server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Codec<Bytes> for Plain {
    fn encode(&self, value: &Bytes) -> Result<Encoded, CodecError> {
        Ok(Encoded { value: value.clone(), flags: 0 })
    }

    /// Returns the bytes of any item that is not compressed.
    fn decode(&self, encoded: Encoded) -> Result<Bytes, CodecError> {
        expect_flags(encoded.flags, !(flag::ZLIB | flag::ZSTD))?;
        Ok(encoded.value)
    }
}

impl Codec<String> for Plain {
    fn encode(&self, value: &String) -> Result<Encoded, CodecError> {
        Ok(Encoded { value: Bytes::copy_from_slice(value.as_bytes()), flags: flag::TEXT })
    }

    fn decode(&self, encoded: Encoded) -> Result<String, CodecError> {
        expect_flags(encoded.flags, flag::TEXT)?;
        Ok(String::from_utf8(encoded.value.into())?)
    }
}

fn encode_integer(value: impl Display) -> Encoded {
    Encoded { value: Bytes::from(value.to_string()), flags: flag::INTEGER }
}

fn decode_integer<T: FromStr<Err = std::num::ParseIntError>>(encoded: &Encoded) -> Result<T, CodecError> {
    expect_flags(encoded.flags, flag::INTEGER | flag::LONG)?;
    // A counter that has lost digits is padded with blanks (protocol.txt, "Increment/Decrement").
    Ok(std::str::from_utf8(&encoded.value)?.trim_end_matches(' ').parse()?)
}

impl Codec<i64> for Plain {
    fn encode(&self, value: &i64) -> Result<Encoded, CodecError> {
        Ok(encode_integer(value))
    }

    fn decode(&self, encoded: Encoded) -> Result<i64, CodecError> {
        decode_integer(&encoded)
    }
}

impl Codec<u64> for Plain {
    fn encode(&self, value: &u64) -> Result<Encoded, CodecError> {
        Ok(encode_integer(value))
    }

    fn decode(&self, encoded: Encoded) -> Result<u64, CodecError> {
        decode_integer(&encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(value: &'static str, flags: u32) -> Encoded {
        Encoded { value: Bytes::from(value), flags }
    }

    #[test]
    fn strings_and_integers_have_the_flags_of_pymemcache() {
        assert_eq!(Plain.encode(&"é".to_owned()).unwrap(), item("é", 16));
        assert_eq!(Plain.encode(&-3i64).unwrap(), item("-3", 2));
        assert_eq!(Plain.encode(&u64::MAX).unwrap(), item("18446744073709551615", 2));
    }

    #[test]
    fn integers_are_read_as_both_clients_and_a_counter_leave_them() {
        for flags in [0, 2, 4] {
            assert_eq!(Codec::<i64>::decode(&Plain, item("42 ", flags)).unwrap(), 42);
        }
        assert!(Codec::<u64>::decode(&Plain, item("-1", 2)).is_err());
        assert!(Codec::<i64>::decode(&Plain, item("42", 16)).is_err());
    }

    #[test]
    fn what_another_format_wrote_is_refused_with_the_reason() {
        let refused = |flags| Codec::<String>::decode(&Plain, item("x", flags)).unwrap_err().to_string();
        assert!(refused(1).contains("pickle"));
        assert!(refused(16 | 8).contains("compressed"));
        assert!(refused(1 << 20).contains("another format"));
        assert!(Codec::<Bytes>::decode(&Plain, item("x", 8)).is_err());
    }
}
