//! Faults that were found in the field: foreign values, servers without CAS uniques, writes during a load, and names
//! with several addresses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_client::{Client, Codec, CodecError, Compressed, Encoded, Error, Json, MessagePack, Plain, Stored};
use larder_node::{Server, Settings};
use tokio::net::TcpListener;

const TTL: Duration = Duration::from_secs(60);

fn node(change: impl FnOnce(&mut Settings)) -> (Server, Client) {
    let mut settings = Settings::default();
    (settings.port, settings.threads) = (Some(-1), 1);
    change(&mut settings);
    let node = Server::start(settings).unwrap();
    let client = Client::builder().server(node.addresses()[0].to_string()).timeout(Duration::from_secs(20));
    (node, client.build().unwrap())
}

#[tokio::test]
async fn a_loaded_value_is_returned_whether_or_not_the_cache_can_keep_it() {
    let (_node, cache) = node(|_| ());
    let large = "x".repeat(40 << 20);
    let compressed = cache.typed(Compressed::new(Plain)).read_through(TTL);
    for _ in 0..2 {
        let value: String = compressed.get("large", async || Ok::<_, Error>(large.clone())).await.unwrap();
        assert_eq!(value.len(), large.len());
    }
    let json = cache.typed(Json).read_through(TTL);
    for number in [f64::NAN, f64::INFINITY] {
        let value: Vec<f64> = json.get("numbers", async || Ok::<_, Error>(vec![1.0, number])).await.unwrap();
        assert_eq!(value[1].to_bits(), number.to_bits());
        let load = async |ids: Vec<u32>| Ok::<_, Error>(ids.into_iter().map(|id| (id, number)).collect());
        let values = json.get_many(&[1, 2], |id| format!("number:{id}"), load).await.unwrap();
        assert_eq!(values.len(), 2);
    }
}

/// A codec that fails in one direction.
#[derive(Clone, Copy)]
struct Broken {
    encode: bool,
}

impl Codec<String> for Broken {
    fn encode(&self, value: &String) -> Result<Encoded, CodecError> {
        if self.encode { Err("not this one".into()) } else { Plain.encode(value) }
    }

    fn decode(&self, _: Encoded) -> Result<String, CodecError> {
        Err("not this one".into())
    }
}

#[tokio::test]
async fn callers_get_their_loaders_values_where_a_codec_fails() {
    let (_node, cache) = node(|_| ());
    for encode in [true, false] {
        let values = cache.typed(Broken { encode }).read_through(TTL);
        let loads = AtomicUsize::new(0);
        let load = async || {
            loads.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, Error>("loaded".to_owned())
        };
        let all = futures_util::future::join_all((0..5).map(|_| values.get("k", load))).await;
        for value in all {
            assert_eq!(value.unwrap(), "loaded");
        }
        assert!((1..=5).contains(&loads.load(Ordering::Relaxed)), "no caller loads twice");
        let many = |ids: Vec<u32>| async { Ok::<_, Error>(ids.into_iter().map(|id| (id, id.to_string())).collect()) };
        for _ in 0..2 {
            let found = values.get_many(&[1, 2], |id| format!("many:{encode}:{id}"), many).await.unwrap();
            assert_eq!(found.len(), 2);
            assert_eq!(found[&2], "2");
        }
    }
}

#[tokio::test]
async fn values_of_other_clients_are_typed_errors_or_are_loaded_again() {
    let (_node, cache) = node(|_| ());
    let packed = cache.typed(MessagePack);
    cache.set("k", "42", TTL).await.unwrap();
    assert!(matches!(packed.get::<u32>("k").await, Err(Error::Codec { .. })));
    let loaded: u32 = packed.read_through(TTL).get("k", async || Ok::<_, Error>(7)).await.unwrap();
    assert_eq!(loaded, 7);
    assert_eq!(packed.get::<u32>("k").await.unwrap(), Some(7));
    cache.append("k", "tail").await.unwrap();
    assert!(matches!(packed.get::<u32>("k").await, Err(Error::Codec { .. })));
    let compressed = cache.typed(Compressed::new(Plain).method(larder_client::Compression::Zlib).above(10));
    compressed.set("text", &"a".repeat(100), TTL).await.unwrap();
    cache.append("text", "tail").await.unwrap();
    assert!(matches!(compressed.get::<String>("text").await, Err(Error::Codec { .. })));
}

#[tokio::test]
async fn without_cas_uniques_values_are_loaded_at_once_and_updates_fail_with_the_reason() {
    let (_node, cache) = node(|settings| settings.no_cas = true);
    let began = Instant::now();
    for _ in 0..3 {
        let value = cache.get_or_load("k", TTL, async || Ok::<_, Error>("v")).await.unwrap();
        assert_eq!(value, Bytes::from("v"));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waits for a lease of 10 s");
    cache.set("there", "1", TTL).await.unwrap();
    assert!(matches!(cache.update("there", TTL, |value| value).await, Err(Error::NoCas { .. })));
    let item = cache.get_item("there").await.unwrap().unwrap();
    assert!(matches!(cache.cas("there", "2", TTL, item.cas).await, Err(Error::NoCas { .. })));
    let values = cache.typed(Plain).read_through(TTL);
    let load = async |ids: Vec<u32>| Ok::<_, Error>(ids.into_iter().map(|id| (id, id.to_string())).collect());
    for _ in 0..2 {
        assert_eq!(values.get_many(&[1, 2], |id| format!("many:{id}"), load).await.unwrap().len(), 2);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waits for a lease of 10 s");
}

#[tokio::test]
async fn writes_during_a_load_find_no_item() {
    let (_node, cache) = node(|_| ());
    writes_during_a_load(&cache).await;
    let (_node, cache) = node(|settings| settings.no_cas = true);
    writes_during_a_load(&cache).await;
}

async fn writes_during_a_load(cache: &Client) {
    let loading = cache.read_through(TTL);
    for (number, key) in ["append", "prepend", "incr", "init"].into_iter().enumerate() {
        let during = async || {
            match number {
                0 => assert_eq!(cache.append(key, "tail").await.unwrap(), Stored::No),
                1 => assert_eq!(cache.prepend(key, "head").await.unwrap(), Stored::No),
                2 => assert_eq!(cache.incr(key, 1).await.unwrap(), None),
                _ => assert_eq!(cache.incr_or_init(key, 1, 5, TTL).await.unwrap(), 5),
            }
            Ok::<_, Error>("loaded")
        };
        let value: Bytes = loading.get(key, async || during().await.map(Bytes::from)).await.unwrap();
        assert_eq!(value, Bytes::from("loaded"), "{key}");
    }
    assert_eq!(cache.get("append").await.unwrap(), None, "what was appended to nothing is not a value");
    assert_eq!(cache.get("init").await.unwrap(), Some(Bytes::from("5")));
    // An empty value is an item.
    cache.set("empty", "", TTL).await.unwrap();
    assert_eq!(cache.append("empty", "tail").await.unwrap(), Stored::Yes);
    assert_eq!(cache.get("empty").await.unwrap(), Some(Bytes::from("tail")));
    cache.set("text", "text", TTL).await.unwrap();
    assert!(matches!(cache.incr("text", 1).await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn a_generation_that_is_none_is_replaced() {
    let (_node, cache) = node(|_| ());
    let long = "x".repeat(300);
    let (_without, without_cas) = node(|settings| settings.no_cas = true);
    let garbage = [&b"has space"[..], b"", long.as_bytes(), b"0123456789abcdeg", b"\xff\xfe 0123456789a", b"\r\n"];
    for (garbage, cache) in garbage.into_iter().flat_map(|garbage| [(garbage, &cache), (garbage, &without_cas)]) {
        cache.set("shop:generation", garbage, TTL).await.unwrap();
        let shop = cache.namespace("shop").remember(Duration::ZERO);
        let key = shop.key("price").await.unwrap();
        cache.set(&key, "1", TTL).await.unwrap();
        assert_eq!(shop.key("price").await.unwrap(), key, "it is stored");
    }
}

#[tokio::test]
async fn the_first_address_of_a_name_does_not_decide() {
    let (node, _) = node(|_| ());
    let good = node.addresses()[0].to_string().parse().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = web.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = web.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        }
    });
    let silent = silent.local_addr().unwrap();
    for before in [vec![silent], vec![closed], vec![other], vec![silent, closed, other, silent]] {
        let addresses = [before, vec![good]].concat();
        let cache = Client::builder()
            .server("cache.test:11211")
            .resolve_with(move |_| std::future::ready(Ok(addresses.clone())))
            .timeout(Duration::from_secs(20))
            .connect_timeout(Duration::from_secs(10));
        let cache = cache.build().unwrap();
        assert_eq!(cache.get("k").await.unwrap(), None);
    }
}

#[tokio::test]
async fn weights_at_their_limits_make_a_ring() {
    for weights in [["2147483648", "2147483648"], ["1", "4294967295"], ["4294967295", "4294967295"]] {
        let servers = weights.iter().enumerate().map(|(number, weight)| format!("h{number}:1 {weight}"));
        let cache = Client::builder().servers(servers).build().unwrap();
        assert!(cache.owner("k") < 2);
    }
}

#[tokio::test]
async fn a_server_that_speaks_binary_alone_after_sasl_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut packet = vec![0; 24 + 5 + 14];
            stream.read_exact(&mut packet).await.unwrap();
            let mut reply = vec![0; 24];
            (reply[0], reply[1]) = (0x81, 0x21);
            stream.write_all(&reply).await.unwrap();
            // As memcached: a header is complete before its first byte is looked at, and then the connection ends.
            stream.read_exact(&mut reply).await.unwrap();
        }
    });
    let client = Client::builder().server(address.to_string()).sasl_login("reader", "secret").build().unwrap();
    let refused = client.get("k").await.unwrap_err();
    assert!(matches!(refused, Error::Down { .. }), "{refused}");
    assert!(refused.to_string().contains("memcached with -S speaks binary alone"), "{refused}");
}

#[tokio::test]
async fn a_login_by_sasl_is_followed_by_meta_commands() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A packet of SASL PLAIN: header, mechanism, and the login.
                let mut packet = vec![0; 24 + 5 + 14];
                stream.read_exact(&mut packet).await.unwrap();
                assert_eq!((packet[0], packet[1]), (0x80, 0x21));
                let admitted = &packet[24..] == b"PLAIN\0reader\0secret";
                let mut reply = vec![0; 24];
                (reply[0], reply[1], reply[7]) = (0x81, 0x21, if admitted { 0 } else { 0x20 });
                stream.write_all(&reply).await.unwrap();
                let mut line = [0; 4];
                while stream.read_exact(&mut line).await.is_ok() {
                    let _ = stream.write_all(if &line == b"mn\r\n" { b"MN\r\n" } else { b"" }).await;
                }
            });
        }
    });
    let client = |password: &str| {
        let builder = Client::builder().server(address.to_string()).sasl_login("reader", password);
        builder.timeout(Duration::from_millis(300)).build().unwrap()
    };
    let refused = client("secreT").get("k").await.unwrap_err();
    assert!(refused.to_string().contains("refused the login"), "{refused}");
    let admitted = client("secret");
    // The node of this test answers `mn` alone, so that a get times out, and does not fail.
    assert!(matches!(admitted.get("k").await, Err(Error::Timeout { .. })));
}
