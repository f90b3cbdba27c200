//! More requests than replicas may have at a time: they wait in order and for a limited time. Where all replicas fail, requests
//! are sent again within a budget.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use support::balancer::{Balancer, ask};
use support::{TIMEOUT, connect, field, origin, read_response, until};

/// A server that holds each request until it is released. It knows how many it had at a time.
#[derive(Clone, Default)]
struct Held {
    state: Arc<(Mutex<HeldState>, Condvar)>,
}

#[derive(Default)]
struct HeldState {
    /// Targets of the requests that are here, in the order in which they came.
    here: Vec<String>,
    most: usize,
    released: Vec<String>,
    is_open: bool,
}

impl Held {
    fn start() -> (Held, SocketAddr) {
        let held = Held::default();
        let own = held.clone();
        let address = origin::start(move |head, stream| {
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            own.hold(&target);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok()
        });
        (held, address)
    }

    fn hold(&self, target: &str) {
        let (state, changed) = &*self.state;
        let mut state = state.lock().expect("no thread panics");
        state.here.push(target.to_owned());
        state.most = state.most.max(state.here.len());
        let may_wait = |state: &mut HeldState| !state.is_open && !state.released.iter().any(|one| one == target);
        let (mut state, _) = changed.wait_timeout_while(state, TIMEOUT, may_wait).expect("no thread panics");
        state.here.retain(|one| one != target);
    }

    fn with<R>(&self, act: impl FnOnce(&mut HeldState) -> R) -> R {
        let result = act(&mut self.state.0.lock().expect("no thread panics"));
        self.state.1.notify_all();
        result
    }

    fn release(&self, target: &str) {
        self.with(|state| state.released.push(target.to_owned()));
    }

    fn here(&self) -> Vec<String> {
        self.with(|state| state.here.clone())
    }

    fn await_here(&self, targets: &[&str]) {
        until(Instant::now() + TIMEOUT, &format!("{targets:?} are there"), || (self.here() == targets).then_some(()));
    }
}

fn send(address: SocketAddr, target: &str) -> TcpStream {
    let mut client = connect(address);
    write!(client, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    client
}

fn await_queued(balancer: &Balancer, n: u64) {
    until(Instant::now() + TIMEOUT, "requests wait", || (balancer.metric("ringway_queued") == n).then_some(()));
}

fn start(address: SocketAddr, more: &[&str]) -> Balancer {
    let address = address.to_string();
    Balancer::start(&[&["--replica", &address, "--upstream-max-connections", "2"], more].concat())
}

#[test]
fn requests_wait_for_room_first_come_first_served() {
    let (held, address) = Held::start();
    let balancer = start(address, &["--workers", "1", "--upstream-queue-timeout", "60s"]);
    let mut clients = Vec::new();
    for (n, target) in ["/1", "/2", "/3", "/4", "/5"].into_iter().enumerate() {
        clients.push(send(balancer.data, target));
        match n {
            0 | 1 => until(Instant::now() + TIMEOUT, target, || (held.here().len() == n + 1).then_some(())),
            _ => await_queued(&balancer, n as u64 - 1),
        }
    }
    held.await_here(&["/1", "/2"]);
    held.release("/2");
    held.await_here(&["/1", "/3"]);
    held.release("/1");
    held.await_here(&["/3", "/4"]);
    held.with(|state| state.is_open = true);
    for client in &mut clients {
        assert!(read_response(client).0.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(held.with(|state| state.most), 2);
    await_queued(&balancer, 0);
}

/// Those of one worker do not wait until another has no more.
#[test]
fn requests_of_all_workers_get_their_turn() {
    let (held, address) = Held::start();
    let balancer = start(address, &["--workers", "4", "--upstream-queue-timeout", "60s"]);
    let targets: Vec<String> = (0..40).map(|n| format!("/{n}")).collect();
    let mut clients: Vec<TcpStream> = targets.iter().map(|target| send(balancer.data, target)).collect();
    await_queued(&balancer, 38);
    let mut served = Vec::new();
    while served.len() < targets.len() {
        let next = until(Instant::now() + TIMEOUT, "the next", || {
            let here = held.here();
            here.into_iter().find(|target| !served.contains(target))
        });
        held.release(&next);
        served.push(next);
    }
    for client in &mut clients {
        assert!(read_response(client).0.starts_with("HTTP/1.1 200 "));
    }
    // Two workers may decide at the same time.
    assert!(held.with(|state| state.most) <= 2 + 3);
}

#[test]
fn a_request_that_finds_the_queue_full_or_waits_for_too_long_is_answered_503() {
    let (held, address) = Held::start();
    let more = ["--workers", "1", "--upstream-queue", "1", "--upstream-queue-timeout", "300ms"];
    let balancer = start(address, &more);
    let mut busy = ["/1", "/2"].map(|target| send(balancer.data, target));
    until(Instant::now() + TIMEOUT, "both are there", || (held.here().len() == 2).then_some(()));
    let mut waits = send(balancer.data, "/3");
    await_queued(&balancer, 1);
    let full = read_response(&mut send(balancer.data, "/4"));
    let late = read_response(&mut waits);
    for ((head, body), why) in [(full, "too many requests wait"), (late, "no replica had room")] {
        assert!(head.starts_with("HTTP/1.1 503 ") && field(&head, "retry-after") == Some("1"), "{head}");
        assert!(String::from_utf8_lossy(&body).contains(why), "{head}");
    }
    await_queued(&balancer, 0);
    // A client that gave up holds no place.
    let gone = send(balancer.data, "/5");
    await_queued(&balancer, 1);
    drop(gone);
    await_queued(&balancer, 0);
    held.with(|state| state.is_open = true);
    for client in &mut busy {
        assert!(read_response(client).0.starts_with("HTTP/1.1 200 "));
    }
    assert!(read_response(&mut send(balancer.data, "/6")).0.starts_with("HTTP/1.1 200 "));
    assert_eq!(held.with(|state| state.most), 2);
}

/// Each server closes every connection on which a request comes.
#[test]
fn a_storm_of_retries_stays_within_its_budget() {
    const REQUESTS: usize = 3_000;
    const BURST: usize = 1_000;
    let attempts = Arc::new(AtomicUsize::new(0));
    let servers = [(); 3].map(|()| {
        let attempts = attempts.clone();
        origin::start(move |_, _| {
            attempts.fetch_add(1, Ordering::SeqCst);
            false
        })
    });
    let listed: Vec<String> = servers.iter().flat_map(|server| ["--replica".into(), server.to_string()]).collect();
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    let balancer = Balancer::start(&[&listed[..], &["--workers", "1"]].concat());
    for _ in 0..REQUESTS {
        assert_eq!(ask(balancer.data, "GET", "/", "").status, 502);
    }
    let retries = attempts.load(Ordering::SeqCst) - REQUESTS;
    assert!((BURST..=BURST + REQUESTS / 5).contains(&retries), "{retries}");
}
