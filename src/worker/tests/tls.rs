//! Clients that speak TLS: what a session gets of it, and what it does not have to know.

use super::*;
use crate::core::challenges::Challenges;
use crate::core::proxy::{self, Ends, Version};
use crate::core::tls::challenge::ALPN_ACME;
use crate::core::tls::tests::{Peer, Rig as TlsRig, challenge};
use crate::core::tls::{Opened, TlsVersion};
use crate::shared::events::Resource;

const CLOSING: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// Handshake steps of a turn.
const STEPS: usize = 16;

/// A worker whose listener speaks TLS.
struct SecureRig {
    rig: Rig,
    tls: TlsRig,
}

/// A client, and the socket that it has.
struct Client {
    peer: Peer,
    socket: usize,
}

impl SecureRig {
    fn new(version: TlsVersion) -> SecureRig {
        let (mut rig, mut tls) = (Rig::new(Limits::DEFAULT), TlsRig::new(version));
        let other = TlsRig::new(version);
        let policy = Arc::new(std::mem::replace(&mut tls.policy, other.policy));
        rig.publish(|snapshot| Arc::make_mut(&mut snapshot.listeners[0]).tls = Some(policy));
        rig.turn();
        SecureRig { rig, tls }
    }

    /// A client that said hello.
    fn hello(&mut self) -> Client {
        let mut peer = self.tls.client();
        let socket = self.rig.kernel.client(&peer.sealed(b""));
        Client { peer, socket }
    }

    fn established(&mut self) -> Client {
        let mut client = self.hello();
        self.rig.run();
        while self.exchange(&mut client) > 0 {}
        assert!(!client.peer.tls.is_handshaking());
        client
    }

    /// What each has for the other. Returns how many bytes.
    fn exchange(&mut self, client: &mut Client) -> usize {
        let received = self.rig.kernel.received_bytes(client.socket);
        client.peer.read(&received);
        let sent = client.peer.sealed(b"");
        if !sent.is_empty() {
            self.rig.says(client.socket, &sent);
        }
        received.len() + sent.len()
    }

    fn says(&mut self, client: &mut Client, plain: impl AsRef<[u8]>) {
        let sealed = client.peer.sealed(plain.as_ref());
        self.rig.says(client.socket, &sealed);
    }

    /// The only replica connection answers.
    fn answers(&mut self, response: &str) {
        let upstream = self.rig.upstreams()[0];
        self.rig.says(upstream, response);
    }

    /// What the client can read.
    fn received(&mut self, client: &mut Client) -> String {
        self.exchange(client);
        String::from_utf8_lossy(&std::mem::take(&mut client.peer.received)).into_owned()
    }

    fn end(&self, client: &Client) -> Option<SocketEnd> {
        self.rig.kernel.end(client.socket)
    }
}

/// Also `ringway_tls_handshakes_total`.
#[test]
fn requests_over_tls_are_answered_and_a_connection_at_rest_holds_nothing() {
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let mut rig = SecureRig::new(version);
        let mut client = rig.established();
        for _ in 0..2 {
            rig.says(&mut client, GET);
            let upstream = rig.rig.upstreams()[0];
            let request = rig.rig.kernel.received(upstream);
            assert!(request.contains("X-Forwarded-Proto: https\r\n"), "{request}");
            rig.answers(OK);
            assert!(rig.received(&mut client).ends_with("\r\n\r\nok"), "{version:?}");
            assert_eq!(rig.rig.worker.cx.pool.lent(), 0);
        }
        assert_eq!((rig.rig.counters.tls_full.value(), rig.rig.counters.tls_failed.value()), (1, 0));
    }
}

#[test]
fn two_requests_in_two_records_of_one_read_are_both_served() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let mut client = rig.established();
    let both = [client.peer.sealed(GET.as_bytes()), client.peer.sealed(GET.as_bytes())].concat();
    rig.rig.says(client.socket, &both);
    rig.answers(OK);
    rig.answers(OK);
    assert_eq!(rig.received(&mut client).matches("\r\n\r\nok").count(), 2);
}

/// The head grows, by a `Connection`, in front of a buffer that is full: that is more than one call seals, and no edge of the
/// client follows.
#[test]
fn a_response_that_fills_more_than_a_buffer_arrives_whole() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let mut client = rig.established();
    rig.says(&mut client, "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let body = "x".repeat(100_000);
    rig.answers(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert!(rig.received(&mut client).ends_with(&body));
}

/// More records than one `open` looks at: no other edge follows.
#[test]
fn a_body_in_many_records_of_one_read_arrives_whole() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let mut client = rig.established();
    let head = client.peer.sealed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n");
    let body: Vec<u8> = (0..200).flat_map(|_| client.peer.sealed(b"x")).collect();
    rig.rig.says(client.socket, &[head, body].concat());
    let upstream = rig.rig.upstreams()[0];
    assert!(rig.rig.kernel.received(upstream).ends_with(&"x".repeat(200)));
}

#[test]
fn a_response_reaches_a_client_that_takes_it_in_small_pieces() {
    let body: String = (0..20_000).map(|n| format!("{n:05}")).collect();
    for (piece, request) in [(1, GET), (700, CLOSING), (1, CLOSING), (30_000, GET)] {
        let mut rig = SecureRig::new(TlsVersion::Tls13);
        let mut client = rig.established();
        rig.says(&mut client, request);
        rig.rig.kernel.takes(client.socket, piece);
        rig.answers(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let (mut text, mut rounds) = (String::new(), 0);
        while text.len() < body.len() || !text.ends_with(&body) {
            rig.rig.kernel.takes(client.socket, piece.max(64));
            rig.rig.run();
            text += &rig.received(&mut client);
            rounds += 1;
            assert!(rounds < 3_000, "{} of {} bytes", text.len(), body.len());
        }
        rig.rig.kernel.takes(client.socket, usize::MAX);
        rig.rig.run();
        assert_eq!((text.matches("HTTP/1.1").count(), rig.rig.worker.cx.pool.lent()), (1, 0));
        rig.received(&mut client);
        let closed = (request == CLOSING).then_some(Ok(Opened::Closed));
        assert_eq!((&client.peer.end, rig.rig.kernel.is_shut(client.socket)), (&closed, closed.is_some()));
    }
}

#[test]
fn the_last_response_is_followed_by_close_notify_and_then_fin() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let mut client = rig.established();
    rig.says(&mut client, CLOSING);
    rig.answers(OK);
    assert!(rig.received(&mut client).ends_with("ok"));
    assert_eq!(client.peer.end, Some(Ok(Opened::Closed)));
    assert!(rig.rig.kernel.is_shut(client.socket));
}

/// What is sealed and not taken by the socket is not sent: a connection that lingered for it, or was idle, would be closed
/// under it.
#[test]
fn a_client_that_takes_the_last_record_late_gets_all_of_it() {
    let body = "x".repeat(10_000);
    let limits = Limits { idle_timeout_ms: 10_000, linger_timeout_ms: 5_000, ..Limits::DEFAULT };
    for request in [CLOSING, GET] {
        let mut rig = SecureRig::new(TlsVersion::Tls13);
        rig.rig.publish(|snapshot| Arc::make_mut(&mut snapshot.listeners[0]).limits = Arc::new(limits.clone()));
        rig.rig.set_limits(limits.clone());
        let mut client = rig.established();
        rig.says(&mut client, request);
        rig.rig.kernel.takes(client.socket, 100);
        rig.answers(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        rig.rig.kernel.pass(limits.idle_timeout_ms + 1);
        rig.rig.turn();
        assert_eq!(rig.end(&client), None, "{request}");
        rig.rig.kernel.takes(client.socket, usize::MAX);
        rig.rig.run();
        assert!(rig.received(&mut client).ends_with(&body), "{request}");
        let closed = (request == CLOSING).then_some(Ok(Opened::Closed));
        assert_eq!((&client.peer.end, rig.rig.kernel.is_shut(client.socket)), (&closed, closed.is_some()));
    }
}

#[test]
fn a_request_body_cut_by_fin_or_by_close_notify_is_never_complete() {
    for says_so in [true, false] {
        let mut rig = SecureRig::new(TlsVersion::Tls13);
        let mut client = rig.established();
        rig.says(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfive!");
        let upstream = rig.rig.upstreams()[0];
        if says_so {
            let closing = client.peer.closing();
            rig.rig.says(client.socket, &closing);
        }
        rig.rig.kernel.ends(client.socket);
        rig.rig.run();
        assert!(rig.received(&mut client).starts_with("HTTP/1.1 400 "), "{says_so}");
        assert!(rig.rig.kernel.received(upstream).ends_with("five!"));
        assert!(rig.rig.kernel.end(upstream).is_some(), "the replica's connection is not used again");
    }
}

/// The end of a tunnel is passed on, whether the client said close_notify or not: `ringway_tls_truncated_total`.
#[test]
fn a_tunnel_carries_both_ways_and_its_end_is_passed_on() {
    for says_so in [true, false] {
        let mut rig = SecureRig::new(TlsVersion::Tls13);
        rig.rig.publish(|snapshot| Arc::make_mut(&mut snapshot.listeners[0]).mode = Mode::Tcp);
        rig.rig.turn();
        let mut client = rig.hello();
        rig.rig.run();
        assert!(rig.rig.upstreams().is_empty(), "a replica is asked for behind the handshake only");
        while rig.exchange(&mut client) > 0 {}
        let upstream = rig.rig.upstreams()[0];
        rig.answers("220 the server speaks first");
        assert_eq!(rig.received(&mut client), "220 the server speaks first");
        rig.says(&mut client, "QUIT");
        assert_eq!(rig.rig.kernel.received(upstream), "QUIT");
        let closing = if says_so { client.peer.closing() } else { Vec::new() };
        rig.rig.says(client.socket, &closing);
        rig.rig.kernel.ends(client.socket);
        rig.rig.run();
        assert!(rig.rig.kernel.is_shut(upstream), "{says_so}");
        assert_eq!(rig.rig.counters.tls_truncated.value(), u64::from(!says_so));
    }
}

#[test]
fn a_request_in_plain_text_is_told_that_the_port_speaks_tls() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let client = rig.rig.client(GET);
    let reply = rig.rig.kernel.received(client);
    assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("this port speaks TLS"), "{reply}");
    assert!(rig.rig.upstreams().is_empty(), "no replica sees it");
    rig.rig.kernel.ends(client);
    rig.rig.run();
    assert_eq!(rig.rig.kernel.end(client), Some(SocketEnd::Closed));
    assert_eq!(rig.rig.counters.tls_plain_text.value(), 1);
}

/// Nothing of such a connection is HTTP, whatever comes behind its handshake.
#[test]
fn a_connection_of_an_acme_server_ends_behind_its_handshake() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let challenges = Arc::new(Challenges::tls(challenge::challenges()));
    rig.rig.publish(|snapshot| snapshot.challenges = Some(challenges));
    rig.rig.turn();
    let mut peer = challenge::client("shop.example.com", &[ALPN_ACME]);
    let socket = rig.rig.client(&peer.sealed(b""));
    let mut client = Client { peer, socket };
    client.peer.read(&rig.rig.kernel.received_bytes(socket));
    assert!(!client.peer.tls.is_handshaking());
    rig.says(&mut client, GET);
    assert_eq!((rig.end(&client), rig.rig.upstreams().len()), (Some(SocketEnd::Closed), 0), "no replica sees it");
    client.peer.read(&rig.rig.kernel.received_bytes(socket));
    assert_eq!((&client.peer.received[..], &client.peer.end), (&b""[..], &Some(Ok(Opened::Closed))));
}

#[test]
fn garbage_is_answered_with_an_alert_and_reported() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let client = rig.rig.client(b"\x17\x03\x01\x00\x05abcde");
    assert_eq!(rig.rig.kernel.received_bytes(client).first(), Some(&21), "an alert");
    assert_eq!(rig.rig.kernel.end(client), Some(SocketEnd::Closed));
    let reported = rig.rig.reports.events.try_iter().any(|e| matches!(e, WorkerEvent::HandshakeFailed { .. }));
    assert!(reported);
}

#[test]
fn a_handshake_has_one_deadline_however_its_bytes_trickle() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let hello = rig.tls.client().sealed(b"");
    let client = rig.rig.client(&hello[..10]);
    for byte in &hello[10..14] {
        rig.rig.kernel.pass(Limits::DEFAULT.handshake_timeout_ms / 5);
        rig.rig.says(client, &[*byte]);
        assert_eq!(rig.rig.kernel.end(client), None);
    }
    rig.rig.kernel.pass(Limits::DEFAULT.handshake_timeout_ms / 5);
    rig.rig.turn();
    assert_eq!(rig.rig.kernel.end(client), Some(SocketEnd::Closed));
    assert_eq!(rig.rig.counters.tls_timed_out.value(), 1);
}

#[test]
fn a_turn_takes_so_many_handshakes_and_the_others_follow_in_their_order() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let clients: Vec<Client> = (0..2 * STEPS + 1).map(|_| rig.hello()).collect();
    let answered = |rig: &SecureRig| -> Vec<bool> {
        clients.iter().map(|client| !rig.rig.kernel.script().sockets[client.socket].received.is_empty()).collect()
    };
    for turn in 1..=3 {
        rig.rig.turn();
        let expected: Vec<bool> = (0..clients.len()).map(|at| at < turn * STEPS).collect();
        assert_eq!(answered(&rig), expected, "turn {turn}");
    }
}

/// Nothing is refused: the client waits in the listener's backlog. Also `ringway_tls_handshakes_under_way`.
#[test]
fn a_handshake_beyond_the_cap_begins_when_another_one_ends() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let mut first = rig.hello();
    let silent: Vec<usize> = (1..HANDSHAKES).map(|_| rig.rig.kernel.client("")).collect();
    let mut waiting: Vec<Client> = (0..3).map(|_| rig.hello()).collect();
    rig.rig.run();
    let accepted = |rig: &mut SecureRig| {
        rig.rig.turn();
        rig.rig.run();
        rig.rig.counters.accepted.value() as usize
    };
    assert_eq!(accepted(&mut rig), HANDSHAKES);
    let paused = WorkerEvent::AcceptPaused { worker: 0, resource: Resource::Handshakes };
    assert!(rig.rig.reports.events.try_iter().any(|event| event == paused));
    while rig.exchange(&mut first) > 0 {}
    assert_eq!(accepted(&mut rig), HANDSHAKES + 1, "one has ended well");
    rig.rig.kernel.ends(silent[0]);
    rig.rig.says(silent[1], GET);
    assert_eq!(accepted(&mut rig), HANDSHAKES + 3, "one was given up, and one spoke plain text");
    for client in &mut waiting {
        while rig.exchange(client) > 0 {}
        rig.says(client, GET);
        rig.answers(OK);
        assert!(rig.received(client).ends_with("ok"));
    }
    rig.rig.kernel.pass(Limits::DEFAULT.handshake_timeout_ms);
    accepted(&mut rig);
    assert_eq!(rig.rig.worker.handshake_cap.under_way(), 0, "the others came too late");
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    rig.rig.publish(|snapshot| {
        Arc::make_mut(&mut snapshot.listeners[0]).proxies = vec!["10.0.0.0/8".parse().expect("a range")];
    });
    rig.rig.turn();
    let ends = Ends { source: ([192, 0, 2, 7], 99).into(), destination: LISTENING };
    let header = proxy::write(Version::V2, ends);
    let mut peer = rig.tls.client();
    let socket = rig.rig.client(&header[..9]);
    rig.rig.says(socket, &[&header[9..], &peer.sealed(b"")].concat());
    let mut client = Client { peer, socket };
    while rig.exchange(&mut client) > 0 {}
    rig.says(&mut client, GET);
    let upstream = rig.rig.upstreams()[0];
    let request = rig.rig.kernel.received(upstream);
    assert!(request.contains("X-Forwarded-For: 192.0.2.7\r\n"), "{request}");
}

#[test]
fn a_stop_lets_handshakes_end_and_serves_the_request_behind_them() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let mut client = rig.hello();
    rig.rig.run();
    let mut idle = rig.established();
    rig.rig.stop();
    assert!(rig.rig.turn());
    rig.received(&mut idle);
    assert_eq!((&idle.peer.end, rig.end(&client)), (&Some(Ok(Opened::Closed)), None), "an idle one is closed");
    while rig.exchange(&mut client) > 0 {}
    assert_eq!(rig.end(&client), None, "its request may be on the way");
    rig.says(&mut client, GET);
    rig.answers(OK);
    let last = rig.received(&mut client).to_ascii_lowercase();
    assert!(last.ends_with("ok") && last.contains("connection: close"), "{last}");
}

#[test]
fn bytes_that_were_changed_on_their_way_reset_the_connection() {
    let mut rig = SecureRig::new(TlsVersion::Tls13);
    let mut client = rig.established();
    let mut sealed = client.peer.sealed(GET.as_bytes());
    if let Some(last) = sealed.last_mut() {
        *last ^= 1;
    }
    rig.rig.says(client.socket, &sealed);
    assert_eq!(rig.end(&client), Some(SocketEnd::Reset));
    assert!(rig.rig.upstreams().is_empty());
}
