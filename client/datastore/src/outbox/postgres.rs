//! PostgreSQL's outbox.

use std::collections::HashMap;

use sqlx::postgres::{PgArguments, PgConnection, PgPool};
use sqlx::{Arguments, AssertSqlSafe, FromRow, Postgres};

use super::{Backend, Column, Member, OWN_MAX, Row, Scan};
use crate::ddl::Dialect;
use crate::rule::Value;

impl Backend for Postgres {
    const DIALECT: Dialect = Dialect::Postgres;
    type Lead = PgConnection;

    async fn begin(pool: &PgPool) -> sqlx::Result<(sqlx::Transaction<'static, Self>, i64)> {
        Ok((pool.begin().await?, 0))
    }

    async fn own_rows(tx: &mut sqlx::Transaction<'static, Self>, _: i64) -> sqlx::Result<Vec<Row>> {
        let sql = "select id, keys from larder_outbox where xid = pg_current_xact_id_if_assigned() limit $1";
        let rows: Vec<(i64, String)> = sqlx::query_as(sql).bind(OWN_MAX as i64 + 1).fetch_all(&mut **tx).await?;
        Ok(rows.into_iter().map(|(id, keys)| Row { id, keys }).collect())
    }

    async fn scan(pool: &PgPool, since: Option<&str>) -> sqlx::Result<Scan> {
        // Identities are not handed out in the order of commits. What the last snapshot could not see has a transaction
        // that was not over then: its number is at least that snapshot's lowest. One statement, so one snapshot.
        let sql = "with seen as (select pg_snapshot_xmin(pg_current_snapshot())::text as xmin) \
                   select 0::bigint, 0::bigint, xmin from seen \
                   union all select case when flushed then 2 else 1 end, 0, address from larder_node \
                   union all select 3, id, keys from larder_outbox where xid >= $1::text::xid8";
        let found: Vec<(i64, i64, String)> = sqlx::query_as(sql).bind(since.unwrap_or("0")).fetch_all(pool).await?;
        let mut scan = Scan { rows: Vec::new(), members: HashMap::new(), next: String::new() };
        for (what, id, text) in found {
            match what {
                0 => scan.next = text,
                1 => _ = scan.members.insert(text, Member::Joining),
                2 => _ = scan.members.insert(text, Member::Covered),
                _ => scan.rows.push(Row { id, keys: text }),
            }
        }
        Ok(scan)
    }

    async fn remaining(pool: &PgPool, ids: &[i64]) -> sqlx::Result<Vec<i64>> {
        sqlx::query_scalar("select id from larder_outbox where id = any($1)").bind(ids).fetch_all(pool).await
    }

    async fn remove(pool: &PgPool, ids: &[i64], answered: &[&str]) -> sqlx::Result<()> {
        let sql = "delete from larder_outbox where id = any($1) \
                   and not exists (select from larder_node where address <> all($2))";
        sqlx::query(sql).bind(ids).bind(answered).execute(pool).await.map(|_| ())
    }

    async fn set_member(pool: &PgPool, address: &str, member: Option<Member>) -> sqlx::Result<()> {
        let sql = match member {
            None => "delete from larder_node where address = $1",
            Some(Member::Joining) => "insert into larder_node (address) values ($1) on conflict do nothing",
            Some(Member::Covered) => "update larder_node set flushed = true where address = $1",
        };
        sqlx::query(sql).bind(address).execute(pool).await.map(|_| ())
    }

    async fn lead(pool: &PgPool, store: &str, lead: &mut Option<PgConnection>) -> sqlx::Result<bool> {
        if let Some(connection) = lead {
            // A lock is its session's. Where that is gone, so is the lock.
            if sqlx::query("select 1").execute(connection).await.is_ok() {
                return Ok(true);
            }
            *lead = None;
        }
        let mut connection = pool.acquire().await?;
        let sql = "select pg_try_advisory_lock(hashtextextended('larder:' || $1, 0))";
        let locked: bool = sqlx::query_scalar(sql).bind(store).fetch_one(&mut *connection).await?;
        if locked {
            *lead = Some(connection.detach());
        }
        Ok(locked)
    }

    async fn columns(pool: &PgPool, table: &str) -> sqlx::Result<Vec<Column>> {
        let sql = "select attname::text, format_type(atttypid, null), not attnotnull from pg_attribute \
                   where attrelid = to_regclass($1) and attnum > 0 and not attisdropped order by attnum";
        let rows: Vec<(String, String, bool)> = sqlx::query_as(sql).bind(table).fetch_all(pool).await?;
        Ok(rows.into_iter().map(|(name, kind, nullable)| Column { name, kind, nullable }).collect())
    }

    async fn objects(pool: &PgPool) -> sqlx::Result<Vec<String>> {
        let sql = "select tgname::text from pg_trigger where tgname like 'larder\\_%' and tgenabled in ('O', 'A') \
                   union all select relname::text from pg_class where relname like 'larder\\_%' and relkind in ('r', 'i') \
                   and (relkind = 'r' or exists (select from pg_index where indexrelid = pg_class.oid and indisvalid))";
        sqlx::query_scalar(sql).fetch_all(pool).await
    }

    async fn apply(pool: &PgPool, sql: String) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(|_| ())
    }

    async fn prepare(_: &PgPool) -> crate::Result<()> {
        Ok(())
    }

    async fn fetch<T>(pool: &PgPool, sql: String, values: &[Value]) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, Self::Row> + Send + Unpin + 'static,
    {
        sqlx::query_as_with(AssertSqlSafe(sql), arguments(values)?).fetch_all(pool).await
    }

    async fn text(pool: &PgPool, sql: String, values: &[Value]) -> sqlx::Result<Option<String>> {
        sqlx::query_scalar_with(AssertSqlSafe(sql), arguments(values)?).fetch_optional(pool).await
    }
}

fn arguments(values: &[Value]) -> sqlx::Result<PgArguments> {
    let mut arguments = PgArguments::default();
    for value in values {
        match value {
            Value::Integer(number) => arguments.add(*number),
            Value::Text(text) => arguments.add(text.clone()),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
