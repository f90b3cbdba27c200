//! Passive ejection: a replica that fails requests, in a row or more of them than others, takes no new ones for a time, which grows with each ejection that
//! follows the one before. How requests fail, and what a service can spare, is decided elsewhere.

use crate::core::tick::Tick;

/// How the replicas of one service are ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectionPolicy {
    /// So many requests failed in a row eject; 0: none do.
    pub consecutive_failures: u32,
    /// A response with a 5xx status is a failure.
    pub counts_5xx: bool,
    /// The first ejection, and the longest one.
    pub base_ms: u64,
    pub max_ms: u64,
    /// A replica whose share of failed requests in an interval is that of the others and so much more is ejected; 0: none is.
    pub error_rate: f64,
    pub interval_ms: u64,
    /// With fewer requests in an interval nothing is said of a replica.
    pub min_requests: u64,
    /// The share of a service's members that may be ejected, from 0 to 1.
    pub max_share: f64,
}

impl Default for EjectionPolicy {
    fn default() -> EjectionPolicy {
        EjectionPolicy {
            consecutive_failures: 5,
            counts_5xx: false,
            base_ms: 10_000,
            max_ms: 300_000,
            error_rate: 0.5,
            interval_ms: 10_000,
            min_requests: 100,
            max_share: 0.5,
        }
    }
}

impl EjectionPolicy {
    pub fn max_5xx_in_a_row(&self) -> Option<u32> {
        (self.counts_5xx && self.consecutive_failures > 0).then_some(self.consecutive_failures)
    }
}

/// Of one instance.
#[derive(Debug, Default)]
pub struct PassiveEjection {
    until: Option<Tick>,
    /// The last one took so long, until then.
    last: Option<(u64, Tick)>,
}

impl PassiveEjection {
    pub fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// When it ends.
    pub fn due(&self) -> Tick {
        self.until.unwrap_or(Tick::NEVER)
    }

    /// Begins one, twice as long as the last unless it has served as long without another. Returns how long it takes.
    pub fn begin(&mut self, policy: &EjectionPolicy, now: Tick) -> u64 {
        let ms = match self.last {
            Some((ms, ended)) if now.ms_since(ended) < ms => ms.saturating_mul(2),
            _ => policy.base_ms,
        };
        let ms = ms.min(policy.max_ms.max(policy.base_ms));
        let until = now.after_ms(ms);
        (self.until, self.last) = (Some(until), Some((ms, until)));
        ms
    }

    /// True if there was one.
    pub fn end(&mut self) -> bool {
        self.until.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_that_follow_each_other_double_up_to_a_limit() {
        let policy = EjectionPolicy { base_ms: 100, max_ms: 300, ..EjectionPolicy::default() };
        let (mut ejection, mut now) = (PassiveEjection::default(), Tick::ZERO);
        let mut eject = |pause_ms: u64| {
            now = now.after_ms(pause_ms);
            let ms = ejection.begin(&policy, now);
            assert_eq!((ejection.is_on(), ejection.due()), (true, now.after_ms(ms)));
            now = now.after_ms(ms);
            assert!(ejection.end() && !ejection.end());
            ms
        };
        assert_eq!([eject(5), eject(0), eject(199), eject(299), eject(300), eject(0)], [100, 200, 300, 300, 100, 200]);
    }
}
