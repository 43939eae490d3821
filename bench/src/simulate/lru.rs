//! Exact LRU by bytes, as a yardstick.

use super::cache::{Cache, expiry, item_bytes};
use super::queue::Queues;

/// Keys in the order of their last use. The least recently used leave when the bytes exceed the limit. An expired item
/// stays until it is read or is the least recently used.
pub(super) struct ExactLru<'a> {
    keys: &'a [Box<[u8]>],
    queue: Queues<1>,
    expires: Vec<u32>,
    limit: u64,
}

impl<'a> ExactLru<'a> {
    pub(super) fn new(limit: u64, keys: &'a [Box<[u8]>]) -> Self {
        ExactLru { keys, queue: Queues::new(keys.len()), expires: vec![0; keys.len()], limit }
    }
}

impl Cache for ExactLru<'_> {
    fn read(&mut self, key: u32, now: u32) -> bool {
        let bytes = self.queue.remove(key);
        let hit = bytes > 0 && self.expires[key as usize] > now;
        if hit {
            self.queue.push(0, key, bytes);
        }
        hit
    }

    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32) {
        self.queue.remove(key);
        let bytes = item_bytes(&self.keys[key as usize], value_size);
        if bytes > self.limit {
            return;
        }
        while self.queue.bytes(0) + bytes > self.limit {
            self.queue.remove(self.queue.oldest(0));
        }
        self.queue.push(0, key, bytes);
        self.expires[key as usize] = expiry(ttl, now);
    }

    fn delete(&mut self, key: u32, _: u32) {
        self.queue.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::ITEM_OVERHEAD;
    use super::*;

    #[test]
    fn the_least_recently_used_leaves_first() {
        let keys: Vec<Box<[u8]>> = ["a", "b", "c"].map(|key| Box::from(key.as_bytes())).into();
        let mut lru = ExactLru::new(2 * (1 + 10 + ITEM_OVERHEAD), &keys);
        lru.write(0, 10, 0, 1);
        lru.write(1, 10, 0, 1);
        assert!(lru.read(0, 1));
        lru.write(2, 10, 0, 1);
        assert!(!lru.read(1, 1));
        assert!(lru.read(0, 1) && lru.read(2, 1));
    }
}
