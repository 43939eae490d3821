//! Values too large for a segment: each in a block of its own, owned by reference count, so that readers and writers need no lock
//! while they copy. In the log an item with such a value is as small as any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::memory::{Part, SharedPart, Span};

/// Blocks are whole multiples of this many bytes.
const UNIT: usize = 256;

/// Room that a block of so many bytes takes.
pub(super) fn room(len: usize) -> usize {
    len.max(1).next_multiple_of(UNIT)
}

/// A shard's memory for large values. Its own lock is held for looking up ranges only, and no other lock is taken under it.
pub(super) struct LargeArea {
    part: Arc<SharedPart>,
    free: Mutex<Free>,
    /// Bytes in blocks.
    used: AtomicUsize,
    /// Bytes in free ranges that still have their pages.
    idle: AtomicUsize,
}

/// Free ranges, start to length. Neighbours are joined.
#[derive(Default)]
struct Free {
    resident: BTreeMap<usize, usize>,
    released: BTreeMap<usize, usize>,
}

impl LargeArea {
    pub(super) fn new(part: Part) -> Arc<LargeArea> {
        let part = SharedPart::new(part);
        let free = Free { released: BTreeMap::from([(0, part.len())]), ..Free::default() };
        Arc::new(LargeArea { part, free: Mutex::new(free), used: AtomicUsize::new(0), idle: AtomicUsize::new(0) })
    }

    /// Bytes of memory it holds.
    pub(super) fn bytes(&self) -> usize {
        self.used() + self.idle()
    }

    /// Bytes in blocks, those that only readers hold included.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes it could give back to the system now.
    pub(super) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// A block for `len` bytes, from memory it holds or from up to `budget` bytes more.
    pub(super) fn allocate(self: &Arc<Self>, len: usize, budget: usize) -> Option<Block> {
        let room = room(len);
        let mut free = self.free.lock();
        let at = if let Some(at) = take(&mut free.resident, room) {
            self.idle.fetch_sub(room, Ordering::Relaxed);
            at
        } else if room <= budget {
            take(&mut free.released, room)?
        } else {
            return None;
        };
        self.used.fetch_add(room, Ordering::Relaxed);
        Some(Block { span: self.part.span(at, len), area: self.clone() })
    }

    /// Gives all free memory back to the system.
    pub(super) fn trim(&self) {
        let mut free = self.free.lock();
        for (at, len) in std::mem::take(&mut free.resident) {
            self.part.release(at..at + len);
            give(&mut free.released, at, len);
            self.idle.fetch_sub(len, Ordering::Relaxed);
        }
    }
}

/// Takes the first range that is long enough.
fn take(ranges: &mut BTreeMap<usize, usize>, len: usize) -> Option<usize> {
    let (&at, &found) = ranges.iter().find(|&(_, &found)| found >= len)?;
    ranges.remove(&at);
    if found > len {
        ranges.insert(at + len, found - len);
    }
    Some(at)
}

/// Gives a range back, joined with its neighbours.
fn give(ranges: &mut BTreeMap<usize, usize>, mut at: usize, mut len: usize) {
    if let Some(next) = ranges.remove(&(at + len)) {
        len += next;
    }
    if let Some((&before, &before_len)) = ranges.range(..at).next_back()
        && before + before_len == at
    {
        (at, len) = (before, before_len + len);
    }
    ranges.insert(at, len);
}

/// The memory of one large value; back in its area when dropped.
pub(super) struct Block {
    span: Span,
    area: Arc<LargeArea>,
}

impl Block {
    /// Its bytes, to fill before anybody else sees them.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.span.bytes_mut()
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.span.bytes()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let room = room(self.span.bytes().len());
        let mut free = self.area.free.lock();
        give(&mut free.resident, self.span.at(), room);
        self.area.idle.fetch_add(room, Ordering::Relaxed);
        self.area.used.fetch_sub(room, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::reserve;
    use super::*;

    #[test]
    fn blocks_keep_their_bytes_and_give_their_room_back() {
        let area = LargeArea::new(reserve([64 * UNIT]).unwrap().remove(0));
        let mut blocks: Vec<Block> = (0..8).map(|_| area.allocate(5 * UNIT - 1, usize::MAX).unwrap()).collect();
        for (n, block) in blocks.iter_mut().enumerate() {
            block.bytes_mut().fill(n as u8);
        }
        assert!(blocks.iter().enumerate().all(|(n, block)| block.as_ref().iter().all(|&byte| byte == n as u8)));
        assert_eq!((area.used(), area.idle()), (40 * UNIT, 0));
        assert!(area.allocate(25 * UNIT, usize::MAX).is_none());
        drop(blocks);
        assert_eq!((area.used(), area.idle()), (0, 40 * UNIT));
        assert!(area.allocate(40 * UNIT, 0).is_some(), "free neighbours are joined");
        area.trim();
        assert_eq!(area.bytes(), 0);
        assert!(area.allocate(64 * UNIT, usize::MAX).is_some());
    }

    #[test]
    fn a_block_moves_between_threads() {
        let area = LargeArea::new(reserve([64 * UNIT]).unwrap().remove(0));
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
