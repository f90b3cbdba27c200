//! Heads of HTTP/1 messages: found, parsed by httparse, and held to what it leaves open (RFC 9110, RFC 9112).
//! Where two parsers could read a head in two ways, it is refused.

mod grammar;
mod parse;
mod scan;

pub use grammar::{
    field_line, host_is_valid, is_among, is_tidy, is_token, offset, origin_form, parse_length, resembles,
    target_is_safe, tokens, trailer_allowed, value,
};
pub use parse::{Room, UNVERSIONED, parse_request, parse_response, room};
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

const fn bad(why: &'static str) -> Refusal {
    refusal(400, why)
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
