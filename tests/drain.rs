//! Requests in flight finish after an /rm and after a first signal. A second signal waits for none of them.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use support::balancer::{Balancer, names};
use support::slow::{Slow, answer};
use support::{TIMEOUT, connect, read_response, until};

fn request(balancer: &Balancer) -> TcpStream {
    let mut client = connect(balancer.data);
    client.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    client
}

fn over(slow: &[&Slow]) -> Balancer {
    let replicas: Vec<String> =
        slow.iter().zip('a'..).map(|(slow, name)| format!("{name}{name}={}", slow.address)).collect();
    let mut flags = Vec::new();
    replicas.iter().for_each(|replica| flags.extend(["--replica", replica]));
    Balancer::start(&flags)
}

#[test]
fn a_request_in_flight_is_answered_after_the_rm_of_its_replica() {
    let slow = Slow::start();
    let balancer = over(&[&slow]);
    let mut client = request(&balancer);
    let upstream = slow.next();
    let removed = balancer.ask("DELETE", "/rm", r#"{"n":1,"hostnames":["aa"]}"#);
    assert_eq!((removed.status, names(&removed.json).len()), (200, 0));
    let refused = support::balancer::ask(balancer.data, "GET", "/wait", "");
    assert_eq!(refused.status, 503, "no replica is left for new requests");
    assert!(support::field(&refused.head, "retry-after").is_some());
    answer(upstream);
    let (head, body) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"slow", "{head}");
}

#[test]
fn a_request_in_flight_is_answered_after_the_first_signal() {
    let slow = Slow::start();
    let mut balancer = over(&[&slow]);
    let mut client = request(&balancer);
    let upstream = slow.next();
    balancer.process.signal("TERM");
    until(Instant::now() + TIMEOUT, "connections to be refused", || TcpStream::connect(balancer.data).err());
    answer(upstream);
    let (head, body) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"slow", "{head}");
    assert_eq!(balancer.process.wait().code(), Some(0));
}

#[test]
fn a_second_signal_stops_at_once_with_exit_status_1() {
    let slow = Slow::start();
    let mut balancer = over(&[&slow]);
    let _client = request(&balancer);
    let _upstream = slow.next();
    balancer.process.signal("TERM");
    until(Instant::now() + TIMEOUT, "connections to be refused", || TcpStream::connect(balancer.data).err());
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(1), "a request was aborted");
}

/// Long enough that no test waits for its end.
const DELAY: [&str; 2] = ["--shutdown-delay", "10m"];

#[test]
fn during_the_delay_before_a_drain_requests_are_served_and_each_is_the_last_of_its_connection() {
    let mut balancer = Balancer::start(&DELAY);
    let mut client = connect(balancer.data);
    let get = |client: &mut TcpStream| {
        client.write_all(b"GET /home HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
        read_response(client).0
    };
    assert_eq!(support::field(&get(&mut client), "connection"), None);
    assert_eq!(balancer.get("/readyz").status, 200);
    balancer.process.signal("TERM");
    let unready = || Some(balancer.get("/readyz")).filter(|answer| answer.status == 503);
    let unready = until(Instant::now() + TIMEOUT, "it to be unready", unready);
    assert_eq!(unready.json["message"], "<Error> about to stop: requests are still served");
    assert_eq!(balancer.get("/livez").status, 200);
    let last = get(&mut client);
    assert!(last.starts_with("HTTP/1.1 200 "), "a connection without a request stays open: {last}");
    assert_eq!(support::field(&last, "connection"), Some("close"));
    assert_eq!(client.read(&mut [0]).expect("an end"), 0);
    let new = get(&mut connect(balancer.data));
    assert!(new.starts_with("HTTP/1.1 200 ") && support::field(&new, "connection") == Some("close"), "{new}");
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(1), "a second signal does not wait");
}

#[test]
fn a_drain_follows_the_delay() {
    let mut balancer = Balancer::start(&["--shutdown-delay", "300ms"]);
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(0));
}

#[test]
fn a_fixed_replica_that_dies_gets_no_requests_until_it_is_back() {
    let replicas = [support::Process::replica("one"), support::Process::replica("two")];
    let flags: Vec<String> = replicas.iter().flat_map(|r| ["--replica".into(), r.address.to_string()]).collect();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--health-interval", "50ms"]);
    let balancer = Balancer::start(&flags);
    let [one, two] = replicas;
    let port = one.address.port().to_string();
    drop(one);
    until(Instant::now() + TIMEOUT, "the dead replica to leave the ring", || (balancer.up() == 1).then_some(()));
    assert_eq!(balancer.replicas().len(), 2, "it stays on the list");
    for _ in 0..20 {
        let home = support::balancer::ask(balancer.data, "GET", "/home", "");
        assert_eq!(support::field(&home.head, "x-server-id"), Some("two"));
    }
    let _restarted = support::Process::start(&["replica", "--port", &port], &[("SERVER_ID", "one")]);
    until(Instant::now() + TIMEOUT, "the replica to rejoin", || (balancer.up() == 2).then_some(()));
    drop(two);
}
