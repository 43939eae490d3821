//! S3-FIFO by the published rules, as a yardstick.
//!
//! Yang, Zhang, Qiu, Yue, Vinayak, "FIFO queues are all you need for cache eviction", SOSP 2023, by bytes: a small
//! queue of a tenth of the bytes, a main queue, and ghosts of as many bytes as the main queue may hold, as in the
//! authors' simulator. Uses are counted up to 3; an item with two leaves the small queue for the main one.

use std::collections::VecDeque;

use super::cache::{Cache, expiry, item_bytes};

#[derive(Clone, Copy, Default)]
struct Item {
    /// Bytes of the item; 0 if it is absent.
    bytes: u64,
    uses: u8,
    main: bool,
    /// The write that the item's place in a queue belongs to: places of earlier writes are skipped.
    write: u32,
    /// The place among the ghosts that is valid, or 0.
    ghost: u64,
    expires: u32,
}

/// S3-FIFO by bytes. An expired item stays until it is read or leaves.
pub(super) struct S3Fifo<'a> {
    keys: &'a [Box<[u8]>],
    items: Vec<Item>,
    /// Keys in the small and the main queue, with their writes.
    queues: [VecDeque<(u32, u32)>; 2],
    bytes: [u64; 2],
    /// Keys that left the small queue, with their place and the bytes of their items.
    ghosts: VecDeque<(u32, u64, u64)>,
    ghost_bytes: u64,
    ghosts_ever: u64,
    limit: u64,
}

impl<'a> S3Fifo<'a> {
    pub(super) fn new(limit: u64, keys: &'a [Box<[u8]>]) -> Self {
        S3Fifo {
            keys,
            items: vec![Item::default(); keys.len()],
            queues: Default::default(),
            bytes: [0; 2],
            ghosts: VecDeque::new(),
            ghost_bytes: 0,
            ghosts_ever: 0,
            limit,
        }
    }

    fn enter(&mut self, key: u32, main: bool) {
        let item = &mut self.items[key as usize];
        item.main = main;
        self.bytes[usize::from(main)] += item.bytes;
        self.queues[usize::from(main)].push_back((key, item.write));
    }

    /// Takes an item's bytes out of its queue. Its place there is skipped later.
    fn leave(&mut self, key: u32) -> Item {
        let item = self.items[key as usize];
        if item.bytes > 0 {
            self.bytes[usize::from(item.main)] -= item.bytes;
        }
        item
    }

    fn remove(&mut self, key: u32) {
        self.leave(key);
        self.items[key as usize].bytes = 0;
    }

    /// Looks at the oldest item of a queue.
    fn evict(&mut self) {
        let small = self.bytes[0] * 10 >= self.limit || self.queues[1].is_empty();
        let queue = usize::from(!small || self.queues[0].is_empty());
        let Some((key, write)) = self.queues[queue].pop_front() else { return };
        let Item { bytes, uses, main, write: newest, .. } = self.items[key as usize];
        if bytes == 0 || write != newest || main != (queue == 1) {
            return;
        }
        self.leave(key);
        match (main, uses) {
            (false, 0 | 1) => {
                self.ghosts_ever += 1;
                self.items[key as usize].bytes = 0;
                self.items[key as usize].ghost = self.ghosts_ever;
                self.ghosts.push_back((key, self.ghosts_ever, bytes));
                self.ghost_bytes += bytes;
                while self.ghost_bytes * 10 > self.limit * 9 {
                    let Some((oldest, place, bytes)) = self.ghosts.pop_front() else { break };
                    self.ghost_bytes -= bytes;
                    let ghost = &mut self.items[oldest as usize].ghost;
                    *ghost = if *ghost == place { 0 } else { *ghost };
                }
            }
            (false, _) => {
                self.items[key as usize].uses = 0;
                self.enter(key, true);
            }
            (true, 0) => self.items[key as usize].bytes = 0,
            (true, _) => {
                self.items[key as usize].uses -= 1;
                self.enter(key, true);
            }
        }
    }
}

impl Cache for S3Fifo<'_> {
    fn read(&mut self, key: u32, now: u32) -> bool {
        let item = &mut self.items[key as usize];
        let hit = item.bytes > 0 && item.expires > now;
        if hit {
            item.uses = (item.uses + 1).min(3);
        } else {
            self.remove(key);
        }
        hit
    }

    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32) {
        let Item { write, ghost, .. } = self.items[key as usize];
        self.remove(key);
        let bytes = item_bytes(&self.keys[key as usize], value_size);
        if bytes > self.limit {
            return;
        }
        while self.bytes[0] + self.bytes[1] + bytes > self.limit {
            self.evict();
        }
        let expires = expiry(ttl, now);
        self.items[key as usize] = Item { bytes, uses: 0, main: false, write: write + 1, ghost: 0, expires };
        // Until something leaves, what the small queue has no room for is in the main one.
        let filling = self.ghosts_ever == 0 && self.bytes[0] * 10 >= self.limit;
        self.enter(key, ghost != 0 || filling);
    }

    fn delete(&mut self, key: u32, _: u32) {
        self.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_read_twice_outlives_those_read_once() {
        let keys: Vec<Box<[u8]>> = (0..100).map(|n| n.to_string().into_bytes().into()).collect();
        let mut cache = S3Fifo::new(1000, &keys);
        cache.write(0, 50, 0, 1);
        assert!(cache.read(0, 1) && cache.read(0, 1));
        for key in 1..100 {
            cache.write(key, 50, 0, 1);
        }
        assert!(cache.read(0, 1) && !cache.read(1, 1));
        assert!(cache.bytes.iter().sum::<u64>() <= 1000);
    }
}
