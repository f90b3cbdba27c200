//! Bodies of the fuzz targets: each takes bytes as they come and asserts what must hold whatever they are. They are
//! called by `tests/fuzz` under coverage guidance and, with the corpus that was kept, by a plain test.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | targets of one part: heads of requests and responses (found, parsed, rewritten, parsed again), chunked bodies dechunked in pieces; the widest limits |
//! | `hello` | a ClientHello, cut anywhere; the name in it as rustls reads it |
//! | `life` | a whole session from accept to close: the fuzzer's bytes are what arrives, from which leg, and how each step ends; asserts after each step: invariants, nothing held back or cut off, the end in a bounded number of steps |
//! | `tls` | two ends of a TLS connection: what is said, cut and changed on the way; what is opened is what was sealed |
//! | `sent` | what that session sent upstream, parsed again: exactly one request, and the same one when it is sent again |

mod hello;
mod life;
mod sent;
mod tls;

pub use hello::client_hello;
pub use life::session;
pub use tls::tls_session;

use super::body::Body;
use super::head::{self, HeadScan, Refusal};
use super::limits::Limits;
use super::request::{self, RequestSource, Scheme};
use super::response::{self, AddedFields, RequestSummary};
use super::rewrite::{Edits, canonicalize_response};

const DATE_LINE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
/// Room in front of a head, as a lane has it.
const ROOM: usize = 2048;

/// A request head: found whole or in pieces alike; what goes on is a head again, and changes no more when it is read
/// a second time in the same way.
pub fn request_head(bytes: &[u8]) {
    let limits = Limits::DEFAULT;
    let Some(len) = found(bytes, HeadScan::find, &limits) else { return };
    let Some(first) = forwarded(&bytes[..len], &limits) else { return };
    assert_eq!(found(&first, HeadScan::find, &widest()), Some(first.len()), "what goes on is one head");
    let second = forwarded(&first, &widest());
    assert!(second.is_some(), "what goes on would be taken: {:?}", String::from_utf8_lossy(&first));
}

/// A response head: made canonical once, it stays as it is, and what is forwarded is a head again.
pub fn response_head(bytes: &[u8]) {
    let Some(len) = found(bytes, HeadScan::find_response, &Limits::DEFAULT) else { return };
    let Some(bytes) = canonical(&bytes[..len]) else { return };
    assert_eq!(canonical(&bytes).as_ref(), Some(&bytes), "canonical is canonical");
    assert_eq!(found(&bytes, HeadScan::find, &widest()), Some(bytes.len()), "and one head");
    for (is_head, upgrade, minor) in [(false, false, 1), (true, false, 1), (false, true, 1), (false, false, 0)] {
        let asked = RequestSummary { is_head, upgrade, minor, keep_alive: true, hsts_seconds: Some(31_536_000) };
        let Some(text) = answered(&bytes, asked) else { continue };
        assert_eq!(found(&text, HeadScan::find, &widest()), Some(text.len()), "what goes on is one head");
        let mut room = head::field_storage();
        assert!(head::parse_response(&text, &mut room, &widest()).is_ok(), "and would be taken");
    }
}

/// A chunked body: whole and byte by byte it lets the same bytes pass, or fails both times.
pub fn chunked(bytes: &[u8]) {
    let whole = dechunked(bytes, bytes.len().max(1));
    let single = dechunked(bytes, 1);
    assert_eq!(whole.is_err(), single.is_err(), "a fault however it is cut");
    if let (Ok(whole), Ok(single)) = (&whole, &single) {
        assert_eq!(whole, single, "the same bytes however it is cut");
        let (text, done) = whole;
        if *done {
            assert_eq!(
                dechunked(text, 7).ok().as_ref(),
                Some(whole),
                "what went on is a body again, and stays as it is"
            );
        }
    }
}

/// As much as we can hold.
fn widest() -> Limits {
    let (line_limit, head_limit) = (head::HEAD_MAX, head::HEAD_MAX);
    Limits { line_limit, head_limit, field_limit: head::FIELDS_MAX, ..Limits::DEFAULT }
}

type Find = fn(&mut HeadScan, &[u8], &Limits) -> Result<Option<usize>, Refusal>;

fn found(bytes: &[u8], find: Find, limits: &Limits) -> Option<usize> {
    let whole = find(&mut HeadScan::default(), bytes, limits);
    let mut scan = HeadScan::default();
    let single = (1..=bytes.len()).map(|n| find(&mut scan, &bytes[..n], limits)).find(|found| *found != Ok(None));
    assert_eq!(whole, single.unwrap_or(Ok(None)), "the same head however it is cut");
    whole.ok().flatten()
}

const SOURCE: RequestSource = RequestSource {
    client_ip: b"192.0.2.1",
    service: "service",
    request_id: None,
    scheme: Scheme::Http,
    client_cert: None,
};

fn forwarded(head: &[u8], limits: &Limits) -> Option<Vec<u8>> {
    let mut room = head::field_storage();
    let request = head::parse_request(head, &mut room, limits).ok()?;
    let mut edits = Edits::default();
    request::analyze(head, &request, limits, SOURCE, &mut edits).ok()?;
    Some(applied(head, &edits))
}

fn answered(head: &[u8], asked: RequestSummary) -> Option<Vec<u8>> {
    let mut room = head::field_storage();
    let response = head::parse_response(head, &mut room, &Limits::DEFAULT).ok()?;
    let mut edits = Edits::default();
    let added = AddedFields { date_line: DATE_LINE, cookie_line: "Set-Cookie: sid=value; Path=/\r\n" };
    response::analyze(head, &response, asked, added, &mut edits).ok()?;
    Some(applied(head, &edits))
}

/// `None` if a lane would have no room for it.
fn canonical(head: &[u8]) -> Option<Vec<u8>> {
    let mut edits = Edits::default();
    canonicalize_response(head, &mut edits);
    (edits.inserted() <= ROOM).then(|| applied(head, &edits))
}

fn applied(head: &[u8], edits: &Edits) -> Vec<u8> {
    let mut store = vec![0; ROOM];
    store.extend_from_slice(head);
    let end = store.len();
    let start = edits.apply(&mut store, ROOM, end);
    store[start..end].to_vec()
}

/// What a chunked body lets pass when it comes in pieces of `size`, and whether it came to its end.
fn dechunked(bytes: &[u8], size: usize) -> Result<(Vec<u8>, bool), &'static str> {
    let mut body = Body::chunked();
    let (mut passed, mut at, mut here) = (Vec::new(), 0, 0);
    while !body.is_done() {
        let credit = body.credit().min((here - at) as u64) as usize;
        if credit > 0 {
            passed.extend_from_slice(&bytes[at..at + credit]);
            body.pass(credit as u64);
            at += credit;
            continue;
        }
        let scan = body.scan(&bytes[at..here]).map_err(|fault| fault.0)?;
        if scan.keep {
            passed.extend_from_slice(&bytes[at..at + scan.read]);
        }
        at += scan.read;
        if scan.read == 0 {
            if here == bytes.len() {
                return Ok((passed, false));
            }
            here = (here + size).min(bytes.len());
        }
    }
    Ok((passed, true))
}
