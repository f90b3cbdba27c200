//! The oracle of request heads: what a replica receives is what the client meant, with one reading only.

use super::super::configuration::{HTTP_NAME, SECOND_NAME};
use super::super::http::{Framing, Head};
use super::super::kernel::client_ip;
use super::super::request::{Malformed, Request, RequestBody};

/// Checks start line, Host, hop-by-hop fields, forwarding fields and framing, and returns the framing.
pub fn check_head(request: &Request, head: &Head) -> Result<Framing, String> {
    let start = format!("{} {} HTTP/1.1", request.method, request.target);
    if head.start != start {
        return Err(format!("{:?} instead of {start:?}", head.start));
    }
    let host = head.single("host")?;
    // The name of a service stands in for a Host that a request lacks.
    let is_of_second = request.host == HTTP_NAME && host == Some(SECOND_NAME);
    if host != Some(&request.host) && !is_of_second {
        return Err(format!("Host is not {}: {head:?}", request.host));
    }
    check_fields(request, head)?;
    let framing = Framing::of(head)?;
    match (framing, request.body, request.malformed) {
        (Some(Framing::Chunked), RequestBody::Chunked(_), _) | (Some(Framing::Chunked), _, Malformed::Body) => {}
        (Some(Framing::Length(got)), RequestBody::Length(len), _) if got == len => {}
        (None, RequestBody::None, _) => {}
        _ => return Err(format!("framing {framing:?} for {:?}: {head:?}", request.body)),
    }
    Ok(framing.unwrap_or(Framing::None))
}

/// Hop-by-hop fields are gone (RFC 9110 section 7.6.1), the client's address and scheme and Via are there.
fn check_fields(request: &Request, head: &Head) -> Result<(), String> {
    for name in ["keep-alive", "te", "x-hop", "proxy-connection"] {
        if head.single(name)?.is_some() {
            return Err(format!("{name} was forwarded: {head:?}"));
        }
    }
    let connection = head.single("connection")?;
    if connection.is_some() && !(request.upgrade && connection == Some("upgrade")) {
        return Err(format!("Connection was forwarded: {head:?}"));
    }
    if head.single("x-forwarded-proto")? != Some(request.scheme) {
        return Err(format!("X-Forwarded-Proto is not {}: {head:?}", request.scheme));
    }
    let client = client_ip(request.client).to_string();
    let forwarded = head.single("x-forwarded-for")?.unwrap_or_default();
    if forwarded.rsplit(", ").next() != Some(&client) || head.single("via")?.is_none() {
        return Err(format!("no X-Forwarded-For of {client}, or no Via: {head:?}"));
    }
    Ok(())
}
