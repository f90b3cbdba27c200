//! One client's connection: bytes in, answers out, in order. It touches its socket in `drive` and nowhere else.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;

use super::answer::{Answers, Ending, Page};
use crate::core::body::Body;
use crate::core::head::{self, HeadScan, Refusal};
use crate::core::limits::Limits;
use crate::core::request::{self, Origin, Scheme};
use crate::core::rewrite::Edits;

/// A client that pipelines without reading is read no further than this many bytes of answers.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// After a refusal so much more is read, that the client sees the answer before a reset.
const LINGER_LIMIT: usize = 1024 * 1024;

/// What all connections of the loop share.
pub struct Shared {
    pub answers: Answers,
    pub limits: Limits,
    /// Answers now say `Connection: close`.
    pub draining: bool,
    pub edits: Edits,
    pub scratch: Box<[u8]>,
}

pub struct Conn {
    stream: TcpStream,
    phase: Phase,
    scan: HeadScan,
    /// What was read of a head that is not whole, or of requests behind a full output.
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// The socket may have bytes for us.
    readable: bool,
    ended: bool,
}

enum Phase {
    Head,
    Body(Body, Page, Ending),
    /// The last answer is on its way out; the rest of the input is dropped, up to a limit.
    Last {
        dropped: usize,
        shut: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Waits,
    Over,
}

impl Conn {
    pub fn new(stream: TcpStream) -> Conn {
        Conn {
            stream,
            phase: Phase::Head,
            scan: HeadScan::default(),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            readable: true,
            ended: false,
        }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads, answers and writes until the socket has no more or takes no more. `hung_up`: the client sent its end.
    pub fn drive(&mut self, readable: bool, hung_up: bool, shared: &mut Shared) -> Fate {
        self.readable |= readable;
        self.advance(hung_up, shared).unwrap_or(Fate::Over)
    }

    fn advance(&mut self, hung_up: bool, shared: &mut Shared) -> io::Result<Fate> {
        loop {
            if !self.flush()? {
                return Ok(Fate::Waits);
            }
            if !self.input.is_empty() {
                self.take(0, shared);
                if !self.output.is_empty() {
                    continue;
                }
            }
            if self.is_over()? {
                return Ok(Fate::Over);
            }
            if !self.readable {
                return Ok(Fate::Waits);
            }
            match self.stream.read(&mut shared.scratch) {
                Ok(0) => (self.ended, self.readable) = (true, false),
                Ok(n) => {
                    // A read that gave less than asked has emptied the socket, unless the end comes next.
                    self.readable = n == shared.scratch.len() || hung_up;
                    self.take(n, shared);
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
    }

    /// Whether the connection has nothing more to do, its output being empty.
    fn is_over(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(true);
        }
        if let Phase::Last { dropped, shut } = &mut self.phase {
            if !*shut {
                *shut = true;
                self.stream.shutdown(std::net::Shutdown::Write)?;
            }
            return Ok(*dropped > LINGER_LIMIT);
        }
        Ok(false)
    }

    /// Whether all output has left.
    fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(n) => self.written += n,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(true)
    }

    /// Takes what was kept and `n` fresh bytes of the scratch, and keeps what cannot be used yet.
    fn take(&mut self, n: usize, shared: &mut Shared) {
        if self.input.is_empty() {
            let scratch = std::mem::take(&mut shared.scratch);
            let used = self.consume(&scratch[..n], shared);
            self.input.extend_from_slice(&scratch[used..n]);
            shared.scratch = scratch;
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(&shared.scratch[..n]);
            let used = self.consume(&input, shared);
            input.drain(..used);
            self.input = input;
        }
    }

    /// How many bytes of `bytes` were used.
    fn consume(&mut self, bytes: &[u8], shared: &mut Shared) -> usize {
        let mut used = 0;
        while self.output.len() < OUTPUT_LIMIT {
            let rest = &bytes[used..];
            let n = match &mut self.phase {
                Phase::Head => {
                    self.head(rest, shared).unwrap_or_else(|refusal| self.refuse(refusal, rest.len(), shared))
                }
                Phase::Body(body, page, ending) => match drop_body(body, rest) {
                    Ok(n) => {
                        if body.is_done() {
                            let (page, ending) = (*page, *ending);
                            self.answer(page, ending, shared);
                        }
                        n
                    }
                    Err(why) => self.refuse(head::refusal(400, why), rest.len(), shared),
                },
                Phase::Last { dropped, .. } => {
                    *dropped += rest.len();
                    rest.len()
                }
            };
            used += n;
            if n == 0 {
                break;
            }
        }
        used
    }

    /// Reads one whole head off the front, if it is there.
    fn head(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<usize, Refusal> {
        let blank = self.scan.skip_empty_lines(bytes)?;
        if blank > 0 {
            return Ok(blank);
        }
        let Some(len) = self.scan.find(bytes, &shared.limits)? else { return Ok(0) };
        self.scan.reset();
        let head = &bytes[..len];
        let mut storage = head::field_storage();
        let request = head::parse_request(head, &mut storage, &shared.limits)?;
        let origin = Origin { client_ip: b"", service: "replica", scheme: Scheme::Http };
        shared.edits.clear();
        let analysis = request::analyze(head, &request, &shared.limits, origin, &mut shared.edits)?;
        let field = |name: &str| request.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
        let wants_json = || field("accept").is_some_and(|v| memchr::memmem::find(v, b"application/json").is_some());
        let page = Page::of(request.method, request.target, wants_json);
        let ending = Ending { minor: analysis.minor, keep_alive: analysis.keep_alive, head_only: analysis.is_head };
        if analysis.body.is_done() {
            self.answer(page, ending, shared);
            return Ok(len);
        }
        if analysis.minor > 0 && field("expect").is_some() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.phase = Phase::Body(analysis.body, page, ending);
        Ok(len)
    }

    fn answer(&mut self, page: Page, mut ending: Ending, shared: &Shared) {
        ending.keep_alive &= !shared.draining;
        shared.answers.write(page, ending, &mut self.output);
        self.phase = if ending.keep_alive { Phase::Head } else { Phase::Last { dropped: 0, shut: false } };
    }

    fn refuse(&mut self, refusal: Refusal, rest: usize, shared: &Shared) -> usize {
        let ending = Ending { minor: 1, keep_alive: false, head_only: false };
        self.answer(Page::Refused(refusal.status), ending, shared);
        rest
    }
}

/// How many bytes of the body, its framing included, stand at the front.
fn drop_body(body: &mut Body, bytes: &[u8]) -> Result<usize, &'static str> {
    let mut used = 0;
    loop {
        let rest = &bytes[used..];
        let credit = body.credit().min(rest.len() as u64);
        body.pass(credit);
        let read = if credit == 0 { body.scan(rest).map_err(|fault| fault.0)?.read } else { 0 };
        if credit == 0 && read == 0 {
            return Ok(used);
        }
        used += credit as usize + read;
    }
}
