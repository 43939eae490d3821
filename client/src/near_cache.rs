//! A small cache within the process, in front of the nodes.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Weighter};

use crate::ttl::YEAR;
use crate::value::Encoded;

/// Approximate bytes of an entry beside its key and value.
const OVERHEAD: usize = 120;

/// Number of change counters; each serves the keys that hash to it.
const LANES: usize = 64;

#[derive(Clone)]
struct Entry {
    value: Encoded,
    until: Instant,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Bytes, Entry> for Weight {
    fn weight(&self, key: &Bytes, entry: &Entry) -> u64 {
        (key.len() + entry.value.value.len() + OVERHEAD) as u64
    }
}

/// Values that [`ReadThrough`](crate::ReadThrough) has read recently.
///
/// A change through this client removes a key. A change through another client is not seen: a value may be older than
/// the node's by at most `ttl`.
pub(crate) struct NearCache {
    entries: Cache<Bytes, Entry, Weight>,
    ttl: Duration,
    hasher: DefaultHashBuilder,
    /// How often the keys of each lane have changed.
    changes: [AtomicU64; LANES],
}

/// How often a key had changed before it was read.
pub(crate) struct ChangeCount(u64);

impl NearCache {
    /// Creates a cache of `bytes` bytes, whose values are kept for `ttl`.
    pub(crate) fn new(bytes: usize, ttl: Duration) -> NearCache {
        // The crate's estimate of the number of entries, which only sizes its tables.
        let entries = (bytes / 512).max(16);
        NearCache {
            entries: Cache::with_weighter(entries, bytes as u64, Weight),
            ttl: ttl.min(YEAR),
            hasher: DefaultHashBuilder::default(),
            changes: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Encoded> {
        let entry = self.entries.get(key)?;
        if Instant::now() < entry.until {
            return Some(entry.value);
        }
        self.entries.remove(key);
        None
    }

    fn lane(&self, key: &[u8]) -> &AtomicU64 {
        &self.changes[self.hasher.hash_one(key) as usize % LANES]
    }

    /// Returns the count to pass to [`NearCache::insert`]. Taken before the node is asked.
    pub(crate) fn mark(&self, key: &[u8]) -> ChangeCount {
        ChangeCount(self.lane(key).load(Ordering::SeqCst))
    }

    /// Keeps a value that a node had, unless the key was changed through this client since `mark`; not beyond `until`,
    /// if that is given.
    pub(crate) fn insert(&self, key: &[u8], value: &Encoded, mark: ChangeCount, until: Option<Instant>) {
        let unchanged = || self.lane(key).load(Ordering::SeqCst) == mark.0;
        if unchanged() {
            let end = Instant::now() + self.ttl;
            let until = until.map_or(end, |until| until.min(end));
            self.entries.insert(Bytes::copy_from_slice(key), Entry { value: value.clone(), until });
            // A change between the two comparisons has not removed the entry.
            if !unchanged() {
                self.entries.remove(key);
            }
        }
    }

    /// Removes all keys.
    pub(crate) fn clear(&self) {
        self.changes.iter().for_each(|changes| _ = changes.fetch_add(1, Ordering::SeqCst));
        self.entries.clear();
    }

    /// Returns a guard that removes the key when it is dropped: at the end of a change, however that ends.
    pub(crate) fn changing<'a>(&'a self, key: &'a [u8]) -> Changing<'a> {
        Changing { near: self, key }
    }
}

/// A change under way.
pub(crate) struct Changing<'a> {
    near: &'a NearCache,
    key: &'a [u8],
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.near.lane(self.key).fetch_add(1, Ordering::SeqCst);
        self.near.entries.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> Encoded {
        Encoded { value: Bytes::from(text), flags: 0 }
    }

    #[test]
    fn a_value_stays_for_its_time_and_until_it_is_changed() {
        let near = NearCache::new(1 << 20, Duration::from_secs(60));
        near.insert(b"k", &value("v"), near.mark(b"k"), None);
        assert_eq!(near.get(b"k"), Some(value("v")));
        drop(near.changing(b"k"));
        assert_eq!(near.get(b"k"), None);
        let instant = NearCache::new(1 << 20, Duration::ZERO);
        instant.insert(b"k", &value("v"), instant.mark(b"k"), None);
        assert_eq!(instant.get(b"k"), None);
    }

    #[test]
    fn a_value_stays_no_longer_than_its_reader_allows() {
        let near = NearCache::new(1 << 20, Duration::from_secs(60));
        near.insert(b"k", &value("v"), near.mark(b"k"), Some(Instant::now()));
        assert_eq!(near.get(b"k"), None);
    }

    #[test]
    fn a_value_read_before_a_change_ended_is_not_kept() {
        let near = NearCache::new(1 << 20, Duration::from_secs(60));
        let mark = near.mark(b"k");
        drop(near.changing(b"k"));
        near.insert(b"k", &value("old"), mark, None);
        assert_eq!(near.get(b"k"), None);
    }

    #[test]
    fn it_holds_no_more_than_its_bytes() {
        let near = NearCache::new(100_000, Duration::from_secs(60));
        let kilobyte = Encoded { value: Bytes::from(vec![0; 1000]), flags: 0 };
        for number in 0..1000 {
            let key = format!("key:{number}");
            near.insert(key.as_bytes(), &kilobyte, near.mark(key.as_bytes()), None);
        }
        let kept = (0..1000).filter(|number| near.get(format!("key:{number}").as_bytes()).is_some()).count();
        assert!((1..=100).contains(&kept), "{kept}");
    }
}
