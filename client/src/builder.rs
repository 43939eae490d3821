//! How a client is made.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::client::{Client, Inner};
use crate::connect::Connector;
use crate::error::{Error, Result};
use crate::link::Patience;
use crate::metrics::LoadMetrics;
use crate::near::Near;
use crate::node::{Node, NodeSettings};
use crate::read_through::Flights;
use crate::ring::{Hashing, Ring, Server};
use crate::topology::{Failover, Topology};

/// How a client is made: servers, hashing, fail-over and time-outs.
#[derive(Debug, Clone)]
pub struct Builder {
    servers: Vec<String>,
    hashing: Hashing,
    settings: NodeSettings,
    lease: Duration,
    failover: Failover,
    hash_long_keys: bool,
    near: Option<(usize, Duration)>,
}

impl Client {
    /// How a client is made.
    pub fn builder() -> Builder {
        Builder {
            servers: Vec::new(),
            hashing: Hashing::default(),
            settings: NodeSettings {
                connector: Connector { timeout: Duration::from_secs(1) },
                connections: 1,
                patience: Patience { operation: Duration::from_millis(500), timeouts: 3 },
                metrics: false,
            },
            lease: Duration::from_secs(10),
            failover: Failover::Next { ttl: Duration::from_secs(10) },
            hash_long_keys: false,
            near: None,
        }
    }
}

impl Builder {
    /// Adds a server: `host:port`, or the path of a unix socket. The port is 11211 unless told. Behind it may stand a
    /// weight, and behind that a name.
    ///
    /// The spelling counts: the ring is made of it, or of the name where there is one. All clients of a fleet spell a
    /// server alike.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_client::Error> {
    /// let cache = larder_client::Client::builder()
    ///     .server("cache1.internal:11211")
    ///     .server("10.0.1.2:11211 3")
    ///     .server("/run/larder.sock 1 local")
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.servers.push(server.into());
        self
    }

    /// Adds servers, as [`Builder::server`].
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers.extend(servers.into_iter().map(Into::into));
        self
    }

    /// How keys are spread over the servers; [`Hashing::KetamaWeighted`] unless told.
    pub fn hashing(mut self, hashing: Hashing) -> Self {
        self.hashing = hashing;
        self
    }

    /// What happens to the keys of a node that is down; [`Failover::Next`] with 10 s unless told.
    pub fn failover(mut self, failover: Failover) -> Self {
        self.failover = failover;
        self
    }

    /// How long an operation may take, 500 ms unless told.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.patience.operation = timeout;
        self
    }

    /// How long connecting may take, 1 s unless told.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connector.timeout = timeout;
        self
    }

    /// Connections to each node, 1 unless told. One serves thousands of concurrent calls; more help where large values
    /// would hold up small ones, or where one processor cannot keep up with a connection.
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.connections = connections;
        self
    }

    /// A connection is closed after so many calls in a row without an answer in time, 3 unless told. (It is closed at
    /// once where nothing at all came during a whole time-out.) A node that has no connection left is ejected, until
    /// connecting to it succeeds again: see [`Circuit`](crate::Circuit).
    pub fn eject_after(mut self, timeouts: u32) -> Self {
        self.settings.patience.timeouts = timeouts.max(1);
        self
    }

    /// How long one caller of [`Client::get_or_load`] has the right to load a key before another gets it, 10 s unless
    /// told. At least the time a slow load takes, in whole seconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Takes keys longer than 250 bytes, which are refused otherwise: such a key becomes its first 100 bytes, `#sha256:` and
    /// the SHA-256 of the whole in hexadecimal. All clients of a fleet that use such keys must do the same.
    pub fn hash_long_keys(mut self) -> Self {
        self.hash_long_keys = true;
        self
    }

    /// Keeps up to `bytes` of what was read through the cache in this process too, for `ttl`.
    ///
    /// Reading such a key takes no exchange with a node, and may bring a value that is older than the node's by up to `ttl`:
    /// a second or less, for keys that are read thousands of times a second. A change through this client (and its clones)
    /// drops the key here; one by another process is not seen.
    pub fn near_cache(mut self, bytes: usize, ttl: Duration) -> Self {
        self.near = Some((bytes, ttl));
        self
    }

    /// Counts requests, hits, misses, errors and latencies: see [`metrics`](crate::metrics) for the names. Install a recorder
    /// before building the client. Costs two readings of the clock a call.
    pub fn metrics(mut self) -> Self {
        self.settings.metrics = true;
        self
    }

    /// The client. Connecting goes on in the background: a server that is down now is used when it is up.
    ///
    /// # Errors
    /// [`Error::InvalidServer`] where there is no server or one is not `host:port`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Client> {
        let servers = self.servers.iter().map(|text| parse_server(text)).collect::<Result<Vec<Server>>>()?;
        if servers.is_empty() {
            return Err(Error::InvalidServer(String::new()));
        }
        let topology = Topology {
            ring: Ring::new(&servers, self.hashing),
            nodes: servers.iter().map(|server| Arc::new(Node::new(&server.address(), &self.settings))).collect(),
            failover: self.failover,
        };
        Ok(Client {
            inner: Arc::new(Inner {
                topology: ArcSwap::from_pointee(topology),
                loads: Flights::default(),
                lease: self.lease,
                hash_long_keys: self.hash_long_keys,
                metrics: LoadMetrics::new(self.settings.metrics),
                near: self.near.map(|(bytes, ttl)| Near::new(bytes, ttl)),
            }),
        })
    }
}

fn parse_server(text: &str) -> Result<Server> {
    let invalid = || Error::InvalidServer(text.to_owned());
    let mut words = text.split_whitespace();
    let address = words.next().ok_or_else(invalid)?;
    let weight = words.next().map_or(Ok(1), str::parse).map_err(|_| invalid())?;
    let name = words.next().map(str::to_owned);
    let (host, port) = match address.rsplit_once(':') {
        _ if address.starts_with('/') => (address, 0),
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => return Err(invalid()),
        Some((host, port)) => (host, port.parse().map_err(|_| invalid())?),
        None => (address, 11211),
    };
    if host.is_empty() || words.next().is_some() {
        return Err(invalid());
    }
    Ok(Server { host: host.to_owned(), port, weight, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_with_a_port_a_weight_and_a_name_where_given() {
        let server = |host: &str, port, weight, name: Option<&str>| Server {
            host: host.to_owned(),
            port,
            weight,
            name: name.map(str::to_owned),
        };
        assert_eq!(parse_server("cache1").unwrap(), server("cache1", 11211, 1, None));
        assert_eq!(parse_server("10.0.0.1:7 3").unwrap(), server("10.0.0.1", 7, 3, None));
        assert_eq!(parse_server("10.0.0.1:7 3 first").unwrap(), server("10.0.0.1", 7, 3, Some("first")));
        assert_eq!(parse_server("[::1]:7").unwrap(), server("[::1]", 7, 1, None));
        assert_eq!(parse_server("/run/cache.sock").unwrap(), server("/run/cache.sock", 0, 1, None));
        for wrong in ["", ":7", "cache1:port", "cache1:7 heavy", "cache1:7 1 two words", "::1"] {
            assert!(parse_server(wrong).is_err(), "{wrong}");
        }
    }
}
