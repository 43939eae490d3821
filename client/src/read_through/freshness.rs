//! The known age of a hit, and what becomes of a hit that may be too old.
//!
//! A lease keeps old values out as long as deletes arrive. A reader that must not rely on that knows, by other means,
//! up to which moment all changes have reached a node, and takes a hit only if that moment is recent.
//! `larder-datastore` has such means.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lease::Lookup;
use crate::cluster::node::Node;
use crate::error::{Error, Result};

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
    /// The read fails with [`Error::NotFresh`].
    Fail,
}

/// What was known of a node before a look-up was sent. What is learnt later says nothing of its reply.
pub(super) struct Age<'a> {
    freshness: &'a dyn Freshness,
    sent: Instant,
    /// When a hit reaches the bound.
    pub(super) until: Option<Instant>,
}

impl<'a> Age<'a> {
    pub(super) fn before_asking(freshness: &'a dyn Freshness, node: &Node) -> Age<'a> {
        let until = freshness.as_of(node.address()).and_then(|as_of| as_of.checked_add(freshness.bound()));
        Age { freshness, sent: Instant::now(), until }
    }

    /// Returns what the reader makes of a look-up at `node`.
    pub(super) fn judge(&self, lookup: Lookup, node: &Arc<Node>) -> Result<Lookup> {
        let fresh = self.until.is_some_and(|until| until >= self.sent);
        match lookup {
            Lookup::Hit(_) if !fresh => match self.freshness.not_fresh(node.address()) {
                NotFresh::Load => Ok(Lookup::NoLease),
                NotFresh::Serve => Ok(lookup),
                NotFresh::Fail => Err(Error::NotFresh { node: node.address().clone() }),
            },
            // A value that is loaded now is current. The old value, taken if loading fails, is not.
            Lookup::Won { mut lease, old } => {
                lease.near_until = self.sent.checked_add(self.freshness.bound());
                Ok(Lookup::Won { lease, old: old.filter(|_| fresh) })
            }
            lookup => Ok(lookup),
        }
    }
}
