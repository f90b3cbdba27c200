//! Clients that leave before their response: whether their request goes on at the replica (`Limits::abort_on`).

use ringway::core::limits::{AbortOn, Limits};
use ringway::core::step::{Ending, Leg, Ready};

use crate::rig::{Answer, Cut, End, Fate, Rig};
use crate::row::{GET, OK};

const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
const DEAD: Ready = Ready { readable: true, writable: true, hangup: true, dead: true };

/// A client that sent `request` and then `ready` is known of, while the replica works on it.
fn left(abort_on: AbortOn, request: &[u8], ready: Ready) -> Rig {
    let mut rig = Rig::new(Limits { abort_on, ..Limits::DEFAULT });
    rig.client_sends(request, Cut::Whole);
    rig.run();
    assert_eq!((rig.upstreams.len(), rig.closed), (1, None));
    rig.with_context(|session, cx| session.on_ready(Leg::Client, ready, cx));
    rig.run();
    rig
}

fn is_cancelled(rig: &Rig) -> bool {
    match (rig.upstreams[0].fate, rig.closed) {
        (Fate::Closed, Some(Ending::Clean)) => true,
        (Fate::InUse, None) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reset_client_ends_its_request_unless_told_otherwise() {
    for request in [GET, POST] {
        assert!(is_cancelled(&left(AbortOn::Reset, request, DEAD)));
        assert!(is_cancelled(&left(AbortOn::Close, request, DEAD)));
        assert!(!is_cancelled(&left(AbortOn::Nothing, request, DEAD)));
    }
}

#[test]
fn a_client_that_half_closed_gets_its_response_unless_that_counts_as_a_close() {
    for request in [GET, POST] {
        for abort_on in [AbortOn::Reset, AbortOn::Nothing] {
            let mut rig = left(abort_on, request, Ready::HANGUP);
            assert!(!is_cancelled(&rig));
            rig.replica_says(0, OK);
            rig.run();
            assert!(rig.to_client.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&rig.to_client));
        }
        assert!(is_cancelled(&left(AbortOn::Close, request, Ready::HANGUP)));
    }
}

/// The end is seen before the request is read.
#[test]
fn a_request_that_comes_with_its_clients_end_is_sent_and_cancelled_where_that_counts() {
    for (abort_on, received) in [(AbortOn::Reset, 1), (AbortOn::Close, 0)] {
        let mut rig = Rig::new(Limits { abort_on, ..Limits::DEFAULT });
        rig.client_sends(POST, Cut::Whole);
        rig.client_ends(End::Fin);
        rig.with_context(|session, cx| session.on_ready(Leg::Client, Ready::HANGUP, cx));
        rig.replica_answers([Answer { bytes: OK.to_vec(), ..Answer::default() }], Cut::Whole);
        rig.run();
        assert_eq!(rig.upstreams.iter().filter(|upstream| !upstream.received.is_empty()).count(), received);
        assert_eq!(rig.closed, Some(Ending::Clean));
    }
}

/// What a replica has answered whole costs it nothing more.
#[test]
fn a_response_that_was_read_whole_is_sent_to_a_client_that_half_closed() {
    let mut rig = Rig::new(Limits { abort_on: AbortOn::Close, ..Limits::DEFAULT });
    rig.client_takes(0);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([Answer { bytes: OK.to_vec(), ..Answer::default() }], Cut::Whole);
    rig.run();
    rig.with_context(|session, cx| session.on_ready(Leg::Client, Ready::HANGUP, cx));
    rig.run();
    rig.client_takes(usize::MAX);
    rig.run();
    assert_eq!(rig.to_client, OK);
}

#[test]
fn a_refusal_is_sent_to_a_client_that_half_closed() {
    let mut rig = Rig::new(Limits { abort_on: AbortOn::Close, ..Limits::DEFAULT });
    rig.client_sends(b"GET / HTTP/1.1\r\n\r\n", Cut::Whole);
    rig.client_ends(End::Fin);
    rig.with_context(|session, cx| session.on_ready(Leg::Client, Ready::HANGUP, cx));
    rig.run();
    assert!(rig.to_client.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&rig.to_client));
}

/// Without a length, the end of the connection is the end of the response.
#[test]
fn a_response_that_breaks_off_is_reset() {
    let mut rig = Rig::new(Limits { abort_on: AbortOn::Close, ..Limits::DEFAULT });
    let part = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome";
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([Answer { bytes: part.to_vec(), ..Answer::default() }], Cut::Whole);
    rig.run();
    rig.with_context(|session, cx| session.on_ready(Leg::Client, Ready::HANGUP, cx));
    rig.run();
    assert_eq!(rig.closed, Some(Ending::Reset));
}
