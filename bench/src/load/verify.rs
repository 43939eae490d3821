//! Checks values against what was written: every value holds its key and version.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;

use crate::report::Verdict;
use crate::workload::Filler;

/// The key holds the acknowledged version.
const PRESENT: u64 = 1;
/// A write is under way: newer versions than the acknowledged one are right too, and so is a miss.
const WRITING: u64 = 2;
/// A write was never answered. Means the same as `WRITING`, until the next write is acknowledged.
const UNKNOWN: u64 = 4;
const VERSION_SHIFT: u32 = 3;

struct Key {
    /// The acknowledged version, shifted, and the three bits.
    state: AtomicU64,
    /// The highest version given to a write.
    issued: AtomicU64,
}

/// The state of every key. A key has at most one write under way, so its versions have an order.
pub(crate) struct Verifier {
    keys: Vec<Key>,
    checked: AtomicU64,
    wrong: AtomicU64,
    stale: AtomicU64,
    lost: AtomicU64,
    examples: Mutex<Vec<String>>,
}

/// Faults kept as text.
const EXAMPLES_MAX: usize = 10;

impl Verifier {
    /// A verifier of `count` keys. Versions go up from `first`, which must be above those of any earlier run on the
    /// server.
    ///
    /// # Errors
    ///
    /// There is no memory for so many keys.
    pub(crate) fn new(count: u64, first: u64) -> anyhow::Result<Verifier> {
        let key = || Key { state: AtomicU64::new(first << VERSION_SHIFT | UNKNOWN), issued: AtomicU64::new(first) };
        let mut keys = Vec::new();
        let room = keys.try_reserve_exact(usize::try_from(count)?);
        room.with_context(|| format!("--verify: no memory to keep the versions of {count} keys (--keys)"))?;
        keys.extend((0..count).map(|_| key()));
        Ok(Verifier {
            keys,
            checked: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            examples: Mutex::new(Vec::new()),
        })
    }

    /// Returns the version to write; `None` if another write of this key is under way.
    pub(crate) fn begin_write(&self, key: u64) -> Option<u64> {
        let key = &self.keys[key as usize];
        let before = key.state.fetch_or(WRITING, Ordering::AcqRel);
        (before & WRITING == 0).then(|| key.issued.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Notes that the write of `version` was acknowledged. `present` says whether the key has a value now.
    pub(crate) fn written(&self, key: u64, version: u64, present: bool) {
        let state = version << VERSION_SHIFT | if present { PRESENT } else { 0 };
        self.keys[key as usize].state.store(state, Ordering::Release);
    }

    /// Notes that a write got no usable answer: the key may have its value or not.
    pub(crate) fn write_unknown(&self, key: u64) {
        let key = &self.keys[key as usize];
        let state = key.state.load(Ordering::Acquire);
        key.state.store(state & !WRITING | UNKNOWN, Ordering::Release);
    }

    /// Returns the state of a key when a read of it is sent. [`Verifier::hit`] and [`Verifier::miss`] take it back with
    /// the answer.
    pub(crate) fn floor(&self, key: u64) -> u64 {
        self.keys[key as usize].state.load(Ordering::Acquire)
    }

    /// Checks a value of `key`, which must have `len` bytes.
    pub(crate) fn hit(&self, key: u64, floor: u64, len: usize, filler: &Filler, value: &[u8]) {
        self.checked.fetch_add(1, Ordering::Relaxed);
        let issued = self.keys[key as usize].issued.load(Ordering::Acquire);
        match filler.version(key, len, value) {
            Some(version) if version > issued => {
                self.fault(&self.wrong, || format!("wrong: key {key} has version {version}, never written"));
            }
            Some(version) if version < floor >> VERSION_SHIFT => {
                let known = floor >> VERSION_SHIFT;
                self.fault(&self.stale, || format!("stale: key {key} has version {version}, written was {known}"));
            }
            Some(_) => {}
            None => self.fault(&self.wrong, || {
                let len = value.len();
                format!(
                    "wrong: {len} bytes for key {key} are not a value of it: {}…",
                    value[..len.min(48)].escape_ascii()
                )
            }),
        }
    }

    /// Checks a miss of `key`: the key is lost if it was present all the time.
    pub(crate) fn miss(&self, key: u64, floor: u64) {
        self.checked.fetch_add(1, Ordering::Relaxed);
        let now = self.keys[key as usize].state.load(Ordering::Acquire);
        if now == floor && floor & (PRESENT | WRITING | UNKNOWN) == PRESENT {
            self.fault(&self.lost, || format!("lost: key {key}, version {}", floor >> VERSION_SHIFT));
        }
    }

    fn fault(&self, counter: &AtomicU64, words: impl FnOnce() -> String) {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if examples.len() < EXAMPLES_MAX {
            examples.push(words());
        }
    }

    /// Returns the counts so far.
    pub(crate) fn verdict(&self) -> Verdict {
        Verdict {
            checked: self.checked.load(Ordering::Relaxed),
            wrong: self.wrong.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            examples: self.examples.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(filler: &Filler, key: u64, version: u64) -> Vec<u8> {
        let mut value = Vec::new();
        filler.write(key, version, 40, &mut value);
        value
    }

    #[test]
    fn stale_lost_and_wrong_are_told_apart() {
        let filler = Filler::new(40);
        let verifier = Verifier::new(2, 100).expect("two keys fit");
        let first = verifier.begin_write(0).expect("nobody writes");
        verifier.written(0, first, true);
        let second = verifier.begin_write(0).expect("nobody writes");
        assert_eq!(verifier.begin_write(0), None);
        let during = verifier.floor(0);
        verifier.hit(0, during, 40, &filler, &value(&filler, 0, first));
        verifier.hit(0, during, 40, &filler, &value(&filler, 0, second));
        verifier.miss(0, during);
        assert!(!verifier.verdict().is_bad() && verifier.verdict().lost == 0);
        verifier.written(0, second, true);
        let after = verifier.floor(0);
        verifier.hit(0, after, 40, &filler, &value(&filler, 0, first));
        assert_eq!(verifier.verdict().stale, 1);
        verifier.hit(0, after, 40, &filler, &value(&filler, 1, second));
        verifier.hit(0, after, 40, &filler, &value(&filler, 0, second + 1));
        assert_eq!(verifier.verdict().wrong, 2);
        verifier.miss(0, after);
        assert_eq!(verifier.verdict().lost, 1);
        assert_eq!(verifier.verdict().checked, 7);
    }

    #[test]
    fn a_write_without_an_answer_allows_both_values() {
        let filler = Filler::new(40);
        let verifier = Verifier::new(1, 0).expect("one key fits");
        let first = verifier.begin_write(0).expect("nobody writes");
        verifier.written(0, first, true);
        let second = verifier.begin_write(0).expect("nobody writes");
        verifier.write_unknown(0);
        let floor = verifier.floor(0);
        verifier.hit(0, floor, 40, &filler, &value(&filler, 0, first));
        verifier.hit(0, floor, 40, &filler, &value(&filler, 0, second));
        verifier.miss(0, floor);
        let verdict = verifier.verdict();
        assert_eq!((verdict.wrong, verdict.stale, verdict.lost), (0, 0, 0));
    }
}
