//! A SQLite database that the datastore's triggers can be in.

use larder_datastore::Datastore;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqlitePoolOptions, SqliteSynchronous};

/// Opens the database at `sqlite://FILE`, which is created if it is missing. With `durable` a commit waits for the
/// disk.
///
/// # Errors
/// The file is no database, or cannot be opened.
pub async fn open(url: &str, connections: u32, durable: bool) -> sqlx::Result<SqlitePool> {
    let options = Datastore::sqlite_options(url)?;
    let options = if durable { options } else { options.synchronous(SqliteSynchronous::Normal) };
    SqlitePoolOptions::new().max_connections(connections).connect_with(options).await
}
