//! The client library over real nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder_client::{Client, Error, Stored};
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
async fn a_thousand_callers_of_a_missing_key_load_it_once() {
    let node = Server::node(&[]);
    // Two clients are as two processes: they share nothing but the cache.
    let clients = [client(&[&node]), client(&[&node])];
    let loads = Arc::new(AtomicUsize::new(0));
    let callers = (0..1000).map(|number| {
        let (cache, loads) = (clients[number % 2].clone(), loads.clone());
        tokio::spawn(async move {
            let loader = || async {
                loads.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, std::io::Error>("Ada")
            };
            cache.get_or_load("user:1", TTL, loader).await
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert_eq!(caller.await.unwrap().unwrap(), "Ada");
    }
    assert_eq!(loads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_value_read_before_a_delete_is_returned_but_not_cached() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let loader = || async {
        // The change is committed after the read and before the fill.
        cache.delete("user:1").await.unwrap();
        Ok::<_, std::io::Error>("old")
    };
    assert_eq!(cache.get_or_load("user:1", TTL, loader).await.unwrap(), "old");
    assert_eq!(cache.get("user:1").await.unwrap(), None);
}

#[tokio::test]
async fn a_caller_after_a_delete_does_not_share_a_load_that_began_before_it() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let (began, has_began) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = tokio::sync::oneshot::channel::<()>();
    let early = tokio::spawn({
        let cache = cache.clone();
        async move {
            let loader = || async move {
                began.send(()).unwrap();
                may_go_on.await.unwrap();
                Ok::<_, std::io::Error>("old")
            };
            cache.get_or_load("k", TTL, loader).await
        }
    });
    has_began.await.unwrap();
    cache.delete("k").await.unwrap();
    let late = cache.get_or_load("k", TTL, || async { Ok::<_, std::io::Error>("new") }).await;
    assert_eq!(late.unwrap(), "new");
    go_on.send(()).unwrap();
    assert_eq!(early.await.unwrap().unwrap(), "old");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"new"[..]));
}

#[tokio::test]
async fn a_failed_loader_gives_its_lease_back_to_the_next_caller() {
    let node = Server::node(&[]);
    let cache = client(&[&node]);
    let failing = || async { Err::<String, _>(std::io::Error::other("no database")) };
    assert!(matches!(cache.get_or_load("k", TTL, failing).await, Err(Error::Load(_))));
    let loaded = cache.get_or_load("k", TTL, || async { Ok::<_, std::io::Error>("value") }).await;
    assert_eq!(loaded.unwrap(), "value");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"value"[..]));
}

#[tokio::test]
async fn a_dropped_leader_leaves_the_load_to_the_next_caller() {
    let node = Server::node(&[]);
    let cache = Client::builder().server(node.address()).lease(Duration::from_secs(1)).build().unwrap();
    let stuck = cache.get_or_load("k", TTL, || async {
        std::future::pending::<()>().await;
        Ok::<_, std::io::Error>("never")
    });
    assert!(tokio::time::timeout(Duration::from_millis(200), stuck).await.is_err());
    let loaded = cache.get_or_load("k", TTL, || async { Ok::<_, std::io::Error>("value") }).await;
    assert_eq!(loaded.unwrap(), "value");
}

#[tokio::test]
async fn the_loaders_value_is_returned_where_every_node_is_down() {
    let address = format!("127.0.0.1:{}", larder_tests::free_port());
    let cache = Client::builder().server(address).build().unwrap();
    let loaded = cache.get_or_load("k", TTL, || async { Ok::<_, std::io::Error>("value") }).await;
    assert_eq!(loaded.unwrap(), "value");
    assert!(matches!(cache.get("k").await, Err(Error::Down { .. })));
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
    // The first call may still find the connection that the dead node leaves.
    while cache.set("k", "new", TTL).await.is_err() {}
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"new"[..]));
    let values = cache.get_many(&["k"]).await;
    assert_eq!(values[0].as_ref().unwrap().as_deref(), Some(&b"new"[..]));
    // The owner cannot be told, its stand-in is.
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
async fn calls_dropped_at_random_points_never_shift_answers_to_other_callers() {
    use rand::{Rng, SeedableRng};
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
