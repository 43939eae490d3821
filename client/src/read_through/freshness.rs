//! The known age of a hit, and what becomes of a hit that may be too old.
//!
//! A lease keeps old values out as long as deletes arrive. A reader that must not rely on that knows, by other means,
//! up to which moment all changes have reached a node, and takes a hit only if that moment is recent.
//! `larder-datastore` has such means.

use std::fmt;
use std::time::{Duration, Instant};

/// How old a hit at a node may be.
pub trait Freshness: fmt::Debug + Send + Sync {
    /// Returns a moment before which all committed changes have been deleted at `node`; `None` if none is known. Called
    /// before each look-up.
    fn as_of(&self, node: &str) -> Option<Instant>;

    /// Returns the longest time between [`Freshness::as_of`] and the look-up for which a hit is taken.
    fn bound(&self) -> Duration;

    /// Decides on a hit at `node` that may be older than the bound. Called once for each.
    fn not_fresh(&self, node: &str) -> NotFresh;
}

/// What becomes of a hit that may be older than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NotFresh {
    /// The value is loaded, once for all callers of this process at a time, and not cached.
    Load,
    /// The hit is taken.
    #[default]
    Serve,
    /// The read fails with [`Error::NotFresh`](crate::Error::NotFresh).
    Fail,
}
