//! A load: requests on many connections, bounded in number, rate and time, and the outcome of each.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::client::HttpClient;

/// One request and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its number in the load.
    pub number: u32,
    /// When it was sent, from the start of the load.
    pub sent: Duration,
    /// Until its response was read whole, or it failed.
    pub took: Duration,
    pub outcome: SampleOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleOutcome {
    /// A 2xx response of this replica.
    Served(String),
    /// Another status.
    Status(u16),
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

    /// When its response had been read, from the start of the load.
    pub fn answered(&self) -> Duration {
        self.sent + self.took
    }
}

/// How many requests are sent, how fast and to which targets.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    pub connections: u32,
    /// The load ends after this many requests at the latest.
    pub requests: u32,
    /// Requests per second, all connections together. `None`: each connection sends as soon as it has its response.
    pub rate: Option<f64>,
    /// The target of request number i.
    pub target: fn(u32) -> String,
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
    let next = AtomicU32::new(0);
    let mut samples: Vec<Sample> = thread::scope(|scope| {
        let run_connection = || connection(address, plan, begin, &next, stop, &on_sample);
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

fn connection(
    address: SocketAddr,
    plan: LoadPlan,
    begin: Instant,
    next: &AtomicU32,
    stop: &AtomicBool,
    on_sample: &(impl Fn(&Sample) + Sync),
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut client = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.requests || stop.load(Ordering::Relaxed) {
            return samples;
        }
        if let Some(rate) = plan.rate {
            let due = begin + Duration::from_secs_f64(f64::from(number) / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let sent = Instant::now();
        let outcome = request(address, &mut client, &(plan.target)(number));
        let sample = Sample { number, sent: sent - begin, took: sent.elapsed(), outcome };
        on_sample(&sample);
        samples.push(sample);
    }
}

fn request(address: SocketAddr, client: &mut Option<HttpClient<std::net::TcpStream>>, target: &str) -> SampleOutcome {
    let mut open = match client.take() {
        Some(open) => open,
        None => match HttpClient::connect(address) {
            Ok(open) => open,
            Err(why) => return SampleOutcome::Broken(why.to_string()),
        },
    };
    match open.get(target) {
        Ok(response) => {
            if open.is_open() {
                *client = Some(open);
            }
            match (response.status, response.server) {
                (200..=299, Some(server)) => SampleOutcome::Served(server),
                (200..=299, None) => SampleOutcome::Broken("a response without X-Server-ID".into()),
                (status, _) => SampleOutcome::Status(status),
            }
        }
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
