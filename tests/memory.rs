//! The memory that a burst of clients takes is bounded, and is returned to the system after the burst.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use ringway::core::session::HELD_MAX;
use support::{Process, TIMEOUT, connect, exchange, until};

const CLIENTS: usize = 600;
/// Bytes that each client sends of a head without an end.
const PART: usize = 30_000;
const KIB: u64 = 1024;
/// What a worker keeps: spare buffers, and free slots of its tables.
const KEPT_KIB: u64 = 6 * KIB;

#[test]
fn a_burst_of_incomplete_heads_stays_below_the_ceiling_and_its_memory_is_returned() {
    let replica = Process::replica("server1");
    let limits = ["--workers", "1", "--head-limit", "32000", "--head-timeout-ms", "600000"];
    let balancer = Process::balancer(&[replica.address], &limits);
    let resident = || balancer.memory_kib("VmRSS");
    let before = resident();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(PART));
    for round in 0..3 {
        let burst: Vec<TcpStream> = (0..CLIENTS)
            .map(|_| {
                let mut client = connect(balancer.address);
                client.write_all(head.as_bytes()).expect("it reads");
                client
            })
            .collect();
        let taken = CLIENTS as u64 * PART as u64 / KIB;
        until(Instant::now() + TIMEOUT, "every head to be held", || (resident() >= before + taken).then_some(()));
        let limit = CLIENTS as u64 * HELD_MAX as u64 / KIB + KEPT_KIB;
        assert!(resident() <= before + limit, "round {round}: {} KiB, {before} before", resident());
        drop(burst);
        let back = before + KEPT_KIB;
        until(Instant::now() + TIMEOUT, "the memory to come back", || (resident() <= back).then_some(()));
    }
    let answer = exchange(balancer.address, "GET /home HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
