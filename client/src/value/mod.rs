//! Codecs: the bytes and flags of typed values.
//!
//! The flags are those of Python's clients (pymemcache's `serde`, pylibmc), so that a mixed fleet can share strings,
//! integers and bytes. A codec decodes what it encodes, and refuses everything else: it never skips trailing bytes.

#[cfg(feature = "compression")]
mod compress;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "msgpack")]
mod message_pack;
mod plain;
#[cfg(test)]
mod properties;

#[cfg(feature = "compression")]
pub use self::compress::{Compressed, Compression};
#[cfg(feature = "json")]
pub use self::json::Json;
#[cfg(feature = "msgpack")]
pub use self::message_pack::MessagePack;
pub use self::plain::Plain;

use bytes::Bytes;

/// Bits of an item's flags.
pub(crate) mod flag {
    /// Python's pickle: refused, because reading it runs code.
    pub(crate) const PICKLE: u32 = 1;
    /// A decimal integer.
    pub(crate) const INTEGER: u32 = 1 << 1;
    /// A decimal integer, as pylibmc writes all but booleans.
    pub(crate) const LONG: u32 = 1 << 2;
    /// Compressed with zlib.
    pub(crate) const ZLIB: u32 = 1 << 3;
    /// UTF-8.
    pub(crate) const TEXT: u32 = 1 << 4;
    /// Compressed with zstd; Larder's own.
    pub(crate) const ZSTD: u32 = 1 << 8;
    /// The datastore has no such thing; the value is empty. Larder's own.
    pub(crate) const ABSENT: u32 = 1 << 9;
    /// MessagePack; Larder's own. Without it, the text `5` would be read as the number 53.
    #[cfg(feature = "msgpack")]
    pub(crate) const MESSAGE_PACK: u32 = 1 << 10;
}

/// An encoded value: the bytes of an item, and the flags that name their format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The value.
    pub value: Bytes,
    /// The item's flags.
    pub flags: u32,
}

impl Encoded {
    /// The note that the datastore has no such thing.
    pub(crate) const ABSENT: Encoded = Encoded { value: Bytes::new(), flags: flag::ABSENT };

    pub(crate) fn is_absent(&self) -> bool {
        self.value.is_empty() && self.flags & flag::ABSENT != 0
    }

    /// Returns the value; `None` for the note that the datastore has no such thing.
    pub(crate) fn present(self) -> Option<Encoded> {
        (!self.is_absent()).then_some(self)
    }
}

/// The reason why a value could not be encoded or decoded.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns values of type `T` into items and back.
///
/// [`Plain`], [`Json`] and [`MessagePack`] are codecs, [`Compressed`] wraps any of them, and an own codec needs a few
/// lines:
///
/// ```
/// use bytes::Bytes;
/// use larder_client::{Codec, CodecError, Encoded};
///
/// /// Coordinates as two little-endian numbers.
/// struct Coordinates;
///
/// impl Codec<(f32, f32)> for Coordinates {
///     fn encode(&self, (x, y): &(f32, f32)) -> Result<Encoded, CodecError> {
///         let value = Bytes::from([x.to_le_bytes(), y.to_le_bytes()].concat());
///         Ok(Encoded { value, flags: 0 })
///     }
///
///     fn decode(&self, encoded: Encoded) -> Result<(f32, f32), CodecError> {
///         if encoded.value.len() != 8 {
///             return Err("these are not two numbers".into());
///         }
///         let (x, y) = encoded.value.split_at(4);
///         Ok((f32::from_le_bytes(x.try_into()?), f32::from_le_bytes(y.try_into()?)))
///     }
/// }
///
/// let encoded = Coordinates.encode(&(1.0, 2.0)).unwrap();
/// assert_eq!(Coordinates.decode(encoded).unwrap(), (1.0, 2.0));
/// ```
pub trait Codec<T> {
    /// Returns the item's value and flags. Flag bits 3, 8 and 9 are reserved for the client.
    ///
    /// # Errors
    /// An error means that this format cannot express the value. It must refuse what [`Codec::decode`] would refuse.
    fn encode(&self, value: &T) -> Result<Encoded, CodecError>;

    /// Returns the value that [`Codec::encode`] was given.
    ///
    /// # Errors
    /// An error means that another codec wrote the item, which can contain anything: other clients write to the same
    /// cache. Use all bytes, or refuse: another client may have appended to the value.
    fn decode(&self, encoded: Encoded) -> Result<T, CodecError>;
}

/// Returns an error if flags other than `known` are set: the value has another format.
fn expect_flags(flags: u32, known: u32) -> Result<(), CodecError> {
    match flags & !known {
        0 => Ok(()),
        other if other & flag::PICKLE != 0 => Err("the value was written by Python's pickle".into()),
        other if other & (flag::ZLIB | flag::ZSTD) != 0 => {
            Err("the value is compressed: read it with Compressed around the codec".into())
        }
        _ => Err(format!("the item's flags are {flags}: another format").into()),
    }
}
