//! The pages for a browser, made of the same cached reads as the API's answers.

use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::{Deserialize, Serialize};

use super::api::{self, Search};
use super::model::{Conference, Session};
use super::{App, Problem, Result, Shared, refused, registration, tasks};

fn page(title: &str, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – Conference central" }
                link rel="icon" href="data:,";
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header { h1 { a href="/" { "Conference central" } } }
                main { (content) }
            }
        }
    }
}

/// A problem that is shown as a page.
pub(super) struct Failure(Problem);

impl<E: Into<Problem>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, why) = self.0.answer();
        (status, page("Not now", html! { p.note { (why) } p { a href="/" { "Back to the search" } } })).into_response()
    }
}

/// The form's fields; an empty one is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SearchForm {
    city: String,
    month: String,
    cursor: Option<String>,
}

/// The search, and what it found.
pub(super) async fn search(State(app): Shared, Query(form): Query<SearchForm>) -> Result<Markup, Failure> {
    let month = form.month.parse::<i64>().ok();
    let search = Search { city: form.city, month, cursor: form.cursor, ..Search::default() };
    let found = if search.city.is_empty() { None } else { Some(api::found(&app, &search).await?) };
    let url =
        |cursor| serde_urlencoded::to_string([("city", &search.city), ("month", &form.month), ("cursor", cursor)]);
    let content = html! {
        form method="get" action="/" {
            label { "City" input name="city" required value=(search.city); }
            label { "Month" select name="month" {
                option value="" { "any" }
                @for number in 1..=12 { option value=(number) selected[month == Some(number)] { (number) } }
            } }
            button { "Search" }
        }
        @if let Some(found) = &found {
            @if found.items.is_empty() { p { "Nothing was found." } }
            ul.cards {
                @for conference in &found.items {
                    li { a href={ "/conferences/" (conference.id) } { (conference.name) } (summary(conference)) }
                }
            }
            @if let Some(Ok(query)) = found.next.as_ref().map(url) { p { a href={ "/?" (query) } { "More" } } }
        }
    };
    Ok(page("Search", content))
}

fn summary(conference: &Conference) -> Markup {
    html! {
        div.soft {
            (conference.city) ", month " (conference.month) " · "
            @if conference.seats_available == 0 { "no seats left" }
            @else { (conference.seats_available) " of " (conference.seats) " seats left" }
        }
    }
}

/// What a page about a conference shows, of two tables: cached as one value.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shown {
    conference: Option<Conference>,
    sessions: Vec<Session>,
}

async fn shown(app: &App, id: i64) -> Result<Shown> {
    let pool = app.store.pool().clone();
    let load = move || async move {
        let sql = "select * from conference where id = $1";
        let conference = sqlx::query_as(sql).bind(id).fetch_optional(&pool).await?;
        let sql = "select * from session where conference = $1 order by starts, id limit 100";
        let sessions = sqlx::query_as(sql).bind(id).fetch_all(&pool).await?;
        Ok::<_, sqlx::Error>(Shown { conference, sessions })
    };
    if app.settings.without_cache {
        return Ok(load().await?);
    }
    Ok(app.store.cached("conference_page", (id,), load).await?)
}

/// A conference with its sessions, and the form to register.
pub(super) async fn conference(State(app): Shared, Path(id): Path<i64>) -> Result<Markup, Failure> {
    Ok(about(&app, id, None).await?)
}

async fn about(app: &App, id: i64, note: Option<&str>) -> Result<Markup> {
    let Shown { conference, sessions } = shown(app, id).await?;
    let conference = conference.ok_or_else(|| refused(StatusCode::NOT_FOUND, "The conference was not found."))?;
    let content = html! {
        h2 { (conference.name) }
        (summary(&conference))
        p { (conference.about) }
        @if !sessions.is_empty() {
            table {
                tr { th { "Starts" } th { "Session" } th { "Speaker" } }
                @for session in &sessions { tr { td { (session.starts) } td { (session.title) } td { (session.speaker) } } }
            }
        }
        @if let Some(note) = note { p.note { (note) } }
        form method="post" action={ "/conferences/" (id) } {
            label { "Your mail address" input name="profile" type="email" required; }
            button name="action" value="register" { "Register" }
            button name="action" value="unregister" { "Give the seat back" }
        }
    };
    Ok(page(&conference.name, content))
}

/// The form on a conference's page.
#[derive(Debug, Deserialize)]
pub(super) struct Registering {
    profile: String,
    action: String,
}

/// Registers, or ends a registration, and shows the page again.
pub(super) async fn register(
    State(app): Shared,
    Path(id): Path<i64>,
    Form(form): Form<Registering>,
) -> Result<(StatusCode, Markup), Failure> {
    let done = if form.action == "unregister" {
        registration::unregister(&app, id, &form.profile).await.map(|_| "Your seat is free again.")
    } else {
        registration::register(&app, id, &form.profile).await.map(|_| "You are registered. A mail is on its way.")
    };
    let (status, note) = match done {
        Ok(note) => (StatusCode::OK, note.to_owned()),
        Err(Problem::Refused(status, why)) => (status, why),
        Err(problem) => return Err(problem.into()),
    };
    Ok((status, about(&app, id, Some(&note)).await?))
}

/// The tasks that were given up.
pub(super) async fn dead_letters(State(app): Shared) -> Result<Markup, Failure> {
    let letters = tasks::dead_letters(&app).await?;
    let content = html! {
        h2 { "Dead letters" }
        p.soft { "Tasks of the push queue that were given up after their last try." }
        @if letters.is_empty() { p { "There are none." } }
        ul.cards {
            @for (id, task, tries) in &letters {
                li {
                    code { (task.url) } " " span.soft { (tries) " tries" }
                    pre { (task.params) }
                    form method="post" action={ "/admin/tasks/" (id) "/requeue" } { button { "Try again" } }
                }
            }
        }
    };
    Ok(page("Dead letters", content))
}

/// Gives a dead letter its tries again.
pub(super) async fn requeue(State(app): Shared, Path(id): Path<String>) -> Result<Redirect, Failure> {
    tasks::requeue(&app, &id).await?;
    Ok(Redirect::to("/admin/tasks"))
}
