//! Reclaiming memory, a segment at a time and in slices: segments that have expired or are mostly dead, and eviction.

use super::density::Uses;
use super::eviction::{Lane, Verdict};
use super::index::Slot;
use super::item::{self, Header, bit};
use super::segment::{NONE, Segment, Sweep};
use super::shard::Shard;
use super::time::Time;
use super::write::RESERVE;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The segment's items have expired, or most of its bytes are dead. Live items stay.
    Tidy,
    /// Memory is needed. The policy decides which items of a queue's oldest segment stay.
    Evict(usize),
}

/// The most items of one slice: each may cost a cache miss in the index.
const SLICE_ITEMS: usize = 200;

impl Shard {
    /// Empties about `bytes` of a segment, counting freed large values. Returns `false` if no segment can be emptied.
    pub(super) fn sweep(&mut self, now: Time, bytes: usize) -> bool {
        if self.forget_flushed() {
            return true;
        }
        // An untidy segment is looked for only between two evictions: that reads the state of all segments.
        let queue = self.victim_queue();
        let queue = if self.log.oldest(queue) == NONE { 1 - queue } else { queue };
        if self.evicting[queue].is_none() && self.find_untidy(now) {
            return self.go_on(Why::Tidy, now, bytes);
        }
        if self.evicting[queue].is_none() && !self.begin_eviction(queue) {
            return false;
        }
        self.go_on(Why::Evict(queue), now, bytes)
    }

    fn victim_queue(&self) -> usize {
        self.eviction.victim_queue(self.log.bytes_of_items(), self.density.tuning.probation)
    }

    /// Chooses a segment of a queue to evict from. Returns `false` if there is none.
    fn begin_eviction(&mut self, queue: usize) -> bool {
        // Evicted items may leave the index larger than it needs to be.
        self.index.shrink_one();
        let Some(segment) = self.victim(queue) else { return false };
        self.density.learn(self.statistics.items, self.limit, 1.0);
        self.evicting[queue] = Some(Sweep { segment, done: 0 });
        true
    }

    /// The sweep of a kind.
    fn sweep_of(&mut self, why: Why) -> &mut Option<Sweep> {
        match why {
            Why::Tidy => &mut self.tidying,
            Why::Evict(queue) => &mut self.evicting[queue],
        }
    }

    /// Does one slice of background work. Returns `true` if there is more.
    pub(super) fn tidy(&mut self, now: Time) -> bool {
        self.index.shrink_one();
        if self.used() > self.limit {
            return self.shrink(now);
        }
        self.find_untidy(now) && self.go_on(Why::Tidy, now, usize::MAX)
    }

    /// Returns whether a segment is being tidied, after choosing one where it is worth it.
    fn find_untidy(&mut self, now: Time) -> bool {
        if self.tidying.is_none()
            && let Some(segment) = self.worth_tidying(now)
        {
            self.log.seal(segment);
            let mut begun =
                self.evicting.iter_mut().filter_map(|sweep| sweep.take_if(|sweep| sweep.segment == segment));
            self.tidying = begun.next().or(Some(Sweep { segment, done: 0 }));
        }
        self.tidying.is_some()
    }

    /// Takes a step towards a lowered limit. Returns `false` when it is reached or can't be.
    pub(super) fn shrink(&mut self, now: Time) -> bool {
        if self.used() <= self.limit {
            return false;
        }
        if self.forget_flushed() {
            return true;
        }
        if self.area.idle() > 0 {
            self.area.trim(self.used() - self.limit);
        } else if self.log.free() > RESERVE {
            self.log.release_one();
        } else {
            // Survivors need the reserve. It goes last.
            return self.sweep(now, self.log.segment_bytes()) || self.log.release_one();
        }
        true
    }

    /// Returns a segment whose items have all expired, or the one with the fewest live bytes if it is mostly dead or
    /// expired.
    fn worth_tidying(&self, now: Time) -> Option<u32> {
        let mut best = None;
        for (number, segment) in self.log.in_use() {
            if segment.ends.1 <= now.0 {
                return Some(number);
            }
            let living = living(segment, now);
            // Live items need room elsewhere; and a short segment frees too little for the work.
            if living * 2 < u64::from(segment.filled)
                && self.evicting.iter().flatten().all(|sweep| sweep.segment != number)
                && segment.filled as usize * 2 > self.log.segment_bytes()
                && best.is_none_or(|(least, _)| living < least)
                && self.headroom() > 0
            {
                best = Some((living, number));
            }
        }
        best.map(|(_, number)| number)
    }

    /// Returns the segment of a queue that eviction takes next. A segment that survivors leave for the end of the queue
    /// stays open: where few segments are filled, as with large values, the oldest one also takes the newest items.
    fn victim(&mut self, queue: usize) -> Option<u32> {
        if !self.eviction.evicts() {
            return self.emptiest().inspect(|&segment| self.log.seal(segment));
        }
        let oldest = Some(self.log.oldest(queue)).filter(|&segment| segment != NONE)?;
        if !self.eviction.keeps_place() {
            return Some(oldest);
        }
        let wraps = self.hand == NONE || (self.log.is_open(self.hand) && self.log.newer(self.hand) == NONE);
        if wraps {
            self.log.seal_lane(Lane::Kept);
            self.hand = oldest;
        }
        self.log.seal(self.hand);
        Some(self.hand)
    }

    /// Returns the segment with the most dead bytes, if they are worth moving the other items for.
    fn emptiest(&self) -> Option<u32> {
        let worth = self.log.segment_bytes() as u32 / 8;
        let dead = self.log.in_use().map(|(number, segment)| (segment.filled - segment.live, number));
        dead.filter(|&(dead, _)| dead >= worth).max().map(|(_, number)| number)
    }

    /// Returns the segment before which survivors that keep their place go: the one they come from.
    pub(super) fn place_of_survivors(&self) -> u32 {
        self.evicting[0].map_or(NONE, |sweep| sweep.segment)
    }

    /// Continues a sweep. Returns `false` if items that must stay have no room elsewhere.
    fn go_on(&mut self, why: Why, now: Time, mut bytes: usize) -> bool {
        for _ in 0..SLICE_ITEMS {
            let Some(Sweep { segment, done }) = *self.sweep_of(why) else { return true };
            if done >= self.log.segment(segment).filled {
                *self.sweep_of(why) = None;
                if self.hand == segment {
                    self.hand = self.log.newer(segment);
                }
                self.log.finish(segment);
                return true;
            }
            let location = self.log.location(segment, done);
            let header = Header::read(self.log.at(location));
            *self.sweep_of(why) = Some(Sweep { segment, done: done + header.len() as u32 });
            let large = self.area.used();
            if !header.is_dead() && !self.look_at(location, &header, why, now) {
                *self.sweep_of(why) = None;
                return false;
            }
            bytes = bytes.saturating_sub(header.len() + large.saturating_sub(self.area.used()));
            if bytes == 0 && (self.log.segment(segment).filled as usize) > done as usize + header.len() {
                break;
            }
        }
        true
    }

    /// Decides about one live item: it leaves or moves. Returns `false` if it must stay and has no room elsewhere.
    fn look_at(&mut self, location: u64, header: &Header, why: Why, now: Time) -> bool {
        let hash = self.hash_of(self.key_at(location, header));
        let slot = self.index.find(hash, |found| found == location).expect("a live item is in the index");
        if header.expiry.has_passed(now) {
            self.count_expired(header);
            self.remove(slot);
            return true;
        }
        let &Segment { lane, started, .. } = self.log.segment(self.log.segment_of(location));
        let uses = Uses(self.index.uses(slot));
        let verdict = match why {
            Why::Tidy => Verdict::Stay(lane, uses),
            // Segments of rare times to live fill slowly: an old one may hold young items.
            Why::Evict(_) if self.eviction.spares_young() && self.is_young(location, header) => {
                Verdict::Stay(lane, uses)
            }
            Why::Evict(_) => {
                let bytes = header.len() + self.large_bytes(location, header);
                if lane == Lane::Kept {
                    self.density.observe(uses, now.0.saturating_sub(started.0));
                }
                let promotion = self.density.tuning.promotion;
                let dense = || self.density.stays(uses, bytes, header.expiry.remaining(now));
                self.eviction.verdict(lane, uses, promotion, dense)
            }
        };
        if let Verdict::Stay(to, uses) = verdict
            && self.carry(slot, location, header, to, uses, now)
        {
            self.statistics.carried += 1;
            self.statistics.moves_to_warm += u64::from(lane == Lane::New && to == Lane::Kept);
            return true;
        }
        if !self.eviction.evicts() {
            return false;
        }
        if self.eviction.remembers_from(lane) {
            self.density.observe_eviction(uses.next_level());
            self.ghosts.add(hash, uses.next_level());
        }
        self.evict(slot, now);
        true
    }

    /// Removes a live item and counts it as evicted.
    pub(super) fn evict(&mut self, slot: Slot, now: Time) {
        let location = self.index.location(slot);
        let bits = self.header(location).bits;
        let fetched = bits & bit::FETCHED != 0;
        let idle = now.0.saturating_sub(self.item(slot, now).last_access.0);
        self.statistics.evictions += 1;
        self.statistics.evicted_nonzero += u64::from(bits & bit::EXPIRY != 0);
        self.statistics.evicted_unfetched += u64::from(!fetched);
        self.statistics.evicted_active += u64::from(fetched && idle < 60);
        self.statistics.evicted_time = idle.into();
        if let Some(mut log) = self.eviction_log.take() {
            log.add(&self.info(location, now));
            self.eviction_log = Some(log);
        }
        self.remove(slot);
    }

    /// Returns when the item that is likely to be evicted next was last used.
    pub(super) fn oldest_use(&self, now: Time) -> Option<Time> {
        self.oldest_use_in(self.log.oldest(self.victim_queue()), now)
    }

    /// Returns when the first item of the oldest segment of a lane was last used.
    pub(super) fn oldest_use_of(&self, lane: Lane, now: Time) -> Option<Time> {
        let mut segment = self.log.oldest(self.eviction.queue(lane));
        while segment != NONE {
            if self.log.segment(segment).lane == lane
                && let Some(used) = self.oldest_use_in(segment, now)
            {
                return Some(used);
            }
            segment = self.log.newer(segment);
        }
        None
    }

    /// Returns when the first live item of a segment was last used.
    fn oldest_use_in(&self, segment: u32, now: Time) -> Option<Time> {
        let mut done = 0;
        for _ in 0..if segment == NONE { 0 } else { SLICE_ITEMS } {
            if done >= self.log.segment(segment).filled {
                break;
            }
            let header = self.header(self.log.location(segment, done));
            if !header.is_dead() {
                return Some(item::access_time(header.access, now));
            }
            done += header.len() as u32;
        }
        None
    }

    /// Moves an item to an open segment. Returns `false` if there is no room.
    fn carry(&mut self, slot: Slot, location: u64, header: &Header, lane: Lane, uses: Uses, now: Time) -> bool {
        let class = self.log.class(header.expiry, now);
        let most = header.len() + 8;
        // Among items of another time to live rather than not at all.
        let room = self.room(class, lane, most, now, true).or_else(|| self.log.any_open(most));
        let Some(segment) = room else { return false };
        let cas = self.cas_of(location, header);
        let (wide, encoded) = self.encode_cas(cas, segment);
        let new = Header { bits: header.bits & !bit::WIDE_CAS | wide, cas: encoded, ..*header };
        let start = item::header_len(header.bits);
        let large = self.large_bytes(location, header);
        let target = self.log.append(segment, new.len(), large);
        self.log.note_end(segment, header.expiry);
        self.log.copy(location + start as u64, target + item::header_len(new.bits) as u64, header.len() - start);
        new.write(self.log.at_mut(target));
        self.index.set(slot, target, uses.0);
        // The old bytes leave with their segment. A sweep still reads their length from the header.
        self.log.kill(location, header.len(), large);
        self.statistics.bytes = self.statistics.bytes + new.len() as u64 - header.len() as u64;
        true
    }
}

/// Estimates the live bytes of a segment: those not removed, less the share that has expired if expiries are spread
/// evenly between the first and the last.
fn living(segment: &Segment, now: Time) -> u64 {
    let (first, last) = (u64::from(segment.ends.0), u64::from(segment.ends.1));
    let (live, now) = (u64::from(segment.live), u64::from(now.0));
    if last == u64::from(u32::MAX) || now <= first || last <= first {
        return live;
    }
    live * (last - now) / (last - first)
}
