//! The outbox: which keys are to be deleted, written by triggers in the writer's transaction. And all else that is said
//! in a datastore's own SQL.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::HashMap;
use std::future::Future;

use sqlx::{Database, FromRow, Pool};

use crate::ddl::Dialect;
use crate::rule::Value;

/// A datastore that has an outbox: [`sqlx::Sqlite`] and [`sqlx::Postgres`].
pub trait Backend: Database<QueryResult: Send> + Sized {
    #[doc(hidden)]
    const DIALECT: Dialect;

    /// What keeps the lead for as long as it is kept.
    #[doc(hidden)]
    type Lead: Send;

    /// Begins a transaction, and where its rows in the outbox begin.
    #[doc(hidden)]
    fn begin(pool: &Pool<Self>) -> impl Future<Output = sqlx::Result<(sqlx::Transaction<'static, Self>, i64)>> + Send;

    /// The rows that this transaction has written to the outbox.
    #[doc(hidden)]
    fn own_rows(
        tx: &mut sqlx::Transaction<'static, Self>,
        since: i64,
    ) -> impl Future<Output = sqlx::Result<Vec<Row>>> + Send;

    /// In one snapshot: the nodes that rows are kept for, and the rows that no scan before `since` could see (and
    /// perhaps more).
    #[doc(hidden)]
    fn scan(pool: &Pool<Self>, since: Option<&str>) -> impl Future<Output = sqlx::Result<Scan>> + Send;

    /// Those of the rows `ids` that are there.
    #[doc(hidden)]
    fn remaining(pool: &Pool<Self>, ids: &[i64]) -> impl Future<Output = sqlx::Result<Vec<i64>>> + Send;

    /// Removes the rows `ids`, unless rows are kept for a node beside those that `answered`.
    #[doc(hidden)]
    fn remove(pool: &Pool<Self>, ids: &[i64], answered: &[&str]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Keeps rows for a node, notes that it was flushed since, or keeps them no longer.
    #[doc(hidden)]
    fn set_member(
        pool: &Pool<Self>,
        address: &str,
        member: Option<Member>,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Takes the lead, or keeps it; `false` where another has it.
    #[doc(hidden)]
    fn lead(
        pool: &Pool<Self>,
        store: &str,
        lead: &mut Option<Self::Lead>,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// The columns of a table: name, type, and whether it may be NULL.
    #[doc(hidden)]
    fn columns(pool: &Pool<Self>, table: &str) -> impl Future<Output = sqlx::Result<Vec<Column>>> + Send;

    /// The names of the tables, triggers and indexes that are there and that begin with `larder_`.
    #[doc(hidden)]
    fn objects(pool: &Pool<Self>) -> impl Future<Output = sqlx::Result<Vec<String>>> + Send;

    /// Runs statements.
    #[doc(hidden)]
    fn apply(pool: &Pool<Self>, sql: String) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// What the connections of the pool must be set to.
    #[doc(hidden)]
    fn prepare(pool: &Pool<Self>) -> impl Future<Output = crate::Result<()>> + Send;

    /// Rows as structs.
    #[doc(hidden)]
    fn fetch<T>(pool: &Pool<Self>, sql: String, values: &[Value]) -> impl Future<Output = sqlx::Result<Vec<T>>> + Send
    where
        T: for<'r> FromRow<'r, Self::Row> + Send + Unpin + 'static;

    /// A text, of a query that has one row of one column.
    #[doc(hidden)]
    fn text(
        pool: &Pool<Self>,
        sql: String,
        values: &[Value],
    ) -> impl Future<Output = sqlx::Result<Option<String>>> + Send;
}

/// Rows that an own transaction reads back at most. One that has more flushes the nodes.
pub(crate) const OWN_MAX: usize = 100_000;

/// A row of the outbox: a changed row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub(crate) id: i64,
    /// JSON arrays one after the other, each of a rule's name and the values of a key: `["page",7] ["city","Paris"] `.
    pub(crate) keys: String,
}

impl Row {
    /// The rules' names, and the values of their keys. A key with a value that no reader can have asked for is left
    /// out.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (String, Vec<Value>)> {
        let arrays = serde_json::Deserializer::from_str(&self.keys).into_iter::<Vec<serde_json::Value>>();
        arrays.map_while(Result::ok).filter_map(|array| {
            let (rule, values) = array.split_first()?;
            let values = values.iter().map(Value::from_json).collect::<Option<_>>()?;
            Some((rule.as_str()?.to_owned(), values))
        })
    }
}

/// Whether a node was flushed since rows are kept for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// It may hold items that are older than the rows.
    Joining,
    /// All changes that its items may not show are in the outbox.
    Covered,
}

/// What one look at the outbox finds.
#[derive(Debug)]
pub struct Scan {
    pub(crate) rows: Vec<Row>,
    pub(crate) members: HashMap<String, Member>,
    /// For the next scan.
    pub(crate) next: String,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) nullable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_the_keys_of_several_rules_and_one_that_is_none_hides_no_other() {
        let keys = r#"["a",7,true] ["b",null] ["c",1.5] ["d",[1]] ["e","Zürich\n\"] ["] [] [7] ["*"] "#;
        let row = Row { id: 1, keys: keys.to_owned() };
        let found: Vec<_> = row.keys().collect();
        let expected = [("a", vec![7.into(), 1.into()]), ("e", vec!["Zürich\n\"] [".into()]), ("*", vec![])];
        assert_eq!(found, expected.map(|(rule, values)| (rule.to_owned(), values)));
    }
}
