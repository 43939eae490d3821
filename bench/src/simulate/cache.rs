//! The caches that a trace is run on.

/// Bytes of an item beside key and value, in the footprint and in exact LRU: as many as the engine needs.
pub(super) const ITEM_OVERHEAD: u64 = 24;

/// Returns the bytes of an item.
pub(super) fn item_bytes(key: &[u8], value_size: u32) -> u64 {
    key.len() as u64 + u64::from(value_size) + ITEM_OVERHEAD
}

/// Returns when an item expires that is written now. A TTL of 0 means never.
pub(super) fn expiry(ttl: u32, now: u32) -> u32 {
    if ttl == 0 { u32::MAX } else { now.saturating_add(ttl) }
}

/// A cache that a trace can be run on.
pub(super) trait Cache {
    /// Reads the key at `now`, which counts as a use. Returns whether it is present.
    fn read(&mut self, key: u32, now: u32) -> bool;
    /// Stores the key. A TTL of 0 means that it never expires.
    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32);
    /// Removes the key.
    fn delete(&mut self, key: u32, now: u32);
}
