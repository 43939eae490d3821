//! The client: memcache's operations over all nodes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_protocol::meta::Code;
use larder_protocol::{KEY_MAX_LEN, push_number};

use crate::error::{Error, Result};
use crate::link::{Answer, Facts};
use crate::load::Loads;
use crate::node::Node;
use crate::topology::Topology;

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
        f.debug_struct("Client").field("topology", &self.inner.topology.load()).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) topology: ArcSwap<Topology>,
    pub(crate) loads: Loads,
    pub(crate) lease: Duration,
}

impl Client {
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
        let topology = self.inner.topology.load_full();
        let mut by_node: Vec<Vec<usize>> = vec![Vec::new(); topology.nodes.len()];
        for (place, key) in keys.iter().enumerate() {
            match check(key.as_ref()) {
                Ok(()) => {
                    by_node[topology.route(key.as_ref()).node].push(place);
                    results.push(Ok(None));
                }
                Err(error) => results.push(Err(error)),
            }
        }
        let nodes_with_keys = topology.nodes.iter().zip(&by_node).filter(|(_, places)| !places.is_empty());
        let calls = nodes_with_keys.map(|(node, places)| async move {
            let answers = node
                .call_many(places.len(), |out| {
                    for &place in places {
                        out.extend_from_slice(b"mg ");
                        out.extend_from_slice(keys[place].as_ref());
                        out.extend_from_slice(b" v\r\n");
                    }
                })
                .await;
            (node, places, answers)
        });
        for (node, places, answers) in futures_util::future::join_all(calls).await {
            match answers {
                Ok(answers) => {
                    for (&place, answer) in places.iter().zip(answers) {
                        results[place] = accepted(node, answer).map(|answer| answer.value);
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
        let nodes = self.inner.topology.load().copies(key);
        let deletes = nodes.iter().map(|node| call_node(node, b"md", key, |_| ()));
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
        let (node, ttl_max) = self.inner.topology.load().node_of(key);
        let ttl = match ttl_max {
            // Zero is for ever.
            Some(ttl_max) if ttl.is_zero() || ttl > ttl_max => ttl_max,
            _ => ttl,
        };
        let answer = node
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
        Ok(match accepted(&node, answer)?.code {
            Code::Hd => Stored::Yes,
            Code::Ex => Stored::Changed,
            Code::Nf => Stored::Gone,
            _ => Stored::No,
        })
    }

    /// Sends the meta command `name` for `key`, with the flags that `flags` writes, to the node that serves it.
    pub(crate) async fn call(&self, name: &[u8], key: &[u8], flags: impl FnOnce(&mut Vec<u8>)) -> Result<Accepted> {
        check(key)?;
        let (node, _) = self.inner.topology.load().node_of(key);
        call_node(&node, name, key, flags).await
    }
}

async fn call_node(node: &Node, name: &[u8], key: &[u8], flags: impl FnOnce(&mut Vec<u8>)) -> Result<Accepted> {
    let answer = node
        .call(|out| {
            out.extend_from_slice(name);
            out.push(b' ');
            out.extend_from_slice(key);
            flags(out);
            out.extend_from_slice(b"\r\n");
        })
        .await?;
    accepted(node, answer)
}

fn accepted(node: &Node, answer: Answer) -> Result<Accepted> {
    match answer {
        Answer::Code { code, value, facts } => Ok(Accepted { code, value, facts }),
        Answer::Refused(line) => Err(Error::Refused { node: node.address().clone(), line }),
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
