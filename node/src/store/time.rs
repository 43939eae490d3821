//! Time, as a value: the engine reads no clock.

use serde::{Deserialize, Serialize};

/// Unix time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u32);

/// When an item expires: at a time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(u32);

impl Expiry {
    /// The item does not expire.
    pub const NEVER: Expiry = Expiry(0);

    /// The item has expired from `time` on.
    pub fn at(time: Time) -> Self {
        Expiry(time.0.max(1))
    }

    /// Returns the time, or `None` for never.
    pub fn time(self) -> Option<Time> {
        (self.0 != 0).then_some(Time(self.0))
    }

    /// Returns whether the item has expired at `now`.
    #[inline]
    pub fn has_passed(self, now: Time) -> bool {
        self.0 != 0 && self.0 <= now.0
    }

    /// Returns the seconds left at `now`, or `None` for never.
    pub fn remaining(self, now: Time) -> Option<u32> {
        self.time().map(|time| time.0.saturating_sub(now.0))
    }
}
