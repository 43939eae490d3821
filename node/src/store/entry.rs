//! One key's item, with its shard locked. Commands are written over this.

use std::fmt;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::index::Slot;
use super::item::{InsertError, Item, NewItem, bit};
use super::shard::Shard;
use super::time::{Expiry, Time};
use super::write::Write;

/// One key, with its shard locked. It must not live across I/O.
pub struct Entry<'s, 'k> {
    // Dropped before the lock is released. An unused block returns to its area, which has a lock of its own.
    staged: Option<Bytes>,
    item_size_max: usize,
    shard: MutexGuard<'s, Shard>,
    slot: Option<Slot>,
    key: &'k [u8],
    hash: u64,
    now: Time,
    lost: Option<Lost>,
}

/// Why a key has no item though it had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Its time was past. It is removed now.
    Expired,
    /// `flush_all` removed it, and nobody has asked for the key since.
    Flushed,
}

impl fmt::Debug for Entry<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("item", &self.item()).finish_non_exhaustive()
    }
}

impl<'s, 'k> Entry<'s, 'k> {
    /// Finds the item of `key` in its locked shard. `staged` is a copy of a large value that may be inserted.
    #[inline]
    pub(super) fn new(
        mut shard: MutexGuard<'s, Shard>,
        key: &'k [u8],
        hash: u64,
        now: Time,
        staged: Option<Bytes>,
        item_size_max: usize,
    ) -> Self {
        let items = shard.statistics.items;
        // This removes the item if it has expired.
        let slot = shard.find(key, hash, now);
        let lost = match slot {
            Some(_) => None,
            None if items != shard.statistics.items => Some(Lost::Expired),
            None => shard.take_flushed(hash).then_some(Lost::Flushed),
        };
        Entry { staged, item_size_max, shard, slot, key, hash, now, lost }
    }
}

impl Entry<'_, '_> {
    /// Returns the item, or `None` if the key has none.
    #[inline]
    pub fn item(&self) -> Option<Item<'_>> {
        self.slot.map(|slot| self.shard.item(slot, self.now))
    }

    /// Returns whether the key has an item.
    #[inline]
    pub fn is_occupied(&self) -> bool {
        self.slot.is_some()
    }

    /// Returns why the key has no item, if it had one until this look-up.
    pub fn lost(&self) -> Option<Lost> {
        self.lost
    }

    /// Creates the item or replaces it, and returns its CAS unique. On an error the old item stays, unless making room
    /// evicted it.
    ///
    /// # Errors
    ///
    /// [`InsertError::TooLarge`] above the item size limit, [`InsertError::OutOfMemory`] if no memory can be freed.
    pub fn insert(&mut self, new: NewItem<'_>) -> Result<u64, InsertError> {
        let staged = self.staged.take().filter(|staged| staged.len() == new.value.len());
        self.write(&[new.value], staged, new)
    }

    /// Adds `tail` behind the value of the item, which must exist. Flags and expiry stay.
    pub fn append(&mut self, tail: &[u8], cas: Option<u64>) -> Result<u64, InsertError> {
        self.join(tail, cas, false)
    }

    /// Adds `head` before the value of the item, which must exist. Flags and expiry stay.
    pub fn prepend(&mut self, head: &[u8], cas: Option<u64>) -> Result<u64, InsertError> {
        self.join(head, cas, true)
    }

    fn join(&mut self, more: &[u8], cas: Option<u64>, before: bool) -> Result<u64, InsertError> {
        let Some(item) = self.item() else { return Err(InsertError::OutOfMemory) };
        let old = item.pin().unwrap_or_else(|| Bytes::copy_from_slice(item.value));
        let new = NewItem { cas, ..NewItem::new(b"", item.flags, item.expiry) };
        if before { self.write(&[more, &old], None, new) } else { self.write(&[&old, more], None, new) }
    }

    /// Replaces the value of the item, which must exist. Flags and expiry stay. A value of the same length keeps the
    /// marks (fetched, stale, won) too.
    pub fn set_value(&mut self, value: &[u8], cas: Option<u64>) -> Result<u64, InsertError> {
        let Some(item) = self.item() else { return Err(InsertError::OutOfMemory) };
        let in_place = item.value.len() == value.len();
        let (stale, won, fetched) = (in_place && item.stale, in_place && item.won, in_place && item.fetched);
        let new = NewItem { value, flags: item.flags, expiry: item.expiry, cas, stale, won, past: None };
        let cas = self.write(&[value], None, new)?;
        // memcached writes such a value where it is, and counts no new item.
        self.shard.statistics.total_items -= u64::from(in_place);
        if fetched {
            self.bump();
        }
        Ok(cas)
    }

    fn write(&mut self, parts: &[&[u8]], staged: Option<Bytes>, new: NewItem<'_>) -> Result<u64, InsertError> {
        let write = Write { key: self.key, hash: self.hash, parts, new, now: self.now };
        if self.key.len() + write.value_len() > self.item_size_max {
            return Err(InsertError::TooLarge);
        }
        let (slot, result) = self.shard.write(self.slot, &write, staged);
        self.slot = slot;
        if self.shard.sample.has(self.hash) {
            self.note_write();
        }
        result
    }

    /// Notes a read of this key, whether or not it has an item: for [`Store::hits_with_other_memory`].
    ///
    /// [`Store::hits_with_other_memory`]: super::Store::hits_with_other_memory
    #[inline]
    pub fn note_read(&mut self) {
        if self.shard.sample.has(self.hash) {
            let item = self.item().map(|item| (item.size, item.expiry));
            self.shard.sample.read(self.hash, item);
        }
    }

    /// Notes the item as it is now.
    #[cold]
    fn note_write(&mut self) {
        match self.item().map(|item| (item.size, item.expiry)) {
            Some((bytes, expiry)) => self.shard.sample.write(self.hash, bytes, expiry),
            None => self.shard.sample.remove(self.hash),
        }
    }

    /// Changes when the item expires; its CAS unique stays.
    pub fn set_expiry(&mut self, expiry: Expiry) {
        if let Some(slot) = self.slot
            && !self.shard.set_expiry(slot, expiry, self.now)
        {
            self.rewrite(slot, |new| new.expiry = expiry);
        }
        if self.shard.sample.has(self.hash) {
            self.note_write();
        }
    }

    /// Marks the item stale, opens its recache win again and gives it a new CAS unique.
    pub fn mark_stale(&mut self, cas: Option<u64>) {
        let Some(slot) = self.slot else { return };
        let cas = self.shard.next_cas(cas);
        if !self.shard.mark(slot, bit::STALE, bit::WON, Some(cas)) {
            // The header has no room for that number.
            self.rewrite(slot, |new| *new = NewItem { cas: Some(cas), stale: true, won: false, ..*new });
        }
    }

    /// Writes the item again with a change that its header has no room for.
    fn rewrite(&mut self, slot: Slot, change: impl FnOnce(&mut NewItem<'_>)) {
        self.slot = self.shard.rewrite(slot, self.key, self.hash, self.now, change);
    }

    /// Records that a client won the right to recache the item.
    pub fn mark_won(&mut self) {
        if let Some(slot) = self.slot {
            self.shard.mark(slot, bit::WON, 0, None);
        }
    }

    /// Returns what eviction knows of the item's uses, for [`NewItem::past`] in the store that it moves to. 0 without an
    /// item.
    pub fn past(&self) -> u8 {
        self.slot.map_or(0, |slot| self.shard.past(slot))
    }

    /// Records a use: the item is fetched, its last access is now, and eviction counts the use.
    #[inline]
    pub fn bump(&mut self) {
        if let Some(slot) = self.slot {
            self.shard.bump(slot, self.now);
        }
    }

    /// Counts a use for eviction only: the item does not become fetched.
    pub fn promote(&mut self) {
        if let Some(slot) = self.slot {
            self.shard.promote(slot);
        }
    }

    /// Removes the item.
    pub fn remove(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shard.remove(slot);
            if self.shard.sample.has(self.hash) {
                self.shard.sample.remove(self.hash);
            }
        }
    }
}
