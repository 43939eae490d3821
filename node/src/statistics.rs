//! The `stats` command: names are memcached's (protocol.txt, "Statistics"), figures are this node's.

use std::fmt::Display;

use larder_protocol::{Error, Outcome, Reply};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::counters::Totals;
use crate::server::Shared;
use crate::store::Time;

/// Where statistics are written, and in which protocol.
struct Answer<'a> {
    reply: &'a Reply<'a>,
    bytes: &'a mut Vec<u8>,
}

/// Appends the answer to `stats group`.
pub(crate) fn answer(group: &[u8], reply: &Reply<'_>, shared: &Shared, now: Time, bytes: &mut Vec<u8>) {
    let out = &mut Answer { reply, bytes };
    match group {
        b"" => general(shared, now, out),
        b"settings" => settings(shared, out),
        b"items" => items(shared, out),
        b"slabs" => slabs(shared, out),
        b"sizes" | b"conns" => {}
        b"reset" => {
            shared.workers.iter().for_each(|worker| worker.reset());
            shared.store.reset_statistics();
            return reply.outcome(&Outcome::Reset, out.bytes);
        }
        _ if matches!(reply, Reply::Binary(_)) => return reply.outcome(&Outcome::NotFound, out.bytes),
        _ => return reply.outcome(&Outcome::Error(Error::UnknownCommand), out.bytes),
    }
    reply.end_of_statistics(out.bytes);
}

fn stat(out: &mut Answer<'_>, name: &str, value: impl Display) {
    out.reply.statistic(name, &value.to_string(), out.bytes);
}

fn general(shared: &Shared, now: Time, out: &mut Answer<'_>) {
    let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
    let store = shared.store.statistics();
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    let seconds = |time: TimeVal| format!("{}.{:06}", time.tv_sec(), time.tv_usec());
    let connections = shared.connections.statistics();
    macro_rules! counters {
        ($($name:ident),* $(,)?) => { $(stat(out, stringify!($name), totals.$name);)* };
    }
    stat(out, "pid", std::process::id());
    stat(out, "uptime", shared.clock.uptime());
    stat(out, "time", now.0);
    stat(out, "version", crate::VERSION);
    stat(out, "pointer_size", usize::BITS);
    stat(out, "rusage_user", usage.map_or_else(String::new, |usage| seconds(usage.user_time())));
    stat(out, "rusage_system", usage.map_or_else(String::new, |usage| seconds(usage.system_time())));
    stat(out, "max_connections", shared.settings.max_connections);
    stat(out, "curr_connections", connections.current);
    stat(out, "total_connections", connections.total);
    stat(out, "rejected_connections", connections.rejected);
    stat(out, "connection_structures", connections.current);
    counters!(cmd_get, cmd_set, cmd_flush, cmd_touch, cmd_meta, get_hits, get_misses, get_expired, get_flushed);
    counters!(delete_misses, delete_hits, incr_misses, incr_hits, decr_misses, decr_hits);
    counters!(cas_misses, cas_hits, cas_badval, touch_hits, touch_misses, store_too_large, store_no_memory);
    stat(out, "auth_cmds", 0);
    stat(out, "auth_errors", 0);
    counters!(bytes_read, bytes_written);
    stat(out, "limit_maxbytes", shared.store.memory_limit());
    stat(out, "accepting_conns", 1);
    stat(out, "listen_disabled_num", connections.paused);
    stat(out, "time_in_listen_disabled_us", 0);
    stat(out, "threads", shared.settings.threads);
    counters!(conn_yields);
    stat(out, "bytes", store.bytes);
    stat(out, "curr_items", store.items);
    stat(out, "total_items", store.total_items);
    stat(out, "expired_unfetched", store.expired_unfetched);
    stat(out, "evicted_unfetched", store.evicted_unfetched);
    stat(out, "evictions", store.evictions);
    stat(out, "reclaimed", store.reclaimed);
}

fn settings(shared: &Shared, out: &mut Answer<'_>) {
    let settings = &shared.settings;
    let yes = |holds: bool| if holds { "yes" } else { "no" };
    stat(out, "maxbytes", shared.store.memory_limit());
    stat(out, "maxconns", settings.max_connections);
    stat(out, "tcpport", settings.port);
    stat(out, "udpport", settings.udp_port);
    stat(out, "inter", settings.listen.first().map_or("127.0.0.1", |address| address));
    stat(out, "verbosity", shared.verbosity());
    stat(out, "oldest", 0);
    stat(out, "evictions", "on");
    stat(out, "domain_socket", settings.socket.as_ref().map_or("NULL".into(), |path| path.display().to_string()));
    stat(out, "umask", format_args!("{:o}", settings.socket_mode));
    stat(out, "shutdown_command", yes(settings.shutdown));
    stat(out, "num_threads", settings.threads);
    stat(out, "detail_enabled", "no");
    stat(out, "reqs_per_event", settings.requests_per_turn);
    stat(out, "cas_enabled", yes(settings.cas_enabled()));
    stat(out, "tcp_backlog", settings.backlog);
    stat(
        out,
        "binding_protocol",
        match settings.protocol.as_str() {
            "auto" => "auto-negotiate",
            forced => forced,
        },
    );
    stat(out, "auth_enabled_sasl", yes(settings.sasl));
    stat(out, "auth_enabled_ascii", settings.auth_file.as_ref().map_or("no".into(), |path| path.display().to_string()));
    stat(out, "item_size_max", shared.store.item_size_max());
    stat(out, "maxconns_fast", yes(settings.refuses_connections()));
    stat(out, "lru_crawler", "yes");
    stat(out, "lru_maintainer_thread", "yes");
    stat(out, "flush_enabled", yes(!settings.no_flush_all));
    stat(out, "dump_enabled", yes(!settings.no_dumping));
    stat(out, "idle_timeout", settings.idle_timeout().map_or(0, |timeout| timeout.as_secs()));
    stat(out, "eviction_policy", settings.eviction);
    stat(out, "client_flags_size", 4);
}

/// Exporters read evictions and items by slab class; here there is one class, 1.
fn items(shared: &Shared, out: &mut Answer<'_>) {
    let store = shared.store.statistics();
    if store.items > 0 {
        stat(out, "items:1:number", store.items);
        stat(out, "items:1:evicted", store.evictions);
        stat(out, "items:1:evicted_unfetched", store.evicted_unfetched);
        stat(out, "items:1:expired_unfetched", store.expired_unfetched);
        stat(out, "items:1:reclaimed", store.reclaimed);
    }
}

fn slabs(shared: &Shared, out: &mut Answer<'_>) {
    let store = shared.store.statistics();
    stat(out, "active_slabs", u8::from(store.items > 0));
    stat(out, "total_malloced", store.memory_used);
}
