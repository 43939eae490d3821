//! Eviction policies: which items leave when memory is full.
//!
//! Segments stand in one or two queues. Eviction takes one segment at a time and asks the policy about each of its
//! items: leave, or be written again to a younger segment. Uses since the last look are counted in the index slot, so
//! that a hit writes nothing else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::density::{self, TUNINGS, Tuning, Uses};

/// An eviction policy, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Uses for bytes: of the oldest items those with the most uses for their bytes stay. `density.rs` has the method.
    #[default]
    Density,
    /// Least recently used: the oldest items leave, those used since they were last looked at are as new.
    Lru,
    /// S3-FIFO (Yang et al., SOSP 2023, "FIFO queues are all you need for cache eviction"): a short queue on probation
    /// keeps what is read only once out of the main queue.
    S3Fifo,
    /// SIEVE (Zhang et al., NSDI 2024): survivors keep their place in the queue, and the hand moves on past them.
    Sieve,
    /// Nothing leaves: a write that finds no memory is refused (memcached's `-M`).
    Never,
}

/// What happens to an item that eviction looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Leave,
    /// The item moves to a segment of this lane, with these uses.
    Stay(Lane, Uses),
}

/// The origin of a segment's items. Items of different lanes do not share a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lane {
    /// Newly written.
    New = 0,
    /// Items that have survived a look, under policies that keep them apart.
    Kept = 1,
}

/// Says in a byte with an item's uses that it was in a segment of [`Lane::Kept`].
const KEPT: u8 = 64;

impl Lane {
    /// Returns a byte that tells another store what is known of an item of this lane.
    pub(super) fn past(self, uses: Uses) -> u8 {
        uses.0 | if self == Lane::Kept { KEPT } else { 0 }
    }
}

impl Eviction {
    /// Every policy, the default first.
    pub const ALL: [Eviction; 5] =
        [Eviction::Density, Eviction::Lru, Eviction::S3Fifo, Eviction::Sieve, Eviction::Never];

    /// Returns whether items leave at all.
    pub(super) fn evicts(self) -> bool {
        self != Eviction::Never
    }

    /// Returns the highest count of uses that the policy tells apart.
    pub(super) fn most_uses(self) -> u8 {
        match self {
            Eviction::Lru | Eviction::Sieve => 1,
            Eviction::S3Fifo | Eviction::Density => 3,
            Eviction::Never => 0,
        }
    }

    /// Returns the tunings that a store chooses from, the first at its start. With one use to leave probation, S3-FIFO is
    /// better on block I/O; with two, as published, in small stores with many items that are read twice.
    pub(super) fn tunings(self) -> &'static [Tuning] {
        const S3_FIFO: [Tuning; 2] = [TUNINGS[0], Tuning { promotion: 2, ..TUNINGS[0] }];
        match self {
            Eviction::Density => &TUNINGS,
            Eviction::S3Fifo => &S3_FIFO,
            Eviction::Lru | Eviction::Sieve | Eviction::Never => &TUNINGS[..1],
        }
    }

    /// Returns what happens to an item with these uses in a segment of this lane. `promotion` is that of the tuning;
    /// `dense` returns the level with which an item stays that has many uses for its bytes.
    pub(super) fn verdict(self, lane: Lane, uses: Uses, promotion: u8, dense: impl FnOnce() -> Option<u8>) -> Verdict {
        match (self, lane, uses.recent()) {
            (Eviction::Never, lane, _) => Verdict::Stay(lane, uses),
            (Eviction::Density, ..) => match dense() {
                Some(level) => Verdict::Stay(Lane::Kept, Uses::of_level(level)),
                None => Verdict::Leave,
            },
            (_, _, 0) => Verdict::Leave,
            (Eviction::Lru, ..) => Verdict::Stay(Lane::New, Uses::NONE),
            (Eviction::Sieve, ..) => Verdict::Stay(Lane::Kept, Uses::NONE),
            (Eviction::S3Fifo, Lane::New, recent) if recent < promotion => Verdict::Leave,
            (Eviction::S3Fifo, Lane::New, _) => Verdict::Stay(Lane::Kept, Uses::NONE),
            (Eviction::S3Fifo, Lane::Kept, recent) => Verdict::Stay(Lane::Kept, Uses(recent - 1)),
        }
    }

    /// Returns the lane and the uses of a new item. `ghost` is the level that its key left with, if that was lately.
    pub(super) fn admit(self, ghost: Option<u8>) -> (Lane, Uses) {
        match (self, ghost) {
            (Eviction::Density, Some(level)) => (Lane::New, Uses::of_level(density::returning(level))),
            (Eviction::Density, None) => (Lane::New, Uses::NEW),
            (_, Some(_)) => (Lane::Kept, Uses::NONE),
            (_, None) => (Lane::New, Uses::NONE),
        }
    }

    /// Returns the lane and the uses of an item that comes from another store with this [`Lane::past`]: it stands as it
    /// stood there.
    pub(super) fn receive(self, past: u8) -> (Lane, Uses) {
        let lane = if past & KEPT != 0 { Lane::Kept } else { Lane::New };
        let uses = Uses(past & (KEPT - 1));
        match self {
            Eviction::Density => (lane, uses),
            Eviction::S3Fifo => (lane, Uses(uses.recent())),
            Eviction::Lru | Eviction::Sieve | Eviction::Never => (Lane::New, Uses(uses.recent().min(self.most_uses()))),
        }
    }

    /// Returns the uses of an item that is written again, from those it had.
    pub(super) fn rewritten(self, uses: Uses) -> Uses {
        if self == Eviction::Density { uses } else { Uses::NONE }
    }

    /// Returns the queue of a segment of this lane.
    pub(super) fn queue(self, lane: Lane) -> usize {
        match self {
            Eviction::Lru | Eviction::Sieve | Eviction::Never => 0,
            Eviction::S3Fifo | Eviction::Density => lane as usize,
        }
    }

    /// Returns the queue to evict from, by the bytes of items in each. The first one, where there are two, is the queue
    /// on probation: its items are looked at when they have more than this percentage of the bytes.
    pub(super) fn victim_queue(self, bytes: [u64; 2], probation: u64) -> usize {
        usize::from(bytes[0] * 100 <= (bytes[0] + bytes[1]) * probation)
    }

    /// Returns whether survivors take the place of the segment that they came from.
    pub(super) fn keeps_place(self) -> bool {
        self == Eviction::Sieve
    }

    /// Returns whether an item that was written lately stays, used or not.
    pub(super) fn spares_young(self) -> bool {
        self == Eviction::Lru
    }

    /// Returns how many keys that left lately are remembered, by the number of items. S3-FIFO's authors remember as
    /// many as the main queue holds. Under `density` four times as many ghosts add 0.1 points of hit ratio, but 1.5
    /// bytes an item.
    pub(super) fn ghosts(self, items: usize) -> usize {
        match self {
            Eviction::Density => items / 4,
            Eviction::S3Fifo => items,
            Eviction::Lru | Eviction::Sieve | Eviction::Never => 0,
        }
    }

    /// Returns whether the key of an item that leaves a segment of this lane is remembered.
    pub(super) fn remembers_from(self, lane: Lane) -> bool {
        self == Eviction::Density || self == Eviction::S3Fifo && lane == Lane::New
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Eviction::Density => "density",
            Eviction::Lru => "lru",
            Eviction::S3Fifo => "s3fifo",
            Eviction::Sieve => "sieve",
            Eviction::Never => "never",
        })
    }
}

impl FromStr for Eviction {
    type Err = String;

    fn from_str(name: &str) -> Result<Eviction, String> {
        let known = || Eviction::ALL.map(|policy| policy.to_string()).join(", ");
        Eviction::ALL
            .into_iter()
            .find(|policy| policy.to_string() == name)
            .ok_or_else(|| format!("unknown eviction policy: choose of {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_found_by_its_name() {
        for policy in Eviction::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("mru".parse::<Eviction>().unwrap_err().contains("density, lru, s3fifo, sieve, never"));
    }

    #[test]
    fn an_unused_item_leaves_under_every_policy_that_evicts() {
        for policy in Eviction::ALL.into_iter().filter(|&policy| policy != Eviction::Never) {
            assert_eq!(policy.verdict(Lane::New, Uses::NEW, 1, || None), Verdict::Leave);
            assert_eq!(policy.verdict(Lane::Kept, Uses::NONE, 1, || None), Verdict::Leave);
        }
    }

    #[test]
    fn an_item_leaves_probation_under_s3_fifo_with_as_many_uses_as_the_tuning_says() {
        let verdict = |recent, promotion| Eviction::S3Fifo.verdict(Lane::New, Uses(recent), promotion, || None);
        let stays = Verdict::Stay(Lane::Kept, Uses::NONE);
        assert_eq!([verdict(1, 1), verdict(1, 2), verdict(2, 2)], [stays, Verdict::Leave, stays]);
    }
}
