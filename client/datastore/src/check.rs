//! Compares the cache with the datastore while both are in use.
//!
//! Some of the keys that were invalidated are read at every node: at once, after the bound, and after a minute. A value
//! that differs from the datastore's counts as a violation where it is still the same item a bound later, and the
//! datastore's row has not changed meanwhile: so neither a change nor a fill that is under way is taken for one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_client::{Client, OneNode};
use metrics::counter;
use sqlx::Pool;

use crate::ddl::Dialect;
use crate::outbox::{Backend, Row};
use crate::rule::{Source, Value, cache_key};

/// How what is cached under a rule's keys is compared with the datastore.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The rule's name.
    pub rule: String,
    /// The table, and the columns of its key.
    pub source: Source,
    /// Columns that are fields of the same name in the cached value, which is a JSON object. For a value that is not,
    /// one column whose text it is.
    pub columns: Vec<String>,
}

/// Checks samples.
#[derive(Debug)]
pub struct Checker<DB: Backend> {
    pool: Pool<DB>,
    bound: Duration,
    /// One of so many keys is checked.
    one_of: u64,
    keys: AtomicU64,
    comparisons: HashMap<String, Arc<Comparison>>,
}

impl<DB: Backend> Checker<DB> {
    /// Checks one of `one_of` keys that are invalidated under one of these rules.
    pub fn new(pool: Pool<DB>, bound: Duration, one_of: u64, comparisons: Vec<Comparison>) -> Checker<DB> {
        let comparisons =
            comparisons.into_iter().map(|comparison| (comparison.rule.clone(), Arc::new(comparison))).collect();
        Checker { pool, bound, one_of: one_of.max(1), keys: AtomicU64::new(0), comparisons }
    }

    /// Checks those of the keys that this row invalidates whose turn it is.
    pub(crate) fn sample(&self, cache: &Client, prefix: &str, row: &Row) {
        for (rule, values) in row.keys() {
            let Some(comparison) = self.comparisons.get(&rule) else { continue };
            if self.keys.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_of) {
                self.check(cache, cache_key(prefix, &rule, &values), &values, comparison);
            }
        }
    }

    fn check(&self, cache: &Client, key: Vec<u8>, values: &[Value], comparison: &Arc<Comparison>) {
        let (pool, bound) = (self.pool.clone(), self.bound);
        for node in cache.every_node() {
            let check = Check {
                pool: pool.clone(),
                bound,
                node,
                key: key.clone(),
                values: values.to_vec(),
                comparison: comparison.clone(),
            };
            tokio::spawn(async move {
                check.at("0").await;
                tokio::time::sleep(bound).await;
                check.at("bound").await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                check.at("60").await;
            });
        }
    }
}

/// One key at one node.
struct Check<DB: Backend> {
    pool: Pool<DB>,
    bound: Duration,
    node: OneNode,
    key: Vec<u8>,
    values: Vec<Value>,
    comparison: Arc<Comparison>,
}

impl<DB: Backend> Check<DB> {
    async fn at(&self, age: &'static str) {
        match self.is_wrong().await {
            Ok(wrong) => {
                if wrong {
                    let key = String::from_utf8_lossy(&self.key);
                    tracing::error!(%key, node = %self.node.address(), age, "the cache holds what the datastore does not");
                    counter!("larder_coherence_violations_total", "age" => age).increment(1);
                }
                counter!("larder_coherence_checked_total", "age" => age).increment(1);
            }
            Err(error) => tracing::debug!(%error, "a check was not made"),
        }
    }

    async fn is_wrong(&self) -> crate::Result<bool> {
        let row = self.row().await?;
        let Some(item) = self.node.peek(&self.key).await? else { return Ok(false) };
        if self.is_right(row.as_deref(), &item.value) {
            return Ok(false);
        }
        tokio::time::sleep(self.bound).await;
        let still = self.node.peek(&self.key).await?.is_some_and(|later| later.cas == item.cas);
        Ok(still && self.row().await? == row)
    }

    /// The columns of the datastore's row, as a JSON object.
    async fn row(&self) -> crate::Result<Option<String>> {
        let Comparison { source, columns, .. } = &*self.comparison;
        let fields: Vec<String> = columns.iter().map(|column| format!("'{column}', {column}")).collect();
        let fields = fields.join(", ");
        let object = match DB::DIALECT {
            Dialect::Sqlite => format!("json_object({fields})"),
            Dialect::Postgres => format!("json_build_object({fields})::text"),
        };
        let keys: Vec<String> =
            source.key.iter().enumerate().map(|(place, column)| format!("{column} = ${}", place + 1)).collect();
        let sql = format!("select {object} from {} where {} limit 1", source.table, keys.join(" and "));
        Ok(DB::text(&self.pool, sql, &self.values).await?)
    }

    fn is_right(&self, row: Option<&str>, cached: &[u8]) -> bool {
        let Some(row) = row.and_then(|row| serde_json::from_str::<serde_json::Value>(row).ok()) else {
            // Something is cached of what is not there. An empty value or null says just that.
            return cached.is_empty() || cached == b"null";
        };
        if let Ok(cached @ serde_json::Value::Object(_)) = serde_json::from_slice(cached) {
            return self.comparison.columns.iter().all(|column| row.get(column) == cached.get(column));
        }
        let text = match self.comparison.columns.first().and_then(|column| row.get(column)) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => return true,
        };
        text.as_bytes() == cached
    }
}

impl Source {
    /// A table, and the columns of its key.
    pub fn new(table: impl Into<String>, key: Vec<String>) -> Source {
        Source { table: table.into(), key, watch: Vec::new() }
    }
}
