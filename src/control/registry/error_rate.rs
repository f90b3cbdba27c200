//! Which replicas fail a larger share of their requests than the others of their service do. How requests fail, and what
//! follows, is decided elsewhere.

use super::ejection::EjectionPolicy;
use crate::core::snapshot::ReplicaLoad;

/// Requests of one replica in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCount {
    pub requests: u64,
    pub failed: u64,
}

/// Requests of one replica that workers reported as failed, and the sums when its interval began.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorWindow {
    reported: u64,
    before: Sums,
}

/// Each kind of failure by itself: a reload may change which of them count.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    requests: u64,
    reported: u64,
    responses_5xx: u64,
}

impl ErrorWindow {
    pub fn report(&mut self) {
        self.reported += 1;
    }

    /// What came since the last call.
    pub fn take(&mut self, load: &ReplicaLoad, counts_5xx: bool) -> RequestCount {
        let [.., responses_5xx] = load.responses();
        let now = Sums { requests: load.total(), reported: self.reported, responses_5xx };
        let before = std::mem::replace(&mut self.before, now);
        let since = |of: fn(&Sums) -> u64| of(&now).saturating_sub(of(&before));
        let answered = if counts_5xx { since(|sums| sums.responses_5xx) } else { 0 };
        RequestCount { requests: since(|sums| sums.requests), failed: since(|sums| sums.reported) + answered }
    }
}

/// A replica that fails too many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlier<K> {
    pub key: K,
    pub count: RequestCount,
    /// The shares of its requests that failed, and of those of the others together.
    pub share: f64,
    pub others: f64,
}

/// The worst first.
pub fn outliers<K: Copy>(policy: &EjectionPolicy, counts: &[(K, RequestCount)]) -> Vec<Outlier<K>> {
    let sum = |counted: fn(&RequestCount) -> u64| counts.iter().map(|(_, count)| counted(count)).sum::<u64>();
    let (requests, failed) = (sum(|count| count.requests), sum(|count| count.failed));
    let of = |(key, count): &(K, RequestCount)| {
        let others = share(failed - count.failed, requests - count.requests);
        Outlier { key: *key, count: *count, share: share(count.failed, count.requests), others }
    };
    let is_one = |one: &Outlier<K>| {
        policy.error_rate > 0.0
            && one.count.requests >= policy.min_requests
            && one.count.failed > 0
            && one.share >= one.others + policy.error_rate
    };
    let mut found: Vec<Outlier<K>> = counts.iter().map(of).filter(is_one).collect();
    found.sort_by(|a, b| b.share.total_cmp(&a.share));
    found
}

fn share(failed: u64, requests: u64) -> f64 {
    // A request may fail after the interval in which it was counted.
    if requests == 0 { 0.0 } else { (failed as f64 / requests as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn found(error_rate: f64, min_requests: u64, counts: &[(u64, u64)]) -> Vec<usize> {
        let policy = EjectionPolicy { error_rate, min_requests, ..EjectionPolicy::default() };
        let counts: Vec<(usize, RequestCount)> = counts
            .iter()
            .map(|(requests, failed)| RequestCount { requests: *requests, failed: *failed })
            .enumerate()
            .collect();
        outliers(&policy, &counts).iter().map(|one| one.key).collect()
    }

    #[test]
    fn a_replica_is_compared_with_the_others_together() {
        assert_eq!(found(0.3, 100, &[(100, 40), (1000, 0), (1000, 10)]), [0]);
        assert_eq!(found(0.3, 100, &[(100, 29), (1000, 0), (1000, 10)]), NONE);
        assert_eq!(
            found(0.3, 100, &[(100, 60), (100, 50), (100, 55)]),
            NONE,
            "all fail: the load or the clients are the cause"
        );
        assert_eq!(found(0.2, 100, &[(200, 80), (200, 180), (800, 0)]), [1, 0], "the worst first");
    }

    #[test]
    fn few_requests_and_no_limit_say_nothing() {
        assert_eq!(found(0.3, 100, &[(99, 99), (1000, 0)]), NONE);
        assert_eq!(found(0.0, 1, &[(100, 100), (100, 0)]), NONE);
        assert_eq!(found(0.3, 1, &[(0, 0), (0, 0)]), NONE);
        assert_eq!(found(0.3, 0, &[(0, 5), (100, 0)]), NONE, "they failed after their interval");
    }

    #[test]
    fn each_interval_counts_from_the_one_before() {
        let (load, mut window) = (ReplicaLoad::new(1), ErrorWindow::default());
        let mut serve = |requests: usize, reported: usize, responses_5xx: u64, counts_5xx| {
            (0..requests).for_each(|_| load.start(0));
            (0..reported).for_each(|_| window.report());
            load.respond(0, [0, 0, 0, 0, responses_5xx]);
            window.take(&load, counts_5xx)
        };
        assert_eq!(serve(10, 1, 4, true), RequestCount { requests: 10, failed: 5 });
        assert_eq!(serve(5, 3, 0, true), RequestCount { requests: 5, failed: 3 });
        assert_eq!(serve(5, 0, 2, true), RequestCount { requests: 5, failed: 2 });
        assert_eq!(serve(5, 1, 2, false), RequestCount { requests: 5, failed: 1 }, "a reload counts them no more");
        assert_eq!(serve(5, 0, 1, true), RequestCount { requests: 5, failed: 1 }, "nor those before one that does");
    }
}
