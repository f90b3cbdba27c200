//! Thousands of idle clients stay connected in bounded memory, in plain and over TLS, and each is answered when it sends a
//! request.

mod support;

use std::io::{Read, Write};
use std::sync::Mutex;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::balancer::Balancer;
use support::pki::{self, Authority, Folder, Kind};
use support::{Process, connect, read_response};

const CLIENTS: u64 = 10_000;
/// Descriptors that the test and the balancer need besides.
const SPARE: u64 = 500;
/// User memory of the balancer for each idle connection, in bytes: 1 KiB, and what the pages of the allocator add or not.
const BYTES_EACH: u64 = 1024 + 16;
const SECURE_BYTES_EACH: u64 = 6 * 1024;
const NAME: &str = "shop.example.com";

#[test]
fn ten_thousand_idle_clients_are_held_and_answered() {
    let replica = Process::replica("server1");
    let balancer = Process::balancer(&[replica.address], &["--workers", "1", "--idle-timeout", "10m"]);
    hold(&balancer, BYTES_EACH, || connect(balancer.address));
}

#[test]
fn ten_thousand_idle_clients_over_tls_are_held_and_answered() {
    let replica = Process::replica("server1");
    let (authority, certs) = (Authority::new(), Folder::new("idle"));
    certs.add("shop", &authority.issue(&[NAME], Kind::Ecdsa, 90));
    let flags = ["--workers", "1", "--idle-timeout", "10m", "--tls", certs.path(), "--replica"];
    let Balancer { process: balancer, .. } = Balancer::start(&[&flags[..], &[&replica.address.to_string()]].concat());
    let config = authority.client_config();
    hold(&balancer, SECURE_BYTES_EACH, || pki::connect(config.clone(), NAME, connect(balancer.address)));
}

/// Holds idle connections, one test at a time: descriptors are limited.
fn hold<C: Read + Write>(balancer: &Process, bytes_each: u64, connect: impl Fn() -> C) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().expect("the other test has passed");
    let clients = CLIENTS.min(open_files().saturating_sub(SPARE));
    if clients < CLIENTS {
        eprintln!("idle: this machine allows {clients} clients, not {CLIENTS}: raise `ulimit -Hn`");
    }
    // The first request of each makes it a connection that is idle between requests, not one just accepted.
    request(&mut connect());
    let before = balancer.anonymous_kib();
    let mut held = Vec::new();
    for _ in 0..clients {
        let mut client = connect();
        request(&mut client);
        held.push(client);
    }
    let each = balancer.anonymous_kib().saturating_sub(before) * 1024 / clients;
    assert!(each <= bytes_each, "{each} bytes for each idle connection");
    held.iter_mut().for_each(request);
    eprintln!("idle: {clients} connections at {each} bytes each");
}

fn request(client: &mut (impl Read + Write)) {
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
