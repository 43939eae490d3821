//! Counters and gauges of a store.

/// Sums over the shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Items held, expired ones not yet reclaimed included.
    pub items: u64,
    /// Bytes of those items: headers, keys, values.
    pub bytes: u64,
    /// Items ever stored.
    pub total_items: u64,
    /// Live items removed to make room.
    pub evictions: u64,
    /// Of those, never read.
    pub evicted_unfetched: u64,
    /// Of the evicted, read within the last minute.
    pub evicted_active: u64,
    /// Seconds for which the item evicted last had not been used; of the shards' the longest.
    pub evicted_time: u64,
    /// Expired and flushed items removed to have their memory back; those that a command found expired first are not among them.
    pub reclaimed: u64,
    /// Of those, never read.
    pub expired_unfetched: u64,
    /// Used items that eviction wrote again.
    pub carried: u64,
    /// Bytes of memory held by everything that grows with items.
    pub memory_used: u64,
    /// Of that, the index.
    pub index_bytes: u64,
    /// Of that, large values.
    pub large_bytes: u64,
    /// Segments that hold items.
    pub segments: u64,
    /// Segments that have their memory and hold none.
    pub free_segments: u64,
}

impl Statistics {
    pub(super) fn add(&mut self, other: Statistics) {
        self.items += other.items;
        self.bytes += other.bytes;
        self.total_items += other.total_items;
        self.evictions += other.evictions;
        self.evicted_unfetched += other.evicted_unfetched;
        self.evicted_active += other.evicted_active;
        self.evicted_time = self.evicted_time.max(other.evicted_time);
        self.reclaimed += other.reclaimed;
        self.expired_unfetched += other.expired_unfetched;
        self.carried += other.carried;
        self.memory_used += other.memory_used;
        self.index_bytes += other.index_bytes;
        self.large_bytes += other.large_bytes;
        self.segments += other.segments;
        self.free_segments += other.free_segments;
    }

    /// Counters to zero; gauges stay.
    pub(super) fn reset(&mut self) {
        *self = Statistics { items: self.items, bytes: self.bytes, ..Statistics::default() };
    }
}
