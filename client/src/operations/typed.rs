//! A client that reads and writes typed values.

use std::time::Duration;

use larder_protocol::StoreMode;

use crate::error::{Error, Result};
use crate::exchange::{Item, Stored, Storing};
use crate::operations::client::Client;
use crate::value::{Codec, Encoded};

/// A client whose values go through a [`Codec`]. Made by [`Client::typed`]; cheap to clone.
///
/// Operations that do not depend on values (`delete`, `touch`, …) are on [`Typed::client`].
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
    /// Returns a client of the same cache whose values go through `codec`.
    pub fn typed<C>(&self, codec: C) -> Typed<C> {
        Typed { client: self.clone(), codec }
    }
}

impl<C> Typed<C> {
    /// Returns the client whose values are bytes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the value of `key`; `None` is a miss.
    ///
    /// # Errors
    /// [`Error::Codec`] if the value has another format, and those of [`Client::get`].
    pub async fn get<T>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>>
    where
        C: Codec<T>,
    {
        let key = key.as_ref();
        let Some(item) = self.client.get_item(key).await? else { return Ok(None) };
        self.decode(key, Encoded { value: item.value, flags: item.flags }).map(Some)
    }

    /// Returns the values of `keys`, in their order, like [`Client::get_many`].
    pub async fn get_many<T, K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<T>>>
    where
        C: Codec<T>,
    {
        let items = self.client.get_items(keys).await;
        let decode = |(key, item): (&K, Result<Option<Item>>)| {
            let Some(item) = item? else { return Ok(None) };
            self.decode(key.as_ref(), Encoded { value: item.value, flags: item.flags }).map(Some)
        };
        keys.iter().zip(items).map(decode).collect()
    }

    /// Stores a value, like [`Client::set`].
    ///
    /// # Errors
    /// [`Error::Codec`] if it cannot be encoded, and those of [`Client::set`].
    pub async fn set<T>(&self, key: impl AsRef<[u8]>, value: &T, ttl: Duration) -> Result<()>
    where
        C: Codec<T>,
    {
        self.store(key.as_ref(), value, ttl, StoreMode::Set).await.map(|_| ())
    }

    /// Stores a value if there is no item, like [`Client::add`].
    ///
    /// # Errors
    /// Those of [`Typed::set`].
    pub async fn add<T>(&self, key: impl AsRef<[u8]>, value: &T, ttl: Duration) -> Result<Stored>
    where
        C: Codec<T>,
    {
        self.store(key.as_ref(), value, ttl, StoreMode::Add).await
    }

    /// Stores a value if there is an item, like [`Client::replace`].
    ///
    /// # Errors
    /// Those of [`Typed::set`].
    pub async fn replace<T>(&self, key: impl AsRef<[u8]>, value: &T, ttl: Duration) -> Result<Stored>
    where
        C: Codec<T>,
    {
        self.store(key.as_ref(), value, ttl, StoreMode::Replace).await
    }

    /// Changes a value that other writers may change at the same time: [`Client::update`] with decoded values.
    ///
    /// # Errors
    /// [`Error::Codec`] if the value has another format, and those of [`Client::update`].
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

    async fn store<T>(&self, key: &[u8], value: &T, ttl: Duration, mode: StoreMode) -> Result<Stored>
    where
        C: Codec<T>,
    {
        let encoded = self.encode(key, value)?;
        let storing = Storing { mode, ..Storing::set(&encoded.value, ttl, encoded.flags) };
        self.client.store(key, storing).await
    }

    pub(crate) fn encode<T>(&self, key: &[u8], value: &T) -> Result<Encoded>
    where
        C: Codec<T>,
    {
        match self.codec.encode(value) {
            // Only the client itself writes that note.
            Ok(encoded) if encoded.is_absent() => {
                Err(Error::codec(key, "flag bit 9 is reserved for the client".into()))
            }
            encoded => encoded.map_err(|error| Error::codec(key, error)),
        }
    }

    pub(crate) fn decode<T>(&self, key: &[u8], value: Encoded) -> Result<T>
    where
        C: Codec<T>,
    {
        self.codec.decode(value).map_err(|error| Error::codec(key, error))
    }
}
