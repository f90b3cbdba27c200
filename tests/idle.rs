//! Ten thousand idle clients stay connected in bounded memory, and each is answered when it sends a request.

mod support;

use std::io::Write;
use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Process, connect, read_response};

const CLIENTS: u64 = 10_000;
/// Descriptors that the test and the balancer need besides.
const SPARE: u64 = 500;
/// User memory of the balancer for each idle connection, in bytes.
const BYTES_EACH: u64 = 1024;

#[test]
fn ten_thousand_idle_clients_are_held_and_answered() {
    let clients = CLIENTS.min(open_files().saturating_sub(SPARE));
    if clients < CLIENTS {
        eprintln!("idle: this machine allows {clients} clients, not {CLIENTS}: raise `ulimit -Hn`");
    }
    let replica = Process::replica("server1");
    let balancer = Process::balancer(&[replica.address], &["--workers", "1", "--idle-timeout", "10m"]);
    // The first request of each makes it a connection that is idle between requests, not one just accepted.
    let mut warm = connect(balancer.address);
    request(&mut warm);
    let before = balancer.anonymous_kib();
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..clients {
        let mut client = connect(balancer.address);
        request(&mut client);
        held.push(client);
    }
    let each = balancer.anonymous_kib().saturating_sub(before) * 1024 / clients;
    assert!(each <= BYTES_EACH, "{each} bytes for each idle connection");
    held.iter_mut().for_each(request);
    eprintln!("idle: {clients} connections at {each} bytes each");
}

fn request(client: &mut TcpStream) {
    client.write_all(b"GET /home HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    let (head, body) = read_response(client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, b"Server ID: server1");
}

/// Raises this process's limit as far as it may be raised.
fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit is always allowed");
    limit.maximum.unwrap_or(u64::MAX)
}
