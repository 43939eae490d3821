//! Reading through the cache: a hit, or the loader, and the cache filled without ever keeping an old value.
//!
//! The invariant: **no value read before a change was committed stays in the cache after the delete that follows the
//! commit.** A caller that misses takes a lease (an empty stub that the node makes, with a CAS unique of its own) before
//! it reads the datastore, and stores with that CAS unique. A delete that comes between removes the stub, so the store
//! finds nothing to match and the value is returned, not cached. Writers delete after the commit. The loader must read
//! from the primary.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use larder_protocol::meta::Code;
use larder_protocol::push_number;
use tokio::sync::watch;

use crate::client::{Client, Stored};
use crate::error::{Error, Result};

/// What a load in this process came to.
#[derive(Clone)]
struct Loaded {
    result: Result<Bytes>,
    /// The value was current then: when the cache took it under its lease, or else when the loader began.
    as_of: Instant,
}

/// `None` while the load is under way.
type Shared = watch::Receiver<Option<Loaded>>;

/// Loads under way in this process, by key.
#[derive(Default)]
pub(crate) struct Loads {
    by_key: DashMap<Bytes, (u64, Shared)>,
    next: AtomicU64,
}

impl Loads {
    fn of(&self, key: &[u8]) -> Option<Shared> {
        self.by_key.get(key).map(|load| load.1.clone())
    }

    /// Makes this caller the one that loads. One that is loading already goes on, unseen by later callers.
    fn lead(&self, key: &Bytes) -> Leader<'_> {
        let (publish, shared) = watch::channel(None);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.by_key.insert(key.clone(), (number, shared));
        Leader { loads: self, key: key.clone(), number, publish }
    }
}

/// The caller that loads; the others learn when it is done, or when it was dropped on the way.
struct Leader<'a> {
    loads: &'a Loads,
    key: Bytes,
    number: u64,
    publish: watch::Sender<Option<Loaded>>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.loads.by_key.remove_if(&self.key, |_, load| load.0 == self.number);
    }
}

/// Waits for a load of this process. `None` where its value may be older than `arrived`, or its caller was dropped.
///
/// A load that began before a change was committed must not answer a caller that came after it.
async fn join(mut load: Shared, arrived: Instant) -> Option<Result<Bytes>> {
    let loaded = load.wait_for(Option::is_some).await.ok()?.clone()?;
    (loaded.as_of >= arrived).then_some(loaded.result)
}

/// Pauses between looks at a key that another process is loading grow from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(25);

/// What the cache says of a key.
enum Lookup {
    Hit(Bytes),
    /// This caller loads and stores with this CAS unique.
    Won(u64),
    /// Another caller is loading.
    Wait,
}

impl Client {
    /// The value of `key`: from the cache, or from `loader`, whose value is cached for `ttl`.
    ///
    /// Concurrent callers of one key share one load, in this process and, by a lease in the cache, across processes. The
    /// loader's value is returned even where the cache cannot be reached.
    ///
    /// # Errors
    /// [`Error::Load`] where the loader fails, and [`Error::InvalidKey`]; never because of the cache.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(cache: larder_client::Client) -> Result<(), larder_client::Error> {
    /// let user = cache
    ///     .get_or_load("user:1", Duration::from_secs(300), || async {
    ///         tokio::fs::read("users/1.json").await
    ///     })
    ///     .await?;
    /// # let _ = user;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_or_load<V, E, F, L>(&self, key: impl AsRef<[u8]>, ttl: Duration, loader: L) -> Result<Bytes>
    where
        L: FnOnce() -> F,
        F: Future<Output = Result<V, E>>,
        V: Into<Bytes>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let key = key.as_ref();
        let arrived = Instant::now();
        let deadline = arrived + self.inner.lease;
        let mut pause = FIRST_PAUSE;
        let lease = loop {
            match self.look_up(key).await {
                Ok(Lookup::Hit(value)) => return Ok(value),
                Ok(Lookup::Won(cas)) => break Some(cas),
                Err(error @ Error::InvalidKey(_)) => return Err(error),
                Ok(Lookup::Wait) if Instant::now() >= deadline => break None,
                Ok(Lookup::Wait) => match self.inner.loads.of(key) {
                    Some(load) => {
                        if let Some(result) = join(load, arrived).await {
                            return result;
                        }
                    }
                    None => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LAST_PAUSE);
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "reading without the cache");
                    // Whoever came before the loader began shares what it brings; at most one load is too old for us.
                    while let Some(load) = self.inner.loads.of(key) {
                        if let Some(result) = join(load, arrived).await {
                            return result;
                        }
                    }
                    break None;
                }
            }
        };
        let key = Bytes::copy_from_slice(key);
        let leader = self.inner.loads.lead(&key);
        let loaded = self.load(&key, ttl, lease, loader).await;
        leader.publish.send_replace(Some(loaded.clone()));
        loaded.result
    }

    async fn load<V, E, F, L>(&self, key: &[u8], ttl: Duration, lease: Option<u64>, loader: L) -> Loaded
    where
        L: FnOnce() -> F,
        F: Future<Output = Result<V, E>>,
        V: Into<Bytes>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let began = Instant::now();
        match loader().await {
            Ok(value) => {
                let value = value.into();
                let mut as_of = began;
                if let Some(cas) = lease {
                    let mut flags = Vec::with_capacity(24);
                    flags.extend_from_slice(b" C");
                    push_number(&mut flags, cas);
                    let sent = Instant::now();
                    match self.store(key, &value, ttl, &flags).await {
                        // Nothing was deleted between the lease and this: the value was current when this was sent.
                        Ok(Stored::Yes) => as_of = sent,
                        Ok(_) => tracing::debug!("a value changed while it was loaded, and was not cached"),
                        Err(error) => tracing::debug!(%error, "a loaded value was not cached"),
                    }
                }
                Loaded { result: Ok(value), as_of }
            }
            Err(error) => {
                if let Some(cas) = lease {
                    self.give_back(key, cas).await;
                }
                // A failure is as good an answer to those who came while it happened.
                Loaded { result: Err(Error::Load(Arc::from(error.into()))), as_of: Instant::now() }
            }
        }
    }

    /// Looks a key up, taking the lease where it is missing.
    async fn look_up(&self, key: &[u8]) -> Result<Lookup> {
        let lease = self.inner.lease.as_secs().max(1);
        let answer = self
            .call(b"mg", key, |out| {
                out.extend_from_slice(b" v c N");
                push_number(out, lease);
            })
            .await?;
        let facts = answer.facts;
        match (answer.code, answer.value) {
            _ if facts.won => Ok(Lookup::Won(facts.cas)),
            (Code::Va, Some(value)) if !(facts.already_won && value.is_empty()) => Ok(Lookup::Hit(value)),
            _ => Ok(Lookup::Wait),
        }
    }

    /// Gives a lease back after a failed load, so that the next caller need not wait for it to run out.
    async fn give_back(&self, key: &[u8], cas: u64) {
        let returned = self
            .call(b"md", key, |out| {
                out.extend_from_slice(b" C");
                push_number(out, cas);
            })
            .await;
        if let Err(error) = returned {
            tracing::debug!(%error, "a lease was not given back");
        }
    }
}
