//! Keys that can all be invalidated at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::exchange::Stored;
use crate::operations::client::Client;
use crate::ttl::YEAR;

/// A set of keys that is invalidated in one step, however many they are. Made by [`Client::namespace`].
///
/// Each full key contains the namespace's *generation*, a random number in the cache under `<name>:generation`.
/// Without it the old keys cannot be named any more; their values are evicted in time.
///
/// - [`Namespace::invalidate`] deletes the generation, and the next caller creates a new one.
/// - If a node evicts the generation, or loses it in a restart, that is an invalidation too: everything is loaded
///   again,   and no old value comes back, because a generation is never used twice.
/// - The generation is read once in [`Namespace::remember`] (1 s by default), not for each key. For that time after an
///   invalidation, another process may still use the old keys.
///
/// ```no_run
/// # async fn example(cache: larder_client::Client) -> Result<(), larder_client::Error> {
/// let catalogue = cache.namespace("catalogue");
/// let price = cache.get(catalogue.key("price:1").await?).await?;
/// // A new catalogue was committed.
/// catalogue.invalidate().await?;
/// # let _ = price;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Namespace {
    client: Client,
    name: String,
    remember: Duration,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The generation, and the time until which it need not be read again.
    generation: Option<(String, Instant)>,
    /// Number of invalidations by this process.
    invalidations: u64,
}

/// Tries to read or store a generation, and the pause between two.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Returns the generation if `value` is one: 16 hexadecimal digits. Any client can write to the cache.
fn valid_generation(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    (text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

impl Client {
    /// Returns a set of keys that can be invalidated at once.
    pub fn namespace(&self, name: impl Into<String>) -> Namespace {
        Namespace { client: self.clone(), name: name.into(), remember: Duration::from_secs(1), known: Arc::default() }
    }
}

impl Namespace {
    /// Sets the time for which the generation is not read again, which is also the time for which this process may use
    /// old values after an invalidation by another one.
    pub fn remember(mut self, time: Duration) -> Self {
        self.remember = time.min(YEAR);
        self
    }

    /// Returns the full key of `key`, for any operation of the client. Call this again for each operation.
    ///
    /// # Errors
    /// An error means that the node that owns the generation could not be asked.
    pub async fn key(&self, key: impl AsRef<str>) -> Result<String> {
        let generation = self.generation().await?;
        Ok(format!("{}:{generation}:{}", self.name, key.as_ref()))
    }

    /// Invalidates all keys. Call it after the commit, like [`Client::delete`].
    ///
    /// # Errors
    /// An error means that the node that owns the generation could not be reached: the old keys stay in use. Try again.
    pub async fn invalidate(&self) -> Result<()> {
        let deleted = self.client.delete(self.generation_key()).await;
        let mut known = self.known.lock();
        known.generation = None;
        known.invalidations += 1;
        deleted.map(|_| ())
    }

    fn generation_key(&self) -> String {
        format!("{}:generation", self.name)
    }

    /// Returns the generation in the cache. If there is none, or something else is in its place, a new one is stored.
    async fn read_or_create(&self, key: &str) -> Result<String> {
        for _ in 0..TRIES {
            let found = self.client.get_item(key).await?;
            if let Some(generation) = found.as_ref().and_then(|item| valid_generation(&item.value)) {
                return Ok(generation);
            }
            let new = format!("{:016x}", rand::random::<u64>());
            let stored = match found {
                None => self.client.add(key, &new, Duration::ZERO).await?,
                Some(item) => {
                    tracing::warn!(key, "the generation of a namespace is not one, and is replaced");
                    if item.cas == 0 {
                        // The server has no CAS uniques. A generation that another caller stores meanwhile goes too,
                        // which is one more invalidation.
                        self.client.delete(key).await?;
                        continue;
                    }
                    self.client.cas(key, &new, Duration::ZERO, item.cas).await?
                }
            };
            // Otherwise another caller was faster, and its generation counts.
            if stored == Stored::Yes {
                return Ok(new);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::Contended { key: key.to_owned(), tries: TRIES })
    }

    async fn generation(&self) -> Result<String> {
        let asked = Instant::now();
        let invalidations = {
            let known = self.known.lock();
            if let Some((generation, until)) = &known.generation
                && asked < *until
            {
                return Ok(generation.clone());
            }
            known.invalidations
        };
        let key = self.generation_key();
        let generation = self.read_or_create(&key).await?;
        let mut known = self.known.lock();
        if known.invalidations == invalidations {
            known.generation = Some((generation.clone(), asked + self.remember));
        }
        Ok(generation)
    }
}
