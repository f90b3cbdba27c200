//! Message framing (RFC 9112 section 6): how many bytes of a body may pass unexamined, and what the framing between chunks
//! means. It reads no field: [`request`](super::request) and [`response`](super::response) choose the framing.

/// Digits in a chunk size: 16 hexadecimal digits are a u64.
const SIZE_DIGITS: u8 = 16;
/// Bytes of extensions in one chunk. Extensions are dropped, so none needs to be long.
const EXTENSION_LIMIT: u16 = 256;
/// Bytes of extensions in one body of a client: bounds the bytes that it can make us read and drop.
const EXTENSION_TOTAL: u32 = 16 * 1024;
/// Bytes of extensions in one chunk of a replica, whose body has no bound of them: a response would be cut in its middle.
const REPLICA_EXTENSION_LIMIT: u16 = 16 * 1024;
/// Bytes of the trailer section, all lines together.
pub const TRAILER_LIMIT: usize = 8 * 1024;

/// A body whose framing is malformed. A client's is answered 400, a replica's cuts the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingError(pub &'static str);

#[derive(Debug)]
pub enum Body {
    Empty,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Tunnel,
}

/// How many bytes of framing `scan` read, and whether they are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    pub read: usize,
    pub keep: bool,
}

impl Body {
    pub fn chunked() -> Body {
        Body::Chunked(Chunked::new(Forwarded::All))
    }

    /// For a message whose `Connection` nominates fields: they may not pass in the trailer section either (RFC 9110
    /// section 7.6.1).
    pub fn chunked_without_trailers() -> Body {
        Body::Chunked(Chunked::new(Forwarded::WithoutTrailers))
    }

    /// The body of a response.
    #[must_use]
    pub fn of_replica(mut self) -> Body {
        if let Body::Chunked(chunked) = &mut self {
            chunked.decoder.sender = Sender::Replica;
        }
        self
    }

    /// The coding is removed, as a client of HTTP/1.0 needs it: only the data is forwarded, delimited by close.
    pub fn dechunked() -> Body {
        Body::Chunked(Chunked::new(Forwarded::Data))
    }

    /// Bytes that may pass unexamined.
    pub fn credit(&self) -> u64 {
        match self {
            Body::Empty => 0,
            Body::Length(remaining) => *remaining,
            Body::Chunked(chunked) => chunked.credit(),
            Body::UntilClose | Body::Tunnel => u64::MAX,
        }
    }

    /// `n` bytes of the credit have passed.
    pub fn pass(&mut self, n: u64) {
        match self {
            Body::Length(remaining) => *remaining = remaining.saturating_sub(n),
            Body::Chunked(chunked) => chunked.pass(n),
            Body::Empty | Body::UntilClose | Body::Tunnel => {}
        }
    }

    /// Reads framing up to the next data, or up to where forwarded bytes end and dropped ones begin, or the other way
    /// round. `read` is 0 if more bytes are needed.
    #[inline(never)]
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scan, FramingError> {
        match self {
            Body::Chunked(chunked) => chunked.scan(bytes),
            _ => Ok(Scan { read: 0, keep: false }),
        }
    }

    pub fn is_done(&self) -> bool {
        match self {
            Body::Empty | Body::Length(0) => true,
            Body::Chunked(chunked) => matches!(chunked.decoder.state, ChunkState::Done),
            Body::Length(_) | Body::UntilClose | Body::Tunnel => false,
        }
    }

    /// Only the end of our connection tells the client where the body ends.
    pub fn is_close_delimited(&self) -> bool {
        matches!(self, Body::UntilClose | Body::Chunked(Chunked { forwarded: Forwarded::Data, .. }))
    }

    /// Only the end of the source's connection tells us where the body ends.
    pub fn is_open_ended(&self) -> bool {
        matches!(self, Body::UntilClose | Body::Tunnel)
    }
}

/// The chunked coding (RFC 9112 section 7.1), strictly: hexadecimal digits, CRLF, no bare LF; extensions are read and
/// dropped. Of a replica, blanks behind a size are dropped, too, as every proxy does.
///
/// The last chunk is forwarded only with its complete trailer section: a message that was cut must not look complete to
/// a receiver that takes `0` and the end of the connection for its end.
#[derive(Debug)]
pub struct Chunked {
    forwarded: Forwarded,
    decoder: ChunkDecoder,
    /// How far a possible last chunk was decoded ahead of what was forwarded: bytes, and the decoder behind them.
    ahead: Option<(usize, ChunkDecoder)>,
}

/// What of a chunked body is forwarded. Extensions never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forwarded {
    All,
    WithoutTrailers,
    Data,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Replica,
}

#[derive(Clone, Copy, Debug)]
struct ChunkDecoder {
    sender: Sender,
    state: ChunkState,
    extension_bytes: u32,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum ChunkState {
    Size {
        digits: u8,
        size: u64,
    },
    /// Whitespace before the `;` of an extension (RFC 9112 section 7.1.1, RFC 9110 section 5.6.3: BWS).
    Blank {
        size: u64,
        seen: u16,
    },
    Extension {
        size: u64,
        seen: u16,
    },
    /// After the CR of a size line.
    SizeLf {
        size: u64,
    },
    Data {
        remaining: u64,
    },
    DataCr,
    DataLf,
    Trailer,
    Done,
}

impl Chunked {
    fn new(forwarded: Forwarded) -> Chunked {
        let state = ChunkState::Size { digits: 0, size: 0 };
        let decoder = ChunkDecoder { sender: Sender::Client, state, extension_bytes: 0, trailer_bytes: 0 };
        Chunked { forwarded, decoder, ahead: None }
    }

    fn credit(&self) -> u64 {
        match self.decoder.state {
            ChunkState::Data { remaining } => remaining,
            _ => 0,
        }
    }

    fn pass(&mut self, n: u64) {
        if let ChunkState::Data { remaining } = &mut self.decoder.state {
            *remaining = remaining.saturating_sub(n);
            if *remaining == 0 {
                self.decoder.state = ChunkState::DataCr;
            }
        }
    }

    fn scan(&mut self, bytes: &[u8]) -> Result<Scan, FramingError> {
        let may_be_last =
            matches!(self.decoder.state, ChunkState::Size { digits: 0, .. }) && bytes.first() == Some(&b'0');
        if may_be_last && !self.decode_ahead(bytes)? {
            return Ok(Scan { read: 0, keep: false });
        }
        let (scan, is_trailer) = self.decoder.scan(bytes)?;
        let keep = match self.forwarded {
            Forwarded::All => scan.keep,
            Forwarded::WithoutTrailers => scan.keep && !is_trailer,
            Forwarded::Data => false,
        };
        Ok(Scan { keep, ..scan })
    }

    /// Whether the bytes hold the size line of another chunk, or the complete end of the body. If not, more are needed.
    fn decode_ahead(&mut self, bytes: &[u8]) -> Result<bool, FramingError> {
        let (mut read, mut decoder) = self.ahead.take().unwrap_or((0, self.decoder));
        loop {
            let (scan, _) = decoder.scan(bytes.get(read..).unwrap_or_default())?;
            read += scan.read;
            match decoder.state {
                ChunkState::Data { .. } | ChunkState::Done => return Ok(true),
                _ if scan.read == 0 => {
                    self.ahead = Some((read, decoder));
                    return Ok(false);
                }
                _ => {}
            }
        }
    }
}

impl ChunkDecoder {
    /// Reads framing, and says whether it was a field of the trailer section.
    fn scan(&mut self, bytes: &[u8]) -> Result<(Scan, bool), FramingError> {
        if let ChunkState::Trailer = self.state {
            return self.trailer_line(bytes);
        }
        let mut read = 0;
        let mut keep = None;
        while let Some(&byte) = bytes.get(read) {
            if matches!(self.state, ChunkState::Data { .. } | ChunkState::Trailer | ChunkState::Done) {
                break;
            }
            let (next, kept) = self.byte(byte)?;
            if *keep.get_or_insert(kept) != kept {
                break;
            }
            self.state = next;
            read += 1;
            if matches!(next, ChunkState::Size { digits: 0, .. }) {
                break;
            }
        }
        Ok((Scan { read, keep: keep.unwrap_or(false) }, false))
    }

    /// One byte of framing: the state behind it, and whether it is forwarded.
    fn byte(&mut self, byte: u8) -> Result<(ChunkState, bool), FramingError> {
        use ChunkState::*;
        let behind_size = |size| if size == 0 { Trailer } else { Data { remaining: size } };
        Ok(match (self.state, byte) {
            (Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS {
                    return Err(FramingError("chunk size over 16 digits"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                (Size { digits: digits + 1, size: size << 4 | u64::from(digit) }, true)
            }
            (Size { digits: 0, .. }, _) => return Err(FramingError("chunk size without a hex digit")),
            (Size { size, .. }, b'\r') => (SizeLf { size }, true),
            (Size { size, .. }, b';') => (Extension { size, seen: 0 }, false),
            (Size { size, .. }, b' ' | b'\t') => (Blank { size, seen: 0 }, false),
            (Size { .. }, _) => return Err(FramingError("bad byte after a chunk size")),
            (Blank { size, seen }, b' ' | b'\t') => (Blank { size, seen: self.extension_byte(seen)? }, false),
            (Blank { size, seen }, b';') => (Extension { size, seen }, false),
            (Blank { size, .. }, b'\r') if self.sender == Sender::Replica => (SizeLf { size }, true),
            (Blank { .. }, _) => return Err(FramingError("blank after a chunk size")),
            (Extension { size, .. }, b'\r') => (SizeLf { size }, true),
            (Extension { size, seen }, b' '..=b'~' | b'\t' | 0x80..) => {
                (Extension { size, seen: self.extension_byte(seen)? }, false)
            }
            (Extension { .. }, _) => return Err(FramingError("control byte in a chunk extension")),
            (SizeLf { size }, b'\n') => (behind_size(size), true),
            (SizeLf { .. }, _) => return Err(FramingError("CR without LF after a chunk size")),
            (DataCr, b'\r') => (DataLf, true),
            (DataCr, _) => return Err(FramingError("chunk data longer than its size")),
            (DataLf, b'\n') => (Size { digits: 0, size: 0 }, true),
            (DataLf, _) => return Err(FramingError("CR without LF after chunk data")),
            (state @ (Data { .. } | Trailer | Done), _) => (state, true),
        })
    }

    /// Counts a byte of an extension against the limits.
    fn extension_byte(&mut self, seen: u16) -> Result<u16, FramingError> {
        self.extension_bytes = self.extension_bytes.saturating_add(1);
        let is_over = match self.sender {
            Sender::Client => seen == EXTENSION_LIMIT || self.extension_bytes > EXTENSION_TOTAL,
            Sender::Replica => seen == REPLICA_EXTENSION_LIMIT,
        };
        if is_over {
            return Err(FramingError("chunk extensions too long"));
        }
        Ok(seen + 1)
    }

    /// One complete line of the trailer section, forwarded unless it names a field that framing or routing depends on.
    fn trailer_line(&mut self, bytes: &[u8]) -> Result<(Scan, bool), FramingError> {
        let Some(lf) = memchr::memchr(b'\n', bytes) else {
            let held = self.trailer_bytes + bytes.len();
            return if held > TRAILER_LIMIT {
                Err(FramingError("trailers too long"))
            } else if bytes.iter().rev().skip(1).any(|b| *b == b'\r') {
                Err(FramingError("malformed trailer"))
            } else {
                Ok((Scan { read: 0, keep: false }, true))
            };
        };
        let read = lf + 1;
        self.trailer_bytes += read;
        if self.trailer_bytes > TRAILER_LIMIT {
            return Err(FramingError("trailers too long"));
        }
        let line = bytes.get(..lf).and_then(|line| line.strip_suffix(b"\r"));
        let line = line.ok_or(FramingError("lone LF in trailers"))?;
        if line.is_empty() {
            self.state = ChunkState::Done;
            return Ok((Scan { read, keep: true }, false));
        }
        let allowed = super::head::trailer_allowed(line).ok_or(FramingError("malformed trailer"))?;
        Ok((Scan { read, keep: allowed }, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of `bytes` goes on, and how many were read.
    fn pass_all(body: &mut Body, bytes: &[u8]) -> Result<(Vec<u8>, usize), FramingError> {
        let (mut kept, mut at) = (Vec::new(), 0);
        while at < bytes.len() && !body.is_done() {
            let credit = (body.credit() as usize).min(bytes.len() - at);
            let scan = match credit {
                0 => body.scan(&bytes[at..])?,
                n => {
                    body.pass(n as u64);
                    Scan { read: n, keep: true }
                }
            };
            if scan.read == 0 {
                break;
            }
            if scan.keep {
                kept.extend_from_slice(&bytes[at..at + scan.read]);
            }
            at += scan.read;
        }
        Ok((kept, at))
    }

    fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize), FramingError> {
        pass_all(&mut Body::chunked(), bytes)
    }

    fn repeat(times: usize) -> String {
        "x".repeat(times)
    }

    #[test]
    fn extensions_are_dropped_up_to_256_bytes_a_chunk() {
        let chunk = |n| format!("1;{}\r\na\r\n", repeat(n));
        assert_eq!(chunked(chunk(256).as_bytes()), Ok((b"1\r\na\r\n".to_vec(), chunk(256).len())));
        assert_eq!(chunked(chunk(257).as_bytes()), Err(FramingError("chunk extensions too long")));
        let blanks = |n: usize| format!("1{};x\r\na\r\n", " ".repeat(n));
        assert!(chunked(blanks(256).as_bytes()).is_ok(), "the first blank and 255 more, and one byte of extension");
        assert_eq!(chunked(blanks(257).as_bytes()), Err(FramingError("chunk extensions too long")));
    }

    #[test]
    fn extensions_of_one_body_are_at_most_16_kib() {
        let most = format!("1;{}\r\na\r\n", repeat(256)).repeat(64);
        assert_eq!(chunked(most.as_bytes()), Ok((b"1\r\na\r\n".repeat(64), most.len())));
        let more = format!("{most}1;x\r\na\r\n");
        assert_eq!(chunked(more.as_bytes()), Err(FramingError("chunk extensions too long")));
    }

    #[test]
    fn a_replica_may_send_16_kib_of_extension_in_each_chunk_and_blanks_behind_a_size() {
        let of_replica = |bytes: &[u8]| pass_all(&mut Body::chunked().of_replica(), bytes);
        let chunk = |n| format!("1;{}\r\na\r\n", repeat(n));
        let long = chunk(16 * 1024).repeat(3);
        assert_eq!(of_replica(long.as_bytes()), Ok((b"1\r\na\r\n".repeat(3), long.len())));
        assert_eq!(of_replica(chunk(16 * 1024 + 1).as_bytes()), Err(FramingError("chunk extensions too long")));
        let many = "1;x=0123456789\r\na\r\n".repeat(10_000);
        assert_eq!(of_replica(many.as_bytes()), Ok((b"1\r\na\r\n".repeat(10_000), many.len())));
        let padded = b"1 \t\r\na\r\n0 \r\n\r\n";
        assert_eq!(of_replica(padded), Ok((b"1\r\na\r\n0\r\n\r\n".to_vec(), padded.len())));
        assert_eq!(chunked(padded), Err(FramingError("blank after a chunk size")));
    }

    #[test]
    fn a_trailer_section_is_at_most_8_kib() {
        let section = |n: usize| format!("0\r\na: {}\r\nb: {}\r\n\r\n", repeat(100), repeat(n - 112));
        let whole = section(8 * 1024);
        assert_eq!(whole.len(), "0\r\n".len() + 8 * 1024);
        assert_eq!(chunked(whole.as_bytes()), Ok((whole.clone().into_bytes(), whole.len())));
        assert_eq!(chunked(section(8 * 1024 + 1).as_bytes()), Err(FramingError("trailers too long")));
    }

    #[test]
    fn a_trailer_line_that_cannot_fit_any_more_is_refused_before_its_end() {
        let partial = |n: usize| format!("0\r\na: {}\r\n{}", repeat(100), repeat(n - 105));
        assert_eq!(chunked(partial(8 * 1024).as_bytes()), Ok((Vec::new(), 0)));
        assert_eq!(chunked(partial(8 * 1024 + 1).as_bytes()), Err(FramingError("trailers too long")));
        assert_eq!(chunked(b"0\r\na: b\r"), Ok((Vec::new(), 0)), "its LF may follow");
        assert_eq!(chunked(b"0\r\na: b\rc"), Err(FramingError("malformed trailer")));
    }

    #[test]
    fn a_chunk_size_has_at_most_16_digits() {
        let mut body = Body::chunked();
        assert_eq!(pass_all(&mut body, b"ffffffffffffffff\r\n"), Ok((b"ffffffffffffffff\r\n".to_vec(), 18)));
        assert_eq!(body.credit(), u64::MAX);
        assert_eq!(chunked(b"00000000000000001\r\n"), Err(FramingError("chunk size over 16 digits")));
    }
    #[test]
    fn the_size_line_of_a_chunk_with_data_is_forwarded_as_it_comes() {
        for part in ["1", "10", "1\r"] {
            assert_eq!(chunked(part.as_bytes()), Ok((part.into(), part.len())), "{part:?}");
        }
        assert_eq!(chunked(b"0\r\n"), Ok((Vec::new(), 0)), "the last chunk waits for its trailer section");
    }

    #[test]
    fn only_the_end_of_the_source_ends_an_open_ended_body() {
        for body in [Body::UntilClose, Body::Tunnel] {
            assert!(body.is_open_ended() && !body.is_done(), "{body:?}");
        }
        for body in [Body::Empty, Body::Length(5), Body::chunked()] {
            assert!(!body.is_open_ended(), "{body:?}");
        }
    }
}
