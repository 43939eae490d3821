//! The queues. Push: a task is posted to a URL of the application. Pull: workers lease tasks over HTTP.

use std::sync::Arc;
use std::time::Duration;

use apalis::layers::retry::backoff::{ExponentialBackoffMaker, MakeBackoff};
use apalis::layers::retry::{HasherRng, RetryPolicy};
use apalis::prelude::*;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::pool::PoolConnection;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::{self as database, Config, Db, JOBS, Storage};
use super::{App, Problem, Result, Shared, refused};
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

/// The pauses between the tries of a task.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A task of the push queue: what is posted where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Push {
    /// A path of this application, or a URL.
    pub(crate) url: String,
    pub(crate) params: Value,
}

/// Enqueues a task in the transaction that it belongs to: it is carried out if, and only if, that one commits.
pub(crate) async fn push(tx: &mut larder_datastore::Transaction<Db>, task: Push, settings: &Settings) -> Result<()> {
    Ok(database::push(tx, PUSH, new_task(&task, settings)?).await?)
}

fn new_task(task: &impl Serialize, settings: &Settings) -> anyhow::Result<Task<Vec<u8>>> {
    Ok(TaskBuilder::new(serde_json::to_vec(task)?).max_attempts(settings.task_tries).build())
}

/// Posts tasks until the process ends.
pub(super) async fn push_worker(app: Arc<App>, base: String) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(app.settings.task_limit)).build();
    let http = http.expect("a client without certificates of its own can be made");
    loop {
        let config = Config::default().queue(PUSH).heartbeat_interval(HEARTBEAT).batch_size(AT_A_TIME);
        let pauses = ExponentialBackoffMaker::new(PAUSE_MIN, PAUSE_MAX, 0.5, HasherRng::default());
        let pauses = pauses.expect("the shortest pause is below the longest").make_backoff();
        let worker = WorkerBuilder::new(Uuid::new_v4().to_string().as_str())
            .backend(Storage::<Push>::new(&app.queue_pool).with_config(config))
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

async fn post(task: Push, target: Data<(reqwest::Client, String)>) -> Result<(), BoxDynError> {
    let (http, base) = &*target;
    let url = if task.url.starts_with('/') { format!("{base}{}", task.url) } else { task.url };
    http.post(&url).json(&task.params).send().await?.error_for_status()?;
    Ok(())
}

/// The task that mails a confirmation. It may be carried out more than once: what was mailed is noted. The note is
/// written first and committed last, so that nothing is waited for between the mail and the commit.
pub(super) async fn send_confirmation(State(app): Shared, Json(mail): Json<Confirmation>) -> Result<StatusCode> {
    let mut tx = app.store.begin().await?;
    let sql = "insert into confirmation (id) values ($1) on conflict do nothing";
    let noted = sqlx::query(sql).bind(&mail.registration).execute(&mut **tx).await?;
    if noted.rows_affected() == 1 {
        app.mailer.send(&mail).await?;
        tx.commit().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Which tasks of a queue were given up. The queue crate has no calls for them.
const GIVEN_UP: &str = "job_type = $1 and (status = 'Killed' or status = 'Failed' and attempts >= max_attempts)";

/// The dead letters, the latest first: names, tasks, and how often each was tried.
pub(super) async fn dead_letters(app: &App) -> Result<Vec<(String, Push, i32)>> {
    let sql = format!("select id, job, attempts from {JOBS} where {GIVEN_UP} order by done_at desc limit 100");
    let found = sqlx::query_as(AssertSqlSafe(sql)).bind(PUSH).fetch_all(&app.queue_pool).await?;
    let letter = |(id, job, tries): (String, Vec<u8>, i32)| Some((id, serde_json::from_slice(&job).ok()?, tries));
    Ok(found.into_iter().filter_map(letter).collect())
}

/// Gives a dead letter all its tries again.
pub(super) async fn requeue(app: &App, id: &str) -> Result<()> {
    let sql = format!(
        "update {JOBS} set status = 'Pending', attempts = 0, lock_by = null, lock_at = null, done_at = null
        where id = $2 and {GIVEN_UP}"
    );
    let requeued = sqlx::query(AssertSqlSafe(sql)).bind(PUSH).bind(id).execute(&app.queue_pool).await?;
    if requeued.rows_affected() == 1 { Ok(()) } else { Err(refused(StatusCode::NOT_FOUND, "The task was not found.")) }
}

/// The calls of the pull queue.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(add)).routes(routes!(lease)).routes(routes!(renew)).routes(routes!(delete))
}

/// The queue of this name, whose tasks are put back where their lease has run out, and a connection to it.
async fn pull_queue(app: &App, name: &str, count: usize) -> Result<(Config, PoolConnection<Db>)> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
        return Err(refused(StatusCode::BAD_REQUEST, "A queue's name is 1 to 100 letters, digits, - or _."));
    }
    let seconds = app.settings.lease_seconds;
    // None of these names is the push queue's.
    let queue = Config::default().queue(format!("pull:{name}")).batch_size(count);
    let queue = queue.heartbeat_interval(Duration::from_secs(seconds));
    let mut connection = app.queue_pool.acquire().await?;
    // The queue crate counts whole seconds: one more, so that no lease ends early.
    database::requeue_expired(&mut connection, &queue, seconds + 1).await?;
    Ok((queue, connection))
}

/// Something to be done by a worker.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTask {
    /// What the worker is given; at most 2 MB of JSON.
    payload: Value,
}

/// Adds a task. A queue's name is 1 to 100 letters, digits, - or _.
#[utoipa::path(post, path = "/api/queues/{queue}/tasks", tag = "pull queue",
    responses((status = 201, description = "Added"), (status = 400, description = "No such name"),
        (status = 413, description = "Too large"), (status = 415, description = "Not JSON"),
        (status = 422, description = "Not a task")))]
async fn add(State(app): Shared, Path(queue): Path<String>, Json(task): Json<NewTask>) -> Result<StatusCode> {
    let (queue, mut connection) = pull_queue(&app, &queue, 1).await?;
    database::push(&mut connection, queue.queue.as_ref(), new_task(&task.payload, &app.settings)?).await?;
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
    payload: Value,
    /// How often the task has been leased before.
    tries: usize,
}

/// Leases up to so many tasks.
#[utoipa::path(post, path = "/api/queues/{queue}/leases", tag = "pull queue",
    responses((status = 200, body = Lease), (status = 400, description = "No such name, or count not 1 to 1000"),
        (status = 415, description = "Not JSON"), (status = 422, description = "Not a request")))]
async fn lease(
    State(app): Shared,
    Path(queue): Path<String>,
    Json(LeaseRequest { count }): Json<LeaseRequest>,
) -> Result<Json<Lease>> {
    if !(1..=1000).contains(&count) {
        return Err(refused(StatusCode::BAD_REQUEST, "A lease is of 1 to 1,000 tasks."));
    }
    let (queue, mut connection) = pull_queue(&app, &queue, count).await?;
    let lease = Uuid::new_v4().to_string();
    let worker = WorkerContext::new(&lease);
    database::begin_lease(&mut connection, &queue, &worker).await?;
    let mut tasks = Vec::new();
    for task in database::fetch_next(&mut *connection, &queue, &worker).await.map_err(anyhow::Error::from)? {
        let Some(id) = task.task_id().cloned() else { continue };
        let tries = task.attempt();
        if tries < app.settings.task_tries {
            let payload = serde_json::from_slice(&task.args).unwrap_or_default();
            tasks.push(LeasedTask { id: id.to_string(), payload, tries });
        } else {
            // The queue crate gives tasks out again that had all their tries, where a lease ran out.
            let result = Err("given up".to_owned());
            let given_up = TaskResult { task_id: id, attempt: tries, status: Status::Killed, result };
            let killed = database::finish_tasks(&mut *connection, &[&given_up], &lease).await;
            killed.map_err(anyhow::Error::from)?;
        }
    }
    Ok(Json(Lease { lease, seconds: app.settings.lease_seconds, tasks }))
}

/// Renews a lease: it lasts its full time from now.
#[utoipa::path(post, path = "/api/queues/{queue}/leases/{lease}/renew", tag = "pull queue",
    responses((status = 204, description = "Renewed"), (status = 400, description = "No such name"),
        (status = 410, description = "It has run out")))]
async fn renew(State(app): Shared, Path((queue, lease)): Path<(String, String)>) -> Result<StatusCode> {
    let (queue, mut connection) = pull_queue(&app, &queue, 1).await?;
    let sql = format!("select count(*) from {JOBS} where lock_by = $1 and status in ('Queued', 'Running')");
    let held: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&lease).fetch_one(&mut *connection).await?;
    if held == 0 {
        return Err(run_out());
    }
    database::renew_lease(&mut connection, &queue, &WorkerContext::new(&lease)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a leased task, which has been carried out.
#[utoipa::path(delete, path = "/api/queues/{queue}/leases/{lease}/tasks/{task}", tag = "pull queue",
    responses((status = 204, description = "Deleted"), (status = 400, description = "No such name"),
        (status = 410, description = "The lease has run out")))]
async fn delete(State(app): Shared, Path((queue, lease, task)): Path<(String, String, String)>) -> Result<StatusCode> {
    let (_, mut connection) = pull_queue(&app, &queue, 1).await?;
    let task_id = task.parse().map_err(|_| run_out())?;
    let done = TaskResult { task_id, attempt: 1, status: Status::Done, result: Ok(Value::Null) };
    let ended = database::finish_tasks(&mut *connection, &[&done], &lease).await.map_err(anyhow::Error::from)?;
    if ended == 1 { Ok(StatusCode::NO_CONTENT) } else { Err(run_out()) }
}

fn run_out() -> Problem {
    refused(StatusCode::GONE, "The lease has run out, and the task is no longer yours.")
}
