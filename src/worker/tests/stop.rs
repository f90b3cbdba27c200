//! A worker that is told to stop: how long it goes on.

use super::*;

const LIMITS: Limits = Limits { drain_timeout_ms: 100, ..Limits::DEFAULT };

#[test]
fn without_clients_a_worker_ends_in_the_turn_that_learns_of_the_stop() {
    let mut rig = Rig::new(LIMITS);
    assert!(rig.turn(), "no client, and no stop");
    rig.stop();
    assert!(!rig.turn());
}

#[test]
fn a_request_in_progress_delays_the_end_until_it_is_answered() {
    let mut rig = Rig::new(LIMITS);
    let client = rig.client(GET);
    rig.stop();
    assert!(rig.turn());
    rig.says(rig.upstreams()[0], OK);
    assert!(rig.kernel.received(client).ends_with("ok"));
    assert!(rig.turn(), "the client may still read");
    rig.kernel.ends(client);
    assert!(!rig.turn());
    assert_eq!(rig.kernel.end(client), Some(SocketEnd::Closed));
}

#[test]
fn what_is_in_progress_at_the_drain_timeout_is_reset() {
    let mut rig = Rig::new(LIMITS);
    let client = rig.client(GET);
    rig.stop();
    assert!(rig.turn());
    rig.kernel.pass(99);
    assert!(rig.turn(), "one millisecond is left");
    assert_eq!((rig.kernel.end(client), rig.kernel.script().waited_ms), (None, Some(100)));
    rig.kernel.pass(1);
    assert!(!rig.turn());
    assert_eq!(rig.kernel.end(client), Some(SocketEnd::Reset));
}
