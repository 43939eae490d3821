//! A client that reads and writes typed values.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::operations::client::{Client, Stored};
use crate::read_through::ReadThrough;
use crate::value::{Codec, Encoded};

/// A client whose values go through a [`Codec`]. Made by [`Client::typed`]; cheap to clone.
///
/// What does not depend on values (`delete`, `touch`, …) is on [`Typed::client`].
///
/// ```no_run
/// use std::time::Duration;
/// use larder_client::{Client, Compressed, Json};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct User { name: String }
///
/// # async fn example(cache: Client) -> Result<(), larder_client::Error> {
/// let users = cache.typed(Compressed::new(Json));
/// users.set("user:1", &User { name: "Ada".into() }, Duration::from_secs(300)).await?;
/// let user: Option<User> = users.get("user:1").await?;
/// # let _ = user;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Typed<C> {
    client: Client,
    codec: C,
}

impl Client {
    /// The same cache with values of other types than bytes.
    pub fn typed<C>(&self, codec: C) -> Typed<C> {
        Typed { client: self.clone(), codec }
    }
}

impl<C> Typed<C> {
    /// The client of bytes behind this.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The value of `key`; `None` is a miss.
    ///
    /// # Errors
    /// [`Error::Codec`] where there is a value of another format, and those of [`Client::get`].
    pub async fn get<T>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>>
    where
        C: Codec<T>,
    {
        let key = key.as_ref();
        let Some(item) = self.client.get_item(key).await? else { return Ok(None) };
        self.decode(key, Encoded { value: item.value, flags: item.flags }).map(Some)
    }

    /// The values of `keys`, in their order, as [`Client::get_many`].
    pub async fn get_many<T, K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<T>>>
    where
        C: Codec<T>,
    {
        let items = self.client.get_items(keys).await;
        let decode = |(key, item): (&K, Result<Option<crate::Item>>)| {
            let Some(item) = item? else { return Ok(None) };
            self.decode(key.as_ref(), Encoded { value: item.value, flags: item.flags }).map(Some)
        };
        keys.iter().zip(items).map(decode).collect()
    }

    /// Stores a value, as [`Client::set`].
    ///
    /// # Errors
    /// [`Error::Codec`] where it cannot be encoded, and those of [`Client::set`].
    pub async fn set<T>(&self, key: impl AsRef<[u8]>, value: &T, ttl: Duration) -> Result<()>
    where
        C: Codec<T>,
    {
        self.store(key.as_ref(), value, ttl, b"").await.map(|_| ())
    }

    /// Stores a value where there is none, as [`Client::add`].
    ///
    /// # Errors
    /// As [`Typed::set`].
    pub async fn add<T>(&self, key: impl AsRef<[u8]>, value: &T, ttl: Duration) -> Result<Stored>
    where
        C: Codec<T>,
    {
        self.store(key.as_ref(), value, ttl, b" ME").await
    }

    /// Stores a value where there is one already, as [`Client::replace`].
    ///
    /// # Errors
    /// As [`Typed::set`].
    pub async fn replace<T>(&self, key: impl AsRef<[u8]>, value: &T, ttl: Duration) -> Result<Stored>
    where
        C: Codec<T>,
    {
        self.store(key.as_ref(), value, ttl, b" MR").await
    }

    /// Changes a value, however many others do so too: [`Client::update`] with decoded values.
    ///
    /// # Errors
    /// [`Error::Codec`] where there is a value of another format, and those of [`Client::update`].
    pub async fn update<T>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: Duration,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<T>>
    where
        C: Codec<T>,
    {
        let key = key.as_ref();
        let mut result = None;
        let encoded = |current: Option<Encoded>| {
            let current = current.map(|value| self.decode(key, value)).transpose()?;
            result = change(current);
            result.as_ref().map(|value| self.encode(key, value)).transpose()
        };
        self.client.update_encoded(key, ttl, encoded).await?;
        Ok(result)
    }

    /// Reads through the cache; see [`ReadThrough`] for its settings.
    pub fn read_through(&self, ttl: Duration) -> ReadThrough<C>
    where
        C: Clone,
    {
        ReadThrough::new(self.clone(), ttl)
    }

    async fn store<T>(&self, key: &[u8], value: &T, ttl: Duration, mode: &[u8]) -> Result<Stored>
    where
        C: Codec<T>,
    {
        let encoded = self.encode(key, value)?;
        self.client.store(key, &encoded.value, ttl, encoded.flags, mode).await
    }

    pub(crate) fn encode<T>(&self, key: &[u8], value: &T) -> Result<Encoded>
    where
        C: Codec<T>,
    {
        self.codec.encode(value).map_err(|error| Error::codec(key, error))
    }

    pub(crate) fn decode<T>(&self, key: &[u8], value: Encoded) -> Result<T>
    where
        C: Codec<T>,
    {
        self.codec.decode(value).map_err(|error| Error::codec(key, error))
    }
}
