//! The memory of one connection is bounded, and an idle connection holds none. `Session::check`, which the rig calls
//! after every step, asserts the bound; the tests here reach each part of it.

use proptest::prelude::*;

use ringway::core::buffer::{STORE, store_for};
use ringway::core::exchange::REPLAY_LIMIT;
use ringway::core::head::{FIELDS_MAX, HEAD_MAX};
use ringway::core::limits::Limits;
use ringway::core::session::{Session, held_max};

use crate::rig::{Answer, Cut, End, Rig};
use crate::row::{GET, OK};

/// The longest heads that the limits allow.
fn widest() -> Limits {
    Limits { line_limit: HEAD_MAX, head_limit: HEAD_MAX, field_limit: FIELDS_MAX, ..Limits::DEFAULT }
}

fn answer(bytes: Vec<u8>) -> Answer {
    Answer { bytes, early: true, end: None }
}

fn padded(start: &str, len: usize) -> Vec<u8> {
    let pad = len - start.len() - "X: \r\n\r\n".len();
    format!("{start}X: {}\r\n\r\n", "a".repeat(pad)).into_bytes()
}

fn request(method: &str, len: usize) -> Vec<u8> {
    padded(&format!("{method} / HTTP/1.1\r\nHost: a\r\n"), len)
}

#[test]
fn the_bound_follows_the_head_limit() {
    // 2 buffers, a request twice, a local response as large as a buffer, and the text of a request for the access log.
    let held_max_kib = |head_limit| held_max(head_limit) >> 10;
    assert_eq!(held_max_kib(Limits::DEFAULT.head_limit), 135);
    assert_eq!(held_max_kib(32 * 1024 - 1), 135, "a head that fits an ordinary buffer");
    assert_eq!(held_max_kib(64 * 1024), 231, "three buffers, each as long as a head may be");
    assert_eq!(held_max_kib(HEAD_MAX), 423);
    assert!(size_of::<Session>() <= 1024, "{} bytes for an idle session", size_of::<Session>());
}

/// Only a head that does not fit an ordinary buffer takes a larger one, and gives it back.
#[test]
fn a_short_head_costs_no_more_where_long_ones_are_allowed() {
    let held_by = |len| {
        let mut rig = Rig::new(widest());
        rig.client_sends(&request("GET", len), Cut::Whole);
        rig.replica_answers([answer(OK.to_vec())], Cut::Whole);
        rig.run();
        assert_eq!((rig.to_client.as_slice(), rig.session.held()), (OK, 0));
        rig.held_most
    };
    assert_eq!(held_by(32_767), held_by(60));
    assert_eq!(held_by(32_769) - held_by(60), store_for(HEAD_MAX) - STORE);
}

#[test]
fn an_idle_session_holds_no_memory() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([answer(OK.to_vec())], Cut::Whole);
    rig.run();
    assert_eq!((rig.to_client.as_slice(), rig.session.held()), (OK, 0));
    assert!(rig.held_most > 0);
}

#[test]
fn a_trace_reflected_to_a_client_that_does_not_read() {
    let mut rig = Rig::new(widest());
    rig.client_takes(0);
    rig.client_sends(&padded("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 130_000), Cut::Whole);
    rig.run();
    assert!(rig.held_most > 130_000, "{}", rig.held_most);
}

#[test]
fn an_interim_response_to_a_client_that_does_not_read_and_then_garbage() {
    let mut rig = Rig::new(widest());
    rig.client_takes(0);
    rig.client_sends(&request("GET", 130_000), Cut::Whole);
    let interim = padded("HTTP/1.1 103 Early Hints\r\n", 130_000);
    rig.replica_answers(
        [Answer { end: Some(End::Reset), ..answer([&interim[..], b"garbage"].concat()) }],
        Cut::At(130_000),
    );
    rig.run();
    rig.time_out();
    assert!(rig.held_most > 130_000 + STORE, "{}", rig.held_most);
}

#[test]
fn a_large_request_that_is_retried() {
    let mut rig = Rig::new(widest());
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([answer(OK.to_vec())], Cut::Whole);
    rig.run();
    let large = request("GET", REPLAY_LIMIT - 200);
    rig.client_sends(&large, Cut::Whole);
    rig.replica_answers([Answer { end: Some(End::Fin), ..answer(Vec::new()) }, answer(OK.to_vec())], Cut::Whole);
    rig.run();
    assert_eq!(rig.to_client, [OK, OK].concat());
    assert!(rig.held_most > 2 * (REPLAY_LIMIT - 200), "the replay copy and the copy that is sent: {}", rig.held_most);
}

/// Input of hostile clients.
fn client() -> impl Strategy<Value = Vec<u8>> {
    let chunk = |size: usize| format!("{size:x};{}\r\n{}\r\n", "e".repeat(size % 200), "x".repeat(size)).into_bytes();
    prop_oneof![
        (60..131_000usize).prop_map(|len| request("GET", len)),
        (60..131_000usize).prop_map(|len| request("OPTIONS", len)),
        Just(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
        Just(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n".to_vec()),
        (1..40_000usize).prop_map(chunk),
        Just(b"1\r\nx\r\n".repeat(3000)),
        (1..9_000usize).prop_map(|len| [b"0\r\n".as_slice(), &b"T: t\r\n".repeat(len / 6)].concat()),
        (1..70_000usize).prop_map(|len| vec![b'x'; len]),
        Just(b"\r\n".to_vec()),
    ]
}

/// Input of hostile servers.
fn server() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (60..131_000usize).prop_map(|len| padded("HTTP/1.1 103 Early Hints\r\n", len)),
        (60..131_000usize).prop_map(|len| padded("HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n", len)),
        Just(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
        Just(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(40)),
        Just(b"1\r\nx\r\n".repeat(3000)),
        Just(OK.to_vec()),
        (1..70_000usize).prop_map(|len| vec![b'y'; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The rig asserts the bound after every step.
    #[test]
    fn no_input_exceeds_the_bound(
        sent in prop::collection::vec(client(), 1..6),
        said in prop::collection::vec(server(), 1..6),
        client_stalls in any::<bool>(),
        cut in 1..40_000usize,
        ends in prop_oneof![Just(None), Just(Some(End::Fin)), Just(Some(End::Reset))],
    ) {
        let mut rig = Rig::new(widest());
        if client_stalls {
            rig.client_takes(0);
        }
        rig.replica_answers([Answer { bytes: said.concat(), early: true, end: ends }], Cut::At(cut));
        for piece in &sent {
            rig.client_sends(piece, Cut::At(cut));
            rig.run();
        }
        rig.time_out();
        prop_assert!(rig.held_most <= held_max(HEAD_MAX));
    }
}
