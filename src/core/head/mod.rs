//! Heads of HTTP/1 messages: found, parsed by httparse, and checked where httparse is lenient (RFC 9110, RFC 9112).
//! A head that two parsers could read in two ways is refused. What its fields mean is decided in [`request`](super::request)
//! and [`response`](super::response).
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | the types: [`Request`], [`Response`], [`Fields`], [`Refusal`] (status and reason), the largest head and number of fields |
//! | `scan` | where a head ends while its bytes arrive: `HeadScan`, line ends, a bare LF, empty lines before it, what is no HTTP; 431 when too long |
//! | `parse` | a complete head through httparse: storage for fields, httparse's errors mapped to 400, 431, 505; strict status line and version |
//! | `grammar` | predicates on parts: tokens, lists, lengths, targets, hosts, names that resemble a framing field, the forbidden trailers; offsets of a part and its line in the head |

mod grammar;
mod parse;
mod scan;

pub use grammar::{
    authority, cmp_ignore_case, field_line, host_is_valid, is_among, is_canonical, is_token, offset, origin_form,
    parse_length, resembles, target_is_safe, tokens, trailer_allowed, value,
};
pub use parse::{FieldStorage, UNVERSIONED, field_storage, parse_request, parse_response};
pub use scan::{EMPTY_LINES_MAX, HeadScan};

use httparse::Header;

/// The upper bound of `Limits::field_limit`.
pub const FIELDS_MAX: usize = 1000;
/// The upper bound of `Limits::head_limit`, in bytes.
pub const HEAD_MAX: usize = 128 * 1024;

pub type Fields<'b> = &'b [Header<'b>];

/// Why a head is refused: the status that a client gets, and one line of text. A refused response head is 502.
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
