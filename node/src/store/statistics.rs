//! Counters and gauges of a store. A statistic is one row here: its name in `stats` if it is shown there as it is, its
//! field, and how it is summed and reset.

/// Adds the value of another shard.
macro_rules! add {
    (longest, $sum:expr, $other:expr) => {
        $sum = $sum.max($other)
    };
    ($kind:ident, $sum:expr, $other:expr) => {
        $sum += $other
    };
}

/// Resets a value: counters begin again, gauges stay.
macro_rules! reset {
    (gauge, $value:expr) => {};
    ($kind:ident, $value:expr) => {
        $value = 0
    };
}

macro_rules! statistics {
    ($($(#[$doc:meta])* $kind:ident $field:ident $(as $name:literal)?;)*) => {
        /// Sums over the shards.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Statistics {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Statistics {
            pub(super) fn add(&mut self, other: Statistics) {
                $(add!($kind, self.$field, other.$field);)*
            }

            /// Sets the counters to zero. The gauges stay.
            pub(super) fn reset(&mut self) {
                $(reset!($kind, self.$field);)*
            }

            /// Returns the statistics that `stats` shows, by memcached's names.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$($(($name, self.$field),)?)*].into_iter()
            }
        }
    };
}

statistics!(
    /// Bytes of the items: headers, keys, values.
    gauge bytes as "bytes";
    /// Items held, with expired ones that are not yet reclaimed.
    gauge items as "curr_items";
    /// Items ever stored.
    counter total_items as "total_items";
    /// Segments that hold no items but have memory.
    gauge free_segments as "slab_global_page_pool";
    /// Expired items removed for their memory that were never read.
    counter expired_unfetched as "expired_unfetched";
    /// Evicted items that were never read.
    counter evicted_unfetched as "evicted_unfetched";
    /// Evicted items that were read within the last minute.
    counter evicted_active as "evicted_active";
    /// Evicted items that had a time to expire.
    counter evicted_nonzero;
    /// Live items removed to make room.
    counter evictions as "evictions";
    /// Expired and flushed items removed for their memory. Items that a command finds expired are not counted.
    counter reclaimed as "reclaimed";
    /// Seconds since the last use of the item evicted last; the longest of all shards.
    longest evicted_time;
    /// Items that eviction or tidying moved to another segment.
    counter carried;
    /// The part of `carried` that eviction looked at for the first time and kept, under policies that keep such items
    /// apart.
    counter moves_to_warm;
    /// Items that eviction has kept, under policies that keep them apart; the others are as they were written.
    gauge warm_items;
    /// Bytes of memory held for items: segments, index, large values, books.
    gauge memory_used;
    /// The part of `memory_used` for the index.
    gauge index_bytes;
    /// The part of `memory_used` for large values.
    gauge large_bytes;
    /// Segments that hold items.
    gauge segments;
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_summed_but_for_the_longest_time() {
        let mut sum = Statistics { items: 1, evictions: 2, evicted_time: 9, ..Statistics::default() };
        sum.add(Statistics { items: 10, evictions: 20, evicted_time: 3, ..Statistics::default() });
        assert_eq!(sum, Statistics { items: 11, evictions: 22, evicted_time: 9, ..Statistics::default() });
    }

    #[test]
    fn a_reset_leaves_the_gauges() {
        let mut statistics = Statistics { items: 1, bytes: 2, evictions: 3, evicted_time: 4, ..Statistics::default() };
        statistics.reset();
        assert_eq!(statistics, Statistics { items: 1, bytes: 2, ..Statistics::default() });
    }
}
