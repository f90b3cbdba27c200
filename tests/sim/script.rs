//! What clients ask and what replicas are to answer, drawn before anything happens.

use super::faults::Faults;
use super::ledger::Request;
use super::net::Actor;
use super::random::Random;
use super::wire::{Framing, SMUGGLED};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    None,
    Length(u64),
    Chunked(u64),
}

impl Upload {
    pub fn len(self) -> u64 {
        match self {
            Upload::None => 0,
            Upload::Length(len) | Upload::Chunked(len) => len,
        }
    }
}

/// Whether a request is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    No,
    /// Its head must be refused: no replica sees it.
    Head,
    /// Its body's framing breaks: no replica may take it for whole.
    Body,
}

/// The answer that a request is to get.
#[derive(Clone, Debug)]
pub struct Plan {
    pub status: u16,
    pub framing: Framing,
    pub len: u64,
    pub minor: u8,
    pub close: bool,
    pub interims: u8,
    pub delay_us: u64,
    /// Before the request's body was read; then the connection is closed, or the body is read after all.
    pub early: bool,
    pub piece: usize,
    pub gap_us: u64,
    pub flaw: Flaw,
    /// How often the flaw shows before the answer comes as it should.
    pub flawed_tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The connection ends before the head, in the head, or in the body: by reset or by FIN.
    Cut {
        place: Place,
        reset: bool,
    },
    /// Nothing more comes, and the connection stays.
    Stall {
        place: Place,
    },
    /// No answer at all: bytes that are no response.
    Garbage(u8),
    /// Another answer behind the answer.
    Extra,
    /// Both framings at once.
    Odd,
    /// 101 to one who did not ask.
    Unasked101,
    /// Interim responses without an end.
    Flood,
    /// A chunk size that is none, in the middle of the body.
    BadChunk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Start,
    Head,
    Body,
}

pub struct Maker<'a> {
    pub random: &'a mut Random,
    pub faults: &'a Faults,
    pub client: Actor,
    pub service: usize,
}

impl Maker<'_> {
    /// A request that a replica may answer.
    pub fn request(&mut self, id: u64, last: bool) -> Request {
        let c = &mut *self.random;
        let method = c.pick(&["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE"]);
        let minor = u8::from(!c.one_in(8));
        let upgrade = method == "GET" && minor == 1 && last && c.one_in(6);
        let upload = match method {
            "POST" | "PUT" if minor == 1 && c.one_in(2) => Upload::Chunked(body_len(c)),
            "POST" | "PUT" => Upload::Length(body_len(c)),
            _ => Upload::None,
        };
        let expect = minor == 1 && upload.len() > 0 && c.one_in(6);
        let plan = self.plan(method);
        let mut request = Request {
            id,
            client: self.client,
            service: self.service,
            method,
            minor,
            text: Vec::new(),
            target: format!("/r/{id}?k={}", self.random.below(20)),
            host: "sim.example".into(),
            upload,
            expect,
            upgrade,
            bad: Bad::No,
            plan,
            sent_at: None,
            sent_whole: false,
            sent_whole_at: 0,
            heard_whole_at: None,
            heads: 0,
        };
        self.write_head(&mut request, id, last);
        request
    }

    fn write_head(&mut self, request: &mut Request, id: u64, last: bool) {
        let c = &mut *self.random;
        let absolute = c.one_in(8);
        let mut text = format!("{} ", request.method);
        if absolute {
            request.host = "abs.example:81".into();
            text += "http://abs.example:81";
        }
        text += &format!("{} HTTP/1.{}\r\n", request.target, request.minor);
        let mut lines = vec![format!("X-Id: {id}")];
        if request.minor == 1 || c.one_in(2) {
            lines.push("Host: sim.example".into());
        } else if !absolute {
            request.host = "http".into();
        }
        match request.upload {
            Upload::None => {}
            Upload::Length(len) => lines.push(format!("Content-Length: {len}")),
            Upload::Chunked(_) => lines.push("Transfer-Encoding: chunked".into()),
        }
        if request.expect {
            lines.push("Expect: 100-continue".into());
        }
        if request.upgrade {
            lines.push("Connection: upgrade".into());
            lines.push("Upgrade: echo".into());
        } else if last && c.one_in(3) {
            lines.push("Connection: close".into());
        } else if request.minor == 0 {
            lines.push("Connection: Keep-Alive".into());
        } else if c.one_in(4) {
            lines.push("Connection: keep-alive, X-Hop".into());
            lines.push("X-Hop: dropped".into());
            lines.push("Keep-Alive: timeout=5".into());
        }
        if c.one_in(5) {
            lines.push("X-Forwarded-For: 1.2.3.4".into());
        }
        if c.one_in(5) {
            lines.push("TE: trailers".into());
        }
        if c.one_in(6) {
            lines.push(format!("X-Fill: {}", "f".repeat(c.size(3000) as usize)));
        }
        for i in (1..lines.len()).rev() {
            lines.swap(i, c.below(i as u64 + 1) as usize);
        }
        if c.one_in(12) {
            text.insert_str(0, "\r\n");
        }
        for line in lines {
            text += &line;
            text += "\r\n";
        }
        text += "\r\n";
        request.text = text.into_bytes();
    }

    fn plan(&mut self, method: &str) -> Plan {
        let c = &mut *self.random;
        let status = c.pick(&[200, 200, 200, 200, 201, 404, 500, 204, 304]);
        let len = body_len(c);
        let upstream_minor = u8::from(!c.one_in(10));
        let bodyless = method == "HEAD" || status == 204 || status == 304;
        let framing = match c.below(8) {
            _ if bodyless => Framing::None,
            0 => Framing::UntilClose,
            1..=3 if upstream_minor == 1 => Framing::Chunked,
            _ => Framing::Length(len),
        };
        let flaw = if c.per_mille(self.faults.replica) { flaw(c) } else { Flaw::None };
        Plan {
            status,
            framing,
            len: if bodyless { 0 } else { len },
            minor: upstream_minor,
            close: framing == Framing::UntilClose || c.one_in(8),
            interims: if c.one_in(6) { c.range(1, 3) as u8 } else { 0 },
            delay_us: if c.one_in(10) { c.range(0, 600_000) } else { c.size(20_000) },
            early: !self.faults.calm && c.one_in(6),
            piece: 1 + c.size(100_000) as usize,
            gap_us: c.size(3_000),
            flaw,
            flawed_tries: if c.one_in(3) { u32::MAX } else { 1 },
        }
    }

    /// A request that must be refused, or whose body breaks, with a smuggled one behind it.
    pub fn bad(&mut self, id: u64) -> Request {
        let mut request = self.request(id, false);
        let c = &mut *self.random;
        request.expect = false;
        request.upload = Upload::None;
        request.upgrade = false;
        request.minor = 1;
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Id: {SMUGGLED}\r\n\r\n");
        if c.one_in(3) {
            let body = c.pick(BAD_BODIES);
            request.bad = Bad::Body;
            request.method = "POST";
            // The plan was drawn for another method: for HEAD it has no body and no length, which for POST would be a
            // body that only a close ends.
            let bodyless = matches!(request.plan.status, 204 | 304);
            if request.plan.framing == Framing::None && !bodyless {
                request.plan.framing = Framing::Length(0);
            }
            request.host = "sim.example".into();
            let target = &request.target;
            request.text = format!(
                "POST {target} HTTP/1.1\r\nHost: sim.example\r\nX-Id: {id}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            )
            .into_bytes();
        } else {
            request.bad = Bad::Head;
            let text = c.pick(BAD_HEADS).replace("ID", &id.to_string()).replace("LONG", &"l".repeat(20_000));
            request.text = text.replace("MANY", &"m: m\r\n".repeat(200)).into_bytes();
        }
        request.text.extend_from_slice(smuggled.as_bytes());
        request
    }
}

/// Small ones mostly; some large enough to be spliced.
fn body_len(c: &mut Random) -> u64 {
    match c.below(24) {
        0 => c.range(60_000, 300_000),
        1 | 2 => 0,
        3..=8 => c.size(40_000),
        _ => c.size(2_000),
    }
}

fn flaw(c: &mut Random) -> Flaw {
    let place = c.pick(&[Place::Start, Place::Head, Place::Body, Place::Body]);
    match c.below(12) {
        0..=4 => Flaw::Cut { place, reset: c.one_in(2) },
        5 => Flaw::Stall { place },
        6 => Flaw::Garbage(c.below(6) as u8),
        7 => Flaw::Extra,
        8 => Flaw::Odd,
        9 => Flaw::Unasked101,
        10 => Flaw::Flood,
        _ => Flaw::BadChunk,
    }
}

const BAD_HEADS: &[&str] = &[
    "GET /r HTTP/1.1\r\nX-Id: ID\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Id: ID\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a b\r\nX-Id: ID\r\n\r\n",
    "GET  /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "GET /r#x HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "GET r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id : ID\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\n folded\r\n\r\n",
    "GET /r HTTP/1.1\nHost: a\nX-Id: ID\n\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\nX: y\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nX: \0\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nX: a\rb\r\n\r\n",
    "GET /r HTTP/2.0\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "GET /r HTTP/1.2\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "GET /r http/1.1\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "GET /r\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nX-Id: ID\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nExpect: tea\r\n\r\n",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nContent-Length: +5\r\n\r\n12345",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nContent-Length: 5, 5\r\n\r\n12345",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nContent-Length: 18446744073709551616\r\n\r\n12345",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "POST /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /r HTTP/1.0\r\nHost: a\r\nX-Id: ID\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /LONG HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nX: LONG\r\n\r\n",
    "GET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\nMANY\r\n\r\n",
    "\r\n\r\n\r\n\r\n\r\n\r\nGET /r HTTP/1.1\r\nHost: a\r\nX-Id: ID\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03 not http at all \r\n\r\n",
];

const BAD_BODIES: &[&str] = &[
    "zz\r\n",
    "5\r\nabcdefg\r\n0\r\n\r\n",
    "5\nabcde\r\n0\r\n\r\n",
    "5\r\nabcde\n0\r\n\r\n",
    "-1\r\n",
    "\r\n0\r\n\r\n",
    " 5\r\nabcde\r\n0\r\n\r\n",
    "5 \r\nabcde\r\n0\r\n\r\n",
    "0x5\r\nabcde\r\n0\r\n\r\n",
    "5;a\nb\r\nabcde\r\n0\r\n\r\n",
    "11111111111111115\r\nabcde\r\n0\r\n\r\n",
    "5\r\nabcde\r\n0\r\nbad trailer\r\n\r\n",
    "5\r\nabcde\r\n0\r\nX: y\nZ: z\r\n\r\n",
    "5\r\nabcde0\r\n\r\n",
];
