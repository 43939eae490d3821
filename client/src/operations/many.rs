//! Operations on many keys at once, all nodes in parallel, with a result for each key.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use larder_protocol::meta::Line;

use crate::error::Result;
use crate::exchange::{Item, Reply, Verb, accepted, value_cas_and_flags};
use crate::operations::client::Client;

impl Client {
    /// Returns the values of `keys`, in their order. Each node that owns some of them is asked once, all at the same
    /// time.
    ///
    /// # Errors
    /// A node that fails makes an error of its own keys only.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Bytes>>> {
        let mut special = Vec::new();
        let mut values = self
            .read_many(
                keys,
                |line| _ = line.flag(b'v'),
                |place, reply| {
                    if !reply.is_plain() {
                        special.push((place, reply.flags.won));
                    }
                    reply.value
                },
            )
            .await;
        for (place, won) in special {
            values[place] = self.read_again(keys[place].as_ref(), won).await;
        }
        values
    }

    /// Like [`Client::get_many`], with flags and CAS uniques.
    #[doc(alias = "gets")]
    pub async fn get_items<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Item>>> {
        let mut won = Vec::new();
        let items = self
            .read_many(keys, value_cas_and_flags, |place, reply| {
                if reply.flags.won {
                    won.push(place);
                }
                reply.item()
            })
            .await;
        for place in won {
            // There is no item to return; the right to load is given back.
            let _ = self.read_again(keys[place].as_ref(), true).await;
        }
        items
    }

    /// Reads each key with the flags that `flags` writes. `take` gets the place of a key and its reply, and makes the
    /// result.
    async fn read_many<K: AsRef<[u8]>, T>(
        &self,
        keys: &[K],
        flags: fn(&mut Line<'_>),
        mut take: impl FnMut(usize, Reply) -> Option<T>,
    ) -> Vec<Result<Option<T>>> {
        let topology = self.inner.topology.load_full();
        let mut results: Vec<Result<Option<T>>> = Vec::with_capacity(keys.len());
        let mut by_node: Vec<Vec<(usize, Cow<'_, [u8]>)>> = vec![Vec::new(); topology.nodes.len()];
        for (place, key) in keys.iter().enumerate() {
            match self.key(key.as_ref()) {
                Ok(key) => {
                    by_node[topology.route(&key).node].push((place, key));
                    results.push(Ok(None));
                }
                Err(error) => results.push(Err(error)),
            }
        }
        let nodes_with_keys = topology.nodes.iter().zip(&by_node).filter(|(_, keys)| !keys.is_empty());
        let calls = nodes_with_keys.map(|(node, keys)| async move {
            let answers = node
                .call_many("get", keys.len(), |out| {
                    for (_, key) in keys {
                        let mut line = Verb::Get.begin(out, key);
                        flags(&mut line);
                        line.end();
                    }
                })
                .await;
            (node, keys, answers)
        });
        for (node, keys, answers) in join_all(calls).await {
            match answers {
                Ok(answers) => {
                    for ((place, _), answer) in keys.iter().zip(answers) {
                        results[*place] = accepted(node, answer).map(|reply| take(*place, reply));
                    }
                }
                Err(error) => keys.iter().for_each(|(place, _)| results[*place] = Err(error.clone())),
            }
        }
        results
    }

    /// Stores values, all at the same time. Returns a result for each, in their order.
    pub async fn set_many<K, V>(&self, items: &[(K, V)], ttl: Duration) -> Vec<Result<()>>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        join_all(items.iter().map(|(key, value)| self.set(key, value, ttl))).await
    }

    /// Deletes items, all at the same time. Returns the result of [`Client::delete`] for each, in their order.
    pub async fn delete_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<bool>> {
        join_all(keys.iter().map(|key| self.delete(key))).await
    }
}
