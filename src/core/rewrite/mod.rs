//! What an intermediary does alike to both heads: it reads the framing, `Connection` and `Upgrade` fields, cuts field
//! lines and writes them anew. What it means for a request or a response is decided by their analyzers.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`Rewriter`]: reads Content-Length, Transfer-Encoding, Connection and Upgrade of either head, and cuts or replaces field lines: hop-by-hop and nominated ones, a length beside chunked; a padded or listed Content-Length and a coding made canonical; appends lines; whether the connection persists |
//! | `edits` | [`Edits`]: the list of cuts and insertions, and its application in place by moving bytes; no HTTP |
//! | `canonical` | a response head that is malformed in a harmless way made canonical: bare LF, blanks before a colon, folded lines, spaces in the status line |

mod canonical;
mod edits;

pub use canonical::canonicalize_response;
pub use edits::Edits;

use super::body::Body;
use super::head::{self, Fields};

/// One head and its changes. Fields are named by their index in the head.
pub struct Rewriter<'h, 'e> {
    head: &'h [u8],
    fields: Fields<'h>,
    minor: u8,
    edits: &'e mut Edits,
    connection: ConnectionTokens,
    /// `Content-Length`, and the field that stays.
    length: Option<(u64, usize)>,
    /// `Transfer-Encoding: chunked`.
    coding: Option<usize>,
    /// `Upgrade`, the last one.
    upgrade: Option<usize>,
}

/// What `Connection` says, every token of every field (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
struct ConnectionTokens {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// It names a field that is not cut anyway.
    nominates: bool,
}

/// Why a `Transfer-Encoding` field is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodingError {
    Repeated,
    /// `chunked` among other codings or in another form, or nothing at all.
    Malformed,
    Unknown,
}

impl<'h, 'e> Rewriter<'h, 'e> {
    pub fn new(head: &'h [u8], fields: Fields<'h>, minor: u8, edits: &'e mut Edits) -> Self {
        let connection = ConnectionTokens::default();
        Rewriter { head, fields, minor, edits, connection, length: None, coding: None, upgrade: None }
    }

    /// `Content-Length`: one value. A repetition of it is cut (RFC 9112 section 6.3).
    pub fn content_length(&mut self, i: usize, value: &[u8]) -> Result<(), &'static str> {
        let length = head::parse_length(value).ok_or("malformed Content-Length")?;
        match self.length {
            None => self.length = Some((length, i)),
            Some((earlier, _)) if earlier == length => self.cut(i),
            Some(_) => return Err("conflicting Content-Length"),
        }
        Ok(())
    }

    /// `Transfer-Encoding`: `chunked`, once, and nothing else (RFC 9112 section 6.1).
    pub fn transfer_encoding(&mut self, i: usize, value: &[u8]) -> Result<(), CodingError> {
        if self.coding.is_some() {
            return Err(CodingError::Repeated);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            let malformed = value.is_empty() || head::tokens(value).any(|t| t.eq_ignore_ascii_case(b"chunked"));
            return Err(if malformed { CodingError::Malformed } else { CodingError::Unknown });
        }
        self.coding = Some(i);
        Ok(())
    }

    /// `Connection` is read and cut: it is between two neighbours. Whether it is a list of options; what is none says
    /// nothing.
    pub fn connection(&mut self, i: usize, value: &[u8]) -> bool {
        self.cut(i);
        self.connection.read(value)
    }

    /// `Upgrade`: of several fields only the last stays. Whether this is the first.
    pub fn upgrade(&mut self, i: usize) -> bool {
        let earlier = self.upgrade.replace(i);
        if let Some(earlier) = earlier {
            self.cut(earlier);
        }
        earlier.is_none()
    }

    pub fn has_length(&self) -> bool {
        self.length.is_some()
    }

    pub fn is_chunked(&self) -> bool {
        self.coding.is_some()
    }

    pub fn has_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// `Connection` says that `Upgrade` is meant for its receiver (RFC 9110 section 7.8).
    pub fn connection_upgrades(&self) -> bool {
        self.connection.upgrade
    }

    /// Whether the sender keeps the connection after this message (RFC 9112 section 9.3).
    pub fn persists(&self) -> bool {
        !self.connection.close && (self.minor == 1 || self.connection.keep_alive)
    }

    /// The body as the framing fields have it, `None` without them. `Transfer-Encoding` overrides `Content-Length`
    /// (RFC 9112 section 6.3). Nominated fields are cut, so those of the trailer section are, too.
    pub fn framed_body(&self) -> Option<Body> {
        match (self.coding, self.length) {
            (Some(_), _) if self.connection.nominates => Some(Body::chunked_without_trailers()),
            (Some(_), _) => Some(Body::chunked()),
            (None, Some((length, _))) => Some(Body::Length(length)),
            (None, None) => None,
        }
    }

    /// Writes `Content-Length` so that every parser reads the same number.
    pub fn canonicalize_length(&mut self) {
        let Some((length, i)) = self.length else { return };
        let padded = |value: &[u8]| value.len() > 1 && value.first() == Some(&b'0');
        if let Some(field) = self.fields.get(i)
            && (padded(field.value) || !head::is_canonical(self.head, field))
        {
            self.replace_line(i, field.name, length.to_string().as_bytes());
        }
    }

    /// Writes `Transfer-Encoding` so that every parser reads the same coding.
    pub fn canonicalize_coding(&mut self) {
        if let Some((i, field)) = self.coding.and_then(|i| Some((i, self.fields.get(i)?)))
            && !head::is_canonical(self.head, field)
        {
            self.replace_line(i, field.name, b"chunked");
        }
    }

    pub fn cut_length(&mut self) {
        if let Some((_, i)) = self.length {
            self.cut(i);
        }
    }

    pub fn cut_coding(&mut self) {
        if let Some(i) = self.coding {
            self.cut(i);
        }
    }

    pub fn cut_upgrade(&mut self) {
        if let Some(i) = self.upgrade {
            self.cut(i);
        }
    }

    /// Cuts the fields that `Connection` names (RFC 9110 section 7.6.1), save those that are `exempt`.
    pub fn cut_nominated(&mut self, exempt: fn(&str) -> bool) {
        if !self.connection.nominates {
            return;
        }
        // Sorted, since a long head can name thousands of fields.
        let nominations = self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        let mut names: Vec<&[u8]> = nominations.flat_map(|field| head::tokens(field.value)).collect();
        names.sort_unstable_by(|a, b| head::cmp_ignore_case(a, b));
        for (i, field) in self.fields.iter().enumerate() {
            let found = names.binary_search_by(|name| head::cmp_ignore_case(name, field.name.as_bytes()));
            if found.is_ok() && !exempt(field.name) {
                self.cut(i);
            }
        }
    }

    /// Cuts the line of a field.
    pub fn cut(&mut self, i: usize) {
        let (at, len) = head::field_line(self.head, self.fields, i);
        self.edits.cut(at, len);
    }

    /// Writes the line of a field anew.
    pub fn replace_line(&mut self, i: usize, name: &str, value: &[u8]) {
        let (at, len) = head::field_line(self.head, self.fields, i);
        self.edits.replace(at, len, &[name.as_bytes(), b": ", value, b"\r\n"]);
    }

    /// Puts the parts in the place of `len` bytes at `at` of the head.
    pub fn replace(&mut self, at: usize, len: usize, parts: &[&[u8]]) {
        self.edits.replace(at, len, parts);
    }

    /// Puts lines behind the last field.
    pub fn append(&mut self, parts: &[&[u8]]) {
        self.edits.replace(self.head.len().saturating_sub(2), 0, parts);
    }
}

impl ConnectionTokens {
    /// Whether all members are tokens.
    fn read(&mut self, value: &[u8]) -> bool {
        let mut are_tokens = true;
        for token in head::tokens(value) {
            if !head::is_token(token) {
                are_tokens = false;
            } else if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !HOP_BY_HOP.iter().any(|known| token.eq_ignore_ascii_case(known)) {
                self.nominates = true;
            }
        }
        are_tokens
    }
}

/// Names that are common in `Connection` and are cut or kept by rules of their own.
const HOP_BY_HOP: [&[u8]; 4] = [b"te", b"trailer", b"http2-settings", b"proxy-connection"];
