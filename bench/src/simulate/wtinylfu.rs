//! W-TinyLFU by the published rules, as a yardstick.
//!
//! Einziger, Friedman, Manes, "TinyLFU: a highly efficient cache admission policy", ACM Transactions on Storage 2017: a
//! window of a hundredth of the bytes, ordered by use, before a main cache of two parts, probation and protected, of
//! which the protected one has four fifths. What leaves the window enters the main cache only if it was asked for more
//! often than what would have to leave. Sizes by the same authors, "Lightweight robust size aware cache management"
//! (2022): the candidate is compared with all the victims that make room for it together.
//!
//! Frequencies are counted up to 15 and halved after ten times as many requests as there are items. The authors keep
//! them in a sketch, which errs; here each key has its own count.

use super::cache::{Cache, expiry, item_bytes};
use super::queue::{NONE, Queues};

const WINDOW: usize = 0;
const PROBATION: usize = 1;
const PROTECTED: usize = 2;

/// W-TinyLFU by bytes. An expired item stays until it is read or leaves.
pub(super) struct WTinyLfu<'a> {
    keys: &'a [Box<[u8]>],
    queues: Queues<3>,
    expires: Vec<u32>,
    frequencies: Vec<u8>,
    /// Requests since the frequencies were halved.
    requests: usize,
    limit: u64,
}

impl<'a> WTinyLfu<'a> {
    pub(super) fn new(limit: u64, keys: &'a [Box<[u8]>]) -> Self {
        WTinyLfu {
            keys,
            queues: Queues::new(keys.len()),
            expires: vec![0; keys.len()],
            frequencies: vec![0; keys.len()],
            requests: 0,
            limit,
        }
    }

    fn count(&mut self, key: u32) {
        let frequency = &mut self.frequencies[key as usize];
        *frequency = (*frequency + 1).min(15);
        self.requests += 1;
        if self.requests >= 10 * self.queues.items() {
            self.frequencies.iter_mut().for_each(|frequency| *frequency /= 2);
            self.requests = 0;
        }
    }

    /// Moves an item to the end of a queue.
    fn renew(&mut self, key: u32, queue: usize) {
        let bytes = self.queues.remove(key);
        self.queues.push(queue, key, bytes);
    }

    /// Returns the bytes that the main cache may have.
    fn main_limit(&self) -> u64 {
        self.limit - self.limit / 100
    }

    fn main_bytes(&self) -> u64 {
        self.queues.bytes(PROBATION) + self.queues.bytes(PROTECTED)
    }

    /// Decides about an item that has left the window: it enters the main cache, or is gone.
    fn admit(&mut self, candidate: u32, bytes: u64) {
        let mut victims = Vec::new();
        let (mut freed, mut frequency) = (0, 0);
        let mut next = self.queues.oldest(PROBATION);
        let mut queue = PROBATION;
        while self.main_bytes() + bytes > self.main_limit() + freed {
            if next == NONE && queue == PROBATION {
                (queue, next) = (PROTECTED, self.queues.oldest(PROTECTED));
                continue;
            }
            if next == NONE {
                return;
            }
            frequency += u32::from(self.frequencies[next as usize]);
            freed += self.queues.bytes_of(next);
            victims.push(next);
            next = self.queues.newer(next);
        }
        if victims.is_empty() || u32::from(self.frequencies[candidate as usize]) > frequency {
            for victim in victims {
                self.queues.remove(victim);
            }
            self.queues.push(PROBATION, candidate, bytes);
        }
    }
}

impl Cache for WTinyLfu<'_> {
    fn read(&mut self, key: u32, now: u32) -> bool {
        self.count(key);
        let Some(queue) = self.queues.queue_of(key) else { return false };
        if self.expires[key as usize] <= now {
            self.queues.remove(key);
            return false;
        }
        self.renew(key, if queue == WINDOW { WINDOW } else { PROTECTED });
        while self.queues.bytes(PROTECTED) * 5 > self.main_limit() * 4 {
            self.renew(self.queues.oldest(PROTECTED), PROBATION);
        }
        true
    }

    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32) {
        self.queues.remove(key);
        let bytes = item_bytes(&self.keys[key as usize], value_size);
        self.expires[key as usize] = expiry(ttl, now);
        self.queues.push(WINDOW, key, bytes);
        while self.queues.bytes(WINDOW) > self.limit / 100 {
            let candidate = self.queues.oldest(WINDOW);
            let bytes = self.queues.remove(candidate);
            self.admit(candidate, bytes);
        }
    }

    fn delete(&mut self, key: u32, _: u32) {
        self.queues.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_once_does_not_replace_what_is_asked_for_often() {
        let keys: Vec<Box<[u8]>> = (0..1000).map(|n| n.to_string().into_bytes().into()).collect();
        let mut cache = WTinyLfu::new(1000, &keys);
        for _ in 0..3 {
            for key in 0..10 {
                if !cache.read(key, 1) {
                    cache.write(key, 50, 0, 1);
                }
            }
        }
        for key in 10..1000 {
            assert!(!cache.read(key, 1));
            cache.write(key, 50, 0, 1);
            assert!(cache.main_bytes() <= 1000);
        }
        assert!((0..10).all(|key| cache.read(key, 1)));
    }
}
