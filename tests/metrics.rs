//! Every metric that is exported counts: it is compared with traffic that was made for it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use support::balancer::Balancer;
use support::exposition::{self, Family, Format};
use support::{TIMEOUT, connect, exchange, field, origin, read_head, read_response, try_exchange, until};

/// Metrics that need a shortage or a setting, and the file whose test makes it.
const ELSEWHERE: [(&str, &str); 22] = [
    ("ringway_access_log_records_total", "tests/access_log.rs"),
    ("ringway_access_log_dropped_total", "tests/access_log.rs"),
    ("ringway_access_log_unwritten_total", "tests/access_log.rs"),
    ("ringway_short_total", "tests/descriptors.rs"),
    ("ringway_log_lines_dropped_total", "tests/log.rs"),
    ("ringway_worker_events_dropped_total", "src/shared/events.rs"),
    ("ringway_local_resets_total", "src/control/metrics/mod.rs"),
    ("ringway_replica_drained", "tests/admin.rs"),
    ("ringway_tls_handshakes_total", "src/worker/tests/tls.rs"),
    ("ringway_tls_handshakes_under_way", "src/worker/tests/tls.rs"),
    ("ringway_tls_truncated_total", "src/worker/tests/tls.rs"),
    ("ringway_tls_certificate_expiry_timestamp_seconds", "tests/tls.rs"),
    ("ringway_tls_certificates_refused", "tests/tls.rs"),
    ("ringway_acme_orders_total", "tests/acme.rs"),
    ("ringway_ejections_total", "src/control/registry/tests/verdicts.rs"),
    ("ringway_queued", "tests/pressure.rs"),
    ("ringway_outdated_replicas", "tests/reload.rs"),
    ("ringway_settings_refused", "tests/reload.rs"),
    ("ringway_source_age_seconds", "tests/sources.rs"),
    ("ringway_source_errors_total", "tests/sources.rs"),
    ("ringway_source_up", "tests/sources.rs"),
    ("ringway_upgrades_failed_total", "tests/upgrade.rs"),
];

/// The highest value of each family that was seen, over its labels.
#[derive(Default)]
struct Seen(BTreeMap<String, f64>);

impl Seen {
    fn scrape(&mut self, balancer: &Balancer) {
        for family in scrape(balancer, Format::Prometheus) {
            let highest = self.0.entry(family.name).or_default();
            *highest = family.samples.iter().map(|sample| sample.value).fold(*highest, f64::max);
        }
    }
}

/// Both formats are read strictly.
fn scrape(balancer: &Balancer, format: Format) -> Vec<Family> {
    let (accept, content_type) = match format {
        Format::Prometheus => ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        Format::OpenMetrics => (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    };
    let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    let answer = exchange(balancer.admin, request);
    let (head, text) = answer.split_once("\r\n\r\n").expect("a whole head");
    assert_eq!(field(head, "content-type"), Some(content_type));
    assert_eq!(field(head, "vary"), Some("accept"));
    exposition::parse(text, format)
}

#[test]
fn every_metric_counts() {
    let mut seen = Seen::default();
    forwarded(&mut seen);
    capped(&mut seen);
    broken(&mut seen);
    healed(&mut seen);
    for (name, file) in ELSEWHERE {
        let text = std::fs::read_to_string(root().join(file)).expect("a file of tests");
        assert!(text.contains(name), "{file} does not name {name}");
        assert!(seen.0.remove(name).is_some(), "{name} is not exported");
    }
    let never: Vec<&String> = seen.0.iter().filter(|(_, highest)| **highest == 0.0).map(|(name, _)| name).collect();
    assert!(never.is_empty(), "exported, but they count nothing of the traffic here: {never:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Nothing that a client sends becomes a label: what came once of each kind brings all the samples that there will be.
#[test]
fn bad_requests_bring_no_new_samples() {
    let server = origin::start(|_, stream| answer("200", stream));
    let balancer = Balancer::start(&["--workers", "1", "--replica", &server.to_string()]);
    let send_bad = |salt: u32| {
        for request in [
            format!("GET /{salt} HTTP/1.1\r\n\r\n"),
            format!("G{salt}\x01T / HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {salt}x\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: t{salt}\r\n\r\n"),
            format!("GET / HTTP/9.{}\r\nHost: h{salt}\r\n\r\n", salt % 10),
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-{salt}: {}\r\n\r\n", "x".repeat(40_000)),
            format!("M{salt} /p{salt}?q={salt} HTTP/1.1\r\nHost: h{salt}\r\nX-{salt}: \"\r\nConnection: close\r\n\r\n"),
        ] {
            // A refused head that is longer than what was read of it may end in a reset.
            let _ = try_exchange(balancer.data, request);
        }
    };
    let samples = || -> BTreeSet<String> {
        let families = scrape(&balancer, Format::OpenMetrics);
        let samples = families.iter().flat_map(|family| &family.samples);
        samples.map(|sample| format!("{} {:?}", sample.name, sample.labels)).collect()
    };
    send_bad(7);
    until(Instant::now() + TIMEOUT, "the refusals", || {
        (balancer.metric("ringway_local_replies_total") == 6).then_some(())
    });
    let before = samples();
    assert!(before.iter().any(|sample| sample.starts_with("ringway_local_replies_total") && sample.contains("400")));
    (100..120).for_each(send_bad);
    until(Instant::now() + TIMEOUT, "more", || (balancer.metric("ringway_local_replies_total") == 126).then_some(()));
    assert_eq!(samples(), before);
}

/// Both formats show the same samples.
#[test]
fn both_formats_have_the_same_samples() {
    let server = origin::start(|_, stream| answer("200", stream));
    let balancer = Balancer::start(&["--workers", "2", "--replica", &server.to_string()]);
    let names = |format| -> BTreeSet<String> {
        let families = scrape(&balancer, format);
        families
            .iter()
            .flat_map(|family| &family.samples)
            .map(|sample| format!("{} {:?}", sample.name, sample.labels))
            .collect()
    };
    assert_eq!(names(Format::Prometheus), names(Format::OpenMetrics));
}

/// Prometheus' own check, where it is installed (Debian's package `prometheus`).
#[test]
fn promtool_finds_nothing_to_improve() {
    let server = origin::start(|_, stream| answer("200", stream));
    let balancer = Balancer::start(&["--workers", "1", "--replica", &server.to_string()]);
    let page = balancer.get("/metrics").text;
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else { return eprintln!("SKIPPED: no promtool (apt-get install prometheus)") };
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A dashboard or an alert on a metric that does not exist shows nothing, for ever.
#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let server = origin::start(|_, stream| answer("200", stream));
    let balancer = Balancer::start(&["--workers", "1", "--replica", &server.to_string()]);
    let families = scrape(&balancer, Format::Prometheus);
    let exported: BTreeSet<&str> = families
        .iter()
        .flat_map(|family| family.samples.iter().map(|sample| sample.name.as_str()).chain([family.name.as_str()]))
        .collect();
    for file in ["scripts/grafana/ringway.json", "scripts/prometheus/ringway.rules.yml"] {
        let text = std::fs::read_to_string(root().join(file)).expect("a file of this repository");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<&str> =
            words.filter(|word| word.starts_with("ringway_") || word.starts_with("process_")).collect();
        assert!(named.len() > 5, "{file}: {named:?}");
        let unknown: Vec<&&str> = named.iter().filter(|name| !exported.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
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
    assert_eq!(balancer.ask("POST", "/reload", "").status, 200);
    let denied = exchange(balancer.admin, "GET /rep HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(denied.starts_with("HTTP/1.1 421 "), "{denied}");
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
        (seen.0["ringway_replica_requests_in_flight"] == 1.0).then_some(())
    });
    release.send(()).expect("it waits");
    read_response(&mut client);
    send(&mut client, "GET / HTTP/1.1\r\n\r\n");
    assert!(read_response(&mut client).0.starts_with("HTTP/1.1 400 "));
    drop(client);
    until(Instant::now() + TIMEOUT, "the close", || (balancer.metric("ringway_closed_total") == 1).then_some(()));
    // Exchanges are counted at the end of the turn that they end in.
    let ended = || (balancer.metric("ringway_service_requests_total") == 8).then_some(());
    until(Instant::now() + TIMEOUT, "the end of every exchange", ended);
    seen.scrape(&balancer);
    for (name, value) in [
        ("accepted", 1),
        ("closed", 1),
        ("requests", 7),
        ("responses", 8),
        ("replica_responses", 8),
        ("refused", 1),
        ("local_replies", 1),
        ("dialled", 2),
        ("reused", 6),
        ("retried", 1),
        ("upstream_closed", 1),
        ("service_requests", 8),
        ("service_retries", 1),
    ] {
        assert_eq!(balancer.metric(&format!("ringway_{name}_total")), value, "{name}");
    }
    classes(&balancer);
    durations(&balancer);
}

/// Those of replicas one by one, and those of clients with what the balancer answered itself.
fn classes(balancer: &Balancer) {
    let families = scrape(balancer, Format::Prometheus);
    let counts = |name: &str| -> Vec<(String, f64)> {
        let samples = families.iter().flat_map(|family| &family.samples).filter(|sample| sample.name == name);
        samples.map(|sample| (sample.label("code").expect("a class").into(), sample.value)).collect()
    };
    let expected = |counts: &[(&str, f64)]| -> Vec<(String, f64)> {
        counts.iter().map(|(code, count)| (code.to_string(), *count)).collect()
    };
    let replicas = expected(&[("1xx", 1.0), ("2xx", 4.0), ("3xx", 1.0), ("4xx", 1.0), ("5xx", 1.0)]);
    assert_eq!(counts("ringway_responses_total"), replicas);
    assert_eq!(counts("ringway_replica_responses_total"), replicas);
    let clients = [("1xx", 0.0), ("2xx", 4.0), ("3xx", 1.0), ("4xx", 2.0), ("5xx", 1.0), ("none", 0.0)];
    assert_eq!(counts("ringway_service_requests_total"), expected(&clients));
    assert_eq!(counts("ringway_local_replies_total"), expected(&[("400", 1.0)]));
}

/// How often each was measured: seven requests reached a replica, two of them on a new connection at last.
fn durations(balancer: &Balancer) {
    for (name, count) in [("request", 8), ("queue", 7), ("upstream_connect", 2), ("upstream_first_byte", 7)] {
        assert_eq!(balancer.metric(&format!("ringway_{name}_duration_seconds_count")), count, "{name}");
    }
}

/// A replica that answers no request, a large response, and a request that comes in part.
fn broken(seen: &mut Seen) {
    let large = vec![b'x'; 1 << 20];
    let server = origin::start(move |head, stream| {
        let head_sent = head.starts_with("GET /large ")
            && write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", large.len()).is_ok();
        head_sent && stream.write_all(&large).is_ok()
    });
    let balancer = Balancer::start(&["--workers", "1", "--replica", &server.to_string()]);
    // On a new connection: one from the pool may be closed at any time, which is no fault.
    let mut client = connect(balancer.data);
    send(&mut client, "POST /broken HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(read_response(&mut client).0.starts_with("HTTP/1.1 502 "));
    let mut client = connect(balancer.data);
    send(&mut client, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(read_response(&mut client).1.len(), 1 << 20);
    let mut client = connect(balancer.data);
    send(&mut client, "GET /par");
    until(Instant::now() + TIMEOUT, "a buffer in use", || (balancer.metric("ringway_buffers") == 1).then_some(()));
    seen.scrape(&balancer);
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
    assert_eq!(balancer.metric("ringway_heal_duration_seconds_count"), 1);
    assert_eq!(balancer.ask("POST", "/add", r#"{"n":1}"#).status, 200);
    seen.scrape(&balancer);
}
