//! The memory that a burst of clients takes is bounded, and is returned to the system after the burst.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use ringway::core::session::held_max;
use support::{Process, TIMEOUT, connect, exchange, until};

const KIB: u64 = 1024;
/// What a worker keeps: spare buffers, and free slots of its tables.
const KEPT_KIB: u64 = 6 * KIB;

#[test]
fn a_burst_of_incomplete_heads_stays_below_the_ceiling_and_its_memory_is_returned() {
    burst(600, 30_000, 32_000);
}

#[test]
fn so_does_a_burst_of_heads_that_are_longer_than_a_buffer() {
    burst(200, 120_000, 131_072);
}

/// Each client sends `part` bytes of a head without an end.
fn burst(clients: usize, part: usize, head_limit: usize) {
    let replica = Process::replica("server1");
    let limit = format!("{head_limit}B");
    let limits = ["--workers", "1", "--head-limit", &limit, "--head-timeout", "10m"];
    let balancer = Process::balancer(&[replica.address], &limits);
    let resident = || balancer.memory_kib("VmRSS");
    let before = resident();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(part));
    for round in 0..3 {
        let burst: Vec<TcpStream> = (0..clients)
            .map(|_| {
                let mut client = connect(balancer.address);
                client.write_all(head.as_bytes()).expect("it reads");
                client
            })
            .collect();
        let taken = clients as u64 * part as u64 / KIB;
        until(Instant::now() + TIMEOUT, "every head to be held", || (resident() >= before + taken).then_some(()));
        let limit = clients as u64 * held_max(head_limit) as u64 / KIB + KEPT_KIB;
        assert!(resident() <= before + limit, "round {round}: {} KiB, {before} before", resident());
        drop(burst);
        let back = before + KEPT_KIB;
        until(Instant::now() + TIMEOUT, "the memory to come back", || (resident() <= back).then_some(()));
    }
    let answer = exchange(balancer.address, "GET /home HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
