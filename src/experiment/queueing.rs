//! What queueing theory predicts for replicas that each work on one request at a time: pure, nothing is measured.
//!
//! The time in the system under Poisson arrivals and exponential service times comes from the differential equations of
//! Mitzenmacher ("The Power of Two Choices in Randomized Load Balancing", 2001), exact as the number of replicas grows: how
//! large a part of the replicas of each class has at least k requests. Here the two choices differ, which matters where a
//! class is one replica. With one choice it is the M/M/1 queue. The equations are integrated from empty queues on, so that a
//! class with more load than capacity has a prediction too: it depends on how long the load lasts. The mean for other
//! service times is that of Pollaczek and Khinchine (M/G/1), and for other arrivals Kingman's for heavy traffic (1961).

use std::time::Duration;

use super::servers::ServiceTime;

/// Requests at one replica that the equations tell apart.
const LEVELS: usize = 256;
/// Of the integration. Rates are far below 1 / STEP_S.
const STEP_S: f64 = 0.0005;

/// Replicas of one kind.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaClass {
    /// How many they are.
    pub replicas: f64,
    /// Of all requests, those that one choice sends to this class.
    pub share: f64,
    /// Requests per second that one of them serves while it has any.
    pub rate: f64,
}

/// How a replica is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choices {
    /// One, by the shares.
    One,
    /// The one with fewer requests of two different ones, each as likely as any other. There are at least two.
    LessOfTwo,
}

/// How long requests are in the system: a mixture of Erlang distributions.
#[derive(Clone, Debug)]
pub struct TimeInSystem {
    /// By class: the rate, and the part of all requests that find k others before them.
    classes: Vec<(f64, Vec<f64>)>,
}

impl TimeInSystem {
    /// Of the requests that arrive within `time`, `rate` per second.
    pub fn predict(classes: &[ReplicaClass], choices: Choices, rate: f64, time: Duration) -> TimeInSystem {
        let all: f64 = classes.iter().map(|class| class.replicas).sum();
        // By class, the part of the replicas that has at least k requests.
        let mut at_least: Vec<Vec<f64>> = classes.iter().map(|_| vec![0.0; LEVELS + 2]).collect();
        at_least.iter_mut().for_each(|part| part[0] = 1.0);
        let mut arrived: Vec<Vec<f64>> = classes.iter().map(|_| vec![0.0; LEVELS]).collect();
        let steps = (time.as_secs_f64() / STEP_S).ceil().max(1.0) as usize;
        for _ in 0..steps {
            let with = |k: usize| classes.iter().zip(&at_least).map(|(class, part)| class.replicas * part[k]).sum();
            let with: Vec<f64> = (0..=LEVELS).map(with).collect();
            for ((class, part), arrived) in classes.iter().zip(&mut at_least).zip(&mut arrived) {
                let mut one_less = part[0];
                for k in 1..=LEVELS {
                    // Arrivals per second at one replica that has k - 1 requests.
                    let per_replica = match choices {
                        Choices::One => rate * class.share / class.replicas,
                        // The other choice has more, or as many and comes second.
                        Choices::LessOfTwo => {
                            rate / all * (with[k - 1] + with[k] - one_less - part[k]) / (all - 1.0).max(1.0)
                        }
                    };
                    let arriving = per_replica * (one_less - part[k]);
                    arrived[k - 1] += arriving * class.replicas / (rate * steps as f64);
                    one_less = part[k];
                    part[k] += STEP_S * (arriving - class.rate * (part[k] - part[k + 1]));
                }
            }
        }
        TimeInSystem { classes: classes.iter().map(|class| class.rate).zip(arrived).collect() }
    }

    /// Of requests that find so many others before them, at a replica of this rate.
    pub fn behind(others: usize, rate: f64) -> TimeInSystem {
        let mut found = vec![0.0; others + 1];
        found[others] = 1.0;
        TimeInSystem { classes: vec![(rate, found)] }
    }

    /// The part of all requests that takes longer.
    pub fn longer_than(&self, time: Duration) -> f64 {
        self.classes.iter().map(|(rate, found)| mixture_tail(found, rate * time.as_secs_f64())).sum()
    }

    /// What the part `p` of all requests does not exceed.
    pub fn quantile(&self, p: f64) -> Duration {
        let (mut low, mut high) = (Duration::ZERO, Duration::from_secs(600));
        while high - low > Duration::from_micros(100) {
            let middle = (low + high) / 2;
            if self.longer_than(middle) > 1.0 - p { low = middle } else { high = middle }
        }
        high
    }
}

/// The part of a class's requests that is not done after `x` mean service times: one with k others before it is done at the
/// k+1st event of a Poisson process.
fn mixture_tail(found: &[f64], x: f64) -> f64 {
    let mut left: f64 = found.iter().sum();
    let (mut events_ln, mut tail) = (-x, 0.0);
    for (k, part) in found.iter().enumerate() {
        // k events so far, with this probability: those with at least k others before them are left.
        tail += events_ln.exp() * left;
        left -= part;
        events_ln += x.ln() - ((k + 1) as f64).ln();
    }
    tail
}

/// The mean time in the system in the long run, where each replica gets a share of `rate` requests per second.
/// `arrival_variation` is the variance of the times between two of its arrivals, in units of their squared mean: 1 where each
/// request goes anywhere, 1/n where each of n replicas has its turn. The formula is exact for the former.
pub fn mean_time(shares: &[f64], service: ServiceTime, rate: f64, arrival_variation: f64) -> Duration {
    let mean = service.mean().as_secs_f64();
    let variation = (arrival_variation + service.second_moment() - 1.0) / 2.0;
    let of = |share: &f64| {
        let load = rate * share * mean;
        share * mean * (1.0 + variation * load / (1.0 - load))
    };
    Duration::try_from_secs_f64(shares.iter().map(of).sum()).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn alike(replicas: f64) -> [ReplicaClass; 1] {
        [ReplicaClass { replicas, share: 1.0, rate: 50.0 }]
    }

    /// Exponential of rate 50 - 25 in the long run.
    #[test]
    fn one_choice_is_the_m_m_1_queue() {
        let time = TimeInSystem::predict(&alike(10.0), Choices::One, 250.0, LONG);
        for p in [0.5, 0.9, 0.99] {
            let exact = -(1.0_f64 - p).ln() / 25.0;
            assert!((time.quantile(p).as_secs_f64() / exact - 1.0).abs() < 0.02, "{p}: {:?}", time.quantile(p));
        }
        let service = ServiceTime::Exponential { mean: Duration::from_millis(20) };
        assert!((mean_time(&[0.1; 10], service, 250.0, 1.0).as_secs_f64() - 0.040).abs() < 1e-9);
        // Exponential too, where one other is before it: the 99th percentile of two events.
        assert!((TimeInSystem::behind(1, 50.0).quantile(0.99).as_secs_f64() - 6.638 / 50.0).abs() < 1e-3);
    }

    /// In the long run the part of 0.9^(2^k - 1) has at least k requests, where one choice leaves 0.9^k.
    #[test]
    fn two_choices_have_the_tails_of_mitzenmacher() {
        let time = TimeInSystem::predict(&alike(10.0), Choices::LessOfTwo, 450.0, LONG);
        let (_, found) = &time.classes[0];
        let tail = |k: i32| 0.9_f64.powi((1 << k) - 1);
        for k in 0..4 {
            // Both choices have at least k requests, and not both at least k + 1.
            let exact = tail(k).powi(2) - tail(k + 1).powi(2);
            assert!((found[k as usize] - exact).abs() < 0.01, "{k}: {} of {exact}", found[k as usize]);
        }
        assert!(
            time.quantile(0.99) < TimeInSystem::predict(&alike(10.0), Choices::One, 450.0, LONG).quantile(0.99) / 3
        );
    }

    /// 25 requests per second come to a replica that serves 5: after two seconds the last of them waits 8 s.
    #[test]
    fn a_replica_with_more_load_than_capacity_has_a_queue_that_grows() {
        let slow = [ReplicaClass { replicas: 1.0, share: 1.0, rate: 5.0 }];
        let time = TimeInSystem::predict(&slow, Choices::One, 25.0, Duration::from_secs(2));
        let median = time.quantile(0.5).as_secs_f64();
        assert!((3.7..4.7).contains(&median), "{median}");
        assert!((time.longer_than(Duration::ZERO) - 1.0).abs() < 1e-6);
    }
}
