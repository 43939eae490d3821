//! The memory of a process that holds a store, through many changes of its values' size. A test binary of its own: others would be measured too.

use larder_node::store::{Config, Eviction, Expiry, NewItem, Store, Time};

const LIMIT: usize = 16 << 20;
const NOW: Time = Time(1_700_000_000);

/// Bytes of this process that are in memory, without those of its program file: how many of them the kernel maps at a
/// time has nothing to do with the store.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn resident_size_and_density_hold_through_ten_rewrites_with_drifting_sizes() {
    let config = Config { memory_limit: LIMIT, item_size_max: 1 << 20, eviction: Eviction::Lru, now: NOW };
    let store = Store::new(&config).unwrap();
    let value = [7; 8192];
    let before = resident();
    let mut number = 0u64;
    for (pass, size) in [50, 200, 1000, 5000, 2000, 600, 100, 50, 5000, 50].into_iter().enumerate() {
        let mut written = 0;
        while written < LIMIT * 3 / 2 {
            number += 1;
            // From 80 % to 120 % of the size.
            let value = &value[..size * (80 + number as usize % 41) / 100];
            let key = number.to_le_bytes();
            let mut entry = store.entry_for_write(&key, store.hash(&key), NOW, value);
            entry.insert(NewItem::new(value, 0, Expiry::NEVER)).unwrap();
            written += value.len() + 30;
        }
        let statistics = store.statistics();
        assert!(statistics.memory_used <= LIMIT as u64);
        let resident = resident() - before;
        assert!(resident <= LIMIT / 100 * 105, "pass {pass}, {size} bytes: {resident} bytes of memory");
        // Up to 24 bytes over key and value; values above 4 KiB are rounded up to 256, with 96 more for the books about them.
        let over = if size > 4096 { 24 + 128 + 96 } else { 24 };
        let (held, ideal) = (statistics.items as usize * (size + 8), LIMIT / (size + 8 + over) * (size + 8));
        assert!(held > ideal / 100 * 92, "pass {pass}, {size} bytes: {held} held, {ideal} would be ideal");
    }
}
