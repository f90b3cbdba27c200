//! What a request head means to an intermediary: its framing, where it goes, and what changes before a replica sees it.
//! What is ambiguous is refused.

use super::body::Body;
use super::buffer::HEADROOM;
use super::client_cert;
use super::head::{self, Fields, Refusal, Request, bad_request, refusal};
use super::limits::{Limits, RequestIdPolicy, Trust, Via};
use super::rewrite::{CodingError, Edits, Rewriter};

/// What an exchange keeps of a request head. The head itself is rewritten in place and sent.
#[derive(Debug)]
pub struct RequestAnalysis {
    pub body: Body,
    pub minor: u8,
    /// The client keeps its connection after this request.
    pub keep_alive: bool,
    pub is_head: bool,
    /// May be sent twice without harm (RFC 9110 section 9.2.2).
    pub idempotent: bool,
    /// Changes nothing at a replica (RFC 9110 section 9.2.1).
    pub safe: bool,
    /// Asks to upgrade the connection.
    pub upgrade: bool,
    /// The client waits for 100 before it sends its body.
    pub expects_continue: bool,
    /// The field that holds a valid `X-Request-Id`, by its index; `None` also where it is not looked for.
    pub request_id: Option<usize>,
    /// `Max-Forwards` is 0: the balancer answers.
    pub local_reply: Option<LocalReply>,
}

/// A response of the balancer that is no refusal (RFC 9110 section 7.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalReply {
    Options,
    /// The request as received, without its secrets.
    Trace(Vec<u8>),
}

/// What the connection says of a request, for the fields that are added.
#[derive(Clone, Copy, Debug)]
pub struct RequestSource<'a> {
    pub client_ip: &'a [u8],
    /// The `Host` of a request of HTTP/1.0 that has none.
    pub service: &'a str,
    /// The `X-Request-Id` of a request that has none. `None`: none is added.
    pub request_id: Option<&'a [u8]>,
    pub scheme: Scheme,
    /// What is said of the client's certificate: a line, or nothing. `None`: it was not asked for one.
    pub client_cert: Option<&'a [u8]>,
}

/// How the client reached us (RFC 9110 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn of(name: &str) -> Option<Scheme> {
        if name.eq_ignore_ascii_case("http") {
            Some(Scheme::Http)
        } else if name.eq_ignore_ascii_case("https") {
            Some(Scheme::Https)
        } else {
            None
        }
    }

    const fn forwarded_proto(self) -> &'static [u8] {
        match self {
            Scheme::Http => b"X-Forwarded-Proto: http\r\n",
            Scheme::Https => b"X-Forwarded-Proto: https\r\n",
        }
    }
}

/// Reads every field once, refuses what is ambiguous, and writes the changes into `edits`.
pub fn analyze(
    head: &[u8],
    request: &Request,
    limits: &Limits,
    origin: RequestSource,
    edits: &mut Edits,
) -> Result<RequestAnalysis, Refusal> {
    let mut analyzer = RequestAnalyzer::new(head, request, limits, origin, edits);
    let authority = analyzer.target()?;
    for i in 0..request.fields.len() {
        analyzer.field(i)?;
    }
    analyzer.rewriter.cut_nominated(is_exempt);
    let body = analyzer.body()?;
    let local_reply = analyzer.max_forwards()?;
    analyzer.host(authority, origin.service)?;
    let upgrade = analyzer.upgrade();
    analyzer.version();
    analyzer.forwarded(origin, limits.via);
    let request_id = analyzer.request_id(origin);
    let keep_alive = analyzer.rewriter.persists();
    let expects_continue = analyzer.expect();
    if edits.inserted() > HEADROOM + origin.client_cert.map_or(0, <[u8]>::len) {
        return Err(refusal(431, "head too large once it is forwarded"));
    }
    Ok(RequestAnalysis {
        body,
        minor: request.minor,
        keep_alive,
        is_head: request.method == "HEAD",
        idempotent: matches!(request.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        safe: matches!(request.method, "GET" | "HEAD" | "OPTIONS"),
        upgrade,
        expects_continue,
        request_id,
        local_reply,
    })
}

/// Fields that `Connection` cannot cut by naming them: framing and identity, and fields with rules of their own.
fn is_exempt(name: &str) -> bool {
    const EXEMPT: [&str; 18] = [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "max-forwards",
        "proxy",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-request-id",
    ];
    is_forwarding(name) || client_cert::is_name(name) || EXEMPT.iter().any(|exempt| name.eq_ignore_ascii_case(exempt))
}

/// `X-Forwarded-*`, with `_` for `-`, too: some servers read both alike.
fn is_forwarding(name: &str) -> bool {
    const PREFIX: &str = "x-forwarded-";
    name.get(..PREFIX.len()).is_some_and(|start| head::resembles(start, PREFIX))
}

/// A proxy says that it passed the request on (RFC 9110 section 7.6.3, RFC 7239).
pub fn is_forwarded(fields: Fields) -> bool {
    let names = ["via", "forwarded"];
    fields
        .iter()
        .any(|field| is_forwarding(field.name) || names.iter().any(|name| field.name.eq_ignore_ascii_case(name)))
}

struct RequestAnalyzer<'h, 'e> {
    head: &'h [u8],
    request: &'h Request<'h>,
    trust: Trust,
    /// The client was asked for a certificate: it has no say in the fields that tell of it.
    certifies: bool,
    id_policy: RequestIdPolicy,
    rewriter: Rewriter<'h, 'e>,
    /// `Upgrade` came once and names a protocol that can be carried.
    upgradable: bool,
    host_line: Option<usize>,
    expect_line: Option<usize>,
    forwarded_for: Option<usize>,
    /// The client's `X-Forwarded-Proto` stays.
    proto_kept: bool,
    max_forwards: Option<usize>,
    /// The first valid `X-Request-Id`.
    id_line: Option<usize>,
}

impl<'h, 'e> RequestAnalyzer<'h, 'e> {
    fn new(
        head: &'h [u8],
        request: &'h Request<'h>,
        limits: &Limits,
        origin: RequestSource,
        edits: &'e mut Edits,
    ) -> Self {
        RequestAnalyzer {
            head,
            request,
            trust: limits.trust,
            certifies: origin.client_cert.is_some(),
            id_policy: limits.request_id,
            rewriter: Rewriter::new(head, request.fields, request.minor, edits),
            upgradable: false,
            host_line: None,
            expect_line: None,
            forwarded_for: None,
            proto_kept: false,
            max_forwards: None,
            id_line: None,
        }
    }

    /// The four forms of RFC 9112 section 3.2, made origin-form or `*`. The authority of an absolute-form overrides `Host`.
    fn target(&mut self) -> Result<Option<&'h str>, Refusal> {
        let Request { target, method, .. } = *self.request;
        if !head::target_is_safe(target) {
            return Err(bad_request("bad byte in request target"));
        }
        if method == "CONNECT" {
            return Err(refusal(501, "CONNECT is not enabled"));
        }
        if target.starts_with('/') {
            return Ok(None);
        }
        if target == "*" {
            return match method {
                "OPTIONS" => Ok(None),
                _ => Err(bad_request("asterisk-form is for OPTIONS alone")),
            };
        }
        let (scheme, rest) = target.split_once("://").ok_or(bad_request("malformed request target"))?;
        Scheme::of(scheme).ok_or(bad_request("malformed request target"))?;
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if !head::host_is_valid(authority.as_bytes()) {
            return Err(bad_request("malformed authority in request target"));
        }
        let instead: &[u8] = match (path.as_bytes().first(), method) {
            (Some(b'/'), _) => b"",
            (None, "OPTIONS") => b"*",
            _ => b"/",
        };
        let at = head::offset(self.head, target.as_bytes());
        self.rewriter.replace(at, target.len() - path.len(), &[instead]);
        Ok(Some(authority))
    }

    fn field(&mut self, i: usize) -> Result<(), Refusal> {
        let Some(field) = self.request.fields.get(i) else { return Ok(()) };
        let (name, value) = (field.name, field.value);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => self.rewriter.cut(i),
            4 if is("host") => self.host_field(i, value)?,
            // CGI programs get it as HTTP_PROXY and take it for the proxy of their own requests (RFC 3875 section 4.1.18).
            5 if is("proxy") => self.rewriter.cut(i),
            6 if is("expect") => self.expect_field(i, value)?,
            7 if is("upgrade") => self.upgradable = self.rewriter.upgrade(i) && is_upgradable(value),
            9 if is("forwarded") => self.cut_unless_trusted(i),
            10 if is("connection") && !self.rewriter.connection(i, value) => {
                return Err(bad_request("malformed Connection"));
            }
            10 if is("keep-alive") => self.rewriter.cut(i),
            11 if client_cert::is_name(name) => self.client_cert_field(i),
            12 if is("max-forwards") => self.max_forwards_field(i)?,
            12 if is("x-request-id") => self.request_id_field(i, value),
            14 if is("content-length") => self.rewriter.content_length(i, value).map_err(bad_request)?,
            14 if is("http2-settings") => self.rewriter.cut(i),
            14 if head::resembles(name, "content-length") => return Err(LOOKALIKE),
            15 if is("x-forwarded-for") && self.trust != Trust::Replace => self.forwarded_for = Some(i),
            16 if is("proxy-connection") => self.rewriter.cut(i),
            17 if is("transfer-encoding") => self.transfer_encoding(i, value)?,
            17 if head::resembles(name, "transfer-encoding") => return Err(LOOKALIKE),
            17 if client_cert::is_name(name) => self.client_cert_field(i),
            17 if is("x-forwarded-proto") => {
                self.proto_kept |= self.trust == Trust::Keep;
                self.cut_unless_trusted(i);
            }
            12.. if is_forwarding(name) => self.cut_unless_trusted(i),
            _ => {}
        }
        Ok(())
    }

    fn host_field(&mut self, i: usize, value: &[u8]) -> Result<(), Refusal> {
        if self.host_line.replace(i).is_some() {
            return Err(bad_request("more than one Host"));
        }
        if head::host_is_valid(value) { Ok(()) } else { Err(bad_request("malformed Host")) }
    }

    /// HTTP/1.0 has no transfer codings (RFC 9112 section 6.1).
    fn transfer_encoding(&mut self, i: usize, value: &[u8]) -> Result<(), Refusal> {
        if self.request.minor == 0 {
            return Err(bad_request("Transfer-Encoding in HTTP/1.0"));
        }
        self.rewriter.transfer_encoding(i, value).map_err(coding_refusal)
    }

    /// `X-Request-Id`: the first valid one stays.
    fn request_id_field(&mut self, i: usize, value: &[u8]) {
        match self.id_policy {
            RequestIdPolicy::Off => {}
            _ if self.id_line.is_none() && is_request_id(value) => self.id_line = Some(i),
            RequestIdPolicy::Pass | RequestIdPolicy::Make => self.rewriter.cut(i),
        }
    }

    /// Adds an id where there is none and one was made.
    fn request_id(&mut self, origin: RequestSource) -> Option<usize> {
        if let (None, Some(id)) = (self.id_line, origin.request_id) {
            self.rewriter.append(&[b"X-Request-Id: ", id, b"\r\n"]);
        }
        self.id_line
    }

    fn max_forwards_field(&mut self, i: usize) -> Result<(), Refusal> {
        let repeated = self.max_forwards.replace(i).is_some();
        if repeated { Err(bad_request("more than one Max-Forwards")) } else { Ok(()) }
    }

    /// `Expect`, a list in which only 100-continue is known (RFC 9110 section 10.1.1). One field that says it stays. In a
    /// request of HTTP/1.0 all are ignored.
    fn expect_field(&mut self, i: usize, value: &[u8]) -> Result<(), Refusal> {
        let is_known = |member: &[u8]| member.eq_ignore_ascii_case(b"100-continue");
        if self.request.minor == 1 && !head::tokens(value).all(is_known) {
            return Err(refusal(417, "unknown expectation"));
        }
        let expects = self.request.minor == 1 && head::tokens(value).next().is_some();
        if expects && self.expect_line.is_none() {
            self.expect_line = Some(i);
        } else {
            self.rewriter.cut(i);
        }
        Ok(())
    }

    /// Writes `Expect` so that every parser reads the same list.
    fn expect(&mut self) -> bool {
        let Some((i, field)) = self.expect_line.and_then(|i| Some((i, self.request.fields.get(i)?))) else {
            return false;
        };
        if field.value.len() != "100-continue".len() || !head::is_canonical(self.head, field) {
            self.rewriter.replace_line(i, field.name, b"100-continue");
        }
        true
    }

    /// A field in which a client may claim another address, host or scheme.
    fn cut_unless_trusted(&mut self, i: usize) {
        if self.trust != Trust::Keep {
            self.rewriter.cut(i);
        }
    }

    /// A client cannot say what its certificate is, only a proxy that was not asked for its own.
    fn client_cert_field(&mut self, i: usize) {
        if self.certifies {
            self.rewriter.cut(i);
        } else {
            self.cut_unless_trusted(i);
        }
    }

    /// RFC 9112 section 6.3: a request without framing fields has no body.
    fn body(&mut self) -> Result<Body, Refusal> {
        self.rewriter.canonicalize_length();
        self.rewriter.canonicalize_coding();
        if self.rewriter.has_length() && self.rewriter.is_chunked() {
            return Err(bad_request("both Content-Length and Transfer-Encoding"));
        }
        let body = self.rewriter.framed_body().unwrap_or(Body::Empty);
        if self.request.method == "TRACE" && !body.is_done() { Err(bad_request("TRACE with a body")) } else { Ok(body) }
    }

    /// RFC 9110 section 7.6.2: counted down for OPTIONS and TRACE, answered here at 0.
    fn max_forwards(&mut self) -> Result<Option<LocalReply>, Refusal> {
        let method = self.request.method;
        let Some(field) = self.max_forwards.and_then(|i| self.request.fields.get(i)) else { return Ok(None) };
        if !matches!(method, "OPTIONS" | "TRACE") {
            return Ok(None);
        }
        let left = head::parse_length(field.value).ok_or(bad_request("malformed Max-Forwards"))?;
        match (left, method) {
            (0, "OPTIONS") => Ok(Some(LocalReply::Options)),
            (0, _) => Ok(Some(LocalReply::Trace(self.reflection()))),
            _ => {
                let at = head::offset(self.head, field.value);
                self.rewriter.replace(at, field.value.len(), &[(left - 1).to_string().as_bytes()]);
                Ok(None)
            }
        }
    }

    /// The body of the response to TRACE: the request as received, without fields that hold secrets (RFC 9110 section
    /// 9.3.8).
    fn reflection(&self) -> Vec<u8> {
        const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];
        let line = memchr::memchr(b'\n', self.head).map_or(0, |lf| lf + 1);
        let mut text = self.head.get(..line).unwrap_or_default().to_vec();
        for (i, field) in self.request.fields.iter().enumerate() {
            if !SECRET.iter().any(|secret| head::resembles(field.name, secret)) {
                let (at, len) = head::field_line(self.head, self.request.fields, i);
                text.extend_from_slice(self.head.get(at..at + len).unwrap_or_default());
            }
        }
        text.extend_from_slice(b"\r\n");
        text
    }

    /// RFC 9112 section 3.2: exactly one `Host` is sent.
    fn host(&mut self, authority: Option<&str>, service: &str) -> Result<(), Refusal> {
        match (self.host_line.and_then(|i| Some((i, self.request.fields.get(i)?))), authority) {
            (Some((_, field)), None) if head::is_canonical(self.head, field) => {}
            (Some((i, field)), authority) => {
                self.rewriter.replace_line(i, "Host", authority.map_or(field.value, str::as_bytes));
            }
            (None, _) if self.request.minor == 1 => return Err(bad_request("no Host")),
            (None, authority) => {
                let host = authority.unwrap_or(service);
                self.rewriter.append(&[b"Host: ", host.as_bytes(), b"\r\n"]);
            }
        }
        Ok(())
    }

    /// `Upgrade` is sent only if `Connection` asks for it, on HTTP/1.1 (RFC 9110 section 7.8). The request may have content.
    fn upgrade(&mut self) -> bool {
        let upgrade = self.upgradable && self.rewriter.connection_upgrades() && self.request.minor == 1;
        if upgrade {
            self.rewriter.append(&[b"Connection: upgrade\r\n"]);
        } else {
            self.rewriter.cut_upgrade();
        }
        upgrade
    }

    /// A replica is spoken to in HTTP/1.1. The digit is behind the target, a space and `HTTP/1.` (RFC 9112 section 3).
    fn version(&mut self) {
        if self.request.minor == 0 {
            let target = self.request.target.as_bytes();
            let at = head::offset(self.head, target) + target.len() + " HTTP/1.".len();
            self.rewriter.replace(at, 1, &[b"1"]);
        }
    }

    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `Via` (RFC 9110 section 7.6.3) and `Client-Cert` (RFC 9440).
    fn forwarded(&mut self, origin: RequestSource, via: Via) {
        let proto = if self.proto_kept { b"" } else { origin.scheme.forwarded_proto() };
        let via: &[u8] = match (via, self.request.minor) {
            (Via::Off, _) => b"",
            (Via::On, 0) => b"Via: 1.0 ringway\r\n",
            (Via::On, _) => b"Via: 1.1 ringway\r\n",
        };
        match self.forwarded_for.and_then(|i| self.request.fields.get(i)) {
            Some(field) => {
                let end = head::offset(self.head, field.value) + field.value.len();
                let comma: &[u8] = if field.value.is_empty() { b"" } else { b", " };
                self.rewriter.replace(end, 0, &[comma, origin.client_ip]);
                self.rewriter.append(&[proto, via]);
            }
            None => self.rewriter.append(&[b"X-Forwarded-For: ", origin.client_ip, b"\r\n", proto, via]),
        }
        if let Some(line @ [_, ..]) = origin.client_cert {
            self.rewriter.append(&[line]);
        }
    }
}

/// A request id is repeated in logs: visible characters, not too many.
fn is_request_id(value: &[u8]) -> bool {
    const ID_MAX: usize = 128;
    (1..=ID_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// HTTP/2 in the clear is not carried. A long list would be kept until the response comes.
fn is_upgradable(protocols: &[u8]) -> bool {
    const PROTOCOLS_MAX: usize = 256;
    let is_h2c = |protocol: &[u8]| protocol.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"h2c"));
    let has_some = protocols.len() <= PROTOCOLS_MAX && head::tokens(protocols).next().is_some();
    has_some && !head::tokens(protocols).any(is_h2c)
}

const LOOKALIKE: Refusal = bad_request("a field that some servers read as framing");

fn coding_refusal(error: CodingError) -> Refusal {
    match error {
        CodingError::Repeated => bad_request("Transfer-Encoding more than once"),
        CodingError::Malformed => bad_request("malformed Transfer-Encoding"),
        CodingError::Unknown => refusal(501, "unknown transfer coding"),
    }
}
