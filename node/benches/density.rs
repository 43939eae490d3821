//! How many items a memory limit holds: stores are loaded past 512 MiB.
//!
//! `cargo bench -p larder-node --bench density`. Bytes over are those of the limit for an item beyond its key and value.

use larder_node::store::{Config, Eviction, Expiry, NewItem, Store, Time};

const LIMIT: usize = 512 << 20;
const NOW: Time = Time(1_700_000_000);

fn main() {
    println!("key/value      items held  bytes over  share of the limit");
    for (key_len, value_len) in [(24, 32), (24, 100), (30, 1000)] {
        let config = Config { memory_limit: LIMIT, item_size_max: 1 << 20, eviction: Eviction::Lru, now: NOW };
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
        println!("{:<12} {items:>12} {over:>11.1} {:>18.1} %", format!("{key_len}/{value_len}"), 100.0 * share);
    }
}
