//! Several requests in flight on one connection: who shares it, what the next session in the queue learns, and what becomes
//! of the connection.

use super::*;
use crate::core::buffer::CAPACITY;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A response that one read of `len` bytes takes whole.
fn ok_of_len(len: usize) -> String {
    let fields = ok(&"x".repeat(len)).len() - len;
    let response = ok(&"x".repeat(len - fields));
    assert_eq!(response.len(), len);
    response
}

/// A worker with one idle connection to its replica.
fn warm(upstream_pipelining: usize) -> (Rig, usize) {
    let mut rig = Rig::new(Limits { upstream_pipelining, ..Limits::DEFAULT });
    let client = rig.client(GET);
    let upstream = rig.upstreams()[0];
    rig.says(upstream, OK);
    rig.kernel.resets(client);
    rig.run();
    rig.kernel.received(upstream);
    (rig, upstream)
}

/// Clients that send a request each in the same turn: `/0`, `/1` and so on.
fn clients<const N: usize>(rig: &mut Rig) -> [usize; N] {
    let clients = std::array::from_fn(|number| rig.kernel.client(&get(&format!("/{number}"))));
    rig.run();
    clients
}

fn body(rig: &Rig, client: usize) -> String {
    rig.kernel.received(client).split_once("\r\n\r\n").map(|(_, body)| body.into()).unwrap_or_default()
}

fn is_open(rig: &Rig, socket: usize) -> bool {
    rig.kernel.end(socket).is_none()
}

#[test]
fn at_most_as_many_requests_as_the_limit_says_share_a_connection() {
    for (limit, shared) in [(0, 1), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4)] {
        let (mut rig, upstream) = warm(limit);
        clients::<4>(&mut rig);
        assert_eq!(rig.kernel.received(upstream).matches("GET ").count(), shared, "limit {limit}");
        assert_eq!(rig.upstreams().len(), 1 + 4 - shared, "limit {limit}: the others have connections of their own");
    }
}

#[test]
fn a_connection_that_carried_a_queue_of_requests_carries_the_next_request() {
    let (mut rig, upstream) = warm(8);
    let [a, b] = clients(&mut rig);
    rig.says(upstream, &[ok("a"), ok("b")].concat());
    assert_eq!((body(&rig, a), body(&rig, b)), ("a".into(), "b".into()));
    rig.says(a, GET);
    assert_eq!(rig.upstreams(), [upstream]);
    assert_eq!(rig.kernel.received(upstream).matches("GET ").count(), 3);
}

/// What came behind the last response would be taken for the response to the next request.
#[test]
fn a_connection_with_bytes_behind_its_last_response_is_closed() {
    for (response, behind) in [(ok("a"), "x"), (ok_of_len(CAPACITY), "x"), (ok_of_len(CAPACITY), "")] {
        let (mut rig, upstream) = warm(8);
        let [client] = clients(&mut rig);
        rig.says(upstream, &[&response, behind].concat());
        assert!(rig.kernel.received(client).ends_with(&response[response.len() - 10..]));
        assert!(!is_open(&rig, upstream), "{} bytes, then {behind:?}", response.len());
    }
}

#[test]
fn a_connection_whose_replica_sends_no_more_is_closed_after_the_last_response() {
    let (mut rig, upstream) = warm(8);
    let [client] = clients(&mut rig);
    rig.kernel.says(upstream, &ok("a"));
    rig.kernel.ends(upstream);
    rig.run();
    assert_eq!(body(&rig, client), "a");
    assert!(!is_open(&rig, upstream));
}

/// The rest of the request would be sent before the next one.
#[test]
fn a_connection_with_a_request_that_was_not_sent_whole_is_closed() {
    let (mut rig, upstream) = warm(8);
    rig.kernel.takes(upstream, 5);
    let [client] = clients(&mut rig);
    rig.says(upstream, &ok("a"));
    assert_eq!(body(&rig, client), "a");
    assert!(!is_open(&rig, upstream));
}

/// Its response comes all the same, and no session waits for it.
#[test]
fn a_connection_that_a_session_left_is_closed_after_the_responses_before() {
    let (mut rig, upstream) = warm(8);
    let [a, b] = clients(&mut rig);
    rig.kernel.resets(b);
    rig.run();
    assert!(is_open(&rig, upstream), "the first response is to come");
    rig.says(upstream, &ok("a"));
    assert_eq!(body(&rig, a), "a");
    assert!(!is_open(&rig, upstream));
}

#[test]
fn what_was_read_behind_a_response_reaches_the_next_session_whole_and_in_order() {
    let (mut rig, upstream) = warm(8);
    let [a, b, c] = clients(&mut rig);
    // More than is copied at once.
    let long: String = (0..1_000).map(|line| format!("{line:03}\r\n")).collect();
    rig.says(upstream, &[ok("a"), ok(&long), ok("c")].concat());
    assert_eq!([a, b, c].map(|client| body(&rig, client)), ["a".into(), long, "c".into()]);
}

#[test]
fn a_response_that_was_not_read_with_the_one_before_reaches_its_session() {
    let (mut rig, upstream) = warm(8);
    let [_, b] = clients(&mut rig);
    rig.says(upstream, &[ok_of_len(CAPACITY), ok("b")].concat());
    assert_eq!(body(&rig, b), "b");
}

#[test]
fn a_request_behind_the_last_response_of_its_connection_is_sent_again() {
    let (mut rig, upstream) = warm(8);
    let [a, b] = clients(&mut rig);
    rig.kernel.says(upstream, &ok("a"));
    rig.kernel.ends(upstream);
    rig.run();
    assert_eq!(body(&rig, a), "a");
    let other = *rig.upstreams().last().expect("another connection");
    assert_ne!(other, upstream);
    rig.says(other, &ok("b"));
    assert_eq!(body(&rig, b), "b");
}

/// The edge of its response comes while the session before has read its own response, but used up its turn.
#[test]
fn a_response_that_comes_between_two_turns_of_the_session_before_reaches_its_session() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    for last in [ok("a"), ok_of_len(CAPACITY)] {
        for count in 50..70 {
            let (mut rig, upstream) = warm(8);
            let [a, b] = clients(&mut rig);
            // One read of interim responses, which take a step each, and one of the final response.
            let padding = "x".repeat(CAPACITY - (count - 1) * interim.len() - "HTTP/1.1 103 X\r\nX: \r\n\r\n".len());
            let padded = format!("HTTP/1.1 103 X\r\nX: {padding}\r\n\r\n");
            let limits = Limits { head_limit: 2 * CAPACITY, upstream_pipelining: 8, ..Limits::DEFAULT };
            rig.set_limits(limits);
            rig.kernel.says(upstream, &[interim.repeat(count - 1), padded, last.clone()].concat());
            rig.turn();
            rig.says(upstream, &ok("b"));
            assert!(rig.kernel.received(a).ends_with(&last[last.len() - 10..]), "{count} interim responses");
            assert_eq!(body(&rig, b), "b", "{count} interim responses");
        }
    }
}

fn are_pipelined(rig: &mut Rig) -> bool {
    let before = rig.upstreams().len();
    let [a, b] = clients(rig);
    let are = rig.upstreams().len() == before;
    for upstream in rig.upstreams() {
        rig.kernel.says(upstream, &if are { [ok("x"), ok("x")].concat() } else { ok("x") });
    }
    rig.run();
    assert_eq!([a, b].map(|client| body(rig, client)), ["x"; 2]);
    are
}

/// The requests behind were sent for nothing.
#[test]
fn a_queue_that_was_broken_up_suspends_pipelining() {
    let (mut rig, upstream) = warm(8);
    let [a, b] = clients(&mut rig);
    rig.kernel.resets(b);
    rig.run();
    rig.says(upstream, &ok("a"));
    rig.says(a, GET);
    rig.says(rig.upstreams()[0], OK);
    assert!(!are_pipelined(&mut rig));
    rig.kernel.pass(1_000);
    assert!(are_pipelined(&mut rig));
}

#[test]
fn a_session_that_leaves_its_connection_alone_does_not_suspend_pipelining() {
    let (mut rig, upstream) = warm(8);
    let [client] = clients(&mut rig);
    rig.kernel.resets(client);
    rig.run();
    assert!(!is_open(&rig, upstream));
    let client = rig.client(GET);
    rig.says(rig.upstreams()[0], OK);
    assert!(rig.kernel.received(client).ends_with("ok"));
    assert!(are_pipelined(&mut rig));
}
