//! Operations on many keys at once, all nodes in parallel, with a result for each key.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::client::{Client, Item, accepted, give_back};
use crate::error::Result;

impl Client {
    /// The values of `keys`, in their order, with one exchange for each node that owns some, all nodes at once.
    ///
    /// A node that fails makes an error of its keys only.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Bytes>>> {
        let items = self.get_items(keys).await.into_iter();
        items.map(|item| item.map(|item| item.map(|item| item.value))).collect()
    }

    /// As [`Client::get_many`], with flags and CAS uniques.
    #[doc(alias = "gets")]
    pub async fn get_items<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Item>>> {
        let topology = self.inner.topology.load_full();
        let mut results: Vec<Result<Option<Item>>> = Vec::with_capacity(keys.len());
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
                        out.extend_from_slice(b" v c f\r\n");
                    }
                })
                .await;
            (node, keys, answers)
        });
        let mut won = Vec::new();
        for (node, keys, answers) in join_all(calls).await {
            match answers {
                Ok(answers) => {
                    for ((place, key), answer) in keys.iter().zip(answers) {
                        results[*place] = accepted(node, answer).map(|answer| {
                            won.extend(answer.facts.won.then_some((node, key, answer.facts.cas)));
                            answer.item()
                        });
                    }
                }
                Err(error) => keys.iter().for_each(|(place, _)| results[*place] = Err(error.clone())),
            }
        }
        join_all(won.into_iter().map(|(node, key, cas)| give_back(node, key, cas, true))).await;
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
