//! The JSON API, for devices: cursors, and only the fields that a small screen needs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use larder_datastore::{Entity, Page};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{Conference, Registration, Session};
use super::registration::{self, Seats};
use super::{App, Result, Shared, refused};

/// How many items a page has unless the client asks for another number.
const PAGE: usize = 20;
const PAGE_MAX: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(conferences, create))
        .routes(routes!(conference))
        .routes(routes!(sessions))
        .routes(routes!(register))
        .routes(routes!(unregister))
        .routes(routes!(registrations))
}

/// Which conferences.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    pub(super) city: String,
    /// Only in this month.
    #[param(minimum = 1, maximum = 12)]
    pub(super) month: Option<i64>,
    /// Only those with seats left; not together with a month.
    #[serde(default)]
    pub(super) open: bool,
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
    #[param(minimum = 1, maximum = 100)]
    pub(super) limit: Option<usize>,
    /// Only these fields, separated by commas.
    pub(super) fields: Option<String>,
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
struct Items {
    items: Vec<Value>,
    /// The cursor of the next page; none at the end.
    next: Option<String>,
}

/// Conferences of a city, by name.
#[utoipa::path(get, path = "/api/conferences", tag = "conferences", params(Search),
    responses((status = 200, body = Items), (status = 304, description = "Not modified"),
        (status = 400, description = "A parameter that is none")))]
async fn conferences(State(app): Shared, Query(search): Query<Search>) -> Result<Json<Items>> {
    let page = found(&app, &search).await?;
    let items = page.items.iter().map(|item| only(item, search.fields.as_deref())).collect::<Result<_>>()?;
    Ok(Json(Items { items, next: page.next }))
}

/// The conferences that a search finds, from the cache.
pub(super) async fn found(app: &App, search: &Search) -> Result<Page<Conference>> {
    let (city, limit) = (search.city.as_str(), search.limit.unwrap_or(PAGE));
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(refused(StatusCode::BAD_REQUEST, format!("limit is 1 to {PAGE_MAX}.")));
    }
    if app.settings.without_cache {
        // Only the search that the load does.
        let sql = "select * from conference where city = $1 order by name, id limit $2";
        let items = sqlx::query_as(sql).bind(city).bind(limit as i64).fetch_all(app.store.pool()).await?;
        return Ok(Page { items, next: None });
    }
    let list = match (search.month, search.open) {
        (None, false) => app.store.list::<Conference>("by_city", (city,)),
        (None, true) => app.store.list::<Conference>("open", (city,)),
        (Some(month), false) => app.store.list::<Conference>("by_city_and_month", (city, month)),
        (Some(_), true) => return Err(refused(StatusCode::BAD_REQUEST, "month and open do not go together.")),
    };
    Ok(list?.page(search.cursor.as_deref(), limit).await?)
}

/// Which fields.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Only these fields, separated by commas.
    fields: Option<String>,
}

/// A conference.
#[utoipa::path(get, path = "/api/conferences/{id}", tag = "conferences", params(Wanted),
    responses((status = 200, body = Conference), (status = 304, description = "Not modified"),
        (status = 400, description = "A parameter that is none"), (status = 404, description = "No such conference")))]
async fn conference(State(app): Shared, Path(id): Path<i64>, Query(wanted): Query<Wanted>) -> Result<Json<Value>> {
    let found = if app.settings.without_cache {
        sqlx::query_as("select * from conference where id = $1").bind(id).fetch_optional(app.store.pool()).await?
    } else {
        app.store.get::<Conference>(id).await?
    };
    let conference = found.ok_or_else(|| refused(StatusCode::NOT_FOUND, "The conference was not found."))?;
    Ok(Json(only(&conference, wanted.fields.as_deref())?))
}

/// An item with only the fields that the client wants.
fn only<T: Entity>(item: &T, fields: Option<&str>) -> Result<Value> {
    let mut json = serde_json::to_value(item).map_err(anyhow::Error::from)?;
    if let (Some(fields), Some(object)) = (fields, json.as_object_mut()) {
        let wanted: Vec<&str> = fields.split(',').collect();
        if let Some(unknown) = wanted.iter().find(|field| !object.contains_key(**field)) {
            return Err(refused(StatusCode::BAD_REQUEST, format!("There is no field {unknown:?}.")));
        }
        object.retain(|field, _| wanted.contains(&field.as_str()));
    }
    Ok(json)
}

/// A conference that is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewConference {
    /// The organizer's mail address.
    #[schema(min_length = 3, max_length = 200, format = "email")]
    organizer: String,
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    #[schema(min_length = 1, max_length = 200)]
    city: String,
    #[schema(minimum = 1, maximum = 12)]
    month: i64,
    #[schema(minimum = 0, maximum = 1_000_000)]
    seats: i64,
    #[schema(max_length = 10_000)]
    about: String,
}

/// Adds a conference.
#[utoipa::path(post, path = "/api/conferences", tag = "conferences", responses((status = 201, body = Conference),
    (status = 400, description = "A value out of its range"), (status = 415, description = "Not JSON"),
    (status = 422, description = "Not a conference")))]
async fn create(State(app): Shared, Json(new): Json<NewConference>) -> Result<(StatusCode, Json<Conference>)> {
    registration::check_address(&new.organizer)?;
    let fits = |text: &str, most| text.chars().count() <= most && !text.contains('\0');
    let is_name = |text: &str| !text.is_empty() && fits(text, 200);
    if !is_name(&new.name) || !is_name(&new.city) || !fits(&new.about, 10_000) {
        let why = "name and city have 1 to 200 letters, about up to 10,000, and none is NUL.";
        return Err(refused(StatusCode::BAD_REQUEST, why));
    }
    if !(1..=12).contains(&new.month) || !(0..=1_000_000).contains(&new.seats) {
        return Err(refused(StatusCode::BAD_REQUEST, "month is 1 to 12, and seats is 0 to 1,000,000."));
    }
    let mut tx = app.store.begin().await?;
    let sql = "insert into profile (id, name) values ($1, $1) on conflict do nothing";
    sqlx::query(sql).bind(&new.organizer).execute(&mut **tx).await?;
    let sql = "insert into conference (id, organizer, name, city, month, seats, seats_available, about)
        values ((select coalesce(max(id), 0) + 1 from conference), $1, $2, $3, $4, $5, $5, $6) returning *";
    let insert = sqlx::query_as(sql).bind(&new.organizer).bind(&new.name).bind(&new.city).bind(new.month);
    let conference = insert.bind(new.seats).bind(&new.about).fetch_one(&mut **tx).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(conference)))
}

/// The sessions of a conference, by time.
#[utoipa::path(get, path = "/api/conferences/{id}/sessions", tag = "conferences",
    responses((status = 200, body = Vec<Session>), (status = 304, description = "Not modified"),
        (status = 400, description = "A parameter that is none")))]
async fn sessions(State(app): Shared, Path(id): Path<i64>) -> Result<Json<Vec<Session>>> {
    Ok(Json(app.store.list("of_conference", (id,))?.fetch(PAGE_MAX).await?))
}

/// Who registers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Person {
    /// The person's mail address.
    #[schema(min_length = 3, max_length = 200, format = "email")]
    profile: String,
}

/// Registers a person. A confirmation is mailed.
#[utoipa::path(post, path = "/api/conferences/{id}/registrations", tag = "registrations",
    responses((status = 201, body = Seats), (status = 400, description = "Not a mail address"),
        (status = 404, description = "No such conference"), (status = 409, description = "Registered already, or no seat"),
        (status = 415, description = "Not JSON"), (status = 422, description = "Not a person")))]
async fn register(
    State(app): Shared,
    Path(id): Path<i64>,
    Json(person): Json<Person>,
) -> Result<(StatusCode, Json<Seats>)> {
    Ok((StatusCode::CREATED, Json(registration::register(&app, id, &person.profile).await?)))
}

/// Ends the registration of a person: the seat is free again.
#[utoipa::path(delete, path = "/api/conferences/{id}/registrations/{profile}", tag = "registrations",
    responses((status = 200, body = Seats), (status = 400, description = "A parameter that is none"),
        (status = 404, description = "No such registration")))]
async fn unregister(State(app): Shared, Path((id, profile)): Path<(i64, String)>) -> Result<Json<Seats>> {
    Ok(Json(registration::unregister(&app, id, &profile).await?))
}

/// Where a person is registered.
#[utoipa::path(get, path = "/api/profiles/{profile}/registrations", tag = "registrations",
    responses((status = 200, body = Vec<Registration>), (status = 304, description = "Not modified"),
        (status = 400, description = "Not a mail address")))]
async fn registrations(State(app): Shared, Path(profile): Path<String>) -> Result<Json<Vec<Registration>>> {
    registration::check_address(&profile)?;
    Ok(Json(app.store.list("of_profile", (profile.as_str(),))?.fetch(PAGE_MAX).await?))
}
