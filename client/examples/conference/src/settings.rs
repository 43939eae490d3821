//! How an instance runs.

use std::path::PathBuf;
use std::time::Duration;

/// The settings of an instance.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// The datastore: sqlite://conference.db or postgres://user@host/database
    #[arg(long, default_value = "sqlite://conference.db")]
    pub(crate) datastore: String,
    /// The cache's nodes, each host:port
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:11211")]
    pub(crate) servers: Vec<String>,
    /// Confirmation mails are written to this folder, or go to a relay: smtp://host:port
    #[arg(long, default_value = "mail", overrides_with = "mail")]
    pub(crate) mail: String,
    /// How long a pushed task may take, in seconds
    #[arg(long, default_value_t = 600)]
    pub(crate) task_limit: u64,
    /// How often a task is tried before it becomes a dead letter
    #[arg(long, default_value_t = 5)]
    pub(crate) task_tries: usize,
    /// How long a lease of the pull queue lasts unless it is renewed, in seconds
    #[arg(long, default_value_t = 60)]
    pub(crate) lease_seconds: u64,
    /// Missing triggers and indexes are written to this folder as migrations, and are made; without it the start fails
    #[arg(long)]
    pub(crate) write_migrations: Option<PathBuf>,
    /// Reads go past the cache, for a comparison
    #[arg(long)]
    pub(crate) without_cache: bool,
}

impl Settings {
    pub(crate) fn is_postgres(&self) -> bool {
        self.datastore.starts_with("postgres")
    }
}

/// How old a read may be.
pub(crate) const BOUND: Duration = Duration::from_secs(1);
