//! The engine as a cache that a trace is run on.

use larder_node::store::{Expiry, NewItem, OtherMemory, Store, Time};

use super::cache::Cache;

/// The engine as a cache of numbered keys.
pub(super) struct Engine<'a> {
    store: Store,
    keys: &'a [Box<[u8]>],
    value: Vec<u8>,
    /// When background work was last done: each second, as in the node.
    maintained: u32,
    /// Reads until the estimate of hits with other memory is brought up to date. `density` adapts itself by it.
    estimate_in: u32,
}

/// Reads between two updates of the estimate: fewer than the store records.
const ESTIMATE_READS: u32 = 100;

impl<'a> Engine<'a> {
    /// `store` for these keys, with values of at most `largest` bytes, from the moment `start` on.
    pub(super) fn new(store: Store, keys: &'a [Box<[u8]>], largest: usize, start: u32) -> Engine<'a> {
        Engine { store, keys, value: vec![b'v'; largest], maintained: start, estimate_in: ESTIMATE_READS }
    }

    /// Returns how many hits more there would have been with other memory.
    pub(super) fn hits_with_other_memory(&self) -> [OtherMemory; 3] {
        self.store.update_estimate(Time(self.maintained));
        self.store.hits_with_other_memory()
    }
}

impl Cache for Engine<'_> {
    fn read(&mut self, key: u32, now: u32) -> bool {
        if self.maintained < now {
            self.maintained = now;
            self.store.maintain(Time(now));
        }
        self.estimate_in -= 1;
        if self.estimate_in == 0 {
            self.estimate_in = ESTIMATE_READS;
            self.store.update_estimate(Time(now));
        }
        let key = &self.keys[key as usize];
        let mut entry = self.store.entry(key, self.store.hash(key), Time(now));
        entry.note_read();
        let hit = entry.item().is_some();
        entry.bump();
        hit
    }

    fn write(&mut self, key: u32, value_size: u32, ttl: u32, now: u32) {
        let key = &self.keys[key as usize];
        let expiry = if ttl == 0 { Expiry::NEVER } else { Expiry::at(Time(now.saturating_add(ttl))) };
        let new = NewItem::new(&self.value[..value_size as usize], 0, expiry);
        let mut entry = self.store.entry(key, self.store.hash(key), Time(now));
        if entry.insert(new).is_err() {
            entry.remove();
        }
    }

    fn delete(&mut self, key: u32, now: u32) {
        let key = &self.keys[key as usize];
        self.store.entry(key, self.store.hash(key), Time(now)).remove();
    }
}
