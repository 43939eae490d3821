//! Time, as a value: the engine reads no clock.

/// Unix time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u32);

/// When an item expires: at a time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(u32);

impl Expiry {
    /// The item stays until it is evicted.
    pub const NEVER: Expiry = Expiry(0);

    /// The item is gone from `time` on.
    pub fn at(time: Time) -> Self {
        Expiry(time.0.max(1))
    }

    /// The time, or `None` for never.
    pub fn time(self) -> Option<Time> {
        (self.0 != 0).then_some(Time(self.0))
    }

    /// Whether the item is gone at `now`.
    #[inline]
    pub fn has_passed(self, now: Time) -> bool {
        self.0 != 0 && self.0 <= now.0
    }

    /// Seconds left at `now`; `None` is forever.
    pub fn remaining(self, now: Time) -> Option<u32> {
        self.time().map(|time| time.0.saturating_sub(now.0))
    }
}
