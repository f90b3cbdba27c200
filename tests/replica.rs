//! The replica's contract over real sockets: its responses, and how it ends.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use support::{Process, RINGWAY, TIMEOUT, connect, exchange, field, read_head, read_response, run, until};

const CLOSE: &str = "Host: a\r\nConnection: close\r\n\r\n";

#[test]
fn home_names_the_server_in_text_and_in_json() {
    let replica = Process::replica("server7");
    let home = exchange(replica.address, format!("GET /home HTTP/1.1\r\n{CLOSE}"));
    assert!(home.starts_with("HTTP/1.1 200 OK\r\n") && home.ends_with("\r\n\r\nServer ID: server7"), "{home}");
    assert_eq!(field(&home, "content-type"), Some("text/plain"));
    assert_eq!(field(&home, "x-server-id"), Some("server7"));
    assert!(field(&home, "date").is_some_and(|date| date.ends_with(" GMT")), "{home}");

    for accepted in ["Accept: application/json", "Accept: text/html\r\nAccept: ,application/json"] {
        let json = exchange(replica.address, format!("GET /home?x=1 HTTP/1.1\r\n{accepted}\r\n{CLOSE}"));
        let body = json.split("\r\n\r\n").nth(1).expect("a body");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body, serde_json::json!({"message": "Hello from Server: server7", "status": "successful"}));
    }
}

#[test]
fn heartbeats_are_empty_and_other_requests_get_404() {
    let replica = Process::replica("server1");
    let beat = exchange(replica.address, format!("GET /heartbeat HTTP/1.1\r\n{CLOSE}"));
    assert!(beat.starts_with("HTTP/1.1 200 ") && beat.ends_with("\r\n\r\n"), "{beat}");
    assert_eq!((field(&beat, "content-length"), field(&beat, "x-server-id")), (Some("0"), Some("server1")));
    for request in ["GET / HTTP/1.1", "GET /homes HTTP/1.1", "POST /home HTTP/1.1", "GET /slow?ms=5 HTTP/1.1"] {
        let answer = exchange(replica.address, format!("{request}\r\n{CLOSE}"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{request}: {answer}");
        assert_eq!(field(&answer, "x-server-id"), Some("server1"));
    }
}

#[test]
fn a_head_request_gets_no_body() {
    let replica = Process::replica("server1");
    let answer = exchange(replica.address, format!("HEAD /home HTTP/1.1\r\n{CLOSE}"));
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(field(&answer, "content-length"), Some("18"));
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let replica = Process::replica("server1");
    let mut stream = connect(replica.address);
    let many = "GET /home HTTP/1.1\r\nHost: a\r\n\r\nGET /heartbeat HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);
    let mut writer = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || writer.write_all(many.as_bytes()));
    for _ in 0..2000 {
        assert_eq!(read_response(&mut stream).1, b"Server ID: server1");
        assert_eq!(read_response(&mut stream).1, b"");
    }
    sender.join().expect("no panic").expect("all was read");
}

#[test]
fn request_bodies_are_discarded_at_any_split() {
    let replica = Process::replica("server1");
    let sized = "POST /home HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nGET / HTTP/";
    let chunked =
        "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb;x=y\r\nGET / HTTP/\r\n0\r\nA: b\r\n\r\n";
    let last = "GET /home HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let all = [sized, chunked, last].concat();
    let answer = exchange(replica.address, &all);
    let whole = statuses(&answer);
    assert_eq!(whole, ["404", "404", "200"]);
    for cut in 1..all.len() {
        let mut stream = connect(replica.address);
        stream.write_all(&all.as_bytes()[..cut]).expect("it reads");
        stream.write_all(&all.as_bytes()[cut..]).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it closes");
        assert_eq!(statuses(&answer), whole, "cut at {cut}");
    }
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let replica = Process::replica("server1");
    let mut stream = connect(replica.address);
    stream
        .write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .expect("it reads");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 100 "));
    stream.write_all(b"abc").expect("it reads");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 404 "));
}

#[test]
fn http_1_0_connections_are_kept_only_on_request() {
    let replica = Process::replica("server1");
    let answer =
        exchange(replica.address, "GET /home HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /home HTTP/1.0\r\n\r\n");
    assert_eq!(statuses(&answer), ["200", "200"]);
    assert_eq!(answer.matches("Connection: keep-alive\r\n").count(), 1, "{answer}");
    assert_eq!(answer.matches("Connection: close\r\n").count(), 1, "{answer}");
}

#[test]
fn bad_heads_are_refused_and_the_client_sees_it() {
    let replica = Process::replica("server1");
    let long = format!("GET /home HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let cases = [
        ("GET /home HTTP/1.1\r\nHost a\r\n\r\n", "400"),
        ("GET /home HTTP/1.1\nHost: a\n\n", "400"),
        ("GET /home HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "400"),
        (long.as_str(), "431"),
    ];
    for (request, status) in cases {
        let answer = exchange(replica.address, request);
        assert_eq!(statuses(&answer), [status], "{:.60}", request);
        assert_eq!(field(&answer, "connection"), Some("close"));
    }
}

#[test]
fn sigterm_answers_requests_in_flight_and_exits_with_0() {
    let mut replica = Process::replica("server1");
    let mut in_flight = connect(replica.address);
    in_flight
        .write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .expect("it reads");
    assert!(read_head(&mut in_flight).starts_with("HTTP/1.1 100 "), "its request is in flight");
    replica.signal("TERM");
    let deadline = Instant::now() + TIMEOUT;
    until(deadline, "new connections to be refused", || std::net::TcpStream::connect(replica.address).err());
    in_flight.write_all(b"abc").expect("it still reads");
    let (head, _) = read_response(&mut in_flight);
    assert_eq!(field(&head, "connection"), Some("close"), "{head}");
    drop(in_flight);
    assert_eq!(replica.wait().code(), Some(0));
}

#[test]
fn sigterm_does_not_wait_for_idle_connections() {
    let mut replica = Process::replica("server1");
    let idle: Vec<_> = (0..10).map(|_| connect(replica.address)).collect();
    replica.signal("TERM");
    assert_eq!(replica.wait().code(), Some(0));
    drop(idle);
}

#[test]
fn a_replica_ends_with_its_parent() {
    // A shell is the parent; its child prints to the same stdout.
    let script = format!("RINGWAY_PARENT_PID=$$ {RINGWAY} replica --port 0 & wait");
    let mut shell = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("a shell");
    let mut line = String::new();
    BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("the child's line");
    let address = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok()).expect("an address");
    drop(connect(address));
    shell.kill().expect("our own shell");
    shell.wait().expect("our own shell");
    until(Instant::now() + TIMEOUT, "the child to end", || std::net::TcpStream::connect(address).err());
}

#[test]
fn a_replica_whose_parent_is_gone_does_not_start() {
    let output = Command::new(RINGWAY).args(["replica", "--port", "0"]).env("RINGWAY_PARENT_PID", "1").output();
    let output = output.expect("our own binary starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn check_exits_with_0_for_a_live_replica_and_1_for_none() {
    let replica = Process::replica("server1");
    let port = replica.address.port().to_string();
    assert_eq!(run(&["replica", "--check", "--port", &port]).status.code(), Some(0));
    drop(replica);
    let dead = run(&["replica", "--check", "--port", &port]);
    assert_eq!(dead.status.code(), Some(1), "{dead:?}");
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.lines().filter_map(|line| line.split_once("HTTP/1.1 ")).filter_map(|(_, rest)| rest.get(..3)).collect()
}
