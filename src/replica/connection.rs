//! One client's connection: request bytes in, responses out, in order. It uses its socket in `drive` only, and never waits.

use std::io::{self, ErrorKind, Read, Write};

use mio::event::Event;
use mio::net::TcpStream;

use super::responses::{ResponseKind, ResponseOptions, Responses};
use crate::core::body::Body;
use crate::core::head::{self, HeadScan, Refusal};
use crate::core::limits::Limits;
use crate::core::request::{self, RequestSource, Scheme};
use crate::core::rewrite::Edits;

/// Bytes of unsent responses at which no further request is read: the client pipelines and does not read.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// Bytes read and discarded after the last response, so that the client reads it before the connection is reset.
const LINGER_LIMIT: usize = 1024 * 1024;

/// What the connections of the loop share.
pub struct Shared {
    pub responses: Responses,
    pub limits: Limits,
    /// Every response closes its connection.
    pub draining: bool,
    pub edits: Edits,
    pub scratch: Box<[u8]>,
}

pub struct ClientConnection {
    stream: TcpStream,
    state: ConnectionState,
    scan: HeadScan,
    /// Bytes of an incomplete head, or of requests that wait for the output to drain.
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// The socket may have bytes to read.
    readable: bool,
    /// The client sent the end of its stream, which a read may not have reached yet.
    read_closed: bool,
    /// A read reached the end.
    ended: bool,
}

enum ConnectionState {
    Head,
    Body(Body, ResponseKind, ResponseOptions),
    /// The last response is being sent; the rest of the input is discarded, up to a limit.
    Closing {
        discarded: usize,
        is_shut_down: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionStatus {
    Open,
    Closed,
}

impl ClientConnection {
    pub fn new(stream: TcpStream) -> ClientConnection {
        ClientConnection {
            stream,
            state: ConnectionState::Head,
            scan: HeadScan::default(),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            readable: true,
            read_closed: false,
            ended: false,
        }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads, responds and writes until the socket would block. An I/O error closes the connection.
    pub fn drive(&mut self, event: &Event, shared: &mut Shared) -> ConnectionStatus {
        self.readable |= event.is_readable() || event.is_error();
        self.read_closed |= event.is_read_closed();
        self.advance(shared).unwrap_or(ConnectionStatus::Closed)
    }

    fn advance(&mut self, shared: &mut Shared) -> io::Result<ConnectionStatus> {
        loop {
            if !self.flush()? {
                return Ok(ConnectionStatus::Open);
            }
            if !self.input.is_empty() {
                self.receive(0, shared);
                if !self.output.is_empty() {
                    continue;
                }
            }
            if self.is_finished()? {
                return Ok(ConnectionStatus::Closed);
            }
            if !self.readable {
                return Ok(ConnectionStatus::Open);
            }
            match self.stream.read(&mut shared.scratch) {
                Ok(0) => (self.ended, self.readable) = (true, false),
                Ok(n) => {
                    // A short read emptied the socket, unless the end of the stream follows.
                    self.readable = n == shared.scratch.len() || self.read_closed;
                    self.receive(n, shared);
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
    }

    /// Whether the connection can be closed. Called when the output is empty.
    fn is_finished(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(true);
        }
        if let ConnectionState::Closing { discarded, is_shut_down } = &mut self.state {
            if !*is_shut_down {
                *is_shut_down = true;
                self.stream.shutdown(std::net::Shutdown::Write)?;
            }
            return Ok(*discarded > LINGER_LIMIT);
        }
        Ok(false)
    }

    /// Writes output; returns whether all of it was written.
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

    /// Consumes the kept input and `n` new bytes of the scratch buffer, and keeps what cannot be consumed yet.
    fn receive(&mut self, n: usize, shared: &mut Shared) {
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

    /// Returns how many of `bytes` were consumed.
    fn consume(&mut self, bytes: &[u8], shared: &mut Shared) -> usize {
        let mut used = 0;
        while self.output.len() < OUTPUT_LIMIT {
            let rest = &bytes[used..];
            let n = match &mut self.state {
                ConnectionState::Head => {
                    self.head(rest, shared).unwrap_or_else(|refusal| self.refuse(refusal, rest.len(), shared))
                }
                ConnectionState::Body(body, kind, options) => match discard_body(body, rest) {
                    Ok(n) => {
                        if body.is_done() {
                            let (kind, options) = (*kind, *options);
                            self.respond(kind, options, shared);
                        }
                        n
                    }
                    Err(why) => self.refuse(head::refusal(400, why), rest.len(), shared),
                },
                ConnectionState::Closing { discarded, .. } => {
                    *discarded += rest.len();
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

    /// Parses one head at the front of `bytes`; returns its length, or 0 while it is incomplete.
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
        let origin = RequestSource {
            client_ip: b"",
            service: "replica",
            request_id: None,
            scheme: Scheme::Http,
            client_cert: None,
        };
        shared.edits.clear();
        let analysis = request::analyze(head, &request, &shared.limits, origin, &mut shared.edits)?;
        let mut accepted = request.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("accept"));
        let wants_json = || accepted.any(|field| memchr::memmem::find(field.value, b"application/json").is_some());
        let kind = ResponseKind::to(request.method, request.target, wants_json);
        let options =
            ResponseOptions { minor: analysis.minor, keep_alive: analysis.keep_alive, head_only: analysis.is_head };
        if analysis.body.is_done() {
            self.respond(kind, options, shared);
            return Ok(len);
        }
        if analysis.expects_continue {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.state = ConnectionState::Body(analysis.body, kind, options);
        Ok(len)
    }

    fn respond(&mut self, kind: ResponseKind, mut options: ResponseOptions, shared: &Shared) {
        options.keep_alive &= !shared.draining;
        shared.responses.write(kind, options, &mut self.output);
        self.state = if options.keep_alive {
            ConnectionState::Head
        } else {
            ConnectionState::Closing { discarded: 0, is_shut_down: false }
        };
    }

    /// Consumes all of the `rest` bytes: what follows a refused request is not parsed.
    fn refuse(&mut self, refusal: Refusal, rest: usize, shared: &Shared) -> usize {
        let options = ResponseOptions { minor: 1, keep_alive: false, head_only: false };
        self.respond(ResponseKind::Refused(refusal.status), options, shared);
        rest
    }
}

/// Returns how many of `bytes` belong to the body, framing included.
fn discard_body(body: &mut Body, bytes: &[u8]) -> Result<usize, &'static str> {
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
