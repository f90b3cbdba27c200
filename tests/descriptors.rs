//! More clients than descriptors: what is under way goes on unharmed, those that come later are served, and the log
//! stays readable.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use support::{Log, PATIENCE, Process, RINGWAY, connect, origin, read_head, read_response, until};

/// Descriptors of the balancer, its loops, listeners and pipes included.
const DESCRIPTORS: u64 = 100;
const FLOOD: usize = 300;
const LARGE: usize = 32 << 20;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Answers when it is told to, so that everybody inside holds a connection to a replica at the same time.
#[test]
fn a_flood_that_asks_is_served_whole() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let waits = gate.clone();
    let server = origin::start(move |head, stream| {
        let large = head.starts_with("GET /large ");
        if !large {
            let (open, bell) = &*waits;
            drop(bell.wait_while(open.lock().expect("no panic"), |open| !*open));
        }
        let size = if large { LARGE } else { 2 };
        let sent = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes());
        sent.and_then(|()| stream.write_all(&vec![b'x'; size])).is_ok()
    });
    let log = Log::new("descriptors-flood");
    let begun = Instant::now();
    let balancer = limited(&server.to_string(), &log);
    balancer.await_replicas();

    // A download that is half way when the flood comes, and is read on only after it.
    let mut download = connect(balancer.address);
    download.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    assert!(read_head(&mut download).starts_with("HTTP/1.1 200 "));
    download.read_exact(&mut vec![0; LARGE / 2]).expect("half of it");

    // The balancer takes as many as it has room to serve; the kernel keeps the others waiting.
    let flood: Vec<TcpStream> = (0..FLOOD).map(|_| asking(balancer.address)).collect();
    until(Instant::now() + PATIENCE, "accepting to pause", || log.read().contains("accepting paused").then_some(()));
    *gate.0.lock().expect("no panic") = true;
    gate.1.notify_all();

    let mut rest = vec![0; LARGE - LARGE / 2];
    download.read_exact(&mut rest).expect("the other half");
    assert!(rest.iter().all(|byte| *byte == b'x'));
    for (number, mut client) in flood.into_iter().enumerate() {
        let (head, body) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"xx", "client {number}: {head}\n{}", log.read());
    }

    until(Instant::now() + PATIENCE, "accepting to resume", || log.read().contains("accepting resumed").then_some(()));
    let log = log.read();
    assert!(log.contains(&format!("only {DESCRIPTORS} files may be open here")), "{log}");
    assert!(
        !log.contains("connect failed") && !log.contains("answered 502") && !log.contains("no room"),
        "nobody was blamed: {log}"
    );
    let seconds = begun.elapsed().as_secs() as usize + 1;
    for said in ["accepting paused", "accepting resumed"] {
        let times = log.matches(said).count();
        assert!(times <= 1 + seconds, "{said:?} {times} times in {seconds} s:\n{log}");
    }
}

/// Those who have been answered and stay need no second descriptor, until they all ask again at once.
#[test]
fn quiet_clients_that_all_ask_again_are_served_whole() {
    let server = origin::start(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx").is_ok());
    let log = Log::new("descriptors-quiet");
    let balancer = limited(&server.to_string(), &log);
    balancer.await_replicas();
    let (mut quiet, mut waiting) = (Vec::new(), Vec::new());
    while !log.read().contains("accepting paused") {
        let mut client = asking(balancer.address);
        // Whoever is not let in any more is waiting: the others go on without it.
        client.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket option");
        match client.read(&mut [0; 1024]) {
            Ok(n) if n > 0 => quiet.push(client),
            _ => waiting.push(client),
        }
    }
    assert!(quiet.len() as u64 > DESCRIPTORS / 3, "{} clients are inside", quiet.len());
    for client in &mut quiet {
        client.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        client.write_all(GET).expect("it reads");
    }
    for client in &mut quiet {
        let (head, body) = read_response(client);
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"xx", "{head}\n{}", log.read());
    }
}

fn asking(balancer: SocketAddr) -> TcpStream {
    let mut client = connect(balancer);
    client.write_all(GET).expect("it reads");
    client
}

fn limited(replica: &str, log: &Log) -> Process {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\""), RINGWAY])
        .args(["run", "--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1", "--replica", replica])
        .env("RUST_LOG", "info")
        .stderr(log.file());
    Process::begin(command)
}
