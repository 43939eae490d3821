//! Typed values: how they become the bytes and flags of an item, and come back.
//!
//! The flags are those that Python's clients write (pymemcache's `serde`, pylibmc), so that a mixed fleet reads each
//! other's strings, integers and bytes.

mod compress;
mod plain;
mod serde;

pub use self::compress::{Compressed, Compression};
pub use self::plain::Plain;
pub use self::serde::{Json, MessagePack};

use bytes::Bytes;

/// Bits of an item's flags.
pub(crate) mod flag {
    /// Python's pickle: refused, since reading it runs code.
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
}

/// What an item keeps: its value and the flags that say how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The value.
    pub value: Bytes,
    /// The item's flags.
    pub flags: u32,
}

impl Encoded {
    /// That there is no such thing in the datastore.
    pub(crate) const ABSENT: Encoded = Encoded { value: Bytes::new(), flags: flag::ABSENT };

    pub(crate) fn is_absent(&self) -> bool {
        self.value.is_empty() && self.flags & flag::ABSENT != 0
    }

    /// Itself, unless it says that there is no such thing.
    pub(crate) fn present(self) -> Option<Encoded> {
        (!self.is_absent()).then_some(self)
    }
}

/// Why a value could not be encoded or decoded.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns values of type `T` into items and back.
///
/// [`Plain`], [`Json`] and [`MessagePack`] are here, [`Compressed`] goes around any of them, and one of your own is a
/// few lines:
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
///         let (x, y) = encoded.value.split_at_checked(4).ok_or("too short")?;
///         Ok((f32::from_le_bytes(x.try_into()?), f32::from_le_bytes(y.try_into()?)))
///     }
/// }
///
/// let encoded = Coordinates.encode(&(1.0, 2.0)).unwrap();
/// assert_eq!(Coordinates.decode(encoded).unwrap(), (1.0, 2.0));
/// ```
pub trait Codec<T> {
    /// The item's value and flags.
    ///
    /// # Errors
    /// Where the value cannot be written in this format.
    fn encode(&self, value: &T) -> Result<Encoded, CodecError>;

    /// What [`Codec::encode`] was given.
    ///
    /// # Errors
    /// Where the item was not written by this codec. It can hold anything: other clients write to the same cache.
    fn decode(&self, encoded: Encoded) -> Result<T, CodecError>;
}

/// Refuses flags that announce another format than one of `known`.
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
