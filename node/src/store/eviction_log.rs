//! What was evicted, for those who watch: off unless somebody does.

use super::item::ItemInfo;

/// Evictions noted in a shard at most; what comes after is counted only, until somebody takes them.
const MOST: usize = 256;

/// The items evicted from a shard since they were last taken.
#[derive(Default)]
pub(super) struct EvictionLog {
    noted: Vec<(Box<[u8]>, ItemInfo<'static>)>,
    skipped: u64,
}

impl EvictionLog {
    /// Notes an item that leaves.
    pub(super) fn note(&mut self, info: &ItemInfo<'_>) {
        if self.noted.len() < MOST {
            self.noted.push((info.key.into(), ItemInfo { key: &[], ..*info }));
        } else {
            self.skipped += 1;
        }
    }

    /// Shows what was noted, and says how many more there were.
    pub(super) fn show(self, mut f: impl FnMut(&ItemInfo<'_>)) -> u64 {
        for (key, info) in &self.noted {
            f(&ItemInfo { key, ..*info });
        }
        self.skipped
    }
}
