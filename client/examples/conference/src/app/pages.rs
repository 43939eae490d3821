//! The pages for a browser, made of the same cached reads as the API's answers.

use std::sync::Arc;

use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{DOCTYPE, Markup, html};
use serde::{Deserialize, Serialize};

use super::api::{self, Search};
use super::model::{Conference, Session};
use super::{App, Problem, registration, tasks};

const STYLE: &str = "
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --soft: light-dark(#666, #aaa); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; }
a { color: light-dark(#0057b8, #7ab8ff); } header { border-bottom: 1px solid var(--line); margin-bottom: 1rem; }
h1 a { color: inherit; text-decoration: none; } .soft { color: var(--soft); }
form { display: flex; gap: .5rem; flex-wrap: wrap; align-items: end; margin: 1rem 0; }
label { display: grid; font-size: .85rem; } input, select, button { font: inherit; padding: .35rem .6rem; }
ul.cards { list-style: none; padding: 0; display: grid; gap: .6rem; }
ul.cards li { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .6rem .3rem 0; }
.note { border-left: 4px solid #d08700; padding: .4rem .8rem; }
";

fn page(title: &str, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – Conference central" }
                link rel="icon" href="data:,";
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                header { h1 { a href="/" { "Conference central" } } }
                main { (content) }
            }
        }
    }
}

fn failed(problem: Problem) -> Response {
    let text = problem.to_string();
    let status = problem.into_response().status();
    let text = if status.is_server_error() { "The page could not be made. Try again later.".to_owned() } else { text };
    (status, page("Not now", html! { p.note { (text) } p { a href="/" { "Back to the search" } } })).into_response()
}

/// The form's fields; an empty one is none.
#[derive(Debug, Default, Deserialize)]
pub(super) struct SearchForm {
    city: Option<String>,
    month: Option<String>,
    cursor: Option<String>,
}

/// The search, and what it found.
pub(super) async fn search(State(app): State<Arc<App>>, Query(form): Query<SearchForm>) -> Response {
    let city = form.city.filter(|city| !city.is_empty());
    let month = form.month.as_deref().and_then(|month| month.parse::<i64>().ok());
    let found = match &city {
        None => None,
        Some(city) => {
            let (city, cursor) = (city.clone(), form.cursor);
            let search = Search { city, month, open: None, cursor, limit: None, fields: None };
            match api::found(&app, &search).await {
                Ok(found) => Some(found),
                Err(problem) => return failed(problem),
            }
        }
    };
    let next = |cursor: &str| {
        let month = month.map(|month| month.to_string()).unwrap_or_default();
        let city = city.as_deref().unwrap_or_default();
        let query = [("city", city), ("month", month.as_str()), ("cursor", cursor)];
        reqwest::Url::parse_with_params("http://h/", query).map(|url| format!("/?{}", url.query().unwrap_or_default()))
    };
    let content = html! {
        form method="get" action="/" {
            label { "City" input name="city" required value=(city.as_deref().unwrap_or_default()); }
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
                    li {
                        a href=(format!("/conferences/{}", conference.id)) { (conference.name) }
                        div.soft { (conference.city) ", month " (conference.month) " · " (seats(conference)) }
                    }
                }
            }
            @if let Some(Ok(url)) = found.next.as_deref().map(next) { p { a href=(url) { "More" } } }
        }
    };
    page("Search", content).into_response()
}

fn seats(conference: &Conference) -> String {
    match conference.seats_available {
        0 => "no seats left".to_owned(),
        left => format!("{left} of {} seats left", conference.seats),
    }
}

/// What a page about a conference shows, of two tables: cached as one value.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shown {
    conference: Option<Conference>,
    sessions: Vec<Session>,
}

async fn shown(app: &App, id: i64) -> Result<Shown, Problem> {
    let pool = app.store.pool().clone();
    let load = move || async move {
        let conference =
            sqlx::query_as("select * from conference where id = $1").bind(id).fetch_optional(&pool).await?;
        let sql = "select * from session where conference = $1 order by starts, id limit 100";
        let sessions = sqlx::query_as(sql).bind(id).fetch_all(&pool).await?;
        Ok::<_, sqlx::Error>(Shown { conference, sessions })
    };
    if app.without_cache { Ok(load().await?) } else { Ok(app.store.cached("conference_page", (id,), load).await?) }
}

/// A conference with its sessions, and the form to register.
pub(super) async fn conference(State(app): State<Arc<App>>, Path(id): Path<i64>) -> Response {
    match about(&app, id, None).await {
        Ok(page) => page.into_response(),
        Err(problem) => failed(problem),
    }
}

async fn about(app: &App, id: i64, note: Option<&str>) -> Result<Markup, Problem> {
    let Shown { conference, sessions } = shown(app, id).await?;
    let conference = conference.ok_or(Problem::NotFound("The conference"))?;
    let content = html! {
        h2 { (conference.name) }
        p.soft { (conference.city) ", month " (conference.month) " · " (seats(&conference)) }
        p { (conference.about) }
        @if !sessions.is_empty() {
            table {
                tr { th { "Starts" } th { "Session" } th { "Speaker" } }
                @for session in &sessions { tr { td { (session.starts) } td { (session.title) } td { (session.speaker) } } }
            }
        }
        @if let Some(note) = note { p.note { (note) } }
        form method="post" action=(format!("/conferences/{id}")) {
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
    State(app): State<Arc<App>>,
    Path(id): Path<i64>,
    Form(form): Form<Registering>,
) -> Response {
    let done = if !api::is_address(&form.profile) {
        Err(Problem::BadRequest("That is not a mail address.".into()))
    } else if form.action == "unregister" {
        registration::unregister(&app, id, &form.profile).await.map(|_| "Your seat is free again.")
    } else {
        registration::register(&app, id, &form.profile).await.map(|_| "You are registered. A mail is on its way.")
    };
    let (status, note) = match done {
        Ok(note) => (StatusCode::OK, note.to_owned()),
        Err(problem @ (Problem::Conflict(_) | Problem::BadRequest(_) | Problem::NotFound("The registration"))) => {
            let note = problem.to_string();
            (problem.into_response().status(), note)
        }
        Err(problem) => return failed(problem),
    };
    match about(&app, id, Some(&note)).await {
        Ok(page) => (status, page).into_response(),
        Err(problem) => failed(problem),
    }
}

/// The tasks that were given up.
pub(super) async fn dead_letters(State(app): State<Arc<App>>) -> Response {
    let letters = match tasks::dead_letters(&app).await {
        Ok(letters) => letters,
        Err(problem) => return failed(problem),
    };
    let content = html! {
        h2 { "Dead letters" }
        p.soft { "Tasks of the push queue that were given up after their last try." }
        @if letters.is_empty() { p { "There are none." } }
        ul.cards {
            @for letter in &letters {
                li {
                    code { (letter.task.url) } " " span.soft { (letter.tries) " tries" }
                    pre { (letter.task.params) }
                    form method="post" action=(format!("/admin/tasks/{}/requeue", letter.id)) { button { "Try again" } }
                }
            }
        }
    };
    page("Dead letters", content).into_response()
}

/// Gives a dead letter its tries again.
pub(super) async fn requeue(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    match tasks::requeue(&app, &id).await {
        Ok(()) => Redirect::to("/admin/tasks").into_response(),
        Err(problem) => failed(problem),
    }
}
