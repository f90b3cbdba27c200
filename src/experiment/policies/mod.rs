//! `policies`: how each balancing policy copes with a slow replica, with heavy-tailed service times and, with a queue in the
//! balancer, with more load than all replicas can serve; beside what queueing theory predicts.
//!
//! The servers have a known capacity, and the load is an open loop of independent requests. What is predicted is in
//! `queueing`; under overload it is the fluid limit of a queue whose customers leave after a fixed time (Whitt, "Fluid
//! Models for Multiserver Queues with Abandonments", 2006): all of the capacity is used, and who is served has waited nearly
//! that long.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | the loads, each over a balancer of its own, and what came of them; predictions, goals |
//! | `figure` | the picture |

mod figure;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use figure::PoliciesFigure;

use super::load::{self, LoadPlan, Pace, Sample, SampleOutcome};
use super::output::{self, Report, percent};
use super::picture;
use super::progress::Progress;
use super::queueing::{self, Choices, ReplicaClass, TimeInSystem};
use super::servers::{ServiceTime, TimedServer};
use super::testbed::Testbed;
use super::{ExperimentSettings, check_interrupted, stop};
use crate::core::ring::{Member, Ring, RingKind};

const SERVERS: usize = 10;
const MEAN: Duration = Duration::from_millis(20);
/// Requests per second that all servers of this mean can serve.
const CAPACITY: f64 = SERVERS as f64 / 0.020;
/// Index of the slow one.
const SLOW: usize = 3;
const SLOW_FACTOR: u32 = 10;
/// Of the capacity without a slow server.
const SLOW_LOAD: f64 = 0.5;
const HEAVY_LOAD: f64 = 0.7;
/// 3.2 times the variance of the exponential distribution; 1 of 100 services takes 8 times the mean.
const HEAVY_SIGMA: f64 = 1.2;
const OVERLOADS: [f64; 4] = [0.5, 1.0, 1.5, 2.0];
/// A client waits so long for its response.
const PATIENCE: Duration = Duration::from_secs(2);
/// A request waits so long in the balancer's queue.
const QUEUE_DEADLINE: Duration = Duration::from_millis(200);
/// One that a server works on and one behind it: with one alone, it would be idle until the next comes.
const OVERLOAD_FLAGS: [&str; 5] = [
    "--policy=least-request",
    "--upstream-max-connections=2",
    "--upstream-queue=1024",
    "--upstream-queue-timeout=200ms",
    "--upstream-retry-budget=20",
];
/// Timeouts of a slow server are no reason to eject it here, and nothing waits for what it has not done in the end.
const FLAGS: [&str; 3] = ["--hash-key=request", "--ejection-consecutive-failures=0", "--drain-timeout=100ms"];
const TIME: Duration = Duration::from_secs(4);
/// This part of a load is left out where a steady state is measured.
const WARM_UP: f64 = 0.2;
/// More than are under way at a time.
const CONNECTIONS: u32 = 512;

/// One policy of the comparison.
#[derive(Clone, Copy)]
struct ComparedPolicy {
    name: &'static str,
    flags: &'static [&'static str],
    /// What the model knows of it; `None`: there is no such formula.
    model: Option<PolicyModel>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PolicyModel {
    /// A random key on the ring.
    RingShare,
    Random,
    RoundRobin,
    LessOfTwo,
}

const POLICIES: [ComparedPolicy; 5] = [
    ComparedPolicy { name: "hash", flags: &["--policy=hash"], model: Some(PolicyModel::RingShare) },
    ComparedPolicy { name: "bounded hash", flags: &["--policy=hash", "--balance-factor=1.25"], model: None },
    ComparedPolicy { name: "least-request", flags: &["--policy=least-request"], model: Some(PolicyModel::LessOfTwo) },
    ComparedPolicy { name: "round-robin", flags: &["--policy=round-robin"], model: Some(PolicyModel::RoundRobin) },
    ComparedPolicy { name: "random", flags: &["--policy=random"], model: Some(PolicyModel::Random) },
];
const LEAST_REQUEST: usize = 2;
const ROUND_ROBIN: usize = 3;

/// One load over one balancer.
struct PolicyLoad {
    name: &'static str,
    /// Requests per second, of all servers' capacity.
    load: f64,
    samples: Vec<Sample>,
    /// What the servers took.
    received: u64,
    /// When the last request was due.
    end: Duration,
    predicted: PredictedLoad,
}

/// What is predicted; `None`: no formula says it.
#[derive(Clone, Copy, Default)]
struct PredictedLoad {
    mean: Option<Duration>,
    median: Option<Duration>,
    p99: Option<Duration>,
    /// Of all requests: those that the client does not wait for, or that are refused.
    failed: Option<f64>,
    /// Of the capacity.
    goodput: Option<f64>,
}

struct PolicyRuns {
    slow: Vec<PolicyLoad>,
    heavy: Vec<PolicyLoad>,
    overload: Vec<PolicyLoad>,
}

pub fn run(settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    let runs = PolicyRuns::perform(settings, progress)?;
    let picture = picture::paint(&PoliciesFigure { runs: &runs })?;
    Ok(Report { name: "policies", picture, csv: runs.csv(), text: runs.summary() })
}

/// A balancer before servers of these times, and the load on it.
struct PolicyTrial<'a> {
    settings: &'a ExperimentSettings,
    time: Duration,
    progress: &'a Progress,
}

impl PolicyTrial<'_> {
    fn run(
        &self,
        name: &'static str,
        times: &[ServiceTime],
        flags: &[&str],
        load: f64,
        predict: impl FnOnce(&[f64]) -> PredictedLoad,
    ) -> Result<PolicyLoad, String> {
        let servers = TimedServer::start_all(times)?;
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
        let testbed = Testbed::in_front_of(self.settings, &addresses, &[&FLAGS, flags].concat())?;
        let predicted = predict(&ring_shares(&testbed.names()?));
        let requests = (load * CAPACITY * self.time.as_secs_f64()).ceil().max(1.0) as u32;
        let plan = LoadPlan {
            connections: CONNECTIONS.min(requests),
            requests,
            pace: Pace::Poisson(load * CAPACITY),
            patience: PATIENCE,
            target: |_| "/home".into(),
        };
        let samples = load::run(testbed.data, plan, Instant::now(), stop(), |_| ())?;
        check_interrupted()?;
        self.progress.step();
        let end = samples.last().map_or(self.time, |sample| sample.sent);
        let received = servers.iter().map(TimedServer::received).sum();
        Ok(PolicyLoad { name, load, samples, received, end, predicted })
    }
}

fn ring_shares(names: &[String]) -> Vec<f64> {
    let members: Vec<Member> = names.iter().map(|name| Member::new(name, 1)).collect();
    let shares = Ring::build(RingKind::Ketama, &members).shares();
    (0..members.len()).map(|member| shares.of(member)).collect()
}

impl PolicyRuns {
    fn perform(settings: &ExperimentSettings, progress: &Progress) -> Result<PolicyRuns, String> {
        progress.expect((2 * POLICIES.len() + OVERLOADS.len()) as u64, "loads");
        let trial = PolicyTrial { settings, time: settings.time_or(TIME), progress };
        let mut one_slow = [ServiceTime::Exponential { mean: MEAN }; SERVERS];
        one_slow[SLOW] = ServiceTime::Exponential { mean: MEAN * SLOW_FACTOR };
        let slow = POLICIES.map(|policy| {
            let predict = |shares: &[f64]| predict_slow(policy.model, shares, trial.time);
            trial.run(policy.name, &one_slow, policy.flags, SLOW_LOAD, predict)
        });
        let heavy_time = ServiceTime::LogNormal { mean: MEAN, sigma: HEAVY_SIGMA };
        let heavy = POLICIES.map(|policy| {
            let predict = |shares: &[f64]| predict_heavy(policy.model, shares, heavy_time);
            trial.run(policy.name, &[heavy_time; SERVERS], policy.flags, HEAVY_LOAD, predict)
        });
        let even = [ServiceTime::Exponential { mean: MEAN }; SERVERS];
        let overload =
            OVERLOADS.map(|load| trial.run("least-request", &even, &OVERLOAD_FLAGS, load, |_| predict_overload(load)));
        Ok(PolicyRuns {
            slow: slow.into_iter().collect::<Result<_, _>>()?,
            heavy: heavy.into_iter().collect::<Result<_, _>>()?,
            overload: overload.into_iter().collect::<Result<_, _>>()?,
        })
    }
}

fn predict_slow(model: Option<PolicyModel>, shares: &[f64], time: Duration) -> PredictedLoad {
    let even = 1.0 / SERVERS as f64;
    let class = |server: usize, share: f64| {
        let mean = if server == SLOW { MEAN * SLOW_FACTOR } else { MEAN };
        ReplicaClass { replicas: 1.0, share, rate: 1.0 / mean.as_secs_f64() }
    };
    let others = ReplicaClass { replicas: SERVERS as f64 - 1.0, share: 1.0 - even, ..class(SLOW + 1, 0.0) };
    let (choices, classes) = match model {
        Some(PolicyModel::RoundRobin) | None => return PredictedLoad::default(),
        Some(PolicyModel::RingShare) => {
            (Choices::One, shares.iter().enumerate().map(|(server, share)| class(server, *share)).collect())
        }
        Some(PolicyModel::Random) => (Choices::One, vec![others, class(SLOW, even)]),
        Some(PolicyModel::LessOfTwo) => (Choices::LessOfTwo, vec![others, class(SLOW, even)]),
    };
    let times = TimeInSystem::predict(&classes, choices, SLOW_LOAD * CAPACITY, time);
    PredictedLoad {
        median: Some(times.quantile(0.5)),
        p99: Some(times.quantile(0.99)),
        failed: Some(times.longer_than(PATIENCE)),
        ..PredictedLoad::default()
    }
}

fn predict_heavy(model: Option<PolicyModel>, shares: &[f64], service: ServiceTime) -> PredictedLoad {
    let mean = |shares: &[f64], variation| Some(queueing::mean_time(shares, service, HEAVY_LOAD * CAPACITY, variation));
    let even = 1.0 / SERVERS as f64;
    let mean = match model {
        Some(PolicyModel::RingShare) => mean(shares, 1.0),
        Some(PolicyModel::Random) => mean(&[even; SERVERS], 1.0),
        Some(PolicyModel::RoundRobin) => mean(&[even; SERVERS], even),
        Some(PolicyModel::LessOfTwo) | None => None,
    };
    PredictedLoad { mean, ..PredictedLoad::default() }
}

fn predict_overload(load: f64) -> PredictedLoad {
    let goodput = load.min(1.0);
    // Served ones have waited for the deadline, and find another request at their server.
    let at_server = TimeInSystem::behind(1, 1.0 / MEAN.as_secs_f64());
    let quantile = |p| (load > 1.0).then(|| QUEUE_DEADLINE + at_server.quantile(p));
    PredictedLoad {
        median: quantile(0.5),
        p99: quantile(0.99),
        goodput: Some(goodput),
        failed: Some(1.0 - goodput / load),
        ..PredictedLoad::default()
    }
}

impl PolicyLoad {
    /// Requests that were due after the warm-up, of a steady state.
    fn steady(&self) -> impl Iterator<Item = &Sample> {
        let from = self.end.mul_f64(WARM_UP);
        self.samples.iter().filter(move |sample| sample.sent >= from)
    }

    fn failed(&self) -> usize {
        load::failures(&self.samples).0
    }

    fn failed_share(&self) -> f64 {
        self.failed() as f64 / self.samples.len().max(1) as f64
    }

    /// Answered 503 by the balancer itself.
    fn refused(&self) -> usize {
        self.samples.iter().filter(|sample| sample.outcome == SampleOutcome::Status(503, None)).count()
    }

    /// Of the capacity: what was served from the warm-up to the last request.
    fn goodput(&self) -> f64 {
        let from = self.end.mul_f64(WARM_UP);
        let served = self.samples.iter().filter(|sample| sample.server().is_some());
        let count = served.filter(|sample| (from..self.end).contains(&sample.answered())).count();
        count as f64 / (self.end - from).as_secs_f64().max(f64::MIN_POSITIVE) / CAPACITY
    }
}

/// What the part `p` of them did not exceed, those that failed being the slowest. `None`: it failed.
fn quantile<'a>(samples: impl Iterator<Item = &'a Sample>, p: f64) -> Option<Duration> {
    let mut times: Vec<Duration> =
        samples.map(|sample| if sample.server().is_some() { sample.took } else { Duration::MAX }).collect();
    times.sort_unstable();
    let rank = ((p * times.len() as f64).ceil() as usize).clamp(1, times.len().max(1));
    times.get(rank - 1).copied().filter(|time| *time < Duration::MAX)
}

fn served<'a>(samples: impl Iterator<Item = &'a Sample>) -> impl Iterator<Item = &'a Sample> {
    samples.filter(|sample| sample.server().is_some())
}

fn mean<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<Duration> {
    let times: Vec<Duration> = samples.map(|sample| sample.took).collect();
    times.iter().sum::<Duration>().checked_div(times.len() as u32)
}

/// What the goals are about.
struct PolicyGoals {
    /// Of least-request's p99, as a part of round-robin's, with a slow replica; what failed counts as the patience.
    slow_p99_part: f64,
    /// Of what is served at the highest overload, as a multiple of the queue's deadline.
    served_p99: f64,
    /// There, of the capacity.
    goodput: f64,
}

impl PolicyRuns {
    fn goals(&self) -> PolicyGoals {
        let p99 = |load: &PolicyLoad| quantile(load.samples.iter(), 0.99).unwrap_or(PATIENCE).as_secs_f64();
        let highest = &self.overload[OVERLOADS.len() - 1];
        let served_p99 = quantile(served(highest.steady()), 0.99).map_or(f64::INFINITY, |p99| p99.as_secs_f64());
        PolicyGoals {
            slow_p99_part: p99(&self.slow[LEAST_REQUEST]) / p99(&self.slow[ROUND_ROBIN]),
            served_p99: served_p99 / QUEUE_DEADLINE.as_secs_f64(),
            goodput: highest.goodput(),
        }
    }

    fn csv(&self) -> String {
        let ms = |time: Option<Duration>| time.map_or(String::new(), |time| format!("{:.1}", time.as_secs_f64() * 1e3));
        let part = |part: Option<f64>| part.map_or(String::new(), |part| format!("{part:.4}"));
        let series = [("slow replica", &self.slow), ("heavy tail", &self.heavy), ("overload", &self.overload)];
        let rows = series.iter().flat_map(|(title, loads)| loads.iter().map(move |load| (title, load)));
        let rows = rows.map(|(title, load)| {
            let PredictedLoad { mean: mean_predicted, median, p99, failed, goodput } = load.predicted;
            [
                title.to_string(),
                load.name.into(),
                format!("{:.2}", load.load),
                load.samples.len().to_string(),
                load.failed().to_string(),
                load.refused().to_string(),
                load.received.to_string(),
                ms(quantile(served(load.samples.iter()), 0.5)),
                ms(quantile(served(load.samples.iter()), 0.99)),
                ms(quantile(load.samples.iter(), 0.99)),
                ms(mean(served(load.steady()))),
                part(Some(load.goodput())),
                ms(median),
                ms(p99),
                ms(mean_predicted),
                part(failed),
                part(goodput),
            ]
        });
        let head = [
            "series",
            "policy",
            "load",
            "requests",
            "failed",
            "refused",
            "received_by_replicas",
            "served_p50_ms",
            "served_p99_ms",
            "all_p99_ms",
            "served_mean_ms",
            "goodput",
            "predicted_p50_ms",
            "predicted_p99_ms",
            "predicted_mean_ms",
            "predicted_failed",
            "predicted_goodput",
        ];
        output::csv(head, rows)
    }

    fn summary(&self) -> String {
        let PolicyGoals { slow_p99_part, served_p99, goodput } = self.goals();
        let verdict = |met: bool| if met { "met" } else { "missed" };
        format!(
            "{SERVERS} servers that each work on one request at a time, for {} ms on average: together they can serve \
             {CAPACITY:.0} requests per second. The load is an open loop of independent requests, and times count from when a \
             request was due. A client waits {} s; a request that is not served by then has failed.\n\n\
             Goals:\n\n\
             - one replica {SLOW_FACTOR} times slower: the p99 of least-request is {slow_p99_part:.2} of round-robin's (at \
             most 0.5: {})\n\
             - twice the capacity: the p99 of what is served is {served_p99:.2} times the queue's deadline (at most 2: {})\n\
             - twice the capacity: goodput is {goodput:.2} of the capacity (at least 0.9: {})\n\n\
             ## One replica {SLOW_FACTOR} times slower\n\n\
             {} of the capacity without it, exponential service times. Predicted by the equations of one and two choices; \
             there are none for the others.\n\n{}\n\
             ## Heavy-tailed service times\n\n\
             {} of the capacity, log-normal times: 1 of 100 takes 8 times the mean. The mean is predicted by Pollaczek and \
             Khinchine, for round-robin by Kingman.\n\n{}\n\
             ## Overload\n\n\
             `{}`. Predicted by the fluid limit: what the capacity allows is served, after a wait of the deadline and two \
             service times.\n\n{}",
            MEAN.as_millis(),
            PATIENCE.as_secs(),
            verdict(slow_p99_part <= 0.5),
            verdict(served_p99 <= 2.0),
            verdict(goodput >= 0.9),
            percent(SLOW_LOAD),
            self.slow_table(),
            percent(HEAVY_LOAD),
            self.heavy_table(),
            OVERLOAD_FLAGS.join(" "),
            self.overload_table()
        )
    }

    fn slow_table(&self) -> String {
        let rows = self.slow.iter().map(|load| {
            let predicted = load.predicted;
            [
                load.name.into(),
                shown(quantile(load.samples.iter(), 0.5)),
                predicted.median.map_or("-".into(), within_patience),
                shown(quantile(load.samples.iter(), 0.99)),
                predicted.p99.map_or("-".into(), within_patience),
                percent(load.failed_share()),
                predicted.failed.map_or("-".into(), percent),
                percent(load.goodput() / load.load),
            ]
        });
        output::table(
            ["policy", "p50", "predicted", "p99", "predicted", "failed", "predicted", "goodput, of the load"],
            rows,
        )
    }

    fn heavy_table(&self) -> String {
        let rows = self.heavy.iter().map(|load| {
            [
                load.name.into(),
                shown(quantile(load.steady(), 0.5)),
                shown(quantile(load.steady(), 0.99)),
                shown(mean(served(load.steady()))),
                load.predicted.mean.map_or("-".into(), within_patience),
                percent(load.failed_share()),
            ]
        });
        output::table(["policy", "p50", "p99", "mean", "predicted", "failed"], rows)
    }

    fn overload_table(&self) -> String {
        let rows = self.overload.iter().map(|load| {
            let predicted = load.predicted;
            [
                percent(load.load),
                percent(load.goodput()),
                predicted.goodput.map_or("-".into(), percent),
                shown(quantile(served(load.steady()), 0.5)),
                predicted.median.map_or("-".into(), within_patience),
                shown(quantile(served(load.steady()), 0.99)),
                predicted.p99.map_or("-".into(), within_patience),
                percent(load.refused() as f64 / load.samples.len().max(1) as f64),
                predicted.failed.map_or("-".into(), percent),
                percent(load.received as f64 / load.samples.len().max(1) as f64),
            ]
        });
        let head = [
            "load",
            "goodput",
            "predicted",
            "p50 of what is served",
            "predicted",
            "p99",
            "predicted",
            "refused",
            "predicted",
            "requests that reached a replica",
        ];
        output::table(head, rows)
    }
}

fn shown(time: Option<Duration>) -> String {
    time.map_or_else(|| format!("> {} s", PATIENCE.as_secs()), |time| format!("{:.0} ms", time.as_secs_f64() * 1000.0))
}

fn within_patience(time: Duration) -> String {
    shown(Some(time).filter(|time| *time <= PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent: u64, took: u64, outcome: SampleOutcome) -> Sample {
        let [sent, took] = [sent, took].map(Duration::from_millis);
        Sample { number: 0, sent, took, outcome }
    }

    #[test]
    fn what_failed_is_slower_than_all_that_was_served() {
        let served = |took| sample(0, took, SampleOutcome::Served("a".into()));
        let samples = [served(30), sample(0, 1, SampleOutcome::Status(503, None)), served(10), served(20)];
        let quantiles = [0.0, 0.5, 0.75, 0.76].map(|p| quantile(samples.iter(), p).map(|time| time.as_millis()));
        assert_eq!(quantiles, [Some(10), Some(20), Some(30), None]);
        assert_eq!(quantile([].into_iter(), 0.5), None);
    }

    #[test]
    fn the_model_prefers_two_choices_where_one_replica_is_slow() {
        let even = [0.1; SERVERS];
        let [ring, random, two] = [PolicyModel::RingShare, PolicyModel::Random, PolicyModel::LessOfTwo]
            .map(|model| predict_slow(Some(model), &even, Duration::from_secs(1)).p99.unwrap());
        // A tenth of the requests goes to one that has five times the load that it can serve.
        assert!(ring.abs_diff(random) < Duration::from_millis(5), "{ring:?} {random:?}");
        assert!(two < random / 2, "{two:?} {random:?}");
    }
}
