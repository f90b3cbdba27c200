//! A load: requests on many connections, bounded in number, rate and time, and the outcome of each.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::client::{HttpClient, IO_TIMEOUT};

/// Longer than any deadline of the balancer that an experiment waits for.
pub const PATIENT: Duration = IO_TIMEOUT;
/// Of the times between requests: each run has the same.
const SEED: u64 = 20;

/// One request and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its number in the load.
    pub number: u32,
    /// When it was sent, from the start of the load; in an open loop, when it was due.
    pub sent: Duration,
    /// From then until its response was read whole, or it failed.
    pub took: Duration,
    pub outcome: SampleOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleOutcome {
    /// A 2xx response of this replica.
    Served(String),
    /// Another status, of this replica or of the balancer itself.
    Status(u16, Option<String>),
    /// No whole response: refused, reset, truncated.
    Broken(String),
}

impl Sample {
    pub fn server(&self) -> Option<&str> {
        match &self.outcome {
            SampleOutcome::Served(server) => Some(server),
            _ => None,
        }
    }

    /// The replica that answered it with another status than 2xx.
    pub fn failed_at(&self) -> Option<&str> {
        match &self.outcome {
            SampleOutcome::Status(_, server) => server.as_deref(),
            _ => None,
        }
    }

    /// When its response had been read, from the start of the load.
    pub fn answered(&self) -> Duration {
        self.sent + self.took
    }
}

/// How many requests are sent, when and to which targets.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// Requests under way at a time at most.
    pub connections: u32,
    /// The load ends after this many requests at the latest.
    pub requests: u32,
    pub pace: Pace,
    /// The longest wait for a response.
    pub patience: Duration,
    /// The target of request number i.
    pub target: fn(u32) -> String,
}

/// When requests are sent. In an open loop (all but the first) a slow response delays no other request, and the time of one
/// that finds all connections in use counts from when it was due: waiting is not left out of the measurement.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each connection sends as soon as it has its response.
    Closed,
    /// So many per second, at equal distances.
    Even(f64),
    /// So many per second on average, each independent of the others (a Poisson process).
    Poisson(f64),
}

/// Which request is sent next.
struct Schedule {
    next: u32,
    /// When it is due, from the start of the load.
    due: Duration,
    random: fastrand::Rng,
}

/// One thread per connection, each request sent once; `on_sample` is called for each as it ends. Ends early when `stop` is
/// set. Samples are in the order of their numbers, and count time from `begin`. A thread that cannot be started ends the
/// load with an error, since it would not be the one planned.
pub fn run(
    address: SocketAddr,
    plan: LoadPlan,
    begin: Instant,
    stop: &AtomicBool,
    on_sample: impl Fn(&Sample) + Sync,
) -> Result<Vec<Sample>, String> {
    let schedule = Mutex::new(Schedule { next: 0, due: Duration::ZERO, random: fastrand::Rng::with_seed(SEED) });
    let idle = Mutex::new(Vec::new());
    let mut samples: Vec<Sample> = thread::scope(|scope| {
        let run_connection = || connection(address, plan, begin, &schedule, &idle, stop, &on_sample);
        let threads: Result<Vec<_>, String> = (0..plan.connections).map(|_| thread(scope, run_connection)).collect();
        if threads.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        Ok::<_, String>(threads?.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect())
    })?;
    samples.sort_by_key(|sample| sample.number);
    Ok(samples)
}

fn thread<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, String> {
    let thread = thread::Builder::new().spawn_scoped(scope, work);
    thread.map_err(|why| format!("the load cannot start a thread: {why}; allow this user more processes (ulimit -u)"))
}

/// Connections that no request uses: the one used last is taken first.
type IdleClients = Mutex<Vec<HttpClient<TcpStream>>>;

fn connection(
    address: SocketAddr,
    plan: LoadPlan,
    begin: Instant,
    schedule: &Mutex<Schedule>,
    idle: &IdleClients,
    stop: &AtomicBool,
    on_sample: &(impl Fn(&Sample) + Sync),
) -> Vec<Sample> {
    let mut samples = Vec::new();
    loop {
        let (number, due) = schedule.lock().unwrap_or_else(PoisonError::into_inner).take(plan.pace);
        if number >= plan.requests {
            return samples;
        }
        if let Some(due) = due {
            thread::sleep((begin + due).saturating_duration_since(Instant::now()));
        }
        if stop.load(Ordering::Relaxed) {
            return samples;
        }
        let sent = due.unwrap_or_else(|| begin.elapsed());
        let outcome = request(address, idle, plan.patience, &(plan.target)(number));
        let sample = Sample { number, sent, took: begin.elapsed().saturating_sub(sent), outcome };
        on_sample(&sample);
        samples.push(sample);
    }
}

impl Schedule {
    /// The next request, and when it is due in an open loop.
    fn take(&mut self, pace: Pace) -> (u32, Option<Duration>) {
        let number = self.next;
        self.next = number.saturating_add(1);
        let due = match pace {
            Pace::Closed => return (number, None),
            Pace::Even(rate) => Duration::from_secs_f64(f64::from(number) / rate),
            Pace::Poisson(rate) => {
                self.due += Duration::from_secs_f64(exponential(&mut self.random) / rate);
                self.due
            }
        };
        (number, Some(due))
    }
}

/// Exponentially distributed, of mean 1.
pub fn exponential(random: &mut fastrand::Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}

fn request(address: SocketAddr, idle: &IdleClients, patience: Duration, target: &str) -> SampleOutcome {
    let open = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let open = open.map_or_else(|| HttpClient::connect(address), Ok);
    let response = open.and_then(|mut open| {
        open.set_timeout(patience)?;
        let response = open.get(target)?;
        if open.is_open() {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(open);
        }
        Ok(response)
    });
    match response.map(|response| (response.status, response.server)) {
        Ok((200..=299, Some(server))) => SampleOutcome::Served(server),
        Ok((200..=299, None)) => SampleOutcome::Broken("a response without X-Server-ID".into()),
        Ok((status, server)) => SampleOutcome::Status(status, server),
        Err(why) => SampleOutcome::Broken(why.to_string()),
    }
}

/// A load for as long as `work` takes; its samples, and what `work` returned.
pub fn during<T>(
    address: SocketAddr,
    plan: LoadPlan,
    begin: Instant,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<(Vec<Sample>, T), String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = thread(scope, || run(address, plan, begin, &stop, |_| ()))?;
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let samples = load.join().map_err(|_| "the load panicked".to_string())??;
        Ok((samples, done?))
    })
}

/// How many requests each of `names` served.
pub fn count<'a>(samples: impl IntoIterator<Item = &'a Sample>, names: &[String]) -> Vec<u32> {
    let mut counts = vec![0; names.len()];
    for server in samples.into_iter().filter_map(Sample::server) {
        if let Some(i) = names.iter().position(|name| name == server) {
            counts[i] += 1;
        }
    }
    counts
}

/// How many were not served, and the outcome of the first of them.
pub fn failures(samples: &[Sample]) -> (usize, Option<String>) {
    let mut failed = samples.iter().filter(|sample| sample.server().is_none()).peekable();
    let first = failed.peek().map(|sample| format!("request {}: {:?}", sample.number, sample.outcome));
    (failed.count(), first)
}
