//! What only real sockets show: lingering closes, half-closes, deadlines, and peers that stall or disconnect.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use support::{Process, TIMEOUT, connect, exchange, origin, read_head, read_response, try_connect, until};

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn answer_ok(_: &str, stream: &mut TcpStream) -> bool {
    stream.write_all(OK).is_ok()
}

/// Everything until the end or a reset, and whether it was the end.
fn read_rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let whole = stream.read_to_end(&mut bytes).is_ok();
    (bytes, whole)
}

fn status(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes.get(9..12).unwrap_or_default()).unwrap_or_default()
}

#[test]
fn a_client_that_goes_on_sending_can_read_its_refusal() {
    let balancer = Process::balancer(&[origin::start(answer_ok)], &[]);
    let mut client = connect(balancer.address);
    client.write_all(b"GET / HTTP/1.1\r\nBad Field: x\r\n\r\n").expect("sent");
    // More than any buffer on the path: without lingering, these bytes would reset the connection.
    let mut writer = client.try_clone().expect("a clone");
    let sending = std::thread::spawn(move || writer.write_all(&vec![b'x'; 4 << 20]).is_ok());
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let length = support::field(&head, "content-length").and_then(|n| n.parse().ok()).expect("a length");
    let mut body = vec![0; length];
    client.read_exact(&mut body).expect("the whole answer, whatever else was sent");
    client.shutdown(Shutdown::Both).ok();
    sending.join().expect("the writer ends");
}

/// The balancer closes with these bytes unread; the response must not be lost with them.
#[test]
fn a_client_that_sends_after_connection_close_is_answered() {
    let (sender, receiver) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let wait = Arc::new(Mutex::new(wait));
    let replica = origin::start(move |_, stream| {
        sender.send(()).expect("the test listens");
        wait.lock().expect("one request").recv_timeout(TIMEOUT).expect("the client sends on");
        stream.write_all(OK).is_ok()
    });
    let balancer = Process::balancer(&[replica], &[]);
    let mut client = connect(balancer.address);
    client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
    receiver.recv_timeout(TIMEOUT).expect("the request is at the replica");
    client.write_all(b"\r\nmore\r\n").expect("sent");
    go.send(()).expect("the replica waits");
    let (head, body) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"ok", "{head}");
}

#[test]
fn a_half_closed_client_is_answered() {
    let (arrived, arrivals) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let slow = origin::start(move |_, stream| {
        arrived.send(()).expect("the test listens");
        gate.lock().expect("one at a time").recv().expect("the test opens the gate");
        answer_ok("", stream)
    });
    let balancer = Process::balancer(&[slow], &[]);
    let mut client = connect(balancer.address);
    client.write_all(GET).expect("sent");
    client.shutdown(Shutdown::Write).expect("half closed");
    arrivals.recv_timeout(TIMEOUT).expect("the request arrives");
    go.send(()).expect("the replica waits");
    let (answer, whole) = read_rest(&mut client);
    assert!(whole && answer.ends_with(b"\r\n\r\nok"), "{:?}", String::from_utf8_lossy(&answer));
}

#[test]
fn slow_heads_and_bodies_get_408_and_idle_clients_are_closed() {
    let patient = origin::start(|head, stream| {
        if head.starts_with("POST ") {
            // It waits for the whole body before it answers.
            stream.read_to_end(&mut Vec::new()).ok();
            return false;
        }
        answer_ok(head, stream)
    });
    let limits = ["--head-timeout", "300ms", "--stall-timeout", "300ms", "--idle-timeout", "1s"];
    let balancer = Process::balancer(&[patient], &limits);
    let open = |part: &[u8]| {
        let mut client = connect(balancer.address);
        client.write_all(part).expect("sent");
        client
    };
    let mut heads: Vec<TcpStream> = (0..50).map(|_| open(b"GET / HTTP/1.1\r\nHost")).collect();
    let part = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf";
    let mut bodies: Vec<TcpStream> = (0..50).map(|_| open(part)).collect();
    let mut idle: Vec<TcpStream> = (0..50).map(|_| open(b"")).collect();
    for client in heads.iter_mut().chain(&mut bodies) {
        assert_eq!(status(&read_rest(client).0), "408");
    }
    for client in &mut idle {
        assert_eq!(read_rest(client), (Vec::new(), true), "an idle client gets no answer to nothing");
    }
    assert!(exchange(balancer.address, b"GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 "), "others are served");
}

#[test]
fn a_head_sent_byte_by_byte_has_one_deadline() {
    let balancer = Process::balancer(&[origin::start(answer_ok)], &["--head-timeout", "300ms"]);
    assert_eq!(status_of_slow_sender(&balancer, b"GET / HTTP/1.1\r\nX: "), "408");
}

#[test]
fn a_body_sent_byte_by_byte_does_not_extend_its_deadline() {
    let patient = origin::start(|_, stream| stream.read_to_end(&mut Vec::new()).is_err());
    let balancer = Process::balancer(&[patient], &["--stall-timeout", "300ms", "--min-body-rate", "1MiB/s"]);
    assert_eq!(
        status_of_slow_sender(&balancer, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"),
        "408"
    );
}

/// The status for a client that sends `first` and then single bytes without an end.
fn status_of_slow_sender(balancer: &Process, first: &'static [u8]) -> String {
    let mut client = connect(balancer.address);
    let mut writer = client.try_clone().expect("a clone");
    let drip = std::thread::spawn(move || {
        writer.write_all(first).ok();
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT && writer.write_all(b"a").is_ok() {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    });
    let answer = status(read_head(&mut client).as_bytes()).to_string();
    client.shutdown(Shutdown::Both).ok();
    drip.join().expect("the writer ends");
    answer
}

#[test]
fn slow_readers_do_not_grow_memory() {
    const BODY: usize = 64 << 20;
    let big = origin::start(|_, stream| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
        stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&vec![b'x'; BODY]).is_ok()
    });
    let balancer = Process::balancer(&[big], &[]);
    let before = balancer.memory_kib("VmHWM");
    let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(balancer.address)).collect();
    for client in &mut clients {
        client.write_all(GET).expect("sent");
        assert!(read_head(client).starts_with("HTTP/1.1 200 "));
    }
    let mut chunk = vec![0; 1 << 20];
    for client in &mut clients {
        client.read_exact(&mut chunk).expect("some of the body");
    }
    let grown = balancer.memory_kib("VmHWM") - before;
    assert!(grown < 16 << 10, "20 slow readers of {BODY} bytes took {grown} KiB");
}

#[test]
fn a_client_that_disconnects_closes_its_upstream_connection() {
    let (sender, receiver) = mpsc::channel();
    let endless = origin::start(move |head, stream| {
        if head.starts_with("POST ") {
            // The upload ends early: its connection is closed, not pooled.
            let mut sink = [0; 4096];
            while stream.read(&mut sink).is_ok_and(|n| n > 0) {}
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").expect("sent");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        }
        sender.send(()).ok();
        false
    });
    let balancer = Process::balancer(&[endless], &[]);
    let mut reader = connect(balancer.address);
    reader.write_all(GET).expect("sent");
    read_head(&mut reader);
    drop(reader);
    receiver.recv_timeout(TIMEOUT).expect("mid-download: the replica sees the close");
    let mut writer = connect(balancer.address);
    writer.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome of it").expect("sent");
    drop(writer);
    receiver.recv_timeout(TIMEOUT).expect("mid-upload: the replica sees the close");
}

/// A replica that answers nothing, and tells the test whether its connection is closed after a request.
fn silent_replica() -> (SocketAddr, mpsc::Receiver<&'static str>) {
    let (sender, receiver) = mpsc::channel();
    let address = origin::start(move |_, stream| {
        sender.send("requested").expect("the test listens");
        // A read that timed out is not an end.
        let ended = match stream.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        sender.send(if ended { "closed" } else { "open" }).ok();
        false
    });
    (address, receiver)
}

/// The last request of a connection too, whose socket is registered later than others.
fn assert_cancelled_by(flags: &[&str], leave: impl Fn(&TcpStream)) {
    let (silent, receiver) = silent_replica();
    let balancer = Process::balancer(&[silent], &[&["--response-timeout", "10m"], flags].concat());
    for last in ["", "Connection: close\r\n"] {
        let mut client = connect(balancer.address);
        client.write_all(format!("GET /x HTTP/1.1\r\nHost: a\r\n{last}\r\n").as_bytes()).expect("sent");
        assert_eq!(receiver.recv_timeout(TIMEOUT), Ok("requested"));
        leave(&client);
        drop(client);
        assert_eq!(receiver.recv_timeout(TIMEOUT), Ok("closed"), "with {last:?}");
    }
}

#[test]
fn a_client_reset_while_it_waits_closes_its_upstream_connection() {
    assert_cancelled_by(&[], |client| {
        socket2::SockRef::from(client).set_linger(Some(std::time::Duration::ZERO)).expect("a socket option");
    });
}

#[test]
fn a_client_that_closes_while_it_waits_closes_its_upstream_connection_where_that_is_set() {
    assert_cancelled_by(&["--abort-on-client-close", "close"], |_| {});
}

/// Answers every request but the second, at which it closes without a byte.
fn closes_at_second(seen: &Arc<AtomicUsize>) -> impl Fn(&str, &mut TcpStream) -> bool + Clone + Send + use<> {
    let seen = Arc::clone(seen);
    move |_, stream| {
        if seen.fetch_add(1, Ordering::SeqCst) == 1 {
            return false;
        }
        answer_ok("", stream)
    }
}

#[test]
fn a_get_on_a_dead_pooled_connection_is_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let balancer = Process::balancer(&[origin::start(closes_at_second(&seen))], &["--workers", "1"]);
    let mut client = connect(balancer.address);
    for _ in 0..3 {
        client.write_all(GET).expect("sent");
        let (head, body) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"ok", "{head}");
    }
    assert_eq!(seen.load(Ordering::SeqCst), 4, "the second was sent again");
}

#[test]
fn a_post_reaches_a_replica_at_most_once() {
    let seen = Arc::new(AtomicUsize::new(0));
    let replicas = [origin::start(closes_at_second(&seen)), origin::start(closes_at_second(&seen))];
    let balancer = Process::balancer(&replicas, &["--workers", "1"]);
    let mut client = connect(balancer.address);
    let post = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    client.write_all(post).expect("sent");
    assert!(read_response(&mut client).0.starts_with("HTTP/1.1 200 "));
    client.write_all(post).expect("sent");
    assert!(read_response(&mut client).0.starts_with("HTTP/1.1 502 "));
    assert_eq!(seen.load(Ordering::SeqCst), 2, "the second one was not sent again");
}

#[test]
fn a_truncated_response_stays_truncated() {
    let short = origin::start(|head, stream| {
        let chunked = head.contains("/chunked");
        let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 9" };
        let body = if chunked { "2\r\nok\r\n" } else { "ok" };
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}").as_bytes()).ok();
        false
    });
    let balancer = Process::balancer(&[short], &[]);
    for path in ["/chunked", "/length"] {
        let mut client = connect(balancer.address);
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sent");
        let (answer, _) = read_rest(&mut client);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("\r\n0\r\n"), "{answer}");
    }
}

#[test]
fn a_client_over_max_connections_is_refused() {
    let balancer = Process::balancer(&[origin::start(answer_ok)], &["--workers", "1", "--max-connections", "4"]);
    let mut accepted: Vec<TcpStream> = Vec::new();
    until(Instant::now() + TIMEOUT, "four accepted clients", || {
        let mut client = try_connect(balancer.address).ok()?;
        client.write_all(GET).ok()?;
        let mut first = [0];
        if client.read_exact(&mut first).is_ok() {
            accepted.push(client);
        }
        (accepted.len() == 4).then_some(())
    });
    let fifth = try_connect(balancer.address).and_then(|mut fifth| {
        fifth.write_all(GET).ok();
        fifth.read(&mut [0; 16])
    });
    match fifth {
        Ok(n) => assert_eq!(n, 0, "refused at accept"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}
