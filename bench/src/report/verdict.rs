//! The result of checking values.

use serde::{Deserialize, Serialize};

/// The result of `--verify`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Answers checked.
    pub checked: u64,
    /// Values that belong to another key, were never written, or are damaged.
    pub wrong: u64,
    /// Values older than one whose write was acknowledged before the read was sent.
    pub stale: u64,
    /// Misses of keys whose write was acknowledged and that nobody deleted. Eviction causes them too.
    pub lost: u64,
    /// The first faults, as text.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether the server returned a wrong or a stale value.
    pub fn is_bad(&self) -> bool {
        self.wrong + self.stale > 0
    }
}
