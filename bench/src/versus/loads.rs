//! The loads that servers are compared under.

/// A load of the comparison.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The name, as in `--loads`.
    pub name: &'static str,
    /// What the load is.
    pub about: &'static str,
    /// Its options of `larder-bench load`.
    pub options: &'static str,
    /// Whether all keys are set first.
    pub populate: bool,
}

const fn load(name: &'static str, about: &'static str, options: &'static str) -> Load {
    Load { name, about, options, populate: true }
}

/// The load that is sent to one node, whoever owns the keys.
pub(super) const FAR: &str = "far";

/// All loads: 50 connections and 100,000 keys of 24 bytes, unless they say otherwise.
pub const LOADS: [Load; 13] = [
    load("p1", "get 90 / set 10, 64 B, one at a time", "--value-size 64"),
    load("p16", "get 90 / set 10, 64 B, pipeline 16", "--value-size 64 --pipeline 16"),
    load("p64", "get 90 / set 10, 64 B, pipeline 64", "--value-size 64 --pipeline 64"),
    load("mget", "get of 100 keys, 64 B, figures a key", "--value-size 64 --mix get --multiget 100"),
    load("set16", "set only, 64 B, pipeline 16", "--value-size 64 --mix set --pipeline 16"),
    load("kib1", "get 90 / set 10, 1 KiB, pipeline 16", "--value-size 1k --pipeline 16"),
    load("kib64", "get 90 / set 10, 64 KiB, one at a time", "--value-size 64k --keys 2000"),
    load("meta", "mg 90 / ms 10, quiet, 64 B, batches of 16", "--value-size 64 --protocol meta --quiet --pipeline 16"),
    load("binary", "get 90 / set 10, 64 B, binary, pipeline 16", "--value-size 64 --protocol binary --pipeline 16"),
    load(
        "idle",
        "1,000 connections, 20,000 requests a second in all",
        "--value-size 64 --connections 1000 --rate 20000",
    ),
    load("hot", "get of one key, 64 B, pipeline 16", "--value-size 64 --keys 1 --mix get --pipeline 16"),
    load(FAR, "get, 64 B, one at a time, all sent to the first node", "--value-size 64 --mix get"),
    Load { populate: false, ..load("miss", "get, all misses, pipeline 16", "--mix get --pipeline 16") },
];
