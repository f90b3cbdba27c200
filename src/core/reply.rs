//! Answers of the balancer itself: a small fixed head and a JSON body, one per status.

use bytes::Bytes;

/// Seconds after which a client may try again when no replica is available.
const RETRY_AFTER_S: u32 = 1;

/// More than the head of any answer here, its body of one line included.
pub const HEAD_MAX: usize = 512;

/// The answer for `status`, with its reason for people. Always the connection's last message.
pub fn reply(status: u16, why: &str, head_only: bool, date_line: &str) -> Bytes {
    let body = format!("{{\"message\":\"<Error> {why}\",\"status\":\"failure\"}}");
    let retry = if status == 503 { format!("Retry-After: {RETRY_AFTER_S}\r\n") } else { String::new() };
    let mut text = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{retry}Connection: close\r\n{date_line}\r\n",
        reason(status),
        body.len(),
    );
    if !head_only {
        text.push_str(&body);
    }
    text.into()
}

/// The answer to `OPTIONS` whose `Max-Forwards` ended here (RFC 9110 section 7.6.2).
pub fn options(date_line: &str) -> Bytes {
    [
        b"HTTP/1.1 200 OK\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\nContent-Length: 0\r\nConnection: close\r\n",
        date_line.as_bytes(),
        b"\r\n",
    ]
    .concat()
    .into()
}

/// The answer to `TRACE` whose `Max-Forwards` ended here: the request itself (RFC 9110 section 9.3.8).
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
