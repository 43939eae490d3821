//! No caller ever gets another one's answer, whatever callers and the node do.

use std::time::Duration;

use larder_client::{Client, Error, Failover};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How a node misbehaves.
#[derive(Debug, Clone)]
struct Faults {
    seed: u64,
    /// Answers leave in pieces of up to so many bytes.
    piece: usize,
    /// Of a thousand pieces, so many come late, by up to `delay`.
    delayed: u32,
    delay: Duration,
    /// Of a thousand pieces, behind so many the connection is closed.
    dropped: u32,
}

fn faults() -> impl Strategy<Value = Faults> {
    (any::<u64>(), 1usize..64, 0u32..100, 0u64..30, 0u32..10).prop_map(|(seed, piece, delayed, delay, dropped)| {
        Faults { seed, piece, delayed, delay: Duration::from_millis(delay), dropped }
    })
}

/// A node that has every key; its value is the key, repeated. Keys that begin with `none` it does not have, and those
/// that begin with `bad` it refuses.
async fn serve(connection: TcpStream, faults: Faults, mut random: StdRng) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let (reader, mut writer) = connection.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split(' ').nth(1) {
            None => "MN\r\n".to_owned(),
            Some(key) if key.starts_with("none") => "EN\r\n".to_owned(),
            Some(key) if key.starts_with("bad") => format!("SERVER_ERROR {key}\r\n"),
            Some(key) => format!("VA {}\r\n{}\r\n", value(key).len(), value(key)),
        };
        for piece in answer.as_bytes().chunks(random.random_range(1..=faults.piece)) {
            if random.random_ratio(faults.delayed, 1000) {
                tokio::time::sleep(faults.delay.mul_f64(random.random())).await;
            }
            writer.write_all(piece).await?;
            if random.random_ratio(faults.dropped, 1000) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn value(key: &str) -> String {
    key.repeat(1 + key.len() % 3)
}

async fn start(faults: Faults) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut random = StdRng::seed_from_u64(faults.seed);
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection, faults.clone(), StdRng::from_rng(&mut random)));
        }
    });
    address
}

/// Drops a call, half of the time, after it was polled a few times; else waits for its answer.
async fn some<T>(random: &mut StdRng, call: impl Future<Output = T>) -> Option<T> {
    let patience = if random.random() { random.random_range(0..12) } else { u32::MAX };
    let over = async {
        for _ in 0..patience {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        answer = call => Some(answer),
        () = over => None,
    }
}

/// Calls with random keys, half of them dropped on the way, and checks every answer.
async fn call(cache: Client, mut random: StdRng, calls: usize) {
    for _ in 0..calls {
        let mut key = || format!("{}:{}", ["key", "none", "bad"][random.random_range(0..3)], random.random::<u32>());
        let keys: Vec<String> = (0..4).map(|_| key()).collect();
        if random.random_ratio(1, 4) {
            let Some(answers) = some(&mut random, cache.get_many(&keys)).await else { continue };
            keys.iter().zip(answers).for_each(|(key, answer)| check(key, answer));
        } else {
            let Some(answer) = some(&mut random, cache.get(&keys[0])).await else { continue };
            if matches!(answer, Err(Error::Down { .. })) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            check(&keys[0], answer);
        }
    }
}

fn check(key: &str, answer: Result<Option<bytes::Bytes>, Error>) {
    match answer {
        Ok(Some(answer)) => assert!(key.starts_with("key") && answer == value(key), "{key} got {answer:?}"),
        Ok(None) => assert!(key.starts_with("none"), "{key} got a miss"),
        Err(Error::Refused { line, .. }) => assert_eq!(line, format!("SERVER_ERROR {key}")),
        Err(Error::Timeout { .. } | Error::Down { .. }) => {}
        Err(other) => panic!("{key} got {other}"),
    }
}

/// Waits until nothing is on its way any more.
async fn settle(cache: &Client) {
    let settled = async {
        while cache.nodes().iter().any(|node| node.in_flight > 0) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("requests that nobody awaits leave the queue");
}

async fn storm(faults: Faults, connections: usize, tasks: u64, calls: usize) {
    let address = start(faults.clone()).await;
    let cache = Client::builder()
        .server(address)
        .timeout(Duration::from_millis(20))
        .connections(connections)
        .failover(Failover::Error)
        .build()
        .unwrap();
    let random = |task: u64| StdRng::seed_from_u64(faults.seed ^ task << 32);
    let callers: Vec<_> = (0..tasks).map(|task| tokio::spawn(call(cache.clone(), random(task), calls))).collect();
    for caller in callers {
        caller.await.unwrap();
    }
    settle(&cache).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn answers_reach_their_callers_or_nobody_whatever_the_node_does(faults in faults(), connections in 1usize..3) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(storm(faults, connections, 16, 40));
    }
}

const FAULTLESS: Faults = Faults { seed: 1, piece: 4096, delayed: 0, delay: Duration::ZERO, dropped: 0 };

#[tokio::test]
async fn half_of_many_calls_dropped_leave_nothing_behind() {
    storm(FAULTLESS, 1, 64, 300).await;
}

/// `cargo test -p larder-client --test cancellation -- --ignored`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the same at length"]
async fn half_of_a_million_calls_dropped_leave_nothing_behind() {
    storm(FAULTLESS, 1, 64, 15_625).await;
}
