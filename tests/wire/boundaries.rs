//! A session exactly at its limits and in rare states: each test fails with a mutant that no other test noticed.

use ringway::core::limits::Limits;
use ringway::core::snapshot::ReplicaId;
use ringway::core::step::{Connect, Connection, Ending, Leg, Ready, Step};

use crate::rig::{Answer, Cut, Fate, Rig};
use crate::row::{GET, OK};

fn ok() -> Answer {
    Answer { bytes: OK.to_vec(), ..Answer::default() }
}

/// Whether a GET whose head has `len` bytes may be pipelined.
fn is_pipelinable(len: usize) -> bool {
    let mut rig = Rig::new(Limits::DEFAULT);
    let padding = "x".repeat(len - "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len());
    rig.client_sends(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {padding}\r\n\r\n").as_bytes(), Cut::Whole);
    rig.connects.push_back(Connect::NoResources);
    rig.run();
    rig.session.on_room();
    let Some(Step::Connect(pick)) = rig.session.next_step() else { panic!("it waits for a connection") };
    pick.pipelinable
}

#[test]
fn a_head_of_up_to_2_kib_may_be_pipelined() {
    assert!(is_pipelinable(2 * 1024));
    assert!(!is_pipelinable(2 * 1024 + 1));
}

/// RFC 9112 section 9.3.2: responses come in order, so a long one delays all behind it.
#[test]
fn a_long_response_blocks_its_pipeline_once_its_head_is_read() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    rig.connects.push_back(Connect::NoResources);
    rig.client_sends(GET, Cut::Whole);
    rig.run();
    rig.upstreams[0].fate = Fate::InUse;
    let pipelined = Connect::Connected { replica: ReplicaId(1), connection: Connection::Pipelined };
    rig.with_context(|session, cx| session.connected(pipelined, cx));
    rig.run();
    assert!(rig.session.may_pipeline_behind() && !rig.session.blocks_pipeline(), "no response yet");
    rig.replica_says(0, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx");
    rig.run();
    assert!(rig.session.blocks_pipeline(), "99,999 bytes to come");
    rig.replica_says(0, &[b'x'; 99_998]);
    rig.run();
    assert!(!rig.session.blocks_pipeline(), "one byte to come");
}

#[test]
fn a_connection_that_died_before_it_was_established_does_not_extend_the_connect_deadline() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.replica_takes(0);
    rig.client_sends(GET, Cut::Whole);
    rig.run();
    rig.pass(10);
    let deadline = rig.session.deadline();
    let refused = Ready { writable: true, hangup: true, dead: true, ..Ready::default() };
    rig.with_context(|session, cx| session.on_ready(Leg::Upstream, refused, cx));
    assert_eq!(rig.session.deadline(), deadline);
    let established = Ready { writable: true, ..Ready::default() };
    rig.with_context(|session, cx| session.on_ready(Leg::Upstream, established, cx));
    assert!(rig.session.deadline() > deadline);
}

#[test]
fn a_drain_closes_an_idle_client_and_no_other() {
    let mut idle = Rig::new(Limits::DEFAULT);
    idle.client_sends(GET, Cut::Whole);
    idle.replica_answers([ok()], Cut::Whole);
    idle.run();
    idle.with_context(|session, cx| session.on_drain(cx));
    idle.run();
    assert_eq!(idle.closed, Some(Ending::Clean));
    let mut busy = Rig::new(Limits::DEFAULT);
    busy.client_sends(GET, Cut::Whole);
    busy.run();
    busy.with_context(|session, cx| session.on_drain(cx));
    busy.run();
    assert_eq!(busy.closed, None);
    busy.replica_says(0, OK);
    busy.run();
    assert_eq!(busy.to_client, OK);
}
