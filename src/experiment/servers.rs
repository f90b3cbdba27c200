//! Servers of known capacity, in this process: each works on one request at a time, first come, first served, for a time that
//! is drawn. It sleeps meanwhile, so that many of them share a core. On request one fails instead.
//!
//! When a response is due follows from the arrivals and the drawn times alone: a thread that wakes up late delays its own
//! response, but takes nothing of the capacity.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::load::exponential;

/// How long a server works on a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ServiceTime {
    /// Exponentially distributed: M, in Kendall's notation.
    Exponential { mean: Duration },
    /// Log-normally distributed, a heavy tail: `sigma` is the standard deviation of the logarithm.
    LogNormal { mean: Duration, sigma: f64 },
}

impl ServiceTime {
    pub fn mean(self) -> Duration {
        match self {
            ServiceTime::Exponential { mean } | ServiceTime::LogNormal { mean, .. } => mean,
        }
    }

    /// The mean of the square, in units of the squared mean.
    pub fn second_moment(self) -> f64 {
        match self {
            ServiceTime::Exponential { .. } => 2.0,
            ServiceTime::LogNormal { sigma, .. } => (sigma * sigma).exp(),
        }
    }

    fn draw(self, random: &mut fastrand::Rng) -> Duration {
        let factor = match self {
            ServiceTime::Exponential { .. } => exponential(random),
            ServiceTime::LogNormal { sigma, .. } => (sigma * normal(random) - sigma * sigma / 2.0).exp(),
        };
        self.mean().mul_f64(factor)
    }
}

/// Of mean 0 and variance 1 (Box and Muller 1958).
fn normal(random: &mut fastrand::Rng) -> f64 {
    (2.0 * exponential(random)).sqrt() * (std::f64::consts::TAU * random.f64()).cos()
}

/// One server on a port of its own. Its threads end with the process, or with their connections.
pub struct TimedServer {
    pub name: String,
    pub address: SocketAddr,
    work: Arc<Work>,
}

struct Work {
    name: String,
    time: ServiceTime,
    line: Mutex<WorkLine>,
    is_broken: AtomicBool,
    received: AtomicU64,
}

/// What the server has to do before it begins with another request.
struct WorkLine {
    free_at: Instant,
    random: fastrand::Rng,
}

impl TimedServer {
    /// So many servers, `server1` the first. Each draws its own times, the same in each run.
    pub fn start_all(times: &[ServiceTime]) -> Result<Vec<TimedServer>, String> {
        let start = |(i, time): (usize, &ServiceTime)| TimedServer::start(format!("server{}", i + 1), i as u64, *time);
        let started: io::Result<Vec<TimedServer>> = times.iter().enumerate().map(start).collect();
        started.map_err(|why| format!("cannot start a server for the balancer: {why}"))
    }

    fn start(name: String, seed: u64, time: ServiceTime) -> io::Result<TimedServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let line = WorkLine { free_at: Instant::now(), random: fastrand::Rng::with_seed(seed) };
        let (is_broken, received) = (AtomicBool::new(false), AtomicU64::new(0));
        let work = Arc::new(Work { name: name.clone(), time, line: Mutex::new(line), is_broken, received });
        let accepting = work.clone();
        thread::Builder::new().spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let work = accepting.clone();
                // A connection without a thread is closed.
                let _ = thread::Builder::new().spawn(move || work.serve(stream));
            }
        })?;
        Ok(TimedServer { name, address, work })
    }

    /// Answers 500 from now on, and at once.
    pub fn break_down(&self) {
        self.work.is_broken.store(true, Ordering::Relaxed);
    }

    /// Works again.
    pub fn recover(&self) {
        self.work.is_broken.store(false, Ordering::Relaxed);
    }

    /// Requests that it took so far.
    pub fn received(&self) -> u64 {
        self.work.received.load(Ordering::Relaxed)
    }
}

impl Work {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => head.extend_from_slice(&buffer[..n]),
            }
            // A request of an experiment has no body, and the next one waits for its response.
            if memchr::memmem::find(&head, b"\r\n\r\n").is_some() {
                head.clear();
                self.respond(&mut stream)?;
            }
        }
    }

    fn respond(&self, stream: &mut TcpStream) -> io::Result<()> {
        self.received.fetch_add(1, Ordering::Relaxed);
        let status = if self.is_broken.load(Ordering::Relaxed) {
            "500 Internal Server Error"
        } else {
            thread::sleep(self.done_at().saturating_duration_since(Instant::now()));
            "200 OK"
        };
        write!(stream, "HTTP/1.1 {status}\r\nX-Server-ID: {}\r\nContent-Length: 0\r\n\r\n", self.name)
    }

    fn done_at(&self) -> Instant {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let time = self.time.draw(&mut line.random);
        line.free_at = line.free_at.max(Instant::now()) + time;
        line.free_at
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::HttpClient;
    use super::*;

    const MEAN: Duration = Duration::from_millis(1);

    #[test]
    fn drawn_times_have_the_moments_that_they_are_said_to_have() {
        for time in [ServiceTime::Exponential { mean: MEAN }, ServiceTime::LogNormal { mean: MEAN, sigma: 0.5 }] {
            let mut random = fastrand::Rng::with_seed(1);
            let drawn: Vec<f64> = (0..100_000).map(|_| time.draw(&mut random).as_secs_f64() * 1000.0).collect();
            let mean = |f: fn(f64) -> f64| drawn.iter().copied().map(f).sum::<f64>() / drawn.len() as f64;
            assert!((mean(|x| x) - 1.0).abs() < 0.02, "{time:?}");
            assert!((mean(|x| x * x) / time.second_moment() - 1.0).abs() < 0.05, "{time:?}");
        }
    }

    /// Its work is done one after another, whatever threads do: what is due never comes sooner.
    #[test]
    fn a_server_works_on_one_request_at_a_time_and_fails_when_it_is_broken() {
        let servers = TimedServer::start_all(&[ServiceTime::Exponential { mean: MEAN }]).unwrap();
        let work = &servers[0].work;
        let due: Vec<Instant> = (0..50).map(|_| work.done_at()).collect();
        let mut random = fastrand::Rng::with_seed(0);
        let times: Vec<Duration> = (0..50).map(|_| work.time.draw(&mut random)).collect();
        assert!(due.windows(2).zip(&times[1..]).all(|(pair, time)| pair[1] - pair[0] >= *time));
        let mut client = HttpClient::connect(servers[0].address).unwrap();
        let mut get = || client.get("/").map(|response| (response.status, response.server)).unwrap();
        assert_eq!(get(), (200, Some("server1".into())));
        servers[0].break_down();
        assert_eq!(get(), (500, Some("server1".into())));
        assert_eq!(servers[0].received(), 2);
    }
}
