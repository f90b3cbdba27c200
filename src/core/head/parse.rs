//! Parses a complete head with httparse and maps its errors to refusals.

use std::mem::MaybeUninit;

use httparse::{Error, Header, ParserConfig, Status};

use super::{FIELDS_MAX, Refusal, Request, Response, bad_request, refusal};
use crate::core::limits::Limits;

/// Fields of a head whose storage is on the stack.
const FIELDS_FEW: usize = 128;

type FieldSlots<'b> = [MaybeUninit<Header<'b>>];

/// Storage for the fields of a head. It is not initialised: clearing 4 KiB would cost every head. Where more fields are
/// allowed and come, they are parsed again into storage on the heap.
pub struct FieldStorage<'b> {
    few: [MaybeUninit<Header<'b>>; FIELDS_FEW],
    many: Vec<MaybeUninit<Header<'b>>>,
}

pub fn field_storage<'b>() -> FieldStorage<'b> {
    FieldStorage { few: [const { MaybeUninit::uninit() }; FIELDS_FEW], many: Vec::new() }
}

impl<'b> FieldStorage<'b> {
    /// `parse` with storage for at most as many fields as `limits` allow. `too_many` is its error where they are not enough.
    #[inline]
    fn parse_with<T, E: PartialEq>(
        &'b mut self,
        parse: impl Fn(&'b [u8], &'b mut FieldSlots<'b>) -> Result<T, E>,
        head: &'b [u8],
        limits: &Limits,
        too_many: E,
    ) -> Result<T, E> {
        let most = limits.field_limit.min(FIELDS_MAX);
        let few = self.few.get_mut(..most.min(FIELDS_FEW)).unwrap_or_default();
        match parse(head, few) {
            Err(error) if error == too_many && most > FIELDS_FEW => {
                self.many.resize_with(most, MaybeUninit::uninit);
                parse(head, &mut self.many)
            }
            result => result,
        }
    }
}

/// Parses a complete request head, as found by `HeadScan`.
pub fn parse_request<'b>(
    head: &'b [u8],
    storage: &'b mut FieldStorage<'b>,
    limits: &Limits,
) -> Result<Request<'b>, Refusal> {
    storage.parse_with(request, head, limits, TOO_MANY_FIELDS)
}

/// Parses a complete response head, as found by `HeadScan`.
pub fn parse_response<'b>(
    head: &'b [u8],
    storage: &'b mut FieldStorage<'b>,
    limits: &Limits,
) -> Result<Response<'b>, &'static str> {
    storage.parse_with(response, head, limits, TOO_MANY_FIELDS.why)
}

const TOO_MANY_FIELDS: Refusal = refusal(431, "too many fields");

fn request<'b>(head: &'b [u8], storage: &'b mut FieldSlots<'b>) -> Result<Request<'b>, Refusal> {
    let mut parsed = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, head, storage) {
        Ok(Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err(bad_request("malformed head")),
        Err(error) => return Err(request_refusal(error, head)),
    }
    match (parsed.method, parsed.path, parsed.version) {
        (Some(method), Some(target), Some(minor)) => Ok(Request { method, target, minor, fields: parsed.headers }),
        _ => Err(bad_request("malformed request line")),
    }
}

fn response<'b>(head: &'b [u8], storage: &'b mut FieldSlots<'b>) -> Result<Response<'b>, &'static str> {
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, storage) {
        Ok(Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err("malformed response head"),
        Err(Error::TooManyHeaders) => return Err(TOO_MANY_FIELDS.why),
        Err(_) => return Err("malformed response head"),
    }
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err("malformed status line");
    };
    if status < 100 || !status_line_is_strict(head) {
        return Err("malformed status line");
    }
    Ok(Response { status, minor, fields: parsed.headers })
}

/// `HTTP/1.x SP 3DIGIT SP reason` (RFC 9112 section 4). The space before an empty reason may be missing.
fn status_line_is_strict(head: &[u8]) -> bool {
    head.get(8) == Some(&b' ') && matches!(head.get(12), Some(b' ' | b'\r'))
}

pub const UNVERSIONED: Refusal = bad_request("no HTTP version in the request line");

pub fn is_unversioned(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    memchr::memmem::find(line, b" HTTP/").is_none()
}

fn request_refusal(error: Error, head: &[u8]) -> Refusal {
    match error {
        Error::Token | Error::Version if is_unversioned(head) => UNVERSIONED,
        Error::TooManyHeaders => TOO_MANY_FIELDS,
        Error::Version if has_supported_version(head) => bad_request("malformed request line"),
        Error::Version if has_http_version(head) => refusal(505, "HTTP version not supported"),
        Error::Version => bad_request("malformed HTTP version"),
        Error::HeaderName => bad_request("malformed field name"),
        Error::HeaderValue => bad_request("malformed field value"),
        Error::Token => bad_request("malformed request line"),
        Error::NewLine | Error::Status => bad_request("malformed head"),
    }
}

fn has_supported_version(head: &[u8]) -> bool {
    matches!(version(head), Some((b'1', b'0' | b'1')))
}

fn has_http_version(head: &[u8]) -> bool {
    version(head).is_some()
}

/// The two digits of a request line that ends in `HTTP/` DIGIT `.` DIGIT.
fn version(head: &[u8]) -> Option<(u8, u8)> {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    match line.last_chunk::<9>() {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9']) => {
            Some((*major, *minor))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::field_storage;
    use super::*;

    /// httparse skips empty lines before a status line, and takes LF for the end of one.
    #[test]
    fn a_status_line_that_httparse_reads_more_widely_is_refused() {
        let status =
            |head: &str| parse_response(head.as_bytes(), &mut field_storage(), &Limits::DEFAULT).map(|r| r.status);
        assert_eq!(status("HTTP/1.1 200 OK\r\n\r\n"), Ok(200));
        assert_eq!(status("HTTP/1.1 200\r\n\r\n"), Ok(200));
        for head in ["\r\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200\n\r\n", "\nHTTP/1.1 20 OK\r\n\r\n"] {
            assert!(status(head).is_err(), "{head:?}");
        }
    }
}
