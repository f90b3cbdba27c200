//! Which clients are watched for events, and what is reported while they are connected.

use super::*;
use crate::core::session::SLOW_MS;
use crate::core::step::{FaultKind, ReplicaFault};

const CLOSE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn is_watched_after(request: &str) -> bool {
    let mut rig = Rig::new(Limits::DEFAULT);
    let client = rig.client(request);
    assert_eq!(rig.upstreams().len(), usize::from(!request.is_empty()));
    rig.kernel.is_watched(client)
}

/// Watching costs a system call, and such a client can only wait.
#[test]
fn a_client_that_awaits_its_last_response_is_not_watched() {
    assert!(!is_watched_after(CLOSE));
    assert!(!is_watched_after("POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nok"));
}

#[test]
fn a_client_that_may_send_more_is_watched() {
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: x\r\n\r\n";
    let unfinished = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\no";
    for request in ["", GET, upgrade, unfinished] {
        assert!(is_watched_after(request), "{request}");
    }
}

#[test]
fn a_client_whose_request_is_not_sent_whole_is_watched() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.kernel.script().dialled_room = Some(10);
    let client = rig.client(CLOSE);
    assert!(rig.kernel.is_watched(client));
}

/// The control plane may have taken the replica down meanwhile, and the client may have gone.
#[test]
fn a_client_whose_response_is_overdue_is_watched() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let client = rig.client(CLOSE);
    rig.kernel.pass(SLOW_MS);
    rig.turn();
    rig.run();
    assert!(rig.kernel.is_watched(client));
}

#[test]
fn a_client_that_does_not_take_its_last_response_is_watched() {
    for room in [0, 20] {
        let mut rig = Rig::new(Limits::DEFAULT);
        let client = rig.kernel.client(CLOSE);
        rig.kernel.takes(client, room);
        rig.run();
        rig.says(rig.upstreams()[0], OK);
        assert!(rig.kernel.is_watched(client), "room for {room} bytes");
        rig.kernel.takes(client, usize::MAX);
        rig.run();
        assert!(rig.kernel.received(client).ends_with("ok"));
    }
}

/// A response that began is long, or the client slow: it is watched while its body is awaited.
#[test]
fn a_client_whose_last_response_has_begun_is_watched() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let client = rig.client(CLOSE);
    rig.says(rig.upstreams()[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    assert!(rig.kernel.is_watched(client));
}

#[test]
fn a_turn_is_measured_and_what_is_in_use_is_counted() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let clients = [rig.client(GET), rig.client(GET)];
    let gauges = &rig.counters.gauges;
    assert_eq!((gauges.clients.value(), gauges.upstreams.value(), gauges.upstreams_in_use.value()), (2, 2, 2));
    rig.says(rig.upstreams()[0], OK);
    rig.kernel.ends(clients[0]);
    rig.run();
    let gauges = &rig.counters.gauges;
    assert_eq!((gauges.clients.value(), gauges.upstreams.value(), gauges.upstreams_in_use.value()), (1, 2, 1));
}

fn reported(rig: &Rig) -> Vec<WorkerEvent> {
    rig.reports.events.try_iter().collect()
}

#[test]
fn what_a_session_notes_is_reported_while_its_client_is_connected() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let client = rig.client("GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(reported(&rig)[..], [WorkerEvent::Refused { status: 400, .. }]), "a refusal");
    assert_eq!(rig.kernel.end(client), None, "it may read the answer");
    let client = rig.client(GET);
    rig.kernel.pass(SLOW_MS);
    rig.turn();
    rig.run();
    let slow = FaultKind::Slow { after_ms: SLOW_MS };
    assert_eq!(reported(&rig), [WorkerEvent::Fault(ReplicaFault { replica: ReplicaId(1), kind: slow })]);
    assert_eq!(rig.kernel.end(client), None);
}
