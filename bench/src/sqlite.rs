//! A SQLite database that the datastore's triggers can be in.

use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

/// Opens the database at `sqlite://FILE`, which is created if it is missing. With `durable` a commit waits for the
/// disk.
///
/// # Errors
/// The file is no database, or cannot be opened.
pub async fn open(url: &str, connections: u32, durable: bool) -> sqlx::Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(url.trim_start_matches("sqlite://"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(if durable { SqliteSynchronous::Full } else { SqliteSynchronous::Normal })
        .busy_timeout(Duration::from_secs(20))
        // `insert or replace` deletes a row, and its trigger has to see that.
        .pragma("recursive_triggers", "on");
    SqlitePoolOptions::new().max_connections(connections).connect_with(options).await
}
