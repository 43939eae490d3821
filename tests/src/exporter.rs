//! What Prometheus' memcached_exporter reads of a server: its metrics, and the statistics that they come from.
//!
//! Source: prometheus/memcached_exporter, pkg/exporter/exporter.go (2026). Left out are the metrics of extstore and of
//! the proxy, which it exports only where a server has those, and `memcached_up`, which comes from no statistic.

/// A group of statistics that the exporter asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `stats`
    General,
    /// `stats settings`
    Settings,
    /// `stats items`; the names stand behind `items:CLASS:`.
    Items,
    /// `stats slabs`; the names stand behind `CLASS:`.
    Slabs,
}

use Group::{General, Items, Settings, Slabs};

/// Each metric, without `memcached_` in front, with the group and the names of its statistics.
pub const METRICS: [(&str, Group, &[&str]); 68] = [
    ("uptime_seconds", General, &["uptime"]),
    ("time_seconds", General, &["time"]),
    ("version", General, &["version"]),
    ("process_user_cpu_seconds_total", General, &["rusage_user"]),
    ("process_system_cpu_seconds_total", General, &["rusage_system"]),
    ("read_bytes_total", General, &["bytes_read"]),
    ("written_bytes_total", General, &["bytes_written"]),
    ("current_connections", General, &["curr_connections"]),
    ("connections_total", General, &["total_connections"]),
    ("connections_rejected_total", General, &["rejected_connections"]),
    ("connections_yielded_total", General, &["conn_yields"]),
    ("connections_listener_disabled_total", General, &["listen_disabled_num"]),
    ("accepting_connections", General, &["accepting_conns"]),
    ("current_bytes", General, &["bytes"]),
    ("limit_bytes", General, &["limit_maxbytes"]),
    (
        "commands_total",
        General,
        &[
            "get_hits",
            "get_misses",
            "delete_hits",
            "delete_misses",
            "incr_hits",
            "incr_misses",
            "decr_hits",
            "decr_misses",
            "cas_hits",
            "cas_misses",
            "cas_badval",
            "touch_hits",
            "touch_misses",
            "cmd_flush",
            "cmd_set",
        ],
    ),
    ("current_items", General, &["curr_items"]),
    ("items_total", General, &["total_items"]),
    ("items_evicted_total", General, &["evictions"]),
    ("items_reclaimed_total", General, &["reclaimed"]),
    ("item_too_large_total", General, &["store_too_large"]),
    ("item_no_memory_total", General, &["store_no_memory"]),
    ("direct_reclaims_total", General, &["direct_reclaims"]),
    ("lru_crawler_starts_total", General, &["lru_crawler_starts"]),
    ("lru_crawler_reclaimed_total", General, &["crawler_reclaimed"]),
    ("lru_crawler_items_checked_total", General, &["crawler_items_checked"]),
    ("lru_crawler_moves_to_cold_total", General, &["moves_to_cold"]),
    ("lru_crawler_moves_to_warm_total", General, &["moves_to_warm"]),
    ("lru_crawler_moves_within_lru_total", General, &["moves_within_lru"]),
    // The exporter's client joins the totals of `stats slabs` with `stats`.
    ("malloced_bytes", Slabs, &["total_malloced"]),
    ("max_connections", Settings, &["maxconns"]),
    ("lru_crawler_enabled", Settings, &["lru_crawler"]),
    ("lru_crawler_sleep", Settings, &["lru_crawler_sleep"]),
    ("lru_crawler_to_crawl", Settings, &["lru_crawler_tocrawl"]),
    ("lru_crawler_maintainer_thread", Settings, &["lru_maintainer_thread"]),
    ("lru_crawler_hot_percent", Settings, &["hot_lru_pct"]),
    ("lru_crawler_warm_percent", Settings, &["warm_lru_pct"]),
    ("lru_crawler_hot_max_factor", Settings, &["hot_max_factor"]),
    ("lru_crawler_warm_max_factor", Settings, &["warm_max_factor"]),
    ("slab_current_items", Items, &["number"]),
    ("slab_items_age_seconds", Items, &["age"]),
    ("slab_items_crawler_reclaimed_total", Items, &["crawler_reclaimed"]),
    ("slab_items_evicted_total", Items, &["evicted"]),
    ("slab_items_evicted_nonzero_total", Items, &["evicted_nonzero"]),
    ("slab_items_evicted_time_seconds", Items, &["evicted_time"]),
    ("slab_items_evicted_unfetched_total", Items, &["evicted_unfetched"]),
    ("slab_items_expired_unfetched_total", Items, &["expired_unfetched"]),
    ("slab_items_outofmemory_total", Items, &["outofmemory"]),
    ("slab_items_reclaimed_total", Items, &["reclaimed"]),
    ("slab_items_tailrepairs_total", Items, &["tailrepairs"]),
    ("slab_items_moves_to_cold", Items, &["moves_to_cold"]),
    ("slab_items_moves_to_warm", Items, &["moves_to_warm"]),
    ("slab_items_moves_within_lru", Items, &["moves_within_lru"]),
    ("slab_hot_items", Items, &["number_hot"]),
    ("slab_warm_items", Items, &["number_warm"]),
    ("slab_cold_items", Items, &["number_cold"]),
    ("slab_hot_age_seconds", Items, &["age_hot"]),
    ("slab_warm_age_seconds", Items, &["age_warm"]),
    ("slab_lru_hits_total", Items, &["hits_to_hot", "hits_to_warm", "hits_to_cold", "hits_to_temp"]),
    ("slab_mem_requested_bytes", Items, &["mem_requested"]),
    ("slab_chunk_size_bytes", Slabs, &["chunk_size"]),
    ("slab_chunks_per_page", Slabs, &["chunks_per_page"]),
    ("slab_current_pages", Slabs, &["total_pages"]),
    ("slab_current_chunks", Slabs, &["total_chunks"]),
    ("slab_chunks_used", Slabs, &["used_chunks"]),
    ("slab_chunks_free", Slabs, &["free_chunks"]),
    ("slab_chunks_free_end", Slabs, &["free_chunks_end"]),
    (
        "slab_commands_total",
        Slabs,
        &["get_hits", "delete_hits", "incr_hits", "decr_hits", "cas_hits", "cas_badval", "touch_hits", "cmd_set"],
    ),
];
