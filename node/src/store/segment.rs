//! The log of a shard: segments of fixed size, filled by appending, in queues from oldest to newest.
//!
//! An open segment takes items of one class of time to live, so that they end together and the segment is free as a
//! whole. A location is `segment * segment size + offset`: no pointers.

use serde::{Deserialize, Serialize};

use super::eviction::Lane;
use super::item::Header;
use super::memory::{HUGE_PAGE, Part};
use super::time::{Expiry, Time};

/// No segment.
pub(super) const NONE: u32 = u32::MAX;

const CLASSES: usize = 256;

/// The state of one segment.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Segment {
    /// When the segment was started.
    pub(super) started: Time,
    /// CAS counts in the segment's items are relative to this.
    pub(super) cas_base: u64,
    /// Bytes written.
    pub(super) filled: u32,
    /// The part of those that belongs to live items.
    pub(super) live: u32,
    /// The earliest and the latest expiry of the segment's items, in Unix seconds; `u32::MAX` is never.
    pub(super) ends: (u32, u32),
    older: u32,
    newer: u32,
    class: u8,
    pub(super) lane: Lane,
    queue: u8,
    in_use: bool,
}

/// What a log knows about its segments: all of it but their bytes.
#[derive(Serialize, Deserialize)]
pub(super) struct Books {
    segments: Vec<Segment>,
    free: Vec<u32>,
    released: Vec<u32>,
    open: Vec<u32>,
    oldest: [u32; 2],
    newest: [u32; 2],
    lengths: [usize; 2],
    bytes_of_items: [u64; 2],
    kept: u64,
}

/// Where a segment stands, and which items it takes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The class of time to live of its items.
    pub(super) class: u8,
    pub(super) lane: Lane,
    pub(super) queue: usize,
    /// The segment that it comes in front of, or `NONE` for the end of the queue.
    pub(super) before: u32,
}

/// A segment that is being emptied.
#[derive(Clone, Copy)]
pub(super) struct Sweep {
    pub(super) segment: u32,
    /// Bytes of the segment that are done.
    pub(super) done: u32,
}

/// See the [module](self).
pub(super) struct Log {
    part: Part,
    /// The binary logarithm of a segment's bytes.
    segment_bits: u32,
    segments: Vec<Segment>,
    /// Free segments that have memory, and those whose memory went back to the system.
    free: Vec<u32>,
    released: Vec<u32>,
    open: Box<[[u32; CLASSES]; 2]>,
    oldest: [u32; 2],
    newest: [u32; 2],
    lengths: [usize; 2],
    /// Bytes of live items in each queue, with their large values.
    bytes_of_items: [u64; 2],
    /// Live items in segments of [`Lane::Kept`].
    kept: u64,
    class_mask: u32,
}

impl Log {
    /// Creates an empty log. `expected` is the likely number of segments: where they are few, classes of time to live
    /// are coarse.
    pub(super) fn new(mut part: Part, segment_bytes: usize, expected: usize) -> Log {
        // Only as much as a full log is sure to fill, so that no memory is wasted.
        let huge = expected * segment_bytes / 8 * 7 / HUGE_PAGE * HUGE_PAGE;
        if huge >= 4 * HUGE_PAGE {
            part.use_huge_pages(0..huge, true);
        }
        Log {
            part,
            segment_bits: segment_bytes.trailing_zeros(),
            segments: Vec::new(),
            free: Vec::new(),
            released: Vec::new(),
            open: Box::new([[NONE; CLASSES]; 2]),
            oldest: [NONE; 2],
            newest: [NONE; 2],
            lengths: [0; 2],
            bytes_of_items: [0; 2],
            kept: 0,
            class_mask: match expected {
                1024.. => 0b111,
                256.. => 0b110,
                128.. => 0b100,
                _ => 0,
            },
        }
    }

    /// Returns the bytes of memory that the log holds.
    pub(super) fn bytes(&self) -> usize {
        (self.segments.len() - self.released.len()) * self.segment_bytes()
            + self.segments.len() * (size_of::<Segment>() + 8)
            + size_of_val(&*self.open)
    }

    /// Returns the bytes of a segment.
    #[inline]
    pub(super) fn segment_bytes(&self) -> usize {
        1 << self.segment_bits
    }

    /// Returns the number of free segments that have memory.
    #[inline]
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Returns the number of segments in each queue.
    pub(super) fn lengths(&self) -> [usize; 2] {
        self.lengths
    }

    /// Returns the bytes of live items in each queue, with their large values.
    pub(super) fn bytes_of_items(&self) -> [u64; 2] {
        self.bytes_of_items
    }

    /// Returns the number of live items in segments of [`Lane::Kept`].
    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    /// Returns the class of an expiry: an eighth of an octave of time to live, or coarser. Never is class 0.
    #[inline]
    pub(super) fn class(&self, expiry: Expiry, now: Time) -> u8 {
        match expiry.remaining(now) {
            None => 0,
            Some(ttl @ 0..8) => 1 + (ttl & self.class_mask) as u8,
            Some(ttl) => {
                let octave = ttl.ilog2();
                (9 + (octave - 3) * 8 + (ttl >> (octave - 3) & self.class_mask)) as u8
            }
        }
    }

    /// Returns the location of a byte of a segment.
    #[inline]
    pub(super) fn location(&self, segment: u32, offset: u32) -> u64 {
        u64::from(segment) * self.segment_bytes() as u64 + u64::from(offset)
    }

    /// Returns the segment of a location.
    #[inline]
    pub(super) fn segment_of(&self, location: u64) -> u32 {
        (location >> self.segment_bits) as u32
    }

    #[inline]
    pub(super) fn segment(&self, segment: u32) -> &Segment {
        &self.segments[segment as usize]
    }

    /// Returns whether the segment of a location takes items of this expiry.
    #[inline]
    pub(super) fn suits(&self, location: u64, expiry: Expiry, now: Time) -> bool {
        self.segment(self.segment_of(location)).class == self.class(expiry, now)
    }

    /// Records that an item of the segment expires at `expiry`.
    #[inline]
    pub(super) fn note_end(&mut self, segment: u32, expiry: Expiry) {
        let end = expiry.time().map_or(u32::MAX, |time| time.0);
        let ends = &mut self.segments[segment as usize].ends;
        let both = (ends.0.min(end), ends.1.max(end));
        if *ends != both {
            *ends = both;
        }
    }

    #[inline]
    fn rest_of_segment(&self, location: usize) -> usize {
        self.segment_bytes() - (location & (self.segment_bytes() - 1))
    }

    /// Returns the bytes from a location to the end of its segment.
    #[inline]
    pub(super) fn at(&self, location: u64) -> &[u8] {
        let location = location as usize;
        self.part.bytes(location, self.rest_of_segment(location))
    }

    /// Returns the bytes from a location to the end of its segment, to write.
    #[inline]
    pub(super) fn at_mut(&mut self, location: u64) -> &mut [u8] {
        let location = location as usize;
        self.part.bytes_mut(location, self.rest_of_segment(location))
    }

    /// Makes the processor fetch the bytes that a look-up of an item reads first.
    #[inline]
    pub(super) fn prefetch(&self, location: u64) {
        self.part.prefetch(location as usize, 128);
    }

    /// Copies bytes from one location to another. The two ranges do not overlap.
    pub(super) fn copy(&mut self, from: u64, to: u64, len: usize) {
        let end = self.part.len();
        self.part.bytes_mut(0, end).copy_within(from as usize..from as usize + len, to as usize);
    }

    /// Returns the open segment of a class, if it has `len` bytes left.
    #[inline]
    pub(super) fn open(&self, class: u8, lane: Lane, len: usize) -> Option<u32> {
        let segment = self.open[lane as usize][class as usize];
        (segment != NONE && self.segment(segment).filled as usize + len <= self.segment_bytes()).then_some(segment)
    }

    /// Returns an open segment of any class that has `len` bytes left.
    pub(super) fn any_open(&self, len: usize) -> Option<u32> {
        let fits = |segment: u32| self.segment(segment).filled as usize + len <= self.segment_bytes();
        self.open.iter().flatten().copied().find(|&segment| segment != NONE && fits(segment))
    }

    /// Returns whether the segment is open.
    pub(super) fn is_open(&self, segment: u32) -> bool {
        let Segment { class, lane, .. } = *self.segment(segment);
        self.open[lane as usize][class as usize] == segment
    }

    /// Takes `len` bytes at the end of a segment for an item with `large` bytes beside the log. Returns their location.
    #[inline]
    pub(super) fn append(&mut self, segment: u32, len: usize, large: usize) -> u64 {
        let location = self.location(segment, self.segment(segment).filled);
        let at = &mut self.segments[segment as usize];
        at.filled += len as u32;
        at.live += len as u32;
        self.bytes_of_items[at.queue as usize] += (len + large) as u64;
        self.kept += u64::from(at.lane == Lane::Kept);
        debug_assert!(at.filled as usize <= self.segment_bytes());
        location
    }

    /// Marks the `len` bytes of an item as dead. The item had `large` bytes beside the log.
    #[inline]
    pub(super) fn kill(&mut self, location: u64, len: usize, large: usize) {
        Header::dead(len).write(self.at_mut(location));
        let segment = self.segment_of(location) as usize;
        self.segments[segment].live -= len as u32;
        self.bytes_of_items[self.segments[segment].queue as usize] -= (len + large) as u64;
        self.kept -= u64::from(self.segments[segment].lane == Lane::Kept);
    }

    /// Takes a free segment: one with memory, or, if the `budget` allows, one without.
    pub(super) fn take_free(&mut self, budget: usize) -> Option<u32> {
        if let Some(segment) = self.free.pop() {
            return Some(segment);
        }
        if budget < self.segment_bytes() + size_of::<Segment>() + 8 {
            return None;
        }
        if let Some(segment) = self.released.pop() {
            return Some(segment);
        }
        let segment = self.segments.len();
        if (segment + 1) * self.segment_bytes() > self.part.len() {
            return None;
        }
        self.segments.push(Segment {
            started: Time(0),
            cas_base: 0,
            filled: 0,
            live: 0,
            ends: (0, 0),
            older: NONE,
            newer: NONE,
            class: 0,
            lane: Lane::New,
            queue: 0,
            in_use: false,
        });
        Some(segment as u32)
    }

    /// Makes a free segment the open one of a class, at the end of a queue or in front of another segment.
    pub(super) fn start(&mut self, segment: u32, place: Place, cas_base: u64, now: Time) {
        let Place { class, lane, queue, before } = place;
        let older = if before == NONE { self.newest[queue] } else { self.segment(before).older };
        self.segments[segment as usize] = Segment {
            started: now,
            cas_base,
            filled: 0,
            live: 0,
            ends: (u32::MAX, 0),
            older,
            newer: before,
            class,
            lane,
            queue: queue as u8,
            in_use: true,
        };
        *self.newer_of(older, queue) = segment;
        *self.older_of(before, queue) = segment;
        self.lengths[queue] += 1;
        self.open[lane as usize][class as usize] = segment;
    }

    fn newer_of(&mut self, segment: u32, queue: usize) -> &mut u32 {
        if segment == NONE { &mut self.oldest[queue] } else { &mut self.segments[segment as usize].newer }
    }

    fn older_of(&mut self, segment: u32, queue: usize) -> &mut u32 {
        if segment == NONE { &mut self.newest[queue] } else { &mut self.segments[segment as usize].older }
    }

    /// Returns the oldest segment of a queue.
    pub(super) fn oldest(&self, queue: usize) -> u32 {
        self.oldest[queue]
    }

    /// Returns the next newer segment of the same queue.
    pub(super) fn newer(&self, segment: u32) -> u32 {
        self.segment(segment).newer
    }

    /// Closes a segment: no more is appended to it.
    pub(super) fn seal(&mut self, segment: u32) {
        let Segment { class, lane, .. } = *self.segment(segment);
        let open = &mut self.open[lane as usize][class as usize];
        if *open == segment {
            *open = NONE;
        }
    }

    /// Closes all open segments of a lane.
    pub(super) fn seal_lane(&mut self, lane: Lane) {
        self.open[lane as usize].fill(NONE);
    }

    /// Takes an empty segment out of its queue. It is free then.
    pub(super) fn finish(&mut self, segment: u32) {
        self.seal(segment);
        let Segment { older, newer, queue, .. } = *self.segment(segment);
        *self.newer_of(older, queue as usize) = newer;
        *self.older_of(newer, queue as usize) = older;
        self.lengths[queue as usize] -= 1;
        self.segments[segment as usize].in_use = false;
        self.free.push(segment);
    }

    /// Gives the memory of a free segment back to the system. Returns `false` if there is none.
    pub(super) fn release_one(&mut self) -> bool {
        let Some(segment) = self.free.pop() else { return false };
        let start = segment as usize * self.segment_bytes();
        let end = self.part.len();
        // Otherwise the system would in time fill the huge page again.
        self.part.use_huge_pages(0..end, false);
        self.part.release(start..start + self.segment_bytes());
        self.released.push(segment);
        true
    }

    /// Iterates over the segments in use.
    pub(super) fn in_use(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.segments.iter().enumerate().filter(|(_, segment)| segment.in_use).map(|(n, segment)| (n as u32, segment))
    }

    /// Returns the bytes written to a segment.
    pub(super) fn written(&self, segment: u32) -> &[u8] {
        self.part.bytes(segment as usize * self.segment_bytes(), self.segment(segment).filled as usize)
    }

    /// Returns the bytes written to a segment, to write.
    pub(super) fn written_mut(&mut self, segment: u32) -> &mut [u8] {
        let filled = self.segment(segment).filled as usize;
        self.part.bytes_mut(segment as usize * self.segment_bytes(), filled)
    }

    /// Returns what the log knows about its segments.
    pub(super) fn books(&self) -> Books {
        Books {
            segments: self.segments.clone(),
            free: self.free.clone(),
            released: self.released.clone(),
            open: self.open.as_flattened().to_vec(),
            oldest: self.oldest,
            newest: self.newest,
            lengths: self.lengths,
            bytes_of_items: self.bytes_of_items,
            kept: self.kept,
        }
    }

    /// Makes an empty log the one that `books` were kept of, but for the bytes of its segments. Returns `false` if the
    /// books are not of a log of this size.
    pub(super) fn restore(&mut self, books: Books) -> bool {
        let fit = books.segments.len() * self.segment_bytes() <= self.part.len()
            && books.segments.iter().all(|segment| segment.filled as usize <= self.segment_bytes())
            && books.open.len() == self.open.as_flattened().len();
        if fit {
            self.open.as_flattened_mut().copy_from_slice(&books.open);
            let Books { segments, free, released, oldest, newest, lengths, bytes_of_items, kept, .. } = books;
            (self.segments, self.free, self.released) = (segments, free, released);
            (self.oldest, self.newest, self.lengths) = (oldest, newest, lengths);
            (self.bytes_of_items, self.kept) = (bytes_of_items, kept);
        }
        fit
    }

    /// Frees all segments.
    pub(super) fn clear(&mut self) {
        for queue in 0..2 {
            while self.oldest[queue] != NONE {
                self.finish(self.oldest[queue]);
            }
        }
        self.bytes_of_items = [0; 2];
        self.kept = 0;
    }
}
