//! Finds where a head ends while its bytes arrive, each byte looked at once. It reads no field.

use super::grammar::is_tchar;
use super::parse::is_unversioned;
use super::{HEAD_MAX, Refusal, bad_request, refusal};
use crate::core::limits::Limits;

/// Empty lines before a request line that are ignored (RFC 9112 section 2.2).
pub const BLANK_LINES: usize = 4;
const CRLF: usize = 2;

/// Finds the end of a head over any number of reads, looking at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    line: usize,
    seen: usize,
    blank: usize,
}

impl HeadScan {
    /// How many bytes the head has, its empty line included, or `None` while it is not whole.
    pub fn find(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        let head_limit = limits.head_limit.min(HEAD_MAX);
        while let Some(lf) = self.next_lf(bytes) {
            if self.line == 0 && lf > limits.line_limit + CRLF - 1 {
                return Err(refusal(414, "request line too long"));
            }
            if lf >= head_limit {
                return Err(refusal(431, "head too large"));
            }
            if lf == self.line || bytes.get(lf - 1) != Some(&b'\r') {
                return Err(bad_request("line ended by LF alone"));
            }
            let empty = lf == self.line + 1;
            (self.line, self.seen) = (lf + 1, lf + 1);
            if empty {
                return Ok(Some(lf + 1));
            }
        }
        self.seen = bytes.len();
        if self.line == 0 && self.seen > limits.line_limit + CRLF - 1 {
            return Err(refusal(414, "request line too long"));
        }
        if self.seen > head_limit { Err(refusal(431, "head too large")) } else { Ok(None) }
    }

    fn next_lf(&self, bytes: &[u8]) -> Option<usize> {
        let rest = bytes.get(self.seen..)?;
        // The empty line is worth no search.
        let empty = self.seen == self.line && rest.starts_with(b"\r\n");
        let at = if empty { 1 } else { memchr::memchr(b'\n', rest)? };
        Some(self.seen + at)
    }

    /// How many bytes of empty lines stand at the front, to be skipped (before a request only).
    pub fn skip_blank(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        if self.seen > 0 {
            return Ok(0);
        }
        let mut skip = 0;
        while bytes.get(skip..skip + 2) == Some(b"\r\n") {
            skip += 2;
            self.blank += 1;
            if self.blank > BLANK_LINES {
                return Err(bad_request("too many empty lines before a request"));
            }
        }
        Ok(skip)
    }

    /// The first line is here and names no version: HTTP/0.9, or no HTTP at all. Its sender waits for an answer already.
    pub fn is_unversioned(&self, bytes: &[u8]) -> bool {
        self.line > 0 && is_unversioned(bytes)
    }

    /// No method begins like this: TLS on a plain port, say. There is no point in waiting for the rest.
    pub fn is_hopeless(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|byte| !is_tchar(*byte) && !matches!(byte, b'\r' | b'\n'))
    }

    /// A lone CR in front may still become an empty line.
    pub fn is_blank_start(bytes: &[u8]) -> bool {
        bytes == b"\r"
    }

    pub fn reset(&mut self) {
        *self = HeadScan::default();
    }
}
