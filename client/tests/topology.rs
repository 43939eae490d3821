//! Names that move, lists of servers that change, transports, and what happens while a node is away: over nodes made
//! for the test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_client::{Builder, Circuit, Client, Error, Failover, Tls};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};

const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

/// A node as small as can be: `mn`, `mg … v`, `ms`, `md`, logins, and `config get cluster`.
#[derive(Clone, Default)]
struct Node {
    items: Arc<Mutex<HashMap<String, (String, String)>>>,
    /// The only login it takes; without one, none is needed.
    login: Option<String>,
    /// What it answers to `config get cluster`, and how often it was asked.
    list: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    /// Connections for commands; a connection that asks for the list is not counted.
    connections: Arc<AtomicUsize>,
    /// How long it takes for an answer.
    delay: Duration,
}

impl Node {
    /// Serves on a free port.
    async fn start(&self) -> SocketAddr {
        self.start_on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn start_on(&self, listener: TcpListener) -> SocketAddr {
        let address = listener.local_addr().unwrap();
        let node = self.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                node.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(node.clone().serve(connection));
            }
        });
        address
    }

    async fn serve(self, connection: impl AsyncRead + AsyncWrite) -> std::io::Result<()> {
        let (reader, mut writer) = tokio::io::split(connection);
        let mut reader = BufReader::new(reader);
        let mut admitted = self.login.is_none();
        let mut line = String::new();
        while reader.read_line(&mut line).await? > 0 {
            let words: Vec<&str> = line.split_whitespace().collect();
            let length = match words[..] {
                ["ms", _, length, ..] | ["set", _, _, _, length] => length.parse().unwrap(),
                _ => 0,
            };
            let mut body = vec![0; if length > 0 { length + 2 } else { 0 }];
            reader.read_exact(&mut body).await?;
            let body = String::from_utf8(body).unwrap().trim_end().to_owned();
            let found = |key: &str| self.items.lock().unwrap().get(key).cloned();
            let answer = match words[..] {
                ["set", ..] if Some(&body) == self.login.as_ref() => {
                    admitted = true;
                    "STORED\r\n".to_owned()
                }
                _ if !admitted => "CLIENT_ERROR unauthenticated\r\n".to_owned(),
                ["mn"] => "MN\r\n".to_owned(),
                ["mg", key, ..] => match found(key) {
                    Some((value, _)) => format!("VA {} c1 f0\r\n{value}\r\n", value.len()),
                    None => "EN\r\n".to_owned(),
                },
                ["ms", key, _, ..] => {
                    let ttl = words.iter().find(|word| word.starts_with('T')).map_or("", |word| *word);
                    self.items.lock().unwrap().insert(key.to_owned(), (body, ttl.to_owned()));
                    "HD\r\n".to_owned()
                }
                ["md", key, ..] => match self.items.lock().unwrap().remove(key) {
                    Some(_) => "HD\r\n".to_owned(),
                    None => "NF\r\n".to_owned(),
                },
                ["config", "get", "cluster"] => {
                    self.asked.fetch_add(1, Ordering::Relaxed);
                    self.connections.fetch_sub(1, Ordering::Relaxed);
                    let list = self.list.lock().unwrap().clone();
                    format!("CONFIG cluster 0 {}\r\n{list}\r\nEND\r\n", list.len())
                }
                _ => "ERROR\r\n".to_owned(),
            };
            if words[0] != "mn" {
                tokio::time::sleep(self.delay).await;
            }
            writer.write_all(answer.as_bytes()).await?;
            line.clear();
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<(String, String)> {
        self.items.lock().unwrap().get(key).cloned()
    }

    fn put(&self, key: &str, value: &str) {
        self.items.lock().unwrap().insert(key.to_owned(), (value.to_owned(), String::new()));
    }
}

/// A node with this value of the key `who`.
fn node_called(name: &str) -> Node {
    let node = Node::default();
    node.put("who", name);
    node
}

fn builder() -> Builder {
    Client::builder().timeout(Duration::from_secs(2)).refresh_every(Duration::from_millis(10))
}

async fn who(cache: &Client) -> Option<String> {
    let value = cache.get("who").await.ok()??;
    Some(String::from_utf8_lossy(&value).into_owned())
}

/// Waits until it holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_connection_follows_its_servers_name_and_loses_no_call() {
    let addresses = [node_called("old").start().await, node_called("new").start().await];
    let current = Arc::new(Mutex::new(addresses[0]));
    let answer = current.clone();
    let cache = builder()
        .server("cache.internal:11211")
        .resolve_with(move |_| std::future::ready(Ok(vec![*answer.lock().unwrap()])))
        .build()
        .unwrap();
    assert_eq!(who(&cache).await.as_deref(), Some("old"));
    *current.lock().unwrap() = addresses[1];
    until("the connection follows the name", || async { who(&cache).await.expect("no call fails") == "new" }).await;
}

#[tokio::test]
async fn a_name_that_answers_an_unreachable_address_first_is_reached_by_the_next() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let addresses = vec![nobody, node_called("here").start().await];
    let cache = builder()
        .server("cache.internal:11211")
        .resolve_with(move |_| std::future::ready(Ok(addresses.clone())))
        .build()
        .unwrap();
    assert_eq!(who(&cache).await.as_deref(), Some("here"));
}

#[tokio::test]
async fn each_address_of_a_headless_name_is_a_node_and_they_come_and_go() {
    let nodes = [node_called("a").start().await, node_called("b").start().await, node_called("c").start().await];
    let current = Arc::new(Mutex::new(vec![nodes[1], nodes[0]]));
    let answer = current.clone();
    let cache = builder()
        .dns("cache.internal:11211")
        .resolve_with(move |_| std::future::ready(Ok(answer.lock().unwrap().clone())))
        .connect()
        .await
        .unwrap();
    let addresses = || cache.nodes().iter().map(|node| node.address.to_string()).collect::<Vec<_>>();
    assert_eq!(addresses().len(), 2);
    *current.lock().unwrap() = vec![nodes[2]];
    until("the topology follows the name", || async { addresses() == [nodes[2].to_string()] }).await;
    assert_eq!(who(&cache).await.as_deref(), Some("c"));
}

#[tokio::test]
async fn a_discovered_list_is_followed_and_an_older_one_is_not() {
    let nodes = [node_called("a"), node_called("b"), node_called("c")];
    let mut addresses = Vec::new();
    for node in &nodes {
        addresses.push(node.start().await);
    }
    let entry = |name: &str, address: &SocketAddr| format!("{name}.internal|{}|{}", address.ip(), address.port());
    let list = nodes[0].list.clone();
    let first = format!("7\n{} {}\n", entry("a", &addresses[0]), entry("b", &addresses[1]));
    *list.lock().unwrap() = first.clone();
    let cache = builder().discover(addresses[0].to_string()).connect().await.unwrap();
    let known = || cache.nodes().iter().map(|node| node.address.to_string()).collect::<Vec<_>>();
    assert_eq!(known(), [addresses[0].to_string(), addresses[1].to_string()]);
    // Node c takes the place of node a.
    *list.lock().unwrap() = format!("8\n{} {}\n", entry("b", &addresses[1]), entry("c", &addresses[2]));
    until("the ring follows the list", || async { known() == [addresses[1].to_string(), addresses[2].to_string()] })
        .await;
    *list.lock().unwrap() = first;
    let asked = nodes[0].asked.load(Ordering::Relaxed);
    until("the list is asked for again", || async { nodes[0].asked.load(Ordering::Relaxed) > asked + 2 }).await;
    assert_eq!(known(), [addresses[1].to_string(), addresses[2].to_string()]);
    // A connection that is about to ask for the list is counted until it does.
    until("the node that stayed kept its connection", || async { nodes[1].connections.load(Ordering::Relaxed) == 1 })
        .await;
}

#[tokio::test]
async fn a_list_that_cannot_be_had_is_an_error_that_names_its_source() {
    let node = Node::default();
    *node.list.lock().unwrap() = "nonsense\n".to_owned();
    let address = node.start().await.to_string();
    let failed = builder().discover(&address).connect().await;
    assert!(matches!(failed, Err(Error::Discovery { from, .. }) if from == address));
    assert!(matches!(builder().discover(&address).build(), Err(Error::Discovery { .. })));
}

#[tokio::test]
async fn a_unix_socket_is_a_server_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        node_called("unix").serve(connection).await
    });
    let cache = builder().server(path.display().to_string()).build().unwrap();
    assert_eq!(who(&cache).await.as_deref(), Some("unix"));
}

#[tokio::test]
async fn a_login_comes_first_and_a_wrong_one_is_reported() {
    let node = Node { login: Some("ada secret".to_owned()), ..node_called("guarded") };
    let address = node.start().await.to_string();
    let cache = builder().server(&address).login("ada", "secret").build().unwrap();
    assert_eq!(who(&cache).await.as_deref(), Some("guarded"));
    let cache = builder().server(&address).login("ada", "guess").build().unwrap();
    let Err(Error::Down { reason, .. }) = cache.get("who").await else { panic!("a wrong login is refused") };
    assert!(reason.contains("refused the login"), "{reason}");
}

#[tokio::test]
async fn tls_trusts_the_given_authority_only_and_shows_the_clients_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let made = rcgen::generate_simple_self_signed(["cache.internal".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["cache.internal".to_owned()]).unwrap();
    let (authority, stranger) = (file("ca.pem", made.cert.pem()), file("other.pem", other.cert.pem()));
    let key = file("key.pem", made.signing_key.serialize_pem());
    // The node asks for a certificate of the same authority.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![made.cert.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            if let Ok(connection) = acceptor.accept(connection).await {
                tokio::spawn(node_called("private").serve(connection));
            }
        }
    });
    let tls = Tls::trusting(&authority).unwrap().with_server_name("cache.internal").unwrap();
    let ours = tls.clone().with_certificate(&authority, &key).unwrap();
    let cache = builder().server(&address).tls(ours).build().unwrap();
    assert_eq!(who(&cache).await.as_deref(), Some("private"));
    for refused in [
        tls.clone(),
        Tls::trusting(&stranger).unwrap().with_server_name("cache.internal").unwrap(),
        Tls::trusting(&authority).unwrap().with_server_name("else.internal").unwrap(),
    ] {
        let cache = builder().server(&address).tls(refused).build().unwrap();
        assert!(matches!(cache.get("who").await, Err(Error::Down { .. })));
    }
    assert!(matches!(Tls::trusting(folder.path().join("missing.pem")), Err(Error::Tls(_))));
    assert!(matches!(Tls::trusting(&key), Err(Error::Tls(_))));
}

#[tokio::test]
async fn over_tls_a_discovered_node_is_verified_by_its_host_name_and_a_trusted_certificate_is_its_own_authority() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["*.c.example".to_owned()]).unwrap();
    // As `openssl req -x509` makes them.
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = node_called("discovered");
    let entry = |name: &str| format!("1\n{name}|{}|{}\n", address.ip(), address.port());
    *node.list.lock().unwrap() = entry("0001.c.example");
    let list = node.list.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            if let Ok(connection) = acceptor.accept(connection).await {
                tokio::spawn(node.clone().serve(connection));
            }
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate.pem()).unwrap();
    let client = || {
        let tls = Tls::trusting(file.path()).unwrap();
        let resolved = builder().resolve_with(move |_| async move { Ok(vec![address]) });
        resolved.discover("cfg.c.example:11211").tls(tls).connect()
    };
    let cache = client().await.unwrap();
    assert_eq!(who(&cache).await.as_deref(), Some("discovered"));
    *list.lock().unwrap() = entry("0001.elsewhere.example");
    let cache = client().await.unwrap();
    assert!(matches!(cache.get("who").await, Err(Error::Down { .. })), "the certificate is for another name");
}

#[tokio::test]
async fn the_gutter_stands_in_for_a_node_that_is_away_and_keeps_nothing_for_long() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gutter = Node::default();
    let ttl = Duration::from_secs(9);
    let servers = vec![gutter.start().await.to_string()];
    let cache = builder().server(nobody.to_string()).failover(Failover::Gutter { servers, ttl }).build().unwrap();
    until("the owner is ejected", || async { cache.nodes()[0].circuit == Circuit::Open }).await;
    cache.set("k", "v", TTL).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(gutter.get("k"), Some(("v".to_owned(), "T9".to_owned())));
    // The owner comes back, and a delete reaches both.
    let owner = Node::default();
    owner.start_on(TcpListener::bind(nobody).await.unwrap());
    until("the owner is probed back in", || async { cache.nodes()[0].circuit == Circuit::Closed }).await;
    assert_eq!(cache.get("k").await.unwrap(), None);
    cache.set("k", "new", TTL).await.unwrap();
    assert!(cache.delete("k").await.unwrap());
    assert_eq!((owner.get("k"), gutter.get("k")), (None, None));
}

#[tokio::test]
async fn a_node_that_answers_too_late_again_and_again_is_ejected() {
    let node = Node { delay: Duration::from_millis(70), ..node_called("slow") };
    let cache = builder()
        .server(node.start().await.to_string())
        .timeout(Duration::from_millis(50))
        .eject_after(3)
        .failover(Failover::Error)
        .build()
        .unwrap();
    until("the node is up", || async { cache.nodes()[0].circuit == Circuit::Closed }).await;
    let mut timeouts = 0;
    until("the node is ejected", || {
        timeouts += 1;
        let cache = cache.clone();
        async move {
            assert!(cache.get("who").await.is_err());
            cache.nodes()[0].last_failure.is_some()
        }
    })
    .await;
    assert!(timeouts <= 3, "{timeouts} calls timed out");
}

#[tokio::test]
async fn a_slow_read_is_answered_by_the_stand_in() {
    let nodes = [Node { delay: Duration::from_millis(1500), ..node_called("slow") }, node_called("quick")];
    let servers = [nodes[0].start().await.to_string(), nodes[1].start().await.to_string()];
    let cache = builder().servers(&servers).hedge(Duration::from_millis(1)).build().unwrap();
    until("both are up", || async { cache.nodes().iter().all(|node| node.circuit == Circuit::Closed) }).await;
    let key = (0..).map(|number| format!("k{number}")).find(|key| cache.owner(key) == 0).unwrap();
    nodes.iter().zip(["slow", "quick"]).for_each(|(node, value)| node.put(&key, value));
    assert_eq!(cache.get(&key).await.unwrap().as_deref(), Some(&b"quick"[..]));
}
