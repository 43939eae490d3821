//! What a trace is run over.

/// Bytes over key and value that an item is given in the footprint and in exact LRU: the engine's own budget.
pub(super) const ITEM_OVERHEAD: u64 = 24;

/// A cache that a trace can be run over.
pub(super) trait Cache {
    /// Whether the key is there at `now`, and a use of it.
    fn read(&mut self, key: u32, now: u32) -> bool;
    /// Stores it; a TTL of 0 is never.
    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32);
    /// Removes it.
    fn delete(&mut self, key: u32, now: u32);
}
