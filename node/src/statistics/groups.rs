//! The groups of `stats`, but for `stats settings`.

use std::sync::atomic::Ordering;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::answer::Answer;
use super::counters::Totals;
use super::slab_classes::CLASS;
use crate::net::open_sockets::Transport;
use crate::shared::Shared;
use crate::store::Time;

/// Writes `stats`.
pub(super) fn general(shared: &Shared, now: Time, out: &mut Answer<'_>) {
    let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
    let store = shared.store.statistics();
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    let seconds = |time: TimeVal| format!("{}.{:06}", time.tv_sec(), time.tv_usec());
    let connections = shared.connections.statistics();
    let settings = &shared.settings;
    // Statistics of memcached's parts that this engine does not have: always 0.
    macro_rules! none {
        ($($name:ident),* $(,)?) => { $(out.stat(stringify!($name), 0);)* };
    }
    out.stat("pid", std::process::id());
    out.stat("uptime", shared.clock.uptime());
    out.stat("time", now.0);
    out.stat("version", crate::version::VERSION);
    out.stat("larder_version", crate::version::LARDER_VERSION);
    out.stat("pointer_size", usize::BITS);
    out.stat("rusage_user", usage.map_or_else(String::new, |usage| seconds(usage.user_time())));
    out.stat("rusage_system", usage.map_or_else(String::new, |usage| seconds(usage.system_time())));
    out.stat("max_connections", settings.max_connections);
    out.stat("curr_connections", connections.current);
    out.stat("total_connections", connections.total);
    if settings.extended.maxconns_fast {
        out.stat("rejected_connections", connections.rejected);
    }
    out.stat("connection_structures", shared.sockets.len());
    out.stat("reserved_fds", settings.reserved_descriptors());
    for (name, count) in totals.named() {
        let shown = match name {
            // memcached has this one only if idle connections are closed,
            "idle_kicks" => settings.extended.idle_timeout.is_some(),
            // and this one among the items.
            "hits_to_warm" => false,
            _ => true,
        };
        if shown {
            out.stat(name, count);
        }
    }
    out.stat("limit_maxbytes", shared.store.memory_limit());
    out.stat("accepting_conns", u8::from(connections.accepting));
    out.stat("listen_disabled_num", connections.pauses);
    out.stat("time_in_listen_disabled_us", connections.paused_microseconds);
    out.stat("threads", settings.threads);
    out.stat("hash_power_level", (store.index_bytes / 8).checked_ilog2().unwrap_or(0));
    out.stat("hash_bytes", store.index_bytes);
    none!(hash_is_expanding);
    if settings.extended.engine.slab_reassign {
        none!(slab_reassign_rescues, slab_reassign_chunk_rescues, slab_reassign_inline_reclaim);
        none!(slab_reassign_busy_items, slab_reassign_busy_deletes, slab_reassign_busy_nomem);
        out.stat("slab_reassign_last_busy_status", "none");
        none!(slab_reassign_running, slabs_moved);
    }
    if shared.crawler.enabled() {
        out.stat("lru_crawler_running", u8::from(shared.crawler.running()));
        out.stat("lru_crawler_starts", shared.crawler.starts.load(Ordering::Relaxed));
    }
    let maintains = settings.extended.engine.lru_maintainer;
    if maintains {
        out.stat("lru_maintainer_juggles", shared.maintenance.load(Ordering::Relaxed));
    }
    none!(malloc_fails, log_worker_dropped);
    shared.watchers.statistics(|name, value| out.stat(name, value));
    if let Some(tls) = &shared.tls {
        let counts = tls.counts();
        if settings.extended.tls.session_cache {
            out.stat("ssl_new_sessions", counts.new_sessions);
        }
        out.stat("ssl_handshake_errors", counts.handshake_errors);
        out.stat("ssl_proto_errors", counts.protocol_errors);
        out.stat("time_since_server_cert_refresh", counts.seconds_since_refresh);
    }
    none!(unexpected_napi_ids, round_robin_fallback);
    for (name, value) in store.named() {
        // memcached has this one only with its LRU maintainer.
        if name != "evicted_active" || maintains {
            out.stat(name, value);
        }
    }
    let (_, _, others) = super::hits_by_memory(shared);
    for (name, (_, hits)) in ["half", "double", "quadruple"].into_iter().zip(others) {
        out.stat(&format!("hits_with_{name}_memory"), hits);
    }
    // The memory of expired items is reclaimed by sweeping alone.
    out.stat("crawler_reclaimed", store.reclaimed);
    out.stat("crawler_items_checked", shared.crawler.checked.load(Ordering::Relaxed));
    none!(lrutail_reflocked);
    if maintains {
        none!(moves_to_cold);
        out.stat("moves_to_warm", store.moves_to_warm);
        out.stat("moves_within_lru", store.carried - store.moves_to_warm);
        // The worker that needs the room evicts.
        out.stat("direct_reclaims", store.evictions);
        none!(lru_bumps_dropped);
    }
}

/// Writes `stats items`.
pub(super) fn items(shared: &Shared, now: Time, out: &mut Answer<'_>) {
    let store = shared.store.statistics();
    if store.items == 0 {
        return;
    }
    let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
    let age = shared.store.oldest_use(now).map_or(0, |time| now.0.saturating_sub(time.0));
    let mut stat = |name: &str, value: u64| out.stat(&format!("items:{CLASS}:{name}"), value);
    let maintains = shared.settings.extended.engine.lru_maintainer;
    stat("number", store.items);
    if maintains {
        // memcached's LRU segments, as far as a log has them (docs/compatibility.md, "Hot, warm and cold").
        let [age_hot, age_warm] =
            shared.store.oldest_uses(now).map(|used| used.map_or(0, |used| now.0.saturating_sub(used.0)));
        stat("number_hot", store.items - store.warm_items);
        stat("number_warm", store.warm_items);
        stat("number_cold", 0);
        if shared.settings.extended.engine.has_temporary_ttl() {
            stat("number_temp", 0);
        }
        stat("age_hot", age_hot.into());
        stat("age_warm", age_warm.into());
    }
    stat("age", age.into());
    stat("mem_requested", store.bytes);
    stat("evicted", store.evictions);
    stat("evicted_nonzero", store.evicted_nonzero);
    stat("evicted_time", store.evicted_time);
    stat("outofmemory", totals.store_no_memory);
    stat("tailrepairs", 0);
    stat("reclaimed", store.reclaimed);
    stat("expired_unfetched", store.expired_unfetched);
    stat("evicted_unfetched", store.evicted_unfetched);
    stat("evicted_active", store.evicted_active);
    stat("crawler_reclaimed", store.reclaimed);
    stat("crawler_items_checked", shared.crawler.checked.load(Ordering::Relaxed));
    stat("lrutail_reflocked", 0);
    if maintains {
        stat("moves_to_cold", 0);
        stat("moves_to_warm", store.moves_to_warm);
        stat("moves_within_lru", store.carried - store.moves_to_warm);
        stat("direct_reclaims", store.evictions);
        stat("hits_to_hot", totals.get_hits.saturating_sub(totals.hits_to_warm));
        stat("hits_to_warm", totals.hits_to_warm);
        stat("hits_to_cold", 0);
        stat("hits_to_temp", 0);
    }
}

/// Writes `stats slabs`. Pages are segments and chunks are items, whose mean size is the chunk size.
pub(super) fn slabs(shared: &Shared, out: &mut Answer<'_>) {
    let store = shared.store.statistics();
    let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
    let segments = store.segments + store.free_segments;
    if segments > 0 {
        let mut stat = |name: &str, value: u64| out.stat(&format!("{CLASS}:{name}"), value);
        let chunk = store.bytes.checked_div(store.items).unwrap_or(0);
        let free = (store.free_segments * shared.store.segment_bytes() as u64).checked_div(chunk).unwrap_or(0);
        stat("chunk_size", chunk);
        stat("chunks_per_page", (shared.store.segment_bytes() as u64).checked_div(chunk).unwrap_or(0));
        stat("total_pages", segments);
        stat("total_chunks", store.items + free);
        stat("used_chunks", store.items);
        stat("free_chunks", free);
        stat("free_chunks_end", 0);
        stat("get_hits", totals.get_hits);
        stat("cmd_set", totals.cmd_set);
        stat("delete_hits", totals.delete_hits);
        stat("incr_hits", totals.incr_hits);
        stat("decr_hits", totals.decr_hits);
        stat("cas_hits", totals.cas_hits);
        stat("cas_badval", totals.cas_badval);
        stat("touch_hits", totals.touch_hits);
    }
    out.stat("active_slabs", u8::from(segments > 0));
    out.stat("total_malloced", store.memory_used);
}

/// Writes `stats conns`.
pub(super) fn connections(shared: &Shared, now: Time, out: &mut Answer<'_>) {
    let path = shared.settings.socket.as_ref().map_or(String::new(), |path| path.display().to_string());
    for socket in shared.sockets.list() {
        let mut stat = |name: &str, value: &str| out.stat(&format!("{}:{name}", socket.descriptor), value);
        if socket.transport == Transport::Udp {
            stat("UDP", "UDP");
        }
        // A listening socket has no peer.
        if socket.listens() {
            stat("addr", &socket.own_address(&path));
        } else {
            stat("addr", &socket.peer_address());
            stat("listen_addr", &socket.own_address(&path));
        }
        stat("state", socket.state().name());
        stat("secs_since_last_cmd", &socket.idle_seconds(now).to_string());
    }
}
