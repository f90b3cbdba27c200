//! The grammar of targets, hosts, field names, lists and lengths (RFC 9110, RFC 9112, RFC 3986), stricter than httparse
//! where implementations differ. Pure predicates and parsers: nothing is changed here.

use std::cmp::Ordering;
use std::net::Ipv6Addr;

use httparse::Header;

use super::Fields;

/// The offset of `part`, a subslice of `whole`.
pub fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

/// The offset and length of the line of field `i`, its CRLF included.
pub fn field_line(head: &[u8], fields: Fields, i: usize) -> (usize, usize) {
    let at = |i: usize| fields.get(i).map(|f| offset(head, f.name.as_bytes()));
    let start = at(i).unwrap_or(head.len());
    let end = at(i + 1).unwrap_or(head.len().saturating_sub(2));
    (start, end.saturating_sub(start))
}

/// The elements of a comma-separated list, without empty ones (RFC 9110 section 5.6.1).
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(|token| token.trim_ascii()).filter(|token| !token.is_empty())
}

pub fn cmp_ignore_case(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
}

/// The value of the last field of that name, or an empty one.
pub fn value<'b>(fields: Fields<'b>, name: &str) -> &'b [u8] {
    fields.iter().rev().find(|field| field.name.eq_ignore_ascii_case(name)).map_or(b"", |field| field.value)
}

/// `list` has tokens, and each of them is in `other`; case does not matter.
pub fn is_among(list: &[u8], other: &[u8]) -> bool {
    let is_known = |token: &[u8]| tokens(other).any(|known| known.eq_ignore_ascii_case(token));
    tokens(list).next().is_some() && tokens(list).all(is_known)
}

/// The origin-form of a target: of an absolute-form, what follows the authority (RFC 9112 section 3.2).
pub fn origin_form(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    let Some((_, rest)) = target.split_once("://") else { return target };
    rest.find(['/', '?']).and_then(|i| rest.get(i..)).unwrap_or("/")
}

/// The authority of a target in absolute-form (RFC 9112 section 3.2.2).
pub fn authority(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return None;
    }
    let (_, rest) = target.split_once("://")?;
    rest.get(..rest.find(['/', '?']).unwrap_or(rest.len()))
}

/// `1*DIGIT` within a u64, as in `Content-Length` (RFC 9110 section 8.6).
pub fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_tchar(*b))
}

pub fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The target has only visible ASCII, as every parser reads it, and no fragment. Browsers send `\ " < > ^ { | }` and the
/// backtick as they are, though RFC 3986 section 2 has none of them. httparse accepts more.
pub fn target_is_safe(target: &str) -> bool {
    target.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// The bytes of a reg-name (RFC 3986 section 3.2.2) without the comma: some servers join two `Host` fields with it.
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

/// `name` equals `known` if `_` counts as `-`, as in servers that map fields to environment variables (RFC 3875 section
/// 4.1.18).
pub fn resembles(name: &str, known: &str) -> bool {
    let dashed = name.bytes().map(|b| if b == b'_' { b'-' } else { b.to_ascii_lowercase() });
    name.len() == known.len() && dashed.eq(known.bytes())
}

/// The field line has the spelling that every parser reads alike: at most one space after the colon, none at the end.
pub fn is_canonical(head: &[u8], field: &Header) -> bool {
    let colon = offset(head, field.name.as_bytes()) + field.name.len();
    let value = offset(head, field.value);
    let before = head.get(colon..value).unwrap_or_default();
    let after = head.get(value + field.value.len()..).unwrap_or_default();
    matches!(before, b":" | b": ") && after.starts_with(b"\r\n")
}

/// `uri-host [ ":" port ]` (RFC 9110 section 4.2.1), not empty and of at most 262 bytes.
pub fn host_is_valid(host: &[u8]) -> bool {
    const HOST_LIMIT: usize = 262;
    let (has_host, rest) = match host.strip_prefix(b"[") {
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
    let has_valid_port = match rest.strip_prefix(b":") {
        Some(port) if port.len() <= 5 => port.is_empty() || parse_length(port).is_some_and(|port| port <= 65_535),
        Some(_) => false,
        None => rest.is_empty(),
    };
    has_host && has_valid_port && host.len() <= HOST_LIMIT
}

/// Whether a trailer field may be forwarded: not if framing, routing, caching or authentication depends on its name (RFC
/// 9110 section 6.5.1). `None` if the line is malformed.
pub fn trailer_allowed(line: &[u8]) -> Option<bool> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = line.split_at(colon);
    let is_valid = value.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f));
    (is_token(name) && is_valid).then(|| {
        let prefixed = |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|n| n.eq_ignore_ascii_case(prefix));
        let is_forbidden = FORBIDDEN_TRAILERS.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()));
        !is_forbidden && !prefixed(b"x-forwarded-") && !prefixed(b"if-") && !name.contains(&b'_')
    })
}

const FORBIDDEN_TRAILERS: [&str; 33] = [
    "age",
    "authorization",
    "cache-control",
    "client-cert",
    "client-cert-chain",
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
    "proxy",
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
