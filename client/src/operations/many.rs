//! Operations on many keys at once, all nodes in parallel, with a result for each key.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::error::Result;
use crate::operations::client::{Accepted, Client, Item, accepted};

impl Client {
    /// The values of `keys`, in their order, with one exchange for each node that owns some, all nodes at once.
    ///
    /// A node that fails makes an error of its keys only.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Bytes>>> {
        let mut special = Vec::new();
        let mut values = self
            .read_many(keys, b" v\r\n", |place, answer| {
                if !answer.is_plain() {
                    special.push((place, answer.facts.won));
                }
                answer.value
            })
            .await;
        for (place, won) in special {
            values[place] = self.look_closer(keys[place].as_ref(), won).await;
        }
        values
    }

    /// As [`Client::get_many`], with flags and CAS uniques.
    #[doc(alias = "gets")]
    pub async fn get_items<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Item>>> {
        let mut won = Vec::new();
        let items = self
            .read_many(keys, b" v c f\r\n", |place, answer| {
                if answer.facts.won {
                    won.push(place);
                }
                answer.item()
            })
            .await;
        for place in won {
            // Its item was none; what is left is to give the right to load back.
            let _ = self.look_closer(keys[place].as_ref(), true).await;
        }
        items
    }

    /// Asks for each key with these flags, and lets `take` make something of the answer by the key's place.
    async fn read_many<K: AsRef<[u8]>, T>(
        &self,
        keys: &[K],
        flags: &[u8],
        mut take: impl FnMut(usize, Accepted) -> Option<T>,
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
                .call_many(keys.len(), |out| {
                    for (_, key) in keys {
                        out.extend_from_slice(b"mg ");
                        out.extend_from_slice(key);
                        out.extend_from_slice(flags);
                    }
                })
                .await;
            (node, keys, answers)
        });
        for (node, keys, answers) in join_all(calls).await {
            match answers {
                Ok(answers) => {
                    for ((place, _), answer) in keys.iter().zip(answers) {
                        results[*place] = accepted(node, answer).map(|answer| take(*place, answer));
                    }
                }
                Err(error) => keys.iter().for_each(|(place, _)| results[*place] = Err(error.clone())),
            }
        }
        results
    }

    /// Stores values, all at once; a result for each, in their order.
    pub async fn set_many<K, V>(&self, items: &[(K, V)], ttl: Duration) -> Vec<Result<()>>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        join_all(items.iter().map(|(key, value)| self.set(key, value, ttl))).await
    }

    /// Removes items, all at once; a result for each, in their order, as [`Client::delete`].
    pub async fn delete_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<bool>> {
        join_all(keys.iter().map(|key| self.delete(key))).await
    }
}
