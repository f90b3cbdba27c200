//! Sessions that came to no end, or to a wrong one, as the simulation found them.

use std::io::ErrorKind;

use ringway::core::limits::Limits;
use ringway::core::step::{Ending, Io, Leg, Step};

use crate::rig::{Answer, Cut, End, Rig};
use crate::row::{GET, OK};

/// Deadlines that may pass before a client has an answer.
const DEADLINES: usize = 4;

fn post(fields: &str, len: usize) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {len}\r\n\r\n").into_bytes()
}

fn given_up_after(first_words: &[u8]) -> String {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(&post("Expect: 100-continue\r\n", 2), Cut::Whole);
    rig.replica_answers([Answer { bytes: first_words.to_vec(), early: true, end: None }], Cut::Whole);
    rig.run();
    rig.client_sends(b"ok", Cut::Whole);
    rig.run();
    for _ in 0..DEADLINES {
        rig.time_out();
    }
    String::from_utf8_lossy(&rig.to_client).into_owned()
}

#[test]
fn a_replica_that_says_100_and_nothing_more_is_given_up() {
    let heard = given_up_after(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(heard.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 504 "), "{heard}");
}

#[test]
fn a_replica_that_begins_its_head_before_the_body_came_and_never_ends_it_is_given_up() {
    let heard = given_up_after(b"HTTP/1.1 200 OK\r\nContent-");
    assert!(heard.starts_with("HTTP/1.1 504 "), "{heard}");
}

/// A replica answers before it read the body, and closes: what is left of the body is for nobody.
#[test]
fn the_next_request_is_served_after_one_whose_body_nobody_took() {
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

/// A tunnel's replica is reset while the client sends: the first write says so, the second only that it is over.
#[test]
fn a_tunnel_that_was_reset_never_looks_ended() {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Cut::Whole);
    rig.replica_answers([Answer { bytes: switch.to_vec(), ..Answer::default() }], Cut::Whole);
    rig.run();
    assert!(rig.session.is_tunnel());
    for kind in [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe] {
        rig.with_context(|session, cx| session.sent(Leg::Upstream, false, Io::Failed(kind), cx));
    }
    rig.with_context(|session, cx| session.received(Leg::Upstream, Io::Ended, cx));
    assert_eq!(rig.session.next_step(), Some(Step::Close(Ending::Reset)));
}

/// A client sends the body of a POST by so many bytes, each after a pause; what it gets for it.
fn uploaded(bytes: usize, pause_ms: u64, limits: Limits) -> String {
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
fn a_body_that_trickles_is_given_up_and_a_slow_one_is_not() {
    let second = 1_000;
    assert!(uploaded(1, second, Limits::DEFAULT).starts_with("HTTP/1.1 408 "), "one byte a second is no body");
    assert!(uploaded(100, second, Limits::DEFAULT).starts_with("HTTP/1.1 200 "), "100 bytes a second are");
    assert!(
        uploaded(3_000, 29 * second, Limits::DEFAULT).starts_with("HTTP/1.1 200 "),
        "and so are pauses within bounds"
    );
    let patient = Limits { min_body_rate: 0, ..Limits::DEFAULT };
    assert!(uploaded(1, second, patient).starts_with("HTTP/1.1 200 "), "any byte will do");
}

/// How long the replica takes nothing is not held against the client.
#[test]
fn a_replica_that_reads_slowly_does_not_cost_its_client_the_request() {
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

/// A client that takes a byte a second of what waits for it is let go; what it has not seen is seen to be missing.
#[test]
fn a_client_that_sips_is_let_go() {
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n".to_vec(), vec![b'x'; 10_000]].concat();
    let sips = |bytes: usize| {
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
    assert_eq!(sips(1).closed, Some(Ending::Reset), "a byte a second");
    let slow = sips(100);
    assert_eq!((slow.closed, slow.to_client.len() >= 10_000), (None, true), "100 bytes a second");
}
