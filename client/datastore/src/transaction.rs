//! Transactions whose changes are deleted from the cache without anybody saying so.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::Pool;
use tokio::sync::mpsc;

use crate::error::Result;
use crate::invalidator::{delete_at, keys_of};
use crate::outbox::Backend;
use crate::store::Inner;

/// A transaction of the datastore, which it is in all but its end: see [`Datastore::begin`](crate::Datastore::begin).
///
/// It has no reads through the cache: what it reads comes from the datastore, as of its own moment. Dropped, it is
/// rolled back.
#[derive(Debug)]
pub struct Transaction<DB: Backend> {
    inner: sqlx::Transaction<'static, DB>,
    /// Where its rows in the outbox begin.
    since: i64,
    store: Arc<Inner<DB>>,
}

/// How far the deletes of a commit have got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// Every node has deleted what was changed: no read that begins now finds the old value.
    Everywhere,
    /// A node did not answer. The invalidator goes on; a strict reader waits no longer than its bound.
    Later,
}

/// A step of a commit that is done.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The transaction's own rows of the outbox were read.
    Read,
    /// The datastore has committed.
    Committed,
    /// A node has answered the deletes, or failed to.
    DeletedAtOne,
    /// All nodes have.
    Deleted,
}

impl<DB: Backend> Transaction<DB> {
    pub(crate) async fn begin(store: Arc<Inner<DB>>) -> Result<Transaction<DB>> {
        let (inner, since) = DB::begin(&store.pool).await?;
        Ok(Transaction { inner, since, store })
    }

    /// Commits, and then deletes the keys that the changes make old from every node.
    ///
    /// # Errors
    /// The commit failed. If the connection broke meanwhile, it is not known whether the commit took place. A failure
    /// of the cache is never an error.
    pub async fn commit(self) -> Result<Delivered> {
        self.commit_watched(|_| ()).await
    }

    /// Like [`Transaction::commit`]; `at` is called after each step. `larder-bench coherence` dies there.
    #[doc(hidden)]
    pub async fn commit_watched(mut self, at: impl Fn(Step) + Send + Sync) -> Result<Delivered> {
        let rows = DB::own_rows(&mut self.inner, self.since).await?;
        at(Step::Read);
        self.inner.commit().await?;
        at(Step::Committed);
        if rows.is_empty() {
            return Ok(Delivered::Everywhere);
        }
        let keys = keys_of(&self.store.prefix, &rows);
        let nodes = self.store.cache.every_node();
        let deletes = nodes.iter().map(async |node| {
            let deleted = delete_at(node, keys.as_deref()).await;
            at(Step::DeletedAtOne);
            deleted
        });
        let deletes = join_all(deletes).await;
        at(Step::Deleted);
        let answered: Vec<Arc<str>> = nodes
            .iter()
            .zip(&deletes)
            .filter(|(_, deleted)| deleted.is_ok())
            .map(|(node, _)| node.address().clone())
            .collect();
        let everywhere = answered.len() == nodes.len();
        let done = Done { ids: rows.iter().map(|row| row.id).collect(), answered };
        // Without it the invalidator cleans up.
        let _ = self.store.done.send(done);
        Ok(if everywhere { Delivered::Everywhere } else { Delivered::Later })
    }

    /// Ends it without a change.
    ///
    /// # Errors
    /// Where the datastore could not be reached; then it ends with its connection.
    pub async fn rollback(self) -> Result<()> {
        Ok(self.inner.rollback().await?)
    }
}

impl<DB: Backend> Deref for Transaction<DB> {
    type Target = sqlx::Transaction<'static, DB>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl<DB: Backend> DerefMut for Transaction<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

/// Rows that these nodes have taken.
#[derive(Debug)]
pub(crate) struct Done {
    ids: Vec<i64>,
    answered: Vec<Arc<str>>,
}

/// How long rows are collected before they are removed together.
const BATCH: Duration = Duration::from_millis(20);

/// Removes the rows of this process's own commits, for as long as it is polled.
pub(crate) async fn clean_up<DB: Backend>(pool: Pool<DB>, mut done: mpsc::UnboundedReceiver<Done>) {
    while let Some(first) = done.recv().await {
        tokio::time::sleep(BATCH).await;
        let mut by_nodes: HashMap<Vec<Arc<str>>, Vec<i64>> = HashMap::new();
        let mut next = Some(first);
        while let Some(Done { ids, answered }) = next {
            by_nodes.entry(answered).or_default().extend(ids);
            next = done.try_recv().ok();
        }
        for (answered, ids) in by_nodes {
            let answered: Vec<&str> = answered.iter().map(|node| &**node).collect();
            if let Err(error) = DB::remove(&pool, &ids, &answered).await {
                tracing::debug!(%error, "the invalidator cleans up");
            }
        }
    }
}
