//! Keys that can all be invalidated at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Result;
use crate::operations::client::{Client, Stored, YEAR};

/// A set of keys that is invalidated in one step, however many they are. Made by [`Client::namespace`].
///
/// Each full key carries the namespace's *generation*, a random number that is kept in the cache under `<name>:generation`.
/// Without it the old keys cannot be named any more; what they hold is evicted in time.
///
/// - [`Namespace::invalidate`] deletes the generation, and the next caller makes a new one.
/// - If a node evicts the generation, or loses it in a restart, that is just such an invalidation: all is loaded anew, and no
///   old value comes back, since a generation is never used twice.
/// - The generation is asked for once in [`Namespace::remember`] (a second unless told), not for each key. For so long after
///   an invalidation another process may still use the old keys.
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
    /// The generation, and until when it need not be asked for.
    generation: Option<(String, Instant)>,
    /// By this process, so far.
    invalidations: u64,
}

impl Client {
    /// A set of keys that can be invalidated at once.
    pub fn namespace(&self, name: impl Into<String>) -> Namespace {
        Namespace { client: self.clone(), name: name.into(), remember: Duration::from_secs(1), known: Arc::default() }
    }
}

impl Namespace {
    /// How long to go without asking for the generation, and so how long after an invalidation by another process this one may
    /// use old values.
    pub fn remember(mut self, time: Duration) -> Self {
        self.remember = time.min(YEAR);
        self
    }

    /// The full key of `key` now, for any operation of the client. Ask for it anew for each operation.
    ///
    /// # Errors
    /// Where the node that owns the generation cannot be asked.
    pub async fn key(&self, key: impl AsRef<str>) -> Result<String> {
        let generation = self.generation().await?;
        Ok(format!("{}:{generation}:{}", self.name, key.as_ref()))
    }

    /// Puts all keys out of reach. After the commit, as [`Client::delete`].
    ///
    /// # Errors
    /// Where the node that owns the generation cannot be reached: the old keys stay in use. Try again.
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
        let generation = loop {
            if let Some(generation) = self.client.get(&key).await? {
                break String::from_utf8_lossy(&generation).into_owned();
            }
            let new = format!("{:016x}", rand::random::<u64>());
            // Where another caller's came first, that one counts.
            if self.client.add(&key, &new, Duration::ZERO).await? == Stored::Yes {
                break new;
            }
        };
        let mut known = self.known.lock();
        if known.invalidations == invalidations {
            known.generation = Some((generation.clone(), asked + self.remember));
        }
        Ok(generation)
    }
}
