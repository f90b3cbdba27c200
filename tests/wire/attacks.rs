//! The known attacks on HTTP/1, one test each: what a client sends, and that no replica receives a smuggled request.

use ringway::core::limits::Limits;
use ringway::core::step::{Ending, Notice};

use crate::rig::{Answer, Cut, End, Fate, Rig};
use crate::row::{GET, OK};
use crate::strict;

/// The attack is refused with `status`, no replica receives a complete request, and the bytes after it are not read as one.
fn assert_refused(status: u16, attack: &str) {
    let request = attack.as_bytes();
    for cut in [Cut::Whole, Cut::Bytes].into_iter().chain((1..request.len()).map(Cut::At)) {
        let mut rig = Rig::new(Limits::DEFAULT);
        rig.client_sends(request, cut);
        rig.client_sends(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", Cut::Whole);
        rig.replica_answers(vec![ok(); 4], Cut::Whole);
        rig.run();
        let answer = String::from_utf8_lossy(&rig.to_client).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{attack:?} cut {cut:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{attack:?} cut {cut:?}: {answer:?}");
        assert_eq!(rig.closed, Some(Ending::Clean), "{attack:?} cut {cut:?}");
        let (requests, _) = strict::requests(&rig.received());
        assert!(requests.is_empty(), "{attack:?} cut {cut:?} reached a replica: {requests:?}");
        assert!(rig.upstreams.iter().all(|u| u.fate == Fate::Closed), "{attack:?} cut {cut:?}");
    }
}

/// The bytes are read as exactly these requests, by target, however they are cut.
fn assert_read_as(targets: &[&str], bytes: &str) {
    for cut in [Cut::Whole, Cut::Bytes].into_iter().chain((1..bytes.len()).map(Cut::At)) {
        let mut rig = Rig::new(Limits::DEFAULT);
        rig.client_sends(bytes.as_bytes(), cut);
        rig.replica_answers(vec![ok(); 8], Cut::Whole);
        rig.run();
        let (requests, len) = strict::requests(&rig.received());
        assert_eq!(len, rig.received().len(), "{bytes:?} cut {cut:?}: an incomplete request was sent");
        let seen: Vec<&str> = requests.iter().map(|request| request.target.as_str()).collect();
        assert_eq!(seen, targets, "{bytes:?} cut {cut:?}");
    }
}

fn targets(rig: &Rig) -> Vec<String> {
    strict::requests(&rig.received()).0.into_iter().map(|request| request.target).collect()
}

fn ok() -> Answer {
    Answer { bytes: OK.to_vec(), ..Answer::default() }
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

#[test]
fn cl_te() {
    assert_refused(400, &post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG"));
}

#[test]
fn te_cl() {
    assert_refused(400, &post("Transfer-Encoding: chunked\r\nContent-Length: 3", "8\r\nSMUGGLED\r\n0\r\n\r\n"));
}

#[test]
fn te_te_with_an_obfuscated_coding() {
    for fields in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
    ] {
        assert_refused(501, &post(fields, "0\r\n\r\n"));
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding:\x0cchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding:\0chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding",
        "Transfer_Encoding: chunked",
        "Content-Length: 4\r\nTransfer_Encoding: chunked",
    ] {
        assert_refused(400, &post(fields, "0\r\n\r\n"));
    }
}

/// The replica answers without reading the body: the body must not be read as the next request.
#[test]
fn cl_0() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", smuggled.len());
    rig.client_sends(head.as_bytes(), Cut::Whole);
    rig.client_sends(smuggled.as_bytes(), Cut::Whole);
    rig.replica_answers([Answer { early: true, ..ok() }], Cut::Whole);
    rig.run();
    assert_eq!(rig.upstreams.len(), 1);
    assert_eq!(rig.upstreams[0].fate, Fate::Closed, "a connection with an incomplete request is not reused");
    assert_eq!(rig.closed, Some(Ending::Clean), "the client connection is closed");
    assert_eq!(targets(&rig), ["/"]);
}

/// A length that one of two parsers does not see.
#[test]
fn zero_cl() {
    for fields in [
        "Content-Length : 30",
        " Content-Length: 30",
        "X: y\r\n Content-Length: 30",
        "X: y\nContent-Length: 30",
        "Content-Length:\n30",
        "Content-Length:\r\n 30",
        "Content-Length\0: 30",
        "\0Content-Length: 30",
        "Content_Length: 30",
        "Content-Length: +30",
        "Content-Length: 30, 30",
        "Content-Length: 0, 30",
        "Content-Length: 0\r\nContent-Length: 30",
        "Content-Length: 30\r\nContent-Length: 0",
        "Content-Length:",
        "Content-Length: 0x1e",
    ] {
        assert_refused(400, &post(fields, ""));
    }
}

/// Chunk extensions that one parser ends at a bare LF and another at CRLF (CVE-2025-55315, and its family of TERM.EXT,
/// EXT.TERM, TERM.SPILL and SPILL.TERM).
#[test]
fn chunk_extensions_with_a_bare_line_end() {
    for body in [
        "2;\nxx\r\n2\r\nhi\r\n0\r\n\r\n",
        "2;a\rxx\r\n2\r\nhi\r\n0\r\n\r\n",
        "2;a=\"\nxx\"\r\nhi\r\n0\r\n\r\n",
        "2\nhi\r\n0\r\n\r\n",
        "2\rhi\r\n0\r\n\r\n",
        "2\r\nhi\n0\r\n\r\n",
        "2\r\nhi\r0\r\n\r\n",
        "2\r\nhi0\r\n\r\n",
        "2\r\nhiXX0\r\n\r\n",
        "2\r\nhi\r\n0\n\n",
        "2\r\nhi\r\n0\r\n\n",
        "2\r\nhi\r\n0\r\n\rX",
        "2\r\nhi\r\n0\n\r\n",
        "2\r\nhi\r\n0;\n\r\n\r\n",
    ] {
        assert_refused(400, &chunked(body));
    }
}

#[test]
fn ambiguous_chunk_sizes() {
    for size in ["0x2", "+2", "-2", "2 ", " 2", "2_", "", "\t2", "2\0", "2.0", "00000000000000002", "FFFFFFFFFFFFFFFF2"]
    {
        assert_refused(400, &chunked(&format!("{size}\r\nhi\r\n0\r\n\r\n")));
    }
}

#[test]
fn chunk_data_longer_or_shorter_than_its_size() {
    for body in ["1\r\nhi\r\n0\r\n\r\n", "3\r\nhi\r\n0\r\n\r\n", "2\r\nhi!\r\n0\r\n\r\n"] {
        assert_refused(400, &chunked(body));
    }
}

#[test]
fn bare_line_feeds_in_a_head() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_refused(400, head);
    }
}

/// Node's CVE-2022-35256 and CVE-2023-30589: a lone CR that ends a line.
#[test]
fn bare_carriage_returns_in_a_head() {
    for head in [
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\rGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\rZ: q\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r X: y\r\n\r\n",
    ] {
        assert_refused(400, head);
    }
}

/// A final response while the replica waits for 100: what the client sends then is not read as a request.
#[test]
fn expect_desync() {
    let body = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(head.as_bytes(), Cut::Whole);
    rig.replica_answers([Answer { early: true, ..ok() }, ok()], Cut::Whole);
    rig.run();
    rig.client_sends(body.as_bytes(), Cut::Whole);
    rig.run();
    let received = String::from_utf8_lossy(&rig.received()).into_owned();
    assert!(received.starts_with("POST / ") && received.ends_with("\r\n\r\n"), "only the head is sent: {received:?}");
    assert!(!received.contains("smuggled"), "the body is not sent: {received:?}");
    assert_eq!(rig.upstreams[0].fate, Fate::Closed);
    assert_eq!(rig.closed, Some(Ending::Clean));
    assert!(String::from_utf8_lossy(&rig.to_client).contains("Connection: close"));
}

#[test]
fn obfuscated_expectations() {
    for value in ["y 100-continue", "100-continue, x", "100-continue\r\nExpect: x", "\t100-continue;", "x"] {
        assert_refused(417, &post(&format!("Expect: {value}\r\nContent-Length: 2"), "hi"));
    }
}

/// Bytes that a replica sends behind a response reach no client.
#[test]
fn response_queue_poisoning() {
    let poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut rig = Rig::new(Limits::DEFAULT);
        rig.client_sends(request.as_bytes(), Cut::Whole);
        let head_only = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: now\r\n\r\n";
        rig.replica_answers([Answer { bytes: [&head_only[..], poison].concat(), ..Answer::default() }], Cut::Whole);
        rig.run();
        assert_eq!(rig.upstreams[0].fate, Fate::Closed);
        rig.client_sends(GET, Cut::Whole);
        rig.replica_answers([ok()], Cut::Whole);
        rig.run();
        assert_eq!(rig.to_client, [&head_only[..], OK].concat());
        assert_eq!(rig.upstreams.len(), 2);
    }
}

/// A response arrives on a pooled connection before the request is sent.
#[test]
fn a_response_before_its_request_is_discarded() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    assert_eq!(rig.upstreams[0].fate, Fate::Released);
    rig.replica_says(0, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
    rig.replica_ends(0, End::Fin);
    rig.break_sends(1);
    rig.client_sends(GET, Cut::Whole);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    assert_eq!(rig.to_client, [OK, OK].concat());
    assert_eq!(rig.upstreams[0].fate, Fate::Closed);
    assert_eq!(rig.upstreams.len(), 2);
}

#[test]
fn header_nomination() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let named = "Host, Cookie, Authorization, Content-Length, X-Forwarded-For, X-Forwarded-Proto, Via, Upgrade";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nCookie: c\r\nAuthorization: b\r\nX-Forwarded-For: 1.1.1.1\r\nConnection: {named}\r\n\
         Content-Length: 2\r\n\r\nhi"
    );
    rig.client_sends(request.as_bytes(), Cut::Whole);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    let (requests, _) = strict::requests(&rig.received());
    let one = &requests[0];
    for (name, value) in [
        ("host", "a"),
        ("cookie", "c"),
        ("authorization", "b"),
        ("content-length", "2"),
        ("x-forwarded-for", "1.1.1.1, 10.0.0.1"),
    ] {
        assert_eq!(one.values(name).collect::<Vec<_>>(), [value.as_bytes()], "{name}");
    }
}

#[test]
fn h2c_upgrade_smuggling() {
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA";
    assert_read_as(
        &["/", "/b"],
        &format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"),
    );
}

/// CVE-2026-2833, and WebSocket smuggling: without a 101, bytes after an upgrade are read as requests.
#[test]
fn an_upgrade_that_the_replica_declines_opens_no_tunnel() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777";
    assert_read_as(
        &["/", "/b"],
        &format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"),
    );
}

/// CVE-2025-64763.
#[test]
fn early_data_after_connect() {
    assert_refused(501, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\x16\x03\x01GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

/// CVE-2023-25725.
#[test]
fn empty_field_names() {
    assert_refused(400, "GET / HTTP/1.1\r\nHost: a\r\n: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_refused(400, "GET / HTTP/1.1\r\n:\r\nHost: a\r\n\r\n");
}

/// CVE-2023-40225 and CVE-2023-45539.
#[test]
fn empty_lengths_and_fragments_in_targets() {
    assert_refused(400, &post("Content-Length:", ""));
    assert_refused(400, &post("Content-Length: \r\nContent-Length: 0", ""));
    assert_refused(400, "GET /a#.png HTTP/1.1\r\nHost: a\r\n\r\n");
}

/// CVE-2021-40346: a field name whose length overflows into another one's.
#[test]
fn field_names_of_270_bytes_are_forwarded() {
    let name = format!("Content-Length0{}", "a".repeat(255));
    assert_read_as(&["/"], &format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: x\r\n\r\n"));
}

/// HAProxy 2.6 forwards 2^64 as a length and reads the body as a request.
#[test]
fn lengths_over_64_bits() {
    for length in ["18446744073709551616", "18446744073709551621", "340282366920938463463374607431768211456"] {
        assert_refused(400, &post(&format!("Content-Length: {length}"), "hello"));
    }
}

/// CVE-2025-4366.
#[test]
fn the_body_of_a_request_that_is_answered_locally_is_not_the_next_request() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head =
        format!("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: {}\r\n\r\n", smuggled.len());
    rig.client_sends(format!("{head}{smuggled}").as_bytes(), Cut::Whole);
    rig.run();
    assert_eq!((rig.upstreams.len(), rig.closed), (0, Some(Ending::Clean)));
    assert_eq!(String::from_utf8_lossy(&rig.to_client).matches("HTTP/1.1 ").count(), 1);
}

/// CVE-2026-2835.
#[test]
fn codings_in_http_1_0() {
    for fields in
        ["Transfer-Encoding: chunked", "Transfer-Encoding: x\r\nContent-Length: 5", "Transfer-Encoding: identity"]
    {
        assert_refused(
            400,
            &format!("POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n{fields}\r\n\r\n0\r\n\r\n"),
        );
    }
}

/// Absolute-form that contradicts Host, and several hosts: one is forwarded, or the request is refused.
#[test]
fn several_hosts_of_one_request() {
    assert_refused(400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_refused(400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n");
    assert_refused(400, "GET / HTTP/1.1\r\nHost: a\r\n Host: b\r\n\r\n");
    assert_refused(400, "GET http://b@c/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", Cut::Whole);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    let (requests, _) = strict::requests(&rig.received());
    assert_eq!(requests[0].values("host").collect::<Vec<_>>(), [b"b"]);
    assert_eq!(requests[0].target, "/x");
}

/// A pause between head and body makes some replicas answer and read the body as a request.
#[test]
fn pause_based_desync() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 41\r\n\r\n", Cut::Whole);
    rig.run();
    rig.time_out();
    assert_eq!(rig.upstreams[0].fate, Fate::Closed, "the upstream connection is not reused");
    rig.client_sends(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", Cut::Whole);
    rig.run();
    assert_eq!(rig.closed, Some(Ending::Clean));
    assert!(rig.to_client.starts_with(b"HTTP/1.1 408 "));
    assert!(!String::from_utf8_lossy(&rig.received()).contains("smuggled"));
}

/// Otherwise clients could have replicas marked down.
#[test]
fn a_malformed_chunk_of_a_client_is_not_reported_as_a_replica_fault() {
    let mut rig = Rig::new(Limits::DEFAULT);
    rig.client_sends(chunked("2\r\nhi\r\nZZ\r\n").as_bytes(), Cut::Bytes);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    assert!(
        rig.notices.iter().all(|notice| matches!(notice, Notice::Refused { status: 400, .. })),
        "{:?}",
        rig.notices
    );
}

/// Trailers that framing, routing or identity depends on are dropped.
#[test]
fn trailers_that_some_servers_merge_into_the_head() {
    let mut rig = Rig::new(Limits::DEFAULT);
    let trailers =
        "Host: b\r\nContent-Length: 7\r\nTransfer-Encoding: x\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: c\r\nX-Ok: y";
    rig.client_sends(chunked(&format!("0\r\n{trailers}\r\n\r\n")).as_bytes(), Cut::Whole);
    rig.replica_answers([ok()], Cut::Whole);
    rig.run();
    let (requests, _) = strict::requests(&rig.received());
    let strict::Framed::Chunked { trailers, .. } = &requests[0].body else { panic!("{requests:?}") };
    assert_eq!(trailers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["X-Ok"]);
}

/// Request splitting: no client adds a line to what a replica or another client receives.
#[test]
fn line_ends_in_targets_hosts_and_values() {
    for head in [
        "GET /a\r\nX: y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\rX HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b\r\nX: y/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: q\r\n\r\n",
    ] {
        assert_refused(400, head);
    }
}
