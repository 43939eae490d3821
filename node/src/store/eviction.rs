//! Eviction policies: which items leave when memory is full.
//!
//! Segments stand in one or two queues. Eviction takes one segment at a time and asks the policy about each of its
//! items: leave, or be written again to a younger segment. Uses since the last look are counted in the index slot, so
//! that a hit writes nothing else.

use std::fmt;
use std::str::FromStr;

/// An eviction policy, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Least recently used: the oldest items leave, those used since they were last looked at are as new.
    #[default]
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
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Leave,
    /// The item moves to a segment of this lane, with this count of uses.
    Stay(Lane, u8),
}

/// The origin of a segment's items. Items of different lanes do not share a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Newly written.
    New = 0,
    /// Items that have survived a look, under policies that keep them apart.
    Kept = 1,
}

impl Eviction {
    /// Every policy, the default first.
    pub const ALL: [Eviction; 4] = [Eviction::Lru, Eviction::S3Fifo, Eviction::Sieve, Eviction::Never];

    /// Returns whether items leave at all.
    pub(super) fn evicts(self) -> bool {
        self != Eviction::Never
    }

    /// Returns the highest count of uses that the policy tells apart.
    pub(super) fn most_uses(self) -> u8 {
        match self {
            Eviction::Lru | Eviction::Sieve => 1,
            Eviction::S3Fifo => 3,
            Eviction::Never => 0,
        }
    }

    /// Returns what happens to an item with so many uses in a segment of this lane.
    pub(super) fn verdict(self, lane: Lane, uses: u8) -> Verdict {
        match (self, lane, uses) {
            (Eviction::Never, lane, _) => Verdict::Stay(lane, 0),
            (_, _, 0) => Verdict::Leave,
            (Eviction::Lru, ..) => Verdict::Stay(Lane::New, 0),
            (Eviction::Sieve, ..) => Verdict::Stay(Lane::Kept, 0),
            (Eviction::S3Fifo, Lane::New, _) => Verdict::Stay(Lane::Kept, 0),
            (Eviction::S3Fifo, Lane::Kept, uses) => Verdict::Stay(Lane::Kept, uses - 1),
        }
    }

    /// Returns the queue of a segment of this lane.
    pub(super) fn queue(self, lane: Lane) -> usize {
        match self {
            Eviction::Lru | Eviction::Sieve | Eviction::Never => 0,
            Eviction::S3Fifo => lane as usize,
        }
    }

    /// Returns the queue to take the next segment from, by the number of segments in each.
    pub(super) fn victim_queue(self, lengths: [usize; 2]) -> usize {
        let probation_is_over_a_tenth = lengths[0] * 10 > lengths[0] + lengths[1];
        usize::from(self == Eviction::S3Fifo && lengths[1] > 0 && !probation_is_over_a_tenth)
    }

    /// Returns whether survivors take the place of the segment that they came from.
    pub(super) fn keeps_place(self) -> bool {
        self == Eviction::Sieve
    }

    /// Returns whether an item that was written lately stays, used or not.
    pub(super) fn spares_young(self) -> bool {
        self == Eviction::Lru
    }

    /// Returns whether the policy needs to know which keys left lately.
    pub(super) fn remembers(self) -> bool {
        self == Eviction::S3Fifo
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
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

/// Hashes of keys that left lately, in a table where a later one replaces an earlier one.
pub(super) struct Ghosts(Box<[u32]>);

impl Ghosts {
    /// Creates a table of `count` or more places; of none if `count` is 0.
    pub(super) fn new(count: usize) -> Ghosts {
        Ghosts(vec![0; if count == 0 { 0 } else { count.next_power_of_two() }].into())
    }

    /// Returns the bytes of the table.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    fn place(&mut self, hash: u64) -> Option<&mut u32> {
        let mask = self.0.len().wrapping_sub(1);
        self.0.get_mut(hash as usize & mask)
    }

    /// Records that a key left.
    pub(super) fn add(&mut self, hash: u64) {
        if let Some(place) = self.place(hash) {
            *place = (hash >> 32) as u32;
        }
    }

    /// Returns whether a key left lately, and forgets it.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        match self.place(hash) {
            Some(place) if *place == (hash >> 32) as u32 => {
                *place = 0;
                true
            }
            _ => false,
        }
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
        assert!("mru".parse::<Eviction>().unwrap_err().contains("lru, s3fifo, sieve, never"));
    }

    #[test]
    fn an_unused_item_leaves_under_every_policy_that_evicts() {
        for policy in Eviction::ALL.into_iter().filter(|&policy| policy != Eviction::Never) {
            assert_eq!(policy.verdict(Lane::New, 0), Verdict::Leave);
            assert_eq!(policy.verdict(Lane::Kept, 0), Verdict::Leave);
        }
    }

    #[test]
    fn a_ghost_is_seen_once() {
        let mut ghosts = Ghosts::new(8);
        ghosts.add(0x1234_5678_0000_0003);
        assert!(!ghosts.take(0x1234_5679_0000_0003));
        assert!(ghosts.take(0x1234_5678_0000_0003));
        assert!(!ghosts.take(0x1234_5678_0000_0003));
    }
}
