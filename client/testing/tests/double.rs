//! A node for tests does what its faults say, and nothing else is lost.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use larder_client::{Circuit, Client, Error, Failover};
use larder_testing::{Fault, Node};

const TTL: Duration = Duration::from_secs(60);

/// The longest time that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn client(node: &Node, timeout: Duration) -> Client {
    Client::builder().server(node.address()).timeout(timeout).failover(Failover::Error).build().unwrap()
}

#[tokio::test]
async fn the_clock_moves_only_when_the_test_moves_it() {
    let node = Node::start().unwrap();
    let cache = client(&node, PATIENCE);
    cache.set("second", "v", Duration::from_secs(1)).await.unwrap();
    cache.set("minute", "v", TTL).await.unwrap();
    // Longer than the item's time to live.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(cache.get("second").await.unwrap().is_some());
    node.advance(Duration::from_secs(1));
    assert!(cache.get("second").await.unwrap().is_none());
    assert!(cache.get("minute").await.unwrap().is_some());
    node.advance(Duration::from_millis(58_500));
    assert!(cache.get("minute").await.unwrap().is_none(), "a part of a second counts as a whole one");
}

#[tokio::test]
async fn errors_are_answered_in_order_and_the_connection_stays() {
    let node = Node::start().unwrap();
    let cache = client(&node, PATIENCE);
    cache.set("k", "v", TTL).await.unwrap();
    node.fail(Fault::Errors);
    for _ in 0..3 {
        let error = cache.get("k").await.unwrap_err();
        assert!(matches!(&error, Error::Refused { line, .. } if line.contains("out of memory")), "{error}");
        assert!(cache.set("k", "new", TTL).await.is_err());
    }
    node.heal();
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"v"[..]), "a refused write has no effect");
    assert_eq!(cache.nodes()[0].last_failure, None, "no connection was lost");
}

#[tokio::test]
async fn no_answer_is_given_to_another_request_while_faults_come_and_go_under_load() {
    let node = Node::start().unwrap();
    let cache = client(&node, PATIENCE);
    let keys: Vec<String> = (0..50).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        cache.set(key, key, TTL).await.unwrap();
    }
    let readers = (0..8).map(|reader| {
        let (cache, keys) = (cache.clone(), keys.clone());
        tokio::spawn(async move {
            let mut refused = 0;
            for number in 0..500 {
                let key = &keys[(number * 7 + reader) % keys.len()];
                match cache.get(key).await {
                    Ok(value) => assert_eq!(value.as_deref(), Some(key.as_bytes())),
                    Err(Error::Refused { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
            refused
        })
    });
    let readers: Vec<_> = readers.collect();
    while readers.iter().any(|reader| !reader.is_finished()) {
        node.fail(Fault::Errors);
        tokio::time::sleep(Duration::from_millis(2)).await;
        node.heal();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_node_answers_nothing_and_a_slow_one_later() {
    let node = Node::start().unwrap();
    let cache = client(&node, Duration::from_millis(300));
    cache.set("k", "v", TTL).await.unwrap();
    node.fail(Fault::Silent);
    assert!(matches!(cache.get("k").await, Err(Error::Timeout { .. })));
    node.heal();
    // A connection of its own: the client closes one that was silent for a whole time-out.
    let cache = client(&node, PATIENCE);
    assert!(cache.get("k").await.unwrap().is_some());
    node.fail(Fault::Slow(Duration::from_millis(200)));
    let began = Instant::now();
    assert!(cache.get("k").await.unwrap().is_some());
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_dead_node_refuses_connections_and_comes_back_on_its_port_with_its_items() {
    let node = Node::start().unwrap();
    let cache = client(&node, PATIENCE);
    cache.set("k", "v", TTL).await.unwrap();
    node.fail(Fault::Dead);
    let refused = TcpStream::connect(node.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(matches!(cache.get("k").await, Err(Error::Down { .. })));
    node.heal();
    let back = async {
        while cache.nodes()[0].circuit != Circuit::Closed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("the client connects again");
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn text_and_binary_clients_get_errors_of_their_protocol() {
    let node = Node::start().unwrap();
    node.fail(Fault::Errors);
    let exchange = |request: &[u8], length: usize| {
        let mut connection = TcpStream::connect(node.address()).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(request).unwrap();
        let mut reply = vec![0; length];
        connection.read_exact(&mut reply).unwrap();
        reply
    };
    let error = b"SERVER_ERROR out of memory storing object\r\n";
    assert_eq!(exchange(b"get a\r\n", error.len()), error);
    // A value above the largest size is refused in the node's own words, and its bytes are no requests.
    let large = [&b"set a 0 0 1048577\r\n"[..], &vec![b'x'; 1_048_577], b"\r\nmn\r\n"].concat();
    let both = b"SERVER_ERROR object too large for cache\r\nMN\r\n";
    assert_eq!(exchange(&large, both.len()), both);
    let mut get = vec![0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    get.extend([0; 12]);
    get.push(b'a');
    let header = exchange(&get, 24);
    assert_eq!((header[0], u16::from_be_bytes([header[6], header[7]])), (0x81, 0x82), "out of memory");
}
