//! Lists of servers that are requested from a source, and requested again in the background.

use std::io;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use larder_protocol::HostPort;
use larder_protocol::ring::Server;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::topology::certified_host;
use crate::connection::connect::Connector;
use crate::operations::client::Inner;

/// The source of a list of servers.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The name service: each address of `host:port` is a server.
    Dns(String),
    /// A node that answers `config get cluster`.
    Endpoint(String),
}

/// A list of servers with its version. A source without versions has 0.
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

    /// Requests the list. An empty list is an error.
    pub(crate) async fn list(&self, connector: &Connector) -> io::Result<Discovered> {
        self.request_from(&[Address::of(self.name())], connector).await
    }

    /// Like [`Source::list`], from the first of these addresses that answers. A name service has only one.
    async fn request_from(&self, addresses: &[Address], connector: &Connector) -> io::Result<Discovered> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "there is no address to ask");
        for address in addresses {
            match self.request_once(address, connector).await {
                Ok(discovered) => return Ok(discovered),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn request_once(&self, address: &Address, connector: &Connector) -> io::Result<Discovered> {
        let answer = tokio::time::timeout(connector.timeout, self.request(address, connector)).await;
        let discovered = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if discovered.servers.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the list of servers is empty"));
        }
        Ok(discovered)
    }

    async fn request(&self, address: &Address, connector: &Connector) -> io::Result<Discovered> {
        match self {
            Source::Dns(name) => {
                let mut addresses = connector.resolver.resolve(name).await?;
                // The order of the addresses changes from answer to answer.
                addresses.sort_unstable();
                addresses.dedup();
                let server = |address: std::net::SocketAddr| {
                    let host = in_brackets(&address.ip().to_string());
                    Server { host, port: address.port(), weight: 1, name: None }
                };
                Ok(Discovered { version: 0, servers: addresses.into_iter().map(server).collect() })
            }
            Source::Endpoint(_) => {
                let (stream, _) = connector.connect(&address.address, &address.host).await?;
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

/// Returns a host as it stands before a port: an IPv6 address has brackets, which separate it from the port.
pub(crate) fn in_brackets(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// Longest list of servers, in bytes.
const LIST_MAX: u64 = 1 << 20;

/// Parses the lines after `CONFIG cluster`: a version, and `host|address|port` for each node.
///
/// The format is that of the auto-discovery of managed memcache services. A node is reached by its address if the list
/// has one. The ring is made of its host name, so that a node that moves keeps its keys, and its certificate is
/// verified against that name.
fn parse(list: &str) -> Option<Discovered> {
    let mut lines = list.lines();
    let version = lines.next()?.trim().parse().ok()?;
    let server = |node: &str| {
        let [host, address, port] = node.split('|').collect::<Vec<_>>()[..] else { return None };
        let named = Server { host: in_brackets(host), port: port.parse().ok()?, weight: 1, name: None };
        Some(match address {
            "" => named,
            address => Server { host: in_brackets(address), name: Some(named.ring_name()), ..named },
        })
    };
    let servers = lines.next()?.split_whitespace().map(server).collect::<Option<Vec<_>>>()?;
    Some(Discovered { version, servers })
}

/// Longest pause between two requests for the list of a cluster: the list shows changes before requests fail.
const CLUSTER_REFRESH: Duration = Duration::from_secs(5);

/// Pause between two checks whether a node was lost.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until the list has to be requested: after the pause that was set, or at once when a node of a cluster is lost.
/// Returns `false` if the client is gone.
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

/// An address of a list, and the host that its certificate must be for.
struct Address {
    address: String,
    host: String,
}

impl Address {
    fn of(address: &str) -> Address {
        let host = HostPort::parse(address).map_or(address, |address| address.host);
        Address { address: address.to_owned(), host: host.to_owned() }
    }
}

/// Returns the addresses to request the list from: of a cluster all known nodes, in turn, because each may have left.
fn addresses(source: &Source, client: &Weak<Inner>, turn: usize) -> Vec<Address> {
    let mut addresses = vec![Address::of(source.name())];
    if let (Source::Endpoint(_), Some(client)) = (source, client.upgrade()) {
        let address =
            |server: &Server| Address { address: server.address(), host: certified_host(server, true).to_owned() };
        addresses.extend(client.topology.load().servers().iter().map(address));
    }
    let len = addresses.len();
    addresses.rotate_left(turn % len);
    addresses
}

/// Requests the list at intervals, and replaces the topology when it changes, until the client is dropped.
pub(crate) async fn keep_current(source: Source, connector: Connector, mut version: u64, client: Weak<Inner>) {
    for turn in 0.. {
        if !wait(&source, &connector, &client).await {
            return;
        }
        let discovered = match source.request_from(&addresses(&source, &client, turn), &connector).await {
            // A node that does not have the newest list yet must not bring an older one back.
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
        // Building the ring of a thousand servers takes tens of milliseconds, for which requests do not wait.
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
        let list = parse("1\nnode1|2001:db8::1|11211 node2|[::1]|7 ::1||7\n").unwrap();
        let addresses: Vec<String> = list.servers.iter().map(Server::address).collect();
        assert_eq!(addresses, ["[2001:db8::1]:11211", "[::1]:7", "[::1]:7"]);
        for wrong in ["", "12", "twelve\na|b|1\n", "12\na|b\n", "12\na|b|port\n", "12\na|b|1|2\n"] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
