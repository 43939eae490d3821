//! The engine: items under keys, within a strict budget of memory.
//!
//! The engine knows bytes, flags, time and CAS numbers, and no protocol. A command works on an [`Entry`]: one key's
//! item with its shard locked. The time is an argument, so that tests can set it.
//!
//! # Layout
//!
//! A store is up to 64 shards by the top bits of a key's hash, each behind its own lock and with its own part of the
//! memory limit. A shard has an `index` of 8-byte slots (tag 24 bits, uses 6 bits, location 34 bits; eight slots a
//! cache line), a log of `segment`s (1/128 to 1/512 of the shard, 8 KiB to 1 MiB) and an area for `large` values. In
//! the log an `item` is
//!
//! ```text
//! 0 state bits | 1 key length | 2..4 value length | 4..7 CAS difference | 7..10 last access | flags 4? | expiry 4? |
//! CAS 8? | key | value
//! ```
//!
//! Fields with a question mark are left out where they are zero. All locations are offsets into one reservation
//! (`memory`, the only unsafe code). Values above a quarter of a segment or 16 KiB are blocks of their own, shared by
//! reference count; their items hold 4 bytes for them. `write` makes room and puts items in place; `reclaim` empties a
//! segment in slices: one whose items have expired, one that is more than half dead, or the one that the `eviction`
//! policy offers.
//!
//! The log is held in huge pages where the system has them: 5 % less CPU a get, 12 % with values of 1 KiB. In exchange
//! each shard has up to 2 MiB more in memory than it uses until it is full.
//!
//! The README beside this file has the figures.

mod density;
mod entry;
mod estimate;
mod eviction;
mod eviction_log;
mod ghosts;
mod image;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rapidhash::v3::RapidSecrets;

pub use entry::{Entry, Lost};
use estimate::{Estimator, FACTORS};
pub use eviction::Eviction;
use eviction::Lane;
use eviction_log::EvictionLog;
use image::Identity;
pub use image::LoadError;
pub use item::{InsertError, Item, ItemInfo, NewItem};
pub use large::Block;
use large::LargeArea;
use shard::{Layout, Shard};
pub use statistics::Statistics;
pub use time::{Expiry, Time};

/// The settings of a store.
#[derive(Debug, Clone)]
pub struct Config {
    /// Limit in bytes for items, their index and free space between them.
    pub memory_limit: usize,
    /// Largest item in bytes, key and value together.
    pub item_size_max: usize,
    /// Which items leave first when memory is full.
    pub eviction: Eviction,
    /// The present. CAS numbers start from it, so that they stay unique across restarts.
    pub now: Time,
}

/// The position of a [scan](Store::scan). The default is the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    shard: usize,
    table: usize,
    tag: u64,
}

/// Why a store can't be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The limit is below the least that a store needs.
    #[error("a memory limit of {limit} bytes is too small: at least {least} are needed")]
    TooSmall {
        /// The limit in bytes.
        limit: usize,
        /// The least limit that works, in bytes.
        least: usize,
    },
    /// The system refused the address space.
    #[error("can't reserve {bytes} bytes of address space: {source}")]
    Reserve {
        /// Bytes of address space.
        bytes: usize,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The hash of a key. The seed is new in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(u64);

/// A concurrent store of items. See the [module](self).
pub struct Store {
    shards: Box<[LockedShard]>,
    secrets: RapidSecrets,
    identity: Identity,
    item_size_max: usize,
    memory_limit: AtomicU64,
    /// The highest limit that the reserved address space allows.
    most_memory: usize,
    flush: Flush,
    estimator: Mutex<Estimator>,
    /// Memory beside the limit, for [`Store::keep`].
    beside: Arc<LargeArea>,
}

/// A shard on cache lines of its own, so that threads in different shards do not contend. The processor fetches lines
/// in pairs: hence 128 bytes.
#[repr(align(128))]
struct LockedShard(Mutex<Shard>);

impl LockedShard {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock()
    }
}

/// The estimated hits with another amount of memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OtherMemory {
    /// The memory as a multiple of the store's.
    pub factor: f64,
    /// Hits more than the store had; below 0 where it would have had fewer.
    pub hits: f64,
}

/// When a delayed `flush_all` is due; 0 is never.
#[derive(Default)]
struct Flush {
    at: AtomicU32,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

/// Most memory beside the limit, in bytes, that [`Store::keep`] takes.
pub const BESIDE_MAX: usize = if cfg!(miri) { 1 << 16 } else { 32 << 20 };

/// Fewer bytes than this are kept in the heap: they are part of what each connection costs.
const HEAP_MAX: usize = 1024;

/// The least memory limit of a store, in bytes.
const LEAST_MEMORY: usize = 256 * 1024;

impl Store {
    /// Creates an empty store.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`] below 256 KiB, [`Error::Reserve`] if the system refuses the address space.
    pub fn new(config: &Config) -> Result<Self, Error> {
        Store::with_seed(config, rand_seed())
    }

    /// Creates an empty store whose keys are hashed with this seed.
    fn with_seed(config: &Config, seed: u64) -> Result<Self, Error> {
        let limit = config.memory_limit;
        if limit < LEAST_MEMORY {
            return Err(Error::TooSmall { limit, least: LEAST_MEMORY });
        }
        let secrets = RapidSecrets::seed_cpp(seed);
        let layout = Layout::new(config.memory_limit, config.item_size_max, config.eviction, secrets);
        // Address space for a limit that is raised later, and for holes between large values. It costs nothing until
        // used.
        let most_memory = if cfg!(miri) { limit } else { limit.saturating_mul(4).max(2 << 30) };
        let lengths = (0..layout.shards).flat_map(|_| {
            [
                (most_memory / layout.shards).min(index::LOG_BYTES_MAX),
                index::reservation(layout.tables),
                index::reservation(layout.tables),
                most_memory / layout.shards,
            ]
        });
        let lengths = lengths.chain([BESIDE_MAX]);
        let bytes = lengths.clone().sum();
        let mut parts = memory::reserve(lengths).map_err(|source| Error::Reserve { bytes, source })?.into_iter();
        // CAS counts start from the clock, which runs faster than any count of writes: no number is used again after a
        // restart.
        let count = cas_start(config.now);
        let shards = (0..layout.shards).map(|number| {
            let parts = [(); 4].map(|()| parts.next().expect("four parts a shard"));
            LockedShard(Mutex::new(Shard::new(&layout, number, limit / layout.shards, count, parts)))
        });
        let shards = shards.collect();
        Ok(Store {
            shards,
            beside: LargeArea::new(parts.next().expect("one part beside the shards")),
            secrets,
            identity: Identity::new(config, &layout, seed),
            item_size_max: config.item_size_max,
            memory_limit: AtomicU64::new(limit as u64),
            most_memory,
            flush: Flush::default(),
            estimator: Mutex::new(Estimator::new(config.eviction)),
        })
    }

    /// Returns the hash of a key, as [`Store::entry`] takes it.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> Hash {
        Hash(shard::hash(key, &self.secrets))
    }

    /// Makes the processor fetch the memory that look-ups of these hashes read, all at once instead of one after the
    /// other.
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

    /// Numbers CAS uniques from now on so that no other member of a cluster gives them out: `slot` is this one's, below 64.
    pub fn start_cas(&self, slot: u8, now: Time) {
        let count = cas_start(now) | u64::from(slot) << CAS_SLOT_SHIFT;
        for shard in &self.shards {
            shard.lock().cas_count = count;
        }
    }

    /// Locks the shard of `key` and finds its item. An item that has expired or was flushed counts as missing.
    #[inline]
    pub fn entry<'s, 'k>(&'s self, key: &'k [u8], hash: Hash, now: Time) -> Entry<'s, 'k> {
        self.open(key, hash, now, None)
    }

    /// Whether a value gets its memory before its entry is locked.
    #[inline]
    pub fn may_be_large(value: &[u8]) -> bool {
        value.len() >= SMALL_MAX
    }

    /// Like [`Store::entry`], for a command that may insert `value`. A large value is copied into its block before the
    /// shard is locked.
    #[inline]
    pub fn entry_for_write<'s, 'k>(&'s self, key: &'k [u8], hash: Hash, now: Time, value: &[u8]) -> Entry<'s, 'k> {
        let staged = if !Store::may_be_large(value) || key.len() + value.len() > self.item_size_max {
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

    /// Lends `len` bytes of the memory limit, to receive a value for a key of this hash; items are evicted for them.
    /// `None`: there is no room, or what is lent has half of a shard's memory already.
    pub fn lend(&self, hash: Hash, len: usize, now: Time) -> Option<Block> {
        self.shard(hash).lock().lend(len, now)
    }

    /// Like [`Store::entry_for_write`], for a large value in a block that was lent for this hash: it is not copied.
    pub fn entry_received<'s, 'k>(&'s self, key: &'k [u8], hash: Hash, now: Time, value: Bytes) -> Entry<'s, 'k> {
        self.open(key, hash, now, Some(value))
    }

    /// Returns a copy of bytes that a connection waits with: in memory beside the limit while there is some
    /// ([`BESIDE_MAX`]), else in memory that is lent. `None`: there is none of either.
    pub fn keep(&self, bytes: &[u8], now: Time) -> Option<Bytes> {
        if bytes.len() < HEAP_MAX {
            return Some(Bytes::copy_from_slice(bytes));
        }
        let lend = || {
            // From any shard, and not from the same one at each time.
            let first = self.hash(&bytes[..HEAP_MAX]).0 as usize;
            let mut shards = (0..self.shards.len()).map(|n| &self.shards[first.wrapping_add(n) % self.shards.len()]);
            shards.find_map(|shard| shard.lock().lend(bytes.len(), now))
        };
        let mut block = self.beside.allocate(bytes.len(), usize::MAX).or_else(lend)?;
        block.bytes_mut().copy_from_slice(bytes);
        Some(Bytes::from_owner(block))
    }

    /// Whether connections wait with so much that half of the memory beside the limit is taken.
    #[inline]
    pub fn keeps_much(&self) -> bool {
        self.beside.used() > BESIDE_MAX / 2
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

    /// Removes everything written before `at`: at once where `at` is not in the future, else when that time comes.
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

    /// Does all background work that is due, in slices, so that requests get the locks in between.
    pub fn maintain(&self, now: Time) {
        self.beside.trim(self.beside.idle().saturating_sub(BESIDE_MAX / 8));
        for shard in &self.shards {
            loop {
                let mut shard = shard.lock();
                self.flush_if_due(&mut shard, now);
                if !shard.tidy(now) {
                    break;
                }
            }
        }
        self.update_estimate(now);
    }

    /// Brings the estimate of [`Store::hits_with_other_memory`] up to date. [`Store::maintain`] does that too.
    pub fn update_estimate(&self, now: Time) {
        let mut estimator = self.estimator.lock();
        let mut statistics = Statistics::default();
        for shard in &self.shards {
            let mut shard = shard.lock();
            estimator.take(&mut shard.sample);
            shard.density.tuning = estimator.tuning();
            statistics.add(shard.statistics());
        }
        let layout = |limit| Layout::sizes(limit, self.item_size_max);
        estimator.update(&statistics, self.memory_limit(), layout, now);
    }

    /// Returns an estimate of how many hits more there would have been with other amounts of memory, since the start or
    /// [`Store::reset_statistics`]: for half the memory, twice and four times as much. A node that had more memory from
    /// its start would have filled it first, and so does the estimate.
    ///
    /// Reads count that [`Entry::note_read`] notes. The estimate is of the store's own eviction policy, with
    /// [`Eviction::Never`] it is 0; it takes up to 4.5 MB of memory beside the limit.
    pub fn hits_with_other_memory(&self) -> [OtherMemory; FACTORS.len()] {
        let gained = self.estimator.lock().gained();
        std::array::from_fn(|at| OtherMemory { factor: FACTORS[at], hits: gained[at] })
    }

    /// Changes the memory limit in bytes, and evicts down to it. The limit can't exceed four times the first one (2 GiB
    /// if that is more).
    pub fn set_memory_limit(&self, bytes: usize, now: Time) {
        let bytes = bytes.clamp(LEAST_MEMORY, self.most_memory);
        self.memory_limit.store(bytes as u64, Ordering::Relaxed);
        for shard in &self.shards {
            shard.lock().limit = bytes / self.shards.len();
            while shard.lock().shrink(now) {}
        }
    }

    /// Returns the memory limit in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory_limit.load(Ordering::Relaxed) as usize
    }

    /// Returns the item size limit in bytes.
    pub fn item_size_max(&self) -> usize {
        self.item_size_max
    }

    /// Returns the bytes of a segment.
    pub fn segment_bytes(&self) -> usize {
        self.shards[0].lock().log.segment_bytes()
    }

    /// Calls `f` with every live item. One shard is locked at a time.
    pub fn for_each(&self, now: Time, mut f: impl FnMut(&ItemInfo<'_>)) {
        let mut cursor = Cursor::default();
        while self.scan(&mut cursor, now, &mut f) {}
    }

    /// Calls `f` with some live items, a few hundred at most, and moves the cursor past them. Returns `false` at the
    /// end. Items that are written, moved or removed between the calls of one scan may be shown or not; all others are
    /// shown once.
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

    /// Switches the record of evictions for [`Store::take_evictions`] on or off. It is off at first.
    pub fn watch_evictions(&self, on: bool) {
        for shard in &self.shards {
            let log = &mut shard.lock().eviction_log;
            match on {
                true => drop(log.get_or_insert_with(EvictionLog::default)),
                false => *log = None,
            }
        }
    }

    /// Calls `f` with the items evicted since the last call: the first few hundred of each shard. Returns how many more
    /// there were.
    pub fn take_evictions(&self, mut f: impl FnMut(&ItemInfo<'_>)) -> u64 {
        let taken = self.shards.iter().filter_map(|shard| shard.lock().eviction_log.as_mut().map(std::mem::take));
        // Without the shard's lock: `f` may take long.
        taken.map(|log| log.show(&mut f)).sum()
    }

    /// Returns when the item that eviction is likely to take next was last used; `None` if that is not known.
    pub fn oldest_use(&self, now: Time) -> Option<Time> {
        self.shards.iter().filter_map(|shard| shard.lock().oldest_use(now)).min()
    }

    /// Returns when the oldest items were last used: of those that are as they were written, and of those that eviction
    /// has kept. `None` where there are none.
    pub fn oldest_uses(&self, now: Time) -> [Option<Time>; 2] {
        [Lane::New, Lane::Kept]
            .map(|lane| self.shards.iter().filter_map(|shard| shard.lock().oldest_use_of(lane, now)).min())
    }

    /// Returns the sum of the shards' statistics.
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for shard in &self.shards {
            sum.add(shard.lock().statistics());
        }
        sum
    }

    /// Sets the counters, but not the gauges, to zero.
    pub fn reset_statistics(&self) {
        for shard in &self.shards {
            shard.lock().statistics.reset();
        }
        self.estimator.lock().reset();
    }
}

/// Lower bound of every shard's `small_max`: shorter values are never stored as large ones.
const SMALL_MAX: usize = 512;

/// A CAS unique is, from the top: 0, a member's slot (6 bits), a count (51 bits) and the shard (up to 6 bits). The top bit is 0 since
/// some clients read a signed number.
const CAS_SLOT_SHIFT: u32 = 51;

/// Unix time of the beginning of 2020.
const YEAR_2020: u32 = 1_577_836_800;

/// Counting starts at 2^21 a second since 2020, in each shard: more than a shard is written to, on average over a restart.
fn cas_start(now: Time) -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let subsecond = since.map_or(0, |since| since.subsec_nanos());
    (u64::from(now.0.saturating_sub(YEAR_2020)) << 21) + u64::from(subsecond >> 9)
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
