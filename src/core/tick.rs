//! Points in time on a monotonic clock. The kernel reads the clocks; core only compares.

/// A point in time, in whole milliseconds of a coarse clock: deadlines are ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    pub const ZERO: Tick = Tick(0);
    /// No deadline.
    pub const NEVER: Tick = Tick(u64::MAX);

    pub fn after_ms(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms))
    }

    pub fn ms_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A point in time, in whole microseconds of a precise clock: what an exchange took is the difference of two stamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u64);

impl Stamp {
    pub fn us_since(self, earlier: Stamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
