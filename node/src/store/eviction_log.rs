//! A record of evicted items, kept only while a client watches evictions.

use super::item::ItemInfo;

/// Evictions that a shard records between two calls of `take_evictions`. Further ones are only counted.
const MOST: usize = 256;

/// The items evicted from a shard since they were last taken.
#[derive(Default)]
pub(super) struct EvictionLog {
    items: Vec<(Box<[u8]>, ItemInfo<'static>)>,
    skipped: u64,
}

impl EvictionLog {
    /// Records an item that is evicted.
    pub(super) fn add(&mut self, info: &ItemInfo<'_>) {
        if self.items.len() < MOST {
            self.items.push((info.key.into(), ItemInfo { key: &[], ..*info }));
        } else {
            self.skipped += 1;
        }
    }

    /// Calls `f` with each recorded item. Returns how many more were evicted.
    pub(super) fn show(self, mut f: impl FnMut(&ItemInfo<'_>)) -> u64 {
        for (key, info) in &self.items {
            f(&ItemInfo { key, ..*info });
        }
        self.skipped
    }
}
