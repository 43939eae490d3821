//! The client for programs without an async runtime.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! # fn example() -> Result<(), larder_client::Error> {
//! let cache = larder_client::Client::builder().server("127.0.0.1:11211").build_blocking()?;
//! let user = cache.get_or_load("user:1", Duration::from_secs(300), || std::fs::read("users/1.json"))?;
//! # let _ = user;
//! # Ok(())
//! # }
//! ```

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::error::{Error, Result};
use crate::exchange::{Item, Stored};
use crate::{Builder, Client as AsyncClient};

/// A memcache client whose calls block. Clones share connections and a thread that drives them; keep one for the
/// program.
///
/// It has the common operations of [`Client`](crate::Client), which document them; [`Client::wait`] runs any other.
///
/// # Panics
/// Its methods panic within an async runtime, whose threads must not block: use [`Client`](crate::Client) there.
#[derive(Debug, Clone)]
pub struct Client {
    client: AsyncClient,
    runtime: Arc<Background>,
}

/// The runtime; dropping it does not wait.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Builder {
    /// As [`Builder::build`], for programs without an async runtime.
    ///
    /// # Errors
    /// As [`Builder::build`], and [`Error::Runtime`] where no thread can be started.
    pub fn build_blocking(self) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("larder-client")
            .enable_all()
            .build()
            .map_err(|error| Error::Runtime(Arc::new(error)))?;
        let client = {
            let _within = runtime.enter();
            self.build()?
        };
        Ok(Client { client, runtime: Arc::new(Background(Some(runtime))) })
    }
}

/// Methods that are the async ones, waited for.
macro_rules! blocking {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(
            #[doc = concat!("[`", stringify!($name), "`](crate::Client::", stringify!($name), "), blocking.")]
            ///
            /// # Errors
            /// As there.
            pub fn $name(&self, $($argument: $type),*) -> Result<$result> {
                self.wait(|client| async move { client.$name($($argument),*).await })
            }
        )*
    };
}

impl Client {
    blocking! {
        get(key: impl AsRef<[u8]>) -> Option<Bytes>;
        get_item(key: impl AsRef<[u8]>) -> Option<Item>;
        get_and_touch(key: impl AsRef<[u8]>, ttl: Duration) -> Option<Bytes>;
        set(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> ();
        add(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Stored;
        replace(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Stored;
        append(key: impl AsRef<[u8]>, tail: impl AsRef<[u8]>) -> Stored;
        prepend(key: impl AsRef<[u8]>, head: impl AsRef<[u8]>) -> Stored;
        cas(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration, cas: u64) -> Stored;
        delete(key: impl AsRef<[u8]>) -> bool;
        invalidate(key: impl AsRef<[u8]>, stale_for: Duration) -> bool;
        touch(key: impl AsRef<[u8]>, ttl: Duration) -> bool;
        incr(key: impl AsRef<[u8]>, delta: u64) -> Option<u64>;
        decr(key: impl AsRef<[u8]>, delta: u64) -> Option<u64>;
        update(
            key: impl AsRef<[u8]>, ttl: Duration, change: impl FnMut(Option<Bytes>) -> Option<Bytes>
        ) -> Option<Bytes>;
    }

    /// [`get_many`](crate::Client::get_many), blocking.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Bytes>>> {
        self.wait(|client| async move { client.get_many(keys).await })
    }

    /// [`set_many`](crate::Client::set_many), blocking.
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, items: &[(K, V)], ttl: Duration) -> Vec<Result<()>> {
        self.wait(|client| async move { client.set_many(items, ttl).await })
    }

    /// [`delete_many`](crate::Client::delete_many), blocking.
    pub fn delete_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<bool>> {
        self.wait(|client| async move { client.delete_many(keys).await })
    }

    /// [`get_or_load`](crate::Client::get_or_load), blocking; the loader runs on this thread.
    ///
    /// # Errors
    /// As there.
    pub fn get_or_load<V, E>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: Duration,
        loader: impl FnOnce() -> Result<V, E>,
    ) -> Result<Bytes>
    where
        V: Into<Bytes>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.wait(|client| async move { client.get_or_load(key, ttl, async || loader()).await })
    }

    /// Runs any other operation of the async client, and waits for it.
    ///
    /// ```no_run
    /// # fn example(cache: larder_client::blocking::Client) -> Result<(), larder_client::Error> {
    /// let reply = cache.wait(|cache| async move { cache.meta_get("k").hit_before().send().await })?;
    /// # let _ = reply;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait<F: Future>(&self, operation: impl FnOnce(AsyncClient) -> F) -> F::Output {
        let runtime = self.runtime.0.as_ref().expect("it is there until this is dropped");
        runtime.block_on(operation(self.client.clone()))
    }
}
