//! Finds the end of a head while its bytes arrive; each byte is scanned once. Fields are not parsed here.

use super::grammar::is_tchar;
use super::parse::is_unversioned;
use super::{HEAD_MAX, Refusal, bad_request, refusal};
use crate::core::limits::Limits;

/// Empty lines that are ignored before a request line (RFC 9112 section 2.2).
pub const EMPTY_LINES_MAX: usize = 4;
const CRLF: usize = 2;

/// The state of the search, kept between reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    /// Where the current line begins.
    line_start: usize,
    /// Bytes that hold no line end, or whose lines are complete.
    scanned: usize,
    empty_lines: usize,
    /// A line ended in LF alone.
    has_bare_lf: bool,
}

/// What ends a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Crlf,
    CrlfOrLf,
}

impl HeadScan {
    /// The length of a request head in bytes, its empty line included; `None` while it is incomplete. A refusal is 400, 414
    /// or 431.
    pub fn find(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        self.find_with(LineEnd::Crlf, bytes, limits)
    }

    /// The same of a response head, whose lines may end in LF alone (RFC 9112 section 2.2).
    pub fn find_response(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        self.find_with(LineEnd::CrlfOrLf, bytes, limits)
    }

    /// A line of the head ended in LF alone.
    pub fn has_bare_lf(&self) -> bool {
        self.has_bare_lf
    }

    fn find_with(&mut self, end: LineEnd, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        let head_limit = limits.head_limit.min(HEAD_MAX);
        while let Some(lf) = self.next_lf(bytes) {
            if self.line_start == 0 && lf > limits.line_limit + CRLF - 1 {
                return Err(refusal(414, "request line too long"));
            }
            if lf >= head_limit {
                return Err(refusal(431, "head too large"));
            }
            let mut empty = lf == self.line_start + 1;
            if lf == self.line_start || bytes.get(lf - 1) != Some(&b'\r') {
                if end == LineEnd::Crlf {
                    return Err(bad_request("line ended by LF alone"));
                }
                self.has_bare_lf = true;
                empty = lf == self.line_start;
            }
            (self.line_start, self.scanned) = (lf + 1, lf + 1);
            if empty {
                return Ok(Some(lf + 1));
            }
        }
        self.scanned = bytes.len();
        if self.line_start == 0 && self.scanned > limits.line_limit + CRLF - 1 {
            return Err(refusal(414, "request line too long"));
        }
        if self.scanned > head_limit { Err(refusal(431, "head too large")) } else { Ok(None) }
    }

    fn next_lf(&self, bytes: &[u8]) -> Option<usize> {
        let rest = bytes.get(self.scanned..)?;
        // The empty line needs no search.
        let empty = self.scanned == self.line_start && rest.starts_with(b"\r\n");
        let at = if empty { 1 } else { memchr::memchr(b'\n', rest)? };
        Some(self.scanned + at)
    }

    /// The bytes of empty lines before a request line, which the caller skips.
    pub fn skip_empty_lines(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        if self.scanned > 0 {
            return Ok(0);
        }
        let mut skip = 0;
        while bytes.get(skip..skip + 2) == Some(b"\r\n") {
            skip += 2;
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(bad_request("too many empty lines before a request"));
            }
        }
        Ok(skip)
    }

    /// The first line is complete and has no HTTP version: HTTP/0.9, whose client waits for a response already, or not HTTP.
    pub fn is_unversioned(&self, bytes: &[u8]) -> bool {
        self.line_start > 0 && is_unversioned(bytes)
    }

    /// No method begins with this byte (TLS on a plain port, for example): more bytes cannot make it a request.
    pub fn is_not_http(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|byte| !is_tchar(*byte) && !matches!(byte, b'\r' | b'\n'))
    }

    /// A lone CR, which may be the first half of an empty line.
    pub fn may_be_empty_line(bytes: &[u8]) -> bool {
        bytes == b"\r"
    }

    pub fn reset(&mut self) {
        *self = HeadScan::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_limit_counts_the_bytes_before_crlf() {
        let limits = Limits { line_limit: 20, ..Limits::DEFAULT };
        let find = |bytes: &str| HeadScan::default().find(bytes.as_bytes(), &limits).map_err(|refusal| refusal.status);
        let line = |len: usize| "x".repeat(len);
        assert_eq!(find(&format!("{}\r\n", line(20))), Ok(None));
        assert_eq!(find(&format!("{}\r\n", line(21))), Err(414));
        assert_eq!(find(&format!("{}\r", line(20))), Ok(None), "LF may follow");
        assert_eq!(find(&line(21)), Ok(None), "a CR may be its last byte");
        assert_eq!(find(&line(22)), Err(414));
        assert_eq!(find(&format!("{}\r\n{}\r\n", line(20), line(200))), Ok(None), "a limit of the first line only");
    }
}
