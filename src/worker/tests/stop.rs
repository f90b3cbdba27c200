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

fn remove_listener(rig: &mut Rig) {
    rig.publish(|snapshot| snapshot.listeners[0] = Arc::new(snapshot.listeners[0].removed(Lifecycle::Stopping)));
}

#[test]
fn connections_of_a_removed_listener_end_after_their_exchange_and_the_worker_goes_on() {
    let mut rig = Rig::new(LIMITS);
    let (idle, busy) = (rig.client(GET), rig.client(GET));
    let upstreams = rig.upstreams();
    rig.says(upstreams[0], OK);
    let kept = rig.kernel.received(idle);
    assert!(kept.ends_with("ok") && !kept.to_ascii_lowercase().contains("connection: close"), "{kept}");
    remove_listener(&mut rig);
    assert!(rig.turn());
    assert_eq!((rig.kernel.end(idle), rig.kernel.end(busy)), (Some(SocketEnd::Closed), None));
    rig.says(upstreams[1], OK);
    let last = rig.kernel.received(busy).to_ascii_lowercase();
    assert!(last.ends_with("ok") && last.contains("connection: close"), "{last}");
    rig.kernel.ends(busy);
    assert!(rig.turn(), "the balancer serves on");
    assert_eq!(rig.kernel.end(busy), Some(SocketEnd::Closed));
}

#[test]
fn the_next_response_on_a_removed_listener_is_the_last_of_its_connection() {
    let mut rig = Rig::new(LIMITS);
    let client = rig.client(GET);
    rig.says(rig.upstreams()[0], OK);
    rig.publish(|snapshot| snapshot.listeners[0] = Arc::new(snapshot.listeners[0].removed(Lifecycle::HandedOver)));
    assert!(rig.turn());
    assert_eq!(rig.kernel.end(client), None, "a request may be on its way");
    rig.says(client, GET);
    rig.says(rig.upstreams()[0], OK);
    assert!(rig.kernel.received(client).to_ascii_lowercase().contains("connection: close"));
}

#[test]
fn what_a_removed_listener_still_does_at_the_drain_timeout_is_reset() {
    let mut rig = Rig::new(LIMITS);
    let client = rig.client(GET);
    remove_listener(&mut rig);
    assert!(rig.turn());
    rig.kernel.pass(99);
    assert!(rig.turn());
    assert_eq!((rig.kernel.end(client), rig.kernel.script().waited_ms), (None, Some(100)));
    rig.kernel.pass(1);
    assert!(rig.turn(), "the balancer serves on");
    assert_eq!(rig.kernel.end(client), Some(SocketEnd::Reset));
}

#[test]
fn a_listener_that_comes_back_keeps_the_connections_that_are_left() {
    let mut rig = Rig::new(LIMITS);
    let client = rig.client(GET);
    remove_listener(&mut rig);
    assert!(rig.turn());
    rig.publish(|snapshot| Arc::make_mut(&mut snapshot.listeners[0]).lifecycle = Lifecycle::Serving);
    rig.kernel.pass(1_000);
    assert!(rig.turn());
    rig.says(rig.upstreams()[0], OK);
    assert!(!rig.kernel.received(client).to_ascii_lowercase().contains("connection: close"));
    assert_eq!(rig.kernel.end(client), None);
}
