//! The client: memcache's operations over all nodes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_protocol::meta::Code;
use larder_protocol::{KEY_MAX_LEN, push_number};

use crate::error::{Error, Result};
use crate::link::{Answer, Facts};
use crate::load::Loads;
use crate::node::{Node, Patience};
use crate::ring::{Hashing, Ring, Server};

/// A value with what the server keeps beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// The flags it was stored with.
    pub flags: u32,
    /// Its CAS unique, for [`Client::cas`].
    pub cas: u64,
}

/// What came of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was stored.
    Yes,
    /// The condition did not hold: there was an item (add) or none (replace, append, prepend).
    No,
    /// Another writer changed the item since it was read (cas).
    Changed,
    /// There is no such item any more (cas).
    Gone,
}

/// What happens to the keys of a node that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// Their calls fail at once, until the node is back.
    Error,
    /// The next node on the ring that is up serves them, keeping what is stored there for at most `ttl`.
    ///
    /// [`Client::delete`] reaches a key's owner and the node that would stand in for it, so that neither keeps an old
    /// value. Where clients disagree on which nodes are up, `ttl` bounds how long one of them may see an old value.
    Next {
        /// Longest time to live on a node that stands in, at least a second.
        ttl: Duration,
    },
}

/// How a client is made: servers, hashing, fail-over and time-outs.
#[derive(Debug, Clone)]
pub struct Builder {
    servers: Vec<String>,
    hashing: Hashing,
    patience: Patience,
    lease: Duration,
    failover: Failover,
}

impl Builder {
    /// Adds a server: `host`, `host:port`, or `host:port weight`. The spelling counts: the ring is made of it.
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
        self.patience.operation = timeout;
        self
    }

    /// How long connecting may take, 1 s unless told.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.patience.connect = timeout;
        self
    }

    /// How long one caller of [`Client::get_or_load`] has the right to load a key before another gets it, 10 s unless
    /// told. At least the time a slow load takes, in whole seconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
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
        let address = |server: &Server| format!("{}:{}", server.host, server.port);
        Ok(Client {
            inner: Arc::new(Inner {
                ring: Ring::new(&servers, self.hashing),
                nodes: servers.iter().map(|server| Node::new(&address(server), self.patience)).collect(),
                loads: Loads::default(),
                lease: self.lease,
                failover: self.failover,
            }),
        })
    }
}

fn parse_server(text: &str) -> Result<Server> {
    let invalid = || Error::InvalidServer(text.to_owned());
    let (address, weight) = match text.trim().split_once(char::is_whitespace) {
        Some((address, weight)) => (address, weight.trim().parse().map_err(|_| invalid())?),
        None => (text.trim(), 1),
    };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => return Err(invalid()),
        Some((host, port)) => (host, port.parse().map_err(|_| invalid())?),
        None => (address, 11211),
    };
    if host.is_empty() {
        return Err(invalid());
    }
    Ok(Server { host: host.to_owned(), port, weight })
}

/// A memcache client. Clones share connections; keep one for the program.
///
/// ```no_run
/// use std::time::Duration;
/// use larder_client::Client;
///
/// # async fn example() -> Result<(), larder_client::Error> {
/// let cache = Client::builder().servers(["10.0.1.1:11211", "10.0.1.2:11211"]).build()?;
/// cache.set("greeting", "hello", Duration::from_secs(60)).await?;
/// assert_eq!(cache.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("ring", &self.inner.ring).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) ring: Ring,
    pub(crate) nodes: Vec<Node>,
    pub(crate) loads: Loads,
    pub(crate) lease: Duration,
    failover: Failover,
}

/// The node that serves a key now.
#[derive(Clone, Copy)]
struct Route {
    node: usize,
    /// Longest time to live there, where it stands in for the owner.
    ttl_max: Option<Duration>,
}

impl Inner {
    fn route(&self, key: &[u8]) -> Route {
        let owner = self.ring.owner(key);
        if let Failover::Next { ttl } = self.failover
            && !self.nodes[owner].may_serve()
            && let Some(&node) =
                self.ring.owners(key, self.nodes.len()).iter().find(|&&node| self.nodes[node].may_serve())
        {
            return Route { node, ttl_max: Some(ttl.max(Duration::from_secs(1))) };
        }
        Route { node: owner, ttl_max: None }
    }
}

impl Client {
    /// How a client is made.
    pub fn builder() -> Builder {
        Builder {
            servers: Vec::new(),
            hashing: Hashing::default(),
            patience: Patience { connect: Duration::from_secs(1), operation: Duration::from_millis(500) },
            lease: Duration::from_secs(10),
            failover: Failover::Next { ttl: Duration::from_secs(10) },
        }
    }

    /// The value of `key`; `None` is a miss.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.get_item(key).await?.map(|item| item.value))
    }

    /// As [`Client::get`], with flags and CAS unique.
    pub async fn get_item(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let answer = self.call(b"mg", key.as_ref(), |out| out.extend_from_slice(b" v c f")).await?;
        Ok(answer.item())
    }

    /// As [`Client::get`], and gives the item a new time to live.
    pub async fn get_and_touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<Option<Bytes>> {
        let answer = self
            .call(b"mg", key.as_ref(), |out| {
                out.extend_from_slice(b" v");
                push_ttl(out, ttl);
            })
            .await?;
        Ok(answer.item().map(|item| item.value))
    }

    /// The values of `keys`, in their order, with one exchange for each node that owns some, all nodes at once.
    ///
    /// A node that fails makes an error of its keys only.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Bytes>>> {
        let mut results: Vec<Result<Option<Bytes>>> = Vec::with_capacity(keys.len());
        let mut by_node: Vec<Vec<usize>> = vec![Vec::new(); self.inner.nodes.len()];
        for (place, key) in keys.iter().enumerate() {
            match check(key.as_ref()) {
                Ok(()) => {
                    by_node[self.inner.route(key.as_ref()).node].push(place);
                    results.push(Ok(None));
                }
                Err(error) => results.push(Err(error)),
            }
        }
        let calls =
            by_node.iter().enumerate().filter(|(_, places)| !places.is_empty()).map(|(node, places)| async move {
                let answers = self.inner.nodes[node]
                    .call_many(places.len(), |out| {
                        for (opaque, &place) in places.iter().enumerate() {
                            out.extend_from_slice(b"mg ");
                            out.extend_from_slice(keys[place].as_ref());
                            out.extend_from_slice(b" v q O");
                            push_number(out, opaque);
                            out.extend_from_slice(b"\r\n");
                        }
                    })
                    .await;
                (node, places, answers)
            });
        for (node, places, answers) in futures_util::future::join_all(calls).await {
            match answers {
                Ok(answers) => {
                    for (&place, answer) in places.iter().zip(answers) {
                        results[place] = match answer {
                            None => Ok(None),
                            Some(answer) => self.accepted(node, answer).map(|answer| answer.value),
                        };
                    }
                }
                Err(error) => places.iter().for_each(|&place| results[place] = Err(error.clone())),
            }
        }
        results
    }

    /// Stores a value. A `ttl` of zero keeps it until it is evicted; parts of a second count as a whole one.
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<()> {
        self.store(key.as_ref(), value.as_ref(), ttl, b"").await.map(|_| ())
    }

    /// Stores a value where there is none.
    pub async fn add(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Stored> {
        self.store(key.as_ref(), value.as_ref(), ttl, b" ME").await
    }

    /// Stores a value where there is one already.
    pub async fn replace(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Stored> {
        self.store(key.as_ref(), value.as_ref(), ttl, b" MR").await
    }

    /// Adds to the end of a value that is there.
    pub async fn append(&self, key: impl AsRef<[u8]>, tail: impl AsRef<[u8]>) -> Result<Stored> {
        self.store(key.as_ref(), tail.as_ref(), Duration::ZERO, b" MA").await
    }

    /// Adds to the front of a value that is there.
    pub async fn prepend(&self, key: impl AsRef<[u8]>, head: impl AsRef<[u8]>) -> Result<Stored> {
        self.store(key.as_ref(), head.as_ref(), Duration::ZERO, b" MP").await
    }

    /// Stores a value if nobody changed the item since it had CAS unique `cas` (see [`Client::get_item`]).
    pub async fn cas(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration, cas: u64) -> Result<Stored> {
        let mut flags = Vec::with_capacity(24);
        flags.extend_from_slice(b" C");
        push_number(&mut flags, cas);
        self.store(key.as_ref(), value.as_ref(), ttl, &flags).await
    }

    /// Removes an item; `false` where there was none. After a change is committed, this keeps old values out: also one
    /// that a caller of [`Client::get_or_load`] has read and not yet stored.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        check(key)?;
        let copies = match self.inner.failover {
            Failover::Error => 1,
            Failover::Next { .. } => 2,
        };
        let owners = self.inner.ring.owners(key, copies.min(self.inner.nodes.len()));
        let deletes = owners.iter().map(|&node| self.call_node(node, b"md", key, |_| ()));
        let mut results = futures_util::future::join_all(deletes).await.into_iter();
        let of_owner = results.next().unwrap_or(Ok(Accepted::MISS))?;
        // The stand-in may be down while the owner is up; what it kept dies with it or with its short time to live.
        let _ = results.next();
        Ok(of_owner.code == Code::Hd)
    }

    /// Gives an item a new time to live; `false` where there is none.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool> {
        let answer = self.call(b"mg", key.as_ref(), |out| push_ttl(out, ttl)).await?;
        Ok(answer.code == Code::Hd)
    }

    /// Adds to a decimal value, wrapping at 2^64, and returns the new one; `None` where there is no item.
    pub async fn incr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.calculate(key.as_ref(), delta, b" v MI D").await
    }

    /// Subtracts from a decimal value, stopping at 0, and returns the new one; `None` where there is no item.
    pub async fn decr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.calculate(key.as_ref(), delta, b" v MD D").await
    }

    /// The servers as given, each with whether a connection to it is up.
    pub fn nodes(&self) -> Vec<(Arc<str>, bool)> {
        self.inner.nodes.iter().map(|node| (node.address().clone(), node.is_up())).collect()
    }

    /// The index, in [`Client::nodes`], of the node that owns `key`.
    ///
    /// While that node is down, another one may stand in (see [`Failover`]).
    pub fn owner(&self, key: impl AsRef<[u8]>) -> usize {
        self.inner.ring.owner(key.as_ref())
    }

    async fn calculate(&self, key: &[u8], delta: u64, flags: &[u8]) -> Result<Option<u64>> {
        let answer = self
            .call(b"ma", key, |out| {
                out.extend_from_slice(flags);
                push_number(out, delta);
            })
            .await?;
        Ok(answer.value.and_then(|digits| std::str::from_utf8(&digits).ok()?.parse().ok()))
    }

    pub(crate) async fn store(&self, key: &[u8], value: &[u8], ttl: Duration, flags: &[u8]) -> Result<Stored> {
        check(key)?;
        let Route { node, ttl_max } = self.inner.route(key);
        let ttl = match ttl_max {
            // Zero is for ever.
            Some(ttl_max) if ttl.is_zero() || ttl > ttl_max => ttl_max,
            _ => ttl,
        };
        let answer = self.inner.nodes[node]
            .call(|out| {
                out.extend_from_slice(b"ms ");
                out.extend_from_slice(key);
                out.push(b' ');
                push_number(out, value.len());
                push_ttl(out, ttl);
                out.extend_from_slice(flags);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            })
            .await?;
        Ok(match self.accepted(node, answer)?.code {
            Code::Hd => Stored::Yes,
            Code::Ex => Stored::Changed,
            Code::Nf => Stored::Gone,
            _ => Stored::No,
        })
    }

    /// Sends the meta command `name` for `key`, with the flags that `flags` writes, to the node that serves it.
    pub(crate) async fn call(&self, name: &[u8], key: &[u8], flags: impl FnOnce(&mut Vec<u8>)) -> Result<Accepted> {
        check(key)?;
        self.call_node(self.inner.route(key).node, name, key, flags).await
    }

    async fn call_node(
        &self,
        node: usize,
        name: &[u8],
        key: &[u8],
        flags: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Accepted> {
        let answer = self.inner.nodes[node]
            .call(|out| {
                out.extend_from_slice(name);
                out.push(b' ');
                out.extend_from_slice(key);
                flags(out);
                out.extend_from_slice(b"\r\n");
            })
            .await?;
        self.accepted(node, answer)
    }

    fn accepted(&self, node: usize, answer: Answer) -> Result<Accepted> {
        match answer {
            Answer::Code { code, value, facts } => Ok(Accepted { code, value, facts }),
            Answer::Refused(line) => Err(Error::Refused { node: self.inner.nodes[node].address().clone(), line }),
        }
    }
}

/// An answer that is no error.
pub(crate) struct Accepted {
    pub(crate) code: Code,
    pub(crate) value: Option<Bytes>,
    pub(crate) facts: Facts,
}

impl Accepted {
    const MISS: Accepted = Accepted { code: Code::Nf, value: None, facts: Facts::NONE };

    /// The item, unless it is the empty stub that marks a load under way.
    fn item(self) -> Option<Item> {
        let is_stub = |value: &Bytes| value.is_empty() && self.facts.already_won;
        let value = self.value.filter(|value| !is_stub(value))?;
        Some(Item { value, flags: self.facts.flags, cas: self.facts.cas })
    }
}

/// Refuses keys that would not arrive as one key, or as a command of their own.
fn check(key: &[u8]) -> Result<()> {
    let fits = (1..=KEY_MAX_LEN).contains(&key.len());
    if fits && !key.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Ok(());
    }
    Err(Error::InvalidKey(String::from_utf8_lossy(&key[..key.len().min(80)]).into_owned()))
}

/// Appends the flag T for a time to live; whole seconds, rounded up. Beyond 30 days it must be a Unix time.
fn push_ttl(out: &mut Vec<u8>, ttl: Duration) {
    let mut seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    if seconds > larder_protocol::RELATIVE_EXPTIME_MAX as u64 {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        seconds = (unix + seconds).min(i32::MAX as u64);
    }
    out.extend_from_slice(b" T");
    push_number(out, seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_with_a_port_and_a_weight_where_given() {
        let server = |host: &str, port, weight| Server { host: host.to_owned(), port, weight };
        assert_eq!(parse_server("cache1").unwrap(), server("cache1", 11211, 1));
        assert_eq!(parse_server("10.0.0.1:7 3").unwrap(), server("10.0.0.1", 7, 3));
        assert_eq!(parse_server("[::1]:7").unwrap(), server("[::1]", 7, 1));
        for wrong in ["", ":7", "cache1:port", "cache1:7 heavy", "::1"] {
            assert!(parse_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_could_be_more_than_a_key_is_refused() {
        for wrong in [&b""[..], b"two words", b"line\r\nflush_all", b"tab\t", &[b'k'; 251]] {
            assert!(matches!(check(wrong), Err(Error::InvalidKey(_))));
        }
        assert!(check(&[b'k'; 250]).is_ok());
        assert!(check("ключ".as_bytes()).is_ok());
    }

    #[test]
    fn a_ttl_counts_parts_of_a_second_as_a_whole_one_and_months_as_unix_time() {
        let flag = |ttl| {
            let mut out = Vec::new();
            push_ttl(&mut out, ttl);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(flag(Duration::ZERO), " T0");
        assert_eq!(flag(Duration::from_millis(1)), " T1");
        assert_eq!(flag(Duration::from_secs(2_592_000)), " T2592000");
        assert!(flag(Duration::from_secs(2_592_001)).len() > " T2592001".len());
    }
}
