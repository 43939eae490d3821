//! The engine beside other in-process caches: a million items of 24-byte keys and 100-byte values, keys by Zipf 0.99.
//!
//! `cargo bench -p larder-node --bench store`. Every read copies the value out, every write makes what the cache must
//! own of a borrowed key and value, as a server has to. All hash alike and have room for every item, so that no
//! eviction is in the figures.

use std::hint::black_box;
use std::sync::LazyLock;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use larder_node::store::{Config, Eviction, Expiry, NewItem, Store, Time};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use rapidhash::fast::RandomState;

const ITEMS: usize = 1_000_000;
const VALUE: [u8; 100] = [b'v'; 100];
const NOW: Time = Time(1_700_000_000);

/// Operations in one timed run.
const BATCH: usize = 200_000;

fn main() {
    divan::main();
}

fn key(number: u64) -> [u8; 24] {
    let mut key = *b"key:00000000000000000000";
    key[8..].copy_from_slice(format!("{number:016x}").as_bytes());
    key
}

/// Keys in the order they are asked for.
static KEYS: LazyLock<Vec<[u8; 24]>> = LazyLock::new(|| {
    let mut random = StdRng::seed_from_u64(1);
    let zipf = Zipf::new(ITEMS as f64, 0.99).expect("a Zipf exponent");
    // Spread over the numbers: neighbours in rank are none in the key.
    (0..10 * BATCH).map(|_| key((zipf.sample(&mut random) as u64 - 1) * 7919 % ITEMS as u64)).collect()
});

trait Cache {
    /// Appends the value to `out`, as to a reply.
    fn get(&self, key: &[u8], out: &mut Vec<u8>);
    fn set(&self, key: &[u8]);
}

impl Cache for Store {
    fn get(&self, key: &[u8], out: &mut Vec<u8>) {
        let mut entry = self.entry(key, self.hash(key), NOW);
        if let Some(item) = entry.item() {
            out.extend_from_slice(item.value);
        }
        entry.bump();
    }

    fn set(&self, key: &[u8]) {
        let mut entry = self.entry_for_write(key, self.hash(key), NOW, &VALUE);
        entry.insert(NewItem::new(&VALUE, 0, Expiry::NEVER)).expect("room for every item");
    }
}

type DashMap = dashmap::DashMap<Bytes, Bytes, RandomState>;

impl Cache for DashMap {
    fn get(&self, key: &[u8], out: &mut Vec<u8>) {
        if let Some(value) = self.get(key) {
            out.extend_from_slice(&value);
        }
    }

    fn set(&self, key: &[u8]) {
        self.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(&VALUE));
    }
}

type Moka = moka::sync::Cache<Bytes, Bytes, RandomState>;

impl Cache for Moka {
    fn get(&self, key: &[u8], out: &mut Vec<u8>) {
        if let Some(value) = self.get(key) {
            out.extend_from_slice(&value);
        }
    }

    fn set(&self, key: &[u8]) {
        self.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(&VALUE));
    }
}

type QuickCache = quick_cache::sync::Cache<Bytes, Bytes, quick_cache::UnitWeighter, RandomState>;

impl Cache for QuickCache {
    fn get(&self, key: &[u8], out: &mut Vec<u8>) {
        if let Some(value) = self.get(key) {
            out.extend_from_slice(&value);
        }
    }

    fn set(&self, key: &[u8]) {
        self.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(&VALUE));
    }
}

fn filled<C: Cache>(cache: C) -> C {
    (0..ITEMS as u64).for_each(|number| cache.set(&key(number)));
    cache
}

static LARDER: LazyLock<Store> = LazyLock::new(|| {
    let config = Config { memory_limit: 512 << 20, item_size_max: 1 << 20, eviction: Eviction::Lru, now: NOW };
    filled(Store::new(&config).expect("a store"))
});
static DASHMAP: LazyLock<DashMap> =
    LazyLock::new(|| filled(DashMap::with_capacity_and_hasher(2 * ITEMS, RandomState::new())));
static MOKA: LazyLock<Moka> = LazyLock::new(|| {
    filled(moka::sync::Cache::builder().max_capacity(2 * ITEMS as u64).build_with_hasher(RandomState::new()))
});
static QUICK_CACHE: LazyLock<QuickCache> = LazyLock::new(|| {
    let lifecycle = quick_cache::sync::DefaultLifecycle::default();
    let (weighter, hasher) = (quick_cache::UnitWeighter, RandomState::new());
    filled(QuickCache::with(2 * ITEMS, 2 * ITEMS as u64, weighter, hasher, lifecycle))
});

/// Times `operation` over keys in their order, from a random place on.
fn run<C: Cache + Sync + 'static>(
    bencher: Bencher<'_, '_>,
    cache: &'static LazyLock<C>,
    operation: impl Fn(&C, &[u8], &mut Vec<u8>) + Sync,
) {
    let (cache, keys) = (LazyLock::force(cache), LazyLock::force(&KEYS));
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| (Vec::with_capacity(1 << 16), rand::rng().random_range(0..9 * BATCH)))
        .bench_refs(|(out, start)| {
            for key in &keys[*start..*start + BATCH] {
                if out.len() > (1 << 16) - 200 {
                    out.clear();
                }
                operation(cache, black_box(key), out);
            }
        });
}

macro_rules! peers {
    ($($name:ident: $cache:expr),*) => {
        #[divan::bench_group(sample_count = 20, sample_size = 1, threads = [1, 2])]
        mod get {
            $(#[divan::bench]
            fn $name(bencher: divan::Bencher<'_, '_>) {
                super::run(bencher, &$cache, |cache, key, out| super::Cache::get(cache, key, out));
            })*
        }

        #[divan::bench_group(sample_count = 20, sample_size = 1, threads = [1, 2])]
        mod set {
            $(#[divan::bench]
            fn $name(bencher: divan::Bencher<'_, '_>) {
                super::run(bencher, &$cache, |cache, key, _| super::Cache::set(cache, key));
            })*
        }
    };
}

peers!(larder: super::LARDER, dashmap: super::DASHMAP, moka: super::MOKA, quick_cache: super::QUICK_CACHE);
