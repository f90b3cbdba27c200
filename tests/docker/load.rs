//! Clients: wrk for load, and one that sends a request each millisecond and records the answers.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::balancer::answer;

/// Between two requests of a steady client.
const PACE: Duration = Duration::from_millis(1);

/// A run of wrk with 64 connections.
pub struct Wrk(Child);

#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    pub sent: u64,
    pub failed: u64,
    pub slowest_ms: f64,
}

impl Wrk {
    pub fn start(to: SocketAddr, seconds: u32) -> Wrk {
        let (duration, url) = (format!("-d{seconds}s"), format!("http://{to}/home"));
        let child = Command::new("wrk")
            .args(["-t1", "-c64", &duration, "--timeout", "10s", &url])
            .stdout(Stdio::piped())
            .spawn()
            .expect("wrk is installed");
        Wrk(child)
    }

    pub fn finish(self) -> Tally {
        let output = self.0.wait_with_output().unwrap();
        tally(&String::from_utf8_lossy(&output.stdout))
    }
}

/// Parses wrk's output.
fn tally(page: &str) -> Tally {
    let mut tally = Tally::default();
    for line in page.lines().map(str::trim) {
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            ["Latency", _, _, max, ..] => tally.slowest_ms = milliseconds(max),
            [sent, "requests", "in", ..] => tally.sent = sent.parse().unwrap(),
            ["Socket", "errors:", rest @ ..] => {
                tally.failed += rest.iter().filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
            }
            ["Non-2xx", .., count] => tally.failed += count.parse::<u64>().unwrap(),
            _ => {}
        }
    }
    assert!(tally.sent > 0, "wrk sent nothing:\n{page}");
    tally
}

fn milliseconds(text: &str) -> f64 {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)];
    let (unit, factor) = units.iter().find(|(unit, _)| text.ends_with(unit)).unwrap();
    text.trim_end_matches(unit).parse::<f64>().unwrap() * factor
}

/// A client that keeps its connection and records each answer.
pub struct SteadyClient {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

pub struct Sample {
    pub sent_at: Instant,
    pub took: Duration,
    /// The body of a 200, or `None` for anything else.
    pub body: Option<String>,
}

impl SteadyClient {
    pub fn start(to: SocketAddr) -> SteadyClient {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            let mut connection = None;
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                let sent_at = Instant::now();
                let body = get_home(to, &mut connection);
                samples.push(Sample { sent_at, took: sent_at.elapsed(), body });
            }
            samples
        });
        SteadyClient { stop, thread }
    }

    pub fn finish(self) -> Vec<Sample> {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

pub fn failures(samples: &[Sample]) -> usize {
    samples.iter().filter(|sample| sample.body.is_none()).count()
}

pub fn bodies(samples: &[Sample]) -> BTreeSet<&str> {
    samples.iter().filter_map(|sample| sample.body.as_deref()).collect()
}

fn get_home(to: SocketAddr, connection: &mut Option<BufReader<TcpStream>>) -> Option<String> {
    if connection.is_none() {
        let stream = TcpStream::connect(to).ok()?;
        stream.set_nodelay(true).ok()?;
        *connection = Some(BufReader::new(stream));
    }
    let stream = connection.as_mut()?;
    let sent = stream.get_mut().write_all(b"GET /home HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = sent.ok().and_then(|()| answer(stream));
    if answer.as_ref().is_none_or(|answer| answer.closes) {
        *connection = None;
    }
    answer.filter(|answer| answer.status == 200).map(|answer| answer.body)
}

#[test]
fn the_output_of_wrk_is_parsed() {
    let page = "  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.20ms    2.10ms  1.05s    95.00%\n\
        \x20   Req/Sec    50.00k     1.00k   52.00k    70.00%\n  100 requests in 1.00s, 2.00MB read\n\
        \x20 Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 5\n";
    assert_eq!(tally(page), Tally { sent: 100, failed: 15, slowest_ms: 1050.0 });
}
