//! The application over SQLite, and what differs there: opening, and the calls of the queue crate.

use apalis::prelude::{Task, WorkerContext};
use apalis_core::backend::WorkerFilter;
use apalis_sqlite::queries;
pub(crate) use apalis_sqlite::queries::{ack_tasks as finish_tasks, fetch_next};
pub(crate) use apalis_sqlite::{Config, SqliteStorage as Storage};
use larder_datastore::Datastore;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqlitePoolOptions;
pub(crate) use sqlx::{Sqlite as Db, SqliteConnection as Connection, SqlitePool as Pool};

#[path = "app/mod.rs"]
pub(crate) mod app;

pub(crate) const TABLES: Migrator = sqlx::migrate!("migrations/sqlite");

/// The queue crate's table of tasks.
pub(crate) const JOBS: &str = "Jobs";

/// Opens the database, which is created where it is missing; and once more for the queue, with one connection, which
/// keeps the workers of a process from waiting for one another's locks.
pub(crate) async fn open(url: &str, connections: u32) -> sqlx::Result<(Pool, Pool)> {
    let options = Datastore::sqlite_options(url)?;
    let pool = |connections| SqlitePoolOptions::new().max_connections(connections).connect_with(options.clone());
    Ok((pool(connections).await?, pool(1).await?))
}

/// Puts a task into a queue.
pub(crate) async fn push(connection: &mut Connection, queue: &str, task: Task<Vec<u8>>) -> anyhow::Result<()> {
    Ok(queries::push_tasks(connection, queue, &[task]).await?)
}

/// Begins a lease, which to the queue crate is a worker.
pub(crate) async fn begin_lease(on: &mut Connection, queue: &Config, lease: &WorkerContext) -> anyhow::Result<()> {
    Ok(queries::register_worker(on, queue, lease, "lease").await?)
}

/// Lets a lease last its full time from now.
pub(crate) async fn renew_lease(on: &mut Connection, queue: &Config, lease: &WorkerContext) -> anyhow::Result<()> {
    Ok(queries::keep_alive(on, queue, lease).await?)
}

/// Puts the tasks back whose lease has not been renewed for so many seconds.
pub(crate) async fn requeue_expired(on: &mut Connection, queue: &Config, seconds: u64) -> anyhow::Result<u64> {
    Ok(queries::reenqueue_orphaned(on, seconds as i64, queue.queue.as_ref(), &WorkerFilter::None).await?)
}
