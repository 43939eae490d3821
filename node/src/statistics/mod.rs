//! The `stats` command: names are memcached's (protocol.txt, "Statistics"), figures are this node's.

pub(crate) mod prefixes;
mod settings;
pub(crate) mod slab_classes;

use std::fmt::Display;
use std::sync::atomic::Ordering;

use larder_protocol::{Error, Outcome, Reply};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::cluster;
use crate::commands::dump::{Dump, Format, cache_dump};
use crate::commands::effect::Effect;
use crate::commands::turn::Turn;
use crate::counters::Totals;
use crate::daemon::RESERVED_DESCRIPTORS;
use crate::net::open_sockets::Transport;
use crate::shared::Shared;
use crate::store::Time;
use slab_classes::CLASS;

/// Where statistics are written, and in which protocol.
struct Answer<'a> {
    reply: &'a Reply<'a>,
    bytes: &'a mut Vec<u8>,
}

impl Answer<'_> {
    fn stat(&mut self, name: &str, value: impl Display) {
        self.reply.statistic(name, &value.to_string(), self.bytes);
    }
}

/// Writes the answer to `stats group`.
pub(crate) fn answer(group: &[u8], turn: &mut Turn<'_>) -> Effect {
    let (shared, now, reply) = (turn.shared, turn.now, turn.reply);
    let out = &mut Answer { reply, bytes: &mut turn.output.bytes };
    let words: Vec<&[u8]> = group.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).collect();
    let is_text = matches!(reply, Reply::Text(_));
    match words[..] {
        [] => general(shared, now, out),
        [b"cluster", ..] => {
            for (name, value) in shared.cluster.iter().flat_map(|cluster| cluster::statistics(cluster)) {
                out.stat(&name, value);
            }
        }
        [b"settings", ..] => settings::tell(shared, out),
        [b"items", ..] => items(shared, now, out),
        [b"slabs", ..] => slabs(shared, out),
        // Counted now, a slice of the store at a time.
        [b"sizes"] if is_text && shared.settings.given("track_sizes") => {
            return Effect::Dump(Dump { format: Format::Sizes, all: true });
        }
        [b"sizes", ..] => out.stat("sizes_status", "disabled"),
        [b"conns", ..] => connections(shared, now, out),
        [b"reset", ..] => {
            shared.workers.iter().for_each(|worker| worker.reset());
            shared.store.reset_statistics();
            shared.prefixes.clear();
            shared.watchers.reset_statistics();
            return Effect::Reply(Outcome::Reset);
        }
        [b"detail", ..] if shared.settings.no_dumping => {
            return refuse(Error::Client("stats detail not allowed"), reply);
        }
        [b"detail", b"dump", ..] => {
            let lines = shared.prefixes.dump();
            match reply {
                Reply::Binary(_) => out.stat("detailed", lines + "END\r\n"),
                _ => out.bytes.extend_from_slice(lines.as_bytes()),
            }
        }
        [b"detail", switch @ (b"on" | b"off"), ..] => {
            shared.prefixes.switch(switch == b"on");
            // The binary protocol has no OK: its list of statistics is empty.
            if !matches!(reply, Reply::Binary(_)) {
                return Effect::Reply(Outcome::Ok);
            }
        }
        [b"detail", ..] => return refuse(Error::Client("usage: stats detail on|off|dump"), reply),
        [b"cachedump", ..] if is_text => {
            if let Err(error) = cache_dump(&words[1..], shared, now, out.bytes) {
                return refuse(error, reply);
            }
        }
        _ => return refuse(Error::UnknownCommand, reply),
    }
    reply.end_of_statistics(out.bytes);
    Effect::Replied
}

/// The binary protocol answers every group that it refuses as a key that is not there.
fn refuse(error: Error, reply: &Reply<'_>) -> Effect {
    Effect::Reply(match reply {
        Reply::Binary(_) => Outcome::NotFound,
        _ => Outcome::Error(error),
    })
}

fn general(shared: &Shared, now: Time, out: &mut Answer<'_>) {
    let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
    let store = shared.store.statistics();
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    let seconds = |time: TimeVal| format!("{}.{:06}", time.tv_sec(), time.tv_usec());
    let connections = shared.connections.statistics();
    let settings = &shared.settings;
    macro_rules! counters {
        ($($name:ident),* $(,)?) => { $(out.stat(stringify!($name), totals.$name);)* };
    }
    // Of memcached's parts that this engine does without: nothing happens to them, which is what is told.
    macro_rules! none {
        ($($name:ident),* $(,)?) => { $(out.stat(stringify!($name), 0);)* };
    }
    out.stat("pid", std::process::id());
    out.stat("uptime", shared.clock.uptime());
    out.stat("time", now.0);
    out.stat("version", crate::VERSION);
    out.stat("larder_version", crate::LARDER_VERSION);
    out.stat("pointer_size", usize::BITS);
    out.stat("rusage_user", usage.map_or_else(String::new, |usage| seconds(usage.user_time())));
    out.stat("rusage_system", usage.map_or_else(String::new, |usage| seconds(usage.system_time())));
    out.stat("max_connections", settings.max_connections);
    out.stat("curr_connections", connections.current);
    out.stat("total_connections", connections.total);
    if settings.refuses_connections() {
        out.stat("rejected_connections", connections.rejected);
    }
    out.stat("connection_structures", shared.sockets.len());
    out.stat("reserved_fds", RESERVED_DESCRIPTORS);
    counters!(cmd_get, cmd_set, cmd_flush, cmd_touch, cmd_meta, get_hits, get_misses, get_expired, get_flushed);
    counters!(delete_misses, delete_hits, incr_misses, incr_hits, decr_misses, decr_hits);
    counters!(cas_misses, cas_hits, cas_badval, touch_hits, touch_misses, store_too_large, store_no_memory);
    counters!(auth_cmds, auth_errors);
    if settings.idle_timeout().is_some() {
        counters!(idle_kicks);
    }
    counters!(bytes_read, bytes_written);
    out.stat("limit_maxbytes", shared.store.memory_limit());
    out.stat("accepting_conns", u8::from(connections.accepting));
    out.stat("listen_disabled_num", connections.pauses);
    out.stat("time_in_listen_disabled_us", connections.paused_microseconds);
    out.stat("threads", settings.threads);
    counters!(conn_yields);
    out.stat("hash_power_level", (store.index_bytes / 8).checked_ilog2().unwrap_or(0));
    out.stat("hash_bytes", store.index_bytes);
    none!(hash_is_expanding);
    if settings.has("slab_reassign") {
        none!(slab_reassign_rescues, slab_reassign_chunk_rescues, slab_reassign_inline_reclaim);
        none!(slab_reassign_busy_items, slab_reassign_busy_deletes, slab_reassign_busy_nomem);
        out.stat("slab_reassign_last_busy_status", "none");
        none!(slab_reassign_running, slabs_moved);
    }
    if shared.crawler.enabled() {
        out.stat("lru_crawler_running", u8::from(shared.crawler.running()));
        out.stat("lru_crawler_starts", shared.crawler.starts.load(Ordering::Relaxed));
    }
    let maintains = settings.has("lru_maintainer");
    if maintains {
        out.stat("lru_maintainer_juggles", shared.maintenance.load(Ordering::Relaxed));
    }
    none!(malloc_fails, log_worker_dropped);
    shared.watchers.statistics(|name, value| out.stat(name, value));
    if let Some(tls) = &shared.tls {
        tls.statistics(&mut |name, value| out.stat(name, value));
    }
    none!(unexpected_napi_ids, round_robin_fallback);
    out.stat("bytes", store.bytes);
    out.stat("curr_items", store.items);
    out.stat("total_items", store.total_items);
    out.stat("slab_global_page_pool", store.free_segments);
    out.stat("expired_unfetched", store.expired_unfetched);
    out.stat("evicted_unfetched", store.evicted_unfetched);
    if maintains {
        out.stat("evicted_active", store.evicted_active);
    }
    out.stat("evictions", store.evictions);
    out.stat("reclaimed", store.reclaimed);
    // Memory of expired items comes back by sweeping them, and in no other way.
    out.stat("crawler_reclaimed", store.reclaimed);
    out.stat("crawler_items_checked", shared.crawler.checked.load(Ordering::Relaxed));
    none!(lrutail_reflocked);
    if maintains {
        none!(moves_to_cold, moves_to_warm);
        out.stat("moves_within_lru", store.carried);
        // Whoever needs the room evicts.
        out.stat("direct_reclaims", store.evictions);
        none!(lru_bumps_dropped);
    }
}

fn items(shared: &Shared, now: Time, out: &mut Answer<'_>) {
    let store = shared.store.statistics();
    if store.items == 0 {
        return;
    }
    let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
    let age = shared.store.oldest_use(now).map_or(0, |time| now.0.saturating_sub(time.0));
    let mut stat = |name: &str, value: u64| out.stat(&format!("items:{CLASS}:{name}"), value);
    stat("number", store.items);
    stat("age", age.into());
    stat("mem_requested", store.bytes);
    stat("evicted", store.evictions);
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
    stat("moves_within_lru", store.carried);
    stat("direct_reclaims", store.evictions);
}

/// Pages are segments, chunks are items; they are of many sizes, of which the mean is told.
fn slabs(shared: &Shared, out: &mut Answer<'_>) {
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

fn connections(shared: &Shared, now: Time, out: &mut Answer<'_>) {
    let path = shared.settings.socket.as_ref().map_or(String::new(), |path| path.display().to_string());
    for socket in shared.sockets.list() {
        let mut stat = |name: &str, value: &str| out.stat(&format!("{}:{name}", socket.descriptor), value);
        if socket.transport == Transport::Udp {
            stat("UDP", "UDP");
        }
        // Where it listens is all there is to tell of a socket without a peer.
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
