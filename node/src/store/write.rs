//! Writing an item: room for it in the log, the index and the area of large values, and its bytes in place.

use bytes::Bytes;

use super::eviction::Lane;
use super::index::Slot;
use super::item::{self, Header, InsertError, NewItem, bit};
use super::large::{self, Block};
use super::memory::PAGE;
use super::segment::NONE;
use super::shard::{LARGE_REF, Shard};
use super::time::{Expiry, Time};

/// Segments kept free, so that survivors of eviction have where to go and writers need not wait for a whole segment's eviction.
const RESERVE: usize = 2;

impl Shard {
    /// Steps of eviction after which it is given up: several times round all segments.
    fn patience(&self) -> usize {
        4 * self.log.lengths().iter().sum::<usize>() * self.log.segment_bytes() / 1024 + 64
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
