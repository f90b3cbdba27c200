//! More clients than descriptors: transfers in flight go on, later clients are served, and the log does not repeat itself.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use support::balancer::{admin_address, ask};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, origin, read_head, read_response, until};

/// Descriptors of the balancer, its loops, listeners and pipes included.
const DESCRIPTORS: u64 = 100;
const FLOOD: usize = 300;
const LARGE: usize = 32 << 20;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The replica answers when the gate opens, so that every accepted client holds a connection to it at the same time.
#[test]
fn every_client_of_a_flood_is_answered() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let waits = gate.clone();
    let server = origin::start(move |head, stream| {
        let large = head.starts_with("GET /large ");
        if !large {
            let (open, opened) = &*waits;
            drop(opened.wait_while(open.lock().expect("no panic"), |open| !*open));
        }
        let size = if large { LARGE } else { 2 };
        let sent = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes());
        sent.and_then(|()| stream.write_all(&vec![b'x'; size])).is_ok()
    });
    let log = Log::new("descriptors-flood");
    let begun = Instant::now();
    let balancer = limited_balancer(&server.to_string(), &log);
    balancer.await_replicas();

    // A download of which half is read before the flood, and the rest after it.
    let mut download = connect(balancer.address);
    download.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    assert!(read_head(&mut download).starts_with("HTTP/1.1 200 "));
    download.read_exact(&mut vec![0; LARGE / 2]).expect("half of it");

    // The balancer accepts as many as it can serve; the others wait in the kernel's queue.
    let flood: Vec<TcpStream> = (0..FLOOD).map(|_| requesting_client(balancer.address)).collect();
    until(Instant::now() + TIMEOUT, "accepting to pause", || log.read().contains("accepting paused").then_some(()));
    *gate.0.lock().expect("no panic") = true;
    gate.1.notify_all();

    let mut rest = vec![0; LARGE - LARGE / 2];
    download.read_exact(&mut rest).expect("the other half");
    assert!(rest.iter().all(|byte| *byte == b'x'));
    for (number, mut client) in flood.into_iter().enumerate() {
        let (head, body) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"xx", "client {number}: {head}\n{}", log.read());
    }

    until(Instant::now() + TIMEOUT, "accepting to resume", || log.read().contains("accepting resumed").then_some(()));
    let log = log.read();
    assert!(log.contains(&format!("only {DESCRIPTORS} files may be open here")), "{log}");
    assert!(
        !log.contains("connect failed") && !log.contains("answered 502") && !log.contains("no room"),
        "no replica was ejected and no client refused: {log}"
    );
    let seconds = begun.elapsed().as_secs() as usize + 1;
    for line in ["accepting paused", "accepting resumed"] {
        let times = log.matches(line).count();
        assert!(times <= 1 + seconds, "{line:?} {times} times in {seconds} s:\n{log}");
    }
}

/// An idle client holds no connection to a replica, until all of them send a request at once.
#[test]
fn idle_clients_that_send_again_at_once_are_all_answered() {
    let server = origin::start(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx").is_ok());
    let log = Log::new("descriptors-quiet");
    let balancer = limited_balancer(&server.to_string(), &log);
    balancer.await_replicas();
    let (mut idle, mut waiting) = (Vec::new(), Vec::new());
    while !log.read().contains("accepting paused") {
        let mut client = requesting_client(balancer.address);
        // A client that is not accepted gets no answer: the loop goes on without it.
        client.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket option");
        match client.read(&mut [0; 1024]) {
            Ok(n) if n > 0 => idle.push(client),
            _ => waiting.push(client),
        }
    }
    assert!(idle.len() as u64 > DESCRIPTORS / 3, "{} clients were accepted", idle.len());
    for client in &mut idle {
        client.set_read_timeout(Some(TIMEOUT)).expect("a socket option");
        client.write_all(GET).expect("it reads");
    }
    for client in &mut idle {
        let (head, body) = read_response(client);
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"xx", "{head}\n{}", log.read());
    }
    drop((idle, waiting));
    let page = ask(admin_address(&balancer), "GET", "/metrics", "").text;
    assert!(!page.contains("\nringway_short_total 0\n") && page.contains("\nringway_short_total "), "{page}");
}

fn requesting_client(balancer: SocketAddr) -> TcpStream {
    let mut client = connect(balancer);
    client.write_all(GET).expect("it reads");
    client
}

fn limited_balancer(replica: &str, log: &Log) -> Process {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\""), RINGWAY])
        .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1", "--replica", replica])
        .env("RUST_LOG", "info")
        .stderr(log.file());
    Process::spawn(command)
}
