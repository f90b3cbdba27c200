//! What a request head means to an intermediary: its framing, where it goes, and what changes before a replica sees it.

use super::body::Body;
use super::buffer::HEADROOM;
use super::head::{self, Connection, Fields, Framing, Refusal, Request, refusal};
use super::limits::{Limits, Trust};
use super::rewrite::Edits;

/// All that is left of a request head once it was read: the head itself is rewritten in place and forgotten.
#[derive(Debug)]
pub struct Plan {
    pub body: Body,
    pub minor: u8,
    pub keep_alive: bool,
    pub is_head: bool,
    /// May be sent twice without harm (RFC 9110 section 9.2.2).
    pub idempotent: bool,
    /// Changes nothing at a replica (RFC 9110 section 9.2.1).
    pub safe: bool,
    /// An upgrade of the connection was asked for.
    pub upgrade: bool,
    /// The client waits for 100 before it sends its body.
    pub expects: bool,
    /// The balancer answers by itself: `Max-Forwards` was used up.
    pub own: Option<Own>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    Options,
    /// The request as it came, without what is secret in it.
    Trace(Vec<u8>),
}

/// Who the client is, for the fields that say so.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    pub client_ip: &'a [u8],
    /// The `Host` of a request of HTTP/1.0 that names none.
    pub service: &'a str,
}

/// Reads every line once, refuses what is ambiguous, and writes the changes into `edits`.
pub fn plan(
    head: &[u8],
    request: &Request,
    limits: &Limits,
    origin: Origin,
    edits: &mut Edits,
) -> Result<Plan, Refusal> {
    let mut reading = Reading { trust: limits.trust, ..Reading::new(head, request) };
    let authority = reading.target(request, edits)?;
    for i in 0..request.fields.len() {
        reading.field(i, edits)?;
    }
    reading.nominated(edits);
    let body = reading.framing(request, edits)?;
    let own = reading.forwards(request, edits)?;
    reading.host(authority, origin.service, edits)?;
    reading.upgrade_lines(&body, edits);
    if request.minor == 0 {
        // The last digit of the version, a space and `HTTP/1.` behind the target (RFC 9112 section 3).
        let target = head::offset(head, request.target.as_bytes()) + request.target.len();
        edits.replace(target + 8, 1, &[b"1"]);
    }
    reading.added(origin, edits);
    if edits.inserted() > HEADROOM {
        return Err(refusal(431, "head too large once it is forwarded"));
    }
    Ok(Plan {
        body,
        minor: request.minor,
        keep_alive: reading.connection.persists(request.minor),
        is_head: request.method == "HEAD",
        idempotent: is_idempotent(request.method),
        safe: matches!(request.method, "GET" | "HEAD" | "OPTIONS"),
        upgrade: reading.upgrading,
        expects: reading.expect_line.is_some() && request.minor == 1,
        own,
    })
}

fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Fields that a `Connection` line cannot take away by naming them.
fn is_protected(name: &str) -> bool {
    const PROTECTED: [&str; 8] =
        ["host", "content-length", "transfer-encoding", "cookie", "authorization", "via", "trailer", "expect"];
    PROTECTED.iter().any(|p| name.eq_ignore_ascii_case(p))
}

struct Reading<'b> {
    head: &'b [u8],
    fields: Fields<'b>,
    minor: u8,
    trust: Trust,
    framing: Framing,
    connection: Connection,
    upgrading: bool,
    /// Lines that stay or go by what later lines say.
    host_line: Option<usize>,
    length_line: Option<usize>,
    coding_line: Option<usize>,
    expect_line: Option<usize>,
    upgrade_line: Option<usize>,
    forwarded_for: Option<usize>,
    /// The client's word for it was kept.
    proto_known: bool,
    max_forwards: Option<usize>,
}

impl<'b> Reading<'b> {
    fn new(head: &'b [u8], request: &Request<'b>) -> Self {
        Reading {
            head,
            fields: request.fields,
            minor: request.minor,
            trust: Trust::Append,
            framing: Framing::default(),
            connection: Connection::default(),
            upgrading: false,
            host_line: None,
            length_line: None,
            coding_line: None,
            expect_line: None,
            upgrade_line: None,
            forwarded_for: None,
            proto_known: false,
            max_forwards: None,
        }
    }

    /// The four forms of RFC 9112 section 3.2. Returns the authority of an absolute-form, which overrides `Host`.
    fn target(&self, request: &Request<'b>, edits: &mut Edits) -> Result<Option<&'b str>, Refusal> {
        let target = request.target;
        if !head::target_is_safe(target) {
            return Err(refusal(400, "bad byte in request target"));
        }
        if request.method == "CONNECT" {
            return Err(refusal(501, "CONNECT is not enabled"));
        }
        if target.starts_with('/') {
            return Ok(None);
        }
        if target == "*" {
            return if request.method == "OPTIONS" {
                Ok(None)
            } else {
                Err(refusal(400, "asterisk-form is for OPTIONS alone"))
            };
        }
        let rest = strip_scheme(target).ok_or(refusal(400, "malformed request target"))?;
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if !head::host_is_valid(authority.as_bytes()) {
            return Err(refusal(400, "malformed authority in request target"));
        }
        let at = head::offset(self.head, target.as_bytes());
        let instead: &[u8] = match (path.as_bytes().first(), request.method) {
            (Some(b'/'), _) => b"",
            (None, "OPTIONS") => b"*",
            _ => b"/",
        };
        edits.replace(at, target.len() - path.len(), &[instead]);
        Ok(Some(authority))
    }

    fn field(&mut self, i: usize, edits: &mut Edits) -> Result<(), Refusal> {
        let Some(field) = self.fields.get(i) else { return Ok(()) };
        let (name, value) = (field.name, field.value);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => self.cut(i, edits),
            4 if is("host") => {
                if self.host_line.replace(i).is_some() {
                    return Err(refusal(400, "more than one Host"));
                }
                if !head::host_is_valid(value) {
                    return Err(refusal(400, "malformed Host"));
                }
            }
            6 if is("expect") => self.expect(i, value, edits)?,
            7 if is("upgrade") => {
                // More than one line, or a cleartext HTTP/2, is no upgrade that we carry.
                self.upgrading = match self.upgrade_line.replace(i) {
                    Some(earlier) => {
                        self.cut(earlier, edits);
                        false
                    }
                    None => {
                        !value.is_empty()
                            && !head::tokens(value).any(|p| p.get(..3).is_some_and(|p| p.eq_ignore_ascii_case(b"h2c")))
                    }
                };
            }
            9 if is("forwarded") => self.claim(i, edits),
            10 if is("connection") => {
                self.connection.read(value).map_err(|why| refusal(400, why))?;
                self.cut(i, edits);
            }
            10 if is("keep-alive") => self.cut(i, edits),
            12 if is("max-forwards") => match self.max_forwards.replace(i) {
                None => {}
                Some(_) => return Err(refusal(400, "more than one Max-Forwards")),
            },
            14 if is("content-length") => self.length(i, value, edits)?,
            14 if is("http2-settings") => self.cut(i, edits),
            14 if head::resembles(name, "content-length") => return Err(LOOKALIKE),
            15 if is("x-forwarded-for") && self.trust != Trust::Replace => self.forwarded_for = Some(i),
            16 if is("proxy-connection") => self.cut(i, edits),
            17 if is("transfer-encoding") => self.coding(i, value)?,
            17 if head::resembles(name, "transfer-encoding") => return Err(LOOKALIKE),
            17 if is("x-forwarded-proto") => {
                self.proto_known |= self.trust == Trust::Keep;
                self.claim(i, edits);
            }
            12.. if claims(name) => self.claim(i, edits),
            _ => {}
        }
        Ok(())
    }

    /// A field in which a client may claim to be somebody else.
    fn claim(&self, i: usize, edits: &mut Edits) {
        if self.trust != Trust::Keep {
            self.cut(i, edits);
        }
    }

    fn cut(&self, i: usize, edits: &mut Edits) {
        let (at, len) = head::field_line(self.head, self.fields, i);
        edits.cut(at, len);
    }

    /// RFC 9110 section 10.1.1. In a request of HTTP/1.0 it is ignored.
    fn expect(&mut self, i: usize, value: &[u8], edits: &mut Edits) -> Result<(), Refusal> {
        let again = self.expect_line.replace(i).is_some();
        if self.minor == 0 {
            self.cut(i, edits);
        } else if again || !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(refusal(417, "unknown expectation"));
        }
        Ok(())
    }

    /// RFC 9112 section 6.3: once, or the same again; the repetition goes.
    fn length(&mut self, i: usize, value: &[u8], edits: &mut Edits) -> Result<(), Refusal> {
        let length = head::parse_length(value).ok_or(refusal(400, "malformed Content-Length"))?;
        match self.framing.length.replace(length) {
            None => {
                self.length_line = Some(i);
                Ok(())
            }
            Some(earlier) if earlier == length => {
                self.cut(i, edits);
                Ok(())
            }
            Some(_) => Err(refusal(400, "conflicting Content-Length")),
        }
    }

    /// RFC 9112 section 6.1: `chunked`, once, and nothing else; never on HTTP/1.0.
    fn coding(&mut self, i: usize, value: &[u8]) -> Result<(), Refusal> {
        if self.minor == 0 {
            return Err(refusal(400, "Transfer-Encoding in HTTP/1.0"));
        }
        if self.framing.chunked {
            return Err(refusal(400, "Transfer-Encoding more than once"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            let known = head::tokens(value).any(|t| t.eq_ignore_ascii_case(b"chunked"));
            return Err(if known || value.is_empty() {
                refusal(400, "malformed Transfer-Encoding")
            } else {
                refusal(501, "unknown transfer coding")
            });
        }
        self.framing.chunked = true;
        self.coding_line = Some(i);
        Ok(())
    }

    /// What frames the body, written so that it can be read in one way only.
    fn framing(&self, request: &Request, edits: &mut Edits) -> Result<Body, Refusal> {
        for i in [self.length_line, self.coding_line].into_iter().flatten() {
            let Some(field) = self.fields.get(i) else { continue };
            let padded = field.value.len() > 1 && field.value.first() == Some(&b'0');
            if padded || !head::is_tidy(self.head, field) {
                let (at, len) = head::field_line(self.head, self.fields, i);
                let digits = self.framing.length.map(|length| length.to_string());
                let value = digits.as_deref().unwrap_or("chunked");
                edits.replace(at, len, &[field.name.as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            }
        }
        match self.framing {
            Framing { length: Some(_), chunked: true } => {
                Err(refusal(400, "both Content-Length and Transfer-Encoding"))
            }
            Framing { length: None, chunked: false } => Ok(Body::Empty),
            _ if request.method == "TRACE" => Err(refusal(400, "TRACE with a body")),
            Framing { chunked: true, .. } if self.connection.nominates => Ok(Body::chunked_without_trailers()),
            Framing { chunked: true, .. } => Ok(Body::chunked()),
            Framing { length, .. } => Ok(length.map_or(Body::Empty, Body::Length)),
        }
    }

    /// Leaves out the fields that `Connection` names (RFC 9110 section 7.6.1), framing and identity excepted.
    fn nominated(&mut self, edits: &mut Edits) {
        if !self.connection.nominates {
            return;
        }
        let nominations = || self.fields.iter().filter(|f| f.name.eq_ignore_ascii_case("connection"));
        for (i, field) in self.fields.iter().enumerate() {
            let named = nominations()
                .flat_map(|f| head::tokens(f.value))
                .any(|token| token.eq_ignore_ascii_case(field.name.as_bytes()));
            if named && !is_protected(field.name) && !is_settled(field.name) {
                self.cut(i, edits);
            }
        }
    }

    /// RFC 9110 section 7.6.2.
    fn forwards(&self, request: &Request, edits: &mut Edits) -> Result<Option<Own>, Refusal> {
        let Some(field) = self.max_forwards.and_then(|i| self.fields.get(i)) else { return Ok(None) };
        if !matches!(request.method, "OPTIONS" | "TRACE") {
            return Ok(None);
        }
        let left = head::parse_length(field.value).ok_or(refusal(400, "malformed Max-Forwards"))?;
        match (left, request.method) {
            (0, "OPTIONS") => Ok(Some(Own::Options)),
            (0, _) => Ok(Some(Own::Trace(self.reflection()))),
            _ => {
                let at = head::offset(self.head, field.value);
                edits.replace(at, field.value.len(), &[(left - 1).to_string().as_bytes()]);
                Ok(None)
            }
        }
    }

    /// What TRACE gives back: the request as it was received, without fields that hold secrets (RFC 9110 section 9.3.8).
    fn reflection(&self) -> Vec<u8> {
        const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];
        let line = memchr::memchr(b'\n', self.head).map_or(0, |lf| lf + 1);
        let mut text = self.head.get(..line).unwrap_or_default().to_vec();
        for (i, field) in self.fields.iter().enumerate() {
            if !SECRET.iter().any(|secret| head::resembles(field.name, secret)) {
                let (at, len) = head::field_line(self.head, self.fields, i);
                text.extend_from_slice(self.head.get(at..at + len).unwrap_or_default());
            }
        }
        text.extend_from_slice(b"\r\n");
        text
    }

    /// RFC 9112 section 3.2: exactly one `Host` goes on.
    fn host(&self, authority: Option<&str>, service: &str, edits: &mut Edits) -> Result<(), Refusal> {
        if self.host_line.is_none() && self.minor == 1 {
            return Err(refusal(400, "no Host"));
        }
        match (self.host_line.and_then(|i| Some((i, self.fields.get(i)?))), authority) {
            (Some((_, field)), None) if head::is_tidy(self.head, field) => {}
            (Some((i, field)), named) => {
                let (at, len) = head::field_line(self.head, self.fields, i);
                edits.replace(at, len, &[b"Host: ", named.map_or(field.value, str::as_bytes), b"\r\n"]);
            }
            (None, named) => {
                let host = named.unwrap_or(service);
                edits.replace(self.end(), 0, &[b"Host: ", host.as_bytes(), b"\r\n"]);
            }
        }
        Ok(())
    }

    /// `Upgrade` goes on only when `Connection` asks for it, on 1.1, without a body in the way.
    fn upgrade_lines(&mut self, body: &Body, edits: &mut Edits) {
        let wanted = self.upgrading && self.connection.upgrade && self.minor == 1 && matches!(body, Body::Empty);
        self.upgrading = wanted;
        match (self.upgrade_line, wanted) {
            (Some(_), true) => edits.replace(self.end(), 0, &[b"Connection: upgrade\r\n"]),
            (Some(i), false) => self.cut(i, edits),
            (None, _) => {}
        }
    }

    fn added(&self, origin: Origin, edits: &mut Edits) {
        let rest: &[u8] = match (self.minor, self.proto_known) {
            (0, false) => b"X-Forwarded-Proto: http\r\nVia: 1.0 ringway\r\n",
            (_, false) => b"X-Forwarded-Proto: http\r\nVia: 1.1 ringway\r\n",
            (0, true) => b"Via: 1.0 ringway\r\n",
            (_, true) => b"Via: 1.1 ringway\r\n",
        };
        match self.forwarded_for.and_then(|i| self.fields.get(i)) {
            Some(field) => {
                let end = head::offset(self.head, field.value) + field.value.len();
                let comma: &[u8] = if field.value.is_empty() { b"" } else { b", " };
                edits.replace(end, 0, &[comma, origin.client_ip]);
                edits.replace(self.end(), 0, &[rest]);
            }
            None => edits.replace(self.end(), 0, &[b"X-Forwarded-For: ", origin.client_ip, b"\r\n", rest]),
        }
    }

    /// Where the empty line stands.
    fn end(&self) -> usize {
        self.head.len().saturating_sub(2)
    }
}

const LOOKALIKE: Refusal = refusal(400, "a field that some servers read as framing");

/// `X-Forwarded-*`, with `_` for `-` too: some servers read both alike. `X-Forwarded-For` itself only where it is replaced.
fn claims(name: &str) -> bool {
    const PREFIX: &str = "x-forwarded-";
    name.get(..PREFIX.len()).is_some_and(|start| head::resembles(start, PREFIX))
}

/// Lines that are dealt with whoever names them.
fn is_settled(name: &str) -> bool {
    const SETTLED: [&str; 8] = [
        "connection",
        "te",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "http2-settings",
        "forwarded",
        "max-forwards",
    ];
    claims(name) || SETTLED.iter().any(|settled| name.eq_ignore_ascii_case(settled))
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}
