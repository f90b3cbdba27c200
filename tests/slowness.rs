//! Replicas that work on one request at a time, so that their heartbeats wait behind the work: every request is run once and
//! answered.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::balancer::ask;
use support::{Log, Process, RINGWAY, TIMEOUT, connect, read_head, read_response, until};

/// Accepts a connection only when it has answered the one before. `work` gets the path of every request that is no
/// heartbeat.
fn serial_server(work: impl Fn(&str) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&mut stream.expect("a client"), &work);
        }
    });
    address
}

fn answer(stream: &mut TcpStream, work: &impl Fn(&str)) {
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket option");
    if !matches!(stream.peek(&mut [0]), Ok(1)) {
        return;
    }
    let head = read_head(stream);
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path != "/heartbeat" {
        work(path);
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

/// Heartbeats follow each other closely and wait briefly.
fn balancer(replicas: &[SocketAddr], log: &Log) -> Process {
    let mut command = Command::new(RINGWAY);
    command.args(["run", "--listen", "127.0.0.1:0", "--admin", "off", "--hash-key", "uri"]);
    command.args(["--health-path", "/heartbeat", "--health-interval", "20ms", "--health-timeout", "20ms"]);
    command.args(["--replica"]).args(replicas.iter().map(SocketAddr::to_string));
    command.env("RUST_LOG", "debug").stderr(log.file());
    let balancer = Process::spawn(command);
    balancer.await_replicas();
    balancer
}

#[test]
fn a_request_that_takes_longer_than_many_heartbeats_is_run_once_and_answered() {
    let runs = Arc::new(AtomicUsize::new(0));
    let (release, released) = std::sync::mpsc::channel::<()>();
    let counted = runs.clone();
    let replica = serial_server(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        released.recv_timeout(TIMEOUT).expect("the test lets it end");
    });
    let log = Log::new("slow-request");
    let balancer = balancer(&[replica], &log);
    let mut client = connect(balancer.address);
    client.write_all(b"GET /work HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a request is sent");
    let missed = |n: usize| log.read().matches("heartbeat missed").count() >= n;
    until(Instant::now() + TIMEOUT, "ten heartbeats to be missed", || missed(10).then_some(()));
    release.send(()).expect("the replica works on it");
    let (head, _) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}\n{}", log.read());
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert!(!log.read().contains(" down: "), "{}", log.read());
}

#[test]
fn busy_replicas_are_neither_given_up_nor_asked_twice() {
    const WORK: Duration = Duration::from_millis(40);
    const CLIENTS: usize = 12;
    const REQUESTS: usize = 5;
    let runs: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let replicas = [(); 3].map(|()| {
        let runs = runs.clone();
        serial_server(move |path| {
            *runs.lock().expect("no panic").entry(path.into()).or_default() += 1;
            // The work itself.
            std::thread::sleep(WORK);
        })
    });
    let log = Log::new("busy-replicas");
    let balancer = balancer(&replicas, &log);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let address = balancer.address;
            scope.spawn(move || {
                for request in 0..REQUESTS {
                    assert_eq!(ask(address, "GET", &format!("/work/{client}/{request}"), "").status, 200);
                }
            });
        }
    });
    let runs = runs.lock().expect("no panic");
    assert_eq!(runs.len(), CLIENTS * REQUESTS);
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}\n{}", log.read());
    assert!(log.read().contains("heartbeat missed"), "the heartbeats waited behind the work: {}", log.read());
}
