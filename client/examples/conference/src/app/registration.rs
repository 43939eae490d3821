//! Registration and unregistration: one seat a person, over two kinds in one transaction.

use std::time::Duration;

use axum::http::StatusCode;
use backon::{ExponentialBuilder, Retryable};
use serde::Serialize;
use utoipa::ToSchema;

use super::tasks::{self, Push};
use super::{App, Problem, Result, refused};

/// What a registration or its end leaves.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Seats {
    /// How many seats are left.
    pub(crate) seats_available: i64,
    /// The conference's new version.
    pub(crate) version: i64,
}

/// Takes a seat, and lets a confirmation be mailed.
pub(crate) async fn register(app: &App, conference: i64, profile: &str) -> Result<Seats> {
    check_address(profile)?;
    retried(|| async {
        let id = format!("{conference}:{profile}");
        let mut tx = app.store.begin().await?;
        let sql = "insert into profile (id, name) values ($1, $1) on conflict do nothing";
        sqlx::query(sql).bind(profile).execute(&mut **tx).await?;
        let sql = "select name from conference where id = $1";
        let name: Option<String> = sqlx::query_scalar(sql).bind(conference).fetch_optional(&mut **tx).await?;
        let name = name.ok_or_else(|| refused(StatusCode::NOT_FOUND, "The conference was not found."))?;
        let sql = "insert into registration (id, conference, profile) values ($1, $2, $3) on conflict do nothing";
        let inserted = sqlx::query(sql).bind(&id).bind(conference).bind(profile).execute(&mut **tx).await?;
        if inserted.rows_affected() == 0 {
            return Err(refused(StatusCode::CONFLICT, "You are already registered for this conference."));
        }
        let sql = "update conference set seats_available = seats_available - 1, version = version + 1
            where id = $1 and seats_available > 0 returning seats_available, version";
        let left = sqlx::query_as(sql).bind(conference).fetch_optional(&mut **tx).await?;
        let (seats_available, version) =
            left.ok_or_else(|| refused(StatusCode::CONFLICT, "There are no seats available."))?;
        let mail = serde_json::json!({ "registration": format!("{id}@{version}"), "to": profile, "conference": name });
        tasks::push(&mut tx, Push { url: tasks::MAIL_URL.to_owned(), params: mail }, &app.settings).await?;
        tx.commit().await?;
        Ok(Seats { seats_available, version })
    })
    .await
}

/// Gives a seat back.
pub(crate) async fn unregister(app: &App, conference: i64, profile: &str) -> Result<Seats> {
    check_address(profile)?;
    retried(|| async {
        let mut tx = app.store.begin().await?;
        let sql = "delete from registration where id = $1";
        let deleted = sqlx::query(sql).bind(format!("{conference}:{profile}")).execute(&mut **tx).await?;
        if deleted.rows_affected() == 0 {
            return Err(refused(StatusCode::NOT_FOUND, "The registration was not found."));
        }
        let sql = "update conference set seats_available = seats_available + 1, version = version + 1
            where id = $1 returning seats_available, version";
        let (seats_available, version) = sqlx::query_as(sql).bind(conference).fetch_one(&mut **tx).await?;
        tx.commit().await?;
        Ok(Seats { seats_available, version })
    })
    .await
}

/// Refuses what no mail can go to.
pub(super) fn check_address(text: &str) -> Result<()> {
    let is_one = text.chars().count() <= 200 && text.parse::<lettre::Address>().is_ok();
    if is_one { Ok(()) } else { Err(refused(StatusCode::BAD_REQUEST, "That is no mail address of up to 200 letters.")) }
}

/// Runs a transaction up to three times where the datastore gave it up for another one.
async fn retried<F: Future<Output = Result<Seats>>>(transaction: impl FnMut() -> F) -> Result<Seats> {
    let pauses = ExponentialBuilder::new().with_min_delay(Duration::from_millis(10)).with_jitter().with_max_times(2);
    let lost = |problem: &Problem| matches!(problem, Problem::Datastore(error) if error.is_conflict());
    transaction.retry(pauses).when(lost).await
}
