//! How long a session waits: for a response, for a body, between the events of a stream, and for a client to read its last
//! response.

use ringway::core::limits::Limits;
use ringway::core::step::Ending;

use crate::rig::{Answer, Cut, End, Rig};
use crate::row::GET;

const SECOND: u64 = 1_000;

fn streaming(content_type: &str, event: &str) -> Rig {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([Answer { bytes: (head + event).into_bytes(), ..Answer::default() }], Cut::Whole);
    rig.run();
    assert!(rig.to_client.starts_with(b"HTTP/1.1 200 "));
    rig
}

/// Long polls are held for 30 s by common servers; their own answer comes right behind.
#[test]
fn a_long_poll_of_half_a_minute_is_answered() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(GET, Cut::Whole);
    rig.run();
    for _ in 0..59 {
        rig.pass(SECOND);
    }
    assert!(rig.to_client.is_empty(), "{}", String::from_utf8_lossy(&rig.to_client));
    rig.pass(2 * SECOND);
    assert!(rig.to_client.starts_with(b"HTTP/1.1 504 "), "{}", String::from_utf8_lossy(&rig.to_client));
}

#[test]
fn an_event_stream_may_be_quiet_for_as_long_as_a_tunnel() {
    for content_type in ["text/event-stream", "Text/Event-Stream; charset=utf-8", "text/event-stream ;x=y"] {
        for event in ["", "8\r\ndata: 1\n\r\n"] {
            let mut rig = streaming(content_type, event);
            rig.pass(Limits::DEFAULT.tunnel_timeout_ms - SECOND);
            assert_eq!(rig.closed, None, "{content_type}");
            rig.pass(2 * SECOND);
            assert_eq!(rig.closed, Some(Ending::Reset), "{content_type}");
        }
    }
}

#[test]
fn another_body_may_be_quiet_for_a_minute() {
    for content_type in ["text/plain", "text/event-stream-of-sorts", "application/json; x=\"text/event-stream\""] {
        let mut rig = streaming(content_type, "2\r\nok\r\n");
        rig.pass(59 * SECOND);
        assert_eq!(rig.closed, None, "{content_type}");
        rig.pass(2 * SECOND);
        assert_eq!(rig.closed, Some(Ending::Reset), "{content_type}");
    }
}

/// A client that takes no more bytes is not one that waits for them.
#[test]
fn a_client_that_does_not_read_an_event_stream_stalls_it() {
    let mut rig = streaming("text/event-stream", "8\r\ndata: 1\n\r\n");
    rig.client_takes(3);
    rig.replica_says(0, b"8\r\ndata: 2\n\r\n");
    rig.run();
    rig.pass(61 * SECOND);
    assert_eq!(rig.closed, Some(Ending::Reset));
}

/// A client of which a megabyte is to come has an early response, and its replica closed.
fn refused_upload() -> Rig {
    let refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_ignores_end = true;
    rig.client_sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx", Cut::Whole);
    rig.replica_answers([Answer { bytes: refusal.to_vec(), early: true, end: Some(End::Fin) }], Cut::Whole);
    rig.run();
    assert!(rig.to_client.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&rig.to_client));
    rig
}

/// Each second a byte comes, until the connection is closed: after so many seconds.
fn seconds_of_sending(rig: &mut Rig) -> u64 {
    let closes_after = (0..100).find(|_| {
        rig.client_sends(b"x", Cut::Whole);
        rig.run();
        rig.pass(SECOND);
        rig.closed.is_some()
    });
    closes_after.expect("it is closed") + 1
}

/// RFC 9112 section 9.6.
#[test]
fn a_client_that_sends_on_behind_its_last_response_has_half_a_minute() {
    let mut rig = refused_upload();
    assert_eq!(seconds_of_sending(&mut rig), 30);
    assert_eq!(rig.closed, Some(Ending::Clean));
    assert_eq!(rig.session.held(), 0, "what it sends is dropped");
}

#[test]
fn a_client_that_is_silent_behind_its_last_response_has_five_seconds() {
    let mut rig = refused_upload();
    rig.pass(3 * SECOND);
    rig.client_sends(b"x", Cut::Whole);
    rig.run();
    rig.pass(5 * SECOND - 1);
    assert_eq!(rig.closed, None);
    rig.pass(1);
    assert_eq!(rig.closed, Some(Ending::Clean));
}

/// A drain is not held up by clients that only have to read.
#[test]
fn a_balancer_that_stops_lingers_for_five_seconds_in_all() {
    let mut lingering = refused_upload();
    lingering.pass(SECOND);
    lingering.stop();
    assert_eq!(seconds_of_sending(&mut lingering), 5, "one that lingered already");
    let mut answered = Rig::new(Limits::DEFAULT);
    answered.client_ignores_end = true;
    answered.client_sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx", Cut::Whole);
    answered.run();
    answered.stop();
    answered.replica_says(0, b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    answered.replica_ends(0, End::Fin);
    answered.run();
    assert_eq!(seconds_of_sending(&mut answered), 5, "one that is answered during the drain");
}
