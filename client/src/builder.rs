//! How a client is made.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::cluster::discover::{Source, keep_asking};
use crate::cluster::node::NodeSettings;
use crate::cluster::topology::{Failover, Plan, StandIns, Topology};
use crate::connection::connect::{Connector, Login, Resolver};
use crate::connection::link::Patience;
use crate::connection::tls::Tls;
use crate::error::{Error, Result};
use crate::metrics::LoadMetrics;
use crate::near_cache::Near;
use crate::operations::client::{Client, Inner};
use crate::single_flight::Flights;
use larder_protocol::ring::{Hashing, Server};

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
    source: Option<Source>,
    hedge: Option<Duration>,
}

impl Client {
    /// How a client is made.
    pub fn builder() -> Builder {
        Builder {
            servers: Vec::new(),
            hashing: Hashing::default(),
            settings: NodeSettings {
                connector: Connector {
                    timeout: Duration::from_secs(1),
                    keep_alive: Duration::from_secs(60),
                    resolver: Resolver::system(),
                    refresh: Duration::from_secs(30),
                    tls: None,
                    login: None,
                },
                connections: 1,
                patience: Patience { operation: Duration::from_millis(500), timeouts: 3 },
                metrics: false,
            },
            lease: Duration::from_secs(10),
            failover: Failover::Next { ttl: Duration::from_secs(10) },
            hash_long_keys: false,
            near: None,
            source: None,
            hedge: None,
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

    /// Connects over TLS. A unix socket stays as it is.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.settings.connector.tls = Some(tls);
        self
    }

    /// Logs in to each node before the first request: memcached's ASCII authentication (its `-Y`, `--auth-file`).
    ///
    /// SASL (`-S`) is not to be had: a node with it admits the binary protocol only, and this client speaks the meta
    /// protocol. Combine a login with [`Builder::tls`], or anyone on the way can read it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_client::Error> {
    /// let cache = larder_client::Client::builder().server("10.0.1.1:11211").login("reader", "secret").build()?;
    /// # Ok(()) }
    /// ```
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.connector.login = Some(Login { user: user.into(), password: password.into() });
        self
    }

    /// How long a TCP connection may be silent before the kernel asks whether the other side is there, 60 s unless told.
    /// It keeps firewalls from forgetting idle connections.
    pub fn keep_alive(mut self, silence: Duration) -> Self {
        self.settings.connector.keep_alive = silence;
        self
    }

    /// How often names are resolved and lists of servers asked for again, 30 s unless told. The list of a cluster
    /// ([`Builder::discover`]) is asked for every 5 s at least, of all its nodes in turn, and at once where one is lost.
    ///
    /// Where the name of a server no longer answers the address that it is connected to, the connection follows.
    pub fn refresh_every(mut self, pause: Duration) -> Self {
        self.settings.connector.refresh = pause;
        self
    }

    /// Resolves names, `host:port`, by `resolve` instead of the system.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_client::Error> {
    /// let cache = larder_client::Client::builder()
    ///     .server("cache.internal:11211")
    ///     .resolve_with(|_name| async { Ok(vec![([10, 0, 1, 1], 11211).into()]) })
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn resolve_with<F>(mut self, resolve: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        self.settings.connector.resolver = Resolver(Arc::new(move |name| Box::pin(resolve(name))));
        self
    }

    /// Makes each address that the name `host:port` has a server, and follows its changes: a headless service, say.
    /// Begin with [`Builder::connect`].
    pub fn dns(mut self, name: impl Into<String>) -> Self {
        self.source = Some(Source::Dns(name.into()));
        self
    }

    /// Asks this `host:port` for the servers with `config get cluster`, the auto-discovery of managed memcache services,
    /// and follows changes of the list. Begin with [`Builder::connect`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), larder_client::Error> {
    /// let cache = larder_client::Client::builder().discover("cluster.cfg.example.com:11211").connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn discover(mut self, endpoint: impl Into<String>) -> Self {
        self.source = Some(Source::Endpoint(endpoint.into()));
        self
    }

    /// Sends a read a second time where its answer takes longer than `after`; the first answer counts.
    ///
    /// It goes over another connection of the node where there are several ([`Builder::connections`]), else to the node
    /// that would stand in ([`Failover`]), whose miss counts as a miss. Choose a time that few reads take, such as their
    /// 99th percentile: each hedged read is work for a second connection.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_client::Error> {
    /// # use std::time::Duration;
    /// let cache = larder_client::Client::builder()
    ///     .server("10.0.1.1:11211")
    ///     .connections(2)
    ///     .hedge(Duration::from_millis(5))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn hedge(mut self, after: Duration) -> Self {
        self.hedge = Some(after);
        self
    }

    /// The client of a list of servers. Connecting goes on in the background: a server that is down now is used when it
    /// is up.
    ///
    /// # Errors
    /// [`Error::InvalidServer`] where there is no server or one is not `host:port`, and [`Error::Discovery`] where the
    /// list has yet to be asked for: that takes [`Builder::connect`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Client> {
        if let Some(source) = &self.source {
            let reason = "it was not asked yet: use connect() instead of build()".to_owned();
            return Err(Error::Discovery { from: source.name().to_owned(), reason });
        }
        let servers = parse_servers(&self.servers)?;
        self.over(servers)
    }

    /// As [`Builder::build`], after the list of servers was had where it is asked for ([`Builder::dns`],
    /// [`Builder::discover`]); servers given beside that do not count.
    ///
    /// # Errors
    /// [`Error::Discovery`] where the list cannot be had, and those of [`Builder::build`].
    pub async fn connect(self) -> Result<Client> {
        let Some(source) = self.source.clone() else { return self.build() };
        let connector = self.settings.connector.clone();
        let discovered = source
            .ask(&connector)
            .await
            .map_err(|error| Error::Discovery { from: source.name().to_owned(), reason: error.to_string() })?;
        let client = self.over(discovered.servers)?;
        tokio::spawn(keep_asking(source, connector, discovered.version, Arc::downgrade(&client.inner)));
        Ok(client)
    }

    fn over(self, servers: Vec<Server>) -> Result<Client> {
        let stand_ins = match self.failover {
            Failover::Error => StandIns::None,
            Failover::Next { ttl } => StandIns::Ring { ttl },
            Failover::Gutter { servers, ttl } => StandIns::Gutter { servers: parse_servers(&servers)?, ttl },
        };
        let metrics = LoadMetrics::new(self.settings.metrics);
        let plan = Plan { hashing: self.hashing, node: self.settings, stand_ins, hedge: self.hedge };
        Ok(Client {
            inner: Arc::new(Inner {
                topology: ArcSwap::from_pointee(Topology::new(Arc::new(plan), servers, None)),
                loads: Flights::default(),
                lease: self.lease,
                hash_long_keys: self.hash_long_keys,
                metrics,
                near: self.near.map(|(bytes, ttl)| Near::new(bytes, ttl)),
            }),
        })
    }
}

fn parse_servers(servers: &[String]) -> Result<Vec<Server>> {
    if servers.is_empty() {
        return Err(Error::InvalidServer(String::new()));
    }
    servers.iter().map(|text| parse_server(text)).collect()
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
