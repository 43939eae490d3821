//! Which share of a node's commands its hottest key has: a node more does not help that one.

use std::cell::Cell;

use crate::store::Hash;

/// Of the commands that are measured, one in so many is looked at: of all, one in 64.
const EVERY: u32 = 4;

/// Keys that are counted at a time.
const COUNTERS: usize = 64;

/// What is left of a count after a second: so what was long ago does not count.
const KEPT: f32 = 0.9;

/// A share is said once so many commands were looked at.
const LEAST: f32 = 100.0;

/// Counters of the keys that come most, by the Space-Saving algorithm (Metwally et al., 2005): a new key takes over the
/// lowest counter, and counts from there. So a count may be too high by 1/64 of all.
#[derive(Debug, Default)]
pub(crate) struct HotKeys {
    counts: Vec<(Hash, f32)>,
    all: f32,
}

impl HotKeys {
    pub(crate) fn count(&mut self, key: Hash) {
        self.all += 1.0;
        if let Some((_, count)) = self.counts.iter_mut().find(|(hash, _)| *hash == key) {
            *count += 1.0;
        } else if self.counts.len() < COUNTERS {
            self.counts.push((key, 1.0));
        } else if let Some(lowest) = self.counts.iter_mut().min_by(|(_, one), (_, other)| one.total_cmp(other)) {
            *lowest = (key, lowest.1 + 1.0);
        }
    }

    /// The share of the key that came most, 0 to 1, over the last seconds. It is asked for once a second.
    pub(crate) fn share(&mut self) -> f32 {
        let most = self.counts.iter().map(|(_, count)| *count).fold(0.0, f32::max);
        let share = if self.all < LEAST { 0.0 } else { most / self.all };
        self.all *= KEPT;
        self.counts.iter_mut().for_each(|(_, count)| *count *= KEPT);
        share
    }
}

thread_local! {
    /// Measured commands of this thread until the next one that is looked at.
    static UNTIL: Cell<u32> = const { Cell::new(EVERY) };
}

/// Whether the key of this measured command is one to count.
pub(crate) fn is_due() -> bool {
    let until = UNTIL.get() - 1;
    UNTIL.set(if until == 0 { EVERY } else { until });
    until == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Eviction, Store, Time};

    #[test]
    fn the_share_of_the_hottest_key_is_found_among_many_others_and_forgotten_with_time() {
        let config =
            Config { memory_limit: 8 << 20, item_size_max: 128 << 10, eviction: Eviction::default(), now: Time(1) };
        let store = Store::new(&config).unwrap();
        let hash = |number: u32| store.hash(&number.to_be_bytes());
        let mut keys = HotKeys::default();
        assert_eq!(keys.share(), 0.0);
        for number in 0..100_000 {
            keys.count(hash(if number % 10 < 3 { 0 } else { number }));
        }
        let share = keys.share();
        assert!((0.3..0.32).contains(&share), "{share}");
        let mut share = share;
        for _ in 0..60 {
            (0..1000).for_each(|number| keys.count(hash(number)));
            share = keys.share();
        }
        assert!(share < 0.05, "{share}");
    }
}
