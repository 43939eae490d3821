//! GDSF by the published rules, as a yardstick.
//!
//! Greedy-Dual-Size with frequency (Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency
//! caching policy", HP Labs 1998), each miss at the same cost: an item's priority is the cache's age plus its uses for
//! its bytes. The item with the lowest priority leaves, and the age becomes that priority.

use std::collections::BTreeSet;

use super::cache::{Cache, expiry, item_bytes};

#[derive(Clone, Copy, Default)]
struct Item {
    /// The priority's bits, which have the order of the number as it is positive.
    priority: u64,
    /// Bytes of the item; 0 if it is absent.
    bytes: u64,
    uses: u32,
    expires: u32,
}

/// GDSF by bytes. An expired item stays until it is read or has the lowest priority.
pub(super) struct Gdsf<'a> {
    keys: &'a [Box<[u8]>],
    items: Vec<Item>,
    order: BTreeSet<(u64, u32)>,
    age: f64,
    bytes: u64,
    limit: u64,
}

impl<'a> Gdsf<'a> {
    pub(super) fn new(limit: u64, keys: &'a [Box<[u8]>]) -> Self {
        Gdsf { keys, items: vec![Item::default(); keys.len()], order: BTreeSet::new(), age: 0.0, bytes: 0, limit }
    }

    fn insert(&mut self, key: u32, bytes: u64, uses: u32, expires: u32) {
        let priority = (self.age + f64::from(uses) / bytes as f64).to_bits();
        self.items[key as usize] = Item { priority, bytes, uses, expires };
        self.order.insert((priority, key));
        self.bytes += bytes;
    }

    fn remove(&mut self, key: u32) {
        let item = std::mem::take(&mut self.items[key as usize]);
        self.order.remove(&(item.priority, key));
        self.bytes -= item.bytes;
    }
}

impl Cache for Gdsf<'_> {
    fn read(&mut self, key: u32, now: u32) -> bool {
        let Item { bytes, uses, expires, .. } = self.items[key as usize];
        self.remove(key);
        let hit = bytes > 0 && expires > now;
        if hit {
            self.insert(key, bytes, uses + 1, expires);
        }
        hit
    }

    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32) {
        let uses = self.items[key as usize].uses.max(1);
        self.remove(key);
        let bytes = item_bytes(&self.keys[key as usize], value_size);
        if bytes > self.limit {
            return;
        }
        while self.bytes + bytes > self.limit {
            let &(priority, least) = self.order.first().expect("items take the bytes");
            self.age = f64::from_bits(priority);
            self.remove(least);
        }
        self.insert(key, bytes, uses, expiry(ttl, now));
    }

    fn delete(&mut self, key: u32, _: u32) {
        self.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_item_with_the_fewest_uses_for_its_bytes_leaves_first() {
        let keys: Vec<Box<[u8]>> = [&b"a"[..], b"b", b"c"].map(Box::from).into();
        let mut gdsf = Gdsf::new(500, &keys);
        gdsf.write(0, 300, 0, 1);
        gdsf.write(1, 100, 0, 1);
        gdsf.write(2, 100, 0, 1);
        assert!(!gdsf.read(0, 1), "it is three times as large");
        assert!(gdsf.read(1, 1) && gdsf.read(2, 1));
        gdsf.write(0, 300, 0, 1);
        assert!(gdsf.read(0, 1) && gdsf.read(2, 1));
        assert!(!gdsf.read(1, 1), "of two alike the one written first leaves");
    }
}
