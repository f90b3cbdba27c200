//! Clients: wrk for pressure, and a witness that asks all the time and notes who answered and when.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::balancer::answer;

/// Between two questions of the witness.
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

/// Reads wrk's page.
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

/// One client that keeps its connection and notes each answer.
pub struct Witness {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Note>>,
}

pub struct Note {
    pub asked: Instant,
    pub took: Duration,
    /// The body of a 200, or `None` for anything else.
    pub said: Option<String>,
}

impl Witness {
    pub fn start(to: SocketAddr) -> Witness {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut notes = Vec::new();
            let mut connection = None;
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                let asked = Instant::now();
                let said = ask(to, &mut connection);
                notes.push(Note { asked, took: asked.elapsed(), said });
            }
            notes
        });
        Witness { stop, thread }
    }

    pub fn finish(self) -> Vec<Note> {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

pub fn failures(notes: &[Note]) -> usize {
    notes.iter().filter(|note| note.said.is_none()).count()
}

pub fn who(notes: &[Note]) -> BTreeSet<&str> {
    notes.iter().filter_map(|note| note.said.as_deref()).collect()
}

fn ask(to: SocketAddr, connection: &mut Option<BufReader<TcpStream>>) -> Option<String> {
    if connection.is_none() {
        let stream = TcpStream::connect(to).ok()?;
        stream.set_nodelay(true).ok()?;
        *connection = Some(BufReader::new(stream));
    }
    let stream = connection.as_mut()?;
    let sent = stream.get_mut().write_all(b"GET /home HTTP/1.1\r\nHost: t\r\n\r\n");
    let answer = sent.ok().and_then(|()| answer(stream));
    if answer.is_none() {
        *connection = None;
    }
    answer.filter(|answer| answer.status == 200).map(|answer| answer.body)
}

#[test]
fn the_page_of_wrk_is_read() {
    let page = "  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.20ms    2.10ms  1.05s    95.00%\n\
        \x20   Req/Sec    50.00k     1.00k   52.00k    70.00%\n  100 requests in 1.00s, 2.00MB read\n\
        \x20 Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 5\n";
    assert_eq!(tally(page), Tally { sent: 100, failed: 15, slowest_ms: 1050.0 });
}
