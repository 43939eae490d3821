//! The application over SQLite, and what differs there: opening, and the calls of the queue crate.

use std::str::FromStr;
use std::time::Duration;

use apalis::prelude::{Task, TaskResult, WorkerContext};
use apalis_core::backend::WorkerFilter;
use apalis_sqlite::{Config, SqliteStorage, queries};
use larder_client::Client;
use larder_datastore::{Builder, Datastore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

#[path = "../app/mod.rs"]
pub(crate) mod app;

pub(crate) type Db = sqlx::Sqlite;
pub(crate) type Connection = sqlx::SqliteConnection;
pub(crate) type Pool = sqlx::SqlitePool;
pub(crate) type Storage<T> = SqliteStorage<T>;

/// How long a statement waits for another writer.
const BUSY: Duration = Duration::from_secs(20);

/// Opens the database, which is created where it is missing.
pub(crate) async fn open(url: &str, connections: u32) -> anyhow::Result<Pool> {
    let options = SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        .pragma("recursive_triggers", "on");
    Ok(SqlitePoolOptions::new().max_connections(connections).connect_with(options).await?)
}

/// Opens the queue's own pool. Its one connection keeps the workers of a process from waiting for one another's locks.
pub(crate) async fn open_queue(url: &str, _pool: &Pool) -> anyhow::Result<Pool> {
    open(url, 1).await
}

pub(crate) async fn migrate(pool: &Pool) -> anyhow::Result<()> {
    let mut tables = sqlx::migrate!("migrations/sqlite");
    tables.set_ignore_missing(true).run(pool).await?;
    // Not `SqliteStorage::setup`, which turns off waiting for the disk.
    let mut queue = SqliteStorage::<()>::migrations();
    queue.set_ignore_missing(true).run(pool).await?;
    Ok(())
}

pub(crate) fn datastore(pool: Pool, cache: Client) -> Builder<Db> {
    Datastore::sqlite(pool, cache)
}

pub(crate) fn storage<T>(pool: &Pool, config: Config) -> Storage<T> {
    SqliteStorage::new(pool).with_config(config)
}

pub(crate) type QueueConfig = Config;

/// Puts a task into a queue, within the caller's transaction.
pub(crate) async fn push(connection: &mut Connection, queue: &str, task: Task<Vec<u8>>) -> anyhow::Result<()> {
    Ok(queries::push_tasks(connection, queue, &[task]).await?)
}

/// Leases tasks: a lease is a worker of the queue crate that lives as long as it is renewed.
pub(crate) async fn lease(pool: &Pool, queue: &Config, lease: &WorkerContext) -> anyhow::Result<Vec<Task<Vec<u8>>>> {
    let mut tx = pool.begin_with("begin immediate").await?;
    queries::register_worker(&mut *tx, queue, lease, "lease").await?;
    let tasks = queries::fetch_next(&mut *tx, queue, lease).await?;
    tx.commit().await?;
    Ok(tasks)
}

/// Renews a lease; `false` where it has run out, and holds no task any more.
pub(crate) async fn renew(pool: &Pool, queue: &Config, lease: &WorkerContext) -> anyhow::Result<bool> {
    let sql = "select count(*) from Jobs where lock_by = $1 and status in ('Queued', 'Running')";
    let held: i64 = sqlx::query_scalar(sql).bind(lease.name()).fetch_one(pool).await?;
    if held == 0 {
        return Ok(false);
    }
    queries::keep_alive(pool, queue, lease).await?;
    Ok(true)
}

/// Ends a leased task; `false` where the lease does not hold it any more.
pub(crate) async fn finish(pool: &Pool, lease: &str, result: &TaskResult<serde_json::Value>) -> anyhow::Result<bool> {
    Ok(queries::ack_tasks(pool, &[result], lease).await? == 1)
}

/// Puts the tasks back whose lease has not been renewed for so many seconds.
pub(crate) async fn requeue_expired(pool: &Pool, queue: &Config, seconds: u64) -> anyhow::Result<u64> {
    let expired = queries::reenqueue_orphaned(pool, seconds as i64, queue.queue.as_ref(), &WorkerFilter::None);
    Ok(expired.await?)
}

/// Gives a dead letter all its tries again; `false` where there is none of this name. The queue crate has no call for
/// it.
pub(crate) async fn requeue_dead(pool: &Pool, queue: &str, id: &str) -> anyhow::Result<bool> {
    let sql = "update Jobs set status = 'Pending', attempts = 0, lock_by = null, lock_at = null, done_at = null
        where id = $1 and job_type = $2 and (status = 'Killed' or status = 'Failed' and attempts >= max_attempts)";
    Ok(sqlx::query(sql).bind(id).bind(queue).execute(pool).await?.rows_affected() == 1)
}
