//! Heads of HTTP/1 messages: found, parsed by httparse, and held to what it leaves open (RFC 9110, RFC 9112).
//! Where two parsers could read a head in two ways, it is refused.

mod grammar;
mod parse;
mod scan;

pub use grammar::{
    field_line, host_is_valid, is_among, is_canonical, is_token, offset, origin_form, parse_length, resembles,
    target_is_safe, tokens, trailer_allowed, value,
};
pub use parse::{FieldStorage, UNVERSIONED, field_storage, parse_request, parse_response};
pub use scan::{BLANK_LINES, HeadScan};

use httparse::Header;

use super::buffer::CAPACITY;

/// The most fields a head may have, whatever the configuration says.
pub const FIELDS_MAX: usize = 128;
/// The longest head, whatever the configuration says: it has to fit a buffer.
pub const HEAD_MAX: usize = CAPACITY - 1;

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

pub const fn bad_request(why: &'static str) -> Refusal {
    refusal(400, why)
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
