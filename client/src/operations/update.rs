//! Changing an item that others change too.

use std::time::Duration;

use bytes::Bytes;
use larder_protocol::StoreMode;
use rand::RngExt;

use crate::error::{Error, Result};
use crate::exchange::{Stored, Storing, Verb, call_node, give_back, store_at, value_cas_and_flags};
use crate::operations::client::Client;
use crate::value::Encoded;

/// Tries of one update before it fails.
const TRIES: u32 = 100;

/// Number of the last try that is made without a pause. Later ones wait a random time, so that the writers spread.
const AT_ONCE: u32 = 3;

impl Client {
    /// Changes a value that other writers may change at the same time. The value is read, and the result of `change` is
    /// stored if the item is still the same; otherwise the update starts again with the new value. `change` gets `None`
    /// if there is no item, and returns `None` to change nothing. Returns the last result of `change`.
    ///
    /// The item keeps its flags; a new item has none.
    ///
    /// # Errors
    /// [`Error::Contended`] after 100 tries, and [`Error::NoCas`] if the server gives no CAS uniques.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use bytes::Bytes;
    /// # async fn example(cache: larder_client::Client) -> Result<(), larder_client::Error> {
    /// let add_line = |log: Option<Bytes>| Some([&log.unwrap_or_default()[..], b"another line\n"].concat().into());
    /// cache.update("log", Duration::from_secs(3600), add_line).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update(
        &self,
        key: impl AsRef<[u8]>,
        ttl: Duration,
        mut change: impl FnMut(Option<Bytes>) -> Option<Bytes>,
    ) -> Result<Option<Bytes>> {
        let mut result = None;
        self.update_encoded(key.as_ref(), ttl, |current| {
            let flags = current.as_ref().map_or(0, |current| current.flags);
            result = change(current.map(|current| current.value));
            Ok(result.clone().map(|value| Encoded { value, flags }))
        })
        .await?;
        Ok(result)
    }

    pub(crate) async fn update_encoded(
        &self,
        key: &[u8],
        ttl: Duration,
        mut change: impl FnMut(Option<Encoded>) -> Result<Option<Encoded>>,
    ) -> Result<()> {
        let key = self.key(key)?;
        for tries in 0..TRIES {
            if tries > AT_ONCE {
                let pause = rand::rng().random_range(0..1 << tries.min(14));
                tokio::time::sleep(Duration::from_micros(pause)).await;
            }
            // Both steps on one node: CAS uniques of another mean nothing.
            let to = self.writer(&key);
            let reply = call_node(&to.node, Verb::Get, &key, value_cas_and_flags).await?;
            // The placeholder of a load under way has a CAS unique too: what is stored over it overtakes that load.
            let found = reply.value.is_some().then_some(reply.flags.cas);
            if found == Some(0) {
                return Err(Error::NoCas { node: to.node.address().clone() });
            }
            let won = reply.flags.won;
            let current = reply.item().map(|item| Encoded { value: item.value, flags: item.flags });
            let changed = change(current);
            let Ok(Some(new)) = changed else {
                if won {
                    give_back(&to.node, &key, found, true).await;
                }
                return changed.map(|_| ());
            };
            let mode = if found.is_some() { StoreMode::Set } else { StoreMode::Add };
            let storing = Storing { mode, cas: found, ..Storing::set(&new.value, ttl, new.flags) };
            if store_at(&to.node, to.ttl_max, &key, &storing).await? == Stored::Yes {
                return Ok(());
            }
        }
        Err(Error::Contended { key: String::from_utf8_lossy(&key).into_owned(), tries: TRIES })
    }
}
