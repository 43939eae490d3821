//! The application over PostgreSQL, and what differs there: opening, and the calls of the queue crate.

use apalis::prelude::{Task, TaskResult, WorkerContext};
use apalis_postgres::{Config, PostgresStorage, queries};
use larder_client::Client;
use larder_datastore::{Builder, Datastore};
use sqlx::postgres::PgPoolOptions;

#[path = "../app/mod.rs"]
pub(crate) mod app;

pub(crate) type Db = sqlx::Postgres;
pub(crate) type Connection = sqlx::PgConnection;
pub(crate) type Pool = sqlx::PgPool;
pub(crate) type Storage<T> = PostgresStorage<T>;

/// Opens the database.
pub(crate) async fn open(url: &str, connections: u32) -> anyhow::Result<Pool> {
    Ok(PgPoolOptions::new().max_connections(connections).connect(url).await?)
}

/// The queue's pool, the application's own here.
pub(crate) async fn open_queue(_url: &str, pool: &Pool) -> anyhow::Result<Pool> {
    Ok(pool.clone())
}

pub(crate) async fn migrate(pool: &Pool) -> anyhow::Result<()> {
    let mut tables = sqlx::migrate!("migrations/postgres");
    tables.set_ignore_missing(true).run(pool).await?;
    let mut queue = PostgresStorage::<()>::migrations();
    queue.set_ignore_missing(true).run(pool).await?;
    Ok(())
}

pub(crate) fn datastore(pool: Pool, cache: Client) -> Builder<Db> {
    Datastore::postgres(pool, cache)
}

pub(crate) fn storage<T>(pool: &Pool, config: Config) -> Storage<T> {
    PostgresStorage::new(pool).with_config(config)
}

pub(crate) type QueueConfig = Config;

/// Puts a task into a queue, within the caller's transaction.
pub(crate) async fn push(connection: &mut Connection, queue: &str, task: Task<Vec<u8>>) -> anyhow::Result<()> {
    Ok(queries::push_tasks(connection, queue, vec![task]).await?)
}

/// Leases tasks: a lease is a worker of the queue crate that lives as long as it is renewed.
pub(crate) async fn lease(pool: &Pool, queue: &Config, lease: &WorkerContext) -> anyhow::Result<Vec<Task<Vec<u8>>>> {
    let mut tx = pool.begin().await?;
    let name = queue.queue.as_ref();
    // The type of the moment is the crate's own: a moment long ago, which the next call makes now.
    queries::register_worker(&mut *tx, name, lease, &Default::default(), "lease").await?;
    queries::keep_alive(&mut *tx, name, lease).await?;
    let tasks = queries::fetch_next(&mut *tx, queue, lease).await?;
    tx.commit().await?;
    Ok(tasks)
}

/// Renews a lease; `false` where it has run out, and holds no task any more.
pub(crate) async fn renew(pool: &Pool, queue: &Config, lease: &WorkerContext) -> anyhow::Result<bool> {
    let sql = "select count(*) from apalis.jobs where lock_by = $1 and status in ('Queued', 'Running')";
    let held: i64 = sqlx::query_scalar(sql).bind(lease.name()).fetch_one(pool).await?;
    if held == 0 {
        return Ok(false);
    }
    queries::keep_alive(&mut *pool.acquire().await?, queue.queue.as_ref(), lease).await?;
    Ok(true)
}

/// Ends a leased task; `false` where the lease does not hold it any more.
pub(crate) async fn finish(pool: &Pool, lease: &str, result: &TaskResult<serde_json::Value>) -> anyhow::Result<bool> {
    Ok(queries::handle_results(&mut *pool.acquire().await?, &[result], lease).await? == 1)
}

/// Puts the tasks back whose lease has not been renewed for so many seconds.
pub(crate) async fn requeue_expired(pool: &Pool, queue: &Config, seconds: u64) -> anyhow::Result<u64> {
    Ok(queries::reenqueue_orphaned(&mut *pool.acquire().await?, queue.queue.as_ref(), seconds).await?)
}

/// Gives a dead letter all its tries again; `false` where there is none of this name. The queue crate has no call for
/// it.
pub(crate) async fn requeue_dead(pool: &Pool, queue: &str, id: &str) -> anyhow::Result<bool> {
    let sql = "update apalis.jobs set status = 'Pending', attempts = 0, lock_by = null, lock_at = null, done_at = null
        where id = $1 and job_type = $2 and (status = 'Killed' or status = 'Failed' and attempts >= max_attempts)";
    Ok(sqlx::query(sql).bind(id).bind(queue).execute(pool).await?.rows_affected() == 1)
}
