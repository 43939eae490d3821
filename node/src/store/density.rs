//! The worth of items under the `density` policy: uses to be expected for the bytes they take.
//!
//! Eviction looks at items in turn. Between two looks an item's uses are counted up to 3; at a look they are added to the
//! *past* of the item, a decayed count of uses in half octaves. The density of an item is `past × correction / bytes`,
//! and the items with the highest densities stay: so many that a set share of the bytes looked at lately stays.
//!
//! Uses fade from look to look, by half an octave where a round of the queue replaces many items. Where large values
//! take most of the bytes, few items of many leave at each round, and uses fade more slowly: else items would be
//! forgotten before they are used again.
//!
//! The correction of each level of past is learned. How often are items of this level used until the next look, or
//! asked for after they were evicted, compared with items of other levels? Where past uses tell little (keys come into
//! fashion and go), levels move together; where they tell much, levels stay apart.
//!
//! Relatives: GDSF (Cherkasova 1998) ranks by frequency, size and an age that grows with each eviction; LHD (Beckmann,
//! Chen, Cidon, NSDI 2018) learns the hits to be expected for bytes and time. Both need an order over all items; here
//! only the items of one segment are compared with a threshold.

/// Levels of past: half octaves from a quarter of a use up to 45 uses.
const LEVELS: usize = 16;

/// The level of an item with one use: that of a new item.
const ONE_USE: u8 = 4;

/// What is set by the workload: no single tuning gets the most hits everywhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tuning {
    /// The percentage of the bytes that are on probation: their items are looked at when they have more.
    pub(super) probation: u64,
    /// Octaves of density that an item is given more if it was used since the last look.
    pub(super) recency: f32,
    /// The share of the bytes looked at that stays.
    pub(super) keep: f32,
    /// Uses with which an item leaves probation for the other queue, under S3-FIFO.
    pub(super) promotion: u8,
}

/// The tunings that a store chooses from, by how much they copy; the first at its start. The second is for stores that
/// have room for most of what is popular: with more bytes that stay, the order by density is finer, and uses fade
/// faster. The others are for popularity that moves on: new items have more time to be used before they are looked at,
/// and the latest uses count more. `estimate.rs` finds the best.
pub(super) const TUNINGS: [Tuning; 4] = [
    Tuning { probation: 10, recency: 0.0, keep: 0.4, promotion: 1 },
    Tuning { probation: 10, recency: 0.0, keep: 0.6, promotion: 1 },
    Tuning { probation: 30, recency: 1.0, keep: 0.6, promotion: 1 },
    Tuning { probation: 60, recency: 2.0, keep: 0.7, promotion: 1 },
];

/// The power of the correction. With 1 the learned uses alone would rank items: worse on loops by up to 3 points.
const TRUST: f32 = 0.6;

/// Uses of a level that are taken to be as expected, beside those that were seen.
const DOUBT: f32 = 50.0;

/// The share of the items looked at that leave, below which not every look costs a level. Where a tenth leaves, a level
/// at each look lost 0.8 points; with a higher share than this, keys that come into fashion and go lost as much.
const FADING: f32 = 0.25;

/// What an evicted item's past counts when its key comes back, beside the use that brings it back.
const RETURN: f32 = 1.2;

/// Observations, for each item of the shard, after which older ones count half.
const MEMORY: f32 = 8.0;

/// Classes of density: quarter octaves from 2^-26 uses a byte.
const CLASSES: usize = 128;

/// Items looked at before the threshold is computed again.
const THRESHOLD_ITEMS: u32 = 64;

/// What a shard knows about the densities of its items.
#[derive(Clone)]
pub(super) struct Density {
    pub(super) tuning: Tuning,
    /// Bytes looked at lately by class of density, and in all.
    looked: [f32; CLASSES],
    looked_all: f32,
    /// Items looked at lately, and those of them that left.
    looked_items: f32,
    left_items: f32,
    /// The part of a level that is still to be lost: by the next item that stays once it is a whole one.
    fading: f32,
    /// The lowest class that stays; unknown until some items were looked at: then used ones stay.
    threshold: Option<usize>,
    threshold_due: u32,
    /// Uses of items between two looks or after eviction by their level, and uses by the level's own count.
    seen: [f32; LEVELS],
    expected: [f32; LEVELS],
    observations: f32,
    /// Binary logarithm of what a level's worth is multiplied with.
    correction: [f32; LEVELS],
    /// Seconds that a kept item has between two looks.
    interval: u32,
}

/// An item's uses as the index keeps them: those since the last look in 2 bits, the level of those before in 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uses(pub(super) u8);

impl Uses {
    /// No uses, and no past.
    pub(super) const NONE: Uses = Uses(0);

    /// The uses of a new item.
    pub(super) const NEW: Uses = Uses(ONE_USE << 2);

    /// The uses of an item with a past and none since.
    pub(super) fn of_level(level: u8) -> Uses {
        Uses(level << 2)
    }

    /// Returns the uses since the last look, 3 at most.
    pub(super) fn recent(self) -> u8 {
        self.0 & 3
    }

    fn level(self) -> usize {
        usize::from(self.0 >> 2)
    }

    /// Returns the uses in all, those before the last look decayed.
    fn count(self) -> f32 {
        level_uses(self.level()) + f32::from(self.recent())
    }

    /// Returns the level from this look to the next: uses decay by half an octave.
    pub(super) fn next_level(self) -> u8 {
        level(self.count() * std::f32::consts::FRAC_1_SQRT_2)
    }
}

/// Returns the uses that a level stands for.
fn level_uses(level: usize) -> f32 {
    0.25 * (level as f32 / 2.0).exp2()
}

/// Returns the level next to a count of uses.
fn level(uses: f32) -> u8 {
    (2.0 * (uses / 0.25).log2()).round().clamp(0.0, (LEVELS - 1) as f32) as u8
}

/// Returns the level of an item whose key comes back after it was evicted with a level.
pub(super) fn returning(evicted: u8) -> u8 {
    level(1.0 + RETURN * std::f32::consts::SQRT_2 * level_uses(usize::from(evicted)))
}

impl Density {
    pub(super) fn new() -> Density {
        Density {
            tuning: TUNINGS[0],
            looked: [0.0; CLASSES],
            looked_all: 0.0,
            looked_items: 0.0,
            left_items: 0.0,
            fading: 0.0,
            threshold: None,
            threshold_due: THRESHOLD_ITEMS,
            seen: [0.0; LEVELS],
            expected: [0.0; LEVELS],
            observations: 0.0,
            correction: [0.0; LEVELS],
            interval: 0,
        }
    }

    /// Looks at an item of so many bytes. Returns the level with which it stays; `None` if it leaves. `remaining` is
    /// its time to live in seconds.
    pub(super) fn stays(&mut self, uses: Uses, bytes: usize, remaining: Option<u32>) -> Option<u8> {
        if self.threshold_due == 0 {
            self.threshold_due = THRESHOLD_ITEMS;
            self.threshold = Some(self.lowest_class_that_stays());
        }
        self.threshold_due -= 1;
        let mut density =
            uses.count().log2() + self.correction[usize::from(uses.next_level())] - (bytes.max(1) as f32).log2();
        if uses.recent() > 0 {
            density += self.tuning.recency;
        }
        // An item that expires before the next look is worth what it can still be used.
        if let Some(remaining) = remaining.filter(|&remaining| remaining < self.interval) {
            density += (remaining.max(1) as f32 / self.interval as f32).log2();
        }
        let class = ((density + 26.0) * 4.0).clamp(0.0, (CLASSES - 1) as f32) as usize;
        self.looked[class] += bytes as f32;
        self.looked_all += bytes as f32;
        self.looked_items += 1.0;
        if !self.threshold.map_or(uses.recent() > 0, |threshold| class >= threshold) {
            self.left_items += 1.0;
            return None;
        }
        self.fading += (self.left_items / (FADING * self.looked_items)).min(1.0);
        let fades = self.fading >= 1.0;
        self.fading -= if fades { 1.0 } else { 0.0 };
        Some(if fades { uses.next_level() } else { level(uses.count()) })
    }

    /// Returns the class above which the tuning's share of the bytes looked at lately lies, at most. Items of one class
    /// leave together: so the oldest leave first where all are alike.
    fn lowest_class_that_stays(&self) -> usize {
        let mut above = 0.0;
        for class in (0..CLASSES).rev() {
            above += self.looked[class];
            if above > self.tuning.keep * self.looked_all {
                return class + 1;
            }
        }
        0
    }

    /// Records the uses of a kept item since the look before, `age` seconds ago.
    pub(super) fn observe(&mut self, uses: Uses, age: u32) {
        self.interval = age;
        self.seen[uses.level()] += f32::from(uses.recent());
        self.expect(uses.level());
    }

    /// Records that an item of a level leaves. Its uses until the next look would be [`Density::observe_return`]s.
    pub(super) fn observe_eviction(&mut self, level: u8) {
        self.expect(usize::from(level));
    }

    /// Records that the key of an item that left with a level comes back.
    pub(super) fn observe_return(&mut self, level: u8) {
        self.seen[usize::from(level)] += 1.0;
    }

    fn expect(&mut self, level: usize) {
        self.expected[level] += level_uses(level);
        self.observations += 1.0;
    }

    /// Brings what was learned up to date: before the items of a segment are looked at. Old observations fade. `sampled`
    /// is how many items were observed for each one of a shard: 1 in a shard.
    pub(super) fn learn(&mut self, items: u64, limit: usize, sampled: f32) {
        let doubt = DOUBT * sampled;
        let (seen, expected): (f32, f32) = (self.seen.iter().sum(), self.expected.iter().sum());
        if seen > 0.0 && expected > 0.0 {
            let usual = seen / expected;
            for level in 0..LEVELS {
                let ratio = (self.seen[level] + doubt) / (self.expected[level] * usual + doubt);
                self.correction[level] = TRUST * ratio.log2();
            }
        }
        if self.observations > MEMORY * items as f32 {
            self.seen.iter_mut().chain(&mut self.expected).for_each(|uses| *uses /= 2.0);
            self.observations /= 2.0;
        }
        if self.looked_all > limit as f32 {
            self.looked.iter_mut().for_each(|bytes| *bytes /= 2.0);
            self.looked_all /= 2.0;
            self.looked_items /= 2.0;
            self.left_items /= 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unused_item_loses_a_level_at_each_look_and_a_used_one_gains() {
        let mut uses = Uses::NEW;
        for level in (0..ONE_USE).rev() {
            uses = Uses::of_level(uses.next_level());
            assert_eq!(uses, Uses::of_level(level));
        }
        assert_eq!(uses.next_level(), 0);
        let busy = |level: u8| Uses(level << 2 | 3).next_level();
        assert!((0..9).all(|level| busy(level) > level));
    }

    #[test]
    fn of_items_looked_at_those_with_the_most_uses_for_their_bytes_stay() {
        let mut density = Density::new();
        let mut kept = [0u32; 4];
        for round in 0..4000u32 {
            if round.is_multiple_of(100) {
                density.learn(4000, 1 << 30, 1.0);
            }
            for (kind, (recent, bytes)) in [(0, 100), (3, 100), (0, 10), (3, 4000)].into_iter().enumerate() {
                let stays = density.stays(Uses(ONE_USE << 2 | recent), bytes, None);
                kept[kind] += u32::from(stays.is_some() && round >= 1000);
            }
        }
        // Most of the bytes are those of the large items: all others stay.
        assert_eq!(kept, [3000, 3000, 3000, 0]);
    }

    #[test]
    fn uses_fade_more_slowly_where_few_of_many_items_leave() {
        // Of so many items one is large, and leaves; the others have been used before.
        let lost = |items: usize| {
            let mut density = Density::new();
            let used = Uses::of_level(8);
            let mut lost = 0;
            for round in 0..4000 {
                if round % 100 == 0 {
                    density.learn(4000, 1 << 30, 1.0);
                }
                density.stays(Uses::NEW, 100 * items, None);
                for _ in 1..items {
                    lost += u32::from(density.stays(used, 10, None).is_some_and(|level| level < 8));
                }
            }
            f64::from(lost) / (4000 * (items - 1)) as f64
        };
        assert!(lost(2) > 0.9, "{}", lost(2));
        assert!((0.15..0.25).contains(&lost(20)), "{}", lost(20));
    }

    #[test]
    fn items_that_are_alike_leave_in_their_order() {
        let mut density = Density::new();
        let stayed = (0..1000).filter(|_| density.stays(Uses::NEW, 100, None).is_some()).count();
        assert_eq!(stayed, 0);
    }

    #[test]
    fn an_item_about_to_expire_is_worth_less() {
        let mut density = Density::new();
        density.observe(Uses::NEW, 1000);
        let mut stayed = [0; 2];
        for _ in 0..1000 {
            for (kind, remaining) in [(0, 10), (0, 10), (1, 2000)] {
                stayed[kind] += u32::from(density.stays(Uses::NEW, 100, Some(remaining)).is_some());
            }
        }
        assert!(stayed[0] < 100 && stayed[1] > 900, "{stayed:?}");
    }

    #[test]
    fn a_level_whose_items_are_used_less_than_its_past_says_is_worth_less() {
        let mut density = Density::new();
        for _ in 0..2000 {
            density.observe(Uses(4 << 2 | 1), 60);
            density.observe(Uses(10 << 2), 60);
        }
        density.learn(4000, 1 << 30, 1.0);
        assert!(density.correction[4] > 0.5 && density.correction[10] < -0.5, "{:?}", density.correction);
    }
}
