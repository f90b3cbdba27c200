//! Every metric that is exported counts: it is compared with traffic that was made for it.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use support::balancer::Balancer;
use support::{TIMEOUT, connect, origin, read_head, read_response, until};

/// Metrics that need a shortage or a setting, and the file whose test makes it.
const ELSEWHERE: [(&str, &str); 6] = [
    ("ringway_access_log_records_total", "tests/access_log.rs"),
    ("ringway_access_log_dropped_total", "tests/access_log.rs"),
    ("ringway_access_log_unwritten_total", "tests/access_log.rs"),
    ("ringway_short_total", "tests/descriptors.rs"),
    ("ringway_log_lines_dropped_total", "tests/log.rs"),
    ("ringway_worker_events_dropped_total", "src/shared/events.rs"),
];

/// The highest value of each metric that was seen, over its labels.
#[derive(Default)]
struct Seen(BTreeMap<String, u64>);

impl Seen {
    fn scrape(&mut self, balancer: &Balancer) {
        for line in balancer.get("/metrics").text.lines() {
            let (name, value) = match line.strip_prefix("# TYPE ") {
                Some(family) => (family.split(' ').next(), "0"),
                None if line.starts_with('#') => continue,
                None => (line.split(['{', ' ']).next(), line.rsplit(' ').next().expect("a value")),
            };
            let highest = self.0.entry(name.expect("a name").into()).or_default();
            *highest = (*highest).max(value.parse().expect("a number"));
        }
    }
}

#[test]
fn every_metric_counts() {
    let mut seen = Seen::default();
    forwarded(&mut seen);
    capped(&mut seen);
    healed(&mut seen);
    for (name, file) in ELSEWHERE {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a file of tests");
        assert!(text.contains(name), "{file} does not name {name}");
        assert!(seen.0.remove(name).is_some(), "{name} is not exported");
    }
    let never: Vec<&String> = seen.0.iter().filter(|(_, highest)| **highest == 0).map(|(name, _)| name).collect();
    assert!(never.is_empty(), "exported, but they count nothing of the traffic here: {never:?}");
}

/// One response of each class, on one connection to the replica; one request that the replica first leaves unanswered; one
/// that is held, and one that is malformed.
fn forwarded(seen: &mut Seen) {
    let (release, held) = mpsc::channel::<()>();
    let (held, closes) = (Arc::new(Mutex::new(held)), Arc::new(AtomicBool::new(true)));
    let server = origin::start(move |head, stream| match head.split(' ').nth(1).expect("a target") {
        "/closed" if closes.swap(false, Ordering::Relaxed) => false,
        "/held" => held.lock().expect("no panic").recv().is_ok() && answer("200", stream),
        "/closed" => answer("200", stream),
        path => answer(&path[1..], stream),
    });
    let balancer = Balancer::start(&["--workers", "1", "--replica", &server.to_string()]);
    let mut client = connect(balancer.data);
    for status in ["200", "302", "404", "500", "103", "closed"] {
        send(&mut client, &format!("GET /{status} HTTP/1.1\r\nHost: a\r\n\r\n"));
        if status == "103" {
            assert!(read_head(&mut client).starts_with("HTTP/1.1 103 "));
        }
        read_response(&mut client);
    }
    send(&mut client, "GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    until(Instant::now() + TIMEOUT, "a request in flight", || {
        seen.scrape(&balancer);
        (seen.0["ringway_replica_requests_in_flight"] == 1).then_some(())
    });
    release.send(()).expect("it waits");
    read_response(&mut client);
    send(&mut client, "GET / HTTP/1.1\r\n\r\n");
    assert!(read_response(&mut client).0.starts_with("HTTP/1.1 400 "));
    drop(client);
    until(Instant::now() + TIMEOUT, "the close", || (balancer.metric("ringway_closed_total") == 1).then_some(()));
    seen.scrape(&balancer);
    for (name, value) in [
        ("accepted", 1),
        ("closed", 1),
        ("requests", 7),
        ("responses_1xx", 1),
        ("responses_2xx", 4),
        ("responses_3xx", 1),
        ("responses_4xx", 1),
        ("responses_5xx", 1),
        ("refused", 1),
        ("dialled", 2),
        ("reused", 6),
        ("retried", 1),
    ] {
        assert_eq!(balancer.metric(&format!("ringway_{name}_total")), value, "{name}");
    }
}

fn answer(status: &str, stream: &mut TcpStream) -> bool {
    let (interim, status) = match status {
        "103" => ("HTTP/1.1 103 Early Hints\r\n\r\n", "200"),
        status => ("", status),
    };
    stream.write_all(format!("{interim}HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok").as_bytes()).is_ok()
}

fn send(client: &mut TcpStream, request: &str) {
    client.write_all(request.as_bytes()).expect("it reads");
}

fn capped(seen: &mut Seen) {
    for (flag, name) in [
        ("--max-connections", "ringway_capped_total"),
        ("--max-connections-per-client", "ringway_capped_per_client_total"),
    ] {
        let server = origin::start(|_, stream| answer("200", stream)).to_string();
        let balancer = Balancer::start(&["--workers", "1", "--replica", &server, flag, "1"]);
        let clients: Vec<TcpStream> = (0..2).map(|_| connect(balancer.data)).collect();
        until(Instant::now() + TIMEOUT, name, || (balancer.metric(name) == 1).then_some(()));
        seen.scrape(&balancer);
        drop(clients);
    }
}

fn healed(seen: &mut Seen) {
    let balancer = Balancer::start(&["--replicas", "1"]);
    let victim = balancer.children()[0].to_string();
    assert!(Command::new("kill").args(["-KILL", &victim]).status().expect("kill").success());
    until(Instant::now() + TIMEOUT, "the heal", || (balancer.metric("ringway_heals_total") == 1).then_some(()));
    assert_eq!(balancer.metric("ringway_deaths_total"), 1);
    seen.scrape(&balancer);
}
