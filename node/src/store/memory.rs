//! The engine's memory and all of its `unsafe`: one reservation of address space, cut into parts with one owner each.
//!
//! The system provides a page when it is first written and takes it back in [`Part::release`]. The rest of the engine
//! sees slices; every range is checked.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of a page. Parts start at a page boundary, and memory is released in whole pages.
pub(super) const PAGE: usize = 4096;

/// Bytes of a huge page. Parts start at the boundary of one.
#[cfg(not(miri))]
pub(super) const HUGE_PAGE: usize = 2 << 20;
#[cfg(miri)]
pub(super) const HUGE_PAGE: usize = PAGE;

/// A mapping of private, zeroed memory, unmapped when the last part is gone.
///
/// Invariant: `base..base + len` is mapped readable and writable for as long as `self` lives, and nobody unmaps it but
/// `drop`.
struct Reservation {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is owned by the process, not by a thread; access goes through parts, which are disjoint.
unsafe impl Send for Reservation {}
// SAFETY: as above; `Reservation` itself gives no access to the memory.
unsafe impl Sync for Reservation {}

impl Reservation {
    #[cfg(not(miri))]
    fn new(len: usize) -> io::Result<Reservation> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

        let size = std::num::NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the system's choice touches no existing memory.
        let base = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Reservation { base: base.cast(), len })
    }

    /// Miri knows no `MAP_NORESERVE`: it checks the same accesses over an allocation.
    #[cfg(miri)]
    fn new(len: usize) -> io::Result<Reservation> {
        let layout = std::alloc::Layout::from_size_align(len, PAGE).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: callers reserve more than nothing.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        Ok(Reservation { base: NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?, len })
    }
}

impl Drop for Reservation {
    #[cfg(not(miri))]
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping, and no part is left that could reach it.
        let unmapped = unsafe { nix::sys::mman::munmap(self.base.cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }

    #[cfg(miri)]
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), std::alloc::Layout::from_size_align(self.len, PAGE).unwrap()) }
    }
}

/// A range of the reservation with one owner.
///
/// Invariant: no two parts overlap, and a part lies within its reservation, on page boundaries. So a `&mut Part` is the
/// only way to its bytes while it is borrowed, and a `&Part` shares them with other readers only.
pub(super) struct Part {
    reservation: Arc<Reservation>,
    start: usize,
    len: usize,
}

/// Reserves address space for parts of these lengths, each rounded up to whole pages, each on a huge page of its own.
pub(super) fn reserve(lengths: impl IntoIterator<Item = usize>) -> io::Result<Vec<Part>> {
    let mut total = 0;
    let ranges: Vec<(usize, usize)> = lengths
        .into_iter()
        .map(|len| {
            let start = total;
            total += len.next_multiple_of(HUGE_PAGE);
            (start, len.next_multiple_of(PAGE))
        })
        .collect();
    let reservation = Arc::new(Reservation::new(total.max(PAGE))?);
    let part = |(start, len)| {
        let mut part = Part { reservation: reservation.clone(), start, len };
        part.use_huge_pages(0..len, false);
        part
    };
    Ok(ranges.into_iter().map(part).collect())
}

impl Part {
    /// Returns the bytes in the part.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the `len` bytes from `at`.
    #[inline]
    pub(super) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: the range is within the part (checked), mapped (reservation's invariant) and initialised (zeroed by
        // the system); writers need `&mut self`, so nobody writes while the slice lives.
        unsafe { std::slice::from_raw_parts(self.pointer(at, len), len) }
    }

    /// Returns the `len` bytes from `at`, to write.
    #[inline]
    pub(super) fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference into the part.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(at, len), len) }
    }

    /// Returns the `len` 8-byte words from the `at`th.
    #[inline]
    pub(super) fn words(&self, at: usize, len: usize) -> &[u64] {
        debug_assert!(self.pointer(at * 8, len * 8).cast::<u64>().is_aligned());
        // SAFETY: as in `bytes`; the part starts on a page, so word offsets are aligned; every bit pattern is a u64.
        unsafe { std::slice::from_raw_parts(self.pointer(at * 8, len * 8).cast(), len) }
    }

    /// Returns the `len` 8-byte words from the `at`th, to write.
    #[inline]
    pub(super) fn words_mut(&mut self, at: usize, len: usize) -> &mut [u64] {
        debug_assert!(self.pointer(at * 8, len * 8).cast::<u64>().is_aligned());
        // SAFETY: as in `words`, and `&mut self` makes this the only reference into the part.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(at * 8, len * 8).cast(), len) }
    }

    /// Makes the processor fetch the cache lines of a range, as far as it lies within the part.
    #[inline]
    pub(super) fn prefetch(&self, at: usize, len: usize) {
        #[cfg(target_arch = "x86_64")]
        for line in (at..(at + len).min(self.len)).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint, which reads nothing and cannot fault.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.pointer(line, 0).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, len);
    }

    /// Returns the address of a range. Panics if the range leaves the part.
    #[inline]
    fn pointer(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.len && len <= self.len - at, "a range beyond the engine's memory");
        // SAFETY: at most one past the part's end, which is within the reservation.
        unsafe { self.reservation.base.as_ptr().add(self.start + at) }
    }

    /// Switches huge pages on or off for a range. Address translation costs less with them, but memory comes and goes 2
    /// MiB at a time. A part begins without, whatever the system's default.
    pub(super) fn use_huge_pages(&mut self, range: Range<usize>, huge: bool) {
        #[cfg(not(miri))]
        {
            use nix::sys::mman::{MmapAdvise, madvise};
            let address = NonNull::new(self.pointer(range.start, range.len())).expect("within a mapping").cast();
            let advice = if huge { MmapAdvise::MADV_HUGEPAGE } else { MmapAdvise::MADV_NOHUGEPAGE };
            // A system without huge pages refuses, which does no harm.
            // SAFETY: changes no byte.
            let _ = unsafe { madvise(address, range.len(), advice) };
        }
        #[cfg(miri)]
        let _ = (range, huge);
    }

    /// Gives the whole pages inside the range back to the system. They read as zeroes afterwards.
    pub(super) fn release(&mut self, range: Range<usize>) {
        let range = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        if !range.is_empty() {
            let address = self.pointer(range.start, range.len());
            give_back(address, range.len());
        }
    }
}

/// Gives pages back to the system.
fn give_back(address: *mut u8, len: usize) {
    #[cfg(not(miri))]
    {
        use nix::sys::mman::{MmapAdvise, madvise};
        let address = NonNull::new(address).expect("within a mapping").cast();
        // SAFETY: private anonymous pages inside a part borrowed for writing: the next access sees zeroes, nobody holds
        // a slice of them.
        let advised = unsafe { madvise(address, len, MmapAdvise::MADV_DONTNEED) };
        debug_assert!(advised.is_ok());
    }
    #[cfg(miri)]
    // SAFETY: the range is inside a part borrowed for writing.
    unsafe {
        std::ptr::write_bytes(address, 0, len)
    };
}

/// A range of a shared part, owned until it is retired.
///
/// Invariant (kept by [`super::large`], the only maker): ranges of living spans of one part do not overlap, and the
/// part is used in no other way but `release` of ranges that no span has. So a span owns its bytes as a `Box<[u8]>`
/// does. Debug builds, and so all tests, check it.
pub(super) struct Span {
    part: Arc<SharedPart>,
    at: usize,
    len: usize,
}

/// A part whose ranges are owned by [`Span`]s instead of by the part's owner.
pub(super) struct SharedPart {
    part: Part,
    /// Start and end of the living spans.
    #[cfg(debug_assertions)]
    living: parking_lot::Mutex<std::collections::BTreeMap<usize, usize>>,
}

impl SharedPart {
    pub(super) fn new(part: Part) -> Arc<SharedPart> {
        Arc::new(SharedPart {
            part,
            #[cfg(debug_assertions)]
            living: Default::default(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.part.len
    }

    /// Panics in debug builds where a living span overlaps the range.
    fn check_unused(&self, range: &Range<usize>) {
        #[cfg(debug_assertions)]
        if let Some((&at, &end)) = self.living.lock().range(..range.end).next_back() {
            assert!(end <= range.start, "{range:?} overlaps the living {at}..{end}");
        }
        #[cfg(not(debug_assertions))]
        let _ = range;
    }

    /// Gives the whole pages inside a range back to the system. No living span may overlap the range.
    pub(super) fn release(&self, range: Range<usize>) {
        let range = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        if !range.is_empty() {
            self.check_unused(&range);
            give_back(self.part.pointer(range.start, range.len()), range.len());
        }
    }

    /// Returns a span over a range, which must not be empty nor overlap a living span.
    pub(super) fn span(self: &Arc<Self>, at: usize, len: usize) -> Span {
        self.part.pointer(at, len);
        self.check_unused(&(at..at + len));
        #[cfg(debug_assertions)]
        self.living.lock().insert(at, at + len);
        Span { part: self.clone(), at, len }
    }
}

impl Span {
    /// Ends a span, as the last call to it. Its range may be given to another span afterwards.
    pub(super) fn retire(&mut self) -> Range<usize> {
        #[cfg(debug_assertions)]
        assert!(self.part.living.lock().remove(&self.at).is_some(), "retired twice");
        self.at..self.at + self.len
    }

    /// Returns the span's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.part.part.bytes(self.at, self.len)
    }

    /// Returns the span's bytes, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: in range (checked), mapped, initialised; no other span overlaps and `&mut self` makes this the only
        // reference.
        unsafe { std::slice::from_raw_parts_mut(self.part.part.pointer(self.at, self.len), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_zeroed_and_zero_again_after_release() {
        let mut parts = reserve([PAGE, 3 * PAGE + 1]).unwrap();
        parts[0].bytes_mut(0, PAGE).fill(1);
        assert!(parts[1].bytes(0, 4 * PAGE).iter().all(|&b| b == 0));
        parts[1].bytes_mut(0, 4 * PAGE).fill(2);
        parts[1].release(1..3 * PAGE);
        assert_eq!(parts[1].bytes(PAGE - 1, 3), [2, 0, 0]);
        assert_eq!(parts[1].bytes(3 * PAGE - 1, 2), [0, 2]);
        assert!(parts[0].bytes(0, PAGE).iter().all(|&b| b == 1));
    }

    #[test]
    #[should_panic(expected = "beyond the engine's memory")]
    fn a_range_past_the_end_is_refused() {
        reserve([PAGE]).unwrap()[0].bytes(PAGE - 1, 2);
    }

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let mut part = reserve([PAGE]).unwrap().remove(0);
        part.words_mut(1, 1)[0] = u64::from_le_bytes(*b"01234567");
        assert_eq!(part.bytes(8, 8), b"01234567");
        assert_eq!(part.words(0, 2)[0], 0);
    }

    #[test]
    fn spans_are_written_and_read_side_by_side() {
        let part = SharedPart::new(reserve([PAGE]).unwrap().remove(0));
        let (mut a, mut b) = (part.span(0, 10), part.span(10, 10));
        let (x, y) = (a.bytes_mut(), b.bytes_mut());
        x.fill(1);
        y.fill(2);
        assert_eq!((a.bytes(), b.bytes()), (&[1; 10][..], &[2; 10][..]));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "overlaps the living 0..10")]
    fn a_span_over_a_living_one_is_refused() {
        let part = SharedPart::new(reserve([PAGE]).unwrap().remove(0));
        let _living = part.span(0, 10);
        part.span(9, 10);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "overlaps the living")]
    fn releasing_pages_of_a_living_span_is_refused() {
        let part = SharedPart::new(reserve([2 * PAGE]).unwrap().remove(0));
        let _living = part.span(PAGE + 100, 10);
        part.release(0..2 * PAGE);
    }
}
