//! The application itself. It is compiled once for each database: `super` has what differs.

mod api;
mod model;
mod pages;
pub(crate) mod registration;
pub(crate) mod tasks;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use larder_client::Client;
use larder_datastore::{Datastore, Migrations, Rule};
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::{Db, Pool};
use crate::mail::Mailer;
use crate::settings::{BOUND, Settings};
use crate::statements;
use model::{Conference, Registration, Session};

/// What the handlers share.
pub(crate) struct App {
    pub(crate) store: Datastore<Db>,
    /// Reads go to the datastore, as if there were no cache: for the comparison.
    without_cache: bool,
    queue_pool: Pool,
    mailer: Mailer,
    settings: Settings,
}

/// How many connections an instance has.
const CONNECTIONS: u32 = 16;

/// What a page about a conference is made of, and so what makes it old.
fn page_rule() -> Rule {
    Rule::new("conference_page").on("conference", ["id"]).on("session", ["conference"])
}

impl App {
    pub(crate) async fn open(settings: Settings) -> anyhow::Result<Arc<App>> {
        let pool = super::open(&settings.datastore, CONNECTIONS).await?;
        super::migrate(&pool).await?;
        let cache = Client::builder().servers(&settings.servers).build()?;
        let migrations = settings.write_migrations.clone().map_or(Migrations::Refuse, Migrations::Write);
        let store = super::datastore(pool.clone(), cache)
            .kind::<Conference>()
            .kind::<Session>()
            .kind::<Registration>()
            .rule(page_rule())
            .bound(BOUND)
            .migrations(migrations)
            .start()
            .await?;
        let queue_pool = super::open_queue(&settings.datastore, &pool).await?;
        let mailer = Mailer::new(&settings.mail)?;
        Ok(Arc::new(App { store, without_cache: settings.without_cache, queue_pool, mailer, settings }))
    }

    /// Serves until the process ends, and carries out pushed tasks beside it.
    pub(crate) async fn serve(self: Arc<App>, listener: tokio::net::TcpListener) -> anyhow::Result<()> {
        let base = format!("http://{}", listener.local_addr()?);
        tokio::spawn(tasks::push_worker(self.clone(), base));
        Ok(axum::serve(listener, router(self)).await?)
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Conference central",
    version = "1.0.0",
    description = "Conferences, their sessions and registrations; and the pull queue that workers lease tasks from."
))]
struct ApiDescription;

fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(ApiDescription::openapi()).merge(api::routes()).merge(tasks::routes())
}

/// The description of the API, as `/openapi.json` has it.
pub(crate) fn description() -> String {
    described().into_openapi().to_pretty_json().expect("a description is JSON")
}

fn router(app: Arc<App>) -> Router {
    let description = description();
    Router::from(described())
        .route("/", get(pages::search))
        .route("/conferences/{id}", get(pages::conference).post(pages::register))
        .route("/admin/tasks", get(pages::dead_letters))
        .route("/admin/tasks/{id}/requeue", post(pages::requeue))
        .route(tasks::MAIL_URL, post(tasks::send_confirmation))
        .route("/admin/statements", get(async || axum::Json(statements::counts())))
        .route("/openapi.json", get(async || ([("content-type", "application/json")], description)))
        .layer(CompressionLayer::new())
        .with_state(app)
}

/// Why a request cannot be served; answered as problem+json (RFC 9457).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0} was not found.")]
    NotFound(&'static str),
    #[error("{0}")]
    Conflict(&'static str),
    #[error("The lease has run out, and the task is no longer yours.")]
    Gone,
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

impl From<larder_datastore::Error> for Problem {
    fn from(error: larder_datastore::Error) -> Problem {
        match error {
            larder_datastore::Error::Rule(what) => Problem::BadRequest(what),
            error => Problem::Internal(error.into()),
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Problem {
        Problem::Internal(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match &self {
            Problem::BadRequest(_) => StatusCode::BAD_REQUEST,
            Problem::NotFound(_) => StatusCode::NOT_FOUND,
            Problem::Conflict(_) => StatusCode::CONFLICT,
            Problem::Gone => StatusCode::GONE,
            Problem::Internal(error) => {
                tracing::error!("{error:#}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let title = match &self {
            // What went wrong inside is not for the client.
            Problem::Internal(_) => "The request could not be served. Try again later.".to_owned(),
            problem => problem.to_string(),
        };
        let body = serde_json::json!({ "status": status.as_u16(), "title": title });
        (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
    }
}
