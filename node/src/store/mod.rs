//! The engine: items under keys, within a strict budget of memory.
//!
//! It knows bytes, flags, time and CAS numbers, and no protocol. A command's meaning is written over an [`Entry`]: one
//! key's item with its shard locked. Time is a value, so that tests move it.

mod shard;

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use shard::Shard;
pub use shard::Statistics;

/// Unix time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u32);

/// When an item expires: at a time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(u32);

impl Expiry {
    /// The item stays until it is evicted.
    pub const NEVER: Expiry = Expiry(0);

    /// The item is gone from `time` on.
    pub fn at(time: Time) -> Self {
        Expiry(time.0.max(1))
    }

    /// The time, or `None` for never.
    pub fn time(self) -> Option<Time> {
        (self.0 != 0).then_some(Time(self.0))
    }

    /// Whether the item is gone at `now`.
    #[inline]
    pub fn has_passed(self, now: Time) -> bool {
        self.0 != 0 && self.0 <= now.0
    }

    /// Seconds left at `now`; `None` is forever.
    pub fn remaining(self, now: Time) -> Option<u32> {
        self.time().map(|time| time.0.saturating_sub(now.0))
    }
}

/// What a store is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that items, their index and their slack may take together.
    pub memory_limit: usize,
    /// Largest item in bytes, key and value together.
    pub item_size_max: usize,
    /// The present, from which CAS numbers start: they stay unique across restarts.
    pub now: Time,
}

/// The hash of a key, seeded anew in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(u64);

/// Why an item was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// It is above the item size limit.
    #[error("item is above the size limit")]
    TooLarge,
    /// No memory could be freed for it.
    #[error("no memory for the item")]
    OutOfMemory,
}

/// An item to store.
#[derive(Debug, Clone, Copy)]
pub struct NewItem<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// Its CAS unique; `None` takes the next.
    pub cas: Option<u64>,
    /// It is stale from the start.
    pub stale: bool,
    /// The right to recache it was handed out.
    pub won: bool,
}

impl<'a> NewItem<'a> {
    /// A fresh item.
    pub fn new(value: &'a [u8], flags: u32, expiry: Expiry) -> Self {
        NewItem { value, flags, expiry, cas: None, stale: false, won: false }
    }
}

/// An item as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// Its CAS unique.
    pub cas: u64,
    /// When it expires.
    pub expiry: Expiry,
    /// When it was last written or bumped.
    pub last_access: Time,
    /// It was read since it was written.
    pub fetched: bool,
    /// It was marked stale.
    pub stale: bool,
    /// The right to recache it was handed out.
    pub won: bool,
    /// Bytes it takes in all.
    pub size: usize,
    owner: &'a Bytes,
}

impl Item<'_> {
    /// For large values a handle that keeps the value alive without the lock; `None` means: small, copy it now.
    pub fn pin(&self) -> Option<Bytes> {
        (self.value.len() >= LARGE_VALUE).then(|| self.owner.slice_ref(self.value))
    }
}

/// Values from this many bytes on are handed out by reference.
pub const LARGE_VALUE: usize = 16 * 1024;

/// An item's metadata, for dumps.
#[derive(Debug, Clone, Copy)]
pub struct ItemInfo<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// When it expires.
    pub expiry: Expiry,
    /// When it was last used.
    pub last_access: Time,
    /// Its CAS unique.
    pub cas: u64,
    /// Whether it was read since it was written.
    pub fetched: bool,
    /// The client's flags.
    pub flags: u32,
    /// Bytes it takes.
    pub size: usize,
}

/// A concurrent store of items. See the [module](self).
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    seed: u64,
    next_cas: AtomicU64,
    item_size_max: usize,
    memory_limit: AtomicU64,
    flush: Flush,
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

/// Enough shards that two cores rarely meet, few enough that each has a fair share of a small budget.
const SHARDS: usize = 64;

impl Store {
    /// An empty store.
    pub fn new(config: &Config) -> Self {
        // A small budget in many shards would leave each no room for one large item.
        let shards = (config.memory_limit / (2 * config.item_size_max)).clamp(1, SHARDS);
        let shards = if shards.is_power_of_two() { shards } else { shards.next_power_of_two() / 2 };
        Store {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(config.memory_limit / shards))).collect(),
            seed: rand_seed(),
            next_cas: AtomicU64::new(u64::from(config.now.0) << 24),
            item_size_max: config.item_size_max,
            memory_limit: AtomicU64::new(config.memory_limit as u64),
            flush: Flush::default(),
        }
    }

    /// The hash that [`Store::entry`] takes.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> Hash {
        Hash(rapidhash::v3::rapidhash_v3_seeded(key, &rapidhash::v3::RapidSecrets::seed_cpp(self.seed)))
    }

    /// Locks the shard of `key` and finds its item. An item that has expired or was flushed is as missing.
    #[inline]
    pub fn entry<'s, 'k>(&'s self, key: &'k [u8], hash: Hash, now: Time) -> Entry<'s, 'k> {
        let index = (hash.0 >> 32) as usize & (self.shards.len() - 1);
        let mut shard = self.shards[index].lock();
        let flush_at = self.flush.at.load(Ordering::Relaxed);
        if flush_at != 0 && flush_at <= now.0 {
            shard.flush_before(Time(flush_at));
        }
        let slot = shard.find(key, hash.0, now);
        Entry { store: self, shard, slot, key, hash, now }
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

    /// One bounded slice of background work: gives back the memory of expired items.
    pub fn maintain(&self, now: Time) {
        for shard in &self.shards {
            shard.lock().reclaim(now, 256);
        }
    }

    /// Changes the budget, evicting down to it.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.memory_limit.store(bytes as u64, Ordering::Relaxed);
        for shard in &self.shards {
            shard.lock().set_limit(bytes / self.shards.len());
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

    /// Calls `f` with every live item, one shard locked at a time.
    pub fn for_each(&self, now: Time, mut f: impl FnMut(&ItemInfo<'_>)) {
        for shard in &self.shards {
            shard.lock().for_each(now, &mut f);
        }
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
            shard.lock().reset_statistics();
        }
    }

    fn cas(&self, wanted: Option<u64>) -> u64 {
        wanted.unwrap_or_else(|| self.next_cas.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// One key, its shard locked. Keep it short: no I/O while it lives.
pub struct Entry<'s, 'k> {
    store: &'s Store,
    shard: MutexGuard<'s, Shard>,
    slot: Option<u32>,
    key: &'k [u8],
    hash: Hash,
    now: Time,
}

impl fmt::Debug for Entry<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("item", &self.item()).finish_non_exhaustive()
    }
}

impl Entry<'_, '_> {
    /// The item, if there is one.
    #[inline]
    pub fn item(&self) -> Option<Item<'_>> {
        self.slot.map(|slot| self.shard.item(slot))
    }

    /// Creates the item or replaces it, and returns its CAS unique. Where it cannot, what was there stays.
    pub fn insert(&mut self, new: NewItem<'_>) -> Result<u64, InsertError> {
        self.write(&[new.value], new)
    }

    /// Adds `tail` behind the value of the item, which must be there; flags and expiry stay.
    pub fn append(&mut self, tail: &[u8], cas: Option<u64>) -> Result<u64, InsertError> {
        self.join(tail, cas, false)
    }

    /// Adds `head` before the value of the item, which must be there; flags and expiry stay.
    pub fn prepend(&mut self, head: &[u8], cas: Option<u64>) -> Result<u64, InsertError> {
        self.join(head, cas, true)
    }

    fn join(&mut self, more: &[u8], cas: Option<u64>, before: bool) -> Result<u64, InsertError> {
        let Some(slot) = self.slot else { return Err(InsertError::OutOfMemory) };
        let (old, item) = self.shard.value(slot);
        let new = NewItem { value: b"", flags: item.0, expiry: item.1, cas, stale: false, won: false };
        if before { self.write(&[more, &old], new) } else { self.write(&[&old, more], new) }
    }

    /// Replaces the value of the item, which must be there; flags and expiry stay. A value of the same length is written in
    /// place: then the marks (fetched, stale, won) stay too.
    pub fn set_value(&mut self, value: &[u8], cas: Option<u64>) -> Result<u64, InsertError> {
        let Some(item) = self.item() else { return Err(InsertError::OutOfMemory) };
        let in_place = item.value.len() == value.len();
        let (stale, won, fetched) = (in_place && item.stale, in_place && item.won, in_place && item.fetched);
        let new = NewItem { value, flags: item.flags, expiry: item.expiry, cas, stale, won };
        let cas = self.write(&[value], new)?;
        if fetched {
            self.bump();
        }
        Ok(cas)
    }

    fn write(&mut self, parts: &[&[u8]], new: NewItem<'_>) -> Result<u64, InsertError> {
        let value_len: usize = parts.iter().map(|part| part.len()).sum();
        if self.key.len() + value_len > self.store.item_size_max {
            return Err(InsertError::TooLarge);
        }
        let cas = self.store.cas(new.cas);
        self.slot = Some(self.shard.write(self.slot, self.key, self.hash.0, parts, &new, cas, self.now)?);
        Ok(cas)
    }

    /// Changes when the item expires; its CAS unique stays.
    pub fn set_expiry(&mut self, expiry: Expiry) {
        if let Some(slot) = self.slot {
            self.shard.set_expiry(slot, expiry);
        }
    }

    /// Marks the item stale, opens its recache win again and gives it a new CAS unique.
    pub fn mark_stale(&mut self, cas: Option<u64>) {
        if let Some(slot) = self.slot {
            let cas = self.store.cas(cas);
            self.shard.mark_stale(slot, cas);
        }
    }

    /// Notes that the right to recache the item was handed out.
    pub fn mark_won(&mut self) {
        if let Some(slot) = self.slot {
            self.shard.mark_won(slot);
        }
    }

    /// Notes a use: the item is fetched, used now, and last to be evicted.
    #[inline]
    pub fn bump(&mut self) {
        if let Some(slot) = self.slot {
            self.shard.bump(slot, self.now);
        }
    }

    /// Makes the item last to be evicted, without counting as a read.
    pub fn promote(&mut self) {
        if let Some(slot) = self.slot {
            self.shard.promote(slot, self.now);
        }
    }

    /// Removes the item.
    pub fn remove(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shard.remove(slot);
        }
    }
}
