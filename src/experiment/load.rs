//! Requests, many at once, bounded in number, rate and time; and what became of each.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::client::Client;

/// One request and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Which request of the load it was.
    pub number: u32,
    /// When it was sent, since the load began.
    pub sent: Duration,
    /// Until its answer was read whole, or it failed.
    pub took: Duration,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx answer of this replica.
    Served(String),
    /// Another status.
    Status(u16),
    /// No answer: refused, reset, cut.
    Broken(String),
}

impl Sample {
    pub fn server(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Served(server) => Some(server),
            _ => None,
        }
    }

    /// When its answer was there.
    pub fn answered(&self) -> Duration {
        self.sent + self.took
    }
}

/// How much is asked, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub connections: u32,
    /// It ends after so many requests at the latest.
    pub requests: u32,
    /// Requests a second, all connections together. None: each as fast as its answers come.
    pub rate: Option<f64>,
    /// The target of request number i.
    pub target: fn(u32) -> String,
}

/// Every connection its thread, every request once; `on_sample` sees each answer as it comes. Ends early when
/// `stop` is set. Samples come back in the order of their numbers, and count time from `begin`. Without room for a
/// thread the load is not what was planned: it ends with that error.
pub fn run(
    address: SocketAddr,
    plan: Plan,
    begin: Instant,
    stop: &AtomicBool,
    on_sample: impl Fn(&Sample) + Sync,
) -> Result<Vec<Sample>, String> {
    let next = AtomicU32::new(0);
    let mut samples: Vec<Sample> = thread::scope(|scope| {
        let one = || connection(address, plan, begin, &next, stop, &on_sample);
        let threads: Result<Vec<_>, String> = (0..plan.connections).map(|_| thread(scope, one)).collect();
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
    thread.map_err(|why| format!("the load lacks a thread: {why}; allow this user more processes (ulimit -u)"))
}

fn connection(
    address: SocketAddr,
    plan: Plan,
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
        let outcome = ask(address, &mut client, &(plan.target)(number));
        let sample = Sample { number, sent: sent - begin, took: sent.elapsed(), outcome };
        on_sample(&sample);
        samples.push(sample);
    }
}

fn ask(address: SocketAddr, client: &mut Option<Client<std::net::TcpStream>>, target: &str) -> Outcome {
    let mut open = match client.take() {
        Some(open) => open,
        None => match Client::connect(address) {
            Ok(open) => open,
            Err(why) => return Outcome::Broken(why.to_string()),
        },
    };
    match open.get(target) {
        Ok(reply) => {
            if open.is_open() {
                *client = Some(open);
            }
            match (reply.status, reply.server) {
                (200..=299, Some(server)) => Outcome::Served(server),
                (200..=299, None) => Outcome::Broken("an answer without X-Server-ID".into()),
                (status, _) => Outcome::Status(status),
            }
        }
        Err(why) => Outcome::Broken(why.to_string()),
    }
}

/// A load for as long as `meanwhile` takes; its samples, and what it came to.
pub fn during<T>(
    address: SocketAddr,
    plan: Plan,
    begin: Instant,
    meanwhile: impl FnOnce() -> Result<T, String>,
) -> Result<(Vec<Sample>, T), String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = thread(scope, || run(address, plan, begin, &stop, |_| ()))?;
        let done = meanwhile();
        stop.store(true, Ordering::Relaxed);
        let samples = load.join().map_err(|_| "the load broke down".to_string())??;
        Ok((samples, done?))
    })
}

/// How many requests each of `names` answered.
pub fn count<'a>(samples: impl IntoIterator<Item = &'a Sample>, names: &[String]) -> Vec<u32> {
    let mut counts = vec![0; names.len()];
    for server in samples.into_iter().filter_map(Sample::server) {
        if let Some(i) = names.iter().position(|name| name == server) {
            counts[i] += 1;
        }
    }
    counts
}

/// Those that were not served, and the first one's story.
pub fn failures(samples: &[Sample]) -> (usize, Option<String>) {
    let mut failed = samples.iter().filter(|sample| sample.server().is_none()).peekable();
    let first = failed.peek().map(|sample| format!("request {}: {:?}", sample.number, sample.outcome));
    (failed.count(), first)
}
