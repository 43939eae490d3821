//! Times to live as the protocol sends them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder_protocol::{Exptime, RELATIVE_EXPTIME_MAX};

/// A year: longer than any caller waits, and short enough to be added to the clock.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Returns the time to live on a node that keeps items for at most `ttl_max`.
pub(crate) fn clamped(ttl: Duration, ttl_max: Option<Duration>) -> Duration {
    match ttl_max {
        // Zero means forever.
        Some(ttl_max) if ttl.is_zero() || ttl > ttl_max => ttl_max,
        _ => ttl,
    }
}

/// Returns a time to live as it is sent: in whole seconds, rounded up. Beyond 30 days it is a Unix time (protocol.txt,
/// "Expiration times").
pub(crate) fn exptime(ttl: Duration) -> Exptime {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    if seconds <= RELATIVE_EXPTIME_MAX as u64 {
        return Exptime(seconds as i64);
    }
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Exptime(unix.saturating_add(seconds).min(i32::MAX as u64) as i64)
}

/// Returns a duration that the server compares with a time to live: in whole seconds, at least 1. It is never a Unix
/// time.
pub(crate) fn relative(time: Duration) -> Exptime {
    Exptime(time.as_secs().clamp(1, RELATIVE_EXPTIME_MAX as u64) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_counts_parts_of_a_second_as_a_whole_one_and_months_as_unix_time() {
        assert_eq!(exptime(Duration::ZERO).0, 0);
        assert_eq!(exptime(Duration::from_millis(1)).0, 1);
        assert_eq!(exptime(Duration::from_secs(2_592_000)).0, 2_592_000);
        assert!(exptime(Duration::from_secs(2_592_001)).0 > 1_700_000_000);
        assert_eq!(exptime(Duration::MAX).0, i64::from(i32::MAX));
    }
}
