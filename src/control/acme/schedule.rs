//! When a certificate is asked for: ahead of its end, and after a failure. Times are seconds since 1970; no clock enters.

use fastrand::Rng;

/// From a failure to the next attempt, at first and at most.
const RETRY: u64 = 60;
const RETRY_MAX: u64 = 6 * 3600;
/// A server that asks for more patience is asked again after this all the same.
const RETRY_AFTER_MAX: u64 = 24 * 3600;
/// Of a lifetime, and of a delay: so much is left to chance, so that not all ask at once.
const EARLY_MAX: f64 = 1.0 / 60.0;
const LATE_MAX: f64 = 1.0 / 4.0;

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    pub not_before: u64,
    /// What the server asked for.
    retry_after: u64,
}

/// After two thirds of its lifetime or a little earlier, always the same for one certificate.
pub fn renewal(valid_from: u64, expires: u64) -> u64 {
    let lifetime = expires.saturating_sub(valid_from);
    let early = lifetime as f64 * EARLY_MAX * Rng::with_seed(expires).f64();
    valid_from + (lifetime / 3 * 2).saturating_sub(early as u64)
}

impl Backoff {
    /// The next attempt comes after twice the delay before, and not before `retry_after`, which the server asked for.
    pub fn fail(&mut self, now: u64, retry_after: u64, random: &mut Rng) {
        let delay = RETRY.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        let jitter = (delay as f64 * LATE_MAX * random.f64()) as u64;
        self.failures += 1;
        self.retry_after = retry_after.min(now + RETRY_AFTER_MAX);
        self.not_before = self.retry_after.max(now + delay + jitter);
    }

    /// What was wrong may be mended. A server that asked for patience gets it all the same.
    pub fn forgive(&mut self) {
        *self = Backoff { failures: 0, not_before: self.retry_after, retry_after: self.retry_after };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_time_or_a_little_earlier() {
        const DAY: u64 = 24 * 3600;
        for from in 0..1000 {
            let at = renewal(from, from + 90 * DAY) - from;
            assert!((58 * DAY + DAY / 2 - 1..=60 * DAY).contains(&at), "{at}");
            assert_eq!(at + from, renewal(from, from + 90 * DAY));
        }
        assert_ne!(renewal(0, 90 * DAY), renewal(1, 90 * DAY + 1) - 1, "the jitter differs");
        assert_eq!(renewal(5, 5), 5);
    }

    #[test]
    fn attempts_are_a_minute_apart_at_first_then_twice_as_long_each_up_to_six_hours() {
        let (mut backoff, mut random) = (Backoff::default(), Rng::with_seed(1));
        let mut delay = || {
            backoff.fail(1_000, 0, &mut random);
            backoff.not_before - 1_000
        };
        for expected in [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600] {
            let delay = delay();
            assert!((expected..=expected + expected / 4).contains(&delay), "{delay} of {expected}");
        }
    }

    #[test]
    fn what_the_server_asks_for_counts_if_it_is_later_and_within_a_day() {
        let after = |retry_after| {
            let mut backoff = Backoff::default();
            backoff.fail(1_000, retry_after, &mut Rng::with_seed(1));
            backoff.not_before
        };
        assert!((1_060..1_080).contains(&after(1_010)));
        assert_eq!(after(5_000), 5_000);
        assert_eq!(after(u64::MAX), 1_000 + RETRY_AFTER_MAX);
    }

    #[test]
    fn what_is_forgiven_is_tried_at_once_unless_the_server_asked_for_patience() {
        for (retry_after, expected) in [(0, 0), (5_000, 5_000)] {
            let mut backoff = Backoff::default();
            backoff.fail(1_000, retry_after, &mut Rng::with_seed(1));
            backoff.forgive();
            assert_eq!(backoff.not_before, expected);
            backoff.fail(10_000, 0, &mut Rng::with_seed(1));
            assert!((10_060..10_080).contains(&backoff.not_before), "the delays begin anew");
        }
    }
}
