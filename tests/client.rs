//! The client library with real nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use larder_client::{Client, Compressed, Compression, Error, Failover, Json, MetaStatus, Plain, Stored};
use larder_tests::{PATIENCE, Server};

const TTL: Duration = Duration::from_secs(60);

fn client(servers: &[&Server]) -> Client {
    let addresses = servers.iter().map(|server| server.address());
    Client::builder().servers(addresses).timeout(Duration::from_secs(2)).build().unwrap()
}

/// Calls until the node answers again.
async fn until_back(cache: &Client, key: &str) {
    let back = async {
        while cache.get(key).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("the client connects again");
}

#[tokio::test]
async fn every_operation_does_what_memcache_says() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    assert_eq!(cache.get("a").await.unwrap(), None);
    cache.set("a", "1", TTL).await.unwrap();
    assert_eq!(cache.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(cache.add("a", "2", TTL).await.unwrap(), Stored::No);
    assert_eq!(cache.replace("missing", "2", TTL).await.unwrap(), Stored::No);
    assert_eq!(cache.append("a", "0").await.unwrap(), Stored::Yes);
    assert_eq!(cache.prepend("a", "1").await.unwrap(), Stored::Yes);
    assert_eq!(cache.incr("a", 5).await.unwrap(), Some(115));
    assert_eq!(cache.decr("a", 200).await.unwrap(), Some(0));
    assert_eq!(cache.incr("missing", 1).await.unwrap(), None);
    let item = cache.get_item("a").await.unwrap().unwrap();
    assert_eq!(cache.cas("a", "x", TTL, item.cas).await.unwrap(), Stored::Yes);
    assert_eq!(cache.cas("a", "y", TTL, item.cas).await.unwrap(), Stored::Changed);
    assert_eq!(cache.cas("missing", "y", TTL, item.cas).await.unwrap(), Stored::Gone);
    assert!(cache.touch("a", TTL).await.unwrap());
    assert!(!cache.touch("missing", TTL).await.unwrap());
    assert_eq!(cache.get_and_touch("a", TTL).await.unwrap().as_deref(), Some(&b"x"[..]));
    assert!(cache.delete("a").await.unwrap());
    assert!(!cache.delete("a").await.unwrap());
    let refused = cache.set("big", vec![0; 2 << 20], TTL).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert!(matches!(cache.get("two words").await, Err(Error::InvalidKey(_))));
}

#[tokio::test]
async fn counters_begin_at_what_they_are_told() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    assert_eq!(cache.incr_or_init("n", 5, 10, TTL).await.unwrap(), 10);
    assert_eq!(cache.incr_or_init("n", 5, 10, TTL).await.unwrap(), 15);
    assert_eq!(cache.decr_or_init("n", 6, 10, TTL).await.unwrap(), 9);
    assert_eq!(cache.decr_or_init("m", 6, 10, TTL).await.unwrap(), 10);
}

#[tokio::test]
async fn meta_commands_ask_for_what_their_flags_say() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let stored = cache.meta_set("k", "value").ttl(TTL).flags(7).new_cas(99).return_cas().send().await.unwrap();
    assert_eq!((stored.status, stored.cas), (MetaStatus::Done, 99));
    let all = cache.meta_get("k").value().flags().cas().ttl().size().last_access().hit_before();
    let reply = all.clone().no_bump().send().await.unwrap();
    assert_eq!(reply.value.as_deref(), Some(&b"value"[..]));
    assert_eq!((reply.flags, reply.cas, reply.size, reply.hit_before), (7, 99, Some(5), Some(false)));
    assert!(reply.ttl.is_some_and(|ttl| (50..=60).contains(&ttl)) && reply.last_access.is_some());
    assert_eq!(all.clone().send().await.unwrap().hit_before, Some(false));
    assert_eq!(all.send().await.unwrap().hit_before, Some(true));
    assert_eq!(cache.meta_get("k").value().unless_cas(99).send().await.unwrap().value, None);
    assert_eq!(cache.meta_set("k", "x").add().send().await.unwrap().status, MetaStatus::NotStored);
    assert_eq!(cache.meta_set("k", "x").cas(1).send().await.unwrap().status, MetaStatus::Changed);
    cache.meta_set("log", "a").append().vivify(TTL).send().await.unwrap();
    cache.meta_set("log", "b").append().vivify(TTL).send().await.unwrap();
    assert_eq!(cache.get("log").await.unwrap().unwrap(), "ab");
    let counted = cache.meta_arithmetic("n").initial(10, TTL).return_ttl().send().await.unwrap();
    assert_eq!((counted.value.unwrap(), counted.ttl.is_some()), ("10".into(), true));
    let counted = cache.meta_arithmetic("n").decrement().delta(3).send().await.unwrap();
    assert_eq!(counted.value.unwrap(), "7");
    // One caller wins and loads; every other caller learns that somebody loads.
    assert!(cache.meta_get("absent").vivify(TTL).send().await.unwrap().won);
    assert!(cache.meta_get("absent").vivify(TTL).send().await.unwrap().already_won);
    assert!(cache.meta_get("k").recache(Duration::from_secs(300)).send().await.unwrap().won);
    cache.meta_delete("k").invalidate().ttl(TTL).send().await.unwrap();
    let stale = cache.meta_get("k").value().send().await.unwrap();
    assert!(stale.stale && stale.won && stale.value.is_some());
    assert_eq!(cache.meta_delete("k").cas(1).send().await.unwrap().status, MetaStatus::Changed);
    assert_eq!(cache.meta_delete("k").send().await.unwrap().status, MetaStatus::Done);
    assert_eq!(cache.meta_delete("k").send().await.unwrap().status, MetaStatus::Missing);
}

#[tokio::test]
async fn an_update_counts_each_of_many_concurrent_changes() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let numbers = cache.typed(Json);
    let updates = (0..64u32).map(|number| {
        let numbers = numbers.clone();
        tokio::spawn(async move {
            let push = |list: Option<Vec<u32>>| {
                let mut list = list.unwrap_or_default();
                list.push(number);
                Some(list)
            };
            numbers.update("list", TTL, push).await.unwrap().unwrap()
        })
    });
    for update in updates.collect::<Vec<_>>() {
        update.await.unwrap();
    }
    let mut list: Vec<u32> = numbers.get("list").await.unwrap().unwrap();
    list.sort_unstable();
    assert_eq!(list, (0..64).collect::<Vec<_>>());
    assert_eq!(numbers.update("list", TTL, |_: Option<Vec<u32>>| None).await.unwrap(), None);
    assert_eq!(numbers.get::<Vec<u32>>("list").await.unwrap().unwrap().len(), 64);
}

#[tokio::test]
async fn an_update_overtakes_a_load_under_way() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let loader = || async {
        cache.update("k", TTL, |current| current.is_none().then(|| "updated".into())).await.unwrap();
        Ok::<_, std::io::Error>("loaded")
    };
    assert_eq!(cache.get_or_load("k", TTL, loader).await.unwrap(), "loaded");
    assert_eq!(cache.get("k").await.unwrap().unwrap(), "updated");
}

#[tokio::test]
async fn a_load_under_way_is_a_miss_to_plain_readers() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let loader = || async {
        assert_eq!(cache.get("k").await.unwrap(), None);
        assert!(cache.get_many(&["k"]).await.remove(0).unwrap().is_none());
        Ok::<_, std::io::Error>("")
    };
    assert_eq!(cache.get_or_load("k", TTL, loader).await.unwrap(), "");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn long_keys_are_refused_or_hashed() {
    let node = Server::node(&[]);
    let (long, longer) = ("k".repeat(300), "k".repeat(301));
    assert!(matches!(client(&[&node]).set(&long, "1", TTL).await, Err(Error::InvalidKey(_))));
    let cache = Client::builder().server(node.address()).hash_long_keys().build().unwrap();
    cache.set(&long, "1", TTL).await.unwrap();
    cache.set(&longer, "2", TTL).await.unwrap();
    assert_eq!(cache.get(&long).await.unwrap().unwrap(), "1");
    let many = cache.get_many(&[&longer, &long]).await;
    assert_eq!(many.into_iter().map(|value| value.unwrap().unwrap()).collect::<Vec<_>>(), ["2", "1"]);
    assert!(cache.delete(&long).await.unwrap());
}

#[tokio::test]
async fn an_invalidated_namespace_is_empty_and_an_evicted_generation_brings_nothing_back() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let (users, elsewhere) = (cache.namespace("users"), client(&[&node]).namespace("users").remember(Duration::ZERO));
    let key = users.key("1").await.unwrap();
    assert_eq!(elsewhere.key("1").await.unwrap(), key);
    cache.set(&key, "Ada", TTL).await.unwrap();
    users.invalidate().await.unwrap();
    let new_key = users.key("1").await.unwrap();
    assert_ne!(new_key, key);
    assert_eq!(elsewhere.key("1").await.unwrap(), new_key);
    // Removes the item, as an eviction would.
    cache.delete("users:generation").await.unwrap();
    let newest_key = elsewhere.key("1").await.unwrap();
    assert!(newest_key != new_key && newest_key != key);
}

#[tokio::test]
async fn typed_values_come_back_as_they_were_stored_and_not_as_another_type() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let plain = cache.typed(Plain);
    plain.set("n", &41u64, TTL).await.unwrap();
    assert_eq!(cache.incr("n", 1).await.unwrap(), Some(42));
    assert_eq!(plain.get::<u64>("n").await.unwrap(), Some(42));
    assert!(matches!(plain.get::<String>("n").await, Err(Error::Codec { .. })));
    let compressed = cache.typed(Compressed::new(Json).method(Compression::Zlib));
    let words = vec!["larder".to_owned(); 1000];
    assert_eq!(compressed.add("words", &words, TTL).await.unwrap(), Stored::Yes);
    assert_eq!(compressed.replace("words", &words, TTL).await.unwrap(), Stored::Yes);
    assert_eq!(compressed.get_many(&["words", "none"]).await.remove(0).unwrap(), Some(words));
    assert!(cache.get("words").await.unwrap().unwrap().len() < 200);
    assert!(matches!(cache.typed(Json).get::<Vec<String>>("words").await, Err(Error::Codec { .. })));
}

#[tokio::test]
async fn many_keys_are_set_and_deleted_with_a_result_for_each() {
    let nodes = [Server::node(&[]), Server::node(&[])];
    let cache = client(&[&nodes[0], &nodes[1]]);
    let items = [("a", vec![1]), ("two words", vec![2]), ("b", vec![0; 2 << 20]), ("c", vec![3])];
    let results = cache.set_many(&items, TTL).await;
    assert!(results[0].is_ok() && results[3].is_ok());
    assert!(matches!(results[1], Err(Error::InvalidKey(_))));
    assert!(matches!(results[2], Err(Error::Refused { .. })));
    let deleted = cache.delete_many(&["c", "two words", "a", "b"]).await;
    assert!(matches!(deleted[..], [Ok(true), Err(Error::InvalidKey(_)), Ok(true), Ok(false)]), "{deleted:?}");
}

#[tokio::test]
async fn all_nodes_tell_their_version_and_statistics_and_are_emptied() {
    let nodes = [Server::node(&[]), Server::node(&[])];
    let down = format!("127.0.0.1:{}", larder_tests::free_port());
    let addresses = nodes.iter().map(Server::address).chain([down.clone()]);
    let cache = Client::builder().servers(addresses).timeout(PATIENCE).failover(Failover::Error).build().unwrap();
    let versions = cache.version().await;
    assert!(versions[0].1.as_ref().unwrap().starts_with("1.6."), "{versions:?}");
    assert_eq!(&*versions[2].0, down);
    assert!(matches!(versions[2].1, Err(Error::Down { .. })));
    let keys: Vec<String> = (0..100).map(|number| format!("key:{number}")).collect();
    let stored = join_all(keys.iter().map(|key| cache.set(key, "v", TTL))).await;
    let stored = stored.iter().filter(|result| result.is_ok()).count();
    let count = async || {
        let statistics = cache.stats("").await;
        let items = statistics.into_iter().filter_map(|(_, statistics)| statistics.ok());
        items.map(|statistics| statistics["curr_items"].parse::<usize>().unwrap()).sum::<usize>()
    };
    assert!(stored > 0);
    assert_eq!(count().await, stored);
    assert!(cache.stats("settings").await[0].1.as_ref().unwrap().contains_key("maxbytes"));
    assert!(cache.stats("x\r\nflush_all").await[0].1.is_err());
    let flushed = cache.flush_all().await;
    assert!(flushed[0].1.is_ok() && flushed[1].1.is_ok() && flushed[2].1.is_err());
    assert!(cache.get_many(&keys).await.iter().all(|value| !matches!(value, Ok(Some(_)))));
}

#[test]
fn the_blocking_client_needs_no_runtime() {
    let node = Server::node(&[]);
    let cache = Client::builder().server(node.address()).timeout(PATIENCE).build_blocking().unwrap();
    cache.set("a", "1", TTL).unwrap();
    let other = cache.clone();
    let thread = std::thread::spawn(move || other.incr("a", 1).unwrap());
    assert_eq!(thread.join().unwrap(), Some(2));
    assert_eq!(cache.get_many(&["a", "b"])[0].as_ref().unwrap().as_deref(), Some(&b"2"[..]));
    let loaded = cache.get_or_load("c", TTL, || Ok::<_, std::io::Error>("loaded")).unwrap();
    assert_eq!(loaded, "loaded");
    let size = cache.wait(|cache| async move { cache.meta_get("c").size().send().await });
    assert_eq!(size.unwrap().size, Some(6));
    assert!(cache.delete("c").unwrap());
    assert!(matches!(cache.get("two words"), Err(Error::InvalidKey(_))));
}

#[tokio::test]
async fn what_the_client_does_is_counted_and_its_nodes_are_shown_by_gauges() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let node = Server::node(&[]);
    let recorder = DebuggingRecorder::new();
    // The test's only thread runs the client too.
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let cache = Client::builder().server(node.address()).metrics().build().unwrap();
    cache.set("a", "1", TTL).await.unwrap();
    cache.get("a").await.unwrap();
    cache.get_many(&["a", "b", "c"]).await;
    cache.get_or_load("d", TTL, || async { Ok::<_, std::io::Error>("value") }).await.unwrap();
    assert!(cache.set("big", vec![0; 2 << 20], TTL).await.is_err());
    let address = node.address();
    // What is recorded, by name and labels: a histogram by the number of its values.
    let snapshot = || -> std::collections::BTreeMap<String, f64> {
        let value = |value: DebugValue| match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        let recorded = recorder.snapshotter().snapshot().into_vec().into_iter();
        let named = recorded.map(|(key, _, _, recorded)| {
            let labels: Vec<String> = key.key().labels().map(|l| format!(" {}={}", l.key(), l.value())).collect();
            (format!("{}{}", key.key().name(), labels.concat()), value(recorded))
        });
        named.collect()
    };
    let recorded = snapshot();
    let of_node = |name: &str| recorded[&format!("larder_client_{name} node={address}")];
    assert_eq!(of_node("requests_total"), 8.0);
    assert_eq!(of_node("hits_total"), 2.0);
    // The items are "b", "c" and "d", which won a lease.
    assert_eq!(of_node("misses_total"), 3.0);
    assert_eq!(of_node("errors_total"), 1.0);
    assert_eq!(of_node("in_flight"), 0.0);
    assert_eq!(of_node("connections"), 1.0);
    assert_eq!(of_node("ejections_total"), 0.0);
    assert_eq!(recorded["larder_client_loads_total"], 1.0);
    let server = format!("db.system.name=memcached server.address=127.0.0.1 server.port={}", node.port());
    let calls = |labels: &str| recorded[&format!("db.client.operation.duration {server} {labels}")];
    // "a", the three, and "d"; "a" and "d"; the one that was too large.
    assert_eq!(calls("db.operation.name=get"), 3.0);
    assert_eq!(calls("db.operation.name=set"), 2.0);
    assert_eq!(calls("db.operation.name=set error.type=refused"), 1.0);
    let circuits = |recorded: &std::collections::BTreeMap<String, f64>| {
        ["closed", "connecting", "open"]
            .map(|state| recorded[&format!("larder_client_circuit node={address} state={state}")])
    };
    assert_eq!(circuits(&recorded), [1.0, 0.0, 0.0]);
    drop(node);
    // A snapshot takes what it shows, so what several show is added up.
    let (mut ejections, mut is_open) = (0.0, false);
    let ejected = async {
        while !is_open || ejections < 1.0 {
            let recorded = snapshot();
            is_open |= circuits(&recorded) == [0.0, 0.0, 1.0];
            ejections += recorded[&format!("larder_client_ejections_total node={address}")];
            assert_eq!(recorded[&format!("larder_client_connections node={address}")], 0.0);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ejected).await.expect("the lost node is ejected");
    assert_eq!(ejections, 1.0);
}

#[tokio::test]
async fn many_keys_come_back_in_order_from_all_nodes() {
    let nodes = [Server::node(&[]), Server::node(&[]), Server::node(&[])];
    let cache = client(&[&nodes[0], &nodes[1], &nodes[2]]);
    let keys: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
    for key in keys.iter().step_by(2) {
        cache.set(key, key, TTL).await.unwrap();
    }
    let values = cache.get_many(&keys).await;
    for (number, (key, value)) in keys.iter().zip(values).enumerate() {
        let expected = (number % 2 == 0).then_some(key.as_bytes());
        assert_eq!(value.unwrap().as_deref(), expected);
    }
    let owners: std::collections::HashSet<usize> = keys.iter().map(|key| cache.owner(key)).collect();
    assert_eq!(owners.len(), 3);
}

#[tokio::test]
async fn a_node_that_dies_fails_fast_and_comes_back_by_itself() {
    let node = Server::node(&[]);
    let port = node.port();
    let cache = client(&[&node]);
    cache.set("k", "v", TTL).await.unwrap();
    drop(node);
    assert!(cache.get("k").await.is_err());
    let _node = Server::node_on(port, &[]);
    until_back(&cache, "k").await;
    assert_eq!(cache.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn another_node_stands_in_for_one_that_died_and_keeps_no_old_value() {
    let mut nodes = vec![Server::node(&[]), Server::node(&[]), Server::node(&[])];
    let cache = client(&[&nodes[0], &nodes[1], &nodes[2]]);
    cache.set("k", "old", TTL).await.unwrap();
    drop(nodes.remove(cache.owner("k")));
    // The first call may still use the connection to the dead node.
    while cache.set("k", "new", TTL).await.is_err() {}
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"new"[..]));
    let values = cache.get_many(&["k"]).await;
    assert_eq!(values[0].as_ref().unwrap().as_deref(), Some(&b"new"[..]));
    // No write and no touch gives an item a long life on a stand-in.
    let left = || async { cache.meta_get("k").ttl().send().await.unwrap().ttl.unwrap() };
    assert!(cache.touch("k", TTL).await.unwrap());
    assert!(left().await <= 10);
    cache.get_and_touch("k", Duration::ZERO).await.unwrap();
    assert!(left().await <= 10);
    cache.meta_get("k").touch(TTL).send().await.unwrap();
    assert!(left().await <= 10);
    cache.meta_set("k", "new").send().await.unwrap();
    assert!(left().await <= 10);
    // The owner cannot be reached; its stand-in gets the delete.
    assert!(cache.delete("k").await.is_err());
    assert_eq!(cache.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_frozen_node_times_out_and_answers_no_one_elses_question_when_it_wakes() {
    let node = Server::node(&[]);
    let cache = Client::builder().server(node.address()).timeout(Duration::from_secs(1)).build().unwrap();
    for number in 0..100 {
        cache.set(format!("k{number}"), number.to_string(), TTL).await.unwrap();
    }
    node.signal("STOP");
    assert!(matches!(cache.get("k1").await, Err(Error::Timeout { .. })));
    assert!(cache.get("k2").await.is_err());
    node.signal("CONT");
    until_back(&cache, "k3").await;
    for number in 0..100 {
        let value = cache.get(format!("k{number}")).await.unwrap().unwrap();
        assert_eq!(value, number.to_string());
    }
}

#[tokio::test]
async fn a_node_frozen_under_load_fails_its_own_callers_only_and_mixes_up_no_answers() {
    const KEYS: usize = 300;
    let nodes = [Server::node(&[]), Server::node(&[]), Server::node(&[])];
    let servers = nodes.iter().map(Server::address);
    let cache =
        Client::builder().servers(servers).timeout(Duration::from_secs(2)).failover(Failover::Error).build().unwrap();
    for number in 0..KEYS {
        cache.set(number.to_string(), number.to_string(), TTL).await.unwrap();
    }
    let answered: Arc<[AtomicUsize; 3]> = Arc::default();
    let failed: Arc<[AtomicUsize; 3]> = Arc::default();
    let callers: Vec<_> = (0..24)
        .map(|task| {
            let (cache, answered, failed) = (cache.clone(), answered.clone(), failed.clone());
            tokio::spawn(async move {
                for number in (0..).map(|step| (task * 31 + step * 7) % KEYS) {
                    let owner = cache.owner(number.to_string());
                    match cache.get(number.to_string()).await {
                        Ok(value) => {
                            assert_eq!(value.unwrap(), number.to_string());
                            answered[owner].fetch_add(1, Ordering::Relaxed);
                        }
                        // A caller that is refused at once yields the processor to the others.
                        Err(_) => {
                            failed[owner].fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }
                }
            })
        })
        .collect();
    let of = |counts: &[AtomicUsize; 3], node: usize| counts[node].load(Ordering::Relaxed);
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let began = std::time::Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            assert!(callers.iter().all(|caller| !caller.is_finished()), "a caller got a wrong answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until("all nodes answer", &|| (0..3).all(|node| of(&answered, node) > 100)).await;
    nodes[0].signal("STOP");
    until("callers of the frozen node are told", &|| of(&failed, 0) > 100).await;
    let before = [of(&answered, 1), of(&answered, 2)];
    until("the others go on", &|| of(&answered, 1) > before[0] + 100 && of(&answered, 2) > before[1] + 100).await;
    nodes[0].signal("CONT");
    let before = of(&answered, 0);
    until("the node is back", &|| of(&answered, 0) > before + 100).await;
    assert_eq!([of(&failed, 1), of(&failed, 2)], [0, 0]);
    callers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn calls_dropped_at_random_points_never_shift_answers_to_other_callers() {
    use rand::{RngExt, SeedableRng};
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    for number in 0..50 {
        cache.set(format!("k{number}"), number.to_string(), TTL).await.unwrap();
    }
    let tasks = (0..16).map(|seed| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            for _ in 0..500 {
                let number = random.random_range(0..50);
                let patience = Duration::from_micros(random.random_range(0..400));
                if let Ok(answer) = tokio::time::timeout(patience, cache.get(format!("k{number}"))).await {
                    assert_eq!(answer.unwrap().unwrap(), number.to_string());
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Prints the latency of calls to the running nodes, before another node is frozen and while it is:
/// `cargo test -p larder-tests --test client -- --ignored --nocapture frozen`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn latency_of_the_others_while_a_node_is_frozen() {
    let nodes = [Server::node(&[]), Server::node(&[]), Server::node(&[])];
    let servers = nodes.iter().map(Server::address);
    let cache = Client::builder().servers(servers).failover(Failover::Error).build().unwrap();
    let keys: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    for key in &keys {
        cache.set(key, key, TTL).await.unwrap();
    }
    let measure = async || {
        let began = std::time::Instant::now();
        let tasks = (0..32).map(|task| {
            let (cache, keys) = (cache.clone(), keys.clone());
            tokio::spawn(async move {
                let (mut others, mut frozen) = (Vec::new(), Vec::new());
                for key in keys.iter().cycle().skip(task * 9) {
                    let called = std::time::Instant::now();
                    if called - began > Duration::from_secs(3) {
                        break;
                    }
                    let answer = cache.get(key).await;
                    let took = called.elapsed();
                    match (cache.owner(key), answer) {
                        (0, Err(_)) => {
                            frozen.push(took);
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        (_, answer) => {
                            assert_eq!(&answer.unwrap().unwrap()[..], key.as_bytes());
                            others.push(took);
                        }
                    }
                }
                (others, frozen)
            })
        });
        let (mut others, mut frozen) = (Vec::new(), Vec::new());
        for task in tasks.collect::<Vec<_>>() {
            let (of_others, of_frozen) = task.await.unwrap();
            others.extend(of_others);
            frozen.extend(of_frozen);
        }
        others.sort_unstable();
        let p99 = others[others.len() * 99 / 100];
        println!(
            "{} answers, p99 {p99:?}; {} failures, the slowest after {:?}",
            others.len(),
            frozen.len(),
            frozen.iter().max()
        );
    };
    for _ in 0..3 {
        measure().await;
        nodes[0].signal("STOP");
        measure().await;
        nodes[0].signal("CONT");
        until_back(&cache, keys.iter().find(|key| cache.owner(key) == 0).unwrap()).await;
    }
}
