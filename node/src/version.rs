//! The versions that a node reports.

macro_rules! memcacheds {
    () => {
        "1.6.45"
    };
}

/// The answer to `version`: the version of memcached whose behaviour this is, and nothing else, since clients parse it.
pub const VERSION: &str = memcacheds!();

/// The version of this node, which `stats` shows as `larder_version`.
pub const LARDER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `-V` prints behind the program's name. No client parses it, so it names both.
pub(crate) const VERSIONS: &str = concat!(env!("CARGO_PKG_VERSION"), " (as memcached ", memcacheds!(), ")");
