//! An item as callers give and see it, and its layout in a segment.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 1 | which of the fields below are there, and the item's state |
//! | 1 | 1 | key length; 0 in an item that was removed or overwritten, of which only the length has a meaning |
//! | 2 | 1 | value length, its low byte; of a large item 4, the length of its place in the list of large values |
//! | 3 | 3 | CAS count as a signed difference to its segment's base |
//! | 6 | 3 | last access: the low 24 bits of the second |
//! | 9 | 1 | value length, its high byte, unless zero |
//! | | 4 | flags, unless zero |
//! | | 4 | expiry, unless never |
//! | | 8 | CAS number, where the writer chose one or the difference is too large |
//! | | | key, value |

use std::ops::Range;

use bytes::Bytes;

use super::time::{Expiry, Time};

/// Why an item was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// The item is above the item size limit.
    #[error("item is above the size limit")]
    TooLarge,
    /// No memory could be freed for the item.
    #[error("no memory for the item")]
    OutOfMemory,
}

/// An item to store.
#[derive(Debug, Clone, Copy)]
pub struct NewItem<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// The CAS unique; `None` takes the shard's next one.
    pub cas: Option<u64>,
    /// Whether the item is stale from the start.
    pub stale: bool,
    /// Whether a client has won the right to recache the item.
    pub won: bool,
    /// The [`Entry::past`](super::Entry::past) of an item that comes from another store.
    pub past: Option<u8>,
}

impl<'a> NewItem<'a> {
    /// Returns an item with no marks and the shard's next CAS unique.
    pub fn new(value: &'a [u8], flags: u32, expiry: Expiry) -> Self {
        NewItem { value, flags, expiry, cas: None, stale: false, won: false, past: None }
    }
}

/// An item as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// Its CAS unique.
    pub cas: u64,
    /// When it expires.
    pub expiry: Expiry,
    /// When the item was last written or bumped.
    pub last_access: Time,
    /// Whether the item was read since it was written.
    pub fetched: bool,
    /// Whether the item was marked stale.
    pub stale: bool,
    /// Whether a client has won the right to recache the item.
    pub won: bool,
    /// Whether eviction has looked at the item and kept it, under policies that keep such items apart.
    pub warm: bool,
    /// Bytes of memory for the item, without its index slot.
    pub size: usize,
    pub(super) owner: Option<&'a Bytes>,
}

impl Item<'_> {
    /// Returns a handle that keeps a large value alive without the lock. `None`: the value is small and must be copied
    /// while the shard is locked.
    #[inline]
    pub fn pin(&self) -> Option<Bytes> {
        self.owner.cloned()
    }
}

/// An item's metadata, for dumps.
#[derive(Debug, Clone, Copy)]
pub struct ItemInfo<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// When it expires.
    pub expiry: Expiry,
    /// When the item was last used.
    pub last_access: Time,
    /// Its CAS unique.
    pub cas: u64,
    /// Whether the item was read since it was written.
    pub fetched: bool,
    /// Whether eviction has looked at the item and kept it, under policies that keep such items apart.
    pub warm: bool,
    /// The client's flags.
    pub flags: u32,
    /// Bytes of its value.
    pub value_len: usize,
    /// Bytes of memory for the item, without its index slot.
    pub size: usize,
}

/// Bytes of the part that every header has.
pub(super) const FIXED: usize = 9;

/// Where a header has the last access.
pub(super) const ACCESS: Range<usize> = 6..9;

/// State bits of byte 0.
pub(super) mod bit {
    pub(in crate::store) const FLAGS: u8 = 1;
    pub(in crate::store) const EXPIRY: u8 = 2;
    pub(in crate::store) const WIDE_CAS: u8 = 4;
    pub(in crate::store) const LARGE: u8 = 8;
    pub(in crate::store) const FETCHED: u8 = 16;
    pub(in crate::store) const STALE: u8 = 32;
    pub(in crate::store) const WON: u8 = 64;
    /// The value length takes two bytes.
    pub(in crate::store) const LONG: u8 = 128;

    /// Returns `LONG` where a value length needs it.
    #[inline]
    pub(in crate::store) fn of_length(value_len: usize) -> u8 {
        if value_len > 0xff { LONG } else { 0 }
    }
}

/// The fields of a header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) bits: u8,
    pub(super) key_len: u8,
    pub(super) value_len: u16,
    pub(super) access: u32,
    pub(super) flags: u32,
    pub(super) expiry: Expiry,
    /// The CAS difference, or the number itself with `WIDE_CAS`.
    pub(super) cas: u64,
}

/// Bytes of the header of an item with these bits.
#[inline]
pub(super) fn header_len(bits: u8) -> usize {
    FIXED
        + if bits & bit::LONG != 0 { 1 } else { 0 }
        + if bits & bit::FLAGS != 0 { 4 } else { 0 }
        + if bits & bit::EXPIRY != 0 { 4 } else { 0 }
        + if bits & bit::WIDE_CAS != 0 { 8 } else { 0 }
}

/// Returns whether a difference of CAS counts fits into a header.
#[inline]
pub(super) fn cas_fits(delta: i64) -> bool {
    (-(1 << 23)..1 << 23).contains(&delta)
}

impl Header {
    /// Returns the header of a dead item of `len` bytes, without marks.
    pub(super) fn dead(len: usize) -> Header {
        let bits = bit::of_length(len - FIXED);
        let value_len = (len - header_len(bits)) as u16;
        Header { bits, key_len: 0, value_len, access: 0, flags: 0, expiry: Expiry::NEVER, cas: 0 }
    }

    /// Returns whether the item was removed or overwritten. Only its length has a meaning then.
    #[inline]
    pub(super) fn is_dead(&self) -> bool {
        self.key_len == 0
    }

    /// Bytes of the whole item: header, key, value.
    #[inline]
    pub(super) fn len(&self) -> usize {
        header_len(self.bits) + self.key_len as usize + self.value_len as usize
    }

    /// Reads a header from the start of `bytes`.
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Header {
        let fixed: &[u8; FIXED] = bytes[..FIXED].try_into().expect("a header's length");
        let bits = fixed[0];
        let long = bits & bit::LONG != 0;
        let mut at = FIXED + usize::from(long);
        let mut field = |there: u8| {
            (bits & there != 0).then(|| {
                at += 4;
                u32::from_le_bytes(bytes[at - 4..at].try_into().expect("four bytes"))
            })
        };
        let flags = field(bit::FLAGS).unwrap_or(0);
        let expiry = field(bit::EXPIRY).map_or(Expiry::NEVER, |at| Expiry::at(Time(at)));
        let cas = if bits & bit::WIDE_CAS != 0 {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        } else {
            let word = u32::from_le_bytes([0, fixed[3], fixed[4], fixed[5]]);
            i64::from(word as i32 >> 8) as u64
        };
        Header {
            bits,
            key_len: fixed[1],
            value_len: u16::from_le_bytes([fixed[2], if long { bytes[FIXED] } else { 0 }]),
            access: u32::from_le_bytes([fixed[6], fixed[7], fixed[8], 0]),
            flags,
            expiry,
            cas,
        }
    }

    /// Writes the header to the start of `bytes`.
    #[inline]
    pub(super) fn write(&self, bytes: &mut [u8]) {
        bytes[0] = self.bits;
        bytes[1] = self.key_len;
        let [low, high] = self.value_len.to_le_bytes();
        bytes[2] = low;
        let narrow = if self.bits & bit::WIDE_CAS != 0 { 0 } else { self.cas as u32 };
        bytes[3..6].copy_from_slice(&narrow.to_le_bytes()[..3]);
        bytes[ACCESS].copy_from_slice(&self.access.to_le_bytes()[..3]);
        let mut at = FIXED;
        if self.bits & bit::LONG != 0 {
            bytes[at] = high;
            at += 1;
        }
        if self.bits & bit::FLAGS != 0 {
            bytes[at..at + 4].copy_from_slice(&self.flags.to_le_bytes());
            at += 4;
        }
        if self.bits & bit::EXPIRY != 0 {
            bytes[at..at + 4].copy_from_slice(&self.expiry.time().map_or(0, |time| time.0).to_le_bytes());
            at += 4;
        }
        if self.bits & bit::WIDE_CAS != 0 {
            bytes[at..at + 8].copy_from_slice(&self.cas.to_le_bytes());
        }
    }
}

/// The bits of a last access that a header keeps: the low 24.
#[inline]
pub(super) fn access_of(now: Time) -> u32 {
    now.0 & 0xff_ffff
}

/// Returns the latest second up to `now` with these low bits. Exact for items used within the last 194 days.
#[inline]
pub(super) fn access_time(access: u32, now: Time) -> Time {
    Time(now.0.wrapping_sub(now.0.wrapping_sub(access) & 0xff_ffff))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_reads_as_it_was_written(
            bits in 0u8..128, key_len: u8, value_len: u16, access in 0u32..1 << 24, flags in 1u32.., expiry in 1u32..,
            delta in -(1i64 << 23)..1 << 23, wide: u64,
        ) {
            let bits = bits | bit::of_length(value_len as usize);
            let header = Header {
                bits, key_len, value_len, access,
                flags: if bits & bit::FLAGS != 0 { flags } else { 0 },
                expiry: if bits & bit::EXPIRY != 0 { Expiry::at(Time(expiry)) } else { Expiry::NEVER },
                cas: if bits & bit::WIDE_CAS != 0 { wide } else { delta as u64 },
            };
            let mut bytes = vec![0; header_len(bits)];
            header.write(&mut bytes);
            prop_assert_eq!(Header::read(&bytes), header);
        }

        #[test]
        fn a_dead_item_has_the_length_that_it_had(bits in 0u8..128, key_len in 1u8.., value_len in 0u16..=16 << 10) {
            let bits = bits | bit::of_length(value_len as usize);
            let header = Header { bits, key_len, value_len, access: 0, flags: 0, expiry: Expiry::NEVER, cas: 0 };
            let mut bytes = vec![0; header.len()];
            Header::dead(header.len()).write(&mut bytes);
            let dead = Header::read(&bytes);
            prop_assert!(dead.is_dead());
            prop_assert_eq!(dead.len(), header.len());
        }

        #[test]
        fn the_last_access_is_exact_for_194_days(now in 1u32 << 24.., ago in 0u32..1 << 24) {
            prop_assert_eq!(access_time(access_of(Time(now - ago)), Time(now)), Time(now - ago));
        }
    }
}
