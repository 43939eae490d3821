//! The versions that a node reports.

/// The answer to `version`: the version of memcached whose behaviour this is, and nothing else, since clients parse it.
pub const VERSION: &str = "1.6.45";

/// The version of this node, which `stats` shows as `larder_version`.
pub const LARDER_VERSION: &str = env!("CARGO_PKG_VERSION");
