//! Lists of servers that are asked for, and asked for again in the background.

use std::io;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::connection::connect::Connector;
use crate::operations::client::Inner;
use larder_protocol::ring::Server;

/// Who knows the servers.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The name service: each address of `host:port` is a server.
    Dns(String),
    /// A node that answers `config get cluster`.
    Endpoint(String),
}

/// A list of servers with the number that the source gave it; a source that gives none always has 0.
pub(crate) struct Discovered {
    pub(crate) version: u64,
    pub(crate) servers: Vec<Server>,
}

impl Source {
    pub(crate) fn name(&self) -> &str {
        match self {
            Source::Dns(name) | Source::Endpoint(name) => name,
        }
    }

    /// Asks for the servers; at least one, or an error.
    pub(crate) async fn ask(&self, connector: &Connector) -> io::Result<Discovered> {
        self.ask_one_of(std::slice::from_ref(&self.name().to_owned()), connector).await
    }

    /// As [`Source::ask`], of the first of these addresses that answers. Of a name service there is one.
    async fn ask_one_of(&self, addresses: &[String], connector: &Connector) -> io::Result<Discovered> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "there is nobody to ask");
        for address in addresses {
            let source = match self {
                Source::Dns(_) => self.clone(),
                Source::Endpoint(_) => Source::Endpoint(address.clone()),
            };
            match source.ask_once(connector).await {
                Ok(discovered) => return Ok(discovered),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_once(&self, connector: &Connector) -> io::Result<Discovered> {
        let asked = tokio::time::timeout(connector.timeout, self.ask_patiently(connector)).await;
        let discovered = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if discovered.servers.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the list of servers is empty"));
        }
        Ok(discovered)
    }

    async fn ask_patiently(&self, connector: &Connector) -> io::Result<Discovered> {
        match self {
            Source::Dns(name) => {
                let mut addresses = connector.resolver.resolve(name).await?;
                // Name services answer in changing order.
                addresses.sort_unstable();
                addresses.dedup();
                let server = |address: std::net::SocketAddr| {
                    let host = match address {
                        std::net::SocketAddr::V4(address) => address.ip().to_string(),
                        std::net::SocketAddr::V6(address) => format!("[{}]", address.ip()),
                    };
                    Server { host, port: address.port(), weight: 1, name: None }
                };
                Ok(Discovered { version: 0, servers: addresses.into_iter().map(server).collect() })
            }
            Source::Endpoint(endpoint) => {
                let (stream, _) = connector.connect(endpoint).await?;
                let mut stream = BufReader::new(stream);
                stream.write_all(b"config get cluster\r\n").await?;
                stream.flush().await?;
                let mut head = String::new();
                (&mut stream).take(LIST_MAX).read_line(&mut head).await?;
                let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("it answered {:?}", head.trim_end()));
                let length = match head.split_whitespace().collect::<Vec<_>>()[..] {
                    ["CONFIG", "cluster", _, length] => length.parse::<u64>().map_err(|_| wrong())?,
                    _ => return Err(wrong()),
                };
                if length > LIST_MAX {
                    return Err(wrong());
                }
                let mut list = vec![0; length as usize];
                stream.read_exact(&mut list).await?;
                parse(&String::from_utf8_lossy(&list)).ok_or_else(wrong)
            }
        }
    }
}

/// Longest list of servers, in bytes.
const LIST_MAX: u64 = 1 << 20;

/// Reads what follows `CONFIG cluster`: a line with a version, and a line of `host|address|port`, one for each node.
///
/// The format is that of the auto-discovery of managed memcache services. A node is reached by its address, where that is
/// there; the ring is made of its host name, so that a node that moves keeps its keys.
fn parse(list: &str) -> Option<Discovered> {
    let mut lines = list.lines();
    let version = lines.next()?.trim().parse().ok()?;
    let server = |node: &str| {
        let [host, address, port] = node.split('|').collect::<Vec<_>>()[..] else { return None };
        let (host, port) = (host.to_owned(), port.parse().ok()?);
        let named = Server { host, port, weight: 1, name: None };
        Some(match address {
            "" => named,
            address => Server { host: address.to_owned(), name: Some(named.ring_name()), ..named },
        })
    };
    let servers = lines.next()?.split_whitespace().map(server).collect::<Option<Vec<_>>>()?;
    Some(Discovered { version, servers })
}

/// A cluster's list is asked for at least so often: it tells of changes before they are felt.
const CLUSTER_REFRESH: Duration = Duration::from_secs(5);

/// Between looks at whether a node was lost.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until the list is to be asked for: as often as was asked for, and at once where a node of a cluster is lost. `false`: the
/// client is gone.
async fn wait(source: &Source, connector: &Connector, client: &Weak<Inner>) -> bool {
    let Source::Endpoint(_) = source else {
        tokio::time::sleep(connector.refresh).await;
        return client.strong_count() > 0;
    };
    let lost = || {
        let topology = client.upgrade()?.topology.load_full();
        Some(topology.nodes.iter().filter(|node| !node.may_serve()).count())
    };
    let until = tokio::time::Instant::now() + connector.refresh.min(CLUSTER_REFRESH);
    let mut before = lost();
    while tokio::time::Instant::now() < until {
        tokio::time::sleep_until(until.min(tokio::time::Instant::now() + LOOK)).await;
        match lost() {
            None => return false,
            now if now > before => return true,
            now => before = now,
        }
    }
    client.strong_count() > 0
}

/// Whom to ask: of a cluster all nodes known, in turn, since any of them may have left.
fn addresses(source: &Source, client: &Weak<Inner>, turn: usize) -> Vec<String> {
    let mut addresses = vec![source.name().to_owned()];
    if let (Source::Endpoint(_), Some(client)) = (source, client.upgrade()) {
        addresses.extend(client.topology.load().servers().iter().map(Server::address));
    }
    let len = addresses.len();
    addresses.rotate_left(turn % len);
    addresses
}

/// Asks again and again, and swaps in a topology where the list is another, until the client is dropped.
pub(crate) async fn keep_asking(source: Source, connector: Connector, mut version: u64, client: Weak<Inner>) {
    for turn in 0.. {
        if !wait(&source, &connector, &client).await {
            return;
        }
        let discovered = match source.ask_one_of(&addresses(&source, &client, turn), &connector).await {
            // A node that has not heard of the newest list yet must not bring an older one back.
            Ok(discovered) if discovered.version < version => continue,
            Ok(discovered) => discovered,
            Err(error) => {
                tracing::warn!(source = source.name(), %error, "the list of servers could not be had, the last one stays");
                continue;
            }
        };
        version = discovered.version;
        let Some(inner) = client.upgrade() else { return };
        let old = inner.topology.load_full();
        if old.servers() == discovered.servers {
            continue;
        }
        // The ring of a thousand servers takes tens of milliseconds: requests do not wait for that.
        let runtime = tokio::runtime::Handle::current();
        let new = tokio::task::spawn_blocking(move || {
            let _runtime = runtime.enter();
            old.with_servers(discovered.servers)
        });
        match new.await {
            Ok(new) => {
                tracing::info!(source = source.name(), version, servers = new.servers().len(), "the servers changed");
                inner.topology.store(Arc::new(new));
            }
            Err(error) => tracing::error!(%error, "a new ring could not be made, the last one stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_version_and_nodes_with_their_names_and_addresses() {
        let list = parse("12\nnode1.example|10.0.0.1|11211 node2.example||7\n").unwrap();
        assert_eq!(list.version, 12);
        let server = |host: &str, port, name: Option<&str>| Server {
            host: host.to_owned(),
            port,
            weight: 1,
            name: name.map(str::to_owned),
        };
        assert_eq!(list.servers, [server("10.0.0.1", 11211, Some("node1.example")), server("node2.example", 7, None)]);
        for wrong in ["", "12", "twelve\na|b|1\n", "12\na|b\n", "12\na|b|port\n", "12\na|b|1|2\n"] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
