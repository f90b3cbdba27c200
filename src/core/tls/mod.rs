//! One TLS connection as a pure state machine: ciphertext in and out through buffers of the pool, plaintext in and out for
//! the session above. No socket and no clock enters; randomness is rustls' own, and no length depends on it.
//!
//! What one connection can hold is bounded: a buffer of [`STORE`](super::buffer::STORE) bytes for each direction, and what
//! did not fit of one record. At rest it holds neither. A handshake message that does not fit in the buffer, a handshake of
//! [`HANDSHAKE_RECORDS`] records and [`EMPTY_RECORDS`] records in a row without plaintext end it.
//!
//! The cryptography is `ring`'s. Measured beside `aws-lc-rs` in one run (two builds in `scripts/bench`, four rounds of 2 s, CPU
//! time per request): small answers 24.0 and 24.6 us (each varies by a quarter), 1 MiB 835 and 805 us, a full handshake 281
//! and 267 us, a resumed one 340 and 321 us. 5 % of a handshake do not outweigh a program that is 2.6 MB (18 %) larger
//! and a second library of cryptography to build and to watch: the ACME, Docker and certificate crates bring `ring`.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`Tls`]: read, open, seal, close_notify; its bounds; what a handshake agreed on; [`TlsFault`] |
//! | [`buffers`] | ciphertext read and to be sent (`ReadBuffer`, `WriteBuffer`), where a record ends |
//! | [`certificate`] | a chain and its key from PEM: names, validity, whether they belong together |
//! | [`challenge`] | [`ChallengePolicy`]: connections of an ACME server that checks a name, by their only protocol `acme-tls/1` |
//! | [`client_auth`] | [`ClientAuth`](client_auth::ClientAuth): what certificates clients need; bounds of theirs; why there is no 421 |
//! | [`client_hello`] | the name in a ClientHello, for connections that pass through as they are |
//! | `clock` | the time of day as the workers tell it |
//! | `engine` | the one file that names rustls' connection types: records in, plaintext and ciphertext out |
//! | [`ocsp`] | a response of OCSP that is to be stapled: whether it is for a certificate, and until when |
//! | [`roots`] | [`Roots`](roots::Roots): authorities from PEM or DER |
//! | [`upstream`] | [`UpstreamPolicy`](upstream::UpstreamPolicy) of a service: what its replicas' certificate must be, and ours for them |
//! | [`policy`] | [`Policy`] of a listener: which certificate for which name and kind of key, versions, ALPN, tickets, what clients need |
//! | `tests` | two connections against each other: cut anywhere, one byte at a time, key updates, ends, bounds |

pub mod buffers;
pub mod certificate;
pub mod challenge;
pub mod client_auth;
pub mod client_hello;
mod clock;
mod engine;
mod ocsp;
pub mod policy;
pub mod roots;
#[cfg(test)]
pub mod tests;
pub mod upstream;

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::buffer::BufferPool;
use buffers::{ReadBuffer, WriteBuffer};
use challenge::{ALPN_ACME, ChallengePolicy};
use engine::{EngineState, RecordEngine, Sink};
use policy::{ClientRequest, Policy};

/// Records that one `open` looks at.
const RECORDS: usize = 64;
/// Records of one handshake: one in which each byte of a long ClientHello comes in a record of its own has fewer.
const HANDSHAKE_RECORDS: usize = 2048;
/// Records in a row that bring no plaintext: key updates, alerts, empty ones.
const EMPTY_RECORDS: usize = 32;
/// Plaintext that one `seal` takes, in bytes.
const SEAL_MAX: usize = 32 * 1024;
/// What a record's header, nonce, type and tag take beside its plaintext, rounded up.
const OVERHEAD: usize = 64;
/// Room for an alert or a key update.
const RESERVE: usize = 4 * OVERHEAD;
/// Room for any record of a handshake.
const HANDSHAKE_ROOM: usize = (1 << 14) + 256 + OVERHEAD;

/// One connection.
pub struct Tls {
    engine: RecordEngine,
    input: ReadBuffer,
    output: WriteBuffer,
    /// What did not fit of a record, and how much of that was taken since.
    rest: Vec<u8>,
    taken: usize,
    /// Of the handshake, or those in a row without plaintext.
    records: usize,
    end: PeerEnd,
    /// `open` said how the peer's stream ends.
    told_end: bool,
    sent_close: bool,
    /// Until the first record was opened.
    challenges: Option<Arc<ChallengePolicy>>,
}

/// How far the peer's stream is at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PeerEnd {
    Open,
    /// The peer said close_notify.
    Closed,
    Failed(TlsFault),
}

/// What opening records came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// So many bytes of plaintext, at least one.
    Plain(usize),
    /// What is here is no whole record.
    NeedsBytes,
    /// What is pending must be sent first.
    NeedsRoom,
    /// The next record is one of a handshake, and those wait.
    HandshakeStep,
    /// The handshake is over. What came behind it is not opened yet.
    Established,
    /// The peer said that it sends no more.
    Closed,
}

/// Whether records of a handshake, which cost a signature, may be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeSteps {
    Taken,
    Deferred,
}

/// Why a connection cannot go on. An alert that says so is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// A handshake message or a record is larger than a buffer.
    Oversized,
    /// Records come without an end, and nothing in them.
    NoProgress,
    /// The peer breaks the protocol, refuses ours, or has nothing in common with us.
    Protocol(String),
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeInfo {
    pub version: TlsVersion,
    pub resumption: Resumption,
    pub alpn: Option<Box<[u8]>>,
    pub client_certificate: ClientCertificate,
}

/// What a client proved of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    NotRequested,
    /// It was asked, and has none.
    Absent,
    /// Verified, in DER. Its issuers are left out.
    Verified(Box<[u8]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Whether a handshake continues an earlier session, by a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    Full,
    Resumed,
}

impl HandshakeInfo {
    /// The peer was an ACME server that checked a name: nothing follows.
    pub fn is_check_of_name(&self) -> bool {
        self.alpn.as_deref() == Some(ALPN_ACME)
    }
}

impl Tls {
    /// The server's end of a connection that begins now.
    pub fn server(policy: &Policy, unix_seconds: u64) -> Result<Tls, TlsFault> {
        RecordEngine::server(policy.config(unix_seconds), policy.client_request()).map(Tls::new)
    }

    /// An ACME server that checks a name gets this instead.
    pub fn with_challenges(self, challenges: Option<Arc<ChallengePolicy>>) -> Tls {
        Tls { challenges, ..self }
    }

    /// The client's end: its first message is pending.
    pub fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        pool: &mut BufferPool,
    ) -> Result<Tls, TlsFault> {
        let mut tls = Tls::new(RecordEngine::client(config, name)?);
        let Tls { engine, output, rest, .. } = &mut tls;
        let mut sink = Opener { output, rest, plain: &mut [], written: 0, pool };
        match engine.process(&mut [], &mut sink).1 {
            Ok(_) => Ok(tls),
            Err(fault) => {
                tls.release(pool);
                Err(fault)
            }
        }
    }

    /// Sends `header` in plain text before the first message, as a PROXY header is.
    pub fn introduce(&mut self, header: &[u8], pool: &mut BufferPool) {
        self.output.prepend(header, pool);
    }

    fn new(engine: RecordEngine) -> Tls {
        let (input, output, rest) = (ReadBuffer::default(), WriteBuffer::default(), Vec::new());
        Tls {
            engine,
            input,
            output,
            rest,
            taken: 0,
            records: 0,
            end: PeerEnd::Open,
            told_end: false,
            sent_close: false,
            challenges: None,
        }
    }

    /// Where the next bytes of the socket go: never empty after an `open` that needs bytes.
    pub fn space(&mut self, pool: &mut BufferPool) -> &mut [u8] {
        self.input.space(pool)
    }

    pub fn commit_read(&mut self, n: usize) {
        self.input.commit(n);
    }

    /// What was read and not opened.
    pub fn unopened(&self) -> &[u8] {
        self.input.unfed()
    }

    /// Takes `n` bytes off the front that were not TLS.
    pub fn skip(&mut self, n: usize) {
        self.input.skip(n);
    }

    /// Opens records into `plain`.
    pub fn open(&mut self, plain: &mut [u8], steps: HandshakeSteps, pool: &mut BufferPool) -> Result<Opened, TlsFault> {
        let mut opened = self.take_rest(plain);
        let mut stop = Opened::HandshakeStep;
        for _ in 0..RECORDS {
            if let Some(at_end) = self.stops_at(opened, plain.len(), steps) {
                stop = at_end;
                break;
            }
            let was_handshaking = self.engine.is_handshaking();
            opened += self.open_record(plain.get_mut(opened..).unwrap_or_default(), pool);
            if was_handshaking && !self.engine.is_handshaking() {
                stop = Opened::Established;
                break;
            }
        }
        if self.end == PeerEnd::Open {
            self.input.reclaim(pool);
        } else {
            self.input.release(pool);
        }
        self.output.reclaim(pool);
        if opened == 0 && stop == Opened::NeedsBytes && self.end == PeerEnd::Open && self.input.is_full() {
            self.end = PeerEnd::Failed(TlsFault::Oversized);
        }
        self.told_end |= opened == 0 && self.end != PeerEnd::Open;
        match (opened, &self.end) {
            (1.., _) => Ok(Opened::Plain(opened)),
            (0, PeerEnd::Failed(fault)) => Err(fault.clone()),
            (0, PeerEnd::Closed) => Ok(Opened::Closed),
            (0, PeerEnd::Open) => Ok(stop),
        }
    }

    /// Why no other record is opened now.
    fn stops_at(&self, opened: usize, space: usize, steps: HandshakeSteps) -> Option<Opened> {
        let is_handshaking = self.engine.is_handshaking();
        let room = if is_handshaking { HANDSHAKE_ROOM } else { RESERVE };
        if self.end != PeerEnd::Open || !self.input.has_record() {
            Some(Opened::NeedsBytes)
        } else if opened > 0 && opened == space || !self.rest.is_empty() {
            Some(Opened::Plain(opened))
        } else if is_handshaking && steps == HandshakeSteps::Deferred {
            Some(Opened::HandshakeStep)
        } else {
            (self.output.room() < room).then_some(Opened::NeedsRoom)
        }
    }

    /// Returns how many bytes of plaintext it wrote.
    fn open_record(&mut self, plain: &mut [u8], pool: &mut BufferPool) -> usize {
        if let Some(challenges) = self.challenges.take() {
            self.choose_engine(&challenges);
        }
        let was_handshaking = self.engine.is_handshaking();
        self.input.feed();
        let Tls { engine, input, output, rest, .. } = self;
        let mut sink = Opener { output, rest, plain, written: 0, pool };
        let (done, result) = engine.process(input.fed(), &mut sink);
        let opened = sink.written;
        self.input.discard(done);
        match result {
            Ok(EngineState::Waits) => {}
            Ok(EngineState::PeerClosed) => self.end = PeerEnd::Closed,
            Err(fault) => self.end = PeerEnd::Failed(fault),
        }
        let is_handshaking = self.engine.is_handshaking();
        let progressed = opened > 0 || was_handshaking && !is_handshaking;
        self.records = if progressed { 0 } else { self.records + 1 };
        let limit = if is_handshaking { HANDSHAKE_RECORDS } else { EMPTY_RECORDS };
        if self.records >= limit && self.end == PeerEnd::Open {
            self.end = PeerEnd::Failed(TlsFault::NoProgress);
        }
        opened
    }

    /// By the first record, which has the whole ClientHello of an ACME server.
    #[cold]
    fn choose_engine(&mut self, challenges: &ChallengePolicy) {
        if client_hello::is_check_of_name(self.input.unfed())
            && let Ok(engine) = RecordEngine::server(challenges.config(), ClientRequest::Nothing)
        {
            self.engine = engine;
        }
    }

    /// Another `open` may give plaintext, or its end, without another read.
    pub fn has_more(&self) -> bool {
        let comes = match self.end {
            PeerEnd::Open => !self.engine.is_handshaking() && self.input.has_record(),
            PeerEnd::Closed | PeerEnd::Failed(_) => !self.told_end,
        };
        self.taken < self.rest.len() || comes
    }

    /// No record was opened yet.
    pub fn is_untouched(&self) -> bool {
        self.records == 0 && self.engine.is_handshaking()
    }

    /// Gives back a buffer that holds nothing.
    pub fn reclaim(&mut self, pool: &mut BufferPool) {
        self.input.reclaim(pool);
    }

    /// A whole record of the handshake waits to be opened.
    pub fn has_handshake_step(&self) -> bool {
        self.engine.is_handshaking() && self.input.has_record()
    }

    /// Seals the begin of `plain`, as much as there is room for. Returns how much.
    pub fn seal(&mut self, plain: &[u8], pool: &mut BufferPool) -> Result<usize, TlsFault> {
        let room = self.output.room().saturating_sub(RESERVE);
        let n = plain.len().min(room).min(SEAL_MAX);
        let plain = plain.get(..n).unwrap_or_default();
        if let PeerEnd::Failed(fault) = &self.end {
            return Err(fault.clone());
        }
        if n == 0 {
            return Ok(0);
        }
        if self.sent_close {
            return Err(TlsFault::Protocol("nothing follows close_notify".into()));
        }
        let Tls { engine, input, output, rest, .. } = self;
        let mut sink = Opener { output, rest, plain: &mut [], written: 0, pool };
        let result = engine.seal(plain, input.fed(), &mut sink);
        self.output.reclaim(pool);
        result.map(|()| n).map_err(|fault| self.fail(fault))
    }

    /// Says that nothing more is sent. It is said once, and not while a handshake is under way.
    pub fn close_notify(&mut self, pool: &mut BufferPool) {
        let failed = matches!(self.end, PeerEnd::Failed(_));
        if self.sent_close || failed || self.engine.is_handshaking() || self.output.room() < RESERVE {
            return;
        }
        self.sent_close = true;
        let Tls { engine, input, output, rest, .. } = self;
        let mut sink = Opener { output, rest, plain: &mut [], written: 0, pool };
        if let Err(fault) = engine.close_notify(input.fed(), &mut sink) {
            self.fail(fault);
        }
        self.output.reclaim(pool);
    }

    /// Nothing can be sealed any more.
    pub fn has_sent_close(&self) -> bool {
        self.sent_close
    }

    /// Ciphertext to be sent.
    pub fn pending(&self) -> &[u8] {
        self.output.pending()
    }

    /// The socket took `n` bytes of `pending`.
    pub fn sent(&mut self, n: usize, pool: &mut BufferPool) {
        self.output.sent(n, pool);
    }

    /// `None`: the handshake is under way.
    pub fn handshake(&self) -> Option<HandshakeInfo> {
        (!self.is_handshaking()).then(|| self.engine.handshake())
    }

    pub fn is_handshaking(&self) -> bool {
        self.engine.is_handshaking()
    }

    /// Buffers of the pool that it holds.
    pub fn buffers(&self) -> usize {
        usize::from(self.input.has_buffer()) + usize::from(self.output.has_buffer())
    }

    /// Gives the buffers back at the end of the connection.
    pub fn release(&mut self, pool: &mut BufferPool) {
        self.input.release(pool);
        self.output.release(pool);
    }

    /// Panics where an invariant is broken.
    pub fn check(&self) {
        self.input.check();
        self.output.check();
        assert!(self.taken <= self.rest.len() && self.rest.len() <= 1 << 14, "the rest of more than a record");
    }

    fn take_rest(&mut self, plain: &mut [u8]) -> usize {
        let rest = self.rest.get(self.taken..).unwrap_or_default();
        let n = rest.len().min(plain.len());
        if let (Some(to), Some(from)) = (plain.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.taken += n;
        if self.taken == self.rest.len() {
            (self.rest, self.taken) = (Vec::new(), 0);
        }
        n
    }

    fn fail(&mut self, fault: TlsFault) -> TlsFault {
        self.end = PeerEnd::Failed(fault.clone());
        fault
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tls { input, output, records, end, .. } = self;
        write!(f, "Tls({end:?}, {records} records, {input:?}, {output:?}, {} kept)", self.rest.len() - self.taken)
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFault::Oversized => f.write_str("a message is larger than a buffer"),
            TlsFault::NoProgress => f.write_str("too many records without data"),
            TlsFault::Protocol(why) => f.write_str(why),
        }
    }
}

/// Takes plaintext into `plain` and, where that is full, into `rest`.
struct Opener<'a> {
    output: &'a mut WriteBuffer,
    rest: &'a mut Vec<u8>,
    plain: &'a mut [u8],
    written: usize,
    pool: &'a mut BufferPool,
}

impl Sink for Opener<'_> {
    fn plaintext(&mut self, bytes: &[u8]) {
        let space = self.plain.get_mut(self.written..).unwrap_or_default();
        let (now, later) = bytes.split_at(bytes.len().min(space.len()));
        if let Some(space) = space.get_mut(..now.len()) {
            space.copy_from_slice(now);
        }
        self.written += now.len();
        self.rest.extend_from_slice(later);
    }

    fn space(&mut self) -> &mut [u8] {
        self.output.space(self.pool)
    }

    fn commit(&mut self, n: usize) {
        self.output.commit(n);
    }
}
