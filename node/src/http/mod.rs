//! The node's HTTP side: metrics for Prometheus, health checks, and a status page. It has a thread of its own, and reads
//! only what the workers count anyway.

mod history;
mod metrics;
mod page;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::history::History;
use crate::config::settings::HTTP_CONNECTIONS_MAX;
use crate::error::StartError;
use crate::shared::Shared;

/// The longest time that a client may take to send the head of a request. An idle connection is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest life of a connection: one that asks and never reads gives its place back.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// The longest head of a request, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// The port of `--http HOST`.
const DEFAULT_PORT: u16 = 11280;

/// Opens the listener of `--http`: `HOST:PORT`, `HOST` or `:PORT`.
pub(crate) fn listen(address: &str) -> Result<TcpListener, StartError> {
    let refused = |error| StartError::Listen { transport: "HTTP", address: address.to_owned(), error };
    let full = match address.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None if address.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{address}]:{DEFAULT_PORT}"),
        None if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => address.to_owned(),
        None => format!("{address}:{DEFAULT_PORT}"),
    };
    let addresses: Vec<SocketAddr> = full.replace("*:", "[::]:").to_socket_addrs().map_err(refused)?.collect();
    let listener = TcpListener::bind(&addresses[..]).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

/// What the handlers share.
struct Status {
    shared: Arc<Shared>,
    history: parking_lot::Mutex<History>,
    metrics: prometheus_client::registry::Registry,
}

/// Serves from before the node reads its items, which `node` brings, until all is done: until `stop` is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    node: oneshot::Receiver<Arc<Shared>>,
    stop: oneshot::Receiver<Infallible>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    let shared = tokio::select! {
        never = take_connections(&listener, &slots, loading()) => match never {},
        shared = node => shared,
    };
    // The start may have failed.
    let Ok(shared) = shared else { return Ok(()) };
    let status = Arc::new(Status {
        metrics: metrics::registry(shared.clone()),
        history: parking_lot::Mutex::new(History::new(&shared)),
        shared,
    });
    let serving = async { tokio::join!(take_connections(&listener, &slots, pages(status.clone())), sample(&status)).0 };
    tokio::select! {
        never = serving => match never {},
        _ = stop => Ok(()),
    }
}

/// What a node answers that reads its items. The connection ends, since it would go on with these answers.
fn loading() -> Router {
    const CLOSE: [(header::HeaderName, &str); 1] = [(header::CONNECTION, "close")];
    Router::new()
        .route("/livez", get(async || (CLOSE, "live\n")))
        .fallback(async || (StatusCode::SERVICE_UNAVAILABLE, CLOSE, "loading\n"))
}

fn pages(status: Arc<Status>) -> Router {
    Router::new()
        .route("/", get(page::show))
        .route("/page.css", get(async || ([(header::CONTENT_TYPE, "text/css")], include_str!("page.css"))))
        .route("/page.js", get(async || ([(header::CONTENT_TYPE, "text/javascript")], include_str!("page.js"))))
        .route("/status.json", get(status_json))
        .route("/cluster", get(cluster_json))
        .route("/metrics", get(metrics_text))
        .route("/livez", get(async || "live\n"))
        .route("/readyz", get(ready))
        .with_state(status)
}

/// Takes a sample each second, until the workers stop: what stores the items then holds the locks.
async fn sample(status: &Status) {
    let mut stop = status.shared.stop.clone();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = second.tick() => status.history.lock().sample(&status.shared),
            _ = stop.wait_for(|&stopping| stopping) => return,
        }
    }
}

/// Accepts connections and serves them.
async fn take_connections(listener: &tokio::net::TcpListener, slots: &Arc<Semaphore>, router: Router) -> Infallible {
    loop {
        let Ok((socket, slot)) = accept(listener, slots).await else {
            // As without descriptors: the next try comes later.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // A client that breaks off is no news.
            let _ = tokio::time::timeout(CONNECTION_LIFE, connection).await;
            drop(slot);
        });
    }
}

/// Waits for room for one more connection, and then for the connection.
async fn accept(
    listener: &tokio::net::TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, slot))
}

async fn ready(State(status): State<Arc<Status>>) -> (StatusCode, &'static str) {
    match status.shared.draining.load(Ordering::Relaxed) {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        false => (StatusCode::OK, "ready\n"),
    }
}

async fn metrics_text(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &status.metrics).expect("a string takes all that is written");
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// The node's state, and the samples since the one that `?since=` names.
async fn status_json(State(status): State<Arc<Status>>, uri: Uri) -> impl IntoResponse {
    let since = uri.query().and_then(|query| query.strip_prefix("since=")).and_then(|text| text.parse().ok());
    let json = page::state(&status.shared, &status.history.lock(), since.unwrap_or(0));
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], json.to_string())
}

async fn cluster_json(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let facts = page::cluster(&status.shared);
    let code = if status.shared.cluster.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    (code, [(header::CONTENT_TYPE, "application/json")], facts.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::sync::watch;

    use super::*;
    use crate::config::settings::Settings;

    #[test]
    fn the_node_is_loading_then_ready_then_draining() {
        let listener = listen("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ((stop, stopped), (node, shared)) = (oneshot::channel(), oneshot::channel());
        let thread = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(serve(listener, shared, stopped))
        });
        let get = |path: &str| {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            write!(socket, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            let word = answer.lines().last().unwrap_or_default().to_owned();
            (answer.split(' ').nth(1).unwrap_or_default().to_owned(), word)
        };
        let answer = |code: &str, word: &str| (code.to_owned(), word.to_owned());
        for path in ["/readyz", "/metrics", "/"] {
            assert_eq!(get(path), answer("503", "loading"));
        }
        assert_eq!(get("/livez"), answer("200", "live"));
        let (_workers, workers_stop) = watch::channel(false);
        let shared = Arc::new(Shared::new(Settings::default(), None, None, workers_stop, None).unwrap());
        node.send(shared.clone()).unwrap();
        while get("/readyz") == answer("503", "loading") {}
        assert_eq!(get("/readyz"), answer("200", "ready"));
        shared.draining.store(true, Ordering::Relaxed);
        assert_eq!(get("/readyz"), answer("503", "draining"));
        assert_eq!(get("/livez"), answer("200", "live"));
        drop(stop);
        thread.join().unwrap().unwrap();
    }
}
