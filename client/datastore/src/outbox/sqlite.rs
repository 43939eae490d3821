//! SQLite's outbox. There is one writer at a time, so that rows are numbered in the order of commits.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::sqlite::{SqliteArguments, SqlitePool};
use sqlx::{Arguments, AssertSqlSafe, FromRow, Sqlite};

use super::{Backend, Column, Member, OWN_MAX, Row, Scan};
use crate::ddl::Dialect;
use crate::error::Error;
use crate::rule::Value;

/// For how long the lead is taken, in milliseconds. All processes of a SQLite file share a machine, and so a clock.
const LEAD: i64 = 1000;

/// Who has the lead, and until when it need not be renewed.
#[derive(Debug)]
pub struct Lead {
    name: String,
    renew_at: i64,
}

impl Backend for Sqlite {
    const DIALECT: Dialect = Dialect::Sqlite;
    type Lead = Lead;

    async fn begin(pool: &SqlitePool) -> sqlx::Result<(sqlx::Transaction<'static, Self>, i64)> {
        // A transaction that reads first and then writes could find its snapshot outdated.
        let mut tx = pool.begin_with("begin immediate").await?;
        let sql = "select coalesce(max(id), 0) from larder_outbox";
        let last = sqlx::query_scalar(sql).fetch_one(&mut *tx).await?;
        Ok((tx, last))
    }

    async fn own_rows(tx: &mut sqlx::Transaction<'static, Self>, since: i64) -> sqlx::Result<Vec<Row>> {
        let sql = "select id, keys from larder_outbox where id > $1 limit $2";
        let rows: Vec<(i64, String)> =
            sqlx::query_as(sql).bind(since).bind(OWN_MAX as i64 + 1).fetch_all(&mut **tx).await?;
        Ok(rows.into_iter().map(|(id, keys)| Row { id, keys }).collect())
    }

    async fn scan(pool: &SqlitePool, since: Option<&str>) -> sqlx::Result<Scan> {
        let sql = "select case when flushed then 2 else 1 end, 0, address from larder_node \
                   union all select 3, id, keys from larder_outbox where id > $1";
        let since: i64 = since.and_then(|since| since.parse().ok()).unwrap_or(0);
        let found: Vec<(i64, i64, String)> = sqlx::query_as(sql).bind(since).fetch_all(pool).await?;
        let (mut rows, mut members, mut last) = (Vec::new(), HashMap::new(), since);
        for (what, id, text) in found {
            match what {
                1 => _ = members.insert(text, Member::Joining),
                2 => _ = members.insert(text, Member::Covered),
                _ => {
                    last = last.max(id);
                    rows.push(Row { id, keys: text });
                }
            }
        }
        Ok(Scan { rows, members, next: last.to_string() })
    }

    async fn remaining(pool: &SqlitePool, ids: &[i64]) -> sqlx::Result<Vec<i64>> {
        let sql = "select id from larder_outbox where id in (select value from json_each($1))";
        sqlx::query_scalar(sql).bind(json(ids)).fetch_all(pool).await
    }

    async fn remove(pool: &SqlitePool, ids: &[i64], answered: &[&str]) -> sqlx::Result<()> {
        let sql = "delete from larder_outbox where id in (select value from json_each($1)) \
                   and not exists (select 1 from larder_node where address not in (select value from json_each($2)))";
        sqlx::query(sql).bind(json(ids)).bind(json(answered)).execute(pool).await.map(|_| ())
    }

    async fn set_member(pool: &SqlitePool, address: &str, member: Option<Member>) -> sqlx::Result<()> {
        let sql = match member {
            None => "delete from larder_node where address = $1",
            Some(Member::Joining) => "insert or ignore into larder_node (address) values ($1)",
            Some(Member::Covered) => "update larder_node set flushed = 1 where address = $1",
        };
        sqlx::query(sql).bind(address).execute(pool).await.map(|_| ())
    }

    async fn lead(pool: &SqlitePool, store: &str, lead: &mut Option<Lead>) -> sqlx::Result<bool> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        // A clock that was set back would keep the lead for as long.
        if lead.as_ref().is_some_and(|lead| now < lead.renew_at && lead.renew_at < now + LEAD) {
            return Ok(true);
        }
        let name = lead.take().map_or_else(|| format!("{:x}", rand::random::<u64>()), |lead| lead.name);
        let held =
            "select count(*) from larder_meta where store = $1 and leader <> $2 and until between $3 and $3 + $4";
        let held: i64 = sqlx::query_scalar(held).bind(store).bind(&name).bind(now).bind(LEAD).fetch_one(pool).await?;
        if held > 0 {
            return Ok(false);
        }
        let sql = "insert into larder_meta (store, leader, until) values ($1, $2, $3 + $4) on conflict (store) do update \
                   set leader = $2, until = $3 + $4 where leader = $2 or until not between $3 and $3 + $4";
        let taken = sqlx::query(sql).bind(store).bind(&name).bind(now).bind(LEAD).execute(pool).await?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        *lead = Some(Lead { name, renew_at: now + LEAD / 2 });
        Ok(true)
    }

    async fn columns(pool: &SqlitePool, table: &str) -> sqlx::Result<Vec<Column>> {
        // An integer primary key is never NULL, whatever was declared.
        let sql = "select name, lower(type), \"notnull\" = 0 and not (pk = 1 and lower(type) = 'integer') \
                   from pragma_table_info($1) order by cid";
        let rows: Vec<(String, String, bool)> = sqlx::query_as(sql).bind(table).fetch_all(pool).await?;
        Ok(rows.into_iter().map(|(name, kind, nullable)| Column { name, kind, nullable }).collect())
    }

    async fn objects(pool: &SqlitePool) -> sqlx::Result<Vec<String>> {
        sqlx::query_scalar("select name from sqlite_master where name like 'larder\\_%' escape '\\'")
            .fetch_all(pool)
            .await
    }

    async fn apply(pool: &SqlitePool, sql: String) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(|_| ())
    }

    async fn prepare(pool: &SqlitePool) -> crate::Result<()> {
        // Without it INSERT OR REPLACE removes rows behind the triggers' back.
        let options = (*pool.connect_options()).clone().pragma("recursive_triggers", "on");
        pool.set_connect_options(options);
        let on: bool = sqlx::query_scalar("pragma recursive_triggers").fetch_one(pool).await?;
        if on {
            return Ok(());
        }
        let what = "open the pool with SqliteConnectOptions::pragma(\"recursive_triggers\", \"on\"): without it INSERT OR REPLACE \
                    removes rows that no trigger sees";
        Err(Error::Rule(what.to_owned()))
    }

    async fn fetch<T>(pool: &SqlitePool, sql: String, values: &[Value]) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, Self::Row> + Send + Unpin + 'static,
    {
        sqlx::query_as_with(AssertSqlSafe(sql), arguments(values)?).fetch_all(pool).await
    }

    async fn text(pool: &SqlitePool, sql: String, values: &[Value]) -> sqlx::Result<Option<String>> {
        sqlx::query_scalar_with(AssertSqlSafe(sql), arguments(values)?).fetch_optional(pool).await
    }
}

fn json<T: serde::Serialize>(values: &[T]) -> String {
    serde_json::json!(values).to_string()
}

fn arguments(values: &[Value]) -> sqlx::Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        match value {
            Value::Integer(number) => arguments.add(*number),
            Value::Text(text) => arguments.add(text.clone()),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
