//! The demo's datastore: users' profiles and posts in SQLite, read through indexes and changed in transactions.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};

const FIRST: [&str; 16] = [
    "Ada", "Björn", "Chiara", "Dmitri", "Elif", "Femi", "Grace", "Hiro", "Inés", "Jamal", "Kateryna", "Linus", "Mei",
    "Noor", "Olga", "Paulo",
];
const LAST: [&str; 12] = [
    "Almeida", "Brandt", "Castillo", "Dubois", "Eze", "Fujita", "Hopper", "Ivanova", "Jensen", "Kaya", "Lovelace",
    "Okafor",
];
const CITIES: [&str; 8] = ["Lisbon", "Oslo", "Lagos", "Kyoto", "Quito", "Izmir", "Lviv", "Toronto"];
const WORDS: [&str; 24] = [
    "cache", "morning", "river", "train", "coffee", "release", "tests", "green", "market", "letter", "garden", "query",
    "night", "index", "bread", "window", "signal", "harbour", "paper", "winter", "bridge", "music", "latency",
    "summer",
];

/// Posts of each user at the start.
const POSTS_PER_USER: u32 = 5;

/// A user's page: the profile and the latest posts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Page {
    /// The user's number, from 0.
    pub(super) id: u32,
    /// The version; each committed change adds one.
    pub(super) version: u64,
    /// Display name.
    pub(super) name: String,
    /// City of residence.
    pub(super) city: String,
    /// A short text about the user.
    pub(super) about: String,
    /// The latest posts, newest first.
    pub(super) posts: Vec<String>,
}

/// The datastore. Clones share its connections.
#[derive(Debug, Clone)]
pub(super) struct Datastore {
    readers: Arc<Pool>,
    writer: Arc<Pool>,
}

/// Connections, each used by one task at a time.
#[derive(Debug)]
struct Pool {
    free: parking_lot::Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Pool {
    fn new(connections: Vec<Connection>) -> Arc<Self> {
        Arc::new(Pool { permits: Semaphore::new(connections.len()), free: parking_lot::Mutex::new(connections) })
    }

    /// Runs `work` with a connection, on a thread that may block.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let pool = self.clone();
        let _permit = self.permits.acquire().await?;
        tokio::task::spawn_blocking(move || {
            let mut connection = pool.free.lock().pop().context("a permit stands for a connection")?;
            let result = work(&mut connection);
            pool.free.lock().push(connection);
            Ok(result?)
        })
        .await?
    }
}

impl Datastore {
    /// Creates a datastore in `folder` with `users` users. `progress` receives the number of users so far.
    pub(super) async fn create(folder: &Path, users: u32, progress: mpsc::UnboundedSender<u32>) -> Result<Datastore> {
        let file = folder.join("datastore.sqlite");
        let open = move || -> Result<Connection> {
            let connection = Connection::open(&file)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            Ok(connection)
        };
        tokio::task::spawn_blocking(move || {
            let mut writer = open()?;
            fill(&mut writer, users, &progress)?;
            let readers = (0..4).map(|_| open()).collect::<Result<Vec<_>>>()?;
            Ok(Datastore { readers: Pool::new(readers), writer: Pool::new(vec![writer]) })
        })
        .await?
    }

    /// Returns a user's page as JSON.
    pub(super) async fn page(&self, id: u32) -> Result<Bytes> {
        let page = self.readers.run(move |connection| read_page(connection, id)).await?;
        let page = page.with_context(|| format!("there is no user {id}"))?;
        Ok(serde_json::to_vec(&page)?.into())
    }

    /// Adds a post to a user's page in a transaction and returns the page's new version.
    pub(super) async fn post(&self, id: u32, text: String) -> Result<u64> {
        self.writer
            .run(move |connection| {
                let transaction = connection.transaction()?;
                transaction
                    .prepare_cached("insert into posts (user, text) values (?1, ?2)")?
                    .execute(params![id, text])?;
                let version = transaction
                    .prepare_cached("update users set version = version + 1 where id = ?1 returning version")?
                    .query_row([id], |row| row.get(0))?;
                transaction.commit()?;
                Ok(version)
            })
            .await
    }
}

fn fill(connection: &mut Connection, users: u32, progress: &mpsc::UnboundedSender<u32>) -> Result<()> {
    connection.execute_batch(
        "create table users (id integer primary key, version integer not null, name text not null, city text not null,
                             about text not null);
         create table posts (id integer primary key, user integer not null, text text not null);
         create index posts_by_user on posts (user, id desc);",
    )?;
    let mut random = StdRng::seed_from_u64(1);
    for batch in (0..users).collect::<Vec<_>>().chunks(1000) {
        let transaction = connection.transaction()?;
        {
            let mut user = transaction.prepare_cached("insert into users values (?1, 1, ?2, ?3, ?4)")?;
            let mut post = transaction.prepare_cached("insert into posts (user, text) values (?1, ?2)")?;
            for &id in batch {
                let name = format!("{} {}", pick(&FIRST, &mut random), pick(&LAST, &mut random));
                let about_words = random.random_range(6..20);
                user.execute(params![id, name, pick(&CITIES, &mut random), sentence(about_words, &mut random)])?;
                for _ in 0..POSTS_PER_USER {
                    let words = random.random_range(5..30);
                    post.execute(params![id, sentence(words, &mut random)])?;
                }
            }
        }
        transaction.commit()?;
        // Sending fails if nobody shows the progress.
        let _ = progress.send(batch.last().map_or(0, |id| id + 1));
    }
    Ok(())
}

fn pick<'a>(words: &[&'a str], random: &mut StdRng) -> &'a str {
    words.choose(random).copied().unwrap_or_default()
}

/// Returns a sentence of this many random words.
pub(super) fn sentence(words: usize, random: &mut StdRng) -> String {
    (0..words).map(|_| pick(&WORDS, random)).collect::<Vec<_>>().join(" ")
}

fn read_page(connection: &mut Connection, id: u32) -> rusqlite::Result<Option<Page>> {
    // One snapshot for both queries: the posts belong to the version.
    let snapshot = connection.transaction()?;
    let page = snapshot
        .prepare_cached("select version, name, city, about from users where id = ?1")?
        .query_row([id], |row| {
            Ok(Page {
                id,
                version: row.get(0)?,
                name: row.get(1)?,
                city: row.get(2)?,
                about: row.get(3)?,
                posts: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut page) = page else { return Ok(None) };
    let mut posts = snapshot.prepare_cached("select text from posts where user = ?1 order by id desc limit 10")?;
    page.posts = posts.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(Some(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_post_raises_the_version_and_stands_first_on_the_page() {
        let folder = tempfile::tempdir().unwrap();
        let (progress, _) = mpsc::unbounded_channel();
        let datastore = Datastore::create(folder.path(), 10, progress).await.unwrap();
        let version = datastore.post(3, "hello".to_owned()).await.unwrap();
        let page: Page = serde_json::from_slice(&datastore.page(3).await.unwrap()).unwrap();
        assert_eq!((page.version, version), (2, 2));
        assert_eq!(page.posts[0], "hello");
        assert_eq!(page.posts.len(), 6);
        assert!(datastore.page(10).await.is_err());
    }
}
