//! Heads of HTTP/1 messages: found, parsed by httparse, and held to what it leaves open (RFC 9110, RFC 9112).
//! Where two parsers could read a head in two ways, it is refused.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use httparse::{Error, Header, ParserConfig, Status};

use super::buffer::CAPACITY;
use super::limits::Limits;

/// The most fields a head may have, whatever the configuration says.
pub const FIELDS_MAX: usize = 128;
/// The longest head, whatever the configuration says: it has to fit a buffer.
pub const HEAD_MAX: usize = CAPACITY - 1;
/// Empty lines before a request line that are ignored (RFC 9112 section 2.2).
pub const BLANK_LINES: usize = 4;

pub type Fields<'b> = &'b [Header<'b>];

/// Why a head was not taken: the status a client gets for it, and one line for people. In a response it is 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub why: &'static str,
}

pub const fn refusal(status: u16, why: &'static str) -> Refusal {
    Refusal { status, why }
}

const fn bad(why: &'static str) -> Refusal {
    refusal(400, why)
}

const CRLF: usize = 2;

/// Finds the end of a head over any number of reads, looking at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    line: usize,
    seen: usize,
    blank: usize,
}

impl HeadScan {
    /// How many bytes the head has, its empty line included, or `None` while it is not whole.
    pub fn find(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        let head_limit = limits.head_limit.min(HEAD_MAX);
        while let Some(lf) = self.next_lf(bytes) {
            if self.line == 0 && lf > limits.line_limit + CRLF - 1 {
                return Err(refusal(414, "request line too long"));
            }
            if lf >= head_limit {
                return Err(refusal(431, "head too large"));
            }
            if lf == self.line || bytes.get(lf - 1) != Some(&b'\r') {
                return Err(bad("line ended by LF alone"));
            }
            let empty = lf == self.line + 1;
            (self.line, self.seen) = (lf + 1, lf + 1);
            if empty {
                return Ok(Some(lf + 1));
            }
        }
        self.seen = bytes.len();
        if self.line == 0 && self.seen > limits.line_limit + CRLF - 1 {
            return Err(refusal(414, "request line too long"));
        }
        if self.seen > head_limit { Err(refusal(431, "head too large")) } else { Ok(None) }
    }

    fn next_lf(&self, bytes: &[u8]) -> Option<usize> {
        let rest = bytes.get(self.seen..)?;
        // The empty line is worth no search.
        let empty = self.seen == self.line && rest.starts_with(b"\r\n");
        let at = if empty { 1 } else { memchr::memchr(b'\n', rest)? };
        Some(self.seen + at)
    }

    /// How many bytes of empty lines stand at the front, to be skipped (before a request only).
    pub fn skip_blank(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        if self.seen > 0 {
            return Ok(0);
        }
        let mut skip = 0;
        while bytes.get(skip..skip + 2) == Some(b"\r\n") {
            skip += 2;
            self.blank += 1;
            if self.blank > BLANK_LINES {
                return Err(bad("too many empty lines before a request"));
            }
        }
        Ok(skip)
    }

    /// The first line is here and names no version: HTTP/0.9, or no HTTP at all. Its sender waits for an answer already.
    pub fn is_unversioned(&self, bytes: &[u8]) -> bool {
        self.line > 0 && is_unversioned(bytes)
    }

    /// No method begins like this: TLS on a plain port, say. There is no point in waiting for the rest.
    pub fn is_hopeless(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|byte| !is_tchar(*byte) && !matches!(byte, b'\r' | b'\n'))
    }

    /// A lone CR in front may still become an empty line.
    pub fn is_blank_start(bytes: &[u8]) -> bool {
        bytes == b"\r"
    }

    pub fn reset(&mut self) {
        *self = HeadScan::default();
    }
}

/// The message's own lines that say where it ends, as they stand in the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    pub length: Option<u64>,
    pub chunked: bool,
}

/// What `Connection` says, every token of every line (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Fields that are not left out anyway were nominated.
    pub nominates: bool,
}

pub struct Request<'b> {
    pub method: &'b str,
    pub target: &'b str,
    /// 0 or 1, of HTTP/1.
    pub minor: u8,
    pub fields: Fields<'b>,
}

pub struct Response<'b> {
    pub status: u16,
    pub minor: u8,
    pub fields: Fields<'b>,
}

/// Uninitialised room for a head's fields: no head pays for clearing it.
pub type Room<'b> = [MaybeUninit<Header<'b>>; FIELDS_MAX];

pub fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// Parses a whole request head (as found by `HeadScan`).
pub fn parse_request<'b>(head: &'b [u8], room: &'b mut Room<'b>, limits: &Limits) -> Result<Request<'b>, Refusal> {
    let room = room.get_mut(..limits.field_limit.min(FIELDS_MAX)).unwrap_or_default();
    let mut parsed = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, head, room) {
        Ok(Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err(bad("malformed head")),
        Err(error) => return Err(request_refusal(error, head)),
    }
    match (parsed.method, parsed.path, parsed.version) {
        (Some(method), Some(target), Some(minor)) => Ok(Request { method, target, minor, fields: parsed.headers }),
        _ => Err(bad("malformed request line")),
    }
}

/// Parses a whole response head.
pub fn parse_response<'b>(
    head: &'b [u8],
    room: &'b mut Room<'b>,
    limits: &Limits,
) -> Result<Response<'b>, &'static str> {
    let room = room.get_mut(..limits.field_limit.min(FIELDS_MAX)).unwrap_or_default();
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, room) {
        Ok(Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err("malformed response head"),
        Err(Error::TooManyHeaders) => return Err("too many fields"),
        Err(_) => return Err("malformed response head"),
    }
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err("malformed status line");
    };
    if !(100..600).contains(&status) || !status_line_is_strict(head) {
        return Err("malformed status line");
    }
    Ok(Response { status, minor, fields: parsed.headers })
}

/// `HTTP/1.x SP 3DIGIT SP reason` (RFC 9112 section 4): the space before an empty reason may be missing.
fn status_line_is_strict(head: &[u8]) -> bool {
    head.get(8) == Some(&b' ') && matches!(head.get(12), Some(b' ' | b'\r'))
}

pub const UNVERSIONED: Refusal = bad("no HTTP version in the request line");

fn is_unversioned(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    memchr::memmem::find(line, b" HTTP/").is_none()
}

fn request_refusal(error: Error, head: &[u8]) -> Refusal {
    match error {
        Error::Token | Error::Version if is_unversioned(head) => UNVERSIONED,
        Error::TooManyHeaders => refusal(431, "too many fields"),
        Error::Version if has_our_version(head) => bad("malformed request line"),
        Error::Version if has_http_version(head) => refusal(505, "HTTP version not supported"),
        Error::Version => bad("malformed HTTP version"),
        Error::HeaderName => bad("malformed field name"),
        Error::HeaderValue => bad("malformed field value"),
        Error::Token => bad("malformed request line"),
        Error::NewLine | Error::Status => bad("malformed head"),
    }
}

fn has_our_version(head: &[u8]) -> bool {
    matches!(version(head), Some((b'1', b'0' | b'1')))
}

fn has_http_version(head: &[u8]) -> bool {
    version(head).is_some()
}

/// The digits of a request line that ends in `HTTP/` DIGIT `.` DIGIT.
fn version(head: &[u8]) -> Option<(u8, u8)> {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    match line.last_chunk::<9>() {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9']) => {
            Some((*major, *minor))
        }
        _ => None,
    }
}

/// Where `part`, a slice of `whole`, begins in it.
pub fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

/// Where the line of field `i` begins and how long it is, its CRLF included.
pub fn field_line(head: &[u8], fields: Fields, i: usize) -> (usize, usize) {
    let at = |i: usize| fields.get(i).map(|f| offset(head, f.name.as_bytes()));
    let start = at(i).unwrap_or(head.len());
    let end = at(i + 1).unwrap_or(head.len().saturating_sub(2));
    (start, end.saturating_sub(start))
}

/// The tokens of a comma-separated list (RFC 9110 section 5.6.1), empty elements left out.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(|token| token.trim_ascii()).filter(|token| !token.is_empty())
}

/// The value of the last field of that name, or nothing.
pub fn value<'b>(fields: Fields<'b>, name: &str) -> &'b [u8] {
    fields.iter().rev().find(|field| field.name.eq_ignore_ascii_case(name)).map_or(b"", |field| field.value)
}

/// Every token of one list stands in the other, in any case.
pub fn is_among(list: &[u8], other: &[u8]) -> bool {
    tokens(list).all(|token| tokens(other).any(|known| known.eq_ignore_ascii_case(token)))
}

/// The part of a target that origin-form has: of an absolute-form, what follows the authority.
pub fn origin_form(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    let Some((_, rest)) = target.split_once("://") else { return target };
    rest.find(['/', '?']).and_then(|i| rest.get(i..)).unwrap_or("/")
}

/// `Content-Length`: digits, nothing else, within a u64 (RFC 9110 section 8.6).
pub fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

impl Connection {
    pub fn read(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for token in tokens(value) {
            if !is_token(token) {
                return Err("malformed Connection");
            }
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !HOP_BY_HOP.iter().any(|known| token.eq_ignore_ascii_case(known)) {
                self.nominates = true;
            }
        }
        Ok(())
    }

    /// Whether the sender keeps the connection after this message (RFC 9112 section 9.3).
    pub fn persists(&self, minor: u8) -> bool {
        !self.close && (minor == 1 || self.keep_alive)
    }
}

/// Names that are usual in `Connection` and are dealt with one by one.
const HOP_BY_HOP: [&[u8]; 4] = [b"te", b"trailer", b"http2-settings", b"proxy-connection"];

pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_tchar(*b))
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Bytes of a request target that every parser reads alike. httparse lets more through.
pub fn target_is_safe(target: &str) -> bool {
    target.bytes().all(|b| TARGET_BYTES[usize::from(b)])
}

const TARGET_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\');
        byte += 1;
    }
    table
};

/// The bytes of a reg-name (RFC 3986 section 3.2.2), save the comma, with which some join two `Host` lines.
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 128 {
        table[i] = (i as u8).is_ascii_alphanumeric();
        i += 1;
    }
    let marks = b"-._~%!$&'()*+;=";
    let mut i = 0;
    while i < marks.len() {
        table[marks[i] as usize] = true;
        i += 1;
    }
    table
};

/// Reads `name` with `_` for `-`, as servers do that turn fields into environment variables (RFC 3875 section 4.1.18).
pub fn resembles(name: &str, known: &str) -> bool {
    let dashed = name.bytes().map(|b| if b == b'_' { b'-' } else { b.to_ascii_lowercase() });
    name.len() == known.len() && dashed.eq(known.bytes())
}

/// The one spelling of a field's line that every parser reads alike: at most a space after the colon, none behind.
pub fn is_tidy(head: &[u8], field: &Header) -> bool {
    let colon = offset(head, field.name.as_bytes()) + field.name.len();
    let value = offset(head, field.value);
    let before = head.get(colon..value).unwrap_or_default();
    let after = head.get(value + field.value.len()..).unwrap_or_default();
    matches!(before, b":" | b": ") && after.starts_with(b"\r\n")
}

/// `uri-host [ ":" port ]` (RFC 9110 section 4.2.1), with a name, and not longer than one can be.
pub fn host_is_valid(host: &[u8]) -> bool {
    const HOST_LIMIT: usize = 262;
    let (named, rest) = match host.strip_prefix(b"[") {
        Some(inside) => {
            let (ip, rest) = inside.split_at(memchr::memchr(b']', inside).unwrap_or(inside.len()));
            let ip = std::str::from_utf8(ip).ok().and_then(|ip| ip.parse::<Ipv6Addr>().ok());
            (ip.is_some(), rest.strip_prefix(b"]").unwrap_or(b"["))
        }
        None => {
            let (name, rest) =
                host.split_at(host.iter().position(|b| !HOST_BYTES[usize::from(*b)]).unwrap_or(host.len()));
            (!name.is_empty(), rest)
        }
    };
    let ported = match rest.strip_prefix(b":") {
        Some(port) if port.len() <= 5 => port.is_empty() || parse_length(port).is_some_and(|port| port <= 65_535),
        Some(_) => false,
        None => rest.is_empty(),
    };
    named && ported && host.len() <= HOST_LIMIT
}

/// `Some(false)` for a trailer that framing, routing, or the connection depends on (RFC 9110 section 6.5.1);
/// `None` for a line that is no field.
pub fn trailer_allowed(line: &[u8]) -> Option<bool> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = line.split_at(colon);
    let clean = value.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f));
    (is_token(name) && clean).then(|| {
        let prefixed = |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|n| n.eq_ignore_ascii_case(prefix));
        let known = FORBIDDEN_TRAILERS.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()));
        !known && !prefixed(b"x-forwarded-") && !prefixed(b"if-") && !name.contains(&b'_')
    })
}

const FORBIDDEN_TRAILERS: [&str; 30] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "keep-alive",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
];
