//! HTTP/1.1 read a second time, strictly, by a parser that shares nothing with the one under test; and bodies that
//! can be told apart byte by byte.

use super::random::mix;

/// Judges the bytes of a message with this id.
pub type Check<'a> = dyn FnMut(u64, &[u8]) -> Result<(), String> + 'a;

/// No request has this id: who meets it was smuggled to.
pub const SMUGGLED: u64 = 999_999_999;

#[derive(Clone, Debug)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field that may stand once at most.
    pub fn one(&self, name: &str) -> Result<Option<&str>, String> {
        let mut all = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let first = all.next();
        if all.next().is_some() { Err(format!("{name} stands twice in {self:?}")) } else { Ok(first) }
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{name} is {text:?}"));
        }
        text.parse().map(Some).map_err(|error| format!("{name} is {text:?}: {error}"))
    }
}

/// A head at the front of `bytes`, and how long it is; `None` while it is not whole.
pub fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if bytes.len() > 64 * 1024 { Err("a head without an end".into()) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not UTF-8".to_string())?;
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_string();
    let plain = |s: &str| s.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
    if start.is_empty() || !plain(&start) {
        return Err(format!("start line {start:?}"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("field line {line:?}"))?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) || !plain(value) {
            return Err(format!("field line {line:?}"));
        }
        fields.push((name.to_string(), value.trim_matches([' ', '\t']).to_string()));
    }
    Ok(Some((Head { start, fields }, end + 4)))
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    /// What the head's own fields say.
    pub fn of(head: &Head) -> Result<Option<Framing>, String> {
        let length = head.number("content-length")?;
        match (head.one("transfer-encoding")?, length) {
            (Some(_), Some(_)) => Err(format!("two framings in {head:?}")),
            (Some("chunked"), None) => Ok(Some(Framing::Chunked)),
            (Some(other), None) => Err(format!("transfer coding {other:?}")),
            (None, Some(length)) => Ok(Some(Framing::Length(length))),
            (None, None) => Ok(None),
        }
    }
}

/// Takes the framing off, strictly: no extension, no lone LF, nothing that two readers could read in two ways.
#[derive(Clone, Debug)]
pub struct Body {
    framing: Framing,
    left: u64,
    line: Vec<u8>,
    at: At,
    pub got: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Data,
    Size,
    DataEnd,
    Trailer,
    Done,
}

impl Body {
    pub fn new(framing: Framing) -> Body {
        let (left, at) = match framing {
            Framing::None | Framing::Length(0) => (0, At::Done),
            Framing::Length(length) => (length, At::Data),
            Framing::Chunked => (0, At::Size),
            Framing::UntilClose => (u64::MAX, At::Data),
        };
        Body { framing, left, line: Vec::new(), at, got: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    pub fn is_until_close(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// Reads on; returns how many bytes were the message's, and the data among them goes to `check` with its place.
    pub fn feed(&mut self, bytes: &[u8], check: &mut Check) -> Result<usize, String> {
        let mut used = 0;
        while used < bytes.len() && self.at != At::Done {
            if self.at == At::Data {
                let n = self.left.min((bytes.len() - used) as u64) as usize;
                check(self.got, &bytes[used..used + n])?;
                self.got += n as u64;
                used += n;
                if self.framing != Framing::UntilClose {
                    self.left -= n as u64;
                }
                if self.left == 0 {
                    self.at = if self.framing == Framing::Chunked { At::DataEnd } else { At::Done };
                }
                continue;
            }
            let byte = bytes[used];
            used += 1;
            self.line.push(byte);
            if byte != b'\n' {
                if self.line.len() > 16 * 1024 {
                    return Err("a framing line without an end".into());
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r\n").ok_or("a framing line ended by LF alone")?;
            self.line_read(line)?;
        }
        Ok(used)
    }

    fn line_read(&mut self, line: &[u8]) -> Result<(), String> {
        let shown = String::from_utf8_lossy(line).into_owned();
        match self.at {
            At::DataEnd if line.is_empty() => self.at = At::Size,
            At::DataEnd => return Err(format!("{shown:?} after a chunk's data")),
            At::Size => {
                if line.is_empty() || line.len() > 16 || !line.iter().all(u8::is_ascii_hexdigit) {
                    return Err(format!("chunk size {shown:?}"));
                }
                self.left = u64::from_str_radix(&shown, 16).map_err(|e| e.to_string())?;
                self.at = if self.left == 0 { At::Trailer } else { At::Data };
            }
            At::Trailer if line.is_empty() => self.at = At::Done,
            At::Trailer if line.contains(&b':') && !line.contains(&b'\r') => {}
            _ => return Err(format!("{shown:?} in a trailer section")),
        }
        Ok(())
    }
}

/// What a message that is read as another's would look like.
fn bait() -> &'static [u8] {
    b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: sim\r\nX-Id: 999999999\r\n\r\n\
      HTTP/1.1 200 OK\r\nX-Id: 999999999\r\nX-Serve: 999999999\r\nContent-Length: 0\r\n\r\n"
}

/// Byte `place` of the body with this seed. Every fifth body is bait.
fn byte(mixed: u64, seed: u64, place: u64) -> u8 {
    if seed.is_multiple_of(5) && place >= 16 {
        let bait = bait();
        return bait[(place % bait.len() as u64) as usize];
    }
    let [a, b, c, ..] = mixed.to_le_bytes();
    a.wrapping_add((b | 1).wrapping_mul(place as u8)).wrapping_add((c | 1).wrapping_mul((place >> 8) as u8))
        ^ (place >> 16) as u8
}

pub fn data(seed: u64, from: u64, len: usize) -> Vec<u8> {
    let mixed = mix(seed);
    (0..len as u64).map(|i| byte(mixed, seed, from + i)).collect()
}

/// Compares a piece of a body with what it must be.
pub fn same(seed: u64, from: u64, bytes: &[u8]) -> Result<(), String> {
    let mixed = mix(seed);
    match bytes.iter().zip(from..).find(|(got, place)| **got != byte(mixed, seed, *place)) {
        None => Ok(()),
        Some((got, place)) => {
            let near = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
            Err(format!("byte {place} of body {seed} is {got:#x}, not its own; the piece from {from} begins {near:?}"))
        }
    }
}
