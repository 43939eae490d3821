//! The engine: items under keys, within a strict budget of memory.
//!
//! It knows bytes, flags, time and CAS numbers, and no protocol. A command's meaning is written over an [`Entry`]: one
//! key's item with its shard locked. Time is a value, so that tests move it.
//!
//! # Layout
//!
//! A store is up to 64 shards by the top bits of a key's hash, each behind its own lock and with its own part of the memory limit. A shard has
//! an `index` of 8-byte slots (tag 24 bits, uses 4 bits, location 36 bits; eight slots a cache line), a log of `segment`s
//! (1/256 to 1/512 of the shard, 4 KiB to 1 MiB) and an area for `large` values. In the log an `item` is
//!
//! ```text
//! 0 state bits | 1 key length | 2..4 value length | 4..7 CAS difference | 7..10 last access | flags 4? | expiry 4? | CAS 8? | key | value
//! ```
//!
//! where the fields with a question mark are there only if they say something. All locations are offsets into one
//! reservation (`memory`, the only unsafe code). Values above an eighth of a segment or 16 KiB are blocks of their own, shared by reference count;
//! their items hold 4 bytes for them. `write` makes room and puts items in place; `reclaim` empties a segment in slices: one whose items have expired, one that is
//! more than half dead, or the one that the `eviction` policy offers.
//!
//! The log is held in huge pages where the system has them: 5 % less CPU a get, 12 % with values of 1 KiB. In exchange each shard has up to
//! 2 MiB more in memory than it uses until it is full.
//!
//! What it takes and what it does is in the README beside this file.

mod entry;
mod eviction;
mod eviction_log;
mod index;
mod item;
mod large;
mod memory;
mod reclaim;
mod segment;
mod shard;
mod statistics;
#[cfg(test)]
mod tests;
mod time;
mod write;

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rapidhash::v3::RapidSecrets;

pub use entry::Entry;
pub use eviction::Eviction;
use eviction_log::EvictionLog;
pub use item::{InsertError, Item, ItemInfo, NewItem};
use shard::{Layout, Shard};
pub use statistics::Statistics;
pub use time::{Expiry, Time};

/// What a store is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that items, their index and their slack may take together.
    pub memory_limit: usize,
    /// Largest item in bytes, key and value together.
    pub item_size_max: usize,
    /// What leaves first when memory is full.
    pub eviction: Eviction,
    /// The present, from which CAS numbers start: they stay unique across restarts.
    pub now: Time,
}

/// Where a [scan](Store::scan) goes on. The default is the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    shard: usize,
    table: usize,
    tag: u64,
}

/// Why a store can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The limit leaves no room for the least a store needs.
    #[error("a memory limit of {limit} bytes is too small: at least {least} are needed")]
    TooSmall {
        /// The limit asked for, bytes.
        limit: usize,
        /// The least that works, bytes.
        least: usize,
    },
    /// The system gave no address space.
    #[error("can't reserve {bytes} bytes of address space: {source}")]
    Reserve {
        /// Bytes asked for.
        bytes: usize,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The hash of a key, seeded anew in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(u64);

/// A concurrent store of items. See the [module](self).
pub struct Store {
    shards: Box<[LockedShard]>,
    secrets: RapidSecrets,
    item_size_max: usize,
    memory_limit: AtomicU64,
    /// The most that the reserved address space allows.
    most_memory: usize,
    flush: Flush,
}

/// On cache lines of its own (pairs of them are fetched together): threads in different shards do not wait for each other's.
#[repr(align(128))]
struct LockedShard(Mutex<Shard>);

impl LockedShard {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock()
    }
}

/// When everything written before is gone: `flush_all` with a delay.
#[derive(Default)]
struct Flush {
    at: AtomicU32,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

/// The least memory a store works with.
const LEAST_MEMORY: usize = 256 * 1024;

impl Store {
    /// An empty store.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let limit = config.memory_limit;
        if limit < LEAST_MEMORY {
            return Err(Error::TooSmall { limit, least: LEAST_MEMORY });
        }
        let secrets = RapidSecrets::seed_cpp(rand_seed());
        let layout = Layout::new(config.memory_limit, config.item_size_max, config.eviction, secrets);
        // Address space for a limit that is raised later, and for large values that leave holes; it costs nothing until it is used.
        let most_memory = if cfg!(miri) { limit } else { limit.saturating_mul(4).max(2 << 30) };
        let lengths = (0..layout.shards).flat_map(|_| {
            [most_memory / layout.shards, index::reservation(layout.tables), most_memory / layout.shards]
        });
        let bytes = lengths.clone().sum();
        let mut parts = memory::reserve(lengths).map_err(|source| Error::Reserve { bytes, source })?.into_iter();
        // Counting starts from the clock, and the clock outruns any count of writes: a number is not given again after a restart.
        let count = cas_start(config.now);
        let shards = (0..layout.shards).map(|number| {
            let parts = [(); 3].map(|()| parts.next().expect("three parts a shard"));
            LockedShard(Mutex::new(Shard::new(&layout, number, limit / layout.shards, count, parts)))
        });
        Ok(Store {
            shards: shards.collect(),
            secrets,
            item_size_max: config.item_size_max,
            memory_limit: AtomicU64::new(limit as u64),
            most_memory,
            flush: Flush::default(),
        })
    }

    /// The hash that [`Store::entry`] takes.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> Hash {
        Hash(shard::hash(key, &self.secrets))
    }

    /// Asks the processor to fetch what looking up these hashes will read, all at once instead of one after the other.
    #[inline]
    pub fn prefetch(&self, hashes: impl Iterator<Item = Hash> + Clone) {
        for hash in hashes.clone() {
            self.shard(hash).lock().index.prefetch(hash.0);
        }
        for hash in hashes {
            self.shard(hash).lock().prefetch_items(hash.0);
        }
    }

    #[inline]
    fn shard(&self, hash: Hash) -> &LockedShard {
        &self.shards[(hash.0 >> 58) as usize & (self.shards.len() - 1)]
    }

    /// Locks the shard of `key` and finds its item. An item that has expired or was flushed is as missing.
    #[inline]
    pub fn entry<'s, 'k>(&'s self, key: &'k [u8], hash: Hash, now: Time) -> Entry<'s, 'k> {
        self.open(key, hash, now, None)
    }

    /// Like [`Store::entry`], for a command that may insert `value`: a large value is copied to its place before the shard is locked.
    #[inline]
    pub fn entry_for_write<'s, 'k>(&'s self, key: &'k [u8], hash: Hash, now: Time, value: &[u8]) -> Entry<'s, 'k> {
        let staged = if value.len() < SMALL_MAX || key.len() + value.len() > self.item_size_max {
            None
        } else {
            let block = self.shard(hash).lock().stage(value.len(), now);
            block.map(|mut block| {
                block.bytes_mut().copy_from_slice(value);
                Bytes::from_owner(block)
            })
        };
        self.open(key, hash, now, staged)
    }

    #[inline]
    fn open<'s, 'k>(&'s self, key: &'k [u8], hash: Hash, now: Time, staged: Option<Bytes>) -> Entry<'s, 'k> {
        let mut shard = self.shard(hash).lock();
        self.flush_if_due(&mut shard, now);
        Entry::new(shard, key, hash.0, now, staged, self.item_size_max)
    }

    #[inline]
    fn flush_if_due(&self, shard: &mut Shard, now: Time) {
        let at = self.flush.at.load(Ordering::Relaxed);
        if at != 0 && at <= now.0 {
            shard.flush_before(Time(at));
        }
    }

    /// Everything written before `at` is gone once `now` has come to it: at once where `at` is not in the future.
    pub fn flush_all(&self, at: Time, now: Time) {
        if at <= now {
            self.flush.at.store(0, Ordering::Relaxed);
            for shard in &self.shards {
                shard.lock().clear();
            }
        } else {
            self.flush.at.store(at.0, Ordering::Relaxed);
        }
    }

    /// All background work that is due, in slices that let requests in between.
    pub fn maintain(&self, now: Time) {
        for shard in &self.shards {
            loop {
                let mut shard = shard.lock();
                self.flush_if_due(&mut shard, now);
                if !shard.tidy(now) {
                    break;
                }
            }
        }
    }

    /// Changes the budget, evicting down to it. It can't pass four times what the store began with (2 GiB if that is more).
    pub fn set_memory_limit(&self, bytes: usize, now: Time) {
        let bytes = bytes.clamp(LEAST_MEMORY, self.most_memory);
        self.memory_limit.store(bytes as u64, Ordering::Relaxed);
        for shard in &self.shards {
            shard.lock().limit = bytes / self.shards.len();
            while shard.lock().shrink(now) {}
        }
    }

    /// The budget in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory_limit.load(Ordering::Relaxed) as usize
    }

    /// The item size limit in bytes.
    pub fn item_size_max(&self) -> usize {
        self.item_size_max
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> usize {
        self.shards[0].lock().log.segment_bytes()
    }

    /// Calls `f` with every live item, one shard locked at a time.
    pub fn for_each(&self, now: Time, mut f: impl FnMut(&ItemInfo<'_>)) {
        let mut cursor = Cursor::default();
        while self.scan(&mut cursor, now, &mut f) {}
    }

    /// Calls `f` with some live items, a few hundred at most, and moves the cursor past them; false at the end. Items written, moved or removed
    /// meanwhile may be seen or not; all others are seen once.
    pub fn scan(&self, cursor: &mut Cursor, now: Time, mut f: impl FnMut(&ItemInfo<'_>)) -> bool {
        let Some(shard) = self.shards.get(cursor.shard) else { return false };
        let mut shard = shard.lock();
        self.flush_if_due(&mut shard, now);
        let next = shard.scan(cursor.table, cursor.tag, now, &mut f);
        *cursor = match next {
            Some(tag) => Cursor { tag, ..*cursor },
            None if cursor.table + 1 < shard.tables() => Cursor { table: cursor.table + 1, tag: 0, ..*cursor },
            None => Cursor { shard: cursor.shard + 1, ..Cursor::default() },
        };
        cursor.shard < self.shards.len()
    }

    /// Whether evictions are noted for [`Store::take_evictions`]. At first they are not.
    pub fn watch_evictions(&self, on: bool) {
        for shard in &self.shards {
            let watch = &mut shard.lock().watch;
            match on {
                true => drop(watch.get_or_insert_with(EvictionLog::default)),
                false => *watch = None,
            }
        }
    }

    /// Calls `f` with the items evicted since the last call, and returns how many more there were: of each shard the first few hundred
    /// are noted.
    pub fn take_evictions(&self, mut f: impl FnMut(&ItemInfo<'_>)) -> u64 {
        let taken = self.shards.iter().filter_map(|shard| shard.lock().watch.as_mut().map(std::mem::take));
        // Not under the shard's lock: what `f` does is not ours.
        taken.map(|watch| watch.show(&mut f)).sum()
    }

    /// When the item was last used that eviction is likely to take next; `None` where that is not known.
    pub fn oldest_use(&self, now: Time) -> Option<Time> {
        self.shards.iter().filter_map(|shard| shard.lock().oldest_use(now)).min()
    }

    /// The sum of the shards' statistics.
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for shard in &self.shards {
            sum.add(shard.lock().statistics());
        }
        sum
    }

    /// Sets the counters (not the gauges) to zero.
    pub fn reset_statistics(&self) {
        for shard in &self.shards {
            shard.lock().statistics.reset();
        }
    }
}

/// Values from here on may be large; what is, a shard decides by the size of its segments.
const SMALL_MAX: usize = 512;

/// 2^25 counts a second in each shard.
fn cas_start(now: Time) -> u64 {
    let subsecond =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    (u64::from(now.0) << 25) + u64::from(subsecond >> 5)
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
