//! Reading many keys through the cache, with one call of the loader for all that are missing.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::lease::{Cache, Lookup};
use super::read::{Found, Turn, find, find_from};
use super::{LoadError, ReadThrough};
use crate::error::{Error, Result};
use crate::operations::client::Client;
use crate::single_flight::Loaded;
use crate::value::{Codec, Encoded};

impl<C> ReadThrough<C> {
    /// Returns the values of all `ids`, whose keys `key` makes: from the cache, or from one call of `loader` with the
    /// ids that are not cached. Ids that the datastore does not have are missing from the result, of the loader and of
    /// this.
    ///
    /// The loader is called again only for ids that another caller could not load, or not in this codec's format.
    ///
    /// # Errors
    /// Those of [`ReadThrough::get`]: the first error, after all loaded values have been cached.
    ///
    /// ```no_run
    /// # use std::collections::HashMap;
    /// # use std::time::Duration;
    /// # async fn select(ids: Vec<u32>) -> std::io::Result<HashMap<u32, String>> { Ok(HashMap::new()) }
    /// # async fn example(cache: larder_client::Client) -> Result<(), larder_client::Error> {
    /// let names = cache.read_through(Duration::from_secs(300));
    /// let found: HashMap<u32, String> = names.get_many(&[1, 2, 3], |id| format!("name:{id}"), select).await?;
    /// # let _ = found;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many<I, K, T, E, F, L>(
        &self,
        ids: &[I],
        key: impl Fn(&I) -> K,
        mut loader: L,
    ) -> Result<HashMap<I, T>>
    where
        I: Clone + Eq + Hash,
        K: AsRef<[u8]>,
        C: Codec<T>,
        L: FnMut(Vec<I>) -> F,
        F: Future<Output = Result<HashMap<I, T>, E>>,
        E: Into<LoadError>,
    {
        let arrived = Instant::now();
        let mut batch = Batch {
            through: self,
            wanted: HashMap::new(),
            values: HashMap::with_capacity(ids.len()),
            unreadable: Vec::new(),
            first_error: None,
        };
        for id in ids {
            let key = key(id);
            batch.want(id, &self.client().key(key.as_ref())?);
        }
        let keys: Vec<Bytes> = batch.wanted.keys().cloned().collect();
        let lookups = batch.look_up(&keys).await;
        let flights = &self.client().inner.loads;
        let (mut turns, mut others) = (Vec::new(), Vec::new());
        for (key, lookup) in keys.iter().zip(lookups) {
            if matches!(&lookup, Ok(Lookup::Hit(_))) {
                continue;
            }
            // Waiting comes after the own load: two callers that wait for each other's keys would both time out.
            match find_from(self.client(), flights, key, &self.policy, lookup, arrived).now_or_never() {
                Some(Found::Turn(turn)) => turns.push((key, turn)),
                Some(Found::Value(loaded)) => batch.take(key, loaded),
                None => others.push(key),
            }
        }
        batch.load(turns, &mut loader).await;
        batch.wait_for(&others, &mut loader).await;
        batch.load_unreadable(&mut loader).await;
        match batch.first_error {
            None => Ok(batch.values),
            Some(error) => Err(error),
        }
    }
}

/// One call for many keys.
struct Batch<'r, C, I, T> {
    through: &'r ReadThrough<C>,
    /// The ids whose values are not in the near cache, by key.
    wanted: HashMap<Bytes, I>,
    values: HashMap<I, T>,
    /// Keys whose values come from other callers and cannot be decoded.
    unreadable: Vec<Bytes>,
    first_error: Option<Error>,
}

impl<C, I, T> Batch<'_, C, I, T>
where
    C: Codec<T>,
    I: Clone + Eq + Hash,
{
    /// Takes the value of an id from the near cache, or remembers the id.
    fn want(&mut self, id: &I, key: &[u8]) {
        let near =
            self.through.near(key).map(|near| near.map(|value| self.through.values.decode(key, value)).transpose());
        match near {
            Some(Ok(value)) => self.values.extend(value.map(|value| (id.clone(), value))),
            _ => _ = self.wanted.insert(Bytes::copy_from_slice(key), id.clone()),
        }
    }

    /// Looks all keys up and decodes the hits. Returns the look-ups, in the order of `keys`.
    async fn look_up(&mut self, keys: &[Bytes]) -> Vec<Result<Lookup>> {
        let (client, policy) = (self.through.client(), &self.through.policy);
        let mut lookups = join_all(keys.iter().map(|key| client.look_up(key, policy))).await;
        for (key, lookup) in keys.iter().zip(&mut lookups) {
            if let Ok(Lookup::Hit(value)) = lookup
                && let Some(value) = value.clone().present()
            {
                match self.through.values.decode(key, value) {
                    Ok(value) => _ = self.values.insert(self.wanted[key].clone(), value),
                    Err(error) => {
                        tracing::warn!(%error, "a cached value cannot be decoded and is loaded again");
                        client.delete(key).await.ok();
                        *lookup = match client.look_up(key, policy).await {
                            // Another caller of the other format was faster.
                            Ok(Lookup::Hit(_)) => Ok(Lookup::NoLease),
                            lookup => lookup,
                        };
                    }
                }
            }
        }
        lookups
    }

    /// Takes a value that another caller has loaded or cached.
    fn take(&mut self, key: &Bytes, loaded: Loaded) {
        let decode = |value: Encoded| self.through.values.decode(key, value);
        match loaded.and_then(|value| value.map(decode).transpose()) {
            Ok(value) => self.values.extend(value.map(|value| (self.wanted[key].clone(), value))),
            Err(Error::Codec { .. }) => self.unreadable.push(key.clone()),
            Err(error) => self.first_error = self.first_error.take().or(Some(error)),
        }
    }

    /// Loads the values that it is this caller's turn to load.
    async fn load<E, F>(&mut self, turns: Vec<(&Bytes, Turn<'_, Client>)>, loader: &mut impl FnMut(Vec<I>) -> F)
    where
        F: Future<Output = Result<HashMap<I, T>, E>>,
        E: Into<LoadError>,
    {
        if turns.is_empty() {
            return;
        }
        let through = self.through;
        let began = Instant::now();
        let ids = turns.iter().map(|(key, _)| self.wanted[*key].clone()).collect();
        let mut loaded = through.timed(loader(ids)).await;
        let mut finishing = Vec::with_capacity(turns.len());
        for (key, turn) in turns {
            let id = &self.wanted[key];
            let value = match &mut loaded {
                Ok(loaded) => loaded.remove(id).map(|value| {
                    let encoded = through.values.encode(key, &value);
                    self.values.insert(id.clone(), value);
                    encoded
                }),
                Err(error) => Some(Err(error.clone())),
            };
            finishing.push(async move { (key, turn.finish(&through.policy, value.transpose(), began).await) });
        }
        for (key, answer) in join_all(finishing).await {
            let id = &self.wanted[key];
            // The loader's own value is returned whatever the cache can keep.
            if self.values.contains_key(id) {
                if let Err(error) = answer {
                    tracing::warn!(%error, "a loaded value was not cached");
                }
                continue;
            }
            self.take(key, answer);
        }
    }

    /// Waits for the values that other callers load, and loads those that they could not.
    async fn wait_for<E, F>(&mut self, keys: &[&Bytes], loader: &mut impl FnMut(Vec<I>) -> F)
    where
        F: Future<Output = Result<HashMap<I, T>, E>>,
        E: Into<LoadError>,
    {
        let (client, policy) = (self.through.client(), &self.through.policy);
        let finding = keys.iter().map(async |&key| (key, find(client, &client.inner.loads, key, policy).await));
        let mut finding: FuturesUnordered<_> = finding.collect();
        while let Some(found) = finding.next().await {
            // Load our keys before waiting again: another caller may be waiting for them, and two callers waiting on
            // each other would both time out.
            let mut turns = Vec::new();
            let mut next = Some(found);
            while let Some((key, found)) = next {
                match found {
                    Found::Turn(turn) => turns.push((key, turn)),
                    Found::Value(loaded) => self.take(key, loaded),
                }
                next = finding.next().now_or_never().flatten();
            }
            self.load(turns, loader).await;
        }
    }

    /// Loads, for this caller alone, the values of other callers that cannot be decoded.
    async fn load_unreadable<E, F>(&mut self, loader: &mut impl FnMut(Vec<I>) -> F)
    where
        F: Future<Output = Result<HashMap<I, T>, E>>,
        E: Into<LoadError>,
    {
        if self.unreadable.is_empty() {
            return;
        }
        let ids = self.unreadable.drain(..).map(|key| self.wanted[&key].clone()).collect();
        match self.through.timed(loader(ids)).await {
            Ok(loaded) => self.values.extend(loaded),
            Err(error) => self.first_error = self.first_error.take().or(Some(error)),
        }
    }
}

impl Client {
    /// Returns the values of all `ids`: from the cache, or from one call of `loader` with the ids that are not cached.
    /// This is [`ReadThrough::get_many`] with the default settings.
    ///
    /// # Errors
    /// Those of [`ReadThrough::get_many`].
    pub async fn get_or_load_many<I, K, E, F, L>(
        &self,
        ids: &[I],
        key: impl Fn(&I) -> K,
        ttl: Duration,
        loader: L,
    ) -> Result<HashMap<I, Bytes>>
    where
        I: Clone + Eq + Hash,
        K: AsRef<[u8]>,
        L: FnMut(Vec<I>) -> F,
        F: Future<Output = Result<HashMap<I, Bytes>, E>>,
        E: Into<LoadError>,
    {
        self.read_through(ttl).get_many(ids, key, loader).await
    }
}
