//! Responses that the balancer makes itself: refusals with a JSON body, redirects, and replies to OPTIONS, TRACE and ACME
//! servers.

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

/// Sends the client to another URL (RFC 9110 section 15.4).
pub fn redirect(status: u16, location: &str, date_line: &str) -> Bytes {
    let reason = reason(status);
    format!(
        "HTTP/1.1 {status} {reason}\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n{date_line}\r\n"
    )
    .into()
}

/// What an ACME server asks for that checks a name (RFC 8555 section 8.3).
pub fn challenge(content: &str, date_line: &str) -> Bytes {
    let length = content.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\nConnection: close\r\n{date_line}\r\n{content}"
    )
    .into()
}

fn reason(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
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

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Date: now\r\n";

    #[test]
    fn a_reply_is_one_json_line_and_ends_the_connection() {
        let expected = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 44\r\n\
                        Connection: close\r\nDate: now\r\n\r\n{\"message\":\"<Error> why\",\"status\":\"failure\"}";
        let whole = refusal(400, "why", DATE);
        assert_eq!(std::str::from_utf8(&whole), Ok(expected));
        let head = refusal_head(400, "why", DATE);
        assert_eq!(head, whole[..whole.len() - 44]);
    }

    #[test]
    fn only_503_says_when_to_try_again() {
        for status in [400, 502, 503, 504] {
            let text = String::from_utf8(refusal(status, "", DATE).to_vec()).unwrap();
            assert_eq!(text.contains("\r\nRetry-After: 1\r\n"), status == 503, "{text}");
        }
    }

    /// RFC 9110 section 15; 429 and 431: RFC 6585.
    #[test]
    fn each_status_has_its_reason_phrase() {
        let phrases = [
            (400, "Bad Request"),
            (404, "Not Found"),
            (408, "Request Timeout"),
            (413, "Content Too Large"),
            (414, "URI Too Long"),
            (417, "Expectation Failed"),
            (429, "Too Many Requests"),
            (431, "Request Header Fields Too Large"),
            (501, "Not Implemented"),
            (502, "Bad Gateway"),
            (503, "Service Unavailable"),
            (504, "Gateway Timeout"),
            (505, "HTTP Version Not Supported"),
        ];
        for (status, phrase) in phrases {
            assert!(refusal(status, "", DATE).starts_with(format!("HTTP/1.1 {status} {phrase}\r\n").as_bytes()));
        }
    }

    #[test]
    fn options_and_trace_have_their_own_replies() {
        assert!(options(DATE).starts_with(b"HTTP/1.1 200 OK\r\nAllow: GET, "));
        assert!(options(DATE).ends_with(b"\r\nContent-Length: 0\r\nConnection: close\r\nDate: now\r\n\r\n"));
        let traced = trace(b"TRACE / HTTP/1.1\r\n\r\n", DATE);
        assert!(
            traced
                .ends_with(b"\r\nContent-Length: 20\r\nConnection: close\r\nDate: now\r\n\r\nTRACE / HTTP/1.1\r\n\r\n")
        );
    }
}
