//! The processes that read, write and sweep. Each has a client, beats, flights and connections of its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use futures_util::future::{join_all, try_join_all};
use larder_client::{Client, Item, NotFresh};
use larder_datastore::{Backend, Broken, Builder, Counts, Datastore, Delivered, Entity, Kind, Migrations, Step};
use nix::sys::signal::{Signal, raise};
use parking_lot::Mutex;
use rand::RngExt;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, FromRow, Pool};

use super::log::{Event, Log, now};

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Break {
    /// Changes write nothing to the outbox
    NoOutbox,
    /// Readers store what they read before, without a lease
    PlainSet,
    /// One beat later is taken to be enough
    #[value(name = "beat-1")]
    OneBeat,
    /// A node that was given up is taken in without being flushed
    NoFlush,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Reads through the cache
    Read,
    /// Reads the datastore
    ReadDirectly,
    /// Writes by transactions that delete
    Write,
    /// Writes and knows nothing of a cache
    WriteRaw,
    /// Sweeps the outbox
    Sweep,
}

/// The options of such a process.
#[derive(Debug, Clone, Args)]
pub struct RoleOptions {
    #[arg(long)]
    pub(super) role: Role,
    /// sqlite:///path or postgres://…
    #[arg(long)]
    pub(super) url: String,
    #[arg(long, value_delimiter = ',')]
    pub(super) servers: Vec<String>,
    #[arg(long)]
    pub(super) log: PathBuf,
    #[arg(long)]
    pub(super) rows: i64,
    /// Operations until it ends by itself
    #[arg(long)]
    pub(super) ops: u64,
    /// Operations a second at most; 0 for as many as there can be
    #[arg(long)]
    pub(super) rate: u64,
    #[arg(long)]
    pub(super) bound: u64,
    /// One of so many commits ends in the middle, with kill -9; 0 for none
    #[arg(long, default_value_t = 0)]
    pub(super) dies: u64,
    #[arg(long = "break")]
    pub(super) broken: Option<Break>,
}

/// Tasks of a process that reads or writes.
const TASKS: u64 = 8;

/// A row, of which strict reads are made.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, FromRow)]
pub(super) struct Row {
    id: i64,
    version: i64,
    body: String,
}

impl Entity for Row {
    const KIND: Kind = Kind::table("item").not_fresh(NotFresh::Load);
}

/// What the processes' SQL needs of a datastore.
pub(super) trait Sql: Backend {
    fn builder(pool: Pool<Self>, cache: Client) -> Builder<Self>;

    /// Raises a row's version and returns it.
    async fn raise(connection: &mut Self::Connection, id: i64) -> sqlx::Result<i64>;

    async fn run(pool: &Pool<Self>, sql: &str) -> sqlx::Result<()>;

    async fn count(pool: &Pool<Self>, sql: &str) -> sqlx::Result<i64>;

    async fn row(pool: &Pool<Self>, id: i64) -> sqlx::Result<Option<Row>>;
}

/// Writes the same lines for each datastore: its types only meet as concrete ones.
macro_rules! sql {
    ($database:ty, $builder:path) => {
        impl Sql for $database {
            fn builder(pool: Pool<Self>, cache: Client) -> Builder<Self> {
                $builder(pool, cache)
            }

            async fn raise(connection: &mut Self::Connection, id: i64) -> sqlx::Result<i64> {
                let sql = "update item set version = version + 1 where id = $1 returning version";
                sqlx::query_scalar(sql).bind(id).fetch_one(connection).await
            }

            async fn run(pool: &Pool<Self>, sql: &str) -> sqlx::Result<()> {
                sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.map(|_| ())
            }

            async fn count(pool: &Pool<Self>, sql: &str) -> sqlx::Result<i64> {
                sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await
            }

            async fn row(pool: &Pool<Self>, id: i64) -> sqlx::Result<Option<Row>> {
                sqlx::query_as("select * from item where id = $1").bind(id).fetch_optional(pool).await
            }
        }
    };
}

sql!(sqlx::Sqlite, Datastore::sqlite);
sql!(sqlx::Postgres, Datastore::postgres);

/// Connects to a SQLite file.
pub(super) async fn sqlite(url: &str) -> Result<Pool<sqlx::Sqlite>> {
    Ok(crate::sqlite::open(url, TASKS as u32 + 2, false).await?)
}

/// Connects to a PostgreSQL database.
pub(super) async fn postgres(url: &str) -> Result<Pool<sqlx::Postgres>> {
    Ok(PgPoolOptions::new().max_connections(TASKS as u32 + 2).connect(url).await?)
}

/// Runs until its operations are done, or its parent ends.
///
/// # Errors
/// The datastore cannot be reached at the start.
pub async fn run(options: RoleOptions) -> Result<()> {
    crate::process::end_with_parent();
    if options.url.starts_with("sqlite://") {
        work(sqlite(&options.url).await?, &options).await
    } else {
        work(postgres(&options.url).await?, &options).await
    }
}

async fn work<DB: Sql>(pool: Pool<DB>, options: &RoleOptions) -> Result<()>
where
    Row: for<'r> FromRow<'r, DB::Row>,
{
    let cache = Client::builder().servers(&options.servers).timeout(Duration::from_millis(300)).build()?;
    let broken = match options.broken {
        Some(Break::OneBeat) => Some(Broken::OneBeat),
        Some(Break::NoFlush) => Some(Broken::NoFlush),
        _ => None,
    };
    let builder = DB::builder(pool, cache).bound(Duration::from_millis(options.bound)).kind::<Row>().broken(broken);
    let builder = if options.role == Role::Sweep { builder } else { builder.without_sweeping() };
    let store = builder.migrations(Migrations::Refuse).start().await?;
    let log = Log::append_to(&options.log)?;
    let worker =
        Worker { store, options, log, done: AtomicU64::new(0), failed: AtomicU64::new(0), took: Mutex::default() };
    let mut before = worker.store.counts();
    match options.role {
        Role::Sweep => std::future::pending().await,
        Role::Read | Role::ReadDirectly => {
            if options.role == Role::Read {
                // Readers that know no beats yet would load all they read.
                let deadline = Instant::now() + Duration::from_secs(10);
                while worker.store.ages().iter().any(|(_, age)| age.is_none()) && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            worker.warm_up().await;
            before = worker.store.counts();
            try_join_all((0..TASKS).map(|_| worker.read())).await?;
        }
        Role::Write | Role::WriteRaw => _ = try_join_all((0..TASKS).map(|_| worker.write())).await?,
    }
    worker.report(before);
    Ok(())
}

struct Worker<'a, DB: Sql> {
    store: Datastore<DB>,
    options: &'a RoleOptions,
    log: Log,
    done: AtomicU64,
    failed: AtomicU64,
    /// How long reads took, in microseconds.
    took: Mutex<Vec<u32>>,
}

/// Some rows are used far more often than others.
fn any_row(rows: i64) -> i64 {
    (rand::rng().random::<f64>().powi(4) * rows as f64) as i64
}

impl<DB: Sql> Worker<'_, DB>
where
    Row: for<'r> FromRow<'r, DB::Row>,
{
    /// Whether there is an operation left to do. Waits for its time.
    async fn next(&self, start: Instant, own: &mut u64) -> bool {
        if self.options.rate > 0 {
            let due = Duration::from_secs_f64(*own as f64 * TASKS as f64 / self.options.rate as f64);
            tokio::time::sleep_until((start + due).into()).await;
        }
        *own += 1;
        self.done.fetch_add(1, Ordering::Relaxed) < self.options.ops
    }

    /// Reads each row once, so that the reads that count do not begin with an empty cache.
    async fn warm_up(&self) {
        let tasks = (0..TASKS as i64).map(|first| async move {
            for id in (first..self.options.rows).step_by(TASKS as usize) {
                self.read_row(id).await;
            }
        });
        join_all(tasks).await;
    }

    async fn read_row(&self, id: i64) -> Option<Row> {
        match self.options.role {
            Role::Read => self.store.get::<Row>(id).await.ok().flatten(),
            _ => DB::row(self.store.pool(), id).await.ok().flatten(),
        }
    }

    async fn read(&self) -> Result<()> {
        let (start, mut own) = (Instant::now(), 0);
        let (mut records, mut took) = (Vec::new(), Vec::new());
        while self.next(start, &mut own).await {
            let id = any_row(self.options.rows);
            let (began, clock) = (now(), Instant::now());
            let row = self.read_row(id).await;
            took.push(clock.elapsed().as_micros() as u32);
            match row {
                Some(row) => records.push((Event::Read, id, row.version, began)),
                None => _ = self.failed.fetch_add(1, Ordering::Relaxed),
            }
            if records.len() >= 1000 {
                self.log.note_all(&std::mem::take(&mut records));
            }
            if self.options.broken == Some(Break::PlainSet) && own.is_multiple_of(50) {
                self.set_late(id).await;
            }
        }
        self.log.note_all(&records);
        self.took.lock().append(&mut took);
        Ok(())
    }

    /// Stores, without a lease, what was read a while before: what `set` after a load comes to.
    async fn set_late(&self, id: i64) {
        let (cache, key) = (self.store.cache().clone(), format!("item:{id}"));
        let Ok(Some(Item { value, flags, .. })) = cache.get_item(&key).await else { return };
        let pause = Duration::from_millis(rand::rng().random_range(1..300));
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = cache.meta_set(&key, value).flags(flags).ttl(Duration::from_secs(3600)).send().await;
        });
    }

    async fn write(&self) -> Result<()> {
        let (start, mut own) = (Instant::now(), 0);
        while self.next(start, &mut own).await {
            let id = any_row(self.options.rows);
            let written = match self.options.role {
                Role::Write => self.commit(id).await,
                _ => self.commit_raw(id).await,
            };
            if let Err(error) = written {
                tracing::debug!(%error, "not written");
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    async fn commit(&self, id: i64) -> Result<()> {
        let dies = self.options.dies > 0 && rand::rng().random_range(0..self.options.dies) == 0;
        let last = rand::rng().random_range(0..6);
        let die_at = |step: i64| {
            if dies && step == last {
                self.log.note(Event::Died, id, step, 0);
                let _ = raise(Signal::SIGKILL);
            }
        };
        let mut tx = self.store.begin().await?;
        die_at(0);
        let version = DB::raise(&mut **tx, id).await?;
        die_at(1);
        let delivered = tx.commit_watched(|step| match step {
            Step::Read => die_at(2),
            Step::Committed => {
                self.log.note(Event::Committed, id, version, now());
                die_at(3);
            }
            Step::DeletedAtOne => die_at(4),
            Step::Deleted => die_at(5),
        });
        if delivered.await? == Delivered::Everywhere {
            self.log.note(Event::Everywhere, id, version, now());
        }
        Ok(())
    }

    /// As psql, or a program in another language.
    async fn commit_raw(&self, id: i64) -> Result<()> {
        let mut connection = self.store.pool().acquire().await?;
        let version = DB::raise(&mut connection, id).await?;
        self.log.note(Event::Committed, id, version, now());
        Ok(())
    }

    /// Prints what the parent adds up: reads, failures, loads and hits refused since `before`, p50 and p99 in
    /// microseconds.
    fn report(&self, before: Counts) {
        let mut took = self.took.lock();
        took.sort_unstable();
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(0);
        let counts = self.store.counts();
        let failed = self.failed.load(Ordering::Relaxed);
        let (loads, not_fresh) = (counts.loads - before.loads, counts.not_fresh - before.not_fresh);
        println!("{} {failed} {loads} {not_fresh} {} {}", took.len(), at(0.5), at(0.99));
    }
}

impl std::str::FromStr for Summary {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Summary> {
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [reads, failed, loads, not_fresh, p50, p99] = numbers[..] else { bail!("{line:?} is no summary") };
        Ok(Summary { reads, failed, loads, not_fresh, p50, p99 })
    }
}

/// What a process prints when it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    pub(super) reads: u64,
    pub(super) failed: u64,
    /// Queries of the datastore.
    pub(super) loads: u64,
    /// Hits that were not taken.
    pub(super) not_fresh: u64,
    pub(super) p50: u64,
    pub(super) p99: u64,
}
