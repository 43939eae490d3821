//! Registration and unregistration: one seat a person, over two kinds in one transaction.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use serde::Serialize;
use utoipa::ToSchema;

use super::tasks::{self, Push};
use super::{App, Problem};

/// What a registration or its end leaves.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Seats {
    /// How many seats are left.
    pub(crate) seats_available: i64,
    /// The conference's new version.
    pub(crate) version: i64,
}

/// Takes a seat, and lets a confirmation be mailed.
pub(crate) async fn register(app: &App, conference: i64, profile: &str) -> Result<Seats, Problem> {
    retried(|| try_to_register(app, conference, profile)).await
}

/// Gives a seat back.
pub(crate) async fn unregister(app: &App, conference: i64, profile: &str) -> Result<Seats, Problem> {
    retried(|| try_to_unregister(app, conference, profile)).await
}

async fn try_to_register(app: &App, conference: i64, profile: &str) -> Result<Seats, Problem> {
    let id = format!("{conference}:{profile}");
    let mut tx = app.store.begin().await?;
    let sql = "insert into profile (id, name) values ($1, $1) on conflict do nothing";
    sqlx::query(sql).bind(profile).execute(&mut **tx).await?;
    let sql = "select name from conference where id = $1";
    let name: Option<String> = sqlx::query_scalar(sql).bind(conference).fetch_optional(&mut **tx).await?;
    let name = name.ok_or(Problem::NotFound("The conference"))?;
    let sql = "insert into registration (id, conference, profile) values ($1, $2, $3) on conflict do nothing";
    let inserted = sqlx::query(sql).bind(&id).bind(conference).bind(profile).execute(&mut **tx).await?;
    if inserted.rows_affected() == 0 {
        return Err(Problem::Conflict("You are already registered for this conference."));
    }
    let sql = "update conference set seats_available = seats_available - 1, version = version + 1
        where id = $1 and seats_available > 0 returning seats_available, version";
    let left = sqlx::query_as(sql).bind(conference).fetch_optional(&mut **tx).await?;
    let (seats_available, version) = left.ok_or(Problem::Conflict("There are no seats available."))?;
    let mail = serde_json::json!({ "registration": format!("{id}@{version}"), "to": profile, "conference": name });
    tasks::push(&mut tx, Push { url: tasks::MAIL_URL.to_owned(), params: mail }, &app.settings).await?;
    tx.commit().await?;
    Ok(Seats { seats_available, version })
}

async fn try_to_unregister(app: &App, conference: i64, profile: &str) -> Result<Seats, Problem> {
    let mut tx = app.store.begin().await?;
    let sql = "delete from registration where id = $1";
    let deleted = sqlx::query(sql).bind(format!("{conference}:{profile}")).execute(&mut **tx).await?;
    if deleted.rows_affected() == 0 {
        return Err(Problem::NotFound("The registration"));
    }
    let sql = "update conference set seats_available = seats_available + 1, version = version + 1
        where id = $1 returning seats_available, version";
    let (seats_available, version) = sqlx::query_as(sql).bind(conference).fetch_one(&mut **tx).await?;
    tx.commit().await?;
    Ok(Seats { seats_available, version })
}

/// Runs a transaction up to three times where it lost against another one.
async fn retried<T, F: Future<Output = Result<T, Problem>>>(transaction: impl FnMut() -> F) -> Result<T, Problem> {
    let pauses =
        ExponentialBuilder::default().with_min_delay(Duration::from_millis(10)).with_jitter().with_max_times(2);
    transaction.retry(pauses).when(is_conflict).await
}

/// Whether the datastore gave up a transaction for another one: PostgreSQL's serialization failure and deadlock,
/// SQLite's busy database.
fn is_conflict(problem: &Problem) -> bool {
    let Problem::Internal(error) = problem else { return false };
    let in_datastore = || match error.downcast_ref()? {
        larder_datastore::Error::Datastore(error) => Some(error),
        _ => None,
    };
    let Some(sqlx::Error::Database(error)) = error.downcast_ref::<sqlx::Error>().or_else(in_datastore) else {
        return false;
    };
    error.code().is_some_and(|code| matches!(&*code, "40001" | "40P01" | "5" | "6" | "517"))
}
