//! Ghosts: keys that were evicted lately.

/// Bits of an entry for the key's level; the others are a tag of its hash.
const LEVEL_BITS: u32 = 4;

/// A table of tags of hashes, where a later key replaces an earlier one. An entry takes 2 bytes: a 12-bit tag, which is
/// wrong about one strange key of 4096, and the level of the item that was evicted.
#[derive(Clone, Default)]
pub(super) struct Ghosts(Box<[u16]>);

impl Ghosts {
    /// Returns the bytes of the table.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Makes room for about `count` keys. A table whose size is far from that is replaced by an empty one.
    pub(super) fn make_room(&mut self, count: usize) {
        if self.0.len() > count * 2 || self.0.len() * 3 < count * 2 {
            self.0 = vec![0; count].into();
        }
    }

    fn entry(hash: u64, level: u8) -> u16 {
        // A tag of 0 is no entry.
        (((hash >> 40) as u16) << LEVEL_BITS).max(1 << LEVEL_BITS) | u16::from(level)
    }

    fn place(&mut self, hash: u64) -> Option<&mut u16> {
        let place = ((hash & 0xffff_ffff) * self.0.len() as u64) >> 32;
        self.0.get_mut(place as usize)
    }

    /// Records that a key's item was evicted with a level below 16.
    pub(super) fn add(&mut self, hash: u64, level: u8) {
        if let Some(place) = self.place(hash) {
            *place = Self::entry(hash, level);
        }
    }

    /// Returns the level that a key's item was evicted with, if that was lately, and forgets it.
    pub(super) fn take(&mut self, hash: u64) -> Option<u8> {
        let place = self.place(hash)?;
        let level = (*place & 15) as u8;
        (*place == Self::entry(hash, level)).then(|| {
            *place = 0;
            level
        })
    }

    /// Returns the table's entries in the order of their bytes in memory.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|entry| entry.to_ne_bytes()).collect()
    }

    /// Returns a table of the entries that [`Ghosts::to_bytes`] has returned.
    pub(super) fn of_bytes(bytes: &[u8]) -> Ghosts {
        Ghosts(bytes.as_chunks().0.iter().map(|&entry| u16::from_ne_bytes(entry)).collect())
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
    fn a_table_near_the_right_size_keeps_its_keys() {
        let mut ghosts = Ghosts::default();
        ghosts.make_room(1000);
        ghosts.add(42, 1);
        ghosts.make_room(1400);
        ghosts.make_room(600);
        assert_eq!((ghosts.take(42), ghosts.bytes()), (Some(1), 2000));
        ghosts.add(42, 1);
        ghosts.make_room(3000);
        assert_eq!((ghosts.take(42), ghosts.bytes()), (None, 6000));
    }
}
