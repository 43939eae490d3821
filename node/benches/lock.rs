//! How long a shard's lock is held while the store is full and everything changes.
//!
//! `cargo bench -p larder-node --bench lock`. Values of 32 bytes to 16 KiB, most with a time to live, keys by Zipf 0.8
//! over four times what fits; the clock goes on a second in 20,000 operations. The time is that of a whole call, in
//! which the lock is taken, used and given back: an upper bound, with no other thread to wait for. It is the thread's
//! own processor time, reading it included (about 0.3 us), so that other work on the machine is not in it.

use std::hint::black_box;

use hdrhistogram::Histogram;
use larder_node::store::{Config, Cursor, Eviction, Expiry, NewItem, Store, Time};
use nix::time::ClockId;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

const LIMIT: usize = 256 << 20;
const KEYS: f64 = 2_000_000.0;
const OPERATIONS: u32 = 8_000_000;
const NAMES: [&str; 5] = ["get", "set", "touch", "delete", "scan slice"];

/// Nanoseconds for which this thread has run.
fn processor_time() -> u64 {
    let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("the thread's clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn main() {
    println!("eviction   operation        count       p50       p99     p99.9    p99.99       max");
    for eviction in [Eviction::Density, Eviction::Lru, Eviction::S3Fifo] {
        let mut now = Time(1_700_000_000);
        let store =
            Store::new(&Config { memory_limit: LIMIT, item_size_max: 1 << 20, eviction, now }).expect("a store");
        let mut random = SmallRng::seed_from_u64(1);
        let zipf = Zipf::new(KEYS, 0.8).expect("a Zipf exponent");
        let value = [b'v'; 16 << 10];
        let mut histograms = NAMES.map(|_| Histogram::<u64>::new(3).expect("a histogram"));
        let mut cursor = Cursor::default();
        for number in 0..OPERATIONS {
            if number % 20_000 == 0 {
                now.0 += 1;
                store.maintain(now);
            }
            let key = format!("key:{:020}", zipf.sample(&mut random) as u64).into_bytes();
            let hash = store.hash(&key);
            // A few large, most small.
            let value = &value[..32 << random.random_range(0..10u32).min(random.random_range(0..10))];
            let ttl = random.random_range(1..1000u32);
            let expiry = if ttl < 100 { Expiry::NEVER } else { Expiry::at(Time(now.0 + ttl)) };
            let operation = match random.random_range(0..100) {
                0..50 => 0,
                50..90 => 1,
                90..95 => 2,
                95..99 => 3,
                _ => 4,
            };
            let start = processor_time();
            match operation {
                0 => store.entry(&key, hash, now).bump(),
                1 => drop(store.entry_for_write(&key, hash, now, value).insert(NewItem::new(value, 0, expiry))),
                2 => store.entry(&key, hash, now).set_expiry(expiry),
                3 => store.entry(&key, hash, now).remove(),
                _ => {
                    if !store.scan(&mut cursor, now, |info| _ = black_box(info.size)) {
                        cursor = Cursor::default();
                    }
                }
            }
            let held = processor_time() - start;
            // The first half fills the store.
            if number > OPERATIONS / 2 {
                histograms[operation].record(held).expect("it grows");
            }
        }
        let statistics = store.statistics();
        assert!(statistics.evictions > 0 && statistics.reclaimed > 0, "no churn: {statistics:?}");
        let all = histograms.iter().fold(Histogram::new(3).expect("a histogram"), |mut sum, one| {
            sum += one;
            sum
        });
        for (name, histogram) in NAMES.iter().zip(&histograms).chain([(&"all", &all)]) {
            let at = |quantile: f64| format!("{:.1} us", histogram.value_at_quantile(quantile) as f64 / 1000.0);
            println!(
                "{eviction:<10} {name:<12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
                histogram.len(),
                at(0.5),
                at(0.99),
                at(0.999),
                at(0.9999),
                at(1.0)
            );
        }
    }
}
