//! Bodies of the fuzz targets: each takes bytes as they come and asserts what must hold whatever they are. They are
//! called by `tests/fuzz` under coverage guidance and, with the corpus that was kept, by a plain test.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use super::body::Body;
use super::buffer::Pool;
use super::head::{self, HeadScan};
use super::limits::Limits;
use super::request::{self, Origin};
use super::response::{self, Asked};
use super::rewrite::Edits;
use super::ring::{Kind, Member, Ring};
use super::session::{Arrival, Session};
use super::snapshot::{KeyPolicy, Mode, ReplicaId, Routes, Service};
use super::step::{Leg, Outcome, Ready, Step};
use super::tick::Tick;
use super::turn::{Choices, Turn};

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
/// Room in front of a head, as a lane has it.
const ROOM: usize = 2048;
/// Steps in a row that one arrival can lead to, generously.
const STEPS: usize = 100_000;

/// A request head: found whole or in pieces alike; what goes on is a head again, and changes no more when it is read
/// a second time in the same way.
pub fn request_head(bytes: &[u8]) {
    let limits = Limits::DEFAULT;
    let Some(len) = found(bytes, &limits) else { return };
    let Some(first) = forwarded(&bytes[..len], &limits) else { return };
    assert_eq!(found(&first, &widest()), Some(first.len()), "what goes on is one head");
    let second = forwarded(&first, &widest());
    assert!(second.is_some(), "what goes on would be taken: {:?}", String::from_utf8_lossy(&first));
}

/// A response head.
pub fn response_head(bytes: &[u8]) {
    let Some(len) = found(bytes, &Limits::DEFAULT) else { return };
    for (is_head, upgrade, minor) in [(false, false, 1), (true, false, 1), (false, true, 1), (false, false, 0)] {
        let asked = Asked { is_head, upgrade, minor, keep_alive: true };
        let Some(text) = answered(&bytes[..len], asked) else { continue };
        assert_eq!(found(&text, &widest()), Some(text.len()), "what goes on is one head");
        let mut room = head::room();
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

/// A whole session: the bytes are both what arrives and how every step goes.
pub fn session(bytes: &[u8]) {
    let service = Service {
        name: "service".into(),
        mode: Mode::Http,
        key: KeyPolicy::Uri,
        limits: Arc::new(Limits::DEFAULT),
        replicas: Vec::new(),
        send_proxy: None,
        ring: Arc::new(Ring::build(Kind::Ketama, &[Member::new("a", 1)])),
    };
    let services = [Arc::new(service)];
    let routes = Routes::default();
    let (mut pool, mut edits, mut choices) = (Pool::new(2), Edits::default(), Choices::new(1));
    let mut input = Input { bytes, at: 0, legs: [Source::default(), Source::default()], dials: 0 };
    let mut now = Tick(1);
    macro_rules! turn {
        () => {
            Turn {
                now,
                services: &services,
                routes: &routes,
                stopping: false,
                pool: &mut pool,
                edits: &mut edits,
                choices: &mut choices,
                date: DATE,
            }
        };
    }
    let local = SocketAddr::from(([127, 0, 0, 1], 80));
    let arrival = Arrival { peer: local, local, proxied: input.byte() == Some(7), tunnel_to: None };
    let mut session = Session::new(arrival, &mut turn!());
    while let Some(event) = input.event() {
        match event {
            Event::Ready(leg, ready) => {
                session.on_room();
                session.on_ready(leg, ready, &turn!());
            }
            Event::Late => {
                now = session.deadline();
                session.on_deadline(&mut turn!());
            }
        }
        for step in 0.. {
            assert!(step < STEPS, "busy without end: {session:?}");
            let Some(step) = session.next_step() else { break };
            let outcome = match step {
                Step::Close { .. } => return,
                Step::Recv(leg) => input.recv(leg, session.lane_from(leg).space(&mut pool)),
                Step::Send(leg) => input.sent(session.lane_to(leg).pending().len()),
                Step::Fill(..) => Outcome::Unspliceable,
                Step::Dial(_) => input.dialled(),
                Step::Drain(..) | Step::Park | Step::Hangup | Step::Finish(_) => Outcome::Done,
            };
            session.complete(step, outcome, &mut turn!());
            session.check();
            while session.take_notice().is_some() {}
        }
    }
}

/// As much as we can hold.
fn widest() -> Limits {
    let (line_limit, head_limit) = (head::HEAD_MAX, head::HEAD_MAX);
    Limits { line_limit, head_limit, field_limit: head::FIELDS_MAX, ..Limits::DEFAULT }
}

fn found(bytes: &[u8], limits: &Limits) -> Option<usize> {
    let whole = HeadScan::default().find(bytes, limits);
    let mut scan = HeadScan::default();
    let single = (1..=bytes.len()).map(|n| scan.find(&bytes[..n], limits)).find(|found| *found != Ok(None));
    assert_eq!(whole, single.unwrap_or(Ok(None)), "the same head however it is cut");
    whole.ok().flatten()
}

fn forwarded(head: &[u8], limits: &Limits) -> Option<Vec<u8>> {
    let mut room = head::room();
    let request = head::parse_request(head, &mut room, limits).ok()?;
    let mut edits = Edits::default();
    let origin = Origin { client_ip: b"192.0.2.1", proto: b"http", service: "service" };
    request::plan(head, &request, limits, origin, &mut edits).ok()?;
    Some(applied(head, &edits))
}

fn answered(head: &[u8], asked: Asked) -> Option<Vec<u8>> {
    let mut room = head::room();
    let response = head::parse_response(head, &mut room, &Limits::DEFAULT).ok()?;
    let mut edits = Edits::default();
    response::plan(head, &response, asked, DATE, &mut edits).ok()?;
    Some(applied(head, &edits))
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

enum Event {
    Ready(Leg, Ready),
    Late,
}

/// The fuzzer's bytes, read as what happens.
struct Input<'b> {
    bytes: &'b [u8],
    at: usize,
    legs: [Source<'b>; 2],
    dials: u64,
}

#[derive(Clone, Copy, Default)]
struct Source<'b> {
    here: &'b [u8],
    end: Option<Outcome>,
}

impl<'b> Input<'b> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// An arrival: two bytes say whose and how long, then come the bytes themselves.
    fn event(&mut self) -> Option<Event> {
        let kind = self.byte()?;
        let leg = if kind & 1 == 0 { Leg::Client } else { Leg::Upstream };
        let source = &mut self.legs[usize::from(kind & 1)];
        let mut ready = Ready { readable: true, writable: true, ..Ready::default() };
        match kind >> 1 & 7 {
            0 => source.end = Some(Outcome::Ended),
            1 => source.end = Some(Outcome::Failed(ErrorKind::ConnectionReset)),
            2 => return Some(Event::Late),
            3 => ready.hangup = true,
            _ => {
                let len = usize::from(self.byte()?);
                let from = self.at;
                self.at = (from + len).min(self.bytes.len());
                self.legs[usize::from(kind & 1)].here = &self.bytes[from..self.at];
            }
        }
        ready.hangup |= self.legs[usize::from(kind & 1)].end.is_some();
        Some(Event::Ready(leg, ready))
    }

    fn recv(&mut self, leg: Leg, space: &mut [u8]) -> Outcome {
        let source = &mut self.legs[usize::from(leg == Leg::Upstream)];
        let n = space.len().min(source.here.len());
        if n == 0 {
            return source.end.unwrap_or(Outcome::Blocked);
        }
        space[..n].copy_from_slice(&source.here[..n]);
        source.here = &source.here[n..];
        Outcome::Moved(n as u64)
    }

    /// Mostly all of it; now and then a part, nothing, or an error.
    fn sent(&mut self, len: usize) -> Outcome {
        match self.bytes.get(self.at).map(|byte| byte % 16) {
            Some(0) => Outcome::Moved(len.min(1) as u64),
            Some(1) => Outcome::Blocked,
            Some(2) => Outcome::Failed(ErrorKind::BrokenPipe),
            _ => Outcome::Moved(len as u64),
        }
    }

    fn dialled(&mut self) -> Outcome {
        self.dials += 1;
        self.legs[1] = Source::default();
        let replica = ReplicaId(self.dials);
        match self.bytes.get(self.at).map(|byte| byte % 8) {
            Some(0) => Outcome::NoReplica,
            Some(1) => Outcome::Undialable { replica, why: ErrorKind::ConnectionRefused },
            Some(2) => Outcome::Dialed { replica, reused: true },
            Some(3) => Outcome::Short,
            _ => Outcome::Dialed { replica, reused: false },
        }
    }
}
