//! The `-o` list: memcached's extended options.

/// The options that mean something here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtendedOptions {
    /// Seconds after which an idle connection is closed; 0 is never.
    pub idle_timeout: Option<u64>,
    /// At the connection limit new connections wait instead of being refused (`no_maxconns_fast`).
    pub connections_wait: Option<bool>,
    /// Options that were given and mean nothing to this engine.
    pub ignored: Vec<String>,
}

/// Options of memcached that its own engine needs and this one does not: accepted, so that command lines go on
/// working, and logged. Each may have `no_` before it.
const MEANINGLESS: [&str; 36] = [
    "modern",
    "hashpower",
    "hashexpand",
    "hash_algorithm",
    "tail_repair_time",
    "lru_crawler",
    "lru_crawler_sleep",
    "lru_crawler_tocrawl",
    "read_buf_mem_limit",
    "resp_obj_mem_limit",
    "lru_maintainer",
    "hot_lru_pct",
    "warm_lru_pct",
    "hot_max_factor",
    "warm_max_factor",
    "temporary_ttl",
    "slab_chunk_max",
    "slab_sizes",
    "slab_reassign",
    "slab_automove",
    "slab_automove_window",
    "slab_automove_ratio",
    "slab_automove_freeratio",
    "worker_logbuf_size",
    "watcher_logbuf_size",
    "logger_watcher_buf_size",
    "track_sizes",
    "inline_ascii_resp",
    "drop_privileges",
    "relaxed_privileges",
    "inline_ascii_response",
    "binary_protocol",
    "chunk_size",
    "page_size",
    "napi_ids",
    "release_mem_sleep",
];

/// Reads `name[=value],…`.
pub(crate) fn parse(text: &str) -> Result<ExtendedOptions, String> {
    let mut options = ExtendedOptions::default();
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("idle_timeout", Some(value)) => {
                let seconds = value.parse().map_err(|_| format!("idle_timeout takes whole seconds, not {value:?}"))?;
                options.idle_timeout = Some(seconds);
            }
            ("idle_timeout", None) => return Err("idle_timeout needs a value: idle_timeout=60".to_owned()),
            ("maxconns_fast", None) => options.connections_wait = Some(false),
            ("no_maxconns_fast", None) => options.connections_wait = Some(true),
            _ if MEANINGLESS.contains(&name.strip_prefix("no_").unwrap_or(name)) => {
                options.ignored.push(name.to_owned());
            }
            _ => return Err(format!("unknown option {name:?}")),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_ignored_or_refused() {
        let options = parse("modern,idle_timeout=30,no_hashexpand,hashpower=20,no_maxconns_fast").unwrap();
        assert_eq!(options.idle_timeout, Some(30));
        assert_eq!(options.connections_wait, Some(true));
        assert_eq!(options.ignored, ["modern", "no_hashexpand", "hashpower"]);
        assert!(parse("idle_timeout").is_err());
        assert!(parse("idle_timeout=soon").is_err());
        assert!(parse("no_such_option").is_err());
    }
}
