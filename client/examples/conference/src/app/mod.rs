//! The application itself. It is compiled once for each database: `super` has what differs.

mod api;
mod model;
mod pages;
pub(crate) mod registration;
pub(crate) mod tasks;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, map_request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use larder_bench::statements;
use larder_client::Client;
use larder_datastore::{Builder, Datastore, Migrations, Rule};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tower_http::compression::CompressionLayer;
use utoipa::openapi::{Info, OpenApi, Paths};
use utoipa_axum::router::OpenApiRouter;

use super::{Db, Pool, Storage};
use crate::mail::Mailer;
use crate::settings::{BOUND, Settings};
use model::{Conference, Registration, Session};

/// What the handlers share.
pub(crate) struct App {
    store: Datastore<Db>,
    queue_pool: Pool,
    mailer: Mailer,
    settings: Settings,
}

/// How a handler gets it.
type Shared = State<Arc<App>>;

/// How many connections an instance has.
const CONNECTIONS: u32 = 16;

impl App {
    async fn open(settings: Settings) -> anyhow::Result<Arc<App>> {
        let (pool, queue_pool) = super::open(&settings.datastore, CONNECTIONS).await?;
        // Not the queue crate's `setup`, which turns off SQLite's waiting for the disk.
        for mut migrations in [super::TABLES, Storage::<()>::migrations()] {
            migrations.set_ignore_missing(true).run(&pool).await?;
        }
        let cache = Client::builder().servers(&settings.servers).build()?;
        let migrations = settings.write_migrations.clone().map_or(Migrations::Refuse, Migrations::Write);
        let store = Builder::new(pool, cache)
            .kind::<Conference>()
            .kind::<Session>()
            .kind::<Registration>()
            // What a page about a conference is made of, and so what makes it old.
            .rule(Rule::new("conference_page").on("conference", ["id"]).on("session", ["conference"]))
            .bound(BOUND)
            .migrations(migrations)
            .start()
            .await?;
        Ok(Arc::new(App { store, queue_pool, mailer: Mailer::new(&settings.mail)?, settings }))
    }
}

/// Serves until the process ends, and carries out pushed tasks beside it.
pub(crate) async fn serve(listen: &str, settings: Settings) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = App::open(settings).await?;
    println!("listening on {url}");
    tokio::spawn(tasks::push_worker(app.clone(), url));
    Ok(axum::serve(listener, router(app)).await?)
}

/// Fails where the datastore lacks triggers or indexes.
pub(crate) async fn check_indexes(settings: Settings) -> anyhow::Result<()> {
    App::open(Settings { write_migrations: None, ..settings }).await?;
    println!("The datastore has all triggers and indexes.");
    Ok(())
}

fn router(app: Arc<App>) -> Router {
    let description = OpenApi::new(Info::new("Conference central", "1.0.0"), Paths::new());
    let api = OpenApiRouter::with_openapi(description).merge(api::routes()).merge(tasks::routes());
    let (api, description) = api.split_for_parts();
    api.route("/openapi.json", get(async || Json(description)))
        .route("/", get(pages::search))
        .route("/conferences/{id}", get(pages::conference).post(pages::register))
        .route("/admin/tasks", get(pages::dead_letters))
        .route("/admin/tasks/{id}/requeue", post(pages::requeue))
        .route("/admin/statements", get(async || Json(statements::counts())))
        .route(tasks::MAIL_URL, post(tasks::send_confirmation))
        .layer(from_fn(tag))
        .layer(map_request(without_nul))
        .layer(CompressionLayer::new())
        .with_state(app)
}

/// Gives what is read an ETag made of it, and answers "not modified" where the client has it already.
async fn tag(method: Method, asked: HeaderMap, request: Request, next: Next) -> Result<Response> {
    let response = next.run(request).await;
    if method != Method::GET || response.status() != StatusCode::OK {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(anyhow::Error::from)?;
    let hash: String = Sha256::digest(&body)[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    // Weak: the body may be compressed on its way.
    let tag = format!("W/\"{hash}\"");
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known.flat_map(|value| value.split(',')).any(|known| [tag.as_str(), "*"].contains(&known.trim()));
    let headers = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    Ok((headers, Response::from_parts(head, Body::from(body))).into_response())
}

/// Refuses a NUL in a URL: PostgreSQL's texts have none.
async fn without_nul(request: Request) -> Result<Request> {
    let has_nul = request.uri().to_string().contains("%00");
    if has_nul { Err(refused(StatusCode::BAD_REQUEST, "A URL has no NUL.")) } else { Ok(request) }
}

/// Why a request cannot be served; answered as problem+json (RFC 9457).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// What the client asks for cannot be: the answer's status, and why.
    #[error("{1}")]
    Refused(StatusCode, String),
    #[error(transparent)]
    Datastore(#[from] larder_datastore::Error),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

fn refused(status: StatusCode, why: impl Into<String>) -> Problem {
    Problem::Refused(status, why.into())
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Problem {
        larder_datastore::Error::from(error).into()
    }
}

impl Problem {
    /// The status of the answer, and what the client may know.
    fn answer(&self) -> (StatusCode, String) {
        match self {
            Problem::Refused(status, why) => (*status, why.clone()),
            // A cursor, for example, that is none.
            Problem::Datastore(larder_datastore::Error::Rule(why)) => (StatusCode::BAD_REQUEST, why.clone()),
            error => {
                tracing::error!("{error:#}");
                (StatusCode::INTERNAL_SERVER_ERROR, "The request could not be served. Try again later.".to_owned())
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, title) = self.answer();
        let body = Json(serde_json::json!({ "status": status.as_u16(), "title": title }));
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
