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
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use larder_protocol::meta::Code;
use larder_protocol::push_number;
use tokio::sync::watch;

use crate::client::Client;
use crate::error::{Error, Result};

/// What a load in this process came to; `None` while it is under way.
type Shared = Option<Result<Bytes>>;

/// Loads under way in this process, by key.
#[derive(Default)]
pub(crate) struct Loads(DashMap<Bytes, watch::Receiver<Shared>>);

/// The one caller that loads; the others learn when it is done, or when it was dropped on the way.
struct Leader<'a> {
    loads: &'a Loads,
    key: Bytes,
    publish: watch::Sender<Shared>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.loads.0.remove(&self.key);
    }
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
        let key = Bytes::copy_from_slice(key.as_ref());
        let leader = loop {
            let mut result = match self.inner.loads.0.entry(key.clone()) {
                Entry::Vacant(place) => {
                    let (publish, result) = watch::channel(None);
                    place.insert(result);
                    break Leader { loads: &self.inner.loads, key: key.clone(), publish };
                }
                Entry::Occupied(place) => place.get().clone(),
            };
            // Fails where the leader was dropped before it was done: somebody else leads then.
            if let Ok(result) = result.wait_for(Option::is_some).await
                && let Some(result) = &*result
            {
                return result.clone();
            }
        };
        let result = self.lead(&key, ttl, loader).await;
        leader.publish.send_replace(Some(result.clone()));
        result
    }

    async fn lead<V, E, F, L>(&self, key: &[u8], ttl: Duration, loader: L) -> Result<Bytes>
    where
        L: FnOnce() -> F,
        F: Future<Output = Result<V, E>>,
        V: Into<Bytes>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let deadline = Instant::now() + self.inner.lease;
        let mut pause = FIRST_PAUSE;
        let lease = loop {
            match self.look_up(key).await {
                Ok(Lookup::Hit(value)) => return Ok(value),
                Ok(Lookup::Won(cas)) => break Some(cas),
                Ok(Lookup::Wait) if Instant::now() < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Ok(Lookup::Wait) => break None,
                Err(error @ Error::InvalidKey(_)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "reading without the cache");
                    break None;
                }
            }
        };
        let loaded = loader().await;
        match loaded {
            Ok(value) => {
                let value = value.into();
                if let Some(cas) = lease {
                    let mut flags = Vec::with_capacity(24);
                    flags.extend_from_slice(b" C");
                    push_number(&mut flags, cas);
                    // Changed or gone: an invalidation came between, and the value may be old already.
                    if let Err(error) = self.store(key, &value, ttl, &flags).await {
                        tracing::debug!(%error, "a loaded value was not cached");
                    }
                }
                Ok(value)
            }
            Err(error) => {
                if let Some(cas) = lease {
                    self.give_back(key, cas).await;
                }
                Err(Error::Load(Arc::from(error.into())))
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
