//! Regressions: sessions that did not end, or ended wrongly, as found by the simulation.

use std::io::ErrorKind;

use ringway::core::limits::Limits;
use ringway::core::step::{Ending, Flush, Io, Leg, Step};

use crate::rig::{Answer, Cut, End, Rig};
use crate::row::{GET, OK};

/// Deadlines that may pass before a client has an answer.
const DEADLINES: usize = 4;

fn post(fields: &str, len: usize) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {len}\r\n\r\n").into_bytes()
}

fn response_if_the_replica_sends_only(bytes: &[u8]) -> String {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(&post("Expect: 100-continue\r\n", 2), Cut::Whole);
    rig.replica_answers([Answer { bytes: bytes.to_vec(), early: true, end: None }], Cut::Whole);
    rig.run();
    rig.client_sends(b"ok", Cut::Whole);
    rig.run();
    for _ in 0..DEADLINES {
        rig.time_out();
    }
    String::from_utf8_lossy(&rig.to_client).into_owned()
}

#[test]
fn a_replica_that_sends_only_100_is_504() {
    let response = response_if_the_replica_sends_only(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 504 "), "{response}");
}

#[test]
fn a_replica_that_sends_an_incomplete_head_before_the_request_body_is_504() {
    let response = response_if_the_replica_sends_only(b"HTTP/1.1 200 OK\r\nContent-");
    assert!(response.starts_with("HTTP/1.1 504 "), "{response}");
}

/// The replica responds before it has read the body, and closes: the rest of the body is discarded.
#[test]
fn the_next_request_is_served_after_one_whose_body_was_discarded() {
    let request = post("", 5_000);
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.replica_takes(request.len() + 100);
    rig.client_sends(&[request, vec![b'x'; 5_000]].concat(), Cut::Whole);
    rig.replica_answers([Answer { bytes: OK.to_vec(), early: true, end: Some(End::Fin) }], Cut::Whole);
    rig.run();
    assert_eq!(rig.to_client, OK);
    assert_eq!(rig.session.buffers(), 0, "an idle session holds no buffer");
    rig.replica_takes(usize::MAX);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([Answer { bytes: OK.to_vec(), ..Answer::default() }], Cut::Whole);
    rig.run();
    assert_eq!(rig.to_client, [OK, OK].concat());
}

/// The replica of a tunnel resets while the client sends: the first write fails with a reset, the second with EPIPE.
#[test]
fn a_tunnel_that_was_reset_closes_with_a_reset() {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Cut::Whole);
    rig.replica_answers([Answer { bytes: switch.to_vec(), ..Answer::default() }], Cut::Whole);
    rig.run();
    assert!(rig.session.is_tunnel());
    for kind in [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe] {
        rig.with_context(|session, cx| session.sent(Leg::Upstream, Flush::Now, Io::Failed(kind), cx));
    }
    rig.with_context(|session, cx| session.received(Leg::Upstream, Io::Ended, cx));
    assert_eq!(rig.session.next_step(), Some(Step::Close(Ending::Reset)));
}

const PUT: &str = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n";

/// A PUT that expects 100, and a replica whose response, which came before that of the body `first`, is not complete
/// until it has the body `rest`.
fn expecting(fields: &str, first: &[u8], rest: &[u8]) -> Rig {
    let mut rig = Rig::new(Limits::DEFAULT);
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no".to_vec();
    rig.replica_answers([Answer { bytes: head, early: true, end: None }], Cut::Whole);
    rig.client_sends(&[format!("{PUT}{fields}\r\n").as_bytes(), first].concat(), Cut::Whole);
    rig.run();
    rig.client_sends(rest, Cut::Whole);
    rig.run();
    rig.replica_says(0, b"k");
    rig.run();
    assert!(rig.to_client.ends_with(b"ok"), "{}", String::from_utf8_lossy(&rig.to_client));
    rig
}

/// RFC 9110 section 10.1.1: a client need not wait for 100.
#[test]
fn a_body_under_way_is_sent_whole_although_its_response_came_early() {
    let chunked = ("Transfer-Encoding: chunked\r\n", "2\r\nab\r\n", "2\r\ncd\r\n0\r\n\r\n");
    for (fields, first, rest) in [("Content-Length: 4\r\n", "ab", "cd"), chunked] {
        let rig = expecting(fields, first.as_bytes(), rest.as_bytes());
        let received = String::from_utf8_lossy(&rig.received()).into_owned();
        assert!(received.ends_with(&[first, rest].concat()), "{received}");
    }
}

/// A replica that answered without 100 might take content for a request.
#[test]
fn a_body_of_which_nothing_was_sent_is_refused_by_an_early_response() {
    let rig = expecting("Content-Length: 4\r\n", b"", b"abcd");
    let received = String::from_utf8_lossy(&rig.received()).into_owned();
    assert!(received.ends_with("\r\n\r\n"), "{received}");
}

/// The response to a POST whose body arrives in pieces of `bytes`, each after a pause.
fn response_to_slow_upload(bytes: usize, pause_ms: u64, limits: Limits) -> String {
    const BODY: usize = 9_000;
    let mut rig = Rig::new(limits);
    rig.replica_answers([Answer { bytes: OK.to_vec(), ..Answer::default() }], Cut::Whole);
    rig.client_sends(&post("", BODY), Cut::Whole);
    rig.run();
    for _ in 0..BODY / bytes {
        rig.pass(pause_ms);
        if !rig.to_client.is_empty() {
            break;
        }
        rig.client_sends(&vec![b'x'; bytes], Cut::Whole);
        rig.run();
    }
    String::from_utf8_lossy(&rig.to_client).into_owned()
}

#[test]
fn a_body_below_the_minimum_rate_is_408_and_one_above_it_is_not() {
    let second = 1_000;
    assert!(response_to_slow_upload(1, second, Limits::DEFAULT).starts_with("HTTP/1.1 408 "), "1 byte a second");
    assert!(response_to_slow_upload(100, second, Limits::DEFAULT).starts_with("HTTP/1.1 200 "), "100 bytes a second");
    assert!(
        response_to_slow_upload(3_000, 29 * second, Limits::DEFAULT).starts_with("HTTP/1.1 200 "),
        "pauses within the stall timeout"
    );
    let without_rate = Limits { min_body_rate: 0, ..Limits::DEFAULT };
    assert!(response_to_slow_upload(1, second, without_rate).starts_with("HTTP/1.1 200 "), "without a minimum rate");
}

/// Time in which the replica does not read does not count against the client.
#[test]
fn a_request_body_behind_a_slow_replica_does_not_time_out() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.replica_answers([Answer { bytes: OK.to_vec(), ..Answer::default() }], Cut::Whole);
    rig.client_sends(&post("", 1_000), Cut::Whole);
    rig.run();
    rig.replica_takes(0);
    rig.client_sends(&[b'x'; 500], Cut::Whole);
    rig.run();
    rig.pass(29_000);
    rig.replica_takes(usize::MAX);
    rig.run();
    rig.pass(29_000);
    rig.client_sends(&[b'x'; 500], Cut::Whole);
    rig.run();
    assert!(rig.to_client.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&rig.to_client));
}

/// The reset shows the client that its response is incomplete.
#[test]
fn a_client_that_reads_below_the_minimum_rate_is_reset() {
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n".to_vec(), vec![b'x'; 10_000]].concat();
    let read_at = |bytes: usize| {
        let mut rig = Rig::new(Limits::DEFAULT);
        rig.client_takes(bytes);
        rig.replica_answers([Answer { bytes: answer.clone(), ..Answer::default() }], Cut::Whole);
        rig.client_sends(GET, Cut::Whole);
        rig.run();
        while rig.to_client.len() < 10_000 && rig.closed.is_none() {
            rig.pass(1_000);
            rig.client_takes(bytes);
            rig.run();
        }
        rig
    };
    assert_eq!(read_at(1).closed, Some(Ending::Reset), "a byte a second");
    let slow = read_at(100);
    assert_eq!((slow.closed, slow.to_client.len() >= 10_000), (None, true), "100 bytes a second");
}
