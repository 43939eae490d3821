//! The application over PostgreSQL. `sqlite.rs` says what each item is for.

use apalis::prelude::{Task, WorkerContext};
use apalis_postgres::queries;
pub(crate) use apalis_postgres::queries::{fetch_next, handle_results as finish_tasks};
pub(crate) use apalis_postgres::{Config, PostgresStorage as Storage};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
pub(crate) use sqlx::{PgConnection as Connection, PgPool as Pool, Postgres as Db};

#[path = "app/mod.rs"]
pub(crate) mod app;

pub(crate) const TABLES: Migrator = sqlx::migrate!("migrations/postgres");

pub(crate) const JOBS: &str = "apalis.jobs";

/// Opens the database. The queue has no pool of its own.
pub(crate) async fn open(url: &str, connections: u32) -> sqlx::Result<(Pool, Pool)> {
    let pool = PgPoolOptions::new().max_connections(connections).connect(url).await?;
    Ok((pool.clone(), pool))
}

pub(crate) async fn push(connection: &mut Connection, queue: &str, task: Task<Vec<u8>>) -> anyhow::Result<()> {
    Ok(queries::push_tasks(connection, queue, vec![task]).await?)
}

pub(crate) async fn begin_lease(on: &mut Connection, queue: &Config, lease: &WorkerContext) -> anyhow::Result<()> {
    // The type of the moment is the crate's own: a moment long ago, which renewing makes now.
    queries::register_worker(on, queue.queue.as_ref(), lease, &Default::default(), "lease").await?;
    renew_lease(on, queue, lease).await
}

pub(crate) async fn renew_lease(on: &mut Connection, queue: &Config, lease: &WorkerContext) -> anyhow::Result<()> {
    Ok(queries::keep_alive(on, queue.queue.as_ref(), lease).await?)
}

pub(crate) async fn requeue_expired(on: &mut Connection, queue: &Config, seconds: u64) -> anyhow::Result<u64> {
    Ok(queries::reenqueue_orphaned(on, queue.queue.as_ref(), seconds).await?)
}
