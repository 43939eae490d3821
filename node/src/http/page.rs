//! The status page, and the JSON that it asks for each second.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use maud::{DOCTYPE, Markup, html};
use serde_json::{Map, Value, json};

use super::history::History;
use super::{Status, metrics};
use crate::cluster as members;
use crate::shared::Shared;
use crate::statistics::prefixes::Counts;
use crate::statistics::{hits_by_memory, named};
use crate::version::LARDER_VERSION;

/// Prefixes shown: of those read most, and of the slowest.
const PREFIXES_SHOWN: usize = 20;

/// Fewer commands than this say nothing about how fast those of a prefix are.
const MEASURED_LEAST: u32 = 16;

/// The page itself. Its figures come from `/status.json`.
pub(super) async fn show(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page(&status.shared).into_string()))
}

fn page(shared: &Shared) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "larder-node" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body {
                header {
                    h1 { "larder-node" }
                    p { span #state .badge { "…" } " " span #facts {} }
                }
                main {
                    section.tiles {
                        (tile("Reads", "reads", "a second"))
                        (tile("Hit ratio", "ratio", "of the last ten seconds"))
                        (tile("Writes", "writes", "a second"))
                        (tile("p99", "p99", "inside the node"))
                        (tile("Connections", "connections", "open"))
                        (tile("Evictions", "evictions", "a second"))
                    }
                    section.charts {
                        (chart("chart-rates", "Commands a second", "reads", Some("writes")))
                        (chart("chart-ratio", "Hit ratio, %", "hits of reads", None))
                        (chart("chart-latency", "Latency, µs", "p50", Some("p99")))
                        (chart("chart-traffic", "Bytes a second", "sent", Some("received")))
                    }
                    section.tables {
                        article { h2 { "Memory" } div #memory .bar {} table #memory-table {} }
                        article { h2 { "With other memory" } table #estimate {} }
                        article { h2 { "Sockets" } table #sockets {} }
                        article { h2 { "Prefixes read most" } table #prefixes {} }
                        article { h2 { "Slowest prefixes" } table #slowest {} }
                        @if shared.cluster.is_some() { article.wide { h2 { "Cluster" } table #cluster {} } }
                        article.wide {
                            details { summary { "Settings" } table #settings {
                                @for (name, value) in named(shared, "settings") { tr { th { (name) } td { (value) } } }
                            } }
                        }
                    }
                }
                footer { a href="/metrics" { "metrics" } " · " a href="/status.json" { "status.json" } " · larder " (LARDER_VERSION) }
            }
        }
    }
}

fn tile(title: &str, id: &str, unit: &str) -> Markup {
    html! { div.tile { div.title { (title) } div.figure id=(id) { "–" } div.unit { (unit) } } }
}

fn chart(id: &str, title: &str, first: &str, second: Option<&str>) -> Markup {
    html! {
        figure {
            figcaption {
                (title) " " span.key.first { (first) }
                @if let Some(second) = second { " " span.key.second { (second) } }
                output {}
            }
            canvas id=(id) role="img" aria-label=(title) {}
        }
    }
}

/// What the page shows, with the samples behind number `since`.
pub(super) fn state(shared: &Shared, history: &History, since: u64) -> Value {
    let general: Map<String, Value> = named(shared, "")
        .into_iter()
        .filter(|(name, _)| matches!(name.as_str(), "uptime" | "version" | "curr_items" | "limit_maxbytes" | "threads"))
        .map(|(name, value)| (name, value.into()))
        .collect();
    let (reads, hits, others) = hits_by_memory(shared);
    let ratio = |hits: u64| (reads > 0).then(|| hits as f64 / reads as f64);
    let mut estimate = vec![json!({ "times": 1.0, "ratio": ratio(hits) })];
    estimate.extend(others.map(|(times, hits)| json!({ "times": times, "ratio": ratio(hits) })));
    let mut sockets = Map::new();
    for socket in shared.sockets.list() {
        let count = sockets.entry(socket.state().name().trim_start_matches("conn_")).or_insert(0.into());
        *count = (count.as_u64().unwrap_or(0) + 1).into();
    }
    json!({
        "ready": !shared.draining.load(Ordering::Relaxed),
        "general": general,
        "samples": history.json(since),
        "memory": metrics::memory(shared).map(|(part, bytes)| json!([part, bytes])),
        "estimate": estimate,
        "sockets": sockets,
        "prefixes": prefixes(shared, &|counts| Some(counts.get)),
        "slowest": prefixes(shared, &mean_time),
        "cluster": cluster(shared),
    })
}

/// The mean time of a prefix's commands in nanoseconds, where enough were measured.
fn mean_time(counts: &Counts) -> Option<u64> {
    (counts.measured >= MEASURED_LEAST).then(|| (counts.took / counts.measured).as_nanos() as u64)
}

/// The prefixes with the highest figures; none where they are not counted.
fn prefixes(shared: &Shared, figure: &dyn Fn(&Counts) -> Option<u64>) -> Value {
    if !shared.prefixes.on() {
        return Value::Null;
    }
    let mut all = shared.prefixes.all();
    all.retain(|(_, counts)| figure(counts).is_some());
    all.sort_by_cached_key(|(_, counts)| std::cmp::Reverse(figure(counts)));
    let microseconds = |counts: &Counts| mean_time(counts).map(|nanoseconds| nanoseconds as f64 / 1e3);
    let row =
        |(prefix, counts): (String, Counts)| json!([prefix, counts.get, counts.hit, counts.set, microseconds(&counts)]);
    Value::from_iter(all.into_iter().take(PREFIXES_SHOWN).map(row))
}

/// `stats cluster`: the member's own figures, and those of each member.
pub(super) fn cluster(shared: &Shared) -> Value {
    let Some(member) = &shared.cluster else { return Value::Null };
    let (mut own, mut all) = (Map::new(), Map::new());
    for (name, value) in members::statistics(member) {
        match name.split_once(':') {
            None => drop(own.insert(name, value.into())),
            Some((id, fact)) => {
                let facts = all.entry(id).or_insert_with(|| Map::new().into());
                facts[fact] = value.into();
            }
        }
    }
    own.insert("nodes".to_owned(), all.into());
    own.into()
}
