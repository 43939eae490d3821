//! Ghosts: keys that were evicted lately.

/// Bits of an entry for the key's level; the others are a tag of its hash.
const LEVEL_BITS: u32 = 4;

const TAG_BITS: u32 = 14;
const ENTRY_BITS: u32 = TAG_BITS + LEVEL_BITS;

/// Entries of a bucket.
const ENTRIES: u32 = u128::BITS / ENTRY_BITS;

/// The bits of a bucket that are entries.
const BUCKET: u128 = (1 << (ENTRIES * ENTRY_BITS)) - 1;

/// A table of tags of hashes. A new entry replaces the oldest one of its bucket, so that keys are remembered for about as
/// many evictions as there are entries. Seven entries take 16 bytes: each has a tag of 14 bits, so that one strange key
/// of 2,340 is taken for one of the bucket's seven, and the level of the item that was evicted. The newest entry is in a
/// bucket's low bits.
#[derive(Clone, Default)]
pub(super) struct Ghosts(Box<[u128]>);

impl Ghosts {
    /// Returns the bytes of the table.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Makes room for about `count` keys. A table whose size is far from that is replaced by an empty one.
    pub(super) fn make_room(&mut self, count: usize) {
        let buckets = count.div_ceil(ENTRIES as usize);
        if self.0.len() > buckets * 2 || self.0.len() * 3 < buckets * 2 {
            self.0 = vec![0; buckets].into();
        }
    }

    fn entry(hash: u64, level: u8) -> u128 {
        // A tag of 0 is no entry.
        u128::from((hash >> 40) & ((1 << TAG_BITS) - 1)).max(1) << LEVEL_BITS | u128::from(level)
    }

    fn bucket(&mut self, hash: u64) -> Option<&mut u128> {
        let bucket = ((hash & 0xffff_ffff) * self.0.len() as u64) >> 32;
        self.0.get_mut(bucket as usize)
    }

    /// Records that a key's item was evicted with a level below 16.
    pub(super) fn add(&mut self, hash: u64, level: u8) {
        if let Some(bucket) = self.bucket(hash) {
            *bucket = (*bucket << ENTRY_BITS | Self::entry(hash, level)) & BUCKET;
        }
    }

    /// Returns the level that a key's item was evicted with, if that was lately, and forgets it.
    pub(super) fn take(&mut self, hash: u64) -> Option<u8> {
        let tag = Self::entry(hash, 0);
        let bucket = self.bucket(hash)?;
        let entry = |n: u32| *bucket >> (n * ENTRY_BITS) & ((1 << ENTRY_BITS) - 1);
        let n = (0..ENTRIES).find(|&n| entry(n) >> LEVEL_BITS == tag >> LEVEL_BITS)?;
        let level = entry(n) & ((1 << LEVEL_BITS) - 1);
        // Older entries close the gap, so that the free place is the oldest one's.
        let newer = *bucket & ((1 << (n * ENTRY_BITS)) - 1);
        let older = *bucket >> ((n + 1) * ENTRY_BITS) << (n * ENTRY_BITS);
        *bucket = newer | older;
        Some(level as u8)
    }

    /// Returns the table's entries in the order of their bytes in memory.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|bucket| bucket.to_ne_bytes()).collect()
    }

    /// Returns a table of the entries that [`Ghosts::to_bytes`] has returned.
    pub(super) fn of_bytes(bytes: &[u8]) -> Ghosts {
        Ghosts(bytes.as_chunks().0.iter().map(|&bucket| u128::from_ne_bytes(bucket)).collect())
    }

    /// Forgets all keys.
    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ghost_is_seen_once_and_by_its_own_key() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.take(7), None);
        ghosts.make_room(8);
        ghosts.add(0x1234_5678_0000_0003, 5);
        assert_eq!(ghosts.take(0x1234_5778_0000_0003), None);
        assert_eq!(ghosts.take(0x1234_5678_0000_0003), Some(5));
        assert_eq!(ghosts.take(0x1234_5678_0000_0003), None);
    }

    #[test]
    fn the_oldest_ghost_of_a_bucket_leaves_first() {
        let mut ghosts = Ghosts::default();
        ghosts.make_room(8);
        let key = |n: u64| (n + 1) << 40;
        (0..10).for_each(|n| ghosts.add(key(n), n as u8));
        assert_eq!(ghosts.take(key(5)), Some(5));
        ghosts.add(key(10), 10);
        let left: Vec<u64> = (0..11).filter(|&n| ghosts.take(key(n)) == Some(n as u8)).collect();
        assert_eq!(left, [3, 4, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_table_near_the_right_size_keeps_its_keys() {
        let mut ghosts = Ghosts::default();
        ghosts.make_room(1000);
        ghosts.add(42, 1);
        ghosts.make_room(1400);
        ghosts.make_room(600);
        assert_eq!((ghosts.take(42), ghosts.bytes()), (Some(1), 2288));
        ghosts.add(42, 1);
        ghosts.make_room(3000);
        assert_eq!((ghosts.take(42), ghosts.bytes()), (None, 6864));
    }
}
