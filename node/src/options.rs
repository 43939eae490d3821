//! The `-o` list: memcached's extended options.

/// One option of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtendedOption {
    /// Close a connection that was idle for so many seconds; 0 is never.
    IdleTimeout(u64),
    /// At the connection limit, refuse new connections (`maxconns_fast`) or let them wait (`no_maxconns_fast`).
    RefuseConnections(bool),
    /// An option that means nothing to this engine, as it was given: `name` or `name=value`.
    Meaningless(String),
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

/// Reads `name` or `name=value`.
pub(crate) fn parse(option: &str) -> Result<ExtendedOption, String> {
    let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    match (name, value) {
        ("idle_timeout", Some(value)) => {
            let seconds = value.parse().map_err(|_| format!("idle_timeout takes whole seconds, not {value:?}"))?;
            Ok(ExtendedOption::IdleTimeout(seconds))
        }
        ("idle_timeout", None) => Err("idle_timeout needs a value: idle_timeout=60".to_owned()),
        ("maxconns_fast", None) => Ok(ExtendedOption::RefuseConnections(true)),
        ("no_maxconns_fast", None) => Ok(ExtendedOption::RefuseConnections(false)),
        _ if MEANINGLESS.contains(&name.strip_prefix("no_").unwrap_or(name)) => {
            Ok(ExtendedOption::Meaningless(option.to_owned()))
        }
        _ => Err(format!("unknown option {name:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_ignored_or_refused() {
        assert_eq!(parse("idle_timeout=30"), Ok(ExtendedOption::IdleTimeout(30)));
        assert_eq!(parse("no_maxconns_fast"), Ok(ExtendedOption::RefuseConnections(false)));
        for meaningless in ["modern", "no_hashexpand", "hashpower=20"] {
            assert!(matches!(parse(meaningless), Ok(ExtendedOption::Meaningless(_))));
        }
        assert!(parse("idle_timeout").is_err());
        assert!(parse("idle_timeout=soon").is_err());
        assert!(parse("no_such_option").is_err());
    }
}
