//! Changing an item that others change too.

use std::time::Duration;

use bytes::Bytes;
use larder_protocol::push_number;
use rand::Rng;

use crate::error::{Error, Result};
use crate::operations::client::{Client, Stored, call_node, give_back, store_at};
use crate::value::Encoded;

/// Others may come in between so often before a change is given up.
const TRIES: u32 = 100;

/// After so many tries each waits a little, at random, so that not all meet again.
const AT_ONCE: u32 = 3;

impl Client {
    /// Changes a value, however many others do so too: reads it, stores what `change` makes of it if nobody has changed it
    /// since, and else begins anew with the new value. `change` gets `None` where there is no item, and returns `None` to leave
    /// all as it is. Returns what `change` returned last.
    ///
    /// Flags are kept; a new item has none.
    ///
    /// # Errors
    /// [`Error::Contended`] after 100 tries.
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
        let _changing = self.changing(&key);
        for tries in 0..TRIES {
            if tries > AT_ONCE {
                let pause = rand::rng().random_range(0..1 << tries.min(14));
                tokio::time::sleep(Duration::from_micros(pause)).await;
            }
            // Both steps on one node: CAS uniques of another mean nothing.
            let (node, ttl_max) = self.inner.topology.load().node_of(&key);
            let answer = call_node(&node, b"mg", &key, |out| out.extend_from_slice(b" v c f")).await?;
            // An empty stub of a load under way is there too: what is stored over it overtakes that load.
            let found = answer.value.is_some().then_some(answer.facts.cas);
            let won = answer.facts.won;
            let current = answer.item().map(|item| Encoded { value: item.value, flags: item.flags });
            let changed = change(current);
            let Ok(Some(new)) = changed else {
                if won {
                    give_back(&node, &key, found, true).await;
                }
                return changed.map(|_| ());
            };
            let stored = store_at(&node, ttl_max, &key, &new.value, ttl, |out| {
                if new.flags != 0 {
                    out.extend_from_slice(b" F");
                    push_number(out, new.flags);
                }
                match found {
                    Some(cas) => {
                        out.extend_from_slice(b" C");
                        push_number(out, cas);
                    }
                    None => out.extend_from_slice(b" ME"),
                }
            });
            if stored.await? == Stored::Yes {
                return Ok(());
            }
        }
        Err(Error::Contended { key: String::from_utf8_lossy(&key).into_owned(), tries: TRIES })
    }
}
