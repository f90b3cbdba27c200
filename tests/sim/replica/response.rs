//! The bytes of a response, from its plan and fault. Nothing is sent or checked here.

use super::super::history::Response;
use super::super::http::Framing;
use super::super::net::Net;
use super::super::pattern;
use super::super::plan::{CutPoint, ResponseFault, ResponsePlan};
use super::super::request::Request;

/// A response that never ends: more bytes of interim responses at once than Ringway accepts.
const INTERIM_FLOOD: usize = 2_000;

/// Bytes that belong to no response.
pub const EXCESS: &[u8] = b"AND ONE MORE THING\r\n";

/// What follows once the bytes were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterResponse {
    NextRequest,
    Close,
    Reset,
    /// The connection stays open and the replica is silent.
    Stall,
}

pub struct Composed {
    pub bytes: Vec<u8>,
    pub after: AfterResponse,
    /// Bytes that belong to no response follow the last one.
    pub excess: bool,
}

/// A final response with its interim responses. It is recorded in the history. `secure`: it goes out by TLS.
pub fn compose(request: &Request, socket: u64, secure: bool, net: &mut Net) -> Composed {
    let (id, plan, fault) = (request.id, &request.plan, request.fault());
    let invalid = matches!(fault, ResponseFault::InvalidHead(_) | ResponseFault::UnaskedUpgrade);
    let response = Response { request: id, status: plan.status, framing: plan.framing, len: plan.len, invalid };
    let number = net.history.add_response(response);
    net.note("r.answers", socket, id, number);
    let mut bytes = interim(id).repeat(usize::from(plan.interims)).into_bytes();
    let start = bytes.len();
    bytes.extend_from_slice(head(request, number, fault, net).as_bytes());
    let body_start = bytes.len();
    bytes.extend_from_slice(&body(plan, number, fault, net));
    let after = if plan.close { AfterResponse::Close } else { AfterResponse::NextRequest };
    let mut composed = Composed { bytes, after, excess: false };
    composed.apply_fault(fault, start, body_start, (plan.framing, secure), net);
    composed
}

/// A 101. It is recorded in the history.
pub fn compose_upgrade(request: &Request, socket: u64, net: &mut Net) -> Vec<u8> {
    let id = request.id;
    let response = Response { request: id, status: 101, framing: Framing::None, len: 0, invalid: false };
    let number = net.history.add_response(response);
    net.note("r.switches", socket, id, number);
    switching_protocols(&tag(id, number)).into_bytes()
}

impl Composed {
    /// Cuts the response, or adds what does not belong to it.
    fn apply_fault(
        &mut self,
        fault: ResponseFault,
        start: usize,
        body_start: usize,
        (framing, secure): (Framing, bool),
        net: &mut Net,
    ) {
        let body_len = self.bytes.len() - body_start;
        let c = net.random.replicas();
        let mut offset = |at: CutPoint| match at {
            CutPoint::BeforeHead => start,
            CutPoint::Body if body_len > 0 => body_start + c.below(body_len as u64) as usize,
            _ => start + c.below((body_start - start) as u64) as usize,
        };
        match fault {
            ResponseFault::Cut { at, reset } => {
                self.bytes.truncate(offset(at));
                // A FIN would be the regular end of a body that only a close ends. By TLS it is not without close_notify.
                let reset = reset || (at == CutPoint::Body && framing == Framing::UntilClose && !secure);
                self.after = if reset { AfterResponse::Reset } else { AfterResponse::Close };
            }
            ResponseFault::Stall { at } => {
                self.bytes.truncate(offset(at));
                self.after = AfterResponse::Stall;
            }
            ResponseFault::ExcessBytes if framing != Framing::UntilClose => {
                self.excess = true;
                self.bytes.extend_from_slice(EXCESS);
            }
            ResponseFault::BothFramings | ResponseFault::InvalidChunk if framing != Framing::Chunked => {}
            ResponseFault::BothFramings
            | ResponseFault::InvalidChunk
            | ResponseFault::UnaskedUpgrade
            | ResponseFault::InterimFlood => self.after = AfterResponse::Stall,
            ResponseFault::InvalidHead(_) => self.after = AfterResponse::Close,
            ResponseFault::ExcessBytes | ResponseFault::None => {}
        }
    }
}

fn interim(id: u64) -> String {
    format!("HTTP/1.1 103 Early Hints\r\nX-Id: {id}\r\nLink: </a>\r\n\r\n")
}

/// The fields by which a client finds request and response in the history.
fn tag(id: u64, number: u64) -> String {
    format!("X-Id: {id}\r\nX-Serve: {number}\r\n")
}

fn switching_protocols(tag: &str) -> String {
    format!("HTTP/1.1 101 Switching Protocols\r\n{tag}Connection: upgrade\r\nUpgrade: echo\r\n\r\n")
}

fn head(request: &Request, number: u64, fault: ResponseFault, net: &mut Net) -> String {
    let (id, plan) = (request.id, &request.plan);
    let tag = tag(id, number);
    match fault {
        ResponseFault::InvalidHead(which) => return invalid_head(which, &tag),
        ResponseFault::UnaskedUpgrade => return switching_protocols(&tag),
        ResponseFault::InterimFlood => {
            return format!("HTTP/1.1 103 Early Hints\r\nX-Id: {id}\r\n\r\n").repeat(INTERIM_FLOOD);
        }
        _ => {}
    }
    let mut text = format!("HTTP/1.{} {} Fine\r\n{tag}", plan.minor, plan.status);
    match plan.framing {
        Framing::Length(len) => text += &format!("Content-Length: {len}\r\n"),
        Framing::Chunked => text += "Transfer-Encoding: chunked\r\n",
        // The length of the body that a GET would have had (RFC 9110 section 8.6).
        Framing::None if plan.status != 204 && net.random.replicas().one_in(2) => text += "Content-Length: 77\r\n",
        Framing::None | Framing::UntilClose => {}
    }
    if fault == ResponseFault::BothFramings && plan.framing == Framing::Chunked {
        text += "Content-Length: 3\r\n";
    }
    if plan.close {
        text += "Connection: close\r\n";
    } else if plan.minor == 0 {
        text += "Connection: keep-alive\r\n";
    } else if net.random.replicas().one_in(4) {
        text += "Keep-Alive: timeout=5\r\nConnection: keep-alive\r\n";
    }
    if net.random.replicas().one_in(2) {
        text += "Date: Sun, 22 Nov 2026 12:00:00 GMT\r\n";
    }
    text += "\r\n";
    if net.random.replicas().one_in(8) { repairable(&text, net) } else { text }
}

/// The same head in a form that is made canonical on the way.
fn repairable(head: &str, net: &mut Net) -> String {
    match net.random.replicas().below(4) {
        0 => head.replace("\r\n", "\n"),
        1 => head.replace(": ", " \t: "),
        2 => head.replace(": ", ":\r\n "),
        _ => head.replacen("HTTP/1.1 ", "HTTP/1.7  ", 1),
    }
}

fn invalid_head(which: u8, tag: &str) -> String {
    match which {
        0 => "GET / HTTP/1.1\r\nHost: me\r\n\r\n".to_string(),
        1 => format!("HTTP/1.1 99 Low\r\n{tag}\r\n"),
        2 => format!("HTTP/1.1 200 OK\r\n{tag}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        3 => format!("HTTP/1.1 200 OK\r\n{tag}X: y\rZ: a\r\n\r\n"),
        4 => format!("HTTP/1.1 200 OK\r\n{tag}Bad Name: x\r\n\r\n"),
        _ => format!("HTTP/1.1 200 OK\r\n{tag}Transfer-Encoding: gzip, chunked\r\n\r\n"),
    }
}

fn body(plan: &ResponsePlan, number: u64, fault: ResponseFault, net: &mut Net) -> Vec<u8> {
    if matches!(fault, ResponseFault::InvalidHead(_) | ResponseFault::UnaskedUpgrade | ResponseFault::InterimFlood) {
        return Vec::new();
    }
    let data = pattern::bytes(number, 0, plan.len as usize);
    if plan.framing != Framing::Chunked {
        return data;
    }
    let chunk_max = 1 + net.random.replicas().size(100_000) as usize;
    let mut text = Vec::with_capacity(data.len() + 64);
    for chunk in data.chunks(chunk_max.max(data.len() / 200)) {
        let extension = if net.random.replicas().one_in(8) { ";x" } else { "" };
        text.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    let end = if net.random.replicas().one_in(4) { "0\r\nX-Sum: 1\r\nHost: no\r\n\r\n" } else { "0\r\n\r\n" };
    text.extend_from_slice(if fault == ResponseFault::InvalidChunk { b"zz\r\n" } else { end.as_bytes() });
    text
}
