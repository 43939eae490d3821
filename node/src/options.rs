//! The `-o` list: memcached's extended options, and what memcached checks of their values.

use std::ops::RangeInclusive;

/// One option of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedOption {
    /// Its name, which this node or memcached knows.
    pub name: String,
    /// What follows the `=`.
    pub value: Option<String>,
}

/// What an option may have behind its `=`.
enum Takes {
    /// Nothing that is looked at.
    Nothing,
    /// A whole number of this range.
    Whole(RangeInclusive<u32>),
    /// A whole number of this range, or nothing.
    MaybeWhole(RangeInclusive<u32>),
    /// A number above 0, and at most this.
    Above0(f64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any text.
    Text,
}

use Takes::{Above0, MaybeWhole, Nothing, OneOf, Text, Whole};

const ANY: RangeInclusive<u32> = 0..=u32::MAX;

/// Options that this node acts on.
const KNOWN: &[(&str, Takes)] = &[
    ("maxconns_fast", Nothing),
    ("no_maxconns_fast", Nothing),
    ("modern", Nothing),
    ("no_modern", Nothing),
    ("idle_timeout", Whole(0..=i32::MAX as u32)),
    ("watcher_logbuf_size", Whole(ANY)),
    ("track_sizes", Nothing),
    ("lru_crawler", Nothing),
    ("no_lru_crawler", Nothing),
    ("ssl_chain_cert", Text),
    ("ssl_key", Text),
    ("ssl_keyformat", Whole(1..=2)),
    ("ssl_verify_mode", Whole(0..=3)),
    ("ssl_ca_cert", Text),
    ("ssl_ciphers", Text),
    ("ssl_wbuf_size", Whole(1..=1024 * 1024)),
    ("ssl_session_cache", Nothing),
    ("ssl_min_version", Whole(0..=3)),
];

/// Options that only memcached's own engine needs: accepted, so that command lines go on working, and logged.
const MEANINGLESS: &[(&str, Takes)] = &[
    ("hashpower", Whole(12..=32)),
    ("no_hashexpand", Nothing),
    ("hash_algorithm", OneOf(&["jenkins", "murmur3", "xxh3"])),
    ("tail_repair_time", Whole(10..=i32::MAX as u32)),
    ("lru_crawler_sleep", Whole(0..=1_000_000)),
    ("lru_crawler_tocrawl", Whole(ANY)),
    ("lru_maintainer", Nothing),
    ("no_lru_maintainer", Nothing),
    ("hot_lru_pct", Whole(1..=79)),
    ("warm_lru_pct", Whole(1..=79)),
    ("hot_max_factor", Above0(f64::MAX)),
    ("warm_max_factor", Above0(f64::MAX)),
    ("temporary_ttl", Whole(ANY)),
    ("slab_reassign", Nothing),
    ("no_slab_reassign", Nothing),
    ("slab_automove", MaybeWhole(0..=2)),
    ("no_slab_automove", Nothing),
    ("slab_automove_ratio", Above0(1.0)),
    ("slab_automove_freeratio", Above0(1.0)),
    ("slab_automove_window", Whole(3..=1800)),
    ("slab_chunk_max", Whole(1..=1024)),
    ("slab_sizes", Text),
    ("no_chunked_items", Nothing),
    ("worker_logbuf_size", Whole(ANY)),
    ("inline_ascii_resp", Nothing),
    ("no_inline_ascii_resp", Nothing),
    ("read_buf_mem_limit", Whole(ANY)),
    ("resp_obj_mem_limit", MaybeWhole(ANY)),
    ("drop_privileges", Nothing),
    ("no_drop_privileges", Nothing),
    ("relaxed_privileges", Nothing),
    ("ssl_kernel_tls", Nothing),
    ("sock_cookie_id", Whole(ANY)),
];

impl ExtendedOption {
    /// Reads `name` or `name=value`.
    pub(crate) fn parse(option: &str) -> Result<ExtendedOption, String> {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        if name.starts_with("ext_") {
            return Err("there is no external storage here: leave out ext_… and give memory by -m".to_owned());
        }
        if name.starts_with("proxy_") {
            return Err("there is no proxy here: leave out proxy_…".to_owned());
        }
        let known = KNOWN.iter().chain(MEANINGLESS).find(|(known, _)| *known == name);
        let (_, takes) = known.ok_or_else(|| format!("unknown option {name:?}"))?;
        takes.check(name, value)?;
        Ok(ExtendedOption { name: name.to_owned(), value: value.map(str::to_owned) })
    }

    /// Whether it changes nothing here.
    pub(crate) fn is_meaningless(&self) -> bool {
        MEANINGLESS.iter().any(|(name, _)| *name == self.name)
    }
}

impl Takes {
    fn check(&self, name: &str, value: Option<&str>) -> Result<(), String> {
        match (self, value) {
            (Nothing | MaybeWhole(_), None) | (Nothing, Some(_)) | (Text, Some(_)) => Ok(()),
            (_, None) => Err(format!("{name} needs a value: {name}=…")),
            (Whole(range) | MaybeWhole(range), Some(value)) => match value.parse() {
                Ok(number) if range.contains(&number) => Ok(()),
                _ => Err(format!("{name} is a whole number from {} to {}, not {value:?}", range.start(), range.end())),
            },
            (Above0(most), Some(value)) => match value.parse::<f64>() {
                Ok(number) if number > 0.0 && number <= *most => Ok(()),
                _ if *most == f64::MAX => Err(format!("{name} is a number above 0, not {value:?}")),
                _ => Err(format!("{name} is a number above 0 and at most {most}, not {value:?}")),
            },
            (OneOf(words), Some(value)) if words.contains(&value) => Ok(()),
            (OneOf(words), Some(value)) => Err(format!("{name} is one of {}, not {value:?}", words.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_their_values_checked() {
        let option = ExtendedOption::parse("idle_timeout=30").unwrap();
        assert_eq!((option.name.as_str(), option.value.as_deref()), ("idle_timeout", Some("30")));
        assert!(!option.is_meaningless());
        for meaningless in ["no_hashexpand", "hashpower=20", "slab_automove", "slab_automove=2", "hot_max_factor=0.2"] {
            assert!(ExtendedOption::parse(meaningless).unwrap().is_meaningless(), "{meaningless}");
        }
        let wrong = [
            "idle_timeout",
            "idle_timeout=soon",
            "hashpower=11",
            "hashpower=33",
            "hash_algorithm=md5",
            "slab_automove_ratio=0",
            "slab_automove_ratio=1.1",
            "slab_automove_window=2",
            "tail_repair_time=9",
            "ssl_verify_mode=4",
            "ssl_chain_cert",
            "ext_path=/data:1g",
            "no_such_option",
            "no_idle_timeout",
            "",
        ];
        for wrong in wrong {
            assert!(ExtendedOption::parse(wrong).is_err(), "{wrong}");
        }
    }
}
