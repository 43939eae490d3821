//! The builder of a client.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use larder_protocol::HostPort;
use larder_protocol::ring::{Hashing, Server};

use crate::cluster::discover::{Source, in_brackets, keep_current};
use crate::cluster::node::NodeSettings;
use crate::cluster::topology::{Failover, Plan, StandIns, Topology};
use crate::connection::connect::{Connector, Login, Mechanism, Resolver};
use crate::connection::link::Patience;
#[cfg(feature = "tls")]
use crate::connection::tls::Tls;
use crate::error::{Error, Result};
use crate::metrics::LoadMetrics;
#[cfg(feature = "near-cache")]
use crate::near_cache::NearCache;
use crate::operations::client::{Client, Inner};
use crate::single_flight::Flights;

/// Builds a client: servers, hashing, fail-over, time-outs, and security.
#[derive(Debug, Clone)]
pub struct Builder {
    servers: Vec<String>,
    hashing: Hashing,
    settings: NodeSettings,
    lease: Duration,
    failover: Failover,
    hash_long_keys: bool,
    #[cfg(feature = "near-cache")]
    near: Option<(usize, Duration)>,
    source: Option<Source>,
    hedge: Option<Duration>,
}

impl Client {
    /// Returns a builder with the default settings.
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
                    discovered: false,
                },
                connections: 1,
                patience: Patience { operation: Duration::from_millis(500), timeouts: 3 },
                metrics: false,
            },
            lease: Duration::from_secs(10),
            failover: Failover::Next { ttl: Duration::from_secs(10) },
            hash_long_keys: false,
            #[cfg(feature = "near-cache")]
            near: None,
            source: None,
            hedge: None,
        }
    }
}

impl Builder {
    /// Adds a server: `host`, `host:port`, or the path of a unix socket. The default port is 11211. An IPv6 address
    /// needs brackets only before a port. A weight may follow, and a name after it, separated by blanks.
    ///
    /// The spelling matters: the ring is made of it, or of the name if there is one. All clients of a fleet must spell
    /// a server alike.
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

    /// Adds servers, like [`Builder::server`].
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers.extend(servers.into_iter().map(Into::into));
        self
    }

    /// Sets how keys are spread over the servers. The default is [`Hashing::KetamaWeighted`].
    pub fn hashing(mut self, hashing: Hashing) -> Self {
        self.hashing = hashing;
        self
    }

    /// Sets what happens to the keys of a node that is down. The default is [`Failover::Next`] with 10 s.
    pub fn failover(mut self, failover: Failover) -> Self {
        self.failover = failover;
        self
    }

    /// Sets the time-out of an operation, 500 ms by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.patience.operation = timeout;
        self
    }

    /// Sets the time-out of connecting, 1 s by default. It covers all addresses of a name, the TLS handshake and the
    /// login.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connector.timeout = timeout;
        self
    }

    /// Sets the number of connections to each node, 1 by default. One serves thousands of concurrent calls. More help
    /// if large values hold up small ones, or if one processor cannot keep up with a connection.
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.connections = connections;
        self
    }

    /// Sets the number of calls in a row without an answer in time after which a connection is closed, 3 by default.
    /// (It is closed at once if nothing arrives during a whole time-out.) A node without a connection is ejected until
    /// connecting succeeds again: see [`Circuit`](crate::Circuit).
    pub fn eject_after(mut self, timeouts: u32) -> Self {
        self.settings.patience.timeouts = timeouts.max(1);
        self
    }

    /// Sets the time for which one caller of [`Client::get_or_load`] has the right to load a key before another gets
    /// it, 10 s by default, in whole seconds. It should be at least the time of a slow load.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Accepts keys longer than 250 bytes, which are refused otherwise. Such a key is sent as its first 100 bytes,
    /// `#sha256:` and the SHA-256 of the whole in hexadecimal. All clients that share such keys must do the same.
    pub fn hash_long_keys(mut self) -> Self {
        self.hash_long_keys = true;
        self
    }

    /// Keeps up to `bytes` of the values that were read through the cache in this process too, for `ttl`.
    ///
    /// Reading such a key needs no exchange with a node, and may return a value that is older than the node's by up to
    /// `ttl`: choose a second or less, for keys that are read thousands of times a second. A change through this client
    /// (and its clones) removes the key; a change by another process is not seen.
    #[cfg(feature = "near-cache")]
    pub fn near_cache(mut self, bytes: usize, ttl: Duration) -> Self {
        self.near = Some((bytes, ttl));
        self
    }

    /// Counts requests, hits, misses, errors and latencies: see [`metrics`](crate::metrics) for the names. Install a
    /// recorder before the client is built. The cost is two readings of the clock for each call.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self) -> Self {
        self.settings.metrics = true;
        self
    }

    /// Connects over TLS. Connections to unix sockets are not encrypted.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.settings.connector.tls = Some(tls);
        self
    }

    /// Logs in to each node before the first request: memcached's ASCII authentication (its `-Y`, `--auth-file`).
    ///
    /// For SASL (`-S`) see [`Builder::sasl_login`]. Without [`Builder::tls`], anyone on the way can read the password.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_client::Error> {
    /// let cache = larder_client::Client::builder().server("10.0.1.1:11211").login("reader", "secret").build()?;
    /// # Ok(()) }
    /// ```
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.connector.login = Some(Login::new(user, password, Mechanism::Ascii));
        self
    }

    /// Logs in to each node by SASL PLAIN (`-S`), for servers that take meta commands after it: larder-node does.
    ///
    /// memcached does not: with `-S` it speaks only the binary protocol, and calls fail with [`Error::Down`], which
    /// says so. There, use `-Y` and [`Builder::login`]. Without [`Builder::tls`], anyone on the way can read the
    /// password.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_client::Error> {
    /// let cache = larder_client::Client::builder().server("10.0.1.1:11211").sasl_login("reader", "secret").build()?;
    /// # Ok(()) }
    /// ```
    pub fn sasl_login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.connector.login = Some(Login::new(user, password, Mechanism::SaslPlain));
        self
    }

    /// Sets the silence after which the kernel probes a TCP connection, 60 s by default. The probes keep firewalls from
    /// dropping idle connections.
    pub fn keep_alive(mut self, silence: Duration) -> Self {
        self.settings.connector.keep_alive = silence;
        self
    }

    /// Sets the time after which names are resolved and lists of servers are requested again, 30 s by default. The list
    /// of a cluster ([`Builder::discover`]) is requested at least every 5 s, from its nodes in turn, and at once when a
    /// node is lost.
    ///
    /// If the name of a server no longer resolves to the connected address, the connection moves to the new one.
    pub fn refresh_every(mut self, pause: Duration) -> Self {
        self.settings.connector.refresh = pause;
        self
    }

    /// Resolves names (`host:port`) with `resolve` instead of the system. The addresses are tried in the order
    /// returned.
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

    /// Uses each address of the name `host:port` as a server, for example of a headless service, and follows its
    /// changes. Needs [`Builder::connect`]. With TLS, certificates are verified against the addresses, or against
    /// [`Tls::with_server_name`].
    pub fn dns(mut self, name: impl Into<String>) -> Self {
        self.source = Some(Source::Dns(name.into()));
        self
    }

    /// Requests the servers from this `host:port` with `config get cluster`, the auto-discovery of managed memcache
    /// services, and follows changes of the list. Needs [`Builder::connect`]. With TLS, certificates are verified
    /// against the host names of the list, or against [`Tls::with_server_name`].
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

    /// Sends a read a second time if its answer takes longer than `after`. The first answer counts.
    ///
    /// The second read uses another connection of the node if there are several ([`Builder::connections`]), otherwise
    /// the node that would stand in ([`Failover`]), whose miss counts as a miss. Choose a time that few reads take,
    /// such as their 99th percentile: each hedged read is work for a second connection.
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

    /// Builds the client of a list of servers. Connecting continues in the background: a server that is down now is
    /// used once it is up.
    ///
    /// # Errors
    /// [`Error::InvalidServer`] if there is no server or one is not `host:port`, and [`Error::Discovery`] if the list
    /// has to be requested first, for which there is [`Builder::connect`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Client> {
        if let Some(source) = &self.source {
            let reason = "the list has to be requested first: use connect() instead of build()".to_owned();
            return Err(Error::Discovery { from: source.name().to_owned(), reason });
        }
        let servers = parse_servers(&self.servers)?;
        self.over(servers)
    }

    /// Like [`Builder::build`], after the list of servers was received from its source ([`Builder::dns`],
    /// [`Builder::discover`]). With a source, servers of [`Builder::server`] are ignored.
    ///
    /// # Errors
    /// [`Error::Discovery`] if the list cannot be obtained, and those of [`Builder::build`].
    pub async fn connect(mut self) -> Result<Client> {
        let Some(source) = self.source.clone() else { return self.build() };
        self.settings.connector.discovered = matches!(source, Source::Endpoint(_));
        let connector = self.settings.connector.clone();
        let discovered = source
            .list(&connector)
            .await
            .map_err(|error| Error::Discovery { from: source.name().to_owned(), reason: error.to_string() })?;
        let client = self.over(discovered.servers)?;
        tokio::spawn(keep_current(source, connector, discovered.version, Arc::downgrade(&client.inner)));
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
                #[cfg(feature = "near-cache")]
                near: self.near.map(|(bytes, ttl)| NearCache::new(bytes, ttl)),
                #[cfg(not(feature = "near-cache"))]
                near: None,
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
    if words.next().is_some() {
        return Err(invalid());
    }
    if address.starts_with('/') {
        return Ok(Server { host: address.to_owned(), port: 0, weight, name });
    }
    let HostPort { host, port } = HostPort::parse(address).map_err(|_| invalid())?;
    Ok(Server { host: in_brackets(host), port: port.unwrap_or(11211), weight, name })
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
        assert_eq!(parse_server("[::1]").unwrap(), server("[::1]", 11211, 1, None));
        assert_eq!(parse_server("::1").unwrap(), server("[::1]", 11211, 1, None));
        assert_eq!(parse_server("[2001:db8::2]").unwrap(), server("[2001:db8::2]", 11211, 1, None));
        assert_eq!(parse_server("/run/cache.sock").unwrap(), server("/run/cache.sock", 0, 1, None));
        for wrong in ["", ":7", "cache1:port", "cache1:7 heavy", "cache1:7 1 two words", "::1:x", "cache1:7 4294967296"]
        {
            assert!(parse_server(wrong).is_err(), "{wrong}");
        }
    }
}
