//! An estimate of the hits that the store would have with another amount of memory.
//!
//! Miniature caches run beside the store: with half, once, twice and four times its memory, on a sample of the keys, by
//! the store's own eviction policy. A key is in the sample by its hash (SHARDS: Waldspurger et al., FAST 2015;
//! miniature simulation: Waldspurger et al., USENIX ATC 2017), so all of its requests are seen or none, and a miniature
//! has the sampled share of the memory. A miniature knows hashes and sizes and holds no values.
//!
//! What counts is the difference between a miniature and the one with as much memory as the store: keys that hit in
//! both cancel, and so do most errors of sampling and of the model.
//!
//! Under policies with several tunings ([`Eviction::tunings`]), once the store is full, there are several miniatures
//! with as much memory as the store, one for each tuning. The store takes over the tuning of the one with the most
//! hits lately.
//!
//! A shard records its sampled requests, and [`Estimator`] is brought up to date from these records by background work.
//! A request whose key is not in the sample costs one comparison.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rapidhash::RapidHashMap;

use super::density::{Density, Tuning, Uses};
use super::eviction::{Eviction, Lane, Verdict};
use super::ghosts::Ghosts;
use super::statistics::Statistics;
use super::time::{Expiry, Time};
use super::write::RESERVE;

/// The shares of the store's memory that hits are estimated for.
pub(super) const FACTORS: [f64; 3] = [0.5, 2.0, 4.0];

/// The most items in all miniatures: then an eighth of the keys leave the sample. An item takes about 60 bytes.
const MOST_ITEMS: usize = 32 * 1024;

/// The fewest items in all miniatures for which keys leave the sample because they are asked for often.
const LEAST_ITEMS: usize = 8 * 1024;

/// The most requests that all shards record between two updates. Further ones are only counted.
const MOST_EVENTS: usize = 8 * 1024;

/// Requests between two updates above which keys leave the sample. The node makes ten updates in a second: so it spends
/// some milliseconds in each.
const WANTED_EVENTS: u64 = 2 * 1024;

/// Bytes that an item has beside the log: its slot in the index, and its part of the ghosts.
const SLOT: u32 = 9;

/// Reads, for each item of a miniature, after which earlier hits count half in the choice of a tuning.
const MEMORY: usize = 8;

/// The fewest reads, for each item of a miniature, that a difference between tunings is compared with: the first few
/// hits more are chance.
const LEAST_READS: f64 = 2.0;

/// The share of the reads that must hit more with another tuning for the store to take it over; and as much again if
/// the other one is not the first, which copies the least.
const MARGIN: f64 = 0.001;

/// Items looked at between two updates of what a miniature has learned about densities.
const LOOKS: u32 = 64;

/// What happened to a sampled key.
#[derive(Clone, Copy)]
struct Event {
    hash: u64,
    /// Bytes of the item; 0 if there is none.
    bytes: u32,
    expiry: Expiry,
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Read,
    Write,
    Remove,
}

/// The sampled requests of a shard since they were last taken.
pub(super) struct Sample {
    /// Keys are in the sample whose hash, its low half, is below this.
    below: u32,
    events: Vec<Event>,
    most: usize,
    /// Reads that found no place in the record.
    lost: u64,
    cleared: bool,
}

impl Sample {
    pub(super) fn new(eviction: Eviction, shards: usize) -> Sample {
        let below = if eviction.evicts() { u32::MAX } else { 0 };
        Sample { below, events: Vec::new(), most: MOST_EVENTS / shards, lost: 0, cleared: false }
    }

    /// Returns whether a key is in the sample.
    #[inline]
    pub(super) fn has(&self, hash: u64) -> bool {
        (hash as u32) < self.below
    }

    /// Records a read, with the item's bytes and expiry if there was one.
    #[cold]
    pub(super) fn read(&mut self, hash: u64, item: Option<(usize, Expiry)>) {
        let (bytes, expiry) = item.unwrap_or((0, Expiry::NEVER));
        self.add(hash, bytes, expiry, Action::Read);
    }

    /// Records that an item has these bytes and this expiry now.
    #[cold]
    pub(super) fn write(&mut self, hash: u64, bytes: usize, expiry: Expiry) {
        self.add(hash, bytes, expiry, Action::Write);
    }

    /// Records that an item was removed.
    #[cold]
    pub(super) fn remove(&mut self, hash: u64) {
        self.add(hash, 0, Expiry::NEVER, Action::Remove);
    }

    fn add(&mut self, hash: u64, bytes: usize, expiry: Expiry, action: Action) {
        if self.events.len() < self.most {
            self.events.push(Event { hash, bytes: bytes as u32, expiry, action });
        } else {
            self.lost += u64::from(action == Action::Read);
        }
    }

    /// Records that all items were removed.
    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.cleared = true;
    }
}

/// The miniatures of a store.
pub(super) struct Estimator {
    eviction: Eviction,
    below: u32,
    /// One for each of [`FACTORS`], and one as large as the store. They have the store's tuning.
    others: [Miniature; FACTORS.len()],
    same: Miniature,
    /// As large as the store, and one with each of the tunings: none while nothing is evicted, for then all are alike.
    alike: Vec<Miniature>,
    /// The tuning that the store has now, and the hits of each of `alike` lately among so many reads.
    chosen: usize,
    lately: Vec<f64>,
    reads: f64,
    /// Hits more than the store's, for each of [`FACTORS`].
    gained: [f64; FACTORS.len()],
    /// The share of its limit, less the reserve, that the store has filled with items when it was full.
    filled: f64,
    events: Vec<Event>,
    lost: u64,
    cleared: bool,
}

impl Estimator {
    pub(super) fn new(eviction: Eviction) -> Estimator {
        Estimator {
            eviction,
            below: u32::MAX,
            others: std::array::from_fn(|_| Miniature::new(eviction)),
            same: Miniature::new(eviction),
            alike: Vec::new(),
            chosen: 0,
            lately: vec![0.0; eviction.tunings().len()],
            reads: 0.0,
            gained: [0.0; FACTORS.len()],
            filled: 1.0,
            events: Vec::new(),
            lost: 0,
            cleared: false,
        }
    }

    /// Returns how many hits more than the store there would have been with each of [`FACTORS`] of its memory.
    pub(super) fn gained(&self) -> [f64; FACTORS.len()] {
        self.gained
    }

    /// Returns the tuning for the store.
    pub(super) fn tuning(&self) -> Tuning {
        self.eviction.tunings()[self.chosen]
    }

    pub(super) fn reset(&mut self) {
        self.gained = [0.0; FACTORS.len()];
    }

    /// Takes the record of a shard, and brings its sample up to date.
    pub(super) fn take(&mut self, sample: &mut Sample) {
        if !self.eviction.evicts() {
            return;
        }
        sample.below = self.below;
        self.events.append(&mut sample.events);
        self.lost += std::mem::take(&mut sample.lost);
        self.cleared |= std::mem::take(&mut sample.cleared);
    }

    /// Runs what was taken on the miniatures. `statistics` are those of the store; `layout` returns the number of shards
    /// and the bytes of a segment of a store with so much memory.
    pub(super) fn update(
        &mut self,
        statistics: &Statistics,
        limit: usize,
        layout: impl Fn(usize) -> (usize, usize),
        now: Time,
    ) {
        if std::mem::take(&mut self.cleared) {
            let empty = Estimator::new(self.eviction);
            (self.others, self.same, self.alike) = (empty.others, empty.same, empty.alike);
        }
        let tunings = self.eviction.tunings();
        if statistics.evictions > 0 && self.alike.is_empty() && tunings.len() > 1 {
            self.alike = vec![self.same.clone(); tunings.len()];
            self.alike.iter_mut().zip(tunings).for_each(|(miniature, &tuning)| miniature.density.tuning = tuning);
        }
        let below = self.below;
        let share = f64::from(below) / f64::from(u32::MAX);
        // Segments in reserve, and the open ends of others, hold no items.
        let room = |limit: usize| {
            let (shards, segment_bytes) = layout(limit);
            limit as f64 - (shards * segment_bytes * (RESERVE + 1)) as f64
        };
        if statistics.evictions > 0 && statistics.memory_used as f64 > 0.9 * limit as f64 {
            self.filled = (statistics.bytes + statistics.items * u64::from(SLOT)) as f64 / room(limit);
        }
        let events = || self.events.iter().filter(|event| (event.hash as u32) < below);
        let filled = self.filled;
        let run = |miniature: &mut Miniature, factor: f64| {
            let limit = (limit as f64 * factor) as usize;
            miniature.limit = (room(limit) * filled * share) as u64;
            miniature.sampled = (share * layout(limit).0 as f64) as f32;
            let hits = events().filter(|event| miniature.apply(event, now)).count() as f64;
            miniature.expire(now);
            hits
        };
        let reads = events().filter(|event| event.action == Action::Read).count() as f64;
        let alike: Vec<f64> = self.alike.iter_mut().map(|miniature| run(miniature, 1.0)).collect();
        let tuning = tunings[self.chosen];
        self.same.density.tuning = tuning;
        let same = run(&mut self.same, 1.0);
        let weight = (1.0 + self.lost as f64 / reads.max(1.0)) / share;
        for ((miniature, factor), gained) in self.others.iter_mut().zip(FACTORS).zip(&mut self.gained) {
            miniature.density.tuning = tuning;
            *gained += (run(miniature, factor) - same) * weight;
        }
        self.choose(reads, &alike);
        let requests = self.events.len() as u64 + self.lost;
        if requests > WANTED_EVENTS {
            let fewest = LEAST_ITEMS as f64 / self.items() as f64;
            self.thin((WANTED_EVENTS as f64 / requests as f64).max(fewest));
        }
        self.events.clear();
        self.lost = 0;
        while self.items() > MOST_ITEMS {
            self.thin(0.875);
        }
    }

    /// Returns the items in all miniatures.
    fn items(&self) -> usize {
        self.others.iter().chain([&self.same]).chain(&self.alike).map(|miniature| miniature.items.len()).sum()
    }

    /// Chooses the tuning for the store after so many reads, of which each of `alike` has hit so many.
    fn choose(&mut self, reads: f64, hits: &[f64]) {
        if hits.is_empty() {
            return;
        }
        let items = self.alike[self.chosen].items.len();
        if self.reads > (MEMORY * items) as f64 {
            self.lately.iter_mut().chain([&mut self.reads]).for_each(|count| *count /= 2.0);
        }
        self.reads += reads;
        self.lately.iter_mut().zip(hits).for_each(|(lately, hits)| *lately += hits);
        let margin = MARGIN * self.reads.max(LEAST_READS * items as f64);
        let worth = |tuning: usize| self.lately[tuning] - if tuning == 0 { 0.0 } else { margin };
        // Of equals the one that copies less.
        let best = (0..hits.len()).rev().max_by(|&a, &b| worth(a).total_cmp(&worth(b))).unwrap_or(0);
        if worth(best) - worth(self.chosen) > margin {
            self.chosen = best;
        }
    }

    /// Keeps this share of the sample, if it is less than all.
    fn thin(&mut self, share: f64) {
        if share >= 1.0 {
            return;
        }
        self.below = (f64::from(self.below) * share) as u32;
        let below = self.below;
        let miniatures = self.others.iter_mut().chain([&mut self.same]).chain(&mut self.alike);
        miniatures.for_each(|miniature| miniature.keep_below(below));
    }
}

/// An item of a miniature.
#[derive(Clone, Copy)]
struct Entry {
    bytes: u32,
    expiry: Expiry,
    /// The number of the item's place in a queue. Places with other numbers are skipped.
    number: u32,
    uses: Uses,
    lane: Lane,
    /// Whether the item has an entry among the expiries.
    timed: bool,
    /// Whether the last read hit here and missed in the store, and no write has followed.
    owed: bool,
}

/// An item's place in a queue.
#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    number: u32,
    since: Time,
}

/// A cache of hashes and sizes.
#[derive(Clone)]
struct Miniature {
    eviction: Eviction,
    limit: u64,
    /// Its items for each one of a shard.
    sampled: f32,
    items: RapidHashMap<u64, Entry>,
    queues: [VecDeque<Place>; 2],
    /// Bytes of the items in each queue.
    bytes: [u64; 2],
    /// Expiries of items, the next first.
    ends: BinaryHeap<Reverse<(u32, u64)>>,
    number: u32,
    density: Density,
    ghosts: Ghosts,
    looks: u32,
}

/// Sampled hashes are alike in their low bits; a table of ghosts needs all bits.
fn spread(hash: u64) -> u64 {
    let product = u128::from(hash) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

impl Miniature {
    fn new(eviction: Eviction) -> Miniature {
        Miniature {
            eviction,
            limit: 0,
            sampled: 1.0,
            items: RapidHashMap::default(),
            queues: Default::default(),
            bytes: [0; 2],
            ends: BinaryHeap::new(),
            number: 0,
            density: Density::new(),
            ghosts: Ghosts::default(),
            looks: 0,
        }
    }

    /// Carries out a request. Returns whether it is a read that hits.
    fn apply(&mut self, event: &Event, now: Time) -> bool {
        let &Event { hash, bytes, expiry, action } = event;
        let found = self.items.get_mut(&hash).filter(|item| !item.expiry.has_passed(now));
        match (action, found) {
            (Action::Remove, _) => _ = self.take(hash),
            (Action::Read, Some(item)) => {
                item.owed = bytes == 0;
                if item.uses.recent() < self.eviction.most_uses() {
                    item.uses = Uses(item.uses.0 + 1);
                }
                return true;
            }
            // The store's clients would have loaded it here too.
            (Action::Read, None) if bytes > 0 => self.insert(hash, bytes, expiry, now),
            (Action::Read, None) => {}
            // A client loads what the store did not have. With this memory nothing would have been loaded.
            (Action::Write, Some(item)) if item.owed => item.owed = false,
            (Action::Write, Some(item)) if item.bytes == bytes => {
                item.expiry = expiry;
                if self.eviction != Eviction::Density && item.uses.recent() == 0 {
                    item.uses = Uses(item.uses.0 + 1);
                }
            }
            (Action::Write, _) => self.insert(hash, bytes, expiry, now),
        }
        false
    }

    /// Adds an item, or replaces it by one of other bytes.
    fn insert(&mut self, hash: u64, bytes: u32, expiry: Expiry, now: Time) {
        let (lane, uses) = match self.take(hash).filter(|old| !old.expiry.has_passed(now)) {
            Some(old) => (Lane::New, self.eviction.rewritten(old.uses)),
            None => {
                let ghost = self.ghosts.take(spread(hash));
                ghost.inspect(|&level| self.density.observe_return(level));
                self.eviction.admit(ghost)
            }
        };
        if u64::from(bytes) * 2 > self.limit {
            return;
        }
        self.place(hash, Entry { bytes, expiry, number: 0, uses, lane, timed: false, owed: false }, now);
        while self.bytes.iter().sum::<u64>() > self.limit && self.look(now) {}
    }

    /// Puts an item at the end of its lane's queue.
    fn place(&mut self, hash: u64, item: Entry, now: Time) {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let timed = item.timed || item.expiry.time().is_some();
        if let (false, Some(end)) = (item.timed, item.expiry.time()) {
            self.ends.push(Reverse((end.0, hash)));
        }
        let queue = queue(item.lane, self.eviction);
        self.bytes[queue] += u64::from(item.bytes + SLOT);
        self.queues[queue].push_back(Place { hash, number, since: now });
        self.items.insert(hash, Entry { number, timed, ..item });
        // Places and expiries of items that were removed since.
        let items = &self.items;
        if self.queues[queue].len() > 2 * items.len() + 64 {
            self.queues[queue].retain(|place| items.get(&place.hash).is_some_and(|item| item.number == place.number));
        }
        if self.ends.len() > 2 * items.len() + 64 {
            let end = |(&hash, item): (&u64, &Entry)| item.expiry.time().map(|end| Reverse((end.0, hash)));
            self.ends = items.iter().filter(|(_, item)| item.timed).filter_map(end).collect();
        }
    }

    /// Removes an item and returns it.
    fn take(&mut self, hash: u64) -> Option<Entry> {
        let item = self.items.remove(&hash)?;
        self.bytes[queue(item.lane, self.eviction)] -= u64::from(item.bytes + SLOT);
        Some(item)
    }

    fn victim_queue(&self) -> usize {
        self.eviction.victim_queue(self.bytes, self.density.tuning.probation)
    }

    /// Looks at the next item in turn: it leaves or stays. Returns `false` if there is none.
    fn look(&mut self, now: Time) -> bool {
        if self.looks == 0 {
            self.looks = LOOKS;
            self.density.learn(self.items.len() as u64, self.limit as usize, self.sampled);
            self.ghosts.make_room(self.eviction.ghosts(self.items.len()));
        }
        self.looks -= 1;
        let mut queue = if self.eviction.keeps_place() { 0 } else { self.victim_queue() };
        if self.queues[queue].is_empty() {
            if self.eviction.keeps_place() {
                // The hand is at the newest item: it goes on with the oldest.
                self.queues.swap(0, 1);
            } else {
                queue = 1 - queue;
            }
        }
        let Some(Place { hash, number, since }) = self.queues[queue].pop_front() else { return false };
        let Some(&item) = self.items.get(&hash).filter(|item| item.number == number) else { return true };
        self.take(hash);
        if item.expiry.has_passed(now) {
            return true;
        }
        let Entry { bytes, uses, lane, expiry, .. } = item;
        if lane == Lane::Kept {
            self.density.observe(uses, now.0.saturating_sub(since.0));
        }
        let density = &mut self.density;
        let promotion = density.tuning.promotion;
        let dense = || density.stays(uses, bytes as usize, expiry.remaining(now));
        match self.eviction.verdict(lane, uses, promotion, dense) {
            Verdict::Stay(lane, uses) => self.place(hash, Entry { lane, uses, ..item }, now),
            Verdict::Leave if self.eviction.remembers_from(lane) => {
                self.density.observe_eviction(uses.next_level());
                self.ghosts.add(spread(hash), uses.next_level());
            }
            Verdict::Leave => {}
        }
        true
    }

    /// Removes items that have expired, as the store does in the background.
    fn expire(&mut self, now: Time) {
        while let Some(&Reverse((end, hash))) = self.ends.peek().filter(|end| end.0.0 <= now.0) {
            self.ends.pop();
            let Some(item) = self.items.get_mut(&hash) else { continue };
            match item.expiry.time() {
                Some(later) if later > now => self.ends.push(Reverse((later.0.max(end), hash))),
                Some(_) => _ = self.take(hash),
                None => item.timed = false,
            }
        }
    }

    /// Removes items whose keys have left the sample.
    fn keep_below(&mut self, below: u32) {
        let gone: Vec<u64> = self.items.keys().copied().filter(|&hash| hash as u32 >= below).collect();
        for hash in gone {
            self.take(hash);
        }
    }
}

/// Returns the queue of a lane. SIEVE has one queue in the store; here it has one before the hand and one behind it.
fn queue(lane: Lane, eviction: Eviction) -> usize {
    if eviction.keeps_place() { lane as usize } else { eviction.queue(lane) }
}

#[cfg(test)]
mod tests {
    use super::super::density::TUNINGS;
    use super::*;

    fn update(estimator: &mut Estimator, sample: &mut Sample, limit: usize) {
        estimator.take(sample);
        estimator.update(&Statistics::default(), limit, |_| (1, 8192), Time(1));
    }

    #[test]
    fn the_miniatures_of_a_large_store_stay_small() {
        let (mut estimator, mut sample) = (Estimator::new(Eviction::Density), Sample::new(Eviction::Density, 1));
        for key in 0..400_000u64 {
            let hash = spread(key + 1);
            if sample.has(hash) {
                sample.read(hash, None);
                sample.write(hash, 200, Expiry::at(Time(1000 + key as u32)));
            }
            if key % 2000 == 0 {
                update(&mut estimator, &mut sample, 64 << 20);
            }
        }
        let bytes = |miniature: &Miniature| {
            miniature.items.capacity() * 8 / 7 * (size_of::<(u64, Entry)>() + 1)
                + miniature.queues.iter().map(|queue| queue.capacity() * size_of::<Place>()).sum::<usize>()
                + miniature.ends.capacity() * size_of::<Reverse<(u32, u64)>>()
                + miniature.ghosts.bytes()
        };
        let items: usize = estimator.items();
        assert!((MOST_ITEMS / 2..=MOST_ITEMS).contains(&items), "{items} items");
        let bytes: usize = estimator.others.iter().chain([&estimator.same]).chain(&estimator.alike).map(bytes).sum();
        assert!(bytes < 4_500_000, "{bytes} bytes");
    }

    #[test]
    fn keys_leave_the_sample_where_many_requests_come_but_not_those_of_a_small_store() {
        let share = |keys: u64| {
            let (mut estimator, mut sample) = (Estimator::new(Eviction::Density), Sample::new(Eviction::Density, 1));
            for round in 0..200 {
                for hash in (0..40_000).map(|n| spread(1 + (n + round) % keys)) {
                    if sample.has(hash) {
                        sample.read(hash, Some((100, Expiry::NEVER)));
                    }
                }
                update(&mut estimator, &mut sample, 64 << 20);
            }
            f64::from(estimator.below) / f64::from(u32::MAX)
        };
        assert_eq!(share(2000), 1.0);
        let many = share(20_000);
        assert!((0.05..0.15).contains(&many), "{many}");
    }

    #[test]
    fn a_store_whose_keys_are_popular_only_for_a_while_gives_new_ones_more_time() {
        let tuning = |key_of: &dyn Fn(u64) -> u64| {
            let (mut estimator, mut sample) = (Estimator::new(Eviction::Density), Sample::new(Eviction::Density, 1));
            let full = Statistics { evictions: 1, ..Statistics::default() };
            for n in 0..60_000u64 {
                let hash = spread(key_of(n) + 1);
                sample.read(hash, None);
                sample.write(hash, 200, Expiry::NEVER);
                if n % 200 == 0 {
                    estimator.take(&mut sample);
                    estimator.update(&full, 400_000, |_| (1, 8192), Time(1));
                }
            }
            estimator.tuning()
        };
        // Each key is read some ten times among 15,000 requests, then never again.
        assert!(tuning(&|n| n / 10 + spread(n) % 1500).probation > 10);
        // Half of the requests are for a thousand keys, the others read each key once.
        let lasting = tuning(&|n| if n % 2 == 0 { spread(n) % 1000 } else { 10_000 + n });
        assert_eq!(lasting, TUNINGS[0]);
    }

    #[test]
    fn another_tuning_is_taken_over_only_for_more_hits_than_chance_brings() {
        let mut estimator = Estimator::new(Eviction::Density);
        let mut miniature = Miniature { limit: 1 << 20, ..Miniature::new(Eviction::Density) };
        for hash in 0..1000 {
            miniature.insert(hash, 100, Expiry::NEVER, Time(1));
        }
        estimator.alike = vec![miniature; TUNINGS.len()];
        // Of the first few reads, and of 2000, four hits more are no more than chance.
        for (reads, hits, chosen) in [
            (4.0, [0.0, 0.0, 4.0, 0.0], 0),
            (1996.0, [1000.0; 4], 0),
            (0.0, [0.0, 0.0, 1.0, 1.0], 2),
            (0.0, [0.0, 0.0, 0.0, 5.0], 2),
            (0.0, [4.0, 0.0, 0.0, 0.0], 2),
            (0.0, [2.0, 0.0, 0.0, 0.0], 0),
        ] {
            estimator.choose(reads, &hits);
            assert_eq!(estimator.chosen, chosen, "{hits:?}");
        }
    }

    #[test]
    fn what_is_loaded_for_a_miss_changes_nothing_where_it_was_a_hit() {
        let mut miniature = Miniature { limit: 1 << 20, ..Miniature::new(Eviction::Density) };
        let mut apply = |action, bytes| {
            let event = Event { hash: 7, bytes, expiry: Expiry::NEVER, action };
            (miniature.apply(&event, Time(1)), miniature.items.get(&7).map_or(0, |item| item.bytes))
        };
        assert_eq!(apply(Action::Read, 0), (false, 0));
        assert_eq!(apply(Action::Write, 100), (false, 100));
        assert_eq!(apply(Action::Read, 0), (true, 100));
        assert_eq!(apply(Action::Write, 200), (false, 100), "loaded after a miss of the store");
        assert_eq!(apply(Action::Write, 300), (false, 300), "a change");
        assert_eq!(apply(Action::Remove, 0), (false, 0));
    }
}
