//! `/metrics`: what `stats` shows, under the names of Prometheus' memcached_exporter, and figures of the node's own.
//!
//! Source of names, labels and meanings: prometheus/memcached_exporter, pkg/exporter/exporter.go. A counter that the
//! exporter names without `_total` is of unknown type here, since OpenMetrics would add it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::cluster;
use crate::shared::Shared;
use crate::statistics::latency::{self, KINDS, Latencies};
use crate::statistics::slab_classes::CLASS;
use crate::statistics::{hits_by_memory, named};
use crate::version::{LARDER_VERSION, VERSION};

use MetricType::{Counter, Gauge, Unknown};

/// Where a figure stands in `stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    General,
    Settings,
    Items,
    Slabs,
}

use Group::{General, Items, Settings, Slabs};

type Labels = &'static [(&'static str, &'static str)];

/// A metric of the exporter: its name behind `memcached_` and before `_total`, its statistics, each with its labels.
type Metric = (&'static str, MetricType, Group, &'static str, &'static [(&'static str, Labels)]);

const METRICS: &[Metric] = &[
    ("uptime_seconds", Gauge, General, "Time since the start", &[("uptime", &[])]),
    ("time_seconds", Gauge, General, "The node's clock", &[("time", &[])]),
    ("process_user_cpu_seconds", Counter, General, "CPU time in user mode", &[("rusage_user", &[])]),
    ("process_system_cpu_seconds", Counter, General, "CPU time in the kernel", &[("rusage_system", &[])]),
    ("read_bytes", Counter, General, "Bytes received", &[("bytes_read", &[])]),
    ("written_bytes", Counter, General, "Bytes sent", &[("bytes_written", &[])]),
    ("current_connections", Gauge, General, "Open connections", &[("curr_connections", &[])]),
    ("max_connections", Gauge, Settings, "Connections allowed at a time", &[("maxconns", &[])]),
    ("connections", Counter, General, "Connections accepted", &[("total_connections", &[])]),
    ("connections_rejected", Counter, General, "Connections refused at the limit", &[("rejected_connections", &[])]),
    ("connections_yielded", Counter, General, "Turns given to other connections", &[("conn_yields", &[])]),
    ("connections_listener_disabled", Counter, General, "Pauses in accepting", &[("listen_disabled_num", &[])]),
    ("accepting_connections", Gauge, General, "Whether connections are accepted", &[("accepting_conns", &[])]),
    ("current_bytes", Gauge, General, "Bytes of items", &[("bytes", &[])]),
    ("limit_bytes", Gauge, General, "The memory limit", &[("limit_maxbytes", &[])]),
    (
        "commands",
        Counter,
        General,
        "Commands by result",
        &[
            ("get_hits", &[("command", "get"), ("status", "hit")]),
            ("get_misses", &[("command", "get"), ("status", "miss")]),
            ("delete_hits", &[("command", "delete"), ("status", "hit")]),
            ("delete_misses", &[("command", "delete"), ("status", "miss")]),
            ("incr_hits", &[("command", "incr"), ("status", "hit")]),
            ("incr_misses", &[("command", "incr"), ("status", "miss")]),
            ("decr_hits", &[("command", "decr"), ("status", "hit")]),
            ("decr_misses", &[("command", "decr"), ("status", "miss")]),
            ("cas_hits", &[("command", "cas"), ("status", "hit")]),
            ("cas_misses", &[("command", "cas"), ("status", "miss")]),
            ("cas_badval", &[("command", "cas"), ("status", "badval")]),
            ("touch_hits", &[("command", "touch"), ("status", "hit")]),
            ("touch_misses", &[("command", "touch"), ("status", "miss")]),
            ("cmd_flush", &[("command", "flush"), ("status", "hit")]),
            // As the exporter does: all writes but those with a CAS unique.
            ("sets_without_cas", &[("command", "set"), ("status", "hit")]),
        ],
    ),
    ("current_items", Gauge, General, "Items held", &[("curr_items", &[])]),
    ("items", Counter, General, "Items stored", &[("total_items", &[])]),
    ("items_evicted", Counter, General, "Items removed for room", &[("evictions", &[])]),
    ("items_reclaimed", Counter, General, "Expired items removed for their memory", &[("reclaimed", &[])]),
    ("item_too_large", Counter, General, "Writes refused for their size", &[("store_too_large", &[])]),
    ("item_no_memory", Counter, General, "Writes refused for memory", &[("store_no_memory", &[])]),
    ("direct_reclaims", Counter, General, "Evictions by workers", &[("direct_reclaims", &[])]),
    ("lru_crawler_enabled", Gauge, Settings, "Whether the crawler serves", &[("lru_crawler", &[])]),
    ("lru_crawler_sleep", Gauge, Settings, "As set; without effect", &[("lru_crawler_sleep", &[])]),
    ("lru_crawler_to_crawl", Gauge, Settings, "As set; without effect", &[("lru_crawler_tocrawl", &[])]),
    ("lru_crawler_maintainer_thread", Gauge, Settings, "As set", &[("lru_maintainer_thread", &[])]),
    ("lru_crawler_hot_percent", Gauge, Settings, "As set; without effect", &[("hot_lru_pct", &[])]),
    ("lru_crawler_warm_percent", Gauge, Settings, "As set; without effect", &[("warm_lru_pct", &[])]),
    ("lru_crawler_hot_max_factor", Gauge, Settings, "As set; without effect", &[("hot_max_factor", &[])]),
    ("lru_crawler_warm_max_factor", Gauge, Settings, "As set; without effect", &[("warm_max_factor", &[])]),
    ("lru_crawler_starts", Counter, General, "Listings begun", &[("lru_crawler_starts", &[])]),
    ("lru_crawler_reclaimed", Counter, General, "Expired items swept", &[("crawler_reclaimed", &[])]),
    ("lru_crawler_items_checked", Counter, General, "Items listed", &[("crawler_items_checked", &[])]),
    ("lru_crawler_moves_to_cold", Counter, General, "Always 0", &[("moves_to_cold", &[])]),
    ("lru_crawler_moves_to_warm", Counter, General, "Items kept by eviction at first", &[("moves_to_warm", &[])]),
    ("lru_crawler_moves_within_lru", Counter, General, "Items kept again", &[("moves_within_lru", &[])]),
    ("malloced_bytes", Gauge, Slabs, "Memory held for items", &[("total_malloced", &[])]),
    ("slab_current_items", Gauge, Items, "Items held", &[("number", &[])]),
    ("slab_items_age_seconds", Gauge, Items, "Age of the item used longest ago", &[("age", &[])]),
    ("slab_items_crawler_reclaimed", Counter, Items, "Expired items swept", &[("crawler_reclaimed", &[])]),
    ("slab_items_evicted", Counter, Items, "Items removed for room", &[("evicted", &[])]),
    ("slab_items_evicted_nonzero", Counter, Items, "Of these, with a time to live", &[("evicted_nonzero", &[])]),
    (
        "slab_items_evicted_time_seconds",
        Gauge,
        Items,
        "Time since the last item evicted was used",
        &[("evicted_time", &[])],
    ),
    ("slab_items_evicted_unfetched", Counter, Items, "Items evicted and never read", &[("evicted_unfetched", &[])]),
    ("slab_items_expired_unfetched", Counter, Items, "Items expired and never read", &[("expired_unfetched", &[])]),
    ("slab_items_outofmemory", Counter, Items, "Writes refused for memory", &[("outofmemory", &[])]),
    ("slab_items_reclaimed", Counter, Items, "Expired items removed", &[("reclaimed", &[])]),
    ("slab_items_tailrepairs", Counter, Items, "Always 0", &[("tailrepairs", &[])]),
    ("slab_items_moves_to_cold", Unknown, Items, "Always 0", &[("moves_to_cold", &[])]),
    ("slab_items_moves_to_warm", Unknown, Items, "Items kept by eviction at first", &[("moves_to_warm", &[])]),
    ("slab_items_moves_within_lru", Unknown, Items, "Items kept again", &[("moves_within_lru", &[])]),
    ("slab_hot_items", Gauge, Items, "Items as they were written", &[("number_hot", &[])]),
    ("slab_warm_items", Gauge, Items, "Items that eviction has kept", &[("number_warm", &[])]),
    ("slab_cold_items", Gauge, Items, "Always 0", &[("number_cold", &[])]),
    ("slab_hot_age_seconds", Gauge, Items, "Age of the oldest hot item", &[("age_hot", &[])]),
    ("slab_warm_age_seconds", Gauge, Items, "Age of the oldest warm item", &[("age_warm", &[])]),
    (
        "slab_lru_hits",
        Counter,
        Items,
        "Hits by the part of the log",
        &[
            ("hits_to_hot", &[("lru", "hot")]),
            ("hits_to_warm", &[("lru", "warm")]),
            ("hits_to_cold", &[("lru", "cold")]),
            ("hits_to_temp", &[("lru", "temporary")]),
        ],
    ),
    ("slab_mem_requested_bytes", Gauge, Items, "Bytes of items", &[("mem_requested", &[])]),
    ("slab_chunk_size_bytes", Gauge, Slabs, "Mean size of an item", &[("chunk_size", &[])]),
    ("slab_chunks_per_page", Gauge, Slabs, "Items of that size in a segment", &[("chunks_per_page", &[])]),
    ("slab_current_pages", Gauge, Slabs, "Segments", &[("total_pages", &[])]),
    ("slab_current_chunks", Gauge, Slabs, "Items and room for more", &[("total_chunks", &[])]),
    ("slab_chunks_used", Gauge, Slabs, "Items", &[("used_chunks", &[])]),
    ("slab_chunks_free", Gauge, Slabs, "Room for further items", &[("free_chunks", &[])]),
    ("slab_chunks_free_end", Gauge, Slabs, "Always 0", &[("free_chunks_end", &[])]),
    (
        "slab_commands",
        Counter,
        Slabs,
        "Commands that found their item, by result",
        &[
            ("get_hits", &[("command", "get"), ("status", "hit")]),
            ("sets_without_cas", &[("command", "set"), ("status", "hit")]),
            ("delete_hits", &[("command", "delete"), ("status", "hit")]),
            ("incr_hits", &[("command", "incr"), ("status", "hit")]),
            ("decr_hits", &[("command", "decr"), ("status", "hit")]),
            ("touch_hits", &[("command", "touch"), ("status", "hit")]),
            ("cas_hits", &[("command", "cas"), ("status", "hit")]),
            ("cas_badval", &[("command", "cas"), ("status", "badval")]),
        ],
    ),
];

/// The registry, whose one collector reads the node at each scrape.
pub(super) fn registry(shared: Arc<Shared>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Node { shared, hits: Mutex::default() }));
    registry
}

#[derive(Debug)]
struct Node {
    shared: Arc<Shared>,
    hits: Mutex<Highest>,
}

/// The most hits that were shown for each amount of memory: an estimate may fall a little, and a counter may not.
#[derive(Debug, Default)]
struct Highest {
    reads: u64,
    hits: [u64; 4],
}

impl Highest {
    fn raise(&mut self, reads: u64, hits: [u64; 4]) -> [u64; 4] {
        if reads < self.reads {
            // `stats reset` came in between.
            *self = Highest::default();
        }
        self.reads = reads;
        self.hits = std::array::from_fn(|at| self.hits[at].max(hits[at]));
        self.hits
    }
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        exporters(&self.shared, &mut encoder)?;
        own(&self.shared, &mut self.hits.lock(), &mut encoder)
    }
}

/// The exporter's metrics.
fn exporters(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    gauge(encoder, "memcached_up", "Always 1: it is the node that answers", &[], 1.0)?;
    gauge(encoder, "memcached_version", "The memcached that the node stands in for", &[("version", VERSION)], 1.0)?;
    let class = CLASS.to_string();
    let groups = [(General, "", String::new()), (Settings, "settings", String::new())]
        .into_iter()
        .chain([(Items, "items", format!("items:{class}:")), (Slabs, "slabs", format!("{class}:"))]);
    let mut figures = HashMap::new();
    for (group, name, prefix) in groups {
        for (name, value) in named(shared, name) {
            figures.insert((group as u8, name.strip_prefix(&prefix).unwrap_or(&name).to_owned()), value);
        }
    }
    for &(name, kind, group, help, parts) in METRICS {
        let figure = |stat: &str| figures.get(&(group as u8, stat.to_owned())).and_then(|value| number(value));
        let figure = |stat: &str| match stat {
            "sets_without_cas" => {
                let cas: f64 = ["cas_hits", "cas_misses", "cas_badval"].into_iter().filter_map(figure).sum();
                figure("cmd_set").map(|sets| (sets - cas).max(0.0))
            }
            stat => figure(stat),
        };
        let found: Vec<_> = parts.iter().filter_map(|(stat, labels)| Some((*labels, figure(stat)?))).collect();
        if found.is_empty() {
            continue;
        }
        let slab = matches!(group, Items | Slabs) && name.starts_with("slab_");
        let full = format!("memcached_{name}");
        let mut metric = encoder.encode_descriptor(&full, help, None, kind)?;
        for (labels, value) in found {
            let mut all: Vec<(&str, &str)> = labels.to_vec();
            if slab {
                all.insert(0, ("slab", &class));
            }
            point(&mut metric, kind, &all, value)?;
        }
    }
    Ok(())
}

/// The node's own metrics.
fn own(shared: &Shared, highest: &mut Highest, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    gauge(encoder, "larder_version", "The node's own version", &[("version", LARDER_VERSION)], 1.0)?;
    let ready = if shared.draining.load(Ordering::Relaxed) { 0.0 } else { 1.0 };
    gauge(encoder, "larder_ready", "Whether the node takes clients: not while it leaves", &[], ready)?;

    let latencies = Latencies::of(&shared.workers);
    let help = "Time that commands take inside the node; one of sixteen is measured";
    let name = "larder_command_duration_seconds";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (kind, command) in KINDS.iter().enumerate() {
        let last = latency::BUCKETS - 1;
        let bounds =
            (0..=last).map(|bucket| if bucket == last { f64::INFINITY } else { latency::bound(bucket).as_secs_f64() });
        let buckets: Vec<(f64, u64)> = bounds.zip(latencies.buckets[kind]).collect();
        let count = latencies.buckets[kind].iter().sum();
        let labels = [("command", *command)];
        let mut of_kind = metric.encode_family(&labels)?;
        of_kind.encode_histogram::<NoLabelSet>(latencies.nanoseconds[kind] as f64 / 1e9, count, &buckets, None)?;
    }

    let mut states: HashMap<&str, u64> = HashMap::new();
    for socket in shared.sockets.list() {
        *states.entry(socket.state().name().trim_start_matches("conn_")).or_default() += 1;
    }
    let mut states: Vec<_> = states.into_iter().collect();
    states.sort_unstable();
    let mut metric = encoder.encode_descriptor("larder_sockets", "Open sockets by state", None, Gauge)?;
    for (state, count) in states {
        point(&mut metric, Gauge, &[("state", state)], count as f64)?;
    }

    let mut metric = encoder.encode_descriptor("larder_memory_bytes", "Memory of the limit by use", None, Gauge)?;
    for (part, bytes) in memory(shared) {
        point(&mut metric, Gauge, &[("use", part)], bytes as f64)?;
    }

    let (reads, hits, others) = hits_by_memory(shared);
    counter(encoder, "larder_reads", "Reads that count for the hit ratio", reads)?;
    let help = "Hits that the node would have had with other amounts of memory, estimated; of 1, the hits that it had";
    let mut metric = encoder.encode_descriptor("larder_hits_by_memory", help, None, Counter)?;
    let [half, twice, four_times] = others;
    let amounts = [(1.0, hits), half, twice, four_times];
    let hits = highest.raise(reads, amounts.map(|(_, hits)| hits));
    for ((factor, _), hits) in amounts.iter().zip(hits) {
        point(&mut metric, Counter, &[("times", &factor.to_string())], hits as f64)?;
    }
    let age = shared.store.statistics().evicted_time as f64;
    gauge(encoder, "larder_eviction_age_seconds", "Time that the last item evicted had not been used", &[], age)?;

    let Some(member) = &shared.cluster else { return Ok(()) };
    for (name, value) in cluster::statistics(member) {
        // Figures of the member itself: those of others have its name in front.
        if let (false, Some(value)) = (name.contains(':'), number(&value)) {
            gauge(encoder, &format!("larder_cluster_{name}"), "As in stats cluster", &[], value)?;
        }
    }
    Ok(())
}

/// The memory limit by use, in bytes.
pub(super) fn memory(shared: &Shared) -> [(&'static str, u64); 4] {
    let store = shared.store.statistics();
    let limit = shared.store.memory_limit() as u64;
    let slack = store.memory_used.saturating_sub(store.bytes + store.index_bytes);
    let free = limit.saturating_sub(store.memory_used);
    [("items", store.bytes), ("index", store.index_bytes), ("slack", slack), ("free", free)]
}

/// A statistic as a number: `yes` and `no` are 1 and 0.
fn number(text: &str) -> Option<f64> {
    match text {
        "yes" => Some(1.0),
        "no" => Some(0.0),
        text => text.parse().ok(),
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    labels: &[(&str, &str)],
    value: f64,
) -> fmt::Result {
    point(&mut encoder.encode_descriptor(name, help, None, Gauge)?, Gauge, labels, value)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    point(&mut encoder.encode_descriptor(name, help, None, Counter)?, Counter, &[], value as f64)
}

fn point(metric: &mut MetricEncoder<'_>, kind: MetricType, labels: &[(&str, &str)], value: f64) -> fmt::Result {
    let labels = labels.to_vec();
    let mut metric = metric.encode_family(&labels)?;
    match kind {
        Counter => metric.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        _ => metric.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_by_memory_never_fall_but_at_a_reset() {
        let mut highest = Highest::default();
        assert_eq!(highest.raise(100, [50, 40, 60, 70]), [50, 40, 60, 70]);
        assert_eq!(highest.raise(110, [55, 39, 58, 75]), [55, 40, 60, 75]);
        assert_eq!(highest.raise(5, [1, 0, 2, 3]), [1, 0, 2, 3]);
    }
}
