//! The queues. Push: a task is posted to a URL of the application. Pull: workers lease tasks over HTTP.

use std::sync::Arc;
use std::time::Duration;

use apalis::layers::retry::backoff::{ExponentialBackoffMaker, MakeBackoff};
use apalis::layers::retry::{HasherRng, RetryPolicy};
use apalis::prelude::*;
use apalis_core::backend::TaskResult;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::{Db, QueueConfig};
use super::{App, Problem};
use crate::mail::Confirmation;
use crate::settings::Settings;

/// The queue of tasks that are pushed to this application.
const PUSH: &str = "push";

/// Where a confirmation is sent from.
pub(super) const MAIL_URL: &str = "/tasks/confirmation";

/// How many tasks one instance works on at a time.
const AT_A_TIME: usize = 8;

/// How often a worker of the push queue says that it lives; after twice as long without, others take its tasks.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// A task of the push queue: what is posted where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Push {
    /// A path of this application, or a URL.
    pub(crate) url: String,
    pub(crate) params: serde_json::Value,
}

/// Enqueues a task in the transaction that it belongs to: it is carried out if, and only if, that one commits.
pub(crate) async fn push(
    tx: &mut larder_datastore::Transaction<Db>,
    task: Push,
    settings: &Settings,
) -> Result<(), Problem> {
    let bytes = serde_json::to_vec(&task).map_err(anyhow::Error::from)?;
    let task = TaskBuilder::new(bytes).max_attempts(settings.task_tries).build();
    Ok(super::super::push(tx, PUSH, task).await?)
}

/// Posts tasks until the process ends.
pub(super) async fn push_worker(app: Arc<App>, base: String) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(app.settings.task_limit)).build();
    let http = http.expect("a client without certificates of its own can be made");
    loop {
        let config = QueueConfig::default().queue(PUSH).heartbeat_interval(HEARTBEAT).batch_size(AT_A_TIME);
        let pauses = ExponentialBackoffMaker::new(PAUSE_MIN, PAUSE_MAX, 0.5, HasherRng::default());
        let pauses = pauses.expect("the shortest pause is below the longest").make_backoff();
        let worker = WorkerBuilder::new(Uuid::new_v4().to_string().as_str())
            .backend(super::super::storage::<Push>(&app.queue_pool, config))
            .concurrency(AT_A_TIME)
            .retry(RetryPolicy::retries(app.settings.task_tries - 1).with_backoff(pauses))
            .data((http.clone(), base.clone()))
            .build(post);
        if let Err(error) = worker.run().await {
            tracing::warn!("the worker of the push queue begins anew: {error}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The pauses between the tries of a task.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);

async fn post(task: Push, target: Data<(reqwest::Client, String)>) -> Result<(), BoxDynError> {
    let (http, base) = &*target;
    let url = if task.url.starts_with('/') { format!("{base}{}", task.url) } else { task.url };
    http.post(&url).json(&task.params).send().await?.error_for_status()?;
    Ok(())
}

/// The task that mails a confirmation. It may be carried out more than once: what was mailed is noted. The note is
/// written first and committed last, so that nothing is waited for between the mail and the commit.
pub(super) async fn send_confirmation(
    State(app): State<Arc<App>>,
    Json(confirmation): Json<Confirmation>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.store.begin().await?;
    let sql = "insert into confirmation (id) values ($1) on conflict do nothing";
    let noted = sqlx::query(sql).bind(&confirmation.registration).execute(&mut **tx).await?;
    if noted.rows_affected() == 1 {
        app.mailer.send(&confirmation).await?;
        tx.commit().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A task of the push queue that was given up.
pub(super) struct DeadLetter {
    pub(super) id: String,
    pub(super) task: Push,
    pub(super) tries: usize,
}

/// The dead letters, the latest first.
pub(super) async fn dead_letters(app: &App) -> Result<Vec<DeadLetter>, Problem> {
    let storage = super::super::storage::<Push>(&app.queue_pool, QueueConfig::default().queue(PUSH));
    let mut letters = Vec::new();
    for status in [Status::Failed, Status::Killed] {
        let filter = Filter { status: Some(status), page: 1, page_size: Some(100) };
        for task in storage.list_tasks(&filter).await.map_err(anyhow::Error::from)? {
            let tries = task.attempt();
            let id = task.task_id().map(ToString::to_string).unwrap_or_default();
            match serde_json::from_slice(&task.args) {
                Ok(push) if tries >= app.settings.task_tries => letters.push(DeadLetter { id, task: push, tries }),
                _ => {}
            }
        }
    }
    Ok(letters)
}

pub(super) async fn requeue(app: &App, id: &str) -> Result<(), Problem> {
    let found = super::super::requeue_dead(&app.queue_pool, PUSH, id).await?;
    if found { Ok(()) } else { Err(Problem::NotFound("The task")) }
}

/// The calls of the pull queue.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(add)).routes(routes!(lease)).routes(routes!(renew)).routes(routes!(delete))
}

/// What a queue is called in the datastore: none of the names that a client can give is the push queue's.
fn pull_queue(app: &App, name: &str, count: usize) -> Result<QueueConfig, Problem> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
        return Err(Problem::BadRequest("A queue's name is 1 to 100 letters, digits, - or _.".into()));
    }
    let lease = Duration::from_secs(app.settings.lease_seconds);
    Ok(QueueConfig::default().queue(format!("pull:{name}")).heartbeat_interval(lease).batch_size(count))
}

/// Something to be done by a worker.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTask {
    /// What the worker is given; at most 100 kB of JSON.
    payload: serde_json::Value,
}

/// Adds a task.
#[utoipa::path(post, path = "/api/queues/{queue}/tasks", tag = "pull queue", request_body = NewTask,
    params(("queue" = String, Path, description = "1 to 100 letters, digits, - or _")),
    responses((status = 201, description = "Added"), (status = 400, description = "No such name"),
        (status = 413, description = "Too large"), (status = 422, description = "Not a task"),
        (status = 415, description = "Not JSON")))]
async fn add(
    State(app): State<Arc<App>>,
    Path(queue): Path<String>,
    Json(task): Json<NewTask>,
) -> Result<StatusCode, Problem> {
    let queue = pull_queue(&app, &queue, 1)?;
    let bytes = serde_json::to_vec(&task.payload).map_err(anyhow::Error::from)?;
    let task = TaskBuilder::new(bytes).max_attempts(app.settings.task_tries).build();
    let mut connection = app.queue_pool.acquire().await?;
    super::super::push(&mut connection, queue.queue.as_ref(), task).await?;
    Ok(StatusCode::CREATED)
}

/// How many tasks a worker wants.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LeaseRequest {
    #[schema(minimum = 1, maximum = 1000)]
    count: usize,
}

/// Tasks that are a worker's until the lease runs out.
#[derive(Debug, Serialize, ToSchema)]
struct Lease {
    /// Names the lease in the calls that renew it or delete its tasks.
    lease: String,
    /// How long the lease lasts, unless it is renewed.
    seconds: u64,
    tasks: Vec<LeasedTask>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LeasedTask {
    id: String,
    payload: serde_json::Value,
    /// How often the task has been leased before.
    tries: usize,
}

/// Leases up to so many tasks.
#[utoipa::path(post, path = "/api/queues/{queue}/leases", tag = "pull queue", request_body = LeaseRequest,
    params(("queue" = String, Path, description = "1 to 100 letters, digits, - or _")),
    responses((status = 200, body = Lease), (status = 400, description = "No such name, or count not 1 to 1000"),
        (status = 415, description = "Not JSON"), (status = 422, description = "Not a request")))]
async fn lease(
    State(app): State<Arc<App>>,
    Path(queue): Path<String>,
    Json(request): Json<LeaseRequest>,
) -> Result<Json<Lease>, Problem> {
    if !(1..=1000).contains(&request.count) {
        return Err(Problem::BadRequest("A lease is of 1 to 1,000 tasks.".into()));
    }
    let queue = pull_queue(&app, &queue, request.count)?;
    requeue_expired(&app, &queue).await?;
    let lease = Uuid::new_v4().to_string();
    let mut tasks = Vec::new();
    for task in super::super::lease(&app.queue_pool, &queue, &WorkerContext::new(&lease)).await? {
        let Some(id) = task.task_id().cloned() else { continue };
        let tries = task.attempt();
        if tries >= app.settings.task_tries {
            // The queue crate gives tasks out again that had all their tries, where a lease ran out.
            let error = Err("given up".to_owned());
            let given_up = TaskResult { task_id: id, attempt: tries, status: Status::Killed, result: error };
            super::super::finish(&app.queue_pool, &lease, &given_up).await?;
            continue;
        }
        let payload = serde_json::from_slice(&task.args).unwrap_or_default();
        tasks.push(LeasedTask { id: id.to_string(), payload, tries });
    }
    Ok(Json(Lease { lease, seconds: app.settings.lease_seconds, tasks }))
}

/// Renews a lease: it lasts its full time from now.
#[utoipa::path(post, path = "/api/queues/{queue}/leases/{lease}/renew", tag = "pull queue",
    params(("queue" = String, Path, description = "The queue"), ("lease" = String, Path, description = "The lease")),
    responses((status = 204, description = "Renewed"), (status = 400, description = "No such name"),
        (status = 410, description = "It has run out")))]
async fn renew(
    State(app): State<Arc<App>>,
    Path((queue, lease)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let queue = pull_queue(&app, &queue, 1)?;
    requeue_expired(&app, &queue).await?;
    if super::super::renew(&app.queue_pool, &queue, &WorkerContext::new(&lease)).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::Gone)
    }
}

/// Deletes a leased task, which has been carried out.
#[utoipa::path(delete, path = "/api/queues/{queue}/leases/{lease}/tasks/{task}", tag = "pull queue",
    params(("queue" = String, Path, description = "The queue"), ("lease" = String, Path, description = "The lease"),
        ("task" = String, Path, description = "The task")),
    responses((status = 204, description = "Deleted"), (status = 400, description = "No such name"),
        (status = 410, description = "The lease has run out")))]
async fn delete(
    State(app): State<Arc<App>>,
    Path((queue, lease, task)): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let queue = pull_queue(&app, &queue, 1)?;
    requeue_expired(&app, &queue).await?;
    let task_id = task.parse::<TaskId>().map_err(|_| Problem::Gone)?;
    let done = TaskResult { task_id, attempt: 1, status: Status::Done, result: Ok(serde_json::Value::Null) };
    if super::super::finish(&app.queue_pool, &lease, &done).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::Gone)
    }
}

/// The queue crate counts whole seconds: one more, so that no lease ends early.
async fn requeue_expired(app: &App, queue: &QueueConfig) -> anyhow::Result<u64> {
    super::super::requeue_expired(&app.queue_pool, queue, app.settings.lease_seconds + 1).await
}
