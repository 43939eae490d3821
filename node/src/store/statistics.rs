//! Counters and gauges of a store.

/// Sums over the shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Items held, with expired ones that are not yet reclaimed.
    pub items: u64,
    /// Bytes of those items: headers, keys, values.
    pub bytes: u64,
    /// Items ever stored.
    pub total_items: u64,
    /// Live items removed to make room.
    pub evictions: u64,
    /// The part of those that were never read.
    pub evicted_unfetched: u64,
    /// Evicted items that were read within the last minute.
    pub evicted_active: u64,
    /// Seconds since the last use of the item evicted last; the longest of all shards.
    pub evicted_time: u64,
    /// Expired and flushed items removed for their memory. Items that a command finds expired are not counted.
    pub reclaimed: u64,
    /// The part of those that were never read.
    pub expired_unfetched: u64,
    /// Items that eviction or tidying moved to another segment.
    pub carried: u64,
    /// Bytes of memory held for items: segments, index, large values, books.
    pub memory_used: u64,
    /// The part of `memory_used` for the index.
    pub index_bytes: u64,
    /// The part of `memory_used` for large values.
    pub large_bytes: u64,
    /// Segments that hold items.
    pub segments: u64,
    /// Segments that hold no items but have memory.
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

    /// Sets the counters to zero. The gauges stay.
    pub(super) fn reset(&mut self) {
        *self = Statistics { items: self.items, bytes: self.bytes, ..Statistics::default() };
    }
}
