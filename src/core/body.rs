//! Message framing (RFC 9112 section 6): how many bytes may pass unlooked at, and what the lines between chunks mean.

/// Digits in a chunk size: 16 hex digits are all of a u64.
const SIZE_DIGITS: u8 = 16;
/// Extensions of one chunk. They are dropped, so nobody needs long ones.
const EXTENSION_LIMIT: u16 = 256;
/// Extensions of one whole body: bounds what a peer can make us read for nothing.
const EXTENSION_TOTAL: u32 = 16 * 1024;
/// The trailer section, all lines.
pub const TRAILER_LIMIT: usize = 8 * 1024;

/// A message whose framing cannot be followed. What it means depends on who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

#[derive(Debug)]
pub enum Body {
    Empty,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    Tunnel,
}

/// What `scan` read of the framing, and whether those bytes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    pub read: usize,
    pub keep: bool,
}

impl Body {
    pub fn chunked() -> Body {
        Body::Chunked(Chunks::new(false, true))
    }

    /// `Connection` nominated fields: those of the trailer section would have to go too (RFC 9110 section 7.6.1).
    pub fn chunked_without_trailers() -> Body {
        Body::Chunked(Chunks::new(false, false))
    }

    /// The coding is taken off: only the data goes on (to a client of HTTP/1.0, delimited by close).
    pub fn stripped() -> Body {
        Body::Chunked(Chunks::new(true, false))
    }

    /// Bytes that may pass without being looked at.
    pub fn credit(&self) -> u64 {
        match self {
            Body::Empty => 0,
            Body::Length(left) => *left,
            Body::Chunked(Chunks { state: State { at: At::Data { left }, .. }, .. }) => *left,
            Body::Chunked(_) => 0,
            Body::UntilClose | Body::Tunnel => u64::MAX,
        }
    }

    /// `n` bytes of the credit were used.
    pub fn pass(&mut self, n: u64) {
        match self {
            Body::Length(left) => *left = left.saturating_sub(n),
            Body::Chunked(chunks) => chunks.pass(n),
            Body::Empty | Body::UntilClose | Body::Tunnel => {}
        }
    }

    /// Reads framing, for as long as it stays either kept or dropped. Nothing read: more bytes are needed.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scan, Fault> {
        match self {
            Body::Chunked(chunks) => chunks.scan(bytes),
            _ => Ok(Scan { read: 0, keep: false }),
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Body::Empty | Body::Length(0) | Body::Chunked(Chunks { state: State { at: At::Done, .. }, .. }))
    }

    /// Only our close tells the client where it ended.
    pub fn is_close_delimited(&self) -> bool {
        matches!(self, Body::UntilClose | Body::Chunked(Chunks { strip: true, .. }))
    }

    /// Only the source's close ends it.
    pub fn is_open_ended(&self) -> bool {
        matches!(self, Body::UntilClose | Body::Tunnel)
    }
}

/// The chunked coding (RFC 9112 section 7.1), strictly: hex digits, CRLF, no lone LF; extensions are read and dropped.
///
/// The last chunk goes on only with its whole trailer section in hand: a message that is cut must not look complete to
/// anybody who takes `0` and the end of the connection for an end.
#[derive(Debug)]
pub struct Chunks {
    strip: bool,
    trailers: bool,
    state: State,
    /// How far a last chunk was looked at ahead, and what that came to.
    ahead: Option<(usize, State)>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    at: At,
    extensions: u32,
    trailer: usize,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size {
        digits: u8,
        size: u64,
    },
    /// Bad whitespace before an extension's `;`, which must follow (RFC 9112 section 7.1.1, RFC 9110 section 5.6.3).
    Blank {
        size: u64,
        seen: u16,
    },
    Extension {
        size: u64,
        seen: u16,
    },
    /// The CR of a size line was held back, to be written with its LF.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailer,
    Done,
}

impl Chunks {
    fn new(strip: bool, trailers: bool) -> Chunks {
        let state = State { at: At::Size { digits: 0, size: 0 }, extensions: 0, trailer: 0 };
        Chunks { strip, trailers, state, ahead: None }
    }

    fn pass(&mut self, n: u64) {
        if let At::Data { left } = &mut self.state.at {
            *left = left.saturating_sub(n);
            if *left == 0 {
                self.state.at = At::DataCr;
            }
        }
    }

    fn scan(&mut self, bytes: &[u8]) -> Result<Scan, Fault> {
        let begins = matches!(self.state.at, At::Size { digits: 0, .. }) && bytes.first() == Some(&b'0');
        if begins && !self.look_ahead(bytes)? {
            return Ok(Scan { read: 0, keep: false });
        }
        let (scan, trailer) = self.state.scan(bytes)?;
        Ok(Scan { keep: scan.keep && !self.strip && (self.trailers || !trailer), ..scan })
    }

    /// Whether what follows is another chunk, or the end, whole. It is neither until more has come.
    fn look_ahead(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        let (mut read, mut state) = self.ahead.take().unwrap_or((0, self.state));
        loop {
            let (scan, _) = state.scan(bytes.get(read..).unwrap_or_default())?;
            read += scan.read;
            match state.at {
                At::Data { .. } | At::Done => return Ok(true),
                _ if scan.read == 0 => {
                    self.ahead = Some((read, state));
                    return Ok(false);
                }
                _ => {}
            }
        }
    }
}

impl State {
    /// Reads framing, and says whether it was a field of the trailer section.
    fn scan(&mut self, bytes: &[u8]) -> Result<(Scan, bool), Fault> {
        if let At::Trailer = self.at {
            return self.trailer_line(bytes);
        }
        let mut read = 0;
        let mut keep = None;
        while let Some(&byte) = bytes.get(read) {
            if matches!(self.at, At::Data { .. } | At::Trailer | At::Done) {
                break;
            }
            let (next, wanted) = self.byte(byte)?;
            if *keep.get_or_insert(wanted) != wanted {
                break;
            }
            self.at = next;
            read += 1;
            if matches!(next, At::Size { digits: 0, .. }) {
                break;
            }
        }
        Ok((Scan { read, keep: keep.unwrap_or(false) }, false))
    }

    /// One byte of framing: where it leads, and whether it goes on.
    fn byte(&mut self, byte: u8) -> Result<(At, bool), Fault> {
        let begin = |size| if size == 0 { At::Trailer } else { At::Data { left: size } };
        Ok(match (self.at, byte) {
            (At::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS {
                    return Err(Fault("chunk size over 16 digits"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                (At::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }, true)
            }
            (At::Size { digits: 0, .. }, _) => return Err(Fault("chunk size without a hex digit")),
            (At::Size { size, .. }, b'\r') => (At::SizeLf { size }, true),
            (At::Size { size, .. }, b';') => (At::Extension { size, seen: 0 }, false),
            (At::Size { size, .. }, b' ' | b'\t') => (At::Blank { size, seen: 0 }, false),
            (At::Size { .. }, _) => return Err(Fault("bad byte after a chunk size")),
            (At::Blank { size, seen }, b' ' | b'\t') => (At::Blank { size, seen: self.extended(seen)? }, false),
            (At::Blank { size, seen }, b';') => (At::Extension { size, seen }, false),
            (At::Blank { .. }, _) => return Err(Fault("blank after a chunk size")),
            (At::Extension { size, .. }, b'\r') => (At::SizeLf { size }, true),
            (At::Extension { size, seen }, b' '..=b'~' | b'\t' | 0x80..) => {
                (At::Extension { size, seen: self.extended(seen)? }, false)
            }
            (At::Extension { .. }, _) => return Err(Fault("control byte in a chunk extension")),
            (At::SizeLf { size }, b'\n') => (begin(size), true),
            (At::SizeLf { .. }, _) => return Err(Fault("CR without LF after a chunk size")),
            (At::DataCr, b'\r') => (At::DataLf, true),
            (At::DataCr, _) => return Err(Fault("chunk data longer than its size")),
            (At::DataLf, b'\n') => (At::Size { digits: 0, size: 0 }, true),
            (At::DataLf, _) => return Err(Fault("CR without LF after chunk data")),
            (at @ (At::Data { .. } | At::Trailer | At::Done), _) => (at, true),
        })
    }

    fn extended(&mut self, seen: u16) -> Result<u16, Fault> {
        self.extensions += 1;
        if seen == EXTENSION_LIMIT || self.extensions > EXTENSION_TOTAL {
            return Err(Fault("chunk extensions too long"));
        }
        Ok(seen + 1)
    }

    /// One whole line of the trailer section, kept unless it names a field that framing or routing depends on.
    fn trailer_line(&mut self, bytes: &[u8]) -> Result<(Scan, bool), Fault> {
        let Some(lf) = memchr::memchr(b'\n', bytes) else {
            let held = self.trailer + bytes.len();
            return if held > TRAILER_LIMIT {
                Err(Fault("trailers too long"))
            } else if bytes.iter().rev().skip(1).any(|b| *b == b'\r') {
                Err(Fault("malformed trailer"))
            } else {
                Ok((Scan { read: 0, keep: false }, true))
            };
        };
        let read = lf + 1;
        self.trailer += read;
        if self.trailer > TRAILER_LIMIT {
            return Err(Fault("trailers too long"));
        }
        let line = bytes.get(..lf).and_then(|line| line.strip_suffix(b"\r")).ok_or(Fault("lone LF in trailers"))?;
        if line.is_empty() {
            self.at = At::Done;
            return Ok((Scan { read, keep: true }, false));
        }
        let allowed = super::head::trailer_allowed(line).ok_or(Fault("malformed trailer"))?;
        Ok((Scan { read, keep: allowed }, true))
    }
}
