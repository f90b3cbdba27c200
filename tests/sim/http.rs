//! A strict HTTP/1.1 parser for heads and bodies, by which scripted clients and replicas read what Ringway sends. It
//! shares no code with the parser under test: nothing of `ringway` enters here.

/// Checks body bytes: the offset of the first one in the body, and the bytes.
pub type Check<'a> = dyn FnMut(u64, &[u8]) -> Result<(), String> + 'a;

const HEAD_MAX: usize = 64 * 1024;
const CHUNK_LINE_MAX: usize = 16 * 1024;

#[derive(Clone, Debug)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field, `None` if absent.
    ///
    /// # Errors
    /// The field occurs twice.
    pub fn single(&self, name: &str) -> Result<Option<&str>, String> {
        let mut all = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let first = all.next();
        if all.next().is_some() { Err(format!("{name} occurs twice in {self:?}")) } else { Ok(first) }
    }

    /// The decimal value of a field, `None` if absent.
    ///
    /// # Errors
    /// The field occurs twice or is not a `u64`.
    pub fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.single(name)? else { return Ok(None) };
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{name} is {text:?}"));
        }
        text.parse().map(Some).map_err(|error| format!("{name} is {text:?}: {error}"))
    }
}

/// The head at the front of `bytes` and its length, `None` while it is incomplete.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_MAX { Err("a head without an end".into()) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not UTF-8".to_string())?;
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_string();
    let printable = |s: &str| s.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
    if start.is_empty() || !printable(&start) {
        return Err(format!("start line {start:?}"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("field line {line:?}"))?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) || !printable(value) {
            return Err(format!("field line {line:?}"));
        }
        fields.push((name.to_string(), value.trim_matches([' ', '\t']).to_string()));
    }
    Ok(Some((Head { start, fields }, end + 4)))
}

/// Where a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    /// What the fields of the head say, `None` if they say nothing.
    ///
    /// # Errors
    /// Content-Length and Transfer-Encoding together, either of them twice, or a coding other than chunked.
    pub fn of(head: &Head) -> Result<Option<Framing>, String> {
        let length = head.number("content-length")?;
        match (head.single("transfer-encoding")?, length) {
            (Some(_), Some(_)) => Err(format!("two framings in {head:?}")),
            (Some("chunked"), None) => Ok(Some(Framing::Chunked)),
            (Some(other), None) => Err(format!("transfer coding {other:?}")),
            (None, Some(length)) => Ok(Some(Framing::Length(length))),
            (None, None) => Ok(None),
        }
    }
}

/// Decodes a body. Chunk extensions, bare LF and malformed trailers are errors: two parsers could read them
/// differently.
#[derive(Clone, Debug)]
pub struct Body {
    framing: Framing,
    /// Of the body, or of the current chunk.
    remaining: u64,
    line: Vec<u8>,
    state: BodyState,
    /// Data bytes decoded.
    pub len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Data,
    ChunkSize,
    ChunkEnd,
    Trailer,
    Done,
}

impl Body {
    pub fn new(framing: Framing) -> Body {
        let (remaining, state) = match framing {
            Framing::None | Framing::Length(0) => (0, BodyState::Done),
            Framing::Length(length) => (length, BodyState::Data),
            Framing::Chunked => (0, BodyState::ChunkSize),
            Framing::UntilClose => (u64::MAX, BodyState::Data),
        };
        Body { framing, remaining, line: Vec::new(), state, len: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.state == BodyState::Done
    }

    pub fn is_until_close(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// Decodes a prefix of `bytes` and returns its length. Data bytes are passed to `check`.
    pub fn feed(&mut self, bytes: &[u8], check: &mut Check) -> Result<usize, String> {
        let mut used = 0;
        while used < bytes.len() && self.state != BodyState::Done {
            if self.state == BodyState::Data {
                used += self.feed_data(&bytes[used..], check)?;
                continue;
            }
            let byte = bytes[used];
            used += 1;
            self.line.push(byte);
            if byte != b'\n' {
                if self.line.len() > CHUNK_LINE_MAX {
                    return Err("a framing line without an end".into());
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r\n").ok_or("a framing line ends with a bare LF")?;
            self.on_line(line)?;
        }
        Ok(used)
    }

    fn feed_data(&mut self, bytes: &[u8], check: &mut Check) -> Result<usize, String> {
        let n = self.remaining.min(bytes.len() as u64) as usize;
        check(self.len, &bytes[..n])?;
        self.len += n as u64;
        if self.framing != Framing::UntilClose {
            self.remaining -= n as u64;
        }
        if self.remaining == 0 {
            self.state = if self.framing == Framing::Chunked { BodyState::ChunkEnd } else { BodyState::Done };
        }
        Ok(n)
    }

    fn on_line(&mut self, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(line).into_owned();
        match self.state {
            BodyState::ChunkEnd if line.is_empty() => self.state = BodyState::ChunkSize,
            BodyState::ChunkEnd => return Err(format!("{text:?} after the data of a chunk")),
            BodyState::ChunkSize => {
                if line.is_empty() || line.len() > 16 || !line.iter().all(u8::is_ascii_hexdigit) {
                    return Err(format!("chunk size {text:?}"));
                }
                self.remaining = u64::from_str_radix(&text, 16).map_err(|e| e.to_string())?;
                self.state = if self.remaining == 0 { BodyState::Trailer } else { BodyState::Data };
            }
            BodyState::Trailer if line.is_empty() => self.state = BodyState::Done,
            BodyState::Trailer if line.contains(&b':') && !line.contains(&b'\r') => {}
            _ => return Err(format!("{text:?} in a trailer section")),
        }
        Ok(())
    }
}
