//! Writing an item: making room in the log, the index and the area of large values, then placing its bytes.

use bytes::Bytes;

use super::density::Uses;
use super::eviction::{Eviction, Lane};
use super::index::Slot;
use super::item::{self, Header, InsertError, Item, NewItem, bit};
use super::large::{self, Block};
use super::memory::PAGE;
use super::segment::{NONE, Place};
use super::shard::{LARGE_REF, Shard};
use super::time::{Expiry, Time};

/// Segments that are kept free: survivors of eviction go there, and writers need not wait until a whole segment is
/// evicted.
pub(super) const RESERVE: usize = 2;

/// An item to write.
pub(super) struct Write<'a> {
    pub(super) key: &'a [u8],
    pub(super) hash: u64,
    /// The value, in parts that follow each other.
    pub(super) parts: &'a [&'a [u8]],
    /// Everything else about the item; its `value` is not read.
    pub(super) new: NewItem<'a>,
    pub(super) now: Time,
}

impl Write<'_> {
    /// Bytes of the value.
    #[inline]
    pub(super) fn value_len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// The header's state bits, as far as the new item decides them.
    fn bits(&self) -> u8 {
        let new = &self.new;
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(new.flags != 0, bit::FLAGS)
            | bit(new.expiry != Expiry::NEVER, bit::EXPIRY)
            | bit(new.stale, bit::STALE)
            | bit(new.won, bit::WON)
    }
}

impl Shard {
    /// Returns the number of eviction steps after which a write gives up: several rounds of all segments.
    fn patience(&self) -> usize {
        4 * self.log.lengths().iter().sum::<usize>() * self.log.segment_bytes() / 1024 + 64
    }

    /// Returns a block for a large value, to be filled without the lock. `None`: the value is small, or no memory can
    /// be freed for it.
    pub(super) fn stage(&mut self, len: usize, now: Time) -> Option<Block> {
        // One value is refused rather than all others evicted for it in vain.
        if len <= self.small_max || large::room(len) + 8 * self.log.segment_bytes() > self.limit {
            return None;
        }
        self.block(len, now)
    }

    /// Returns a block that is lent to a connection. All that are lent have at most half of the limit, so that items
    /// are left whatever clients do.
    pub(super) fn lend(&mut self, len: usize, now: Time) -> Option<Block> {
        if self.area.lent() + large::room(len) > self.limit / 2 {
            return None;
        }
        self.block(len, now).map(Block::lend)
    }

    fn block(&mut self, len: usize, now: Time) -> Option<Block> {
        let block = self.block_by_evicting(len, now);
        self.keep_limit(now);
        block
    }

    fn block_by_evicting(&mut self, len: usize, now: Time) -> Option<Block> {
        for _ in 0..self.patience() {
            let mut budget = self.budget();
            if !self.eviction.evicts() {
                // Items need free segments to move to, or the memory of removed ones could not be reclaimed.
                budget = budget.saturating_sub(RESERVE * self.log.segment_bytes());
            }
            if let Some(block) = self.area.allocate(len, budget) {
                return Some(block);
            }
            // Memory may be free elsewhere: as idle blocks or as free segments.
            let wanted = large::room(len).next_multiple_of(PAGE) + large::RECORDS;
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

    /// Returns a segment of a class with room for `len` more bytes. Survivors may use the reserve; new items evict to
    /// keep it.
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
        // Before memory is full, so that the first eviction finds its reserve.
        self.ghosts.make_room(self.eviction.ghosts(self.statistics.items as usize));
        let wanted = self.log.segment_bytes() + 64;
        if self.log.free() == 0 && self.budget() < wanted && self.area.idle() > 0 {
            self.area.trim(wanted - self.budget());
        }
        let segment = self.log.take_free(self.budget())?;
        let queue = self.eviction.queue(lane);
        let before = if lane == Lane::Kept && self.eviction.keeps_place() { self.place_of_survivors() } else { NONE };
        self.log.start(segment, Place { class, lane, queue, before }, self.cas_count, now);
        Some(segment)
    }

    /// Makes room in the log and in the index for a new item. Returns the segment.
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

    /// Makes room in the index for one more slot of this hash. Returns `false` if no memory can be freed.
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

    /// Creates or replaces the key's item. Where that fails, the old item stays, unless making room evicted it.
    ///
    /// `slot` is the old item's slot; `staged` is a copy of the value in a block, where the caller made one.
    pub(super) fn write(
        &mut self,
        slot: Option<Slot>,
        write: &Write<'_>,
        staged: Option<Bytes>,
    ) -> (Option<Slot>, Result<u64, InsertError>) {
        let &Write { key, hash, now, .. } = write;
        let Ok(key_len @ 1..) = u8::try_from(key.len()) else { return (slot, Err(InsertError::TooLarge)) };
        let large = write.value_len() > self.small_max;
        if let Some(slot) = slot
            && !large
            && let Some(cas) = self.overwrite(slot, write)
        {
            return (Some(slot), Ok(cas));
        }
        let value = if large { staged.or_else(|| self.copy_large(write)) } else { None };
        if large && value.is_none() {
            self.keep_limit(now);
            return (self.find(key, hash, now), Err(InsertError::OutOfMemory));
        }
        let logged = if large { LARGE_REF } else { write.value_len() };
        let bits = write.bits() | bit::of_length(logged) | if large { bit::LARGE } else { 0 };
        let (segment, uses) =
            self.room_for_write(slot, write, item::header_len(bits | bit::WIDE_CAS) + key.len() + logged);
        let Some(segment) = segment else {
            self.keep_limit(now);
            return (self.find(key, hash, now), Err(InsertError::OutOfMemory));
        };
        // Making room may have moved or evicted the old item.
        let slot = self.find(key, hash, now);
        let cas = self.next_cas(write.new.cas);
        let (wide, encoded) = self.encode_cas(cas, segment);
        let header = Header {
            bits: bits | wide,
            key_len,
            value_len: logged as u16,
            access: item::access_of(now),
            flags: write.new.flags,
            expiry: write.new.expiry,
            cas: encoded,
        };
        let large = value.as_ref().map_or(0, |value| large::room(value.len()));
        self.place(slot, write, segment, &header, uses, value);
        self.statistics.items += 1;
        self.statistics.bytes += (header.len() + large) as u64;
        self.statistics.total_items += 1;
        self.keep_reserve(header.len(), large, now);
        // An item that ends at once is still there for the command that wrote it.
        (self.locate(key, hash), Ok(cas))
    }

    /// The segment for a write of at most `len` bytes to the log, with a slot to spare in the index. Room is made
    /// before the CAS number is taken, so for the longest header; what is appended may be shorter. Returns the item's
    /// uses too.
    fn room_for_write(&mut self, slot: Option<Slot>, write: &Write<'_>, len: usize) -> (Option<u32>, Uses) {
        let class = self.log.class(write.new.expiry, write.now);
        let (lane, uses) = match (slot, write.new.past) {
            (Some(slot), _) => (Lane::New, self.eviction.rewritten(Uses(self.index.uses(slot)))),
            (None, Some(past)) => self.eviction.receive(past),
            (None, None) => {
                let ghost = self.ghosts.take(write.hash);
                ghost.inspect(|&level| self.density.observe_return(level));
                self.eviction.admit(ghost)
            }
        };
        (self.room_for_item(class, lane, len, write.hash, write.now), uses)
    }

    /// Appends an item to a segment and points its slot there. A large value is kept beside the log.
    fn place(
        &mut self,
        slot: Option<Slot>,
        write: &Write<'_>,
        segment: u32,
        header: &Header,
        uses: Uses,
        large: Option<Bytes>,
    ) {
        let room = large.as_ref().map_or(0, |value| large::room(value.len()));
        let location = self.log.append(segment, header.len(), room);
        self.log.note_end(segment, header.expiry);
        let reference = large.map(|value| self.keep_large(value).to_le_bytes());
        let bytes = self.log.at_mut(location);
        header.write(bytes);
        let (key, value) = bytes[item::header_len(header.bits)..].split_at_mut(write.key.len());
        key.copy_from_slice(write.key);
        match &reference {
            Some(reference) => put(value, &[reference]),
            None => put(value, write.parts),
        }
        match slot {
            Some(slot) => {
                self.bury(self.index.location(slot));
                self.index.set(slot, location, uses.0);
            }
            None => self.index.insert(write.hash, location, uses.0),
        }
    }

    /// Replaces a small value by one of the same length where it is. `None`: the item has another shape.
    fn overwrite(&mut self, slot: Slot, write: &Write<'_>) -> Option<u64> {
        let &Write { new, now, .. } = write;
        let bits = write.bits();
        let location = self.index.location(slot);
        let old = self.header(location);
        let shape = bit::FLAGS | bit::EXPIRY;
        let same = old.bits & bit::LARGE == 0
            && old.bits & shape == bits & shape
            && old.value_len as usize == write.value_len()
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
            bits: bits | wide | old.bits & bit::LONG,
            access: item::access_of(now),
            flags: new.flags,
            expiry: new.expiry,
            cas: encoded.1,
            ..old
        };
        let bytes = self.log.at_mut(location);
        header.write(bytes);
        put(&mut bytes[item::header_len(header.bits) + header.key_len as usize..], write.parts);
        // The item is as new as one that is appended, but its segment is older. Only uses count where uses are
        // compared.
        if self.eviction != Eviction::Density {
            self.index.count_use(slot, 1);
        }
        self.statistics.total_items += 1;
        Some(cas)
    }

    fn copy_large(&mut self, write: &Write<'_>) -> Option<Bytes> {
        let mut block = self.stage(write.value_len(), write.now)?;
        put(block.bytes_mut(), write.parts);
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

    /// Evicts a little after each write, so that no write waits for much eviction.
    fn keep_reserve(&mut self, logged: usize, large: usize, now: Time) {
        let headroom = self.headroom();
        if headroom < RESERVE {
            self.sweep(now, (logged * 4).min(2048) * (RESERVE - headroom) + 512 + large);
        }
        self.keep_limit(now);
    }

    /// Evicts what exceeds the limit: a page of the index, an entry of a list, or ghosts for more items.
    fn keep_limit(&mut self, now: Time) {
        while self.used() > self.limit && self.shrink(now) {}
    }

    /// Writes an item again with a change, and keeps everything else: also whether it was fetched, and its last access.
    /// If there is no room the item is evicted: it must not outlive its new expiry, nor be served as fresh.
    pub(super) fn rewrite(
        &mut self,
        slot: Slot,
        key: &[u8],
        hash: u64,
        now: Time,
        change: impl FnOnce(&mut NewItem<'_>),
    ) -> Option<Slot> {
        let uses = self.index.uses(slot);
        let old = self.item(slot, now);
        let (fetched, access) = (old.fetched, old.last_access);
        let Item { flags, expiry, cas, stale, won, .. } = old;
        let mut new = NewItem { value: b"", flags, expiry, cas: Some(cas), stale, won, past: None };
        change(&mut new);
        let large = old.owner.cloned();
        let value = if large.is_some() { Vec::new() } else { old.value.to_vec() };
        let parts: [&[u8]; 1] = [large.as_deref().unwrap_or(&value)];
        let write = Write { key, hash, parts: &parts, new, now };
        let (slot, result) = self.write(Some(slot), &write, large.clone());
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
