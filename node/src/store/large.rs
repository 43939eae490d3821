//! Large values. Each has a block of its own with a reference count, so that readers and writers copy without a lock.
//! In the log the item of a large value holds only a number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::memory::{PAGE, Part, SharedPart, Span};

/// Blocks are whole multiples of this many bytes.
const UNIT: usize = 256;

/// The bytes, about, that the records of one free range take. A block has as many set aside: when it is freed, which
/// needs no lock but the area's, the memory that the area holds does not grow.
const RANGE_BYTES: usize = 64;

/// The most bytes beside pages that [`LargeArea::allocate`] takes: for a block and the rest of its last page.
pub(super) const RECORDS: usize = 2 * RANGE_BYTES;

/// Returns the bytes of the block for a value of `len` bytes.
pub(super) fn room(len: usize) -> usize {
    len.max(1).next_multiple_of(UNIT)
}

/// A shard's memory for large values. Its lock is held only while ranges are looked up, and no other lock is taken
/// under it.
pub(super) struct LargeArea {
    part: Arc<SharedPart>,
    free: Mutex<Free>,
    /// Bytes in blocks.
    used: AtomicUsize,
    /// The part of `used` in blocks that are lent.
    lent: AtomicUsize,
    /// Free bytes that have memory, and the records of free ranges and blocks.
    spare: AtomicUsize,
    /// The part of `spare` in whole pages.
    idle: AtomicUsize,
}

/// Free ranges: with memory, and without. Those without begin and end at page boundaries.
#[derive(Default)]
struct Free {
    resident: Ranges,
    released: Ranges,
    /// The number of blocks that are not free.
    blocks: usize,
}

impl LargeArea {
    pub(super) fn new(part: Part) -> Arc<LargeArea> {
        let part = SharedPart::new(part);
        let mut free = Free::default();
        free.released.give(0, part.len());
        let zero = || AtomicUsize::new(0);
        Arc::new(LargeArea { part, free: Mutex::new(free), used: zero(), lent: zero(), spare: zero(), idle: zero() })
    }

    /// Returns the bytes of memory that the area holds.
    pub(super) fn bytes(&self) -> usize {
        self.used() + self.spare.load(Ordering::Relaxed)
    }

    /// Returns the bytes in blocks, with those that only readers still hold.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the bytes in blocks that are lent: those of no item yet.
    pub(super) fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Returns the bytes that the area could give back to the system now.
    pub(super) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// Allocates a block for `len` bytes, from memory that the area holds or from up to `budget` bytes more.
    pub(super) fn allocate(self: &Arc<Self>, len: usize, budget: usize) -> Option<Block> {
        let room = room(len);
        let budget = budget.checked_sub(RECORDS)?;
        let mut free = self.free.lock();
        let Free { resident, released, blocks } = &mut *free;
        let at = resident.take(room).or_else(|| {
            let fresh = room.next_multiple_of(PAGE);
            let at = (fresh <= budget).then(|| released.take(fresh)).flatten()?;
            // The block begins in the free end of the page before, if there is one; the rest of its last page is free.
            let (at, end) = (resident.take_before(at), at + fresh);
            let page = (at + room).next_multiple_of(PAGE);
            if page < end {
                released.give(page, end - page);
            }
            resident.give(at + room, page - (at + room));
            Some(at)
        })?;
        *blocks += 1;
        self.used.fetch_add(room, Ordering::Relaxed);
        self.note(&free);
        Some(Block { span: self.part.span(at, len), area: self.clone(), lent: false })
    }

    /// Gives `wanted` bytes of free pages, or a little more, back to the system, if there are that many. The longest
    /// ranges go first.
    pub(super) fn trim(&self, wanted: usize) {
        let mut free = self.free.lock();
        let Free { resident, released, .. } = &mut *free;
        let mut found = 0;
        let longest = resident.by_len.iter().rev().take_while(|&&(len, at)| {
            let enough = found >= wanted;
            let (first, end) = whole_pages(at, len);
            // The ends of the range may remain as two more ranges with records.
            found += (end - first).saturating_sub(2 * RANGE_BYTES);
            !enough
        });
        for (len, at) in longest.copied().collect::<Vec<_>>() {
            let (first, end) = whole_pages(at, len);
            if first < end {
                resident.remove(at);
                self.part.release(first..end);
                released.give(first, end - first);
                resident.give(at, first - at);
                resident.give(end, at + len - end);
            }
        }
        self.note(&free);
    }

    fn note(&self, free: &Free) {
        let records = free.resident.by_start.len() + free.released.by_start.len() + free.blocks;
        self.spare.store(free.resident.bytes + records * RANGE_BYTES, Ordering::Relaxed);
        self.idle.store(free.resident.pages, Ordering::Relaxed);
    }
}

/// Returns the whole pages inside a range.
fn whole_pages(at: usize, len: usize) -> (usize, usize) {
    let first = at.next_multiple_of(PAGE);
    (first, ((at + len) / PAGE * PAGE).max(first))
}

/// Free ranges by start and by length. Neighbours are joined.
#[derive(Default)]
struct Ranges {
    by_start: BTreeMap<usize, usize>,
    by_len: BTreeSet<(usize, usize)>,
    /// Bytes of all ranges, and the part of them in whole pages.
    bytes: usize,
    pages: usize,
}

impl Ranges {
    fn insert(&mut self, at: usize, len: usize) {
        self.by_start.insert(at, len);
        self.by_len.insert((len, at));
        let (first, end) = whole_pages(at, len);
        self.bytes += len;
        self.pages += end - first;
    }

    fn remove(&mut self, at: usize) -> Option<usize> {
        let len = self.by_start.remove(&at)?;
        self.by_len.remove(&(len, at));
        let (first, end) = whole_pages(at, len);
        self.bytes -= len;
        self.pages -= end - first;
        Some(len)
    }

    /// Takes `len` bytes of the shortest range that is long enough.
    fn take(&mut self, len: usize) -> Option<usize> {
        let &(found, at) = self.by_len.range((len, 0)..).next()?;
        self.remove(at);
        if found > len {
            self.insert(at + len, found - len);
        }
        Some(at)
    }

    /// Takes the range that ends at `end`, if there is one. Returns where it starts, or `end`.
    fn take_before(&mut self, end: usize) -> usize {
        match self.by_start.range(..end).next_back() {
            Some((&at, &len)) if at + len == end => {
                self.remove(at);
                at
            }
            _ => end,
        }
    }

    /// Adds a range, joined with its neighbours. An empty one is ignored.
    fn give(&mut self, at: usize, len: usize) {
        if len > 0 {
            let end = at + len;
            let end = end + self.remove(end).unwrap_or(0);
            let start = self.take_before(at);
            self.insert(start, end - start);
        }
    }
}

/// The memory of one large value. It returns to its area when dropped.
pub struct Block {
    span: Span,
    area: Arc<LargeArea>,
    lent: bool,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("len", &self.as_ref().len()).finish_non_exhaustive()
    }
}

impl Block {
    /// Returns the bytes of the block, to fill before it is shared.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.span.bytes_mut()
    }

    /// Returns the filled block, to share. A part of it may become a value ([`Store::entry_received`]), so it is not
    /// lent any more.
    ///
    /// [`Store::entry_received`]: super::Store::entry_received
    pub fn into_bytes(mut self) -> Bytes {
        self.end_loan();
        Bytes::from_owner(self)
    }

    pub(super) fn lend(mut self) -> Block {
        self.lent = true;
        self.area.lent.fetch_add(room(self.as_ref().len()), Ordering::Relaxed);
        self
    }

    fn end_loan(&mut self) {
        if std::mem::take(&mut self.lent) {
            self.area.lent.fetch_sub(room(self.as_ref().len()), Ordering::Relaxed);
        }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.span.bytes()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.end_loan();
        let range = self.span.retire();
        let room = room(range.len());
        let mut free = self.area.free.lock();
        free.resident.give(range.start, room);
        free.blocks -= 1;
        self.area.used.fetch_sub(room, Ordering::Relaxed);
        self.area.note(&free);
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::reserve;
    use super::*;

    #[test]
    fn blocks_keep_their_bytes_and_give_their_room_back() {
        let area = LargeArea::new(reserve([4 * PAGE]).unwrap().remove(0));
        let mut blocks: Vec<Block> = (0..8).map(|_| area.allocate(5 * UNIT - 1, usize::MAX).unwrap()).collect();
        for (n, block) in blocks.iter_mut().enumerate() {
            block.bytes_mut().fill(n as u8);
        }
        assert!(blocks.iter().enumerate().all(|(n, block)| block.as_ref().iter().all(|&byte| byte == n as u8)));
        assert_eq!((area.used(), area.idle()), (40 * UNIT, 0));
        assert!(area.allocate(25 * UNIT, usize::MAX).is_none());
        drop(blocks);
        assert_eq!((area.used(), area.idle()), (0, 3 * PAGE));
        assert!(area.allocate(48 * UNIT, RECORDS).is_some(), "free neighbours are joined");
        area.trim(usize::MAX);
        assert_eq!((area.bytes(), area.idle()), (RANGE_BYTES, 0));
        assert!(area.allocate(64 * UNIT, usize::MAX).is_some());
    }

    #[test]
    fn the_pages_of_living_blocks_are_all_that_is_held_after_a_trim() {
        let area = LargeArea::new(reserve([64 * PAGE]).unwrap().remove(0));
        let blocks: Vec<Block> = (0..24).map(|_| area.allocate(9 * UNIT, usize::MAX).unwrap()).collect();
        assert_eq!(
            area.used().next_multiple_of(PAGE),
            area.used() + area.free.lock().resident.bytes,
            "one after the other"
        );
        let kept: Vec<Block> = blocks.into_iter().step_by(6).collect();
        area.trim(usize::MAX);
        // Each of them is in a page of its own, or in two.
        let start = |block: &Block| block.as_ref().as_ptr() as usize % PAGE;
        let pages = |block: &Block| (start(block) + 9 * UNIT).div_ceil(PAGE);
        let held: usize = kept.iter().map(pages).sum();
        assert_eq!(area.used() + area.free.lock().resident.bytes, held * PAGE);
        assert_eq!(area.idle(), 0);
    }

    #[test]
    fn a_block_moves_between_threads() {
        let area = LargeArea::new(reserve([4 * PAGE]).unwrap().remove(0));
        let mut block = area.allocate(9 * UNIT, usize::MAX).unwrap();
        block.bytes_mut().fill(7);
        let shared = bytes::Bytes::from_owner(block);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                std::thread::spawn({
                    let shared = shared.clone();
                    move || shared.iter().all(|&byte| byte == 7)
                })
            })
            .collect();
        drop(shared);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
        assert_eq!(area.used(), 0);
    }
}
