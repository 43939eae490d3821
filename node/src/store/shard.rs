//! One shard: its index, its log and its large values, under one budget of memory.

use std::sync::Arc;

use bytes::Bytes;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use super::eviction::{Eviction, Ghosts, Lane};
use super::index::{Index, Slot};
use super::item::{self, Header, bit};
use super::large::{self, Block, LargeArea};
use super::memory::{PAGE, Part};
use super::reclaim::Sweep;
use super::segment::{Log, NONE};
use super::statistics::Statistics;
use super::watch::Watch;
use super::{Expiry, InsertError, Item, ItemInfo, NewItem, Time};

/// A large item's value in the log: its place in the list of large values.
const LARGE_REF: usize = 4;

/// Segments kept free, so that survivors of eviction have where to go and writers need not wait for a whole segment's eviction.
const RESERVE: usize = 2;

/// What does not change while a shard lives.
pub(super) struct Layout {
    pub(super) segment_bytes: usize,
    pub(super) expected_segments: usize,
    pub(super) tables: usize,
    pub(super) ghosts: usize,
    pub(super) shards: usize,
    pub(super) eviction: Eviction,
    pub(super) secrets: RapidSecrets,
}

/// What a write changes comes first: it shares a cache line with the lock, and so moves between processors with it.
#[repr(C)]
pub(super) struct Shard {
    /// CAS numbers are `count * shards + this shard`, so that shards need not agree on the next.
    cas_count: u64,
    pub(super) statistics: Statistics,
    pub(super) index: Index,
    pub(super) log: Log,
    pub(super) area: Arc<LargeArea>,
    /// Large values by the number that their items hold; the unused numbers.
    large: Vec<Option<Bytes>>,
    large_free: Vec<u32>,
    pub(super) ghosts: Ghosts,
    pub(super) eviction: Eviction,
    /// The segments being emptied: for room, and because they have little left.
    pub(super) evicting: Option<Sweep>,
    pub(super) tidying: Option<Sweep>,
    /// Where SIEVE goes on: the next segment to look at.
    pub(super) hand: u32,
    secrets: RapidSecrets,
    number: u64,
    shards_log2: u32,
    pub(super) limit: usize,
    /// Values above this are large.
    small_max: usize,
    /// The delayed flush that was carried out last.
    flushed: Option<Time>,
    /// What was evicted since it was last asked for, if anybody wants to know.
    pub(super) watch: Option<Watch>,
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
        [log, index, large]: [Part; 3],
    ) -> Shard {
        Shard {
            index: Index::new(index, layout.tables),
            log: Log::new(log, layout.segment_bytes, layout.expected_segments),
            area: LargeArea::new(large),
            large: Vec::new(),
            large_free: Vec::new(),
            ghosts: Ghosts::new(layout.ghosts),
            eviction: layout.eviction,
            evicting: None,
            tidying: None,
            hand: NONE,
            secrets: layout.secrets,
            cas_count,
            number: number as u64,
            shards_log2: layout.shards.trailing_zeros(),
            limit,
            small_max: (layout.segment_bytes / 8).min(16 * 1024),
            flushed: None,
            statistics: Statistics::default(),
            watch: None,
        }
    }

    /// Bytes of memory the shard holds.
    pub(super) fn used(&self) -> usize {
        // 64 is for the reference count and the place in the list of free numbers.
        let large_list = self.large.len() * (size_of::<Option<Bytes>>() + 64);
        self.log.bytes() + self.index.bytes() + self.area.bytes() + self.ghosts.bytes() + large_list
    }

    /// Bytes that may still be taken.
    #[inline]
    pub(super) fn budget(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    /// Segments that could be filled without evicting anything.
    #[inline]
    pub(super) fn headroom(&self) -> usize {
        self.log.free() + (self.budget() + self.area.idle()) / (self.log.segment_bytes() + 64)
    }

    /// Steps of eviction after which it is given up: several times round all segments.
    fn patience(&self) -> usize {
        4 * self.log.lengths().iter().sum::<usize>() * self.log.segment_bytes() / 1024 + 64
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

    /// The key's slot, whether its item has expired or not.
    #[inline]
    fn locate(&self, key: &[u8], hash: u64) -> Option<Slot> {
        self.index.find(hash, |location| {
            let bytes = self.log.at(location);
            let start = item::header_len(bytes[0]);
            bytes[1] as usize == key.len() && bytes.get(start..start + key.len()) == Some(key)
        })
    }

    /// Asks the processor to fetch the items that may be meant by a hash.
    #[inline]
    pub(super) fn prefetch_items(&self, hash: u64) {
        self.index.find(hash, |location| {
            self.log.prefetch(location);
            false
        });
    }

    /// The key's slot; an item that has expired is removed on the way.
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

    /// The number as a difference to the base of the segment that will hold it, or, where that is not possible, itself.
    pub(super) fn encode_cas(&self, cas: u64, segment: u32) -> (u8, u64) {
        let delta = (cas >> self.shards_log2).wrapping_sub(self.log.segment(segment).cas_base) as i64;
        let ours = cas & ((1 << self.shards_log2) - 1) == self.number;
        if ours && item::cas_fits(delta) { (0, delta as u64) } else { (bit::WIDE_CAS, cas) }
    }

    /// Whether the item was written within the last half of as many writes as the shard holds items.
    pub(super) fn is_young(&self, location: u64, header: &Header) -> bool {
        let written = self.cas_of(location, header) >> self.shards_log2;
        header.bits & bit::WIDE_CAS == 0 && self.cas_count.saturating_sub(written) * 2 < self.statistics.items
    }

    /// The next CAS number, or the one wanted.
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

    /// The item in a slot.
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
            size: header.len() + owner.map_or(0, |value| large::room(value.len())),
            owner,
        }
    }

    /// A block for a large value, to be filled without the lock. `None` where the value is small or there is no memory for it.
    pub(super) fn stage(&mut self, len: usize, now: Time) -> Option<Block> {
        // Rather refuse one value than evict all others for it in vain.
        if len <= self.small_max || large::room(len) + 8 * self.log.segment_bytes() > self.limit {
            return None;
        }
        for _ in 0..self.patience() {
            let mut budget = self.budget();
            if !self.eviction.evicts() {
                // Items move within the last free segments, or memory of removed ones could not be got back.
                budget = budget.saturating_sub(RESERVE * self.log.segment_bytes());
            }
            if let Some(block) = self.area.allocate(len, budget) {
                return Some(block);
            }
            // Memory may be free, but in other places: as idle blocks or as free segments.
            let wanted = large::room(len).next_multiple_of(PAGE);
            if self.area.idle() > 0 && budget + self.area.idle() >= wanted {
                self.area.trim(wanted.saturating_sub(budget));
            } else if self.log.free() > RESERVE {
                self.log.release_one();
            } else if !self.sweep(now, 1024) && !self.log.release_one() {
                return None;
            }
        }
        None
    }

    /// A segment with room for `len` more bytes of a class. Survivors may use the reserve, new items evict to keep it.
    pub(super) fn room(&mut self, class: u8, lane: Lane, len: usize, now: Time, survivor: bool) -> Option<u32> {
        if let Some(segment) = self.log.open(class, lane, len) {
            return Some(segment);
        }
        if !survivor {
            let mut patience = self.patience();
            while self.headroom() < 1 && patience > 0 && self.sweep(now, self.log.segment_bytes()) {
                patience -= 1;
            }
            // Eviction may have opened one.
            if let Some(segment) = self.log.open(class, lane, len) {
                return Some(segment);
            }
            if self.headroom() < RESERVE && !self.eviction.evicts() {
                return None;
            }
        }
        let wanted = self.log.segment_bytes() + 64;
        if self.log.free() == 0 && self.budget() < wanted && self.area.idle() > 0 {
            self.area.trim(wanted - self.budget());
        }
        let segment = self.log.take_free(self.budget())?;
        let queue = self.eviction.queue(lane);
        let before = if lane == Lane::Kept && self.eviction.keeps_place() { self.place_of_survivors() } else { NONE };
        self.log.start(segment, class, lane, queue, self.cas_count, before);
        Some(segment)
    }

    /// Room in the log and in the index for a new item.
    fn room_for_item(&mut self, class: u8, lane: Lane, len: usize, hash: u64, now: Time) -> Option<u32> {
        for _ in 0..4 {
            let segment = self.room(class, lane, len, now, false)?;
            if !self.grow_index(hash, now) {
                return None;
            }
            // Growing may have evicted, and eviction may have taken the segment.
            if self.log.open(class, lane, len) == Some(segment) {
                return Some(segment);
            }
        }
        None
    }

    /// Makes room in the index for one more slot of this hash.
    fn grow_index(&mut self, hash: u64, now: Time) -> bool {
        for _ in 0..self.patience() {
            let Some(growth) = self.index.growth(hash) else { return false };
            let budget = self.budget();
            if growth <= budget {
                return true;
            }
            if self.area.idle() > 0 {
                self.area.trim(growth - budget);
            } else if self.log.free() > 1 {
                self.log.release_one();
            } else if !self.sweep(now, self.log.segment_bytes()) {
                return false;
            }
        }
        false
    }

    /// Creates or replaces the key's item with a value of these parts, or with the staged copy of it. Where it can't, what
    /// was there stays, unless it was evicted in the attempt.
    #[expect(clippy::too_many_arguments, reason = "all of an item, and where it goes")]
    pub(super) fn write(
        &mut self,
        slot: Option<Slot>,
        key: &[u8],
        hash: u64,
        parts: &[&[u8]],
        staged: Option<Bytes>,
        new: &NewItem<'_>,
        now: Time,
    ) -> (Option<Slot>, Result<u64, InsertError>) {
        let value_len: usize = parts.iter().map(|part| part.len()).sum();
        let Ok(key_len) = u8::try_from(key.len()) else { return (slot, Err(InsertError::TooLarge)) };
        let mut bits = if new.flags != 0 { bit::FLAGS } else { 0 }
            | if new.expiry != Expiry::NEVER { bit::EXPIRY } else { 0 }
            | if new.stale { bit::STALE } else { 0 }
            | if new.won { bit::WON } else { 0 };
        let large = value_len > self.small_max;
        if let Some(slot) = slot
            && !large
            && let Some(cas) = self.overwrite(slot, bits, value_len, parts, new, now)
        {
            return (Some(slot), Ok(cas));
        }
        let mut value = None;
        if large {
            bits |= bit::LARGE;
            value = staged.or_else(|| self.copy_large(value_len, parts, now));
            if value.is_none() {
                return (self.find(key, hash, now), Err(InsertError::OutOfMemory));
            }
        }
        let logged = if large { LARGE_REF } else { value_len };
        // Room is looked for before the CAS number is taken, for the longest header; what is appended may be shorter.
        let most = item::header_len(bits | bit::WIDE_CAS) + key.len() + logged;
        let class = self.log.class(new.expiry, now);
        let lane = if slot.is_none() && self.ghosts.take(hash) { Lane::Kept } else { Lane::New };
        let segment = self.room_for_item(class, lane, most, hash, now);
        // Making room may have moved or evicted the old item.
        let slot = self.find(key, hash, now);
        let Some(segment) = segment else { return (slot, Err(InsertError::OutOfMemory)) };
        let cas = self.next_cas(new.cas);
        let (wide, encoded) = self.encode_cas(cas, segment);
        let header = Header {
            bits: bits | wide,
            key_len,
            value_len: logged as u16,
            access: item::access_of(now),
            flags: new.flags,
            expiry: new.expiry,
            cas: encoded,
        };
        let location = self.log.append(segment, header.len());
        self.log.note_end(segment, new.expiry);
        let reference = value.map(|value| self.keep_large(value).to_le_bytes());
        let bytes = self.log.at_mut(location);
        header.write(bytes);
        let start = item::header_len(header.bits);
        bytes[start..start + key.len()].copy_from_slice(key);
        match &reference {
            Some(reference) => put(&mut bytes[start + key.len()..], &[reference]),
            None => put(&mut bytes[start + key.len()..], parts),
        }
        match slot {
            Some(slot) => {
                self.bury(self.index.location(slot));
                self.index.set(slot, location, 0);
            }
            None => self.index.insert(hash, location, 0),
        }
        self.statistics.items += 1;
        self.statistics.bytes += (header.len() + if large { large::room(value_len) } else { 0 }) as u64;
        self.statistics.total_items += 1;
        self.keep_reserve(header.len(), if large { large::room(value_len) } else { 0 }, now);
        // An item that ends at once is still there for the command that wrote it.
        (self.locate(key, hash), Ok(cas))
    }

    /// Replaces a small value by one of the same length where it is.
    fn overwrite(
        &mut self,
        slot: Slot,
        bits: u8,
        value_len: usize,
        parts: &[&[u8]],
        new: &NewItem<'_>,
        now: Time,
    ) -> Option<u64> {
        let location = self.index.location(slot);
        let old = self.header(location);
        let shape = bit::FLAGS | bit::EXPIRY;
        let same = old.bits & bit::LARGE == 0
            && old.bits & shape == bits & shape
            && old.value_len as usize == value_len
            && self.log.suits(location, new.expiry, now);
        if !same {
            return None;
        }
        let segment = self.log.segment_of(location);
        let wide = old.bits & bit::WIDE_CAS;
        let cas = self.next_cas(new.cas);
        let encoded = if wide != 0 { (wide, cas) } else { self.encode_cas(cas, segment) };
        if encoded.0 != wide {
            return None;
        }
        self.log.note_end(segment, new.expiry);
        let header = Header {
            bits: bits | wide,
            access: item::access_of(now),
            flags: new.flags,
            expiry: new.expiry,
            cas: encoded.1,
            ..old
        };
        let bytes = self.log.at_mut(location);
        header.write(bytes);
        put(&mut bytes[item::header_len(header.bits) + header.key_len as usize..], parts);
        // It is as new, though its segment is not.
        self.index.count_use(slot, 1);
        self.statistics.total_items += 1;
        Some(cas)
    }

    fn copy_large(&mut self, len: usize, parts: &[&[u8]], now: Time) -> Option<Bytes> {
        let mut block = self.stage(len, now)?;
        put(block.bytes_mut(), parts);
        Some(Bytes::from_owner(block))
    }

    fn keep_large(&mut self, value: Bytes) -> u32 {
        let number = self.large_free.pop().unwrap_or_else(|| {
            self.large.push(None);
            self.large.len() as u32 - 1
        });
        self.large[number as usize] = Some(value);
        number
    }

    /// A little eviction with each write, so that no write has to wait for a lot of it.
    fn keep_reserve(&mut self, logged: usize, large: usize, now: Time) {
        let headroom = self.headroom();
        if headroom < RESERVE {
            self.sweep(now, (logged * 4).min(2048) * (RESERVE - headroom) + 512 + large);
        }
        // A page of the index or an entry of a list may have been the last of the budget.
        while self.used() > self.limit && self.shrink(now) {}
    }

    /// The bytes at a location belong to no item any more.
    fn bury(&mut self, location: u64) {
        let header = self.header(location);
        debug_assert!(header.bits & bit::DEAD == 0);
        self.statistics.items -= 1;
        self.statistics.bytes -= header.len() as u64;
        if header.bits & bit::LARGE != 0 {
            let number = self.large_number(location, &header);
            let value = self.large[number].take();
            self.statistics.bytes -= value.map_or(0, |value| large::room(value.len()) as u64);
            self.large_free.push(number as u32);
        }
        self.kill(location, header.len());
    }

    /// Marks the bytes of an item that was removed or moved.
    pub(super) fn kill(&mut self, location: u64, len: usize) {
        self.log.at_mut(location)[0] |= bit::DEAD;
        let segment = self.log.segment_of(location);
        self.log.segment_mut(segment).live -= len as u32;
    }

    /// Removes the item in a slot.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.bury(self.index.location(slot));
        self.index.remove(slot);
    }

    /// Changes when an item ends, where its header has room for that and its segment suits; false: write it anew.
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

    /// Writes an item again with another expiry, its state and CAS number kept. Without room for it the item is removed: it must not
    /// outlive its new end.
    pub(super) fn rewrite(&mut self, slot: Slot, key: &[u8], hash: u64, expiry: Expiry, now: Time) -> Option<Slot> {
        let uses = self.index.uses(slot);
        let old = self.item(slot, now);
        let (fetched, access) = (old.fetched, old.last_access);
        let new = NewItem { value: b"", flags: old.flags, expiry, cas: Some(old.cas), stale: old.stale, won: old.won };
        let large = old.owner.cloned();
        let value = if large.is_some() { Vec::new() } else { old.value.to_vec() };
        let parts: [&[u8]; 1] = [large.as_deref().unwrap_or(&value)];
        let (slot, result) = self.write(Some(slot), key, hash, &parts, large.clone(), &new, now);
        let slot = slot?;
        if result.is_err() {
            self.evict(slot, now);
            return None;
        }
        self.statistics.total_items -= 1;
        let location = self.index.location(slot);
        let mut header = self.header(location);
        header.bits |= if fetched { bit::FETCHED } else { 0 };
        header.access = item::access_of(access);
        header.write(self.log.at_mut(location));
        self.index.set(slot, location, uses);
        Some(slot)
    }

    /// Gives an item state bits instead of others and perhaps a new CAS number; false where the header has no room for it.
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

    /// Notes a use. Writes the item only where that changes it.
    #[inline]
    pub(super) fn bump(&mut self, slot: Slot, now: Time) {
        self.promote(slot);
        let access = item::access_of(now).to_le_bytes();
        let bytes = self.log.at_mut(self.index.location(slot));
        if bytes[0] & bit::FETCHED == 0 || bytes[7..10] != access[..3] {
            bytes[0] |= bit::FETCHED;
            bytes[7..10].copy_from_slice(&access[..3]);
        }
    }

    /// Notes a use for eviction only.
    #[inline]
    pub(super) fn promote(&mut self, slot: Slot) {
        self.index.count_use(slot, self.eviction.most_uses());
    }

    /// Carries out a delayed flush, once.
    pub(super) fn flush_before(&mut self, at: Time) {
        if self.flushed != Some(at) {
            self.flushed = Some(at);
            self.clear();
        }
    }

    /// Removes every item.
    pub(super) fn clear(&mut self) {
        self.evicting = None;
        self.tidying = None;
        self.hand = NONE;
        self.index.clear();
        self.log.clear();
        self.large = Vec::new();
        self.large_free = Vec::new();
        self.statistics.reclaimed += self.statistics.items;
        self.statistics.items = 0;
        self.statistics.bytes = 0;
    }

    /// Tables that [`Shard::scan`] knows.
    pub(super) fn tables(&self) -> usize {
        self.index.tables()
    }

    /// Shows the live items of a part of one table of the index, and says at which tag to go on; `None`: it was the last part.
    pub(super) fn scan(&self, table: usize, tag: u64, now: Time, f: &mut impl FnMut(&ItemInfo<'_>)) -> Option<u64> {
        self.index.scan(table, tag, |location| {
            if !self.header(location).expiry.has_passed(now) {
                f(&self.info(location, now));
            }
        })
    }

    /// An item's metadata.
    pub(super) fn info(&self, location: u64, now: Time) -> ItemInfo<'_> {
        let item = self.item_at(location, now);
        ItemInfo {
            key: self.key_at(location, &self.header(location)),
            expiry: item.expiry,
            last_access: item.last_access,
            cas: item.cas,
            fetched: item.fetched,
            flags: item.flags,
            value_len: item.value.len(),
            size: item.size,
        }
    }

    /// Counters and gauges now.
    pub(super) fn statistics(&self) -> Statistics {
        Statistics {
            memory_used: self.used() as u64,
            index_bytes: self.index.bytes() as u64,
            large_bytes: self.area.bytes() as u64,
            segments: self.log.lengths().iter().sum::<usize>() as u64,
            free_segments: self.log.free() as u64,
            ..self.statistics
        }
    }
}

/// Writes the parts one after the other.
#[inline]
fn put(mut to: &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let (here, rest) = to.split_at_mut(part.len());
        here.copy_from_slice(part);
        to = rest;
    }
}
