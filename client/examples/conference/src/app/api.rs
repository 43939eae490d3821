//! The JSON API, for devices: cursors, ETags, and only the fields that a small screen needs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_datastore::{Entity, Page};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{Conference, Registration, Session};
use super::registration::{self, Seats};
use super::{App, Problem};

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
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    pub(super) city: String,
    /// Only in this month.
    #[param(minimum = 1, maximum = 12)]
    pub(super) month: Option<i64>,
    /// Only those with seats left; not together with a month.
    pub(super) open: Option<bool>,
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
    items: Vec<serde_json::Value>,
    /// The cursor of the next page; none at the end.
    next: Option<String>,
}

/// Conferences of a city, by name.
#[utoipa::path(get, path = "/api/conferences", tag = "conferences", params(Search),
    responses((status = 200, body = Items), (status = 304, description = "Not modified"),
        (status = 400, description = "A parameter that is none")))]
async fn conferences(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Query(search): Query<Search>,
) -> Result<Response, Problem> {
    let page = found(&app, &search).await?;
    let items = page.items.iter().map(|item| only(item, search.fields.as_deref())).collect::<Result<_, _>>()?;
    Ok(tagged(&headers, &Items { items, next: page.next }))
}

/// The conferences that a search finds, from the cache.
pub(super) async fn found(app: &App, search: &Search) -> Result<Page<Conference>, Problem> {
    let limit = search.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::BadRequest(format!("limit is 1 to {PAGE_MAX}.")));
    }
    if search.city.contains('\0') {
        return Err(Problem::BadRequest("A city has no NUL.".into()));
    }
    let city = search.city.as_str();
    let list = match (search.month, search.open.unwrap_or(false)) {
        (None, false) => app.store.list::<Conference>("by_city", (city,)),
        (None, true) => app.store.list::<Conference>("open", (city,)),
        (Some(month), false) => app.store.list::<Conference>("by_city_and_month", (city, month)),
        (Some(_), true) => return Err(Problem::BadRequest("month and open do not go together.".into())),
    };
    if app.without_cache {
        // Only the search that the load does.
        let sql = "select * from conference where city = $1 order by name, id limit $2";
        let found = sqlx::query_as(sql).bind(city).bind(limit as i64).fetch_all(app.store.pool()).await?;
        return Ok(Page { items: found, next: None });
    }
    Ok(list?.page(search.cursor.as_deref(), limit).await?)
}

/// Which fields.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Only these fields, separated by commas.
    fields: Option<String>,
}

/// A conference.
#[utoipa::path(get, path = "/api/conferences/{id}", tag = "conferences", params(Fields,
        ("id" = i64, Path, description = "The conference")),
    responses((status = 200, body = Conference), (status = 304, description = "Not modified"),
        (status = 400, description = "A parameter that is none"), (status = 404, description = "No such conference")))]
async fn conference(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(id): Path<i64>,
    Query(Fields { fields }): Query<Fields>,
) -> Result<Response, Problem> {
    let conference = one(&app, id).await?;
    Ok(tagged(&headers, &only(&conference, fields.as_deref())?))
}

/// A conference, from the cache.
pub(super) async fn one(app: &App, id: i64) -> Result<Conference, Problem> {
    let found = if app.without_cache {
        sqlx::query_as("select * from conference where id = $1").bind(id).fetch_optional(app.store.pool()).await?
    } else {
        app.store.get::<Conference>(id).await?
    };
    found.ok_or(Problem::NotFound("The conference"))
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
#[utoipa::path(post, path = "/api/conferences", tag = "conferences", request_body = NewConference,
    responses((status = 201, body = Conference), (status = 400, description = "A value out of its range"),
        (status = 415, description = "Not JSON"), (status = 422, description = "Not a conference")))]
async fn create(
    State(app): State<Arc<App>>,
    Json(new): Json<NewConference>,
) -> Result<(StatusCode, Json<Conference>), Problem> {
    let texts = [&new.organizer, &new.name, &new.city];
    let too_long = texts.iter().any(|text| text.is_empty() || text.chars().count() > 200);
    if too_long
        || new.about.chars().count() > 10_000
        || texts.iter().any(|text| text.contains('\0'))
        || new.about.contains('\0')
    {
        return Err(Problem::BadRequest(
            "organizer, name and city have 1 to 200 letters, about up to 10,000, and no NUL.".into(),
        ));
    }
    if !is_address(&new.organizer) {
        return Err(Problem::BadRequest("organizer is a mail address.".into()));
    }
    if !(1..=12).contains(&new.month) || !(0..=1_000_000).contains(&new.seats) {
        return Err(Problem::BadRequest("month is 1 to 12, and seats is 0 to 1,000,000.".into()));
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
    params(("id" = i64, Path, description = "The conference")),
    responses((status = 200, body = Vec<Session>), (status = 304, description = "Not modified"),
        (status = 400, description = "A parameter that is none")))]
async fn sessions(State(app): State<Arc<App>>, headers: HeaderMap, Path(id): Path<i64>) -> Result<Response, Problem> {
    let sessions = app.store.list::<Session>("of_conference", (id,))?.fetch(PAGE_MAX).await?;
    Ok(tagged(&headers, &sessions))
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
#[utoipa::path(post, path = "/api/conferences/{id}/registrations", tag = "registrations", request_body = Person,
    params(("id" = i64, Path, description = "The conference")),
    responses((status = 201, body = Seats), (status = 400, description = "Not a mail address"),
        (status = 404, description = "No such conference"),
        (status = 409, description = "Registered already, or no seats left"),
        (status = 415, description = "Not JSON"), (status = 422, description = "Not a person")))]
async fn register(
    State(app): State<Arc<App>>,
    Path(id): Path<i64>,
    Json(person): Json<Person>,
) -> Result<(StatusCode, Json<Seats>), Problem> {
    if !is_address(&person.profile) {
        return Err(Problem::BadRequest("profile is a mail address of up to 200 letters.".into()));
    }
    let seats = registration::register(&app, id, &person.profile).await?;
    Ok((StatusCode::CREATED, Json(seats)))
}

/// Ends a registration: the seat is free again.
#[utoipa::path(delete, path = "/api/conferences/{id}/registrations/{profile}", tag = "registrations",
    params(("id" = i64, Path, description = "The conference"), ("profile" = String, Path, description = "The person")),
    responses((status = 200, body = Seats), (status = 400, description = "A parameter that is none"),
        (status = 404, description = "No such registration")))]
async fn unregister(
    State(app): State<Arc<App>>,
    Path((id, profile)): Path<(i64, String)>,
) -> Result<Json<Seats>, Problem> {
    if !is_address(&profile) {
        return Err(Problem::NotFound("The registration"));
    }
    Ok(Json(registration::unregister(&app, id, &profile).await?))
}

/// Where a person is registered.
#[utoipa::path(get, path = "/api/profiles/{profile}/registrations", tag = "registrations",
    params(("profile" = String, Path, description = "The person")),
    responses((status = 200, body = Vec<Registration>), (status = 304, description = "Not modified"),
        (status = 400, description = "Not a mail address")))]
async fn registrations(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(profile): Path<String>,
) -> Result<Response, Problem> {
    if !is_address(&profile) {
        return Err(Problem::BadRequest("profile is a mail address of up to 200 letters.".into()));
    }
    let registrations = app.store.list::<Registration>("of_profile", (profile.as_str(),))?.fetch(PAGE_MAX).await?;
    Ok(tagged(&headers, &registrations))
}

/// Whether mail can go there.
pub(super) fn is_address(text: &str) -> bool {
    text.chars().count() <= 200 && text.parse::<lettre::Address>().is_ok()
}

/// An item with only the fields that the client wants.
fn only<T: Entity>(item: &T, fields: Option<&str>) -> Result<serde_json::Value, Problem> {
    let mut json = serde_json::to_value(item).map_err(anyhow::Error::from)?;
    if let (Some(fields), Some(object)) = (fields, json.as_object_mut()) {
        let wanted: Vec<&str> = fields.split(',').collect();
        if let Some(unknown) = wanted.iter().find(|field| !object.contains_key(**field)) {
            return Err(Problem::BadRequest(format!("There is no field {unknown:?}.")));
        }
        object.retain(|field, _| wanted.contains(&field.as_str()));
    }
    Ok(json)
}

/// JSON with an ETag made of it, or "not modified" where the client has it already.
fn tagged(request: &HeaderMap, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).expect("what was made of rows is JSON");
    let hash: String = Sha256::digest(&bytes)[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    // Weak: the body may be compressed on its way.
    let tag = format!("W/\"{hash}\"");
    let known = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    let headers = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if known.any(|known| known == tag || known == "*") {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}
