//! Reading through the cache: a hit, or the loader, and the cache filled without ever keeping an old value.
//!
//! The invariant: **no value read before a change was committed stays in the cache after the delete that follows the
//! commit.** It holds where
//!
//! 1. a loader's value is stored only under a lease, won before the loader began and on the same node, and only while
//!    the item that the lease stands for is unchanged. A delete removes that item, so that a later store finds nothing
//!    to match, and its value is returned but not cached;
//! 2. writers delete after the commit, and a delete that fails is tried again until it has reached the node;
//! 3. the loader reads from the primary: a replica that lags behind the commit is a datastore of old values.
//!
//! Of all 437,163 orders of three readers and two writers none leaves an old value at rest. The rules that are commonly
//! used instead leave one in this share of theirs (`model`):
//!
//! | a loaded value is stored | delete after the commit | delete before the commit |
//! | --- | --- | --- |
//! | under a lease | 0 | 64.0 % |
//! | by a plain set | 19.8 % | 75.7 % |
//!
//! `lease` has the exchange with a node, `read` what a caller does with its answers, `single_flight` the sharing of one
//! load within the process, `freshness` what age of a hit is known, and `model` tries the interleavings of readers and
//! writers on a real node.

mod freshness;
mod lease;
mod many;
#[cfg(test)]
mod model;
mod options;
mod read;

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::Instrument;

pub use self::freshness::{Freshness, NotFresh};
use self::options::ReadPolicy;
use crate::error::{Error, Result};
use crate::operations::client::Client;
use crate::operations::typed::Typed;
use crate::ttl::YEAR;
use crate::value::{Codec, Encoded, Plain};

/// The error of a loader: any type that converts to a boxed error.
type LoadError = Box<dyn StdError + Send + Sync>;

/// The loader of one caller, and the value that it returned. The value is returned to that caller whatever becomes of
/// it in the cache.
struct OwnLoad<L, T> {
    loader: Option<L>,
    value: Option<Option<T>>,
}

/// Settings of reading through the cache. Made by [`Client::read_through`] or
/// [`Typed::read_through`](crate::Typed::read_through). Keep one for each kind of value and use it for all their keys.
///
/// All callers of a key should use the same settings.
///
/// ```no_run
/// use std::time::Duration;
/// use larder_client::{Client, Json};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct User;
/// # async fn select_user(id: u32) -> std::io::Result<Option<User>> { Ok(None) }
///
/// # async fn example(cache: Client) -> Result<(), larder_client::Error> {
/// let users = cache
///     .typed(Json)
///     .read_through(Duration::from_secs(300))
///     .jitter(0.1)
///     .refresh_early(Duration::from_secs(30))
///     .keep_stale(Duration::from_secs(3600))
///     .remember_absent(Duration::from_secs(10));
///
/// let user: Option<User> = users.get_optional("user:1", || select_user(1)).await?;
/// # let _ = user;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ReadThrough<C = Plain> {
    values: Typed<C>,
    policy: ReadPolicy,
}

impl<C> ReadThrough<C> {
    fn new(values: Typed<C>, ttl: Duration) -> Self {
        let policy = ReadPolicy::new(ttl, values.client().inner.lease);
        ReadThrough { values, policy }
    }

    fn client(&self) -> &Client {
        self.values.client()
    }

    /// Shortens each time to live by a random part of up to `share` (0 to 1), so that values that were cached together
    /// do not expire together.
    ///
    /// # Panics
    /// If `share` is not from 0 to 1.
    pub fn jitter(mut self, share: f64) -> Self {
        assert!((0.0..=1.0).contains(&share), "a share is from 0 to 1, and this is {share}");
        self.policy.jitter = share;
        self
    }

    /// In the last `time` before a value expires, one caller loads it again while the others use it: only that caller
    /// waits for a value that is read often. At most half the time to live, in whole seconds.
    pub fn refresh_early(mut self, time: Duration) -> Self {
        self.policy.early = time;
        self
    }

    /// Keeps a value for `time` after its time to live. In that time, one caller at a time loads it again, and the
    /// others use the old value, as does that caller if its load fails.
    pub fn keep_stale(mut self, time: Duration) -> Self {
        self.policy.keep_stale = time;
        self
    }

    /// Caches for `ttl` that the datastore has no such thing ([`ReadThrough::get_optional`]). A writer that inserts it
    /// deletes the key after the commit, as after every change.
    pub fn remember_absent(mut self, ttl: Duration) -> Self {
        self.policy.absent = Some(ttl);
        self
    }

    /// Waits for a fresh value if the cached one was invalidated ([`Client::invalidate`]). Without this, the stale one
    /// is used while another caller loads, or if the load fails.
    pub fn never_stale(mut self) -> Self {
        self.policy.take_stale = false;
        self
    }

    /// Sets the longest wait for another caller's load; by default the time of a lease
    /// ([`Builder::lease`](crate::Builder::lease)). After it, one caller in each process loads, the others wait for
    /// that one, and its value is returned but not cached.
    pub fn wait_at_most(mut self, time: Duration) -> Self {
        self.policy.wait = time.min(YEAR);
        self
    }

    /// Takes a hit only where `freshness` knows its age to be within the bound, and does with other hits what it says.
    /// Implies [`ReadThrough::never_stale`].
    ///
    /// The near cache keeps such a hit until the bound is reached. All readers of a key should use the same settings.
    pub fn fresh(mut self, freshness: Arc<dyn Freshness>) -> Self {
        self.policy.freshness = Some(freshness);
        self.never_stale()
    }

    /// Reads past the near cache ([`Builder::near_cache`](crate::Builder::near_cache)).
    pub fn without_near_cache(mut self) -> Self {
        self.policy.near = false;
        self
    }

    /// Returns the value of `key`: from the cache, or from `loader`.
    ///
    /// Concurrent callers of one key share one load, in this process and, by a lease in the cache, across processes.
    /// The loader's value is returned even if the cache cannot be reached, or cannot keep it. A cached value that the
    /// codec cannot decode is loaded again.
    ///
    /// # Errors
    /// [`Error::Load`] if the loader fails, and [`Error::InvalidKey`]; never because of the cache or the codec.
    pub async fn get<T, E, F, L>(&self, key: impl AsRef<[u8]>, loader: L) -> Result<T>
    where
        C: Codec<T>,
        L: FnOnce() -> F,
        F: Future<Output = Result<T, E>>,
        E: Into<LoadError>,
    {
        let some = async || loader().await.map(Some);
        match self.get_optional(key.as_ref(), some).await? {
            Some(value) => Ok(value),
            // Only a caller of get_optional caches this note.
            None => Err(Error::Load(Arc::from(LoadError::from("the cache says that there is no such thing")))),
        }
    }

    /// Like [`ReadThrough::get`], for a value that the datastore may not have.
    ///
    /// # Errors
    /// Those of [`ReadThrough::get`].
    pub async fn get_optional<T, E, F, L>(&self, key: impl AsRef<[u8]>, loader: L) -> Result<Option<T>>
    where
        C: Codec<T>,
        L: FnOnce() -> F,
        F: Future<Output = Result<Option<T>, E>>,
        E: Into<LoadError>,
    {
        let key = self.client().key(key.as_ref())?;
        if let Some(value) = self.near(&key) {
            return value.map(|value| self.values.decode(&key, value)).transpose();
        }
        // A cached value that cannot be decoded is deleted and loaded again. The second try may meet another caller's
        // value that cannot be decoded either: then this caller loads for itself alone.
        let mut own = OwnLoad { loader: Some(loader), value: None };
        for _ in 0..2 {
            let load = async || match own.loader.take() {
                Some(loader) => {
                    let value = self.timed(loader()).await?;
                    let encoded = value.as_ref().map(|value| self.values.encode(&key, value)).transpose();
                    own.value = Some(value);
                    encoded
                }
                None => Err(Error::Load(Arc::from(LoadError::from("the loader was called already")))),
            };
            let found = read::read(self.client(), &self.client().inner.loads, &key, &self.policy, load).await;
            if let Some(value) = own.value {
                if let Err(error @ Error::Codec { .. }) = found {
                    tracing::warn!(%error, "a loaded value cannot be encoded, and was not cached");
                }
                return Ok(value);
            }
            let decoded = found.and_then(|value| value.map(|value| self.values.decode(&key, value)).transpose());
            match decoded {
                Err(Error::Codec { error, .. }) if own.loader.is_some() => {
                    tracing::warn!(%error, "a cached value cannot be decoded and is loaded again");
                    self.client().delete(&*key).await.ok();
                }
                decoded => return decoded,
            }
        }
        let loader = own.loader.expect("a caller whose loader was called has returned");
        self.timed(loader()).await
    }

    /// Waits for a loader, and counts the load.
    async fn timed<T, E: Into<LoadError>>(&self, loading: impl Future<Output = Result<T, E>>) -> Result<T> {
        let began = Instant::now();
        let loaded = loading.instrument(tracing::debug_span!("load")).await;
        self.client().inner.metrics.load(began, loaded.is_ok());
        loaded.map_err(|error| Error::Load(Arc::from(error.into())))
    }

    /// Returns the near cache's entry of a key.
    fn near(&self, key: &[u8]) -> Option<Option<Encoded>> {
        let near = self.client().inner.near.as_ref().filter(|_| self.policy.near)?;
        let value = near.get(key)?;
        self.client().inner.metrics.near_hit();
        Some(value.present())
    }
}

impl<C: Clone> Typed<C> {
    /// Reads through the cache; see [`ReadThrough`] for its settings. Values are kept for `ttl`, as in
    /// [`Client::read_through`].
    pub fn read_through(&self, ttl: Duration) -> ReadThrough<C> {
        ReadThrough::new(self.clone(), ttl)
    }
}

impl Client {
    /// Reads through the cache; see [`ReadThrough`] for its settings. Values are kept for `ttl`. Zero keeps them until
    /// they are evicted; a part of a second counts as a whole one.
    pub fn read_through(&self, ttl: Duration) -> ReadThrough {
        self.typed(Plain).read_through(ttl)
    }

    /// Returns the value of `key`: from the cache, or from `loader`, whose value is cached for `ttl`. This is
    /// [`ReadThrough::get`] with the default settings.
    ///
    /// # Errors
    /// [`Error::Load`] if the loader fails, and [`Error::InvalidKey`]; never because of the cache.
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
        E: Into<LoadError>,
    {
        self.read_through(ttl).get(key, async || loader().await.map(Into::into)).await
    }
}
