//! `stats settings` (protocol.txt, "Settings statistics").

use std::time::Duration;

use larder_protocol::Protocol;

use super::Answer;
use crate::net::tls;
use crate::shared::Shared;

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "no" }
}

pub(super) fn tell(shared: &Shared, out: &mut Answer<'_>) {
    let settings = &shared.settings;
    out.stat("maxbytes", shared.store.memory_limit());
    out.stat("maxconns", settings.max_connections);
    out.stat("tcpport", settings.port.unwrap_or_else(|| settings.tcp_port().unwrap_or(0).into()));
    out.stat("udpport", settings.udp_port);
    out.stat("inter", if settings.listen.is_empty() { "127.0.0.1".to_owned() } else { settings.listen.join(",") });
    out.stat("verbosity", shared.verbosity());
    out.stat("oldest", 0);
    out.stat("evictions", if settings.no_evictions { "off" } else { "on" });
    out.stat("domain_socket", settings.socket.as_ref().map_or("NULL".into(), |path| path.display().to_string()));
    out.stat("umask", format_args!("{:o}", settings.socket_mode));
    out.stat("shutdown_command", yes(settings.shutdown));
    out.stat("num_threads", settings.threads);
    out.stat("num_threads_per_udp", u8::from(settings.udp_port != 0));
    out.stat("stat_key_prefix", shared.prefixes.delimiter());
    out.stat("detail_enabled", yes(shared.prefixes.on()));
    out.stat("reqs_per_event", settings.requests_per_turn);
    out.stat("cas_enabled", yes(!settings.no_cas));
    out.stat("tcp_backlog", settings.backlog);
    let protocol = match settings.speech().protocol {
        None => "auto-negotiate",
        Some(Protocol::Text) => "ascii",
        Some(Protocol::Binary) => "binary",
    };
    out.stat("binding_protocol", protocol);
    out.stat("auth_enabled_sasl", yes(settings.sasl));
    out.stat("auth_enabled_ascii", settings.auth_file.as_ref().map_or("no".into(), |path| path.display().to_string()));
    out.stat("item_size_max", shared.store.item_size_max());
    out.stat("maxconns_fast", yes(settings.refuses_connections()));
    out.stat("lru_crawler", yes(shared.crawler.enabled()));
    out.stat("flush_enabled", yes(!settings.no_flush_all));
    out.stat("dump_enabled", yes(!settings.no_dumping));
    out.stat("hash_algorithm", "rapidhash");
    out.stat("idle_timeout", settings.idle_timeout().as_ref().map_or(0, Duration::as_secs));
    out.stat("watcher_logbuf_size", shared.watchers.buffer_max());
    out.stat("track_sizes", yes(settings.given("track_sizes")));
    out.stat("inline_ascii_response", "no");
    tls::settings(settings, &mut |name, value| out.stat(name, value));
    out.stat("num_napi_ids", 0);
    out.stat("client_flags_size", size_of::<u32>());
    out.stat("eviction_policy", settings.eviction());
    without_effect(shared, out);
}

/// Settings of memcached's allocator and LRU, told as they were configured, or as memcached's defaults: dashboards read
/// them, and they change nothing here.
fn without_effect(shared: &Shared, out: &mut Answer<'_>) {
    let settings = &shared.settings;
    out.stat("growth_factor", format_args!("{:.2}", settings.slab_growth_factor.unwrap_or(1.25)));
    out.stat("chunk_size", settings.slab_min_size.unwrap_or(48));
    out.stat("slab_reassign", yes(settings.has("slab_reassign")));
    out.stat("lru_maintainer_thread", yes(settings.has("lru_maintainer")));
    out.stat("lru_segmented", yes(settings.has("lru_segmented")));
    out.stat("temp_lru", yes(settings.told("temporary_ttl").is_some()));
    let told = [
        // Name, name on the command line, memcached's default.
        ("hashpower_init", "hashpower", "0"),
        ("slab_automove", "slab_automove", if settings.has("slab_automove") { "1" } else { "0" }),
        ("slab_automove_ratio", "slab_automove_ratio", "0.80"),
        ("slab_automove_window", "slab_automove_window", "10"),
        ("lru_crawler_sleep", "lru_crawler_sleep", "100"),
        ("lru_crawler_tocrawl", "lru_crawler_tocrawl", "0"),
        ("tail_repair_time", "tail_repair_time", "0"),
        ("hot_lru_pct", "hot_lru_pct", "20"),
        ("warm_lru_pct", "warm_lru_pct", "40"),
        ("hot_max_factor", "hot_max_factor", "0.20"),
        ("warm_max_factor", "warm_max_factor", "2.00"),
        ("temporary_ttl", "temporary_ttl", "61"),
    ];
    for (name, option, default) in told {
        out.stat(name, settings.told(option).unwrap_or(default));
    }
    let sizes = [
        // Name, default, bytes of the command line's unit.
        ("slab_chunk_max", 512u64, 1u64 << 10),
        ("worker_logbuf_size", 64, 1 << 10),
        ("read_buf_mem_limit", 0, 1 << 20),
    ];
    for (name, default, unit) in sizes {
        let told = settings.told(name).and_then(|size| size.parse().ok());
        out.stat(name, told.unwrap_or(default).saturating_mul(unit));
    }
}
