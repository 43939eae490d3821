//! What can go wrong.

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The datastore said no, or could not be reached.
    #[error("the datastore: {0}")]
    Datastore(#[from] sqlx::Error),
    /// A read through the cache failed: the loader did, or a hit was too old for
    /// [`NotFresh::Fail`](larder_client::NotFresh::Fail).
    #[error(transparent)]
    Cache(#[from] larder_client::Error),
    /// A rule, kind or list that cannot work, in words.
    #[error("{0}")]
    Rule(String),
    /// Triggers or indexes are missing, and may not be made here. `sql` makes them.
    #[error("the datastore lacks {names}; apply this as a migration:\n{sql}")]
    Missing {
        /// What is missing.
        names: String,
        /// The statements that make it.
        sql: String,
    },
    /// A migration could not be written.
    #[error("{path}: {error}")]
    Migration {
        /// The file.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
}

impl Error {
    /// Whether the datastore gave a transaction up for another one, so that it is worth running again: PostgreSQL's
    /// serialization failure (`40001`) and deadlock (`40P01`), SQLite's busy or locked database (5, 6) and outdated
    /// snapshot (517).
    pub fn is_conflict(&self) -> bool {
        let Error::Datastore(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| matches!(&*code, "40001" | "40P01" | "5" | "6" | "517"))
    }
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
