//! The settings of reading through the cache, and the times that follow from them.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::freshness::Freshness;
use crate::ttl::YEAR;
use crate::value::Encoded;

/// The settings of a read.
#[derive(Debug, Clone)]
pub(crate) struct ReadPolicy {
    pub(super) ttl: Duration,
    pub(super) jitter: f64,
    pub(super) early: Duration,
    pub(super) keep_stale: Duration,
    pub(super) absent: Option<Duration>,
    pub(super) take_stale: bool,
    /// Longest wait for another caller's load.
    pub(super) wait: Duration,
    pub(super) lease: Duration,
    pub(super) near: bool,
    pub(super) freshness: Option<Arc<dyn Freshness>>,
}

impl ReadPolicy {
    pub(super) fn new(ttl: Duration, lease: Duration) -> ReadPolicy {
        ReadPolicy {
            ttl,
            jitter: 0.0,
            early: Duration::ZERO,
            keep_stale: Duration::ZERO,
            absent: None,
            take_stale: true,
            wait: lease.min(YEAR),
            lease,
            near: true,
            freshness: None,
        }
    }

    /// Returns the remaining time to live below which one caller loads the item again; zero for never.
    pub(super) fn recache(&self) -> Duration {
        if self.ttl.is_zero() { Duration::ZERO } else { self.early.min(self.ttl / 2).saturating_add(self.keep_stale) }
    }

    /// Returns the time to live of a loaded value; `None` if it is not cached.
    pub(super) fn expiry(&self, value: &Encoded) -> Option<Duration> {
        let shorten = |ttl: Duration| ttl.min(100 * YEAR).mul_f64(1.0 - self.jitter * rand::rng().random::<f64>());
        if value.is_absent() {
            return self.absent.map(|absent| shorten(absent).saturating_add(self.recache()));
        }
        // Zero means forever.
        Some(if self.ttl.is_zero() { Duration::ZERO } else { shorten(self.ttl).saturating_add(self.keep_stale) })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_item_stays_for_its_ttl_and_the_time_it_may_be_stale() {
        let value = Encoded { value: Bytes::from_static(b"v"), flags: 0 };
        let plain = ReadPolicy::new(seconds(60), seconds(10));
        assert_eq!((plain.expiry(&value), plain.recache()), (Some(seconds(60)), Duration::ZERO));
        assert_eq!(plain.expiry(&Encoded::ABSENT), None);
        let policy =
            ReadPolicy { early: seconds(5), keep_stale: seconds(100), absent: Some(seconds(3)), ..plain.clone() };
        assert_eq!((policy.expiry(&value), policy.recache()), (Some(seconds(160)), seconds(105)));
        assert_eq!(policy.expiry(&Encoded::ABSENT), Some(seconds(108)));
        // Refreshing is never due at once.
        assert_eq!(ReadPolicy { early: seconds(90), ..plain.clone() }.recache(), seconds(30));
        let for_ever = ReadPolicy { ttl: Duration::ZERO, early: seconds(90), ..plain };
        assert_eq!((for_ever.expiry(&value), for_ever.recache()), (Some(Duration::ZERO), Duration::ZERO));
    }

    #[test]
    fn jitter_only_shortens_and_by_no_more_than_its_share() {
        let policy = ReadPolicy { jitter: 0.2, ..ReadPolicy::new(seconds(100), seconds(10)) };
        let value = Encoded { value: Bytes::from_static(b"v"), flags: 0 };
        let all: Vec<Duration> = (0..1000).map(|_| policy.expiry(&value).unwrap()).collect();
        assert!(all.iter().all(|ttl| (seconds(80)..=seconds(100)).contains(ttl)));
        assert!(all.iter().any(|&ttl| ttl < seconds(90)) && all.iter().any(|&ttl| ttl > seconds(90)));
    }
}
