//! One shard: a hash table of slots, the slots in order of use.

use bytes::{Bytes, BytesMut};
use hashbrown::HashTable;

use super::{Expiry, InsertError, Item, ItemInfo, NewItem, Time};

/// Counters and gauges of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Items held.
    pub items: u64,
    /// Bytes that they, their index and their slack take.
    pub bytes: u64,
    /// Items ever stored.
    pub total_items: u64,
    /// Live items removed to make room.
    pub evictions: u64,
    /// Of those, never read.
    pub evicted_unfetched: u64,
    /// Expired items removed.
    pub reclaimed: u64,
    /// Of those, never read.
    pub expired_unfetched: u64,
}

impl Statistics {
    pub(super) fn add(&mut self, other: Statistics) {
        self.items += other.items;
        self.bytes += other.bytes;
        self.total_items += other.total_items;
        self.evictions += other.evictions;
        self.evicted_unfetched += other.evicted_unfetched;
        self.reclaimed += other.reclaimed;
        self.expired_unfetched += other.expired_unfetched;
    }
}

const NONE: u32 = u32::MAX;

/// An item and its place in the order of use.
struct Slot {
    /// Key and value, one after the other.
    bytes: Bytes,
    hash: u64,
    cas: u64,
    flags: u32,
    expiry: Expiry,
    written: Time,
    last_access: Time,
    newer: u32,
    older: u32,
    key_len: u8,
    fetched: bool,
    stale: bool,
    won: bool,
}

/// What an item takes beside its key and value: slot, index entry at 7/8 load, and the allocation's own header.
const ITEM_OVERHEAD: usize = size_of::<Slot>() + 48;

pub(super) struct Shard {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    bytes: usize,
    limit: usize,
    /// Where the next slice of reclaiming goes on.
    reclaim_at: usize,
    flushed_before: Option<Time>,
    statistics: Statistics,
}

impl Shard {
    pub(super) fn new(limit: usize) -> Self {
        Shard {
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            limit,
            reclaim_at: 0,
            flushed_before: None,
            statistics: Statistics::default(),
        }
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    pub(super) fn find(&mut self, key: &[u8], hash: u64, now: Time) -> Option<u32> {
        let slots = &self.slots;
        let slot = *self.table.find(hash, |&slot| {
            let slot = &slots[slot as usize];
            slot.hash == hash && &slot.bytes[..usize::from(slot.key_len)] == key
        })?;
        if self.slot(slot).expiry.has_passed(now) {
            self.count_expired(slot);
            self.remove(slot);
            return None;
        }
        Some(slot)
    }

    fn count_expired(&mut self, slot: u32) {
        self.statistics.reclaimed += 1;
        self.statistics.expired_unfetched += u64::from(!self.slot(slot).fetched);
    }

    pub(super) fn item(&self, slot: u32) -> Item<'_> {
        let slot = self.slot(slot);
        Item {
            value: &slot.bytes[usize::from(slot.key_len)..],
            flags: slot.flags,
            cas: slot.cas,
            expiry: slot.expiry,
            last_access: slot.last_access,
            fetched: slot.fetched,
            stale: slot.stale,
            won: slot.won,
            size: slot.bytes.len() + ITEM_OVERHEAD,
            owner: &slot.bytes,
        }
    }

    /// A handle on an item's value, its flags and its expiry.
    pub(super) fn value(&self, slot: u32) -> (Bytes, (u32, Expiry)) {
        let slot = self.slot(slot);
        (slot.bytes.slice(usize::from(slot.key_len)..), (slot.flags, slot.expiry))
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all at hand")]
    pub(super) fn write(
        &mut self,
        old: Option<u32>,
        key: &[u8],
        hash: u64,
        parts: &[&[u8]],
        new: &NewItem<'_>,
        cas: u64,
        now: Time,
    ) -> Result<u32, InsertError> {
        let len = key.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        if len + ITEM_OVERHEAD > self.limit {
            return Err(InsertError::OutOfMemory);
        }
        let mut bytes = BytesMut::with_capacity(len);
        bytes.extend_from_slice(key);
        for part in parts {
            bytes.extend_from_slice(part);
        }
        if let Some(old) = old {
            self.remove(old);
        }
        while self.bytes + len + ITEM_OVERHEAD > self.limit && self.oldest != NONE {
            self.evict(now);
        }
        self.bytes += len + ITEM_OVERHEAD;
        self.statistics.total_items += 1;
        let slot = Slot {
            bytes: bytes.freeze(),
            hash,
            cas,
            flags: new.flags,
            expiry: new.expiry,
            written: now,
            last_access: now,
            newer: NONE,
            older: NONE,
            key_len: key.len() as u8,
            fetched: false,
            stale: new.stale,
            won: new.won,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let slots = &self.slots;
        self.table.insert_unique(hash, index, |&slot| slots[slot as usize].hash);
        self.link_newest(index);
        Ok(index)
    }

    fn evict(&mut self, now: Time) {
        let oldest = self.oldest;
        if self.slot(oldest).expiry.has_passed(now) {
            self.count_expired(oldest);
        } else {
            self.statistics.evictions += 1;
            self.statistics.evicted_unfetched += u64::from(!self.slot(oldest).fetched);
        }
        self.remove(oldest);
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.unlink(index);
        let slot = self.slot_mut(index);
        let (hash, len) = (slot.hash, slot.bytes.len());
        slot.bytes = Bytes::new();
        self.bytes -= len + ITEM_OVERHEAD;
        if let Ok(entry) = self.table.find_entry(hash, |&slot| slot == index) {
            entry.remove();
        }
        self.free.push(index);
    }

    fn link_newest(&mut self, index: u32) {
        let newest = self.newest;
        let slot = self.slot_mut(index);
        slot.older = newest;
        slot.newer = NONE;
        if newest == NONE {
            self.oldest = index;
        } else {
            self.slot_mut(newest).newer = index;
        }
        self.newest = index;
    }

    fn unlink(&mut self, index: u32) {
        let Slot { newer, older, .. } = *self.slot(index);
        if newer == NONE {
            self.newest = older;
        } else {
            self.slot_mut(newer).older = older;
        }
        if older == NONE {
            self.oldest = newer;
        } else {
            self.slot_mut(older).newer = newer;
        }
    }

    pub(super) fn bump(&mut self, index: u32, now: Time) {
        self.slot_mut(index).fetched = true;
        self.promote(index, now);
    }

    pub(super) fn promote(&mut self, index: u32, now: Time) {
        self.slot_mut(index).last_access = now;
        if self.newest != index {
            self.unlink(index);
            self.link_newest(index);
        }
    }

    pub(super) fn set_expiry(&mut self, index: u32, expiry: Expiry) {
        self.slot_mut(index).expiry = expiry;
    }

    pub(super) fn mark_stale(&mut self, index: u32, cas: u64) {
        let slot = self.slot_mut(index);
        slot.stale = true;
        slot.won = false;
        slot.cas = cas;
    }

    pub(super) fn mark_won(&mut self, index: u32) {
        self.slot_mut(index).won = true;
    }

    pub(super) fn clear(&mut self) {
        let statistics = self.statistics;
        *self = Shard::new(self.limit);
        self.statistics = statistics;
    }

    /// Removes every item written before `time`. Cheap once it is done: order of use is not order of writing, so it
    /// looks at all items, but only when one of them is that old.
    pub(super) fn flush_before(&mut self, time: Time) {
        if self.flushed_before == Some(time) {
            return;
        }
        self.flushed_before = Some(time);
        let old: Vec<u32> = self.table.iter().copied().filter(|&slot| self.slot(slot).written < time).collect();
        for slot in old {
            self.remove(slot);
        }
    }

    /// Looks at up to `most` slots, going round, and removes those that have expired.
    pub(super) fn reclaim(&mut self, now: Time, most: usize) {
        for _ in 0..most.min(self.slots.len()) {
            let index = self.reclaim_at % self.slots.len();
            self.reclaim_at = index + 1;
            let slot = &self.slots[index];
            if !slot.bytes.is_empty() && slot.expiry.has_passed(now) {
                self.count_expired(index as u32);
                self.remove(index as u32);
            }
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        while self.bytes > self.limit && self.oldest != NONE {
            self.evict(Time(0));
        }
    }

    pub(super) fn for_each(&self, now: Time, f: &mut impl FnMut(&ItemInfo<'_>)) {
        for &index in &self.table {
            let slot = self.slot(index);
            if !slot.expiry.has_passed(now) {
                f(&ItemInfo {
                    key: &slot.bytes[..usize::from(slot.key_len)],
                    expiry: slot.expiry,
                    last_access: slot.last_access,
                    cas: slot.cas,
                    fetched: slot.fetched,
                    flags: slot.flags,
                    size: slot.bytes.len() + ITEM_OVERHEAD,
                });
            }
        }
    }

    pub(super) fn statistics(&self) -> Statistics {
        Statistics { items: self.table.len() as u64, bytes: self.bytes as u64, ..self.statistics }
    }

    pub(super) fn reset_statistics(&mut self) {
        self.statistics = Statistics::default();
    }
}
