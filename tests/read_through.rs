//! Reading through the cache, with real nodes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_client::{Client, Error, Json, ReadThrough, Typed};
use larder_tests::{PATIENCE, Server};
use tokio::sync::oneshot;

const TTL: Duration = Duration::from_secs(60);

fn client(node: &Server) -> Client {
    Client::builder().server(node.address()).timeout(Duration::from_secs(5)).build().unwrap()
}

async fn loaded(value: &'static str) -> Result<&'static str, Infallible> {
    Ok(value)
}

async fn not_loaded() -> Result<&'static str, Infallible> {
    panic!("the cache has it")
}

async fn fails() -> Result<Bytes, io::Error> {
    Err(io::Error::other("no database"))
}

async fn value(value: &'static str) -> Result<Bytes, Infallible> {
    Ok(Bytes::from(value))
}

#[tokio::test]
async fn a_thousand_callers_of_a_missing_key_load_it_once() {
    let node = Server::node(&[]);
    // Two clients behave like two processes: they share only the cache.
    let clients = [client(&node), client(&node)];
    let loads = Arc::new(AtomicUsize::new(0));
    let callers = (0..1000).map(|number| {
        let (cache, loads) = (clients[number % 2].clone(), loads.clone());
        tokio::spawn(async move {
            let loader = || async {
                loads.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, io::Error>("Ada")
            };
            cache.get_or_load("user:1", TTL, loader).await
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert_eq!(caller.await.unwrap().unwrap(), "Ada");
    }
    assert_eq!(loads.load(Ordering::Relaxed), 1);
}

/// The variable that names the node to the second process of the next test.
const SECOND_PROCESS: &str = "LARDER_TEST_SECOND_PROCESS";

/// Runs half of the callers and returns the longest wait. Each load adds one to `loads` in the cache.
async fn five_thousand_callers(address: &str) -> Duration {
    let cache = Client::builder().server(address).timeout(PATIENCE).build().unwrap();
    cache.get("connect").await.unwrap();
    let callers = (0..5000).map(|_| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let loader = || async {
                cache.incr_or_init("loads", 1, 1, TTL).await.unwrap();
                tokio::time::sleep(LOADER).await;
                Ok::<_, io::Error>("Ada")
            };
            let value = cache.get_or_load("user:1", TTL, loader).await.unwrap();
            assert_eq!(value, "Ada");
            began.elapsed()
        })
    });
    let mut longest = Duration::ZERO;
    for caller in callers.collect::<Vec<_>>() {
        longest = longest.max(caller.await.unwrap());
    }
    longest
}

const LOADER: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_callers_in_two_processes_load_a_missing_key_once() {
    const NAME: &str = "ten_thousand_callers_in_two_processes_load_a_missing_key_once";
    if let Ok(address) = std::env::var(SECOND_PROCESS) {
        let longest = five_thousand_callers(&address).await;
        println!("longest wait of a caller: loader + {:?}", longest.saturating_sub(LOADER));
        return;
    }
    let node = Server::node(&[]);
    let other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(SECOND_PROCESS, node.address())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let longest = five_thousand_callers(&node.address()).await;
    let other = tokio::task::spawn_blocking(|| other.wait_with_output()).await.unwrap().unwrap();
    assert!(other.status.success());
    println!("longest wait of a caller: loader + {:?}", longest.saturating_sub(LOADER));
    for line in String::from_utf8_lossy(&other.stdout).lines().filter(|line| line.contains("longest")) {
        println!("in the other process: {line}");
    }
    let loads = client(&node).get("loads").await.unwrap().unwrap();
    assert_eq!(loads, "1");
}

#[tokio::test]
async fn a_value_read_before_a_delete_is_returned_but_not_cached() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let loader = || async {
        // The change is committed between the read and the fill.
        cache.delete("user:1").await.unwrap();
        Ok::<_, io::Error>("old")
    };
    assert_eq!(cache.get_or_load("user:1", TTL, loader).await.unwrap(), "old");
    assert_eq!(cache.get("user:1").await.unwrap(), None);
}

#[tokio::test]
async fn a_caller_after_a_delete_does_not_share_a_load_that_began_before_it() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let (began, has_began) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel::<()>();
    let early = tokio::spawn({
        let cache = cache.clone();
        async move {
            let loader = || async move {
                began.send(()).unwrap();
                may_go_on.await.unwrap();
                Ok::<_, io::Error>("old")
            };
            cache.get_or_load("k", TTL, loader).await
        }
    });
    has_began.await.unwrap();
    cache.delete("k").await.unwrap();
    assert_eq!(cache.get_or_load("k", TTL, || loaded("new")).await.unwrap(), "new");
    go_on.send(()).unwrap();
    assert_eq!(early.await.unwrap().unwrap(), "old");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"new"[..]));
}

#[tokio::test]
async fn a_failed_loader_gives_its_lease_back_to_the_next_caller() {
    let node = Server::node(&[]);
    let cache = client(&node);
    assert!(matches!(cache.get_or_load("k", TTL, fails).await, Err(Error::Load(_))));
    assert_eq!(cache.get_or_load("k", TTL, || loaded("value")).await.unwrap(), "value");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"value"[..]));
}

#[tokio::test]
async fn a_dropped_leader_gives_its_lease_back_too() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let (began, has_began) = oneshot::channel();
    let stuck = tokio::spawn({
        let cache = cache.clone();
        async move {
            let loader = || async move {
                began.send(()).unwrap();
                std::future::pending::<Result<Bytes, Infallible>>().await
            };
            cache.get_or_load("k", TTL, loader).await
        }
    });
    has_began.await.unwrap();
    stuck.abort();
    assert!(stuck.await.unwrap_err().is_cancelled());
    // If the lease had to expire, that would take 10 s, and this call would load without a lease and cache nothing.
    assert_eq!(cache.get_or_load("k", TTL, || loaded("value")).await.unwrap(), "value");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"value"[..]));
}

#[tokio::test]
async fn the_loaders_value_is_returned_where_every_node_is_down() {
    let address = format!("127.0.0.1:{}", larder_tests::free_port());
    let cache = Client::builder().server(address).build().unwrap();
    assert_eq!(cache.get_or_load("k", TTL, || loaded("value")).await.unwrap(), "value");
    assert!(matches!(cache.get("k").await, Err(Error::Down { .. })));
}

#[tokio::test]
async fn a_caller_waits_no_longer_for_another_process_than_it_was_told() {
    let node = Server::node(&[]);
    let cache = client(&node);
    // Another process has the lease and hangs.
    assert!(cache.meta_get("k").vivify(TTL).send().await.unwrap().won);
    let impatient = cache.read_through(TTL).wait_at_most(Duration::from_millis(20));
    assert_eq!(impatient.get("k", || value("own")).await.unwrap(), "own");
    // This call had no lease.
    assert_eq!(cache.get("k").await.unwrap(), None);
}

/// Stores an item in the last half of its `TTL`, in which it is refreshed.
async fn almost_expired(cache: &Client, key: &str) -> ReadThrough {
    cache.set(key, "old", TTL / 4).await.unwrap();
    cache.read_through(TTL).refresh_early(TTL / 2)
}

#[tokio::test]
async fn a_value_close_to_its_end_is_refreshed_by_one_caller_and_used_by_the_others() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let pages = almost_expired(&cache, "k").await;
    let loader = || async {
        // While this caller loads, other callers get the old value.
        let other = pages.get("k", || async { Err::<Bytes, _>(io::Error::other("it is loaded already")) }).await;
        assert_eq!(other.unwrap(), "old");
        Ok::<_, io::Error>(Bytes::from("new"))
    };
    assert_eq!(pages.get("k", loader).await.unwrap(), "new");
    assert_eq!(pages.get("k", || value("newer")).await.unwrap(), "new");
}

#[tokio::test]
async fn an_old_value_is_taken_where_its_loader_fails_and_loaded_by_the_next_caller() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let pages = almost_expired(&cache, "k").await;
    assert_eq!(pages.get("k", fails).await.unwrap(), "old");
    assert_eq!(pages.get("k", fails).await.unwrap(), "old");
    assert_eq!(pages.get("k", || value("new")).await.unwrap(), "new");
}

#[tokio::test]
async fn an_invalidated_value_is_served_while_one_caller_loads_the_new_one() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let pages = cache.read_through(TTL);
    pages.get("k", || value("old")).await.unwrap();
    assert!(cache.invalidate("k", TTL).await.unwrap());
    let loader = || async {
        assert_eq!(pages.get("k", fails).await.unwrap(), "old");
        // A plain read is a miss, and does not take the right to load from the callers that load.
        assert_eq!(cache.get("k").await.unwrap(), None);
        Ok::<_, io::Error>(Bytes::from("new"))
    };
    assert_eq!(pages.get("k", loader).await.unwrap(), "new");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"new"[..]));
}

#[tokio::test]
async fn a_plain_reader_of_an_invalidated_value_leaves_the_load_to_those_who_load() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let pages = cache.read_through(TTL);
    pages.get("k", || value("old")).await.unwrap();
    cache.invalidate("k", TTL).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), None);
    assert_eq!(cache.get_item("k").await.unwrap(), None);
    assert!(cache.get_many(&["k"]).await.remove(0).unwrap().is_none());
    assert!(cache.get_items(&["k"]).await.remove(0).unwrap().is_none());
    assert_eq!(cache.update("k", TTL, |current| current).await.unwrap(), None);
    // If one of them had kept the right to load, this call would return the old value.
    assert_eq!(pages.get("k", || value("new")).await.unwrap(), "new");
}

#[tokio::test]
async fn touching_an_invalidated_value_does_not_make_it_live_longer() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let pages = cache.read_through(TTL);
    for key in ["touched", "got"] {
        pages.get(key, || value("old")).await.unwrap();
        cache.invalidate(key, TTL).await.unwrap();
    }
    assert!(!cache.touch("touched", 100 * TTL).await.unwrap());
    assert_eq!(cache.get_and_touch("got", 100 * TTL).await.unwrap(), None);
    for key in ["touched", "got"] {
        assert!(matches!(pages.get(key, fails).await, Err(Error::Load(_))), "nothing old is left");
    }
}

#[tokio::test]
async fn one_who_wants_no_stale_value_waits_or_fails() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let pages = cache.read_through(TTL).never_stale();
    pages.get("k", || value("old")).await.unwrap();
    cache.invalidate("k", TTL).await.unwrap();
    assert!(matches!(pages.get("k", fails).await, Err(Error::Load(_))));
    assert_eq!(pages.get("k", || value("new")).await.unwrap(), "new");
}

#[tokio::test]
async fn that_there_is_no_such_thing_is_cached_where_asked_for() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let absent = || async { Ok::<Option<Bytes>, Infallible>(None) };
    let present = || async { Ok::<_, Infallible>(Some(Bytes::from("here"))) };
    let forgetful = cache.read_through(TTL);
    assert_eq!(forgetful.get_optional("k", absent).await.unwrap(), None);
    assert_eq!(forgetful.get_optional("k", present).await.unwrap().unwrap(), "here");
    let mindful = cache.read_through(TTL).remember_absent(TTL);
    assert_eq!(mindful.get_optional("other", absent).await.unwrap(), None);
    assert_eq!(mindful.get_optional("other", present).await.unwrap(), None);
    assert_eq!(cache.get("other").await.unwrap(), None);
    // The writer that inserts the user deletes the key.
    assert!(cache.delete("other").await.unwrap());
    assert_eq!(mindful.get_optional("other", present).await.unwrap().unwrap(), "here");
}

#[tokio::test]
async fn a_cached_value_that_cannot_be_decoded_is_loaded_anew() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let numbers: Typed<Json> = cache.typed(Json);
    cache.set("k", "not JSON", TTL).await.unwrap();
    assert!(matches!(numbers.get::<Vec<u32>>("k").await, Err(Error::Codec { .. })));
    let loader = || async { Ok::<_, Infallible>(vec![1u32, 2]) };
    assert_eq!(numbers.read_through(TTL).get("k", loader).await.unwrap(), [1, 2]);
    assert_eq!(numbers.get::<Vec<u32>>("k").await.unwrap().unwrap(), [1, 2]);
}

#[tokio::test]
async fn many_keys_are_loaded_by_one_call_with_those_that_nobody_has() {
    let nodes = [Server::node(&[]), Server::node(&[])];
    let cache = Client::builder().servers(nodes.iter().map(Server::address)).build().unwrap();
    let key = |id: &u32| format!("user:{id}");
    let calls = AtomicUsize::new(0);
    let loader = |ids: Vec<u32>| {
        calls.fetch_add(1, Ordering::Relaxed);
        // There is no user 13.
        let found = ids.into_iter().filter(|id| *id != 13);
        let users = found.map(|id| (id, Bytes::from(id.to_string()))).collect();
        async { Ok::<HashMap<u32, Bytes>, Infallible>(users) }
    };
    let first: Vec<u32> = (0..10).collect();
    let users = cache.get_or_load_many(&first, key, TTL, loader).await.unwrap();
    assert_eq!((users.len(), calls.load(Ordering::Relaxed)), (10, 1));
    let asked = std::sync::Mutex::new(Vec::new());
    let noting = |ids: Vec<u32>| {
        asked.lock().unwrap().extend(ids.clone());
        loader(ids)
    };
    let more: Vec<u32> = (5..15).collect();
    let users = cache.get_or_load_many(&more, key, TTL, noting).await.unwrap();
    let mut asked = asked.into_inner().unwrap();
    asked.sort_unstable();
    assert_eq!((asked, calls.load(Ordering::Relaxed)), ((10..15).collect(), 2));
    assert!(more.iter().all(|id| users.get(id).map(|user| user == &id.to_string()) == (*id != 13).then_some(true)));
    assert_eq!(cache.get("user:7").await.unwrap().as_deref(), Some(&b"7"[..]));
    // The lease of the user that was not found has been returned.
    assert_eq!(cache.get_or_load("user:13", TTL, || loaded("new")).await.unwrap(), "new");
}

#[tokio::test]
async fn what_another_process_could_not_load_is_loaded_by_a_second_call() {
    let node = Server::node(&[]);
    let cache = client(&node);
    // Another process loads user 1 and gives up while this process loads user 2.
    let lease = cache.meta_get("user:1").vivify(TTL).cas().send().await.unwrap();
    assert!(lease.won);
    let calls: std::sync::Mutex<Vec<Vec<u32>>> = std::sync::Mutex::default();
    let loader = async |ids: Vec<u32>| {
        calls.lock().unwrap().push(ids.clone());
        cache.meta_delete("user:1").cas(lease.cas).send().await.unwrap();
        Ok::<HashMap<u32, Bytes>, Infallible>(ids.into_iter().map(|id| (id, Bytes::from(id.to_string()))).collect())
    };
    let users = cache.get_or_load_many(&[1, 2], |id| format!("user:{id}"), TTL, loader).await.unwrap();
    assert_eq!(users.len(), 2);
    assert_eq!(calls.into_inner().unwrap(), [[2], [1]]);
    assert_eq!(cache.get("user:1").await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn callers_of_overlapping_keys_share_their_loads() {
    let node = Server::node(&[]);
    let cache = client(&node);
    let loaded: std::sync::Mutex<Vec<u32>> = std::sync::Mutex::default();
    let loader = async |ids: Vec<u32>| {
        loaded.lock().unwrap().extend(&ids);
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<HashMap<u32, Bytes>, Infallible>(ids.into_iter().map(|id| (id, Bytes::from(id.to_string()))).collect())
    };
    let key = |id: &u32| format!("user:{id}");
    let (left, right): (Vec<u32>, Vec<u32>) = ((0..20).collect(), (10..30).rev().collect());
    let (left, right) =
        tokio::join!(cache.get_or_load_many(&left, key, TTL, loader), cache.get_or_load_many(&right, key, TTL, loader));
    assert_eq!((left.unwrap().len(), right.unwrap().len()), (20, 20));
    let mut loaded = loaded.into_inner().unwrap();
    loaded.sort_unstable();
    assert_eq!(loaded, (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_near_cache_answers_until_a_change_through_this_client_or_its_time_is_over() {
    let node = Server::node(&[]);
    let cache = Client::builder().server(node.address()).near_cache(1 << 20, TTL).build().unwrap();
    let elsewhere = client(&node);
    assert_eq!(cache.get_or_load("k", TTL, || loaded("1")).await.unwrap(), "1");
    // This client did not make the change, so its near cache does not see it within its time to live.
    elsewhere.delete("k").await.unwrap();
    assert_eq!(cache.get_or_load("k", TTL, not_loaded).await.unwrap(), "1");
    let past = cache.read_through(TTL).without_near_cache();
    assert_eq!(past.get("k", || value("2")).await.unwrap(), "2");
    cache.delete("k").await.unwrap();
    assert_eq!(cache.get_or_load("k", TTL, || loaded("3")).await.unwrap(), "3");
    cache.set("k", "4", TTL).await.unwrap();
    assert_eq!(cache.get_or_load("k", TTL, not_loaded).await.unwrap(), "4");
}
