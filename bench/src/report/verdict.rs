//! What checking values came to.

use serde::{Deserialize, Serialize};

/// What `--verify` found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Values that were checked.
    pub checked: u64,
    /// Values of another key, of no version ever written, or damaged.
    pub wrong: u64,
    /// Values older than one whose write was acknowledged before they were asked for.
    pub stale: u64,
    /// Misses of keys whose write was acknowledged and that nothing removed. Eviction causes them too.
    pub lost: u64,
    /// The first few faults in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether the server gave a value it must not give.
    pub fn is_bad(&self) -> bool {
        self.wrong + self.stale > 0
    }
}
