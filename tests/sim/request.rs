//! A request of a scripted client and how it is drawn: its bytes, what a replica must receive of it, and what has
//! become of it so far. How it is sent and checked does not enter here.

use super::configuration::HTTP_NAME;
use super::faults::Faults;
use super::http::Framing;
use super::net::Actor;
use super::pattern::SMUGGLED;
use super::plan::{ResponseFault, ResponsePlan, body_len};
use super::random::Random;

#[derive(Clone, Debug)]
pub struct Request {
    pub id: u64,
    pub client: Actor,
    pub scheme: &'static str,
    /// Index in the snapshot's services.
    pub service: usize,
    pub method: &'static str,
    pub minor: u8,
    /// The bytes that the client sends before the body.
    pub head: Vec<u8>,
    /// As the replica must receive it.
    pub target: String,
    /// As the replica must receive it.
    pub host: String,
    pub body: RequestBody,
    pub expect: bool,
    pub upgrade: bool,
    pub malformed: Malformed,
    pub plan: ResponsePlan,
    /// When its first byte was written.
    pub sent_at_us: Option<u64>,
    /// Its last byte was written.
    pub sent_whole: bool,
    /// When its last byte was written.
    pub sent_whole_at_us: u64,
    /// When a replica read its last byte.
    pub received_whole_at_us: Option<u64>,
    /// How often its head reached a replica.
    pub arrivals: u32,
}

impl Request {
    pub fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    /// The fault of the response to the current attempt.
    pub fn fault(&self) -> ResponseFault {
        if self.arrivals <= self.plan.faulty_attempts { self.plan.fault } else { ResponseFault::None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    None,
    Length(u64),
    Chunked(u64),
}

impl RequestBody {
    pub fn len(self) -> u64 {
        match self {
            RequestBody::None => 0,
            RequestBody::Length(len) | RequestBody::Chunked(len) => len,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    No,
    /// The head must be refused: no replica receives it.
    Head,
    /// The body's framing is malformed: no replica may receive a complete body.
    Body,
}

/// Where a request stands on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    Last,
    Earlier,
}

pub struct RequestBuilder<'a> {
    pub random: &'a mut Random,
    pub faults: &'a Faults,
    pub client: Actor,
    pub scheme: &'static str,
    pub service: usize,
}

impl RequestBuilder<'_> {
    /// A well-formed request.
    pub fn request(&mut self, id: u64, position: Position) -> Request {
        let c = &mut *self.random;
        let method = c.pick(&["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE"]);
        let minor = u8::from(!c.one_in(8));
        let upgrade = matches!(method, "GET" | "POST") && minor == 1 && position == Position::Last && c.one_in(6);
        let body = match method {
            "POST" | "PUT" if minor == 1 && c.one_in(2) => RequestBody::Chunked(body_len(c)),
            "POST" | "PUT" => RequestBody::Length(body_len(c)),
            _ if c.one_in(8) => RequestBody::Length(0),
            _ => RequestBody::None,
        };
        let expect = minor == 1 && !upgrade && body.len() > 0 && c.one_in(6);
        let plan = ResponsePlan::draw(c, self.faults, method);
        let mut request = Request {
            id,
            client: self.client,
            scheme: self.scheme,
            service: self.service,
            method,
            minor,
            head: Vec::new(),
            target: format!("/r/{id}?k={}", self.random.below(20)),
            host: "sim.example".into(),
            body,
            expect,
            upgrade,
            malformed: Malformed::No,
            plan,
            sent_at_us: None,
            sent_whole: false,
            sent_whole_at_us: 0,
            received_whole_at_us: None,
            arrivals: 0,
        };
        self.write_head(&mut request, id, position);
        request
    }

    fn write_head(&mut self, request: &mut Request, id: u64, position: Position) {
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
            // HTTP/1.0 without Host: Ringway sends the service's name.
            request.host = HTTP_NAME.into();
        }
        match request.body {
            RequestBody::None => {}
            RequestBody::Length(len) => lines.push(format!("Content-Length: {len}")),
            RequestBody::Chunked(_) => lines.push("Transfer-Encoding: chunked".into()),
        }
        if request.expect {
            lines.push("Expect: 100-continue".into());
        }
        if request.upgrade {
            lines.push("Connection: upgrade".into());
            lines.push("Upgrade: echo".into());
        } else if position == Position::Last && c.one_in(3) {
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
        request.head = text.into_bytes();
    }

    /// A request with a malformed head or body, followed by a second request that no replica may receive.
    pub fn malformed(&mut self, id: u64) -> Request {
        let mut request = self.request(id, Position::Earlier);
        request.expect = false;
        request.body = RequestBody::None;
        request.upgrade = false;
        request.minor = 1;
        if self.random.one_in(3) {
            self.malform_body(&mut request);
        } else {
            self.malform_head(&mut request);
        }
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Id: {SMUGGLED}\r\n\r\n");
        request.head.extend_from_slice(smuggled.as_bytes());
        request
    }

    fn malform_body(&mut self, request: &mut Request) {
        let body = self.random.pick(MALFORMED_BODIES);
        request.malformed = Malformed::Body;
        request.method = "POST";
        // The plan was drawn for another method: for HEAD it has no body and no length, which for POST would be a body
        // that only a close ends.
        let bodyless = matches!(request.plan.status, 204 | 304);
        if request.plan.framing == Framing::None && !bodyless {
            request.plan.framing = Framing::Length(0);
        }
        request.host = "sim.example".into();
        let (target, id) = (&request.target, request.id);
        request.head = format!(
            "POST {target} HTTP/1.1\r\nHost: sim.example\r\nX-Id: {id}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        )
        .into_bytes();
    }

    fn malform_head(&mut self, request: &mut Request) {
        request.malformed = Malformed::Head;
        let text = self.random.pick(MALFORMED_HEADS);
        let text = text.replace("ID", &request.id.to_string()).replace("LONG", &"l".repeat(20_000));
        request.head = text.replace("MANY", &"m: m\r\n".repeat(200)).into_bytes();
    }
}

const MALFORMED_HEADS: &[&str] = &[
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

const MALFORMED_BODIES: &[&str] = &[
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
