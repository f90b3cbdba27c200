//! Descriptors and pipes: how many clients are accepted, and what is kept or closed where something runs out.

use super::*;
use crate::shared::events::Resource;

const ENOSPC: i32 = 28;

/// The body is longer than what is copied, and ends with the last splice.
fn upload(rig: &mut Rig, client: usize, fields: &str) -> String {
    let body = "x".repeat(300_000);
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
    rig.says(client, &request);
    body
}

/// A client takes two descriptors, and one part in eight is kept for idle clients that send a request.
#[test]
fn clients_are_accepted_while_there_is_room_for_their_requests() {
    for (descriptors, accepted) in [(16, 7), (17, 7), (18, 8), (32, 14), (2, 1)] {
        let mut rig = Rig::with_descriptors(Limits::DEFAULT, descriptors);
        (0..40).for_each(|_| {
            rig.kernel.client("");
        });
        rig.turn();
        assert_eq!(rig.counters.accepted.value(), accepted, "{descriptors} descriptors");
    }
}

/// Of 15 descriptors, the first client takes one while it is idle and two while its request is in flight.
#[test]
fn a_request_in_flight_takes_the_room_of_another_client() {
    for (response, accepted) in [("", 6), (OK, 7)] {
        let mut rig = Rig::with_descriptors(Limits::DEFAULT, 17);
        let first = rig.client(GET);
        rig.says(rig.upstreams()[0], response);
        assert_eq!(rig.kernel.received(first).is_empty(), response.is_empty());
        (0..40).for_each(|_| {
            rig.kernel.client("");
        });
        rig.turn();
        assert_eq!(rig.counters.accepted.value(), 1 + accepted, "{response:?}");
    }
}

#[test]
fn a_client_that_cannot_be_watched_is_reset_and_reported() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.kernel.script().watch_fails = Some(ENOSPC);
    let client = rig.client("");
    assert_eq!(rig.kernel.end(client), Some(SocketEnd::Reset));
    let paused = WorkerEvent::AcceptPaused { worker: 0, resource: Resource::Memory };
    assert_eq!(rig.reports.events.try_iter().collect::<Vec<_>>(), [paused]);
    assert_eq!(rig.counters.capped.value(), 1);
}

/// What a pipe holds of a request whose connection is closed must not reach another replica.
#[test]
fn a_pipe_with_bytes_for_a_closed_connection_is_closed_and_an_empty_one_is_used_again() {
    let pipes_opened = |room: usize| {
        let mut rig = Rig::new(Limits::DEFAULT);
        let client = rig.client("");
        rig.kernel.script().dialled_room = Some(room);
        let body = upload(&mut rig, client, "");
        let upstream = rig.upstreams()[0];
        rig.says(upstream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        rig.kernel.ends(upstream);
        rig.run();
        assert!(rig.kernel.received(client).ends_with("ok"));
        let other = rig.client("");
        rig.kernel.script().dialled_room = None;
        upload(&mut rig, other, "");
        let received = rig.kernel.received(rig.upstreams()[0]);
        assert!(received.ends_with(&format!("\r\n\r\n{body}")), "the body of the second request alone");
        rig.kernel.script().pipes_opened
    };
    assert_eq!(pipes_opened(100_000), 2, "the first one held bytes");
    assert_eq!(pipes_opened(usize::MAX), 1);
}
