//! Requests of several clients pipelined on one connection to a replica, over real sockets: each client gets its own response,
//! also when the connection breaks.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Process, connect, origin, read_head, read_response};

fn request(balancer: &Process, path: &str) -> TcpStream {
    let mut client = connect(balancer.address);
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sent");
    client
}

fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// Answers with the request's path as the body.
fn answer(head: &str, to: &mut TcpStream) -> bool {
    let body = path(head);
    to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).is_ok()
}

fn body(client: &mut TcpStream) -> String {
    let (head, body) = read_response(client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    String::from_utf8(body).expect("a path")
}

const PIPELINING: [&str; 4] = ["--workers", "1", "--upstream-pipelining", "8"];

#[test]
fn two_requests_are_sent_on_one_connection_before_either_is_answered() {
    let both = origin::start(|first, stream| {
        let second = read_head(stream);
        answer(first, stream) && answer(&second, stream)
    });
    let balancer = Process::balancer(&[both], &PIPELINING);
    let (mut a, mut b) = (request(&balancer, "/a"), request(&balancer, "/b"));
    assert_eq!((body(&mut a), body(&mut b)), ("/a".into(), "/b".into()));
}

/// The second response begins in the bytes that were read with the first, and continues in the socket.
#[test]
fn a_long_response_behind_a_short_one_arrives_whole_and_in_order() {
    const LEN: usize = 300_000;
    let long: String = (0..LEN / 6).map(|line| format!("{line:05}\n")).collect();
    let sent = long.clone();
    let both = origin::start(move |first, stream| {
        let second = read_head(stream);
        let of = |head: &str| if path(head) == "/long" { sent.clone() } else { "short".into() };
        let bodies = [of(first), of(&second)];
        let answers = bodies.map(|body| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(answers.concat().as_bytes()).is_ok()
    });
    let balancer = Process::balancer(&[both], &PIPELINING);
    let (mut a, mut b) = (request(&balancer, "/short"), request(&balancer, "/long"));
    assert_eq!(body(&mut a), "short");
    assert!(body(&mut b) == long, "bytes out of order");
}

#[test]
fn a_request_queued_behind_the_last_response_of_a_connection_is_sent_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let short = origin::start(move |first, stream| {
        if calls.fetch_add(1, Ordering::SeqCst) > 0 {
            return answer(first, stream);
        }
        read_head(stream);
        answer(first, stream);
        false
    });
    let balancer = Process::balancer(&[short], &PIPELINING);
    let (mut a, mut b) = (request(&balancer, "/a"), request(&balancer, "/b"));
    assert_eq!((body(&mut a), body(&mut b)), ("/a".into(), "/b".into()));
    assert_eq!(seen.load(Ordering::SeqCst), 2, "the second request was sent again");
}

#[test]
fn many_pipelined_clients_each_get_their_own_response() {
    let balancer = Process::balancer(&[origin::start(answer)], &PIPELINING);
    std::thread::scope(|scope| {
        for number in 0..32 {
            let mut client = connect(balancer.address);
            scope.spawn(move || {
                for round in 0..50 {
                    let path = format!("/{number}/{round}");
                    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
                    client.write_all(request.as_bytes()).expect("sent");
                    assert_eq!(body(&mut client), path);
                }
            });
        }
    });
}

#[test]
fn a_post_is_never_pipelined() {
    let alone = origin::start(|head, stream| {
        stream.set_nonblocking(true).expect("a socket option");
        let is_pipelined = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).expect("a socket option");
        assert!(!(head.starts_with("POST ") && is_pipelined), "a request behind a POST");
        answer(head, stream)
    });
    let balancer = Process::balancer(&[alone], &PIPELINING);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let mut client = connect(balancer.address);
            scope.spawn(move || {
                for round in 0..50 {
                    let (method, more) =
                        if (number + round) % 2 == 0 { ("POST", "Content-Length: 0\r\n") } else { ("GET", "") };
                    let request = format!("{method} /{round} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
                    client.write_all(request.as_bytes()).expect("sent");
                    assert_eq!(body(&mut client), format!("/{round}"));
                }
            });
        }
    });
}
