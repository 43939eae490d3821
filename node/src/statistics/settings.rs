//! `stats settings` (protocol.txt, "Settings statistics").

use std::path::PathBuf;
use std::time::Duration;

use larder_protocol::Protocol;

use super::answer::Answer;
use crate::config::options::TlsOptions;
use crate::shared::Shared;

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "no" }
}

/// Writes the answer to `stats settings`.
pub(super) fn write(shared: &Shared, out: &mut Answer<'_>) {
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
    let protocol = match settings.listener_protocol().protocol {
        None => "auto-negotiate",
        Some(Protocol::Text) => "ascii",
        Some(Protocol::Binary) => "binary",
    };
    out.stat("binding_protocol", protocol);
    out.stat("auth_enabled_sasl", yes(settings.sasl));
    out.stat("auth_enabled_ascii", settings.auth_file.as_ref().map_or("no".into(), |path| path.display().to_string()));
    out.stat("item_size_max", shared.store.item_size_max());
    out.stat("maxconns_fast", yes(settings.extended.maxconns_fast));
    out.stat("lru_crawler", yes(shared.crawler.enabled()));
    out.stat("flush_enabled", yes(!settings.no_flush_all));
    out.stat("dump_enabled", yes(!settings.no_dumping));
    out.stat("hash_algorithm", "rapidhash");
    out.stat("idle_timeout", settings.extended.idle_timeout.as_ref().map_or(0, Duration::as_secs));
    out.stat("watcher_logbuf_size", shared.watchers.buffer_max());
    out.stat("track_sizes", yes(settings.extended.track_sizes));
    out.stat("inline_ascii_response", "no");
    out.stat("ssl_enabled", yes(settings.tls));
    tls(&settings.extended.tls, out);
    out.stat("num_napi_ids", 0);
    let memory_file = settings.memory_file.as_ref().map_or("(null)".into(), |path| path.display().to_string());
    out.stat("memory_file", memory_file);
    out.stat("client_flags_size", size_of::<u32>());
    out.stat("eviction_policy", settings.eviction());
    without_effect(shared, out);
}

fn tls(options: &TlsOptions, out: &mut Answer<'_>) {
    let path = |path: &Option<PathBuf>| path.as_ref().map_or("NULL".into(), |path| path.display().to_string());
    out.stat("ssl_chain_cert", path(&options.chain_cert));
    out.stat("ssl_key", path(&options.key));
    // OpenSSL's bits: a client's certificate is verified (1), must be there (2), and is asked for once (4).
    let bits = [0, 1, 1 | 2, 1 | 2 | 4];
    out.stat("ssl_verify_mode", bits.get(options.verify_mode as usize).copied().unwrap_or(0));
    out.stat("ssl_keyformat", if options.key_is_der { 2 } else { 1 });
    out.stat("ssl_ciphers", options.ciphers.as_deref().unwrap_or("NULL"));
    out.stat("ssl_ca_cert", path(&options.ca_cert));
    out.stat("ssl_wbuf_size", options.write_buffer);
    out.stat("ssl_session_cache", yes(options.session_cache));
    out.stat("ssl_kernel_tls", yes(options.kernel_tls));
    out.stat("ssl_min_version", if options.min_version == 3 { "tlsv1.3" } else { "tlsv1.2" });
}

/// Settings of memcached's allocator and LRU, as they were given, or else memcached's defaults: dashboards read them,
/// and they change nothing here.
fn without_effect(shared: &Shared, out: &mut Answer<'_>) {
    let settings = &shared.settings;
    let engine = &settings.extended.engine;
    out.stat("growth_factor", format_args!("{:.2}", settings.slab_growth_factor.unwrap_or(1.25)));
    out.stat("chunk_size", settings.slab_min_size.unwrap_or(48));
    out.stat("slab_reassign", yes(engine.slab_reassign));
    out.stat("slab_automove", engine.slab_automove);
    out.stat("lru_maintainer_thread", yes(engine.lru_maintainer));
    // memcached's maintainer and its segmented LRU are on and off together.
    out.stat("lru_segmented", yes(engine.lru_maintainer));
    out.stat("temp_lru", yes(engine.has_temporary_ttl()));
    for (name, value) in engine.statistics() {
        out.stat(name, value);
    }
}
