//! Requests that stand in line on one connection to a replica, over real sockets: each client gets its own answer, also
//! when the line breaks.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Process, connect, origin, read_head, read_response};

fn ask(balancer: &Process, path: &str) -> TcpStream {
    let mut client = connect(balancer.address);
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sent");
    client
}

fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// The body is the request's path.
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
fn two_requests_are_on_one_connection_before_either_is_answered() {
    let both = origin::start(|first, stream| {
        let second = read_head(stream);
        answer(first, stream) && answer(&second, stream)
    });
    let balancer = Process::balancer(&[both], &PIPELINING);
    let (mut a, mut b) = (ask(&balancer, "/a"), ask(&balancer, "/b"));
    assert_eq!((body(&mut a), body(&mut b)), ("/a".into(), "/b".into()));
}

/// The answer to the second request begins in what was read for the first, and goes on in the socket.
#[test]
fn a_long_answer_behind_a_short_one_comes_whole_and_in_order() {
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
    let (mut a, mut b) = (ask(&balancer, "/short"), ask(&balancer, "/long"));
    assert_eq!(body(&mut a), "short");
    assert!(body(&mut b) == long, "bytes out of order");
}

#[test]
fn who_stood_behind_an_answer_that_was_the_last_is_answered_elsewhere() {
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
    let (mut a, mut b) = (ask(&balancer, "/a"), ask(&balancer, "/b"));
    assert_eq!((body(&mut a), body(&mut b)), ("/a".into(), "/b".into()));
    assert_eq!(seen.load(Ordering::SeqCst), 2, "the second one was asked for again");
}

#[test]
fn many_clients_in_line_each_get_their_own() {
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
fn a_post_never_stands_in_line() {
    let alone = origin::start(|head, stream| {
        stream.set_nonblocking(true).expect("a socket option");
        let company = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).expect("a socket option");
        assert!(!(head.starts_with("POST ") && company), "a request behind a POST");
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
