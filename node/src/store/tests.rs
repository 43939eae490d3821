//! The engine against a simple model, alone and from several threads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

const START: u32 = 1_700_000_000;

fn store(memory_limit: usize, eviction: Eviction) -> Store {
    Store::new(&Config { memory_limit, item_size_max: 128 << 10, eviction, now: Time(START) }).unwrap()
}

/// Puts `value` under `key`, never to expire.
fn set(store: &Store, key: &[u8], value: &[u8], now: Time) -> Result<u64, InsertError> {
    store.entry_for_write(key, store.hash(key), now, value).insert(NewItem::new(value, 0, Expiry::NEVER))
}

fn get(store: &Store, key: &[u8], now: Time) -> Option<Vec<u8>> {
    let mut entry = store.entry(key, store.hash(key), now);
    entry.bump();
    entry.item().map(|item| item.value.to_vec())
}

#[derive(Debug, Clone)]
enum Step {
    Get,
    Set { len: usize, flags: u32, ttl: Option<u32>, cas: Option<u64> },
    Append { len: usize, front: bool },
    Rewrite { len: usize },
    Touch { ttl: Option<u32> },
    MarkStale,
    MarkWon,
    Remove,
    Tick { seconds: u32 },
    Maintain,
    Limit { kib: usize },
    Flush { delay: u32 },
    Restart { seconds: u32 },
}

fn steps() -> impl Strategy<Value = Vec<(u16, Step)>> {
    let len = prop_oneof![8 => 0usize..200, 3 => 200usize..3000, 1 => 3000usize..60_000];
    let ttl = prop_oneof![2 => Just(None), 3 => (1u32..100).prop_map(Some), 1 => (100u32..1 << 20).prop_map(Some)];
    let flags = prop_oneof![Just(0u32), any::<u32>()];
    let cas = prop_oneof![9 => Just(None), 1 => any::<u64>().prop_map(Some)];
    let step = prop_oneof![
        30 => Just(Step::Get),
        60 => (len.clone(), flags, ttl.clone(), cas).prop_map(|(len, flags, ttl, cas)| Step::Set { len, flags, ttl, cas }),
        4 => (0usize..100, any::<bool>()).prop_map(|(len, front)| Step::Append { len, front }),
        4 => len.prop_map(|len| Step::Rewrite { len }),
        6 => ttl.prop_map(|ttl| Step::Touch { ttl }),
        2 => Just(Step::MarkStale),
        2 => Just(Step::MarkWon),
        4 => Just(Step::Remove),
        4 => (0u32..20).prop_map(|seconds| Step::Tick { seconds }),
        4 => Just(Step::Maintain),
        1 => (300usize..900).prop_map(|kib| Step::Limit { kib }),
        1 => (0u32..30).prop_map(|delay| Step::Flush { delay }),
        1 => (0u32..40).prop_map(|seconds| Step::Restart { seconds }),
    ];
    // Half of the steps go to few keys, so that items meet their own history.
    let key = prop_oneof![0u16..20, 0u16..2000];
    prop::collection::vec((key, step), 1..if cfg!(miri) { 60 } else { 1500 })
}

#[derive(Debug, Clone)]
struct Expected {
    value: Vec<u8>,
    flags: u32,
    expiry: Expiry,
    cas: u64,
    stale: bool,
    won: bool,
    fetched: bool,
    last_access: Time,
}

/// A store, and what it must show.
struct Model {
    store: Store,
    eviction: Eviction,
    limit: usize,
    now: Time,
    expected: HashMap<Vec<u8>, Expected>,
    /// When a delayed flush is due.
    flush: Option<Time>,
    /// Items that a touch found no room for.
    touched_away: u64,
    /// Whether a store before a restart has evicted items.
    evicted: bool,
    /// CAS uniques that the store chose.
    cas_seen: HashSet<u64>,
}

impl Model {
    fn new(eviction: Eviction) -> Model {
        let limit = 512 << 10;
        Model {
            store: store(limit, eviction),
            eviction,
            limit,
            now: Time(START),
            expected: HashMap::new(),
            flush: None,
            touched_away: 0,
            evicted: false,
            cas_seen: HashSet::new(),
        }
    }

    fn expiry(&self, ttl: Option<u32>) -> Expiry {
        ttl.map_or(Expiry::NEVER, |ttl| Expiry::at(Time(self.now.0 + ttl)))
    }

    /// An item as it is right after it was written.
    fn written(&self, value: Vec<u8>, flags: u32, expiry: Expiry, cas: u64) -> Expected {
        Expected { value, flags, expiry, cas, stale: false, won: false, fetched: false, last_access: self.now }
    }

    fn check_unique(&mut self, cas: u64) -> Result<(), TestCaseError> {
        prop_assert!(self.cas_seen.insert(cas), "a CAS unique twice");
        Ok(())
    }

    /// Carries out a step, in the store and here. `n` makes its values differ from those of other steps.
    fn step(&mut self, n: usize, key: &[u8], step: &Step) -> Result<(), TestCaseError> {
        self.step_of_store(step);
        if let Step::Restart { seconds } = *step {
            self.restart(seconds)?;
        }
        if self.flush.is_some_and(|at| at <= self.now) {
            self.expected.clear();
            self.flush = None;
        }
        self.check_item(key)?;
        let value = |len: usize| (0..len).map(|at| (at + n) as u8).collect::<Vec<u8>>();
        match *step {
            Step::Get => self.get(key),
            Step::Set { len, flags, ttl, cas } => self.set(key, value(len), flags, ttl, cas)?,
            Step::Append { len, front } => self.append(key, &value(len), front)?,
            Step::Rewrite { len } => self.rewrite(key, value(len))?,
            Step::Touch { ttl } => self.touch(key, ttl)?,
            Step::MarkStale => self.mark_stale(key)?,
            Step::MarkWon => self.mark_won(key),
            Step::Remove => self.remove(key),
            Step::Tick { .. } | Step::Maintain | Step::Limit { .. } | Step::Flush { .. } | Step::Restart { .. } => {}
        }
        self.check_own_write(key)?;
        let statistics = self.store.statistics();
        prop_assert!(statistics.memory_used <= self.limit as u64, "over budget: {statistics:?} of {}", self.limit);
        prop_assert!(statistics.bytes <= statistics.memory_used);
        Ok(())
    }

    /// Carries out a step that concerns no key; nothing for other steps.
    fn step_of_store(&mut self, step: &Step) {
        match *step {
            Step::Tick { seconds } => self.now.0 += seconds,
            Step::Maintain => self.store.maintain(self.now),
            Step::Limit { kib } => {
                // Where nothing may leave, a lower limit is kept only once items have left by themselves.
                let never = self.eviction == Eviction::Never;
                self.limit = if never { self.limit.max(kib << 10) } else { kib << 10 };
                self.store.set_memory_limit(self.limit, self.now);
            }
            Step::Flush { delay } => {
                self.store.flush_all(Time(self.now.0 + delay), self.now);
                self.flush = (delay > 0).then_some(Time(self.now.0 + delay));
                if delay == 0 {
                    self.expected.clear();
                }
            }
            _ => {}
        }
    }

    /// The store shows the item that is expected, or none where eviction or its end explain that.
    fn check_item(&mut self, key: &[u8]) -> Result<(), TestCaseError> {
        let evicted = self.evicted || self.store.statistics().evictions > 0;
        let entry = entry(&self.store, key, self.now);
        match (entry.item(), self.expected.get(key)) {
            (Some(item), Some(expected)) => {
                prop_assert!(item.value == expected.value, "a wrong value");
                prop_assert!(!item.expiry.has_passed(self.now), "an expired item");
                let Expected { flags, expiry, cas, stale, won, fetched, last_access, .. } = *expected;
                prop_assert_eq!(
                    (item.flags, item.expiry, item.cas, item.stale, item.won, item.fetched, item.last_access),
                    (flags, expiry, cas, stale, won, fetched, last_access)
                );
            }
            (Some(_), None) => prop_assert!(false, "an item that nobody stored"),
            (None, Some(expected)) => {
                prop_assert!(evicted || expected.expiry.has_passed(self.now), "an item is lost");
                self.expected.remove(key);
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// The item that a step has left is the one that it wrote, if there is one.
    fn check_own_write(&self, key: &[u8]) -> Result<(), TestCaseError> {
        let entry = self.store.entry(key, self.store.hash(key), self.now);
        let seen = entry.item().map(|item| item.value);
        let expected = self.expected.get(key).map(|expected| &expected.value[..]);
        prop_assert!(seen.is_none() || seen == expected, "own write not seen");
        Ok(())
    }

    fn get(&mut self, key: &[u8]) {
        entry(&self.store, key, self.now).bump();
        if let Some(expected) = self.expected.get_mut(key) {
            (expected.fetched, expected.last_access) = (true, self.now);
        }
    }

    fn set(
        &mut self,
        key: &[u8],
        value: Vec<u8>,
        flags: u32,
        ttl: Option<u32>,
        cas: Option<u64>,
    ) -> Result<(), TestCaseError> {
        let expiry = self.expiry(ttl);
        let new = NewItem { cas, ..NewItem::new(&value, flags, expiry) };
        let result = entry(&self.store, key, self.now).insert(new);
        match result {
            Ok(got) => {
                if cas != Some(got) {
                    self.check_unique(got)?;
                }
                self.expected.insert(key.into(), self.written(value, flags, expiry, got));
            }
            Err(error) => prop_assert_eq!(error, InsertError::OutOfMemory),
        }
        Ok(())
    }

    fn append(&mut self, key: &[u8], more: &[u8], front: bool) -> Result<(), TestCaseError> {
        let Some(old) = self.expected.get(key).cloned() else { return Ok(()) };
        let mut entry = entry(&self.store, key, self.now);
        let result = if front { entry.prepend(more, None) } else { entry.append(more, None) };
        drop(entry);
        if let Ok(cas) = result {
            self.check_unique(cas)?;
            let joined = if front { [more, &old.value].concat() } else { [&old.value[..], more].concat() };
            self.expected.insert(key.into(), self.written(joined, old.flags, old.expiry, cas));
        }
        Ok(())
    }

    fn rewrite(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), TestCaseError> {
        if !self.expected.contains_key(key) {
            return Ok(());
        }
        let result = entry(&self.store, key, self.now).set_value(&value, None);
        if let Ok(cas) = result {
            self.check_unique(cas)?;
            let now = self.now;
            let expected = self.expected.get_mut(key).expect("looked up above");
            if value.len() != expected.value.len() {
                (expected.stale, expected.won, expected.fetched) = (false, false, false);
            }
            (expected.value, expected.cas, expected.last_access) = (value, cas, now);
        }
        Ok(())
    }

    fn touch(&mut self, key: &[u8], ttl: Option<u32>) -> Result<(), TestCaseError> {
        let expiry = self.expiry(ttl);
        let mut entry = entry(&self.store, key, self.now);
        entry.set_expiry(expiry);
        if let Some(expected) = self.expected.get_mut(key) {
            self.touched_away += u64::from(entry.item().is_none());
            expected.expiry = expiry;
            // A new expiry may need room; an item may be lost for that, but not keep the old one.
            if let Some(item) = entry.item() {
                prop_assert_eq!(item.expiry, expiry);
            }
        }
        Ok(())
    }

    fn mark_stale(&mut self, key: &[u8]) -> Result<(), TestCaseError> {
        let mut entry = entry(&self.store, key, self.now);
        entry.mark_stale(None);
        let cas = entry.item().map(|item| item.cas);
        drop(entry);
        if let Some(cas) = cas {
            self.check_unique(cas)?;
            let expected = self.expected.get_mut(key).expect("the store shows it");
            (expected.stale, expected.won, expected.cas) = (true, false, cas);
        }
        Ok(())
    }

    fn mark_won(&mut self, key: &[u8]) {
        entry(&self.store, key, self.now).mark_won();
        if let Some(expected) = self.expected.get_mut(key) {
            expected.won = true;
        }
    }

    fn remove(&mut self, key: &[u8]) {
        entry(&self.store, key, self.now).remove();
        self.expected.remove(key);
    }

    /// Saves the store, lets `seconds` pass, and loads it. All items are there again, and no client has won any.
    fn restart(&mut self, seconds: u32) -> Result<(), TestCaseError> {
        self.evicted |= self.store.statistics().evictions > 0;
        let shown = |store: &Store, now| {
            let mut keys = HashSet::new();
            store.for_each(now, |info| {
                keys.insert(info.key.to_vec());
            });
            keys
        };
        let before = shown(&self.store, self.now);
        let file = tempfile::tempfile().unwrap();
        self.store.save(&file, self.now).unwrap();
        prop_assert_eq!(self.store.statistics().items, 0);
        let limit = 512 << 10;
        let now = self.now;
        let config = Config { memory_limit: limit, item_size_max: 128 << 10, eviction: self.eviction, now };
        self.store = Store::load(&config, &file).unwrap();
        let after = shown(&self.store, now);
        // A lower limit may have evicted some.
        let kept = self.limit <= limit;
        self.limit = if self.eviction == Eviction::Never { self.limit.max(limit) } else { limit };
        if self.flush.is_some_and(|at| at <= now) {
            self.expected.clear();
        }
        for key in before.difference(&after) {
            let expected = &self.expected[key];
            prop_assert!(!kept || (expected.won && !expected.stale && expected.value.is_empty()), "an item is lost");
        }
        self.expected.retain(|key, _| after.contains(key));
        for (key, expected) in self.expected.iter_mut().filter(|(_, expected)| expected.won) {
            prop_assert!(expected.stale || !expected.value.is_empty(), "an item that no client has filled");
            let entry = entry(&self.store, key, now);
            let cas = entry.item().expect("a scan has shown it").cas;
            prop_assert!(self.cas_seen.insert(cas), "a CAS unique twice");
            (expected.won, expected.cas) = (false, cas);
        }
        let keys: Vec<_> = self.expected.keys().cloned().collect();
        for key in keys {
            self.check_item(&key)?;
        }
        self.now.0 += seconds;
        Ok(())
    }

    /// A scan shows what gets find.
    fn check_scan(&self) -> Result<(), TestCaseError> {
        let mut shown = 0;
        let mut wrong = 0;
        self.store.for_each(self.now, |info| {
            shown += 1;
            let expected = self.expected.get(info.key);
            wrong += u32::from(expected.is_none_or(|expected| {
                (expected.cas, expected.flags, expected.expiry) != (info.cas, info.flags, info.expiry)
            }));
        });
        prop_assert_eq!(wrong, 0);
        let found = self.expected.keys().filter(|key| entry(&self.store, key, self.now).item().is_some()).count();
        prop_assert_eq!(shown, found);
        Ok(())
    }
}

fn entry<'s, 'k>(store: &'s Store, key: &'k [u8], now: Time) -> Entry<'s, 'k> {
    store.entry(key, store.hash(key), now)
}

fn check_against_model(eviction: Eviction, steps: Vec<(u16, Step)>) -> Result<(), TestCaseError> {
    let mut model = Model::new(eviction);
    for (n, (key, step)) in steps.into_iter().enumerate() {
        let key = format!("key-{key}{}", "-long".repeat(key as usize % 5 * 7)).into_bytes();
        model.step(n, &key, &step)?;
    }
    model.check_scan()?;
    prop_assert!(eviction != Eviction::Never || model.store.statistics().evictions <= model.touched_away);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 48 },
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
    fn the_store_agrees_with_a_map_and_stays_in_its_budget(
        eviction in prop::sample::select(Eviction::ALL.to_vec()), steps in steps(),
    ) {
        check_against_model(eviction, steps)?;
    }
}

/// Moves the items of a store in which 1,000 of many keys were read again and again. Returns how many of those are left
/// in the other store after as many new items as it has room for, with the uses they had and without.
fn used_items_left_after_a_move(eviction: Eviction) -> [usize; 2] {
    let config = Config { memory_limit: 2 << 20, item_size_max: 64 << 10, eviction, now: Time(START) };
    let value = [7; 100];
    let used = (0..1000u32).map(|n| n * 10);
    [true, false].map(|with_past| {
        let [from, to] = [(); 2].map(|()| Store::new(&config).unwrap());
        let write = |store: &Store, n: u32| set(store, &n.to_le_bytes(), &value, config.now).unwrap();
        for n in 0..40_000 {
            write(&from, n);
            get(&from, &(n % 1000 * 10).to_le_bytes(), config.now);
        }
        for n in used.clone() {
            let key = n.to_le_bytes();
            let moving = entry(&from, &key, config.now);
            if !moving.is_occupied() {
                continue;
            }
            let past = with_past.then(|| moving.past());
            entry(&to, &key, config.now).insert(NewItem { past, ..NewItem::new(&value, 0, Expiry::NEVER) }).unwrap();
        }
        (40_000..60_000).for_each(|n| _ = write(&to, n));
        used.clone().filter(|n| entry(&to, &n.to_le_bytes(), config.now).is_occupied()).count()
    })
}

#[test]
fn an_item_that_moves_to_another_store_is_kept_for_the_uses_it_had() {
    for eviction in [Eviction::Density, Eviction::S3Fifo] {
        let [with_past, without] = used_items_left_after_a_move(eviction);
        assert!(with_past > 900 && without < 100, "{eviction}: {with_past} with their past, {without} without");
    }
}

/// A saved store with items of all kinds, and its settings.
fn saved() -> (Config, Vec<u8>) {
    let config =
        Config { memory_limit: 2 << 20, item_size_max: 128 << 10, eviction: Eviction::Density, now: Time(START) };
    let store = Store::new(&config).unwrap();
    for n in 0..600u32 {
        set(&store, &n.to_le_bytes(), &vec![n as u8; n as usize * 5 % 20_000], config.now).unwrap();
    }
    let mut file = tempfile::tempfile().unwrap();
    store.save(&file, config.now).unwrap();
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    (config, bytes)
}

fn load(config: &Config, bytes: &[u8]) -> Result<Store, LoadError> {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
    Store::load(config, &file)
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn a_file_with_any_byte_changed_or_cut_off_is_not_loaded() {
    let (config, bytes) = saved();
    assert_eq!(load(&config, &bytes).unwrap().statistics().items, 600);
    let head = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize + 24;
    let places = (0..head).chain((8192..bytes.len()).step_by(bytes.len() / 1500));
    for at in places.chain(bytes.len() - 50..bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(load(&config, &damaged).is_err(), "byte {at} of {}", bytes.len());
    }
    for len in (0..bytes.len()).step_by(bytes.len() / 200).chain([bytes.len() - 1]) {
        assert!(load(&config, &bytes[..len]).is_err(), "{len} bytes of {}", bytes.len());
    }
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn a_file_of_other_settings_is_not_loaded() {
    let (config, bytes) = saved();
    let others = [
        Config { memory_limit: 3 << 20, ..config.clone() },
        Config { item_size_max: 64 << 10, ..config.clone() },
        Config { eviction: Eviction::Lru, ..config.clone() },
    ];
    for other in others {
        assert!(matches!(load(&other, &bytes), Err(LoadError::Other { .. })), "{other:?}");
    }
    // A version that is as long.
    let mut version = bytes.clone();
    let at = version.windows(7).position(|bytes| bytes == b"format ").unwrap() + 7;
    version[at] = b'9';
    let len = u32::from_le_bytes(version[16..20].try_into().unwrap()) as usize;
    let crc = crc32fast::hash(&version[24..24 + len]);
    version[20..24].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(load(&config, &version), Err(LoadError::Other { .. })));
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn an_item_used_within_the_last_quarter_of_memory_is_still_there() {
    let store = store(1 << 20, Eviction::Lru);
    let now = Time(START);
    // Many times to live keep many segments open; a quarter of the limit is written between the uses of each key.
    let put = |n: u64| {
        let key = n.to_le_bytes();
        let expiry =
            if n.is_multiple_of(3) { Expiry::NEVER } else { Expiry::at(Time(START + 1 + (n * n % 500) as u32)) };
        store.entry(&key, store.hash(&key), now).insert(NewItem::new(&[n as u8; 200], 0, expiry)).unwrap();
    };
    let distance = (1 << 18) / 250;
    for n in 0..40_000 {
        put(n);
        if n >= distance {
            assert!(
                get(&store, &(n - distance).to_le_bytes(), now).is_some(),
                "item {} of {n}; {:?}",
                n - distance,
                store.statistics()
            );
        }
    }
    assert!(store.statistics().evictions > 30_000);
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn a_used_item_outlives_the_next_half_of_memory_under_every_policy() {
    for eviction in Eviction::ALL {
        let store = store(1 << 20, eviction);
        let now = Time(START);
        let mut numbers = 0u32..;
        let mut write = |bytes: usize| {
            for n in numbers.by_ref().take(bytes / 250) {
                let _ = set(&store, &n.to_le_bytes(), &[0; 210], now);
            }
        };
        write(900_000);
        assert!((0..50).all(|n: u32| get(&store, &n.to_le_bytes(), now).is_some()), "{eviction}");
        write(500_000);
        assert!((0..50).all(|n: u32| get(&store, &n.to_le_bytes(), now).is_some()), "{eviction}");
        let unused = (100..1000).filter(|n: &u32| get(&store, &n.to_le_bytes(), now).is_some()).count();
        assert!(eviction == Eviction::Never || unused < 100, "{eviction}: {unused}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn expired_items_give_their_memory_back_with_nobody_reading_them() {
    let store = store(4 << 20, Eviction::Lru);
    for second in 0..300u32 {
        let now = Time(START + second);
        for n in 0..200u32 {
            let key = [second.to_le_bytes(), n.to_le_bytes()].concat();
            let expiry = if n % 10 == 0 { Expiry::NEVER } else { Expiry::at(Time(now.0 + 60)) };
            store.entry(&key, store.hash(&key), now).insert(NewItem::new(&[0; 100], 0, expiry)).unwrap();
        }
        store.maintain(now);
        let held = store.statistics().items;
        let mut living = 0;
        store.for_each(now, |_| living += 1);
        assert!(held - living <= held / 10, "second {second}: {living} of {held} items live");
    }
    assert_eq!(store.statistics().evictions, 0);
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn an_item_touched_into_the_past_is_seen_by_that_command_and_no_other() {
    let store = store(4 << 20, Eviction::Lru);
    let now = Time(START);
    for expiry in [Expiry::NEVER, Expiry::at(Time(START + 1000))] {
        store.entry(b"key", store.hash(b"key"), now).insert(NewItem::new(b"value", 42, expiry)).unwrap();
        let mut entry = store.entry(b"key", store.hash(b"key"), now);
        entry.set_expiry(Expiry::at(Time(START - 1)));
        assert_eq!(entry.item().unwrap().value, b"value");
        drop(entry);
        assert!(get(&store, b"key", now).is_none());
    }
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn an_item_that_is_written_again_for_its_cas_unique_keeps_its_value_and_history() {
    let store = store(4 << 20, Eviction::Lru);
    for len in [5, 100 << 10] {
        let value = vec![7; len];
        set(&store, b"key", &value, Time(START)).unwrap();
        get(&store, b"key", Time(START + 1));
        entry(&store, b"key", Time(START + 9)).mark_stale(Some(247));
        let entry = entry(&store, b"key", Time(START + 9));
        let item = entry.item().unwrap();
        assert_eq!((item.cas, item.stale, item.fetched, item.last_access), (247, true, true, Time(START + 1)));
        assert_eq!(item.value, value);
    }
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn a_large_value_is_read_after_its_item_is_gone() {
    let store = store(4 << 20, Eviction::Lru);
    let now = Time(START);
    let value: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    set(&store, b"large", &value, now).unwrap();
    let pinned = store.entry(b"large", store.hash(b"large"), now).item().unwrap().pin().expect("large");
    for n in 0..200u32 {
        set(&store, &n.to_le_bytes(), &value[1..], now).unwrap();
        assert!(store.statistics().memory_used <= 4 << 20);
    }
    assert!(get(&store, b"large", now).is_none());
    assert_eq!(pinned, value);
    store.flush_all(now, now);
    assert_eq!(pinned, value);
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn values_up_to_128_mebibytes_are_held() {
    let config =
        Config { memory_limit: 400 << 20, item_size_max: 128 << 20, eviction: Eviction::Lru, now: Time(START) };
    let store = Store::new(&config).unwrap();
    let value = vec![7; (128 << 20) - 10];
    for n in 0..5u8 {
        set(&store, &[n; 10], &value, config.now).unwrap();
        assert!(store.entry(&[n; 10], store.hash(&[n; 10]), config.now).item().unwrap().value == value);
        assert!(store.statistics().memory_used <= 400 << 20);
    }
    assert_eq!(set(&store, b"12345678901", &value, config.now), Err(InsertError::TooLarge));
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn where_nothing_is_evicted_a_full_store_refuses_until_items_leave() {
    let store = store(2 << 20, Eviction::Never);
    let (limit, now) = (2 << 20, Time(START));
    let mut number = 0u64;
    let mut fill = |ttl: Option<u32>, now: Time| {
        let mut held = Vec::new();
        let expiry = ttl.map_or(Expiry::NEVER, |ttl| Expiry::at(Time(now.0 + ttl)));
        loop {
            number += 1;
            let key = number.to_le_bytes();
            // Some are large.
            let value = vec![number as u8; if number.is_multiple_of(50) { 9000 } else { 100 }];
            let mut entry = store.entry_for_write(&key, store.hash(&key), now, &value);
            match entry.insert(NewItem::new(&value, 0, expiry)) {
                Ok(_) => held.push(key),
                Err(InsertError::OutOfMemory) => return held,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let lasting = fill(None, now);
    assert!(store.statistics().bytes > limit * 8 / 10, "{:?}", store.statistics());
    let (kept, removed): (Vec<[u8; 8]>, Vec<[u8; 8]>) = lasting.iter().partition(|key| !key[0].is_multiple_of(3));
    for key in &removed {
        store.entry(key, store.hash(key), now).remove();
    }
    let short = fill(Some(60), now);
    assert!(short.len() * 10 > removed.len() * 7, "{} instead of {}", short.len(), removed.len());
    let later = Time(START + 60);
    let again = fill(None, later);
    assert!(again.len() * 10 > short.len() * 9, "{} instead of {}", again.len(), short.len());
    for key in kept.iter().chain(&again) {
        let value = get(&store, key, later).expect("nothing was evicted");
        assert!(value.iter().all(|byte| *byte == key[0]));
    }
    assert_eq!(store.statistics().evictions, 0);
    assert!(store.statistics().memory_used <= limit);
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn evictions_are_shown_to_those_who_watch() {
    let store = store(1 << 20, Eviction::Lru);
    let write = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            let key = n.to_le_bytes();
            store
                .entry(&key, store.hash(&key), Time(START + n))
                .insert(NewItem::new(&[0; 900], n, Expiry::NEVER))
                .unwrap();
        }
    };
    write(0..2000);
    let evicted = store.statistics().evictions;
    assert!(evicted > 900 && store.take_evictions(|_| panic!("nobody watched")) == 0);
    assert_eq!(store.oldest_use(Time(START + 2000)), Some(Time(START + evicted as u32)));
    store.watch_evictions(true);
    write(2000..3000);
    let mut seen = Vec::new();
    let more = store.take_evictions(|info| {
        assert_eq!(info.key, info.flags.to_le_bytes());
        assert_eq!((info.last_access, info.expiry, info.fetched), (Time(START + info.flags), Expiry::NEVER, false));
        seen.push(info.flags);
    });
    assert!(seen.iter().copied().zip(evicted as u32..).all(|(seen, expected)| seen == expected), "the oldest first");
    assert_eq!(seen.len() as u64 + more, store.statistics().evictions - evicted);
    assert!(store.statistics().evicted_time.abs_diff(evicted) < 300);
    assert_eq!(store.take_evictions(|_| panic!("all were taken")), 0);
    store.watch_evictions(false);
    write(3000..4000);
    assert_eq!(store.take_evictions(|_| panic!("nobody watched")), 0);
}

#[test]
fn a_limit_without_room_is_an_error() {
    let config = Config { memory_limit: 1000, item_size_max: 1 << 20, eviction: Eviction::Lru, now: Time(START) };
    assert!(Store::new(&config).unwrap_err().to_string().contains("at least 262144"));
}

/// Three threads read and write the same keys, and note when each operation began and ended on one counter. A write's
/// CAS number says where it stands among the writes of its key: that order is a linearization if a read sees the value
/// written with the CAS number it sees, and if what ended before something else began does not stand after it.
#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn concurrent_histories_are_linearizable_for_each_key() {
    #[derive(Clone, Copy)]
    struct Event {
        value: u64,
        cas: u64,
        write: bool,
        began: u64,
        ended: u64,
    }
    const KEYS: usize = 16;
    const OPERATIONS: u64 = 20_000;
    let store = store(64 << 20, Eviction::Lru);
    let clock = AtomicU64::new(1);
    let now = Time(START);
    // Sizes differ, so that writes move items; some values are large.
    let encode = |value: u64| {
        let len = 8 + (value % 50) as usize * if value.is_multiple_of(97) { 1000 } else { 10 };
        value.to_le_bytes().into_iter().cycle().take(len).collect::<Vec<u8>>()
    };
    let decode = |bytes: &[u8]| {
        let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(bytes == encode(value), "a torn value");
        value
    };
    let run = |thread: u64| {
        let mut events = vec![Vec::new(); KEYS];
        for n in 1..=OPERATIONS {
            let key = (n * 7 + thread) as usize % KEYS;
            let name = [b'k', key as u8];
            let write = (n + thread).is_multiple_of(3);
            let began = clock.fetch_add(1, Ordering::SeqCst);
            let (value, cas) = if write {
                let value = n * 3 + thread;
                (value, set(&store, &name, &encode(value), now).unwrap())
            } else {
                let entry = store.entry(&name, store.hash(&name), now);
                match entry.item().map(|item| (item.cas, item.pin().ok_or_else(|| item.value.to_vec()))) {
                    None => (0, 0),
                    Some((cas, Ok(pinned))) => {
                        drop(entry);
                        (decode(&pinned), cas)
                    }
                    Some((cas, Err(copied))) => (decode(&copied), cas),
                }
            };
            let ended = clock.fetch_add(1, Ordering::SeqCst);
            events[key].push(Event { value, cas, write, began, ended });
        }
        events
    };
    let run = &run;
    let histories: Vec<Vec<Vec<Event>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for key in 0..KEYS {
        let events = || histories.iter().flat_map(|history| &history[key]);
        let written: HashMap<u64, u64> =
            events().filter(|event| event.write).map(|event| (event.cas, event.value)).collect();
        assert_eq!(written.len(), events().filter(|event| event.write).count(), "a CAS number twice");
        let mut began: Vec<&Event> = events().collect();
        began.sort_by_key(|event| event.began);
        let mut ended = began.clone();
        ended.sort_by_key(|event| event.ended);
        // The newest number that an operation has seen or given that had ended.
        let (mut ended, mut newest) = (ended.into_iter().peekable(), 0);
        for event in began {
            while let Some(before) = ended.next_if(|before| before.ended < event.began) {
                newest = newest.max(before.cas);
            }
            if event.write {
                assert!(event.cas > newest, "a write took a place before what had ended");
            } else {
                assert!(event.cas >= newest, "a read saw what had been overwritten");
                assert_eq!(event.value, if event.cas == 0 { 0 } else { written[&event.cas] }, "a value nobody wrote");
            }
        }
    }
}

/// All threads change the same few counters by compare and swap; no change is lost.
#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn no_compare_and_swap_is_lost() {
    let store = store(8 << 20, Eviction::Lru);
    let now = Time(START);
    for key in 0..4u8 {
        set(&store, &[key], b"0", now).unwrap();
    }
    let add_one = |key: u8| {
        let key = &[key];
        loop {
            let (cas, value) = {
                let entry = store.entry(key, store.hash(key), now);
                let item = entry.item().unwrap();
                (item.cas, std::str::from_utf8(item.value).unwrap().parse::<u64>().unwrap())
            };
            let value = (value + 1).to_string();
            let mut entry = store.entry(key, store.hash(key), now);
            if entry.item().unwrap().cas == cas {
                entry.insert(NewItem::new(value.as_bytes(), 0, Expiry::NEVER)).unwrap();
                return;
            }
        }
    };
    let add_one = &add_one;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || (0..8000).for_each(|n| add_one(n as u8 % 4)));
        }
    });
    for key in 0..4u8 {
        assert_eq!(get(&store, &[key], now).unwrap(), b"6000");
    }
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn cas_numbers_are_not_given_again_after_a_restart() {
    // More than one shard; the second life begins a second after the first, however much was written then.
    let config = |now| Config { memory_limit: 64 << 20, item_size_max: 1 << 20, eviction: Eviction::Lru, now };
    let life = |now: Time| {
        let store = Store::new(&config(now)).unwrap();
        (0..100_000u32).map(|n| set(&store, &(n % 1000).to_le_bytes(), b"value", now).unwrap()).collect::<Vec<u64>>()
    };
    let (first, second) = (life(Time(START)), life(Time(START + 1)));
    let largest = first.iter().max().unwrap();
    assert!(second.iter().all(|cas| cas > largest));
    let different: HashSet<u64> = first.iter().chain(&second).copied().collect();
    assert_eq!(different.len(), 200_000, "each write has its own");
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn the_counters_of_all_shards_add_up() {
    let store = Store::new(&Config {
        memory_limit: 64 << 20,
        item_size_max: 1 << 20,
        eviction: Eviction::Lru,
        now: Time(START),
    })
    .unwrap();
    for n in 0..10_000u32 {
        set(&store, &n.to_le_bytes(), b"value", Time(START)).unwrap();
    }
    store.entry(&1u32.to_le_bytes(), store.hash(&1u32.to_le_bytes()), Time(START)).remove();
    let statistics = store.statistics();
    assert_eq!((statistics.items, statistics.total_items, statistics.evictions), (9_999, 10_000, 0));
    assert_eq!(statistics.bytes, 9_999 * (9 + 4 + 5));
    let mut shown = Vec::new();
    store.for_each(Time(START), |info| shown.push(u32::from_le_bytes(info.key.try_into().unwrap())));
    shown.sort();
    assert!(shown.into_iter().eq((0..10_000).filter(|&n| n != 1)), "a scan shows all items once");
    store.reset_statistics();
    assert_eq!((store.statistics().items, store.statistics().total_items), (9_999, 0));
}

/// Reads keys in turn, as readers of a cache do, and returns the share of hits. Sizes go from 50 to 350 bytes.
fn replay(store: &Store, keys: impl Iterator<Item = u32>) -> f64 {
    let (mut reads, mut hits) = (0, 0);
    for number in keys {
        let now = Time(START + reads / 1000);
        let key = number.to_le_bytes();
        let mut entry = store.entry(&key, store.hash(&key), now);
        entry.note_read();
        reads += 1;
        if entry.item().is_some() {
            hits += 1;
            entry.bump();
        } else {
            entry.insert(NewItem::new(&[b'v'; 350][..50 + number as usize % 301], 0, Expiry::NEVER)).unwrap();
        }
        drop(entry);
        if reads % 500 == 0 {
            store.update_estimate(now);
        }
    }
    f64::from(hits) / f64::from(reads)
}

/// Numbers of keys: the lower, the more often.
fn skewed(keys: u32, reads: usize) -> impl Iterator<Item = u32> {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    let mut random = StdRng::seed_from_u64(1);
    (0..reads).map(move |_| (f64::from(keys).powf(random.random::<f64>())) as u32)
}

#[test]
fn hits_with_other_memory_are_estimated_as_they_would_be() {
    // Few keys, which are all in the sample; and so many that half of them are not.
    let cases = [
        (Eviction::Density, 8000, 60_000, 512 << 10),
        (Eviction::Lru, 8000, 60_000, 512 << 10),
        (Eviction::Density, 60_000, 150_000, 2 << 20),
    ];
    for (eviction, keys, reads, memory_limit) in cases {
        let observed = store(memory_limit, eviction);
        let ratio = replay(&observed, skewed(keys, reads));
        for OtherMemory { factor, hits } in observed.hits_with_other_memory() {
            let other = store((memory_limit as f64 * factor) as usize, eviction);
            let simulated = replay(&other, skewed(keys, reads));
            let estimated = ratio + hits / reads as f64;
            assert!((simulated - ratio).abs() > 0.01, "memory matters: {ratio} to {simulated}");
            assert!((estimated - simulated).abs() < 0.015, "{eviction} x{factor}: {estimated} for {simulated}");
        }
    }
}

#[test]
fn a_flushed_item_is_seen_once_and_its_key_takes_memory_only_while_there_is_some() {
    const LIMIT: usize = 4 << 20;
    let store = store(LIMIT, Eviction::Lru);
    let now = Time(START);
    let lost = |key: &str| store.entry(key.as_bytes(), store.hash(key.as_bytes()), now).lost();
    let fill = |from: u32, to: u32| {
        for n in from..to {
            set(&store, format!("key{n}").as_bytes(), &[b'x'; 100], now).unwrap();
        }
    };
    fill(0, 1000);
    store.flush_all(now, now);
    fill(1000, 2000);
    fill(0, 10);
    store.flush_all(Time(START + 1), now);
    store.flush_all(now, now);
    for n in [0, 500, 999, 1000, 1999] {
        assert_eq!(lost(&format!("key{n}")), Some(Lost::Flushed), "{n}");
        assert_eq!(lost(&format!("key{n}")), None, "{n}");
    }
    // A write of the key ends it too.
    set(&store, b"key7", b"x", now).unwrap();
    store.entry(b"key7", store.hash(b"key7"), now).remove();
    assert_eq!(lost("key7"), None);

    fill(10_000, 50_000);
    assert!(store.statistics().evictions > 0 && store.statistics().memory_used <= LIMIT as u64);
    assert_eq!(lost("key600"), None);
}

#[test]
fn an_estimate_follows_flushes_and_begins_again_on_a_reset() {
    let store = store(512 << 10, Eviction::Density);
    replay(&store, skewed(8000, 30_000));
    let [half, double, _] = store.hits_with_other_memory();
    assert!(half.hits < -100.0 && double.hits > 100.0);
    store.reset_statistics();
    assert_eq!(store.hits_with_other_memory().map(|other| other.hits), [0.0; 3]);
    store.flush_all(Time(START + 100), Time(START + 100));
    // What fits into half of the memory is the same in all.
    replay(&store, (0..500).chain(0..500));
    assert_eq!(store.hits_with_other_memory().map(|other| other.hits), [0.0; 3]);
}

#[test]
fn nothing_is_estimated_where_nothing_is_evicted() {
    let store = store(1 << 20, Eviction::Never);
    replay(&store, skewed(100, 1000));
    assert_eq!(store.hits_with_other_memory().map(|other| other.hits), [0.0; 3]);
}

#[test]
fn what_is_lent_has_at_most_half_of_the_limit_and_a_received_value_is_not_copied() {
    const LIMIT: usize = 512 << 10;
    let store = store(LIMIT, Eviction::Lru);
    let now = Time(START);
    let hash = store.hash(b"key");
    let len = LIMIT / 8;
    let mut lent: Vec<_> = (0..4).map(|_| store.lend(hash, len - 256, now).unwrap()).collect();
    assert!(store.lend(hash, len, now).is_none(), "half is lent");
    // Items have the other half.
    set(&store, b"item", &vec![1; len], now).unwrap();
    let mut block = lent.pop().unwrap();
    block.bytes_mut().fill(7);
    let bytes = block.into_bytes();
    let value = bytes.slice(10..len - 300);
    let mut entry = store.entry_received(b"key", hash, now, value.clone());
    entry.insert(NewItem::new(&value, 0, Expiry::NEVER)).unwrap();
    assert_eq!(entry.item().unwrap().value.as_ptr(), value.as_ptr());
    drop((entry, bytes, value));
    assert!(store.lend(hash, len, now).is_some(), "the received value is not lent any more");
    drop(lent);
    assert!(store.statistics().memory_used <= LIMIT as u64);
}

#[test]
#[cfg_attr(miri, ignore = "reserves more than Miri can hold")]
fn a_full_store_stays_within_its_limit_when_large_values_are_freed() {
    let store = store(512 << 10, Eviction::Lru);
    let now = Time(START);
    for key in 0..40u8 {
        set(&store, &[key], &[key; 9000], now).unwrap();
    }
    // Not a byte is left of the limit, and each value lies between two others.
    store.set_memory_limit(store.statistics().memory_used as usize, now);
    let limit = store.memory_limit() as u64;
    let pinned: Vec<_> = (1..40u8)
        .step_by(2)
        .map(|key| entry(&store, &[key], now).item().and_then(|item| item.pin()).expect("a large value"))
        .collect();
    for (key, pinned) in (1..40u8).step_by(2).zip(pinned) {
        // The removed value is freed when its last reader is done.
        entry(&store, &[key], now).remove();
        assert!(store.statistics().memory_used <= limit, "removed: {:?} of {limit}", store.statistics());
        drop(pinned);
        assert!(store.statistics().memory_used <= limit, "freed: {:?} of {limit}", store.statistics());
    }
    let lent: Vec<_> = std::iter::from_fn(|| store.lend(store.hash(b"key"), 5000, now)).collect();
    assert!(!lent.is_empty() && store.statistics().memory_used <= limit, "{:?} of {limit}", store.statistics());
}

#[test]
#[cfg_attr(miri, ignore = "takes long under Miri")]
fn what_connections_wait_with_is_beside_the_limit_first_and_then_within_it() {
    const LIMIT: usize = 2 << 20;
    let store = store(LIMIT, Eviction::Lru);
    let piece = vec![5; 1 << 20];
    assert!(!store.keeps_much());
    let mut kept = Vec::new();
    while let Some(bytes) = store.keep(&piece[..1 << 18], Time(START)) {
        assert_eq!(bytes, piece[..1 << 18]);
        kept.push(bytes);
    }
    assert!(store.keeps_much());
    let beside = BESIDE_MAX >> 18;
    assert!((beside + 1..=beside + ((LIMIT / 2) >> 18)).contains(&kept.len()), "{} pieces", kept.len());
    assert!(store.keep(b"little", Time(START)).is_some());
    drop(kept);
    assert!(!store.keeps_much());
    assert!(store.keep(&piece, Time(START)).is_some());
}
