//! Compression of large values.

use std::io::{self, Read};

use bytes::Bytes;

use super::{Codec, CodecError, Encoded, flag};

/// The method that [`Compressed`] writes. It reads both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// zstd at level 1: fast, but no other client reads it.
    #[default]
    Zstd,
    /// zlib, which pylibmc and pymemcache's `compressed_serde` write and read.
    Zlib,
}

/// A codec that compresses values above a size, if that makes them smaller.
///
/// A value that would decompress to more than [`Compressed::at_most`] is refused, in both directions, so that nobody
/// who can write to the cache can exhaust this program's memory.
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
    /// Wraps `codec`: zstd, for values above 1 KiB, and at most 32 MiB when decompressed.
    pub fn new(codec: C) -> Self {
        Compressed { codec, method: Compression::default(), above: 1024, at_most: 32 << 20 }
    }

    /// Sets the method that is written.
    pub fn method(mut self, method: Compression) -> Self {
        self.method = method;
        self
    }

    /// Sets the size in bytes above which values are compressed.
    pub fn above(mut self, bytes: usize) -> Self {
        self.above = bytes;
        self
    }

    /// Sets the most bytes of a decompressed value; larger ones are refused.
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.at_most = bytes;
        self
    }
}

impl<T, C: Codec<T>> Codec<T> for Compressed<C> {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        let plain = self.codec.encode(value)?;
        if plain.flags & (flag::ZSTD | flag::ZLIB) != 0 {
            return Err("the inner codec uses the flags of compression (bits 3 and 8)".into());
        }
        if plain.value.len() <= self.above {
            return Ok(plain);
        }
        if plain.value.len() > self.at_most {
            return Err(self.too_large().into());
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
        let (value, rest) = match (flags & flag::ZSTD != 0, flags & flag::ZLIB != 0) {
            (false, false) => (value, 0),
            (true, true) => return Err("the flags name two compressions".into()),
            (true, false) => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(&*value)?.single_frame();
                (self.bounded(&mut decoder)?, decoder.finish().len())
            }
            (false, true) => {
                let mut decoder = flate2::bufread::ZlibDecoder::new(&*value);
                (self.bounded(&mut decoder)?, decoder.into_inner().len())
            }
        };
        // Another client has appended to the value: its beginning alone is not the value.
        if rest > 0 {
            return Err(format!("{rest} bytes follow the compressed value").into());
        }
        self.codec.decode(Encoded { value, flags: flags & !(flag::ZSTD | flag::ZLIB) })
    }
}

impl<C> Compressed<C> {
    fn bounded(&self, decompressed: impl Read) -> io::Result<Bytes> {
        let mut value = Vec::new();
        decompressed.take(self.at_most as u64 + 1).read_to_end(&mut value)?;
        if value.len() > self.at_most {
            return Err(io::Error::other(self.too_large()));
        }
        Ok(Bytes::from(value))
    }

    fn too_large(&self) -> String {
        format!("the value decompresses to more than {} bytes", self.at_most)
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
            let text = "x".repeat(10_001);
            assert!(codec.method(method).encode(&text).is_err(), "a value that cannot be read again is not written");
            let beyond = Compressed::new(Plain).method(method).encode(&text).unwrap();
            let refused = Codec::<String>::decode(&codec, beyond).unwrap_err().to_string();
            assert!(refused.contains("more than 10000 bytes"), "{refused}");
        }
        for flags in [8, 256] {
            let broken = Encoded { value: Bytes::from_static(b"not compressed"), flags };
            assert!(Codec::<String>::decode(&codec, broken).is_err());
        }
    }
}
