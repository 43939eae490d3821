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
use super::read::{Found, Turn, find, settle};
use super::{LoadError, ReadThrough};
use crate::error::{Error, Result};
use crate::operations::client::Client;
use crate::single_flight::Loaded;
use crate::value::Codec;

impl<C> ReadThrough<C> {
    /// The values of all `ids`, whose keys are made by `key`: from the cache, or from one call of `loader` with the ids that
    /// nobody has. What the datastore does not have is left out, by the loader and here.
    ///
    /// The loader is called again only for ids that another caller was loading and could not.
    ///
    /// # Errors
    /// As [`ReadThrough::get`]: the first that came up, after all that was loaded has been cached.
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
        let client = self.client();
        let arrived = Instant::now();
        let mut values = HashMap::with_capacity(ids.len());
        let mut wanted: HashMap<Bytes, I> = HashMap::new();
        for id in ids {
            let key = key(id);
            let key = client.key(key.as_ref())?;
            match self.near(&key).map(|near| near.map(|value| self.values.decode(&key, value)).transpose()) {
                Some(Ok(value)) => values.extend(value.map(|value| (id.clone(), value))),
                _ => {
                    wanted.insert(Bytes::copy_from_slice(&key), id.clone());
                }
            }
        }
        let keys: Vec<Bytes> = wanted.keys().cloned().collect();
        let mut lookups = join_all(keys.iter().map(|key| client.look_up(key, &self.terms))).await;
        for (key, lookup) in keys.iter().zip(&mut lookups) {
            if let Ok(Lookup::Hit(value)) = lookup
                && let Some(value) = value.clone().present()
            {
                match self.values.decode(key, value) {
                    Ok(value) => {
                        values.insert(wanted[key].clone(), value);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a cached value cannot be decoded and is loaded anew");
                        client.delete(key).await.ok();
                        *lookup = client.look_up(key, &self.terms).await;
                    }
                }
            }
        }
        let flights = &client.inner.loads;
        let (mut turns, mut others, mut first_error) = (Vec::new(), Vec::new(), None);
        for (key, lookup) in keys.iter().zip(lookups) {
            if matches!(&lookup, Ok(Lookup::Hit(_))) {
                continue;
            }
            // Waiting comes after our own loading: two callers that wait for each other's keys would do so in vain.
            match settle(client, flights, key, &self.terms, lookup, arrived).now_or_never() {
                Some(Found::Turn(turn)) => turns.push((key, turn)),
                Some(Found::Value(loaded)) => match self.decoded(key, loaded) {
                    Ok(value) => values.extend(value.map(|value| (wanted[key].clone(), value))),
                    Err(error) => first_error = first_error.or(Some(error)),
                },
                None => others.push(key),
            }
        }
        self.take_turns(turns, &wanted, &mut loader, &mut values, &mut first_error).await;
        let finding = others.into_iter().map(async |key| (key, find(client, flights, key, &self.terms).await));
        let mut finding: FuturesUnordered<_> = finding.collect();
        while let Some(found) = finding.next().await {
            // Whoever waits for what is ours to load now shall not wait for what we wait for.
            let mut turns = Vec::new();
            let mut next = Some(found);
            while let Some((key, found)) = next {
                match found {
                    Found::Turn(turn) => turns.push((key, turn)),
                    Found::Value(loaded) => match self.decoded(key, loaded) {
                        Ok(value) => values.extend(value.map(|value| (wanted[key].clone(), value))),
                        Err(error) => first_error = first_error.or(Some(error)),
                    },
                }
                next = finding.next().now_or_never().flatten();
            }
            self.take_turns(turns, &wanted, &mut loader, &mut values, &mut first_error).await;
        }
        match first_error {
            None => Ok(values),
            Some(error) => Err(error),
        }
    }

    fn decoded<T>(&self, key: &[u8], loaded: Loaded) -> Result<Option<T>>
    where
        C: Codec<T>,
    {
        loaded?.map(|value| self.values.decode(key, value)).transpose()
    }

    /// Loads what it is this caller's turn to load.
    async fn take_turns<I, T, E, F>(
        &self,
        turns: Vec<(&Bytes, Turn<'_, Client>)>,
        wanted: &HashMap<Bytes, I>,
        loader: &mut impl FnMut(Vec<I>) -> F,
        values: &mut HashMap<I, T>,
        first_error: &mut Option<Error>,
    ) where
        I: Clone + Eq + Hash,
        C: Codec<T>,
        F: Future<Output = Result<HashMap<I, T>, E>>,
        E: Into<LoadError>,
    {
        if turns.is_empty() {
            return;
        }
        let began = Instant::now();
        let mut loaded = self.timed(loader(turns.iter().map(|(key, _)| wanted[*key].clone()).collect())).await;
        let mut finishing = Vec::with_capacity(turns.len());
        for (key, turn) in turns {
            let id = &wanted[key];
            let value = match &mut loaded {
                Ok(loaded) => loaded.remove(id).map(|value| {
                    let encoded = self.values.encode(key, &value);
                    values.insert(id.clone(), value);
                    encoded
                }),
                Err(error) => Some(Err(error.clone())),
            };
            finishing.push(async move { (key, turn.finish(&self.terms, value.transpose(), began).await) });
        }
        for (key, answer) in join_all(finishing).await {
            let id = &wanted[key];
            match self.decoded(key, answer) {
                // What the loader returned is there already; this is an old value that is taken instead.
                Ok(Some(value)) => {
                    values.entry(id.clone()).or_insert(value);
                }
                Ok(None) => {}
                Err(error) => *first_error = first_error.take().or(Some(error)),
            }
        }
    }
}

impl Client {
    /// The values of all `ids`: from the cache, or from one call of `loader` with the ids that nobody has.
    /// [`ReadThrough::get_many`] with the usual settings.
    ///
    /// # Errors
    /// As [`ReadThrough::get_many`].
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
