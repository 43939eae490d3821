//! The node's clock: Unix seconds that do not jump when the system's clock is set.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_protocol::{Exptime, RELATIVE_EXPTIME_MAX};

use crate::store::{Expiry, Time};

/// The last second that the clock shows, in the year 2106: it holds there. The engine counts seconds in 32 bits, and
/// the highest number means never.
const LAST: Time = Time(u32::MAX - 1);

#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// Unix time of `started`, with its fraction, so that seconds turn when the system's do.
    unix: Duration,
    /// Seconds that `debugtime` added.
    shift: AtomicI64,
    /// Time at which `debugtime p` stopped the clock, before the shift; 0 if it runs.
    stopped: AtomicU32,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), unix, shift: AtomicI64::new(0), stopped: AtomicU32::new(0) }
    }

    #[inline]
    pub(crate) fn now(&self) -> Time {
        let running = match self.stopped.load(Ordering::Relaxed) {
            0 => (self.unix + self.started.elapsed()).as_secs() as i64,
            stopped => i64::from(stopped),
        };
        Time(running.saturating_add(self.shift.load(Ordering::Relaxed)).clamp(1, LAST.0.into()) as u32)
    }

    /// Shifts the clock by `seconds`.
    pub(crate) fn shift(&self, seconds: i64) {
        let shift = self.shift.load(Ordering::Relaxed);
        self.shift.store(shift.saturating_add(seconds), Ordering::Relaxed);
    }

    /// Stops the clock at `now`.
    pub(crate) fn pause(&self, now: Time) {
        let unshifted = i64::from(now.0).saturating_sub(self.shift.load(Ordering::Relaxed));
        self.stopped.store(unshifted.clamp(1, LAST.0.into()) as u32, Ordering::Relaxed);
    }

    /// Lets a stopped clock run on.
    pub(crate) fn resume(&self) {
        self.stopped.store(0, Ordering::Relaxed);
    }

    /// Seconds since the node started.
    pub(crate) fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

/// Returns when an item with this expiration time expires (protocol.txt, "Expiration times").
pub(crate) fn expiry(exptime: Exptime, now: Time) -> Expiry {
    match exptime.0 {
        0 => Expiry::NEVER,
        ..0 => Expiry::at(now),
        seconds @ 1..=RELATIVE_EXPTIME_MAX => Expiry::at(Time(now.0.saturating_add(seconds as u32))),
        unix => Expiry::at(Time(u32::try_from(unix).unwrap_or(u32::MAX).max(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_holds_at_the_last_second_that_it_can_show() {
        let clock = Clock::start();
        clock.shift(i64::from(u32::MAX));
        assert_eq!(clock.now(), LAST);
        clock.shift(i64::MAX);
        assert_eq!(clock.now(), LAST);
        // What ends later does not end, and what has ended has.
        assert!(!expiry(Exptime(100), LAST).has_passed(clock.now()));
        assert!(expiry(Exptime(-1), LAST).has_passed(clock.now()));
    }

    #[test]
    fn thirty_days_are_relative_and_a_second_more_is_a_unix_time() {
        let now = Time(1_800_000_000);
        assert_eq!(expiry(Exptime(2_592_000), now).time(), Some(Time(1_802_592_000)));
        assert_eq!(expiry(Exptime(2_592_001), now).time(), Some(Time(2_592_001)));
        assert!(expiry(Exptime(2_592_001), now).has_passed(now));
    }

    #[test]
    fn a_negative_exptime_has_passed_at_once_and_zero_never_does() {
        let now = Time(1_800_000_000);
        assert!(expiry(Exptime(-1), now).has_passed(now));
        assert!(!expiry(Exptime(0), now).has_passed(Time(u32::MAX)));
    }
}
