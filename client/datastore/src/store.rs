//! The datastore behind the cache.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_client::{Client, ReadThrough};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{FromRow, Pool};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::beat::{Beats, Strictness};
use crate::ddl::{Dialect, Migrations, ensure};
use crate::entity::{Entity, Fingerprinted, Kind, field};
use crate::error::{Error, Result};
use crate::invalidator::{Invalidator, Setup};
use crate::list::Listing;
use crate::outbox::Backend;
use crate::rule::{Rule, Value, Values, cache_key};
use crate::transaction::{Done, Transaction, clean_up};

/// How a [`Datastore`] is made.
#[derive(Debug)]
pub struct Builder<DB: Backend> {
    pool: Pool<DB>,
    cache: Client,
    name: String,
    prefix: String,
    bound: Duration,
    ttl: Duration,
    migrations: Migrations,
    sweeps: bool,
    kinds: Vec<Kind>,
    rules: Vec<Rule>,
    fingerprints: Vec<(String, Fingerprinted)>,
    broken: Option<Broken>,
}

/// A rule of the protocol that is left out, to show that `larder-bench coherence` notices.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// One beat later is taken to be enough.
    OneBeat,
    /// A node is taken in without being flushed.
    NoFlush,
}

#[cfg(feature = "postgres")]
impl Datastore<sqlx::Postgres> {
    /// A PostgreSQL database behind this cache.
    pub fn postgres(pool: sqlx::PgPool, cache: Client) -> Builder<sqlx::Postgres> {
        Builder::new(pool, cache)
    }
}

#[cfg(feature = "sqlite")]
impl Datastore<sqlx::Sqlite> {
    /// A SQLite database behind this cache.
    ///
    /// Its connections need [`pragma("recursive_triggers", "on")`](sqlx::sqlite::SqliteConnectOptions::pragma), which
    /// [`Datastore::sqlite_options`] sets: starting fails without.
    pub fn sqlite(pool: sqlx::SqlitePool, cache: Client) -> Builder<sqlx::Sqlite> {
        Builder::new(pool, cache)
    }

    /// How a SQLite database is well opened for this crate: it is created if it is missing, readers go on beside its
    /// writer (WAL), writers wait for each other for up to 20 s, and a commit waits for the disk.
    ///
    /// # Errors
    /// `url` is not of the form `sqlite://FILE`.
    pub fn sqlite_options(url: &str) -> sqlx::Result<sqlx::sqlite::SqliteConnectOptions> {
        use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
        Ok(url
            .parse::<SqliteConnectOptions>()?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(20))
            // `insert or replace` deletes a row, and its trigger has to see that.
            .pragma("recursive_triggers", "on"))
    }
}

impl<DB: Backend> Builder<DB> {
    /// A database of either kind behind this cache, for code that serves both.
    pub fn new(pool: Pool<DB>, cache: Client) -> Builder<DB> {
        Builder {
            pool,
            cache,
            name: "default".to_owned(),
            prefix: String::new(),
            bound: Duration::from_secs(1),
            ttl: Duration::from_secs(3600),
            migrations: Migrations::default(),
            sweeps: true,
            kinds: Vec::new(),
            rules: Vec::new(),
            fingerprints: Vec::new(),
            broken: None,
        }
    }

    /// Leaves a rule of the protocol out.
    #[doc(hidden)]
    pub fn broken(mut self, broken: Option<Broken>) -> Self {
        self.broken = broken;
        self
    }

    /// Reads this kind through the cache.
    pub fn kind<T: Entity>(mut self) -> Self {
        self.kinds.push(T::KIND);
        self.fingerprints.push((T::KIND.table.to_owned(), Fingerprinted::of::<T>()));
        self
    }

    /// Reads what this rule names through the cache, with [`Datastore::cached`].
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// How old a strict read may be, 1 s unless set; beats come every 100 ms, so that half a second is about the least
    /// that is kept without loading more than need be.
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// How long values stay in the cache where nothing changes, 1 h unless set. That is also how long one is wrong at
    /// most where a precondition of the promise is not kept.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The datastore's name, `default` unless set. Two datastores behind one cache need two names.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What all cache keys begin with; nothing unless set.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// What happens where triggers or indexes are missing.
    pub fn migrations(mut self, migrations: Migrations) -> Self {
        self.migrations = migrations;
        self
    }

    /// Leaves sweeping the outbox to other processes of the application, or to `larder-tail`.
    pub fn without_sweeping(mut self) -> Self {
        self.sweeps = false;
        self
    }

    /// Checks rules, triggers and indexes, and begins to sweep and to watch the beats.
    ///
    /// # Errors
    /// [`Error::Rule`] where one cannot work, [`Error::Missing`] where triggers or indexes are missing and
    /// [`Migrations::Refuse`] is set, and where the datastore cannot be reached.
    pub async fn start(self) -> Result<Datastore<DB>> {
        let mut rules = self.rules;
        for kind in &self.kinds {
            rules.extend(kind.rules()?);
        }
        for (place, rule) in rules.iter().enumerate() {
            rule.check()?;
            if rules[..place].iter().any(|other| other.name == rule.name) {
                return Err(Error::Rule(format!("two rules are named {:?}", rule.name)));
            }
        }
        DB::prepare(&self.pool).await?;
        ensure(&self.pool, &rules, &self.kinds, &self.migrations).await?;
        let beats = Beats::within(self.bound);
        let beats = Arc::new(if self.broken == Some(Broken::OneBeat) { beats.broken() } else { beats });
        let read = |rule: &Rule| {
            // What is no entity is told apart by its decoding alone.
            let known = self.fingerprints.iter().find(|(name, _)| *name == rule.name);
            let codec = known.map_or_else(|| Fingerprinted::over("list"), |(_, codec)| *codec);
            let strictness = Arc::new(Strictness { beats: beats.clone(), not_fresh: rule.not_fresh });
            let reading = self.cache.typed(codec).read_through(self.ttl).jitter(0.1).remember_absent(self.ttl);
            (rule.name.clone(), reading.fresh(strictness))
        };
        let reads = rules.iter().map(read).collect();
        let mut tasks = JoinSet::new();
        let (done, receiver) = mpsc::unbounded_channel();
        tasks.spawn(clean_up(self.pool.clone(), receiver));
        tasks.spawn(beats.clone().watch(self.cache.clone(), self.name.clone()));
        if self.sweeps {
            let setup = Setup { store: self.name, prefix: self.prefix.clone() };
            let mut invalidator = Invalidator::new(self.pool.clone(), self.cache.clone(), setup);
            invalidator.flushes = self.broken != Some(Broken::NoFlush);
            tasks.spawn(invalidator.run());
        }
        Ok(Datastore {
            inner: Arc::new(Inner {
                pool: self.pool,
                cache: self.cache,
                prefix: self.prefix,
                reads,
                beats,
                loads: AtomicU64::new(0),
                done,
                _tasks: tasks,
            }),
        })
    }
}

/// A datastore whose rows are read through a cache, and never older than promised. Clones share all.
#[derive(Debug)]
pub struct Datastore<DB: Backend> {
    pub(crate) inner: Arc<Inner<DB>>,
}

impl<DB: Backend> Clone for Datastore<DB> {
    fn clone(&self) -> Self {
        Datastore { inner: self.inner.clone() }
    }
}

#[derive(Debug)]
pub(crate) struct Inner<DB: Backend> {
    pub(crate) pool: Pool<DB>,
    pub(crate) cache: Client,
    pub(crate) prefix: String,
    reads: HashMap<String, ReadThrough<Fingerprinted>>,
    beats: Arc<Beats>,
    loads: AtomicU64,
    pub(crate) done: mpsc::UnboundedSender<Done>,
    /// They end with this.
    _tasks: JoinSet<()>,
}

/// Numbers of events since a [`Datastore`] was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Hits that were not known to be within the bound.
    pub not_fresh: u64,
    /// Queries for entities that the cache did not have.
    pub loads: u64,
}

impl<DB: Backend> Datastore<DB> {
    /// The pool, for all that is not cached.
    pub fn pool(&self) -> &Pool<DB> {
        &self.inner.pool
    }

    /// The cache's client.
    pub fn cache(&self) -> &Client {
        &self.inner.cache
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        let not_fresh = self.inner.beats.not_fresh.load(Ordering::Relaxed);
        Counts { not_fresh, loads: self.inner.loads.load(Ordering::Relaxed) }
    }

    /// How old the items of each node may be, by address; `None` where that is not known.
    pub fn ages(&self) -> Vec<(Arc<str>, Option<Duration>)> {
        let age = |address: &str| self.inner.beats.as_of(address).map(|as_of| as_of.elapsed());
        self.cache().nodes().into_iter().map(|node| (node.address.clone(), age(&node.address))).collect()
    }

    /// Begins a transaction; on SQLite with `BEGIN IMMEDIATE`, so that it cannot fail for a read of its own that is
    /// outdated.
    ///
    /// # Errors
    /// Where the datastore cannot be reached.
    pub async fn begin(&self) -> Result<Transaction<DB>> {
        Transaction::begin(self.inner.clone()).await
    }

    /// The entity with this key; `None` where there is none.
    ///
    /// # Errors
    /// Where it had to be loaded and could not be.
    pub async fn get<T>(&self, key: impl Into<Value>) -> Result<Option<T>>
    where
        T: Entity + for<'r> FromRow<'r, DB::Row>,
    {
        let key = key.into();
        let cache_key = self.key(T::KIND.table, std::slice::from_ref(&key));
        let load = || self.load_entities::<T>(vec![key]);
        let reading = self.reading(T::KIND.table)?;
        let loaded = reading.get_optional(cache_key, async || load().await.map(|mut found| found.pop())).await?;
        Ok(loaded)
    }

    /// Returns the entities with these keys, in their order; keys without an entity are left out. This takes one
    /// exchange with each node, and one query for all entities that are missing there.
    ///
    /// ```no_run
    /// # use larder_datastore::{Datastore, Entity, Kind, sqlx};
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::FromRow)] struct Conference { id: i64 }
    /// # impl Entity for Conference { const KIND: Kind = Kind::table("conference"); }
    /// # async fn example(store: Datastore<sqlx::Postgres>) -> Result<(), larder_datastore::Error> {
    /// let several: Vec<Conference> = store.get_many(&[7, 9]).await?;
    /// # let _ = several;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An entity had to be loaded and could not be.
    pub async fn get_many<T>(&self, keys: &[impl Into<Value> + Clone]) -> Result<Vec<T>>
    where
        T: Entity + for<'r> FromRow<'r, DB::Row>,
    {
        let keys: Vec<Value> = keys.iter().cloned().map(Into::into).collect();
        let load = async |keys: Vec<Value>| {
            let found = self.load_entities::<T>(keys).await?;
            let by_key = found.into_iter().map(|entity| Ok((field(&entity, T::KIND.key)?, entity)));
            by_key.collect::<Result<HashMap<_, _>>>()
        };
        let cache_key = |key: &Value| self.key(T::KIND.table, std::slice::from_ref(key));
        let found = self.reading(T::KIND.table)?.get_many(&keys, cache_key, load).await?;
        Ok(keys.iter().filter_map(|key| found.get(key).cloned()).collect())
    }

    /// The rows of a list of kind `T` whose columns have these values.
    ///
    /// # Errors
    /// [`Error::Rule`] where the kind has no such list, or it takes another number of values.
    pub fn list<T>(&self, name: &str, values: impl Values) -> Result<Listing<DB, T>>
    where
        T: Entity + for<'r> FromRow<'r, DB::Row>,
    {
        Listing::new(self.clone(), name, values.values())
    }

    /// What `loader` makes of the datastore: a join, a count, a page. `rule` says what makes it old; `values` are the
    /// rule's key.
    ///
    /// The loader begins after the cache was found without a value. It reads from the primary, on a connection of
    /// [`Datastore::pool`] and not in a transaction that began before.
    ///
    /// # Errors
    /// [`Error::Rule`] where there is no such rule, and where the loader fails.
    pub async fn cached<T, E, F>(&self, rule: &str, values: impl Values, loader: impl FnOnce() -> F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let key = self.key(rule, &values.values());
        Ok(self.reading(rule)?.get(key, loader).await?)
    }

    pub(crate) fn key(&self, rule: &str, values: &[Value]) -> Vec<u8> {
        cache_key(&self.inner.prefix, rule, values)
    }

    pub(crate) fn reading(&self, rule: &str) -> Result<&ReadThrough<Fingerprinted>> {
        self.inner.reads.get(rule).ok_or_else(|| Error::Rule(format!("there is no rule {rule:?}")))
    }

    async fn load_entities<T>(&self, keys: Vec<Value>) -> Result<Vec<T>>
    where
        T: Entity + for<'r> FromRow<'r, DB::Row>,
    {
        self.inner.loads.fetch_add(1, Ordering::Relaxed);
        let Kind { table, key, .. } = T::KIND;
        if keys.len() == 1 {
            let sql = format!("select * from {table} where {key} = $1");
            return Ok(DB::fetch(self.pool(), sql, &keys).await?);
        }
        let all = serde_json::Value::from_iter(keys.iter().map(Value::to_json)).to_string();
        // Of one text for any number of keys, which a connection prepares once.
        let sql = match (DB::DIALECT, keys.first()) {
            (Dialect::Sqlite, _) => format!("select * from {table} where {key} in (select value from json_each($1))"),
            (Dialect::Postgres, Some(Value::Integer(_))) => {
                let keys = "array(select jsonb_array_elements_text($1::text::jsonb)::bigint)";
                format!("select * from {table} where {key} = any({keys})")
            }
            (Dialect::Postgres, _) => {
                let keys = "array(select jsonb_array_elements_text($1::text::jsonb))";
                format!("select * from {table} where {key}::text = any({keys})")
            }
        };
        Ok(DB::fetch(self.pool(), sql, &[Value::Text(all)]).await?)
    }
}
