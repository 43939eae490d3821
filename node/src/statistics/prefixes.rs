//! Counts by key prefix, for `stats detail` (protocol.txt, "Statistics by prefix"; `-D` sets the delimiter).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;

/// Most prefixes that are counted. Keys with further ones are not counted: clients choose the prefixes.
const PREFIXES_MAX: usize = 65_536;

/// The commands on keys with one prefix.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) get: u64,
    pub(crate) hit: u64,
    pub(crate) set: u64,
    del: u64,
    /// Commands whose time was measured, and their time together.
    pub(crate) measured: u32,
    pub(crate) took: Duration,
}

/// A command that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Get { hit: bool },
    Set,
    Delete,
}

/// The prefixes of keys in commands, counted while counting is on.
#[derive(Debug)]
pub(crate) struct Prefixes {
    delimiter: u8,
    on: AtomicBool,
    counts: DashMap<Box<[u8]>, Counts>,
    len: AtomicUsize,
}

impl Prefixes {
    /// Returns an empty count, which is on if a delimiter was given (`-D`).
    pub(crate) fn new(delimiter: Option<u8>) -> Self {
        Prefixes {
            delimiter: delimiter.unwrap_or(b':'),
            on: delimiter.is_some().into(),
            counts: DashMap::new(),
            len: AtomicUsize::new(0),
        }
    }

    pub(crate) fn delimiter(&self) -> char {
        self.delimiter.into()
    }

    #[inline]
    pub(crate) fn on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(crate) fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Counts a command if its key has a prefix.
    pub(crate) fn count(&self, key: &[u8], asked: Counted) {
        let Some(len) = memchr::memchr(self.delimiter, key) else { return };
        let prefix = &key[..len];
        let count = |counts: &mut Counts| match asked {
            Counted::Get { hit } => {
                counts.get += 1;
                counts.hit += u64::from(hit);
            }
            Counted::Set => counts.set += 1,
            Counted::Delete => counts.del += 1,
        };
        if let Some(mut counts) = self.counts.get_mut(prefix) {
            return count(&mut counts);
        }
        if self.len.fetch_add(1, Ordering::Relaxed) < PREFIXES_MAX {
            count(self.counts.entry(prefix.into()).or_default().value_mut());
        } else {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Adds the time of a command that was measured, if its key has a prefix that is counted.
    #[cold]
    pub(crate) fn add_time(&self, key: &[u8], took: Duration) {
        let Some(len) = memchr::memchr(self.delimiter, key) else { return };
        if let Some(mut counts) = self.counts.get_mut(&key[..len]) {
            counts.measured = counts.measured.saturating_add(1);
            counts.took = counts.took.saturating_add(took);
        }
    }

    pub(crate) fn clear(&self) {
        self.counts.clear();
        self.len.store(0, Ordering::Relaxed);
    }

    /// Returns the prefixes with their counts.
    pub(crate) fn all(&self) -> Vec<(String, Counts)> {
        self.counts.iter().map(|entry| (String::from_utf8_lossy(entry.key()).into_owned(), *entry.value())).collect()
    }

    /// Returns the lines of `stats detail dump`.
    pub(crate) fn dump(&self) -> String {
        let mut lines = String::new();
        for (prefix, Counts { get, hit, set, del, .. }) in self.all() {
            let _ = write!(lines, "PREFIX {prefix} get {get} hit {hit} set {set} del {del}\r\n");
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_beyond_the_bound_are_not_counted() {
        let prefixes = Prefixes::new(None);
        for number in 0..PREFIXES_MAX + 10 {
            prefixes.count(format!("{number}:x").as_bytes(), Counted::Set);
        }
        prefixes.count(b"0:y", Counted::Get { hit: true });
        prefixes.count(b"no prefix", Counted::Get { hit: true });
        assert_eq!(prefixes.counts.len(), PREFIXES_MAX);
        assert!(prefixes.dump().contains("PREFIX 0 get 1 hit 1 set 1 del 0\r\n"));
        prefixes.clear();
        assert_eq!(prefixes.dump(), "");
    }
}
