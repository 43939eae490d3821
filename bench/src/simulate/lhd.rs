//! LHD by the published rules, as a yardstick.
//!
//! Beckmann, Chen, Cidon, "LHD: improving cache hit rate by maximizing hit density", NSDI 2018. An item's hit density
//! is the hits that items of its class and age still get, for the time until their hit or eviction, for its bytes. Of a
//! random sample of items the one with the least leaves. Time is counted in requests; classes are by the time between
//! the last uses, as in the paper's section 4.
//!
//! The authors learn again from each 2^20 requests. The traces here are shorter: hence from 2^15.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::cache::{Cache, expiry, item_bytes};

/// Ages that are told apart; older items are all alike.
const AGES: usize = 20_000;
const CLASSES: usize = 16;
/// Items in a sample, and the items written last, which are in each sample.
const SAMPLE: usize = 32;
const NEWEST: usize = 8;
/// Requests until the densities are computed again.
const REQUESTS: u32 = 1 << 15;
/// What earlier observations count each time.
const FADE: f64 = 0.9;
/// Ages to which the likely age of an item at its eviction extends: the others are for the few that live longer.
const USUAL_AGES: f64 = 0.01 * AGES as f64;
/// One of so many items is kept as if it were dense, so that the ages beyond eviction are learned too.
const EXPLORE: u32 = 32;

/// What happened to the items of one class by age, and the density that follows.
#[derive(Clone)]
struct Class {
    hits: Vec<f64>,
    evictions: Vec<f64>,
    density: Vec<f64>,
}

#[derive(Clone, Copy, Default)]
struct Item {
    /// Bytes of the item; 0 if it is absent.
    bytes: u64,
    /// Its place in the list of items.
    place: u32,
    used: u32,
    /// The ages at its last two uses, in requests.
    ages: [u32; 2],
    explorer: bool,
    expires: u32,
}

/// LHD by bytes. An expired item stays until it is read or leaves.
pub(super) struct Lhd<'a> {
    keys: &'a [Box<[u8]>],
    items: Vec<Item>,
    present: Vec<u32>,
    newest: [u32; NEWEST],
    writes: usize,
    classes: Vec<Class>,
    /// The binary logarithm of the requests in one step of age.
    step: u32,
    clock: u32,
    /// Bytes that may still be explorers.
    explorers: i64,
    bytes: u64,
    limit: u64,
    random: SmallRng,
}

impl<'a> Lhd<'a> {
    pub(super) fn new(limit: u64, keys: &'a [Box<[u8]>]) -> Self {
        // Until something is learned: more for those used at short distances, less with age.
        let density = |class: usize| (0..AGES).map(|age| (class + 1) as f64 / (age + 1) as f64).collect();
        let class = |class| Class { hits: vec![0.0; AGES], evictions: vec![0.0; AGES], density: density(class) };
        Lhd {
            keys,
            items: vec![Item::default(); keys.len()],
            present: Vec::new(),
            newest: [0; NEWEST],
            writes: 0,
            classes: (0..CLASSES).map(class).collect(),
            step: 0,
            clock: 0,
            explorers: (limit / 100) as i64,
            bytes: 0,
            limit,
            random: SmallRng::seed_from_u64(1),
        }
    }

    fn age(&self, item: &Item) -> usize {
        (((self.clock - item.used) >> self.step) as usize).min(AGES - 1)
    }

    /// Returns the class: higher where the last two uses were closer together, in octaves.
    fn class(&self, item: &Item) -> usize {
        let ages = (u64::from(item.ages[0]) + u64::from(item.ages[1])) >> self.step;
        match ages {
            0 => CLASSES - 1,
            ages => ((AGES as u64 / ages).max(1).ilog2() as usize).min(CLASSES - 1),
        }
    }

    fn density(&self, key: u32) -> f64 {
        let item = &self.items[key as usize];
        let age = self.age(item);
        if age == AGES - 1 {
            return f64::MIN;
        }
        self.classes[self.class(item)].density[age] / item.bytes as f64 + if item.explorer { 1.0 } else { 0.0 }
    }

    fn remove(&mut self, key: u32) {
        let item = std::mem::take(&mut self.items[key as usize]);
        if item.bytes > 0 {
            self.bytes -= item.bytes;
            self.present.swap_remove(item.place as usize);
            if let Some(&moved) = self.present.get(item.place as usize) {
                self.items[moved as usize].place = item.place;
            }
            self.explorers += if item.explorer { item.bytes as i64 } else { 0 };
        }
    }

    /// Removes the least dense item of a sample.
    fn evict(&mut self) {
        let random = (0..SAMPLE).map(|_| self.present[self.random.random_range(0..self.present.len())]);
        let mut sample: Vec<u32> = random.collect();
        sample.extend(self.newest.iter().filter(|&&key| self.items[key as usize].bytes > 0));
        let least = sample.into_iter().min_by(|&a, &b| self.density(a).total_cmp(&self.density(b)));
        let least = least.expect("items take the bytes");
        let (class, age) = (self.class(&self.items[least as usize]), self.age(&self.items[least as usize]));
        self.classes[class].evictions[age] += 1.0;
        self.remove(least);
    }

    /// Counts a request. From time to time the densities are computed again.
    fn tick(&mut self) {
        self.clock += 1;
        if !self.clock.is_multiple_of(REQUESTS) {
            return;
        }
        // So many requests pass until an item is evicted, if each brought one.
        let wanted = (self.present.len() as f64 / USUAL_AGES).max(1.0).log2().ceil() as u32;
        while self.step < wanted {
            self.step += 1;
            for class in &mut self.classes {
                for events in [&mut class.hits, &mut class.evictions] {
                    let halved = (0..AGES / 2).map(|age| events[2 * age] + events[2 * age + 1]).collect::<Vec<_>>();
                    events.fill(0.0);
                    events[..AGES / 2].copy_from_slice(&halved);
                }
            }
        }
        for Class { hits, evictions, density } in &mut self.classes {
            // From the end: hits and events of items that reach this age, and the time that they have from there.
            let (mut hits_left, mut events_left, mut time_left) = (0.0, 0.0, 0.0);
            for age in (0..AGES).rev() {
                hits[age] *= FADE;
                evictions[age] *= FADE;
                hits_left += hits[age];
                events_left += hits[age] + evictions[age];
                time_left += events_left;
                density[age] = if events_left > 1e-5 { hits_left / time_left } else { 0.0 };
            }
        }
    }
}

impl Cache for Lhd<'_> {
    fn read(&mut self, key: u32, now: u32) -> bool {
        self.tick();
        let item = self.items[key as usize];
        let hit = item.bytes > 0 && item.expires > now;
        if hit {
            let (class, age) = (self.class(&item), self.age(&item));
            self.classes[class].hits[age] += 1.0;
            // An explorer has done its part.
            self.explorers += if item.explorer { item.bytes as i64 } else { 0 };
            let ages = [self.clock - item.used, item.ages[0]];
            self.items[key as usize] = Item { used: self.clock, ages, explorer: false, ..item };
        } else {
            self.remove(key);
        }
        hit
    }

    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32) {
        self.remove(key);
        let bytes = item_bytes(&self.keys[key as usize], value_size);
        if bytes > self.limit {
            return;
        }
        while self.bytes + bytes > self.limit {
            self.evict();
        }
        let explorer = self.explorers > 0 && self.random.random_range(0..EXPLORE) == 0;
        self.explorers -= if explorer { bytes as i64 } else { 0 };
        let expires = expiry(ttl, now);
        let place = self.present.len() as u32;
        let (used, ages) = (self.clock, [0, u32::MAX]);
        self.items[key as usize] = Item { bytes, place, used, ages, explorer, expires };
        self.present.push(key);
        self.bytes += bytes;
        self.newest[self.writes % NEWEST] = key;
        self.writes += 1;
    }

    fn delete(&mut self, key: u32, _: u32) {
        self.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_items_in_use_outlive_large_ones_read_once() {
        let keys: Vec<Box<[u8]>> = (0..20_000u32).map(|n| n.to_string().into_bytes().into()).collect();
        let mut cache = Lhd::new(20_000, &keys);
        let mut hits = 0;
        for round in 0..10_000 {
            let small = round % 100;
            match cache.read(small, 1) {
                true => hits += 1,
                false => cache.write(small, 50, 0, 1),
            }
            assert!(!cache.read(10_000 + round, 1));
            cache.write(10_000 + round, 1000, 0, 1);
            assert!(cache.bytes <= 20_000);
        }
        assert!(hits > 9000, "{hits} of 10000");
    }
}
