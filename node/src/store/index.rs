//! The index of a shard: one packed slot of 8 bytes for each item, in buckets of one cache line.
//!
//! ```text
//! slot:  63 .. 40  tag, bits of the key's hash     39 .. 34  uses (the low 2 bits count up)     33 .. 0  location + 1
//! ```
//!
//! A shard has many small tables. A table's buckets are numbered by the tag as a fraction (`tag * buckets >> 24`), an
//! item that finds its bucket full goes to the next one. So any number of buckets works, load stays even at every size,
//! and a table grows by a page of buckets (or a sixteenth) at a time from the tags alone, without reading a key. A
//! classic linear hash leaves the buckets not yet split with twice the load of the others; this does not, and stays
//! between 86 % and 92 % full.
//!
//! Invariant: between an item's home bucket and the bucket it is in, all buckets are full. Removal keeps it by moving a
//! later item back.

use serde::{Deserialize, Serialize};

use super::memory::{PAGE, Part};

const SLOTS: usize = 8;
const PAGE_BUCKETS: usize = PAGE / 64;
const TAG_BITS: u32 = 24;
const LOCATION: u64 = (1 << USES_SHIFT) - 1;
const USES_SHIFT: u32 = 34;

/// The most bytes of a log: locations are smaller.
pub(super) const LOG_BYTES_MAX: usize = (1 << USES_SHIFT) - 1;

/// Buckets that one call of [`Index::scan`] shows.
const SCAN_BUCKETS: u64 = 16;

/// The most buckets of a table; address space is reserved for that many.
const MOST_BUCKETS: usize = 32 * 1024;

/// Returns the bytes of address space for an index of so many tables.
pub(super) fn reservation(tables: usize) -> usize {
    tables * MOST_BUCKETS * 64
}

/// The size of a table.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Table {
    buckets: u32,
    items: u32,
}

/// See the [module](self).
pub(super) struct Index {
    part: Part,
    tables: Box<[Table]>,
    pages: usize,
    /// The table that [`Index::shrink_one`] looks at next.
    shrink_at: usize,
}

/// The position of a slot. Valid until the index is changed.
pub(super) type Slot = usize;

#[inline]
fn tag(hash: u64) -> u64 {
    hash & ((1 << TAG_BITS) - 1)
}

#[inline]
fn home(tag: u64, buckets: usize) -> usize {
    ((tag * buckets as u64) >> TAG_BITS) as usize
}

impl Index {
    /// Creates an empty index in `part`, which has room for `tables` tables (a power of two).
    pub(super) fn new(part: Part, tables: usize) -> Index {
        assert!(tables.is_power_of_two() && part.len() >= reservation(tables));
        Index { part, tables: vec![Table::default(); tables].into(), pages: 0, shrink_at: 0 }
    }

    /// Returns the bytes of memory that the index holds.
    pub(super) fn bytes(&self) -> usize {
        self.pages * PAGE + self.tables.len() * size_of::<Table>()
    }

    #[inline]
    fn table(&self, hash: u64) -> usize {
        (hash >> TAG_BITS) as usize & (self.tables.len() - 1)
    }

    #[inline]
    fn base(table: usize) -> usize {
        table * MOST_BUCKETS * SLOTS
    }

    /// Returns the slot of this hash whose location `matches`.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut matches: impl FnMut(u64) -> bool) -> Option<Slot> {
        let table = self.table(hash);
        let buckets = self.tables[table].buckets as usize;
        if buckets == 0 {
            return None;
        }
        let tag = tag(hash);
        let mut bucket = home(tag, buckets);
        for _ in 0..buckets {
            let at = Self::base(table) + bucket * SLOTS;
            let words: &[u64; SLOTS] = self.part.words(at, SLOTS).try_into().expect("a bucket");
            // One pass without branches: which slots carry the tag?
            let mut same = 0u32;
            for (i, &word) in words.iter().enumerate() {
                same |= u32::from(word >> 40 == tag) << i;
            }
            while same != 0 {
                let i = same.trailing_zeros() as usize;
                same &= same - 1;
                if words[i] != 0 && matches((words[i] & LOCATION) - 1) {
                    return Some(at + i);
                }
            }
            if words.contains(&0) {
                return None;
            }
            bucket = if bucket + 1 == buckets { 0 } else { bucket + 1 };
        }
        None
    }

    /// Makes the processor fetch the first bucket of a look-up of this hash.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        let table = self.table(hash);
        let bucket = home(tag(hash), self.tables[table].buckets as usize);
        self.part.prefetch((Self::base(table) + bucket * SLOTS) * 8, 64);
    }

    /// Returns the location in a slot.
    #[inline]
    pub(super) fn location(&self, slot: Slot) -> u64 {
        (self.part.words(slot, 1)[0] & LOCATION) - 1
    }

    /// Returns the uses of a slot: 6 bits, of which the low 2 count up.
    #[inline]
    pub(super) fn uses(&self, slot: Slot) -> u8 {
        (self.part.words(slot, 1)[0] >> USES_SHIFT) as u8 & 63
    }

    /// Sets location and uses of a slot.
    #[inline]
    pub(super) fn set(&mut self, slot: Slot, location: u64, uses: u8) {
        debug_assert!(location < LOCATION && uses < 64);
        let word = &mut self.part.words_mut(slot, 1)[0];
        *word = *word >> 40 << 40 | u64::from(uses) << USES_SHIFT | (location + 1);
    }

    /// Counts a use, up to `most` in the low 2 bits.
    #[inline]
    pub(super) fn count_use(&mut self, slot: Slot, most: u8) {
        if self.uses(slot) & 3 < most {
            self.part.words_mut(slot, 1)[0] += 1 << USES_SHIFT;
        }
    }

    /// Returns the bytes by which the next [`Index::insert`] of this hash grows the index; `None` if its table is at
    /// its most.
    #[inline]
    pub(super) fn growth(&self, hash: u64) -> Option<usize> {
        let Table { buckets, items } = self.tables[self.table(hash)];
        if (items as usize + 1) * 100 <= buckets as usize * SLOTS * 92 {
            return Some(0);
        }
        let next = Self::larger(buckets as usize);
        (next <= MOST_BUCKETS).then_some((next - buckets as usize) * 64)
    }

    fn larger(buckets: usize) -> usize {
        (buckets + (buckets / 16).max(1)).next_multiple_of(PAGE_BUCKETS)
    }

    /// Adds a slot, and grows the table first if [`Index::growth`] says so (it must not be `None`).
    pub(super) fn insert(&mut self, hash: u64, location: u64, uses: u8) {
        debug_assert!(location < LOCATION && uses < 64);
        let table = self.table(hash);
        if self.growth(hash) != Some(0) {
            self.resize(table, Self::larger(self.tables[table].buckets as usize));
        }
        self.place(table, tag(hash) << 40 | u64::from(uses) << USES_SHIFT | (location + 1));
        self.tables[table].items += 1;
    }

    fn place(&mut self, table: usize, word: u64) {
        let buckets = self.tables[table].buckets as usize;
        let mut bucket = home(word >> 40, buckets);
        loop {
            let words = self.part.words_mut(Self::base(table) + bucket * SLOTS, SLOTS);
            if let Some(free) = words.iter_mut().find(|word| **word == 0) {
                *free = word;
                return;
            }
            bucket = (bucket + 1) % buckets;
        }
    }

    fn resize(&mut self, table: usize, buckets: usize) {
        let old = self.tables[table].buckets as usize;
        let base = Self::base(table);
        let words = self.part.words_mut(base, old * SLOTS);
        let kept: Vec<u64> = words.iter().copied().filter(|&word| word != 0).collect();
        words.fill(0);
        if buckets < old {
            self.part.release((base + buckets * SLOTS) * 8..(base + old * SLOTS) * 8);
        }
        self.pages = self.pages + buckets / PAGE_BUCKETS - old / PAGE_BUCKETS;
        self.tables[table].buckets = buckets as u32;
        for word in kept {
            self.place(table, word);
        }
    }

    /// Removes a slot.
    pub(super) fn remove(&mut self, slot: Slot) {
        let table = slot / (MOST_BUCKETS * SLOTS);
        let base = Self::base(table);
        let buckets = self.tables[table].buckets as usize;
        self.tables[table].items -= 1;
        let mut hole = slot;
        loop {
            let hole_bucket = (hole - base) / SLOTS;
            let words = self.part.words_mut(base + hole_bucket * SLOTS, SLOTS);
            let was_full = words.iter().all(|&word| word != 0);
            words[(hole - base) % SLOTS] = 0;
            if !was_full {
                return;
            }
            // A later slot may have passed over this bucket while it was full: one of them moves back.
            let Some(back) = self.passed_over(base, buckets, hole_bucket) else { return };
            let word = self.part.words(back, 1)[0];
            self.part.words_mut(hole, 1)[0] = word;
            hole = back;
        }
    }

    /// Returns a slot after `bucket` whose home is `bucket` or before it.
    fn passed_over(&self, base: usize, buckets: usize, bucket: usize) -> Option<Slot> {
        for distance in 1..buckets {
            let at = (bucket + distance) % buckets;
            let words = self.part.words(base + at * SLOTS, SLOTS);
            let passed = |&word: &u64| word != 0 && (at + buckets - home(word >> 40, buckets)) % buckets >= distance;
            if let Some(found) = words.iter().position(passed) {
                return Some(base + at * SLOTS + found);
            }
            if words.contains(&0) {
                return None;
            }
        }
        None
    }

    /// Gives back memory that the next table in turn no longer needs.
    pub(super) fn shrink_one(&mut self) {
        let table = self.shrink_at;
        self.shrink_at = (table + 1) & (self.tables.len() - 1);
        let Table { buckets, items } = self.tables[table];
        let wanted = (items as usize * 100 / (SLOTS * 80)).next_multiple_of(PAGE_BUCKETS).max(PAGE_BUCKETS);
        if wanted * 5 < buckets as usize * 4 {
            self.resize(table, wanted);
        }
    }

    /// Adds the slots of another index with as many tables. Their locations are lost. Where a table is at its most, the
    /// rest is left out.
    pub(super) fn absorb(&mut self, other: &Index) {
        for table in 0..other.tables.len() {
            let words = other.part.words(Self::base(table), other.tables[table].buckets as usize * SLOTS);
            for word in words.iter().filter(|&&word| word != 0) {
                let hash = (table as u64) << TAG_BITS | word >> 40;
                if self.growth(hash).is_some() {
                    self.insert(hash, 0, 0);
                }
            }
        }
    }

    /// Whether the index holds memory for slots.
    pub(super) fn has_memory(&self) -> bool {
        self.pages > 0
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        for table in 0..self.tables.len() {
            let start = Self::base(table) * 8;
            self.part.release(start..start + self.tables[table].buckets as usize * 64);
            self.tables[table] = Table::default();
        }
        self.pages = 0;
    }

    /// Returns the sizes of the tables.
    pub(super) fn sizes(&self) -> &[Table] {
        &self.tables
    }

    /// Makes the tables of an empty index as large as those of another, but for their slots. Returns `false` if that
    /// index has another number of tables, or larger ones than there may be.
    pub(super) fn restore(&mut self, sizes: &[Table]) -> bool {
        let possible = |table: &Table| {
            table.buckets as usize <= MOST_BUCKETS && (table.buckets as usize).is_multiple_of(PAGE_BUCKETS)
        };
        let fit = sizes.len() == self.tables.len() && sizes.iter().all(possible);
        if fit {
            self.tables.copy_from_slice(sizes);
            self.pages = sizes.iter().map(|table| table.buckets as usize / PAGE_BUCKETS).sum();
        }
        fit
    }

    /// Returns the bytes of a table's slots.
    pub(super) fn slots(&self, table: usize) -> &[u8] {
        self.part.bytes(Self::base(table) * 8, self.tables[table].buckets as usize * 64)
    }

    /// Returns the bytes of a table's slots, to write.
    pub(super) fn slots_mut(&mut self, table: usize) -> &mut [u8] {
        self.part.bytes_mut(Self::base(table) * 8, self.tables[table].buckets as usize * 64)
    }

    /// Returns the number of tables.
    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Calls `f` with the locations of a table's items whose tags are `from` or a little above: some hundred slots.
    /// Returns the tag to continue from, or `None` at the end. An item keeps its tag however the table grows between
    /// calls.
    pub(super) fn scan(&self, table: usize, from: u64, mut f: impl FnMut(u64)) -> Option<u64> {
        let buckets = self.tables[table].buckets as usize;
        let end = (from + (SCAN_BUCKETS << TAG_BITS) / (buckets as u64).max(SCAN_BUCKETS)).min(1 << TAG_BITS);
        let (first, last) = (home(from, buckets), home(end - 1, buckets));
        for bucket in first..first + buckets {
            let words = self.part.words(Self::base(table) + bucket % buckets * SLOTS, SLOTS);
            words
                .iter()
                .filter(|&&word| word != 0 && (from..end).contains(&(word >> 40)))
                .for_each(|&word| f((word & LOCATION) - 1));
            // Items of the last bucket may lie in the buckets after it, as far as these are full.
            if bucket >= last && words.contains(&0) {
                break;
            }
        }
        (end < 1 << TAG_BITS).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::memory::reserve;
    use super::*;

    fn index() -> Index {
        Index::new(reserve([reservation(1)]).unwrap().remove(0), 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 64 }, ..ProptestConfig::default() })]
        #[test]
        #[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
        fn the_index_holds_what_was_inserted_and_not_removed(
            steps in prop::collection::vec((0u64..1500, prop::bool::weighted(0.6)), 0..4000),
        ) {
            let mut index = index();
            let mut model = HashMap::new();
            for (n, insert) in steps {
                // Few tags, so that homes collide and removal has much to move back.
                let hash = ((n / 40) << 18) | (n % 40);
                let found = index.find(hash, |location| location == n);
                prop_assert_eq!(found.is_some(), model.contains_key(&n));
                match found {
                    None if insert => {
                        index.insert(hash, n, 0);
                        model.insert(n, hash);
                    }
                    Some(slot) if !insert => {
                        index.remove(slot);
                        model.remove(&n);
                    }
                    _ => {}
                }
                if n == 7 {
                    index.shrink_one();
                }
            }
            for (&n, &hash) in &model {
                prop_assert!(index.find(hash, |location| location == n).is_some());
            }
            let mut shown = Vec::new();
            let mut from = Some(0);
            while let Some(tag) = from {
                from = index.scan(0, tag, |location| shown.push(location));
            }
            shown.sort();
            let mut expected: Vec<u64> = model.into_keys().collect();
            expected.sort();
            prop_assert_eq!(shown, expected);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
    fn a_slot_takes_less_than_nine_and_a_half_bytes_once_a_table_is_large() {
        let mut index = index();
        for n in 0..20_000u64 {
            index.insert(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20, n, 0);
            if n > 10_000 {
                assert!((index.bytes() as u64) * 10 < n * 95);
            }
        }
    }
}
