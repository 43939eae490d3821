//! Compression of large values.

use std::io::{self, Read};

use bytes::Bytes;

use super::{Codec, CodecError, Encoded, flag};

/// How [`Compressed`] writes. It reads both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// zstd at its level 1: fast, and no other client reads it.
    #[default]
    Zstd,
    /// zlib, which pylibmc and pymemcache's `compressed_serde` write and read.
    Zlib,
}

/// A codec that compresses values above a size, and those only where it makes them smaller.
///
/// Decompressing is bounded: a value that would grow beyond [`Compressed::at_most`] is refused, so that nobody who can
/// write to the cache can exhaust this program's memory.
///
/// ```
/// use larder_client::{Codec, Compressed, Json};
///
/// let codec = Compressed::new(Json).above(256);
/// let words = vec!["again".to_owned(); 1000];
/// let encoded = codec.encode(&words).unwrap();
/// assert!(encoded.value.len() < 100);
/// let decoded: Vec<String> = codec.decode(encoded).unwrap();
/// assert_eq!(decoded, words);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Compressed<C> {
    codec: C,
    method: Compression,
    above: usize,
    at_most: usize,
}

impl<C> Compressed<C> {
    /// Around this codec; zstd, above 1 KiB, and at most 32 MiB when decompressed.
    pub fn new(codec: C) -> Self {
        Compressed { codec, method: Compression::default(), above: 1024, at_most: 32 << 20 }
    }

    /// How it writes.
    pub fn method(mut self, method: Compression) -> Self {
        self.method = method;
        self
    }

    /// Values of more bytes than this are compressed.
    pub fn above(mut self, bytes: usize) -> Self {
        self.above = bytes;
        self
    }

    /// A value of more bytes than this when decompressed is refused.
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.at_most = bytes;
        self
    }
}

impl<T, C: Codec<T>> Codec<T> for Compressed<C> {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        let plain = self.codec.encode(value)?;
        if plain.value.len() <= self.above {
            return Ok(plain);
        }
        let (packed, bit) = match self.method {
            Compression::Zstd => (zstd::bulk::compress(&plain.value, 1)?, flag::ZSTD),
            Compression::Zlib => {
                let mut packed = Vec::new();
                flate2::read::ZlibEncoder::new(&*plain.value, flate2::Compression::fast()).read_to_end(&mut packed)?;
                (packed, flag::ZLIB)
            }
        };
        if packed.len() >= plain.value.len() {
            return Ok(plain);
        }
        Ok(Encoded { value: Bytes::from(packed), flags: plain.flags | bit })
    }

    fn decode(&self, encoded: Encoded) -> Result<T, CodecError> {
        let Encoded { value, flags } = encoded;
        let value = if flags & flag::ZSTD != 0 {
            self.bounded(zstd::stream::read::Decoder::with_buffer(&*value)?)?
        } else if flags & flag::ZLIB != 0 {
            self.bounded(flate2::read::ZlibDecoder::new(&*value))?
        } else {
            value
        };
        self.codec.decode(Encoded { value, flags: flags & !(flag::ZSTD | flag::ZLIB) })
    }
}

impl<C> Compressed<C> {
    fn bounded(&self, decompressed: impl Read) -> io::Result<Bytes> {
        let mut value = Vec::new();
        decompressed.take(self.at_most as u64 + 1).read_to_end(&mut value)?;
        if value.len() > self.at_most {
            return Err(io::Error::other(format!("the value decompresses to more than {} bytes", self.at_most)));
        }
        Ok(Bytes::from(value))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plain;
    use super::*;

    #[test]
    fn only_values_above_the_size_that_become_smaller_are_compressed() {
        let codec = Compressed::new(Plain).above(100);
        let short = codec.encode(&"x".repeat(100)).unwrap();
        assert_eq!((short.value.len(), short.flags), (100, 16));
        let long = codec.encode(&"x".repeat(101)).unwrap();
        assert!(long.value.len() < 40 && long.flags == 16 | 256, "{long:?}");
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(1000)
        .collect();
        let noise = Bytes::from(noise);
        assert_eq!(codec.encode(&noise).unwrap(), Encoded { value: noise, flags: 0 });
    }

    #[test]
    fn both_methods_are_read_whichever_is_written() {
        let text = "larder ".repeat(1000);
        for method in [Compression::Zstd, Compression::Zlib] {
            let encoded = Compressed::new(Plain).method(method).encode(&text).unwrap();
            let decoded: String = Compressed::new(Plain).decode(encoded).unwrap();
            assert_eq!(decoded, text);
        }
    }

    #[test]
    fn a_value_that_decompresses_to_too_much_is_refused() {
        let codec = Compressed::new(Plain).at_most(10_000);
        for method in [Compression::Zstd, Compression::Zlib] {
            let at_bound = codec.method(method).encode(&"x".repeat(10_000)).unwrap();
            assert!(Codec::<String>::decode(&codec, at_bound).is_ok());
            let beyond = codec.method(method).encode(&"x".repeat(10_001)).unwrap();
            let refused = Codec::<String>::decode(&codec, beyond).unwrap_err().to_string();
            assert!(refused.contains("more than 10000 bytes"), "{refused}");
        }
        for flags in [8, 256] {
            let broken = Encoded { value: Bytes::from_static(b"not compressed"), flags };
            assert!(Codec::<String>::decode(&codec, broken).is_err());
        }
    }
}
