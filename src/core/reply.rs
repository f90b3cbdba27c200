//! Responses that the balancer makes itself: refusals with a JSON body, and replies to OPTIONS and TRACE.

use bytes::Bytes;

/// `Retry-After` of a 503.
const RETRY_AFTER_S: u32 = 1;

/// An upper bound in bytes of a refusal, its body included, and of the head of any other reply.
pub const HEAD_MAX: usize = 512;

/// A refusal with `why` as its message. It is the last response on its connection.
pub fn refusal(status: u16, why: &str, date_line: &str) -> Bytes {
    let body = refusal_body(why);
    (head(status, body.len(), date_line) + &body).into()
}

/// A refusal of a HEAD request: the same head, without the body.
pub fn refusal_head(status: u16, why: &str, date_line: &str) -> Bytes {
    head(status, refusal_body(why).len(), date_line).into()
}

fn refusal_body(why: &str) -> String {
    format!("{{\"message\":\"<Error> {why}\",\"status\":\"failure\"}}")
}

fn head(status: u16, length: usize, date_line: &str) -> String {
    let retry = if status == 503 { format!("Retry-After: {RETRY_AFTER_S}\r\n") } else { String::new() };
    let reason = reason(status);
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{retry}Connection: close\r\n{date_line}\r\n"
    )
}

/// The reply to OPTIONS with `Max-Forwards: 0` (RFC 9110 section 7.6.2).
pub fn options(date_line: &str) -> Bytes {
    [
        b"HTTP/1.1 200 OK\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\nContent-Length: 0\r\nConnection: close\r\n",
        date_line.as_bytes(),
        b"\r\n",
    ]
    .concat()
    .into()
}

/// The reply to TRACE with `Max-Forwards: 0`: the request itself (RFC 9110 section 9.3.8).
pub fn trace(request: &[u8], date_line: &str) -> Bytes {
    let length = request.len().to_string();
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: message/http\r\nContent-Length: ",
        length.as_bytes(),
        b"\r\nConnection: close\r\n",
        date_line.as_bytes(),
        b"\r\n",
        request,
    ]
    .concat()
    .into()
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
