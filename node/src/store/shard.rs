//! One shard: its index, its log and its large values, under one budget of memory.

use std::sync::Arc;

use bytes::Bytes;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use super::density::{Density, Uses};
use super::estimate::Sample;
use super::eviction::{Eviction, Lane};
use super::eviction_log::EvictionLog;
use super::ghosts::Ghosts;
use super::index::{Index, Slot};
use super::item::{self, Header, Item, ItemInfo, bit};
use super::large::{self, LargeArea};
use super::memory::Part;
use super::segment::{Log, NONE, Sweep};
use super::statistics::Statistics;
use super::time::{Expiry, Time};

/// Bytes of a large item's value in the log: its number in the list of large values.
pub(super) const LARGE_REF: usize = 4;

/// The settings of a shard that stay for its life.
pub(super) struct Layout {
    pub(super) segment_bytes: usize,
    pub(super) expected_segments: usize,
    pub(super) tables: usize,
    pub(super) shards: usize,
    pub(super) eviction: Eviction,
    pub(super) secrets: RapidSecrets,
}

impl Layout {
    /// Chooses shards of at least 16 MiB, so many that two cores rarely meet in one. Segments are so small that a few
    /// open ones are a small part of a shard, and so large that the unused end of one is a small part of it. Of a small
    /// shard they are a larger part, so that most values fit into them.
    pub(super) fn new(memory_limit: usize, item_size_max: usize, eviction: Eviction, secrets: RapidSecrets) -> Layout {
        let (shards, segment_bytes) = Layout::sizes(memory_limit, item_size_max);
        let shard = memory_limit / shards;
        Layout {
            segment_bytes,
            expected_segments: shard / segment_bytes,
            tables: power_of_two_within(shard / (1 << 20)).clamp(1, 1 << 16),
            shards,
            eviction,
            secrets,
        }
    }

    /// Returns the number of shards, and the bytes of a segment.
    pub(super) fn sizes(memory_limit: usize, item_size_max: usize) -> (usize, usize) {
        let shards = power_of_two_within(memory_limit / (4 * item_size_max).max(16 << 20)).clamp(1, 64);
        let shard = memory_limit / shards;
        let least = power_of_two_within(shard / 128).clamp(8 << 10, 16 << 10);
        (shards, power_of_two_within(shard / 256).clamp(least, 1 << 20))
    }
}

fn power_of_two_within(n: usize) -> usize {
    if n == 0 { 1 } else { 1 << n.ilog2() }
}

/// A shard of a store. Fields that a write changes come first: they share a cache line with the lock, and so move
/// between processors with it.
#[repr(C)]
pub(super) struct Shard {
    /// CAS numbers are `count * shards + this shard`, so that shards need not agree on the next.
    pub(super) cas_count: u64,
    pub(super) statistics: Statistics,
    pub(super) index: Index,
    pub(super) log: Log,
    pub(super) area: Arc<LargeArea>,
    /// Large values by the number that their items hold; the unused numbers.
    pub(super) large: Vec<Option<Bytes>>,
    pub(super) large_free: Vec<u32>,
    pub(super) ghosts: Ghosts,
    pub(super) density: Density,
    pub(super) eviction: Eviction,
    pub(super) sample: Sample,
    /// The segments that are being emptied: of each queue one for room, and one because few of its bytes are alive.
    pub(super) evicting: [Option<Sweep>; 2],
    pub(super) tidying: Option<Sweep>,
    /// SIEVE's hand: the next segment to look at.
    pub(super) hand: u32,
    secrets: RapidSecrets,
    number: u64,
    shards_log2: u32,
    pub(super) limit: usize,
    /// Values above this are large.
    pub(super) small_max: usize,
    /// The slots of items that a flush has removed, until their keys are asked for or the memory is needed: a statistic
    /// counts the requests that meet them. Their locations mean nothing.
    flushed_keys: Index,
    /// When the delayed flush that was carried out last was due.
    flushed: Option<Time>,
    /// The record of evictions, while a client watches them.
    pub(super) eviction_log: Option<EvictionLog>,
}

/// The hash of a key.
#[inline]
pub(super) fn hash(key: &[u8], secrets: &RapidSecrets) -> u64 {
    rapidhash_v3_seeded(key, secrets)
}

impl Shard {
    pub(super) fn new(
        layout: &Layout,
        number: usize,
        limit: usize,
        cas_count: u64,
        [log, index, flushed_keys, large]: [Part; 4],
    ) -> Shard {
        Shard {
            index: Index::new(index, layout.tables),
            log: Log::new(log, layout.segment_bytes, layout.expected_segments),
            area: LargeArea::new(large),
            large: Vec::new(),
            large_free: Vec::new(),
            ghosts: Ghosts::default(),
            density: Density::new(),
            eviction: layout.eviction,
            sample: Sample::new(layout.eviction, layout.shards),
            evicting: [None; 2],
            tidying: None,
            hand: NONE,
            secrets: layout.secrets,
            cas_count,
            number: number as u64,
            shards_log2: layout.shards.trailing_zeros(),
            limit,
            small_max: (layout.segment_bytes / 4).min(16 * 1024),
            flushed_keys: Index::new(flushed_keys, layout.tables),
            flushed: None,
            statistics: Statistics::default(),
            eviction_log: None,
        }
    }

    /// Returns the bytes of memory that the shard holds.
    pub(super) fn used(&self) -> usize {
        // 64 bytes are for the reference count and the entry in the list of free numbers.
        let large_list = self.large.len() * (size_of::<Option<Bytes>>() + 64);
        let indexes = self.index.bytes() + self.flushed_keys.bytes();
        self.log.bytes() + indexes + self.area.bytes() + self.ghosts.bytes() + large_list
    }

    /// Returns the bytes left of the limit.
    #[inline]
    pub(super) fn budget(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    /// Returns how many segments can be filled without evicting anything.
    #[inline]
    pub(super) fn headroom(&self) -> usize {
        self.log.free() + (self.budget() + self.area.idle()) / (self.log.segment_bytes() + 64)
    }

    #[inline]
    pub(super) fn hash_of(&self, key: &[u8]) -> u64 {
        hash(key, &self.secrets)
    }

    #[inline]
    pub(super) fn header(&self, location: u64) -> Header {
        Header::read(self.log.at(location))
    }

    #[inline]
    pub(super) fn key_at(&self, location: u64, header: &Header) -> &[u8] {
        let start = item::header_len(header.bits);
        &self.log.at(location)[start..start + header.key_len as usize]
    }

    /// Returns the key's slot, even if its item has expired.
    #[inline]
    pub(super) fn locate(&self, key: &[u8], hash: u64) -> Option<Slot> {
        self.index.find(hash, |location| {
            let bytes = self.log.at(location);
            let start = item::header_len(bytes[0]);
            bytes[1] as usize == key.len() && bytes.get(start..start + key.len()) == Some(key)
        })
    }

    /// Makes the processor fetch the items whose slots match a hash.
    #[inline]
    pub(super) fn prefetch_items(&self, hash: u64) {
        self.index.find(hash, |location| {
            self.log.prefetch(location);
            false
        });
    }

    /// Returns the key's slot. An item that has expired is removed first.
    #[inline]
    pub(super) fn find(&mut self, key: &[u8], hash: u64, now: Time) -> Option<Slot> {
        let slot = self.locate(key, hash)?;
        let location = self.index.location(slot);
        if self.log.at(location)[0] & bit::EXPIRY != 0 {
            let header = self.header(location);
            if header.expiry.has_passed(now) {
                self.remove(slot);
                return None;
            }
        }
        Some(slot)
    }

    /// Returns whether a flush has removed the item of this hash, and forgets it. A key with the same bits in another
    /// item's slot, one in a thousand while a shard's tables are full, is taken for that item's.
    #[inline]
    pub(super) fn take_flushed(&mut self, hash: u64) -> bool {
        if !self.flushed_keys.has_memory() {
            return false;
        }
        let slot = self.flushed_keys.find(hash, |_| true);
        slot.is_some_and(|slot| {
            self.flushed_keys.remove(slot);
            true
        })
    }

    /// Forgets the keys of flushed items. Returns whether that has given back memory.
    pub(super) fn forget_flushed(&mut self) -> bool {
        let had_memory = self.flushed_keys.has_memory();
        if had_memory {
            self.flushed_keys.clear();
        }
        had_memory
    }

    pub(super) fn count_expired(&mut self, header: &Header) {
        self.statistics.reclaimed += 1;
        self.statistics.expired_unfetched += u64::from(header.bits & bit::FETCHED == 0);
    }

    pub(super) fn cas_of(&self, location: u64, header: &Header) -> u64 {
        if header.bits & bit::WIDE_CAS != 0 {
            return header.cas;
        }
        let base = self.log.segment(self.log.segment_of(location)).cas_base;
        base.wrapping_add(header.cas) << self.shards_log2 | self.number
    }

    /// Encodes a CAS number for a segment: its difference to the segment's base, or, if that does not fit, the number
    /// itself with the bit `WIDE_CAS`.
    pub(super) fn encode_cas(&self, cas: u64, segment: u32) -> (u8, u64) {
        let delta = (cas >> self.shards_log2).wrapping_sub(self.log.segment(segment).cas_base) as i64;
        let ours = cas & ((1 << self.shards_log2) - 1) == self.number;
        if ours && item::cas_fits(delta) { (0, delta as u64) } else { (bit::WIDE_CAS, cas) }
    }

    /// Returns whether fewer writes have come since the item's write than half of the shard's items.
    pub(super) fn is_young(&self, location: u64, header: &Header) -> bool {
        let written = self.cas_of(location, header) >> self.shards_log2;
        header.bits & bit::WIDE_CAS == 0 && self.cas_count.saturating_sub(written) * 2 < self.statistics.items
    }

    /// Returns the wanted CAS number, or the shard's next one.
    pub(super) fn next_cas(&mut self, wanted: Option<u64>) -> u64 {
        wanted.unwrap_or_else(|| {
            self.cas_count += 1;
            self.cas_count << self.shards_log2 | self.number
        })
    }

    fn large_number(&self, location: u64, header: &Header) -> usize {
        let start = item::header_len(header.bits) + header.key_len as usize;
        let bytes = &self.log.at(location)[start..start + LARGE_REF];
        u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize
    }

    /// Returns the item in a slot.
    #[inline]
    pub(super) fn item(&self, slot: Slot, now: Time) -> Item<'_> {
        self.item_at(self.index.location(slot), now)
    }

    #[inline]
    fn item_at(&self, location: u64, now: Time) -> Item<'_> {
        let header = self.header(location);
        let start = item::header_len(header.bits) + header.key_len as usize;
        let (value, owner) = if header.bits & bit::LARGE != 0 {
            let owner = self.large[self.large_number(location, &header)].as_ref();
            (owner.map_or(&[][..], |owner| &owner[..]), owner)
        } else {
            (&self.log.at(location)[start..start + header.value_len as usize], None)
        };
        Item {
            value,
            flags: header.flags,
            cas: self.cas_of(location, &header),
            expiry: header.expiry,
            last_access: item::access_time(header.access, now),
            fetched: header.bits & bit::FETCHED != 0,
            stale: header.bits & bit::STALE != 0,
            won: header.bits & bit::WON != 0,
            warm: self.log.segment(self.log.segment_of(location)).lane == Lane::Kept,
            size: header.len() + owner.map_or(0, |value| large::room(value.len())),
            owner,
        }
    }

    /// Returns the bytes that an item has beside the log.
    pub(super) fn large_bytes(&self, location: u64, header: &Header) -> usize {
        if header.bits & bit::LARGE == 0 {
            return 0;
        }
        self.large[self.large_number(location, header)].as_ref().map_or(0, |value| large::room(value.len()))
    }

    /// Returns an item's uses and lane in a byte.
    pub(super) fn past(&self, slot: Slot) -> u8 {
        let lane = self.log.segment(self.log.segment_of(self.index.location(slot))).lane;
        lane.past(Uses(self.index.uses(slot)))
    }

    /// Marks the bytes at a location as dead and frees their large value. The caller changes the index.
    pub(super) fn bury(&mut self, location: u64) {
        let header = self.header(location);
        debug_assert!(!header.is_dead());
        let large = self.large_bytes(location, &header);
        self.statistics.items -= 1;
        self.statistics.bytes -= (header.len() + large) as u64;
        if header.bits & bit::LARGE != 0 {
            let number = self.large_number(location, &header);
            self.large[number] = None;
            self.large_free.push(number as u32);
        }
        self.log.kill(location, header.len(), large);
    }

    /// Removes the item in a slot.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.bury(self.index.location(slot));
        self.index.remove(slot);
    }

    /// Changes an item's expiry in place. Returns `false` where the header has no room or the segment has another
    /// class: the item must be written again.
    pub(super) fn set_expiry(&mut self, slot: Slot, expiry: Expiry, now: Time) -> bool {
        let location = self.index.location(slot);
        let mut header = self.header(location);
        if header.expiry == expiry {
            return true;
        }
        if (header.bits & bit::EXPIRY != 0) != (expiry != Expiry::NEVER) || !self.log.suits(location, expiry, now) {
            return false;
        }
        header.expiry = expiry;
        header.write(self.log.at_mut(location));
        let segment = self.log.segment_of(location);
        self.log.note_end(segment, expiry);
        true
    }

    /// Sets and clears state bits of an item, and its CAS number if one is given. Returns `false` where the header has
    /// no room for that number.
    pub(super) fn mark(&mut self, slot: Slot, set: u8, clear: u8, cas: Option<u64>) -> bool {
        let location = self.index.location(slot);
        let mut header = self.header(location);
        header.bits = header.bits & !clear | set;
        if let Some(cas) = cas {
            let (wide, encoded) = self.encode_cas(cas, self.log.segment_of(location));
            header.cas = match (header.bits & bit::WIDE_CAS, wide) {
                (0, 0) => encoded,
                (0, _) => return false,
                _ => cas,
            };
        }
        header.write(self.log.at_mut(location));
        true
    }

    /// Records a use. The item is written only if that changes it.
    #[inline]
    pub(super) fn bump(&mut self, slot: Slot, now: Time) {
        self.promote(slot);
        let access = item::access_of(now).to_le_bytes();
        let bytes = self.log.at_mut(self.index.location(slot));
        if bytes[0] & bit::FETCHED == 0 || bytes[item::ACCESS] != access[..3] {
            bytes[0] |= bit::FETCHED;
            bytes[item::ACCESS].copy_from_slice(&access[..3]);
        }
    }

    /// Records a use for eviction only.
    #[inline]
    pub(super) fn promote(&mut self, slot: Slot) {
        self.index.count_use(slot, self.eviction.most_uses());
    }

    /// Carries out the delayed flush that was due at `at`, once.
    pub(super) fn flush_before(&mut self, at: Time) {
        if self.flushed != Some(at) {
            self.flushed = Some(at);
            self.clear();
        }
    }

    /// Removes every item.
    pub(super) fn clear(&mut self) {
        self.evicting = [None; 2];
        self.tidying = None;
        self.hand = NONE;
        if self.flushed_keys.has_memory() {
            self.flushed_keys.absorb(&self.index);
            self.index.clear();
        } else {
            std::mem::swap(&mut self.index, &mut self.flushed_keys);
        }
        self.ghosts.clear();
        self.sample.clear();
        self.log.clear();
        self.large = Vec::new();
        self.large_free = Vec::new();
        self.statistics.reclaimed += self.statistics.items;
        self.statistics.items = 0;
        self.statistics.bytes = 0;
    }

    /// Returns the number of tables for [`Shard::scan`].
    pub(super) fn tables(&self) -> usize {
        self.index.tables()
    }

    /// Calls `f` with the live items of a part of one table of the index. Returns the tag to continue from, or `None`
    /// at the table's end.
    pub(super) fn scan(&self, table: usize, tag: u64, now: Time, f: &mut impl FnMut(&ItemInfo<'_>)) -> Option<u64> {
        self.index.scan(table, tag, |location| {
            if !self.header(location).expiry.has_passed(now) {
                f(&self.info(location, now));
            }
        })
    }

    /// Returns an item's metadata.
    pub(super) fn info(&self, location: u64, now: Time) -> ItemInfo<'_> {
        let item = self.item_at(location, now);
        ItemInfo {
            key: self.key_at(location, &self.header(location)),
            expiry: item.expiry,
            last_access: item.last_access,
            cas: item.cas,
            fetched: item.fetched,
            warm: item.warm,
            flags: item.flags,
            value_len: item.value.len(),
            size: item.size,
        }
    }

    /// Returns the present counters and gauges.
    pub(super) fn statistics(&self) -> Statistics {
        Statistics {
            memory_used: self.used() as u64,
            index_bytes: self.index.bytes() as u64,
            large_bytes: self.area.bytes() as u64,
            warm_items: self.log.kept(),
            segments: self.log.lengths().iter().sum::<usize>() as u64,
            free_segments: self.log.free() as u64,
            ..self.statistics
        }
    }
}
