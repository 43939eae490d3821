//! How many items a memory limit holds, and how much of it expired ones.
//!
//! `cargo bench -p larder-node --bench density`. Stores are loaded past 512 MiB; bytes over are those of the limit for
//! an item beyond its key and value. Then, on a clock that is moved on, nine of ten items of 124 bytes live for a
//! minute, and nobody reads.

use larder_node::store::{Config, Eviction, Expiry, NewItem, Store, Time};

const LIMIT: usize = 512 << 20;
const NOW: Time = Time(1_700_000_000);

fn main() {
    println!("eviction   key/value      items held  bytes over  share of the limit");
    let sizes = [(24, 32), (24, 100), (30, 1000)];
    let cases = [Eviction::Density, Eviction::Lru].map(|eviction| sizes.map(|size| (eviction, size)));
    for (eviction, (key_len, value_len)) in cases.into_iter().flatten() {
        let config = Config { memory_limit: LIMIT, item_size_max: 1 << 20, eviction, now: NOW };
        let store = Store::new(&config).expect("a store");
        let value = vec![b'v'; value_len];
        for number in 0..2 * LIMIT / (key_len + value_len) {
            let key = format!("{number:0key_len$}").into_bytes();
            let mut entry = store.entry_for_write(&key, store.hash(&key), NOW, &value);
            entry.insert(NewItem::new(&value, 0, Expiry::NEVER)).expect("room");
        }
        let items = store.statistics().items;
        let over = LIMIT as f64 / items as f64 - (key_len + value_len) as f64;
        let share = items as f64 * (key_len + value_len) as f64 / LIMIT as f64;
        let size = format!("{key_len}/{value_len}");
        println!("{eviction:<10} {size:<12} {items:>12} {over:>11.1} {:>18.1} %", 100.0 * share);
    }
    let config = Config { memory_limit: LIMIT / 8, item_size_max: 1 << 20, eviction: Eviction::Lru, now: NOW };
    let store = Store::new(&config).expect("a store");
    let mut most = 0.0f64;
    for second in 0..300 {
        let now = Time(NOW.0 + second);
        for number in 0..3000 {
            let key = format!("{second:012}{number:012}").into_bytes();
            let expiry = if number % 10 == 0 { Expiry::NEVER } else { Expiry::at(Time(now.0 + 60)) };
            let mut entry = store.entry(&key, store.hash(&key), now);
            entry.insert(NewItem::new(&[b'v'; 100], 0, expiry)).expect("room");
        }
        store.maintain(now);
        let mut living = 0;
        store.for_each(now, |info| living += info.size as u64);
        let statistics = store.statistics();
        most = most.max((statistics.bytes - living) as f64 / statistics.memory_used as f64);
    }
    assert_eq!(store.statistics().evictions, 0);
    println!("held by expired items, at most: {:.1} % of the memory used", 100.0 * most);
}
