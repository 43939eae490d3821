//! Exact LRU by bytes, as a yardstick.

use super::cache::{Cache, ITEM_OVERHEAD};

const NONE: u32 = u32::MAX;

/// The place of a key in the order of use.
#[derive(Clone, Copy)]
struct Place {
    newer: u32,
    older: u32,
    /// Bytes of the item; 0 if it is absent.
    bytes: u64,
    expires: u32,
}

/// Keys in the order of their last use. The least recently used leave when the bytes exceed the limit. An expired item
/// stays until it is read or is the least recently used.
pub(super) struct ExactLru<'a> {
    keys: &'a [Box<[u8]>],
    places: Vec<Place>,
    newest: u32,
    oldest: u32,
    bytes: u64,
    limit: u64,
}

impl<'a> ExactLru<'a> {
    pub(super) fn new(limit: u64, keys: &'a [Box<[u8]>]) -> Self {
        let place = Place { newer: NONE, older: NONE, bytes: 0, expires: 0 };
        ExactLru { keys, places: vec![place; keys.len()], newest: NONE, oldest: NONE, bytes: 0, limit }
    }

    fn unlink(&mut self, key: u32) {
        let Place { newer, older, bytes, .. } = self.places[key as usize];
        if bytes == 0 {
            return;
        }
        match newer {
            NONE => self.newest = older,
            _ => self.places[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            _ => self.places[older as usize].newer = newer,
        }
        self.bytes -= bytes;
        self.places[key as usize].bytes = 0;
    }

    fn link(&mut self, key: u32, bytes: u64, expires: u32) {
        self.places[key as usize] = Place { newer: NONE, older: self.newest, bytes, expires };
        match self.newest {
            NONE => self.oldest = key,
            newest => self.places[newest as usize].newer = key,
        }
        self.newest = key;
        self.bytes += bytes;
    }
}

impl Cache for ExactLru<'_> {
    fn read(&mut self, key: u32, now: u32) -> bool {
        let Place { bytes, expires, .. } = self.places[key as usize];
        self.unlink(key);
        if bytes == 0 || expires <= now {
            return false;
        }
        self.link(key, bytes, expires);
        true
    }

    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32) {
        self.unlink(key);
        let bytes = self.keys[key as usize].len() as u64 + u64::from(value_size) + ITEM_OVERHEAD;
        if bytes > self.limit {
            return;
        }
        while self.bytes + bytes > self.limit {
            self.unlink(self.oldest);
        }
        self.link(key, bytes, if ttl == 0 { u32::MAX } else { now.saturating_add(ttl) });
    }

    fn delete(&mut self, key: u32, _: u32) {
        self.unlink(key);
    }
}

#[cfg(test)]
mod tests {
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
