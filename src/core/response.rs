//! What a response head means to an intermediary: where it ends, whether its connection may be used again, and what
//! changes before the client sees it. What can be read in two ways is 502; what every proxy reads in one way is accepted
//! and forwarded in canonical form.

use super::body::Body;
use super::head::Response;
use super::rewrite::{Edits, Rewriter};

/// What a response head depends on of its request.
#[derive(Clone, Copy, Debug)]
pub struct RequestSummary {
    pub is_head: bool,
    pub upgrade: bool,
    pub minor: u8,
    /// Nothing known so far ends the client connection after this exchange.
    pub keep_alive: bool,
    /// `max-age` of Strict-Transport-Security, where the client came by TLS and the replica says nothing of it.
    pub hsts_seconds: Option<u64>,
}

/// Lines that a final response gets.
#[derive(Clone, Copy, Debug)]
pub struct AddedFields<'a> {
    /// Where the replica left it out.
    pub date_line: &'a str,
    /// `Set-Cookie` of a sticky session (RFC 6265 section 4.1); empty where none is due.
    pub cookie_line: &'a str,
}

/// What an exchange keeps of a response head. The head itself is rewritten in place and sent.
#[derive(Debug)]
pub struct ResponseAnalysis {
    pub status: u16,
    pub body: Body,
    /// The replica keeps its connection, and the framing is unambiguous.
    pub reusable: bool,
    /// The client connection is kept after this exchange.
    pub keep_alive: bool,
    /// Server-sent events (WHATWG HTML, section 9.2): bytes may be far apart.
    pub is_event_stream: bool,
}

impl ResponseAnalysis {
    /// Another response to the same request follows (RFC 9110 section 15.2).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != SWITCHING_PROTOCOLS
    }
}

const SWITCHING_PROTOCOLS: u16 = 101;
const NO_CONTENT: u16 = 204;
const NOT_MODIFIED: u16 = 304;
/// Names in `Upgrade` what the client has to speak (RFC 9110 section 15.5.22).
const UPGRADE_REQUIRED: u16 = 426;
/// Where the minor version stands in `HTTP/1.1 200`.
const MINOR_AT: usize = 7;
/// Where `HTTP/1.1 200` ends: a space follows, with or without a reason (RFC 9112 section 4).
const STATUS_END: usize = 12;

/// Reads every field once, refuses what is ambiguous, and writes the changes into `edits`.
pub fn analyze(
    head: &[u8],
    response: &Response,
    request: RequestSummary,
    added: AddedFields,
    edits: &mut Edits,
) -> Result<ResponseAnalysis, &'static str> {
    let rewriter = Rewriter::new(head, response.fields, response.minor, edits);
    let mut analyzer = ResponseAnalyzer { response, request, rewriter, has_date: false, is_event_stream: false };
    for i in 0..response.fields.len() {
        analyzer.field(i)?;
    }
    let status = response.status;
    let body = analyzer.body()?;
    analyzer.request.keep_alive &= !body.is_close_delimited();
    analyzer.framing_fields();
    analyzer.upgrade_field();
    analyzer.rewriter.cut_nominated(is_exempt);
    analyzer.status_line(head);
    if status >= 200 || status == SWITCHING_PROTOCOLS {
        analyzer.added_fields(added);
    }
    // RFC 9112 sections 6.1 and 6.3: a coding beside a length, or in HTTP/1.0, is read, and its connection closed.
    let ambiguous = analyzer.rewriter.is_chunked() && (analyzer.rewriter.has_length() || response.minor == 0);
    let reusable = analyzer.rewriter.persists() && !ambiguous && !matches!(body, Body::UntilClose);
    let ResponseAnalyzer { request: RequestSummary { keep_alive, .. }, is_event_stream, .. } = analyzer;
    Ok(ResponseAnalysis { status, body, reusable, keep_alive, is_event_stream })
}

/// Fields that `Connection` cannot cut by naming them: what only a server can set, and fields with rules of their own.
fn is_exempt(name: &str) -> bool {
    const EXEMPT: [&str; 9] = [
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-connection",
        "set-cookie",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    EXEMPT.iter().any(|exempt| name.eq_ignore_ascii_case(exempt))
}

struct ResponseAnalyzer<'h, 'e> {
    response: &'h Response<'h>,
    /// `keep_alive` as the body leaves it.
    request: RequestSummary,
    rewriter: Rewriter<'h, 'e>,
    has_date: bool,
    is_event_stream: bool,
}

impl ResponseAnalyzer<'_, '_> {
    fn field(&mut self, i: usize) -> Result<(), &'static str> {
        let Some(field) = self.response.fields.get(i) else { return Ok(()) };
        let (name, value) = (field.name, field.value);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("date") => self.has_date = true,
            7 if is("upgrade") => {
                self.rewriter.upgrade(i);
            }
            10 if is("connection") => {
                self.rewriter.connection(i, value);
            }
            10 if is("keep-alive") => self.rewriter.cut(i),
            12 if is("content-type") => self.is_event_stream = is_event_stream(value),
            14 if is("content-length") => self.rewriter.content_length(i, value)?,
            16 if is("proxy-connection") => self.rewriter.cut(i),
            25 if is("strict-transport-security") => self.request.hsts_seconds = None,
            17 if is("transfer-encoding") => {
                self.rewriter.transfer_encoding(i, value).map_err(|_| "unknown transfer coding")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 section 6.3.
    fn body(&self) -> Result<Body, &'static str> {
        let (status, rewriter) = (self.response.status, &self.rewriter);
        if status == SWITCHING_PROTOCOLS {
            let asked = self.request.upgrade && rewriter.connection_upgrades() && rewriter.has_upgrade();
            return if asked { Ok(Body::Tunnel) } else { Err("101 that was not asked for") };
        }
        if self.request.is_head || status < 200 || status == NO_CONTENT || status == NOT_MODIFIED {
            return Ok(Body::Empty);
        }
        if rewriter.is_chunked() && self.request.minor == 0 {
            return Ok(Body::dechunked().of_replica());
        }
        Ok(rewriter.framed_body().map_or(Body::UntilClose, Body::of_replica))
    }

    /// Each framing field is sent in one spelling, or cut (RFC 9112 section 6, RFC 9110 section 8.6).
    fn framing_fields(&mut self) {
        let status = self.response.status;
        let forbidden = status < 200 || status == NO_CONTENT;
        if forbidden || self.rewriter.is_chunked() {
            self.rewriter.cut_length();
        } else {
            self.rewriter.canonicalize_length();
        }
        if forbidden || self.request.minor == 0 {
            self.rewriter.cut_coding();
        } else {
            self.rewriter.canonicalize_coding();
        }
    }

    fn upgrade_field(&mut self) {
        match self.response.status {
            SWITCHING_PROTOCOLS => {}
            UPGRADE_REQUIRED if self.request.minor == 1 => {}
            _ => self.rewriter.cut_upgrade(),
        }
    }

    /// The client is spoken to in HTTP/1.1, and the space before an empty reason is there.
    fn status_line(&mut self, head: &[u8]) {
        if head.get(MINOR_AT) != Some(&b'1') {
            self.rewriter.replace(MINOR_AT, 1, &[b"1"]);
        }
        if head.get(STATUS_END) == Some(&b'\r') {
            self.rewriter.replace(STATUS_END, 0, &[b" "]);
        }
    }

    /// `Date`, where a replica left it out (RFC 9110 section 6.6.1), and `Connection`.
    fn added_fields(&mut self, AddedFields { date_line, cookie_line }: AddedFields) {
        let status = self.response.status;
        let upgrade_required = status == UPGRADE_REQUIRED && self.rewriter.has_upgrade();
        let connection: &[u8] = match (self.request.minor, self.request.keep_alive) {
            _ if status == SWITCHING_PROTOCOLS => b"Connection: upgrade\r\n",
            (1, true) if upgrade_required => b"Connection: upgrade\r\n",
            (1, false) if upgrade_required => b"Connection: close, upgrade\r\n",
            (1, false) => b"Connection: close\r\n",
            (0, true) => b"Connection: keep-alive\r\n",
            _ => b"",
        };
        if let Some(seconds) = self.request.hsts_seconds {
            let mut digits = itoa::Buffer::new();
            let seconds = digits.format(seconds).as_bytes();
            self.rewriter.append(&[b"Strict-Transport-Security: max-age=", seconds, b"\r\n"]);
        }
        if !cookie_line.is_empty() {
            self.rewriter.append(&[cookie_line.as_bytes()]);
        }
        if !self.has_date && status != SWITCHING_PROTOCOLS {
            self.rewriter.append(&[date_line.as_bytes(), connection]);
        } else if !connection.is_empty() {
            self.rewriter.append(&[connection]);
        }
    }
}

/// The media type, with or without parameters (RFC 9110 section 8.3.1).
fn is_event_stream(content_type: &[u8]) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    let (media_type, rest) = content_type.split_at(content_type.len().min(EVENT_STREAM.len()));
    media_type.eq_ignore_ascii_case(EVENT_STREAM) && rest.first().is_none_or(|byte| b"; \t".contains(byte))
}
