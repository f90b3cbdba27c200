//! A histogram of durations with fixed buckets: one writer, relaxed, without a lock. Readers sum those of all workers. What
//! is measured, and how it is written for a scraper, never enters.
//!
//! Buckets are linear within a decade: 36 of them from 10 us to 100 s, each a quarter of the decade's first value wide. So a
//! bucket is at most a quarter of its lower bound wide (12.5 % off from its middle, and 2.5 % at the end of a decade), its
//! bounds are round decimal numbers, and the bounds that a scraper gets are bounds of buckets: no count is interpolated.

use std::array;

use super::counters::Counter;

/// Everything up to this is one bucket: such durations are below what a clock in user space resolves in practice.
const LEAST_US: u32 = 10;
const DECADES: usize = 7;
/// Everything from this on is the last bucket.
const LONG_US: u64 = 100_000_001;
/// The first value of each decade, in the buckets' unit.
const TENS: [u32; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
const PER_DECADE: usize = 36;
/// The first one, those of the decades, and one for what is longer.
const BUCKETS: usize = 1 + DECADES * PER_DECADE + 1;

/// The bounds that a scraper gets, in microseconds and as written in seconds.
pub const BOUNDS: [(u32, &str); 19] = [
    (50, "0.00005"),
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1.0"),
    (2_500_000, "2.5"),
    (5_000_000, "5.0"),
    (10_000_000, "10.0"),
    (30_000_000, "30.0"),
    (60_000_000, "60.0"),
];

#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: array::from_fn(|_| Counter::default()), sum_us: Counter::default() }
    }
}

impl Histogram {
    /// Single writer.
    #[inline]
    pub fn record(&self, us: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(us)) {
            bucket.count();
        }
        self.sum_us.add(us);
    }
}

/// Which bucket holds a duration. A bucket holds its upper bound and not its lower one, as `le` wants it.
#[inline]
fn bucket_of(us: u64) -> usize {
    let below = us.min(LONG_US).saturating_sub(1) as u32;
    if below < LEAST_US {
        return 0;
    }
    let decade = below.ilog10() as usize;
    let quarters = 4 * below / TENS.get(decade).unwrap_or(&1);
    1 + (decade - 1) * PER_DECADE + quarters as usize - 4
}

/// The longest duration of a bucket; of the last one, which has none, its shortest.
fn upper_bound_us(bucket: usize) -> u64 {
    let Some(number) = bucket.checked_sub(1) else { return u64::from(LEAST_US) };
    let (decade, quarters) = (number / PER_DECADE + 1, number % PER_DECADE + 4);
    let unit = TENS.get(decade).copied().map_or(LONG_US, u64::from);
    if bucket >= BUCKETS - 1 { LONG_US } else { ((quarters as u64 + 1) * unit).div_ceil(4) }
}

/// What histograms hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    counts: Box<[u64]>,
    sum_us: u64,
}

impl Default for Durations {
    fn default() -> Self {
        Durations { counts: vec![0; BUCKETS].into(), sum_us: 0 }
    }
}

impl Durations {
    pub fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Durations {
        let mut durations = Durations::default();
        for histogram in histograms {
            for (count, bucket) in durations.counts.iter_mut().zip(&histogram.buckets) {
                *count = count.wrapping_add(bucket.value());
            }
            durations.sum_us = durations.sum_us.wrapping_add(histogram.sum_us.value());
        }
        durations
    }

    pub fn record(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(us)) {
            *count += 1;
        }
        self.sum_us = self.sum_us.wrapping_add(us);
    }

    /// What was recorded after `earlier`.
    pub fn since(&self, earlier: &Durations) -> Durations {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.wrapping_sub(*then));
        Durations { counts: counts.collect(), sum_us: self.sum_us.wrapping_sub(earlier.sum_us) }
    }

    /// A duration that this share of all, from 0 to 1, do not exceed: the upper bound of a bucket, so at most a quarter too
    /// long. `None`: nothing was recorded.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut sum = 0;
        let bucket = self.counts.iter().position(|count| {
            sum += count;
            sum >= rank
        })?;
        Some(upper_bound_us(bucket))
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// For each of [`BOUNDS`], as written, how many durations are at most that.
    pub fn cumulative(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let (mut from, mut sum) = (0, 0);
        BOUNDS.iter().map(move |(bound_us, text)| {
            let end = bucket_of(u64::from(*bound_us)) + 1;
            sum += self.counts.get(from..end).unwrap_or_default().iter().sum::<u64>();
            from = end;
            (*text, sum)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_counts_what_is_at_most_that_long() {
        for (bound_us, text) in BOUNDS {
            let mut durations = Durations::default();
            let at = u64::from(bound_us);
            [at - 1, at, at + 1].into_iter().for_each(|us| durations.record(us));
            let found = durations.cumulative().find(|(written, _)| *written == text);
            assert_eq!(found, Some((text, 2)), "{bound_us} us: the bound ends a bucket");
            assert_eq!(text.parse(), Ok(f64::from(bound_us) / 1e6));
        }
    }

    #[test]
    fn a_bucket_is_at_most_a_quarter_of_its_lower_bound_wide() {
        let (mut lower, mut bucket) = (10, 1);
        for us in 11..2_000_000u64 {
            if bucket_of(us) != bucket {
                assert_eq!(bucket_of(us), bucket + 1, "no bucket is skipped");
                // Whole microseconds: a bound of 12.5 is 12.
                assert!((us - 1 - lower) * 4 <= lower + 2, "from {lower} to {} us", us - 1);
                (lower, bucket) = (us - 1, bucket + 1);
            }
        }
        assert_eq!([0, 1, 10].map(bucket_of), [0; 3]);
        assert_eq!([100_000_000, 100_000_001, u64::MAX].map(bucket_of), [BUCKETS - 2, BUCKETS - 1, BUCKETS - 1]);
    }

    #[test]
    fn the_upper_bound_of_a_bucket_is_its_last_duration() {
        for bucket in 0..BUCKETS - 1 {
            let last = upper_bound_us(bucket);
            assert_eq!((bucket_of(last), bucket_of(last + 1)), (bucket, bucket + 1), "{last} us");
        }
        assert_eq!(bucket_of(upper_bound_us(BUCKETS - 1)), BUCKETS - 1);
    }

    #[test]
    fn a_quantile_is_of_what_was_recorded_since() {
        let mut durations = Durations::default();
        assert_eq!(durations.quantile(0.5), None);
        durations.record(90_000_000);
        let before = durations.clone();
        (0..99).for_each(|_| durations.record(200));
        durations.record(3_000_000);
        let since = durations.since(&before);
        assert_eq!((since.count(), since.sum_seconds()), (100, 3.0198));
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|share| since.quantile(share)),
            [Some(200), Some(200), Some(200), Some(3_000_000)]
        );
    }

    #[test]
    fn workers_are_summed() {
        let workers = [Histogram::default(), Histogram::default()];
        workers[0].record(30);
        workers[0].record(2_000_000);
        workers[1].record(80);
        workers[1].record(99_000_000);
        let durations = Durations::of(&workers);
        assert_eq!((durations.count(), durations.sum_seconds()), (4, 101.00011));
        let written: Vec<u64> = durations.cumulative().map(|(_, count)| count).collect();
        assert_eq!(written[..3], [1, 2, 2]);
        assert_eq!(written[13..], [2, 3, 3, 3, 3, 3], "99 s is over every bound");
    }
}
