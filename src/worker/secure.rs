//! TLS over one socket: records and plaintext, in the calls of a transport. Which session uses it, and when a handshake may
//! cost something, are decided elsewhere.
//!
//! A sealed byte cannot be taken back: what a socket does not take at once stays here, and the session is told of all its
//! bytes but one. To the session this is a short write; the last byte counts as sent once the rest is out.

use std::io::ErrorKind;

use crate::core::buffer::BufferPool;
use crate::core::proxy::{self, Ends};
use crate::core::step::{Flush, Io, Ready};
use crate::core::tls::{HandshakeSteps, Opened, Tls, TlsFault};
use crate::kernel::Kernel;

use super::handshake::{Handshake, StepBudget};
use super::transport;

const NOT_TLS: &str = "its answer is not TLS";
const CLOSED: &str = "it closed the connection during the handshake";

pub struct Secure {
    tls: Tls,
    pub stage: SecureStage,
    /// The socket may hold more: an edge that no read has consumed.
    readable: bool,
    hung_up: bool,
    /// The socket took no more: an edge follows.
    blocked: bool,
    /// Records cannot be opened before what is pending was sent.
    starved: bool,
    /// One byte that the session takes for unsent is sealed.
    owes: bool,
    /// The socket is shut down once all is sent.
    shutdown_due: bool,
    aborted: bool,
    /// The stream ended without close_notify.
    truncated: bool,
    /// A write took the socket's error: the read that would have met it does not.
    failed: Option<ErrorKind>,
}

/// How far a connection is.
#[derive(Debug)]
pub enum SecureStage {
    /// A client's, before its session.
    Accepting(Handshake),
    /// One to a replica: what it carries waits for the handshake.
    Connecting,
    /// Why the handshake with a replica failed, until it was told; nothing where the connection itself did.
    Failed(ErrorKind, Option<String>),
    Open,
}

/// What a handshake is waiting for, or came to.
#[derive(Debug)]
pub enum HandshakeState {
    /// The socket.
    Waits,
    /// This turn took its share of handshakes.
    Deferred,
    /// A PROXY header named the client. `None`: it is the peer itself.
    Named(Option<Ends>),
    Established,
    /// The peer sends a request in plain text.
    PlainText(Vec<u8>),
    /// The peer closed the connection.
    Ended,
    Failed(String),
}

impl Secure {
    pub fn of_client(tls: Tls, handshake: Handshake) -> Secure {
        // Its first bytes may be there already.
        Secure { readable: true, ..Secure::new(tls, SecureStage::Accepting(handshake)) }
    }

    /// The connection is under way.
    pub fn of_replica(tls: Tls) -> Secure {
        Secure::new(tls, SecureStage::Connecting)
    }

    fn new(tls: Tls, stage: SecureStage) -> Secure {
        Secure {
            tls,
            stage,
            readable: false,
            hung_up: false,
            blocked: false,
            starved: false,
            owes: false,
            shutdown_due: false,
            aborted: false,
            truncated: false,
            failed: None,
        }
    }

    /// The PROXY header in front of the handshake.
    pub fn read_proxy_header<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        pool: &mut BufferPool,
    ) -> HandshakeState {
        loop {
            match proxy::read(self.tls.unopened()) {
                Err(why) => return HandshakeState::Failed(why.into()),
                Ok(Some((len, ends))) => {
                    self.tls.skip(len);
                    return HandshakeState::Named(ends);
                }
                Ok(None) => {}
            }
            if let Some(state) = self.await_bytes(kernel, socket, pool) {
                return state;
            }
        }
    }

    pub fn shake_hands<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        budget: &mut StepBudget,
        pool: &mut BufferPool,
    ) -> HandshakeState {
        loop {
            if self.tls.is_untouched() && self.tls.unopened().first().is_some_and(u8::is_ascii_alphabetic) {
                return HandshakeState::PlainText(self.tls.unopened().to_vec());
            }
            let steps = if self.tls.has_handshake_step() { budget.take() } else { HandshakeSteps::Taken };
            match self.tls.open(&mut [], steps, pool) {
                Ok(Opened::Established) => return HandshakeState::Established,
                Ok(Opened::HandshakeStep) => return HandshakeState::Deferred,
                Ok(Opened::Closed) => return HandshakeState::Ended,
                Ok(Opened::NeedsBytes | Opened::Plain(_)) => {}
                Ok(Opened::NeedsRoom) => {
                    if self.flush(kernel, socket, Flush::Now, pool).is_some() || self.blocked {
                        return HandshakeState::Waits;
                    }
                    continue;
                }
                Err(fault) => return self.refuse(&fault, kernel, socket, pool),
            }
            if let Some(state) = self.await_bytes(kernel, socket, pool) {
                return state;
            }
        }
    }

    /// Waits for what comes behind the handshake: the first request, or the end.
    pub fn await_plaintext<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        pool: &mut BufferPool,
    ) -> HandshakeState {
        while !self.tls.has_more() {
            match self.await_bytes(kernel, socket, pool) {
                None => {}
                Some(HandshakeState::Waits) => return HandshakeState::Waits,
                // The session reads the same.
                Some(_) => break,
            }
        }
        HandshakeState::Established
    }

    /// The alert leaves before the connection is closed.
    fn refuse<K: Kernel>(
        &mut self,
        fault: &TlsFault,
        kernel: &mut K,
        socket: &K::Socket,
        pool: &mut BufferPool,
    ) -> HandshakeState {
        self.flush(kernel, socket, Flush::Now, pool);
        HandshakeState::Failed(fault.to_string())
    }

    /// Reads once, and sends what is due before it waits. `None`: bytes came.
    fn await_bytes<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        pool: &mut BufferPool,
    ) -> Option<HandshakeState> {
        match self.fill(kernel, socket, pool) {
            Io::Moved(_) => None,
            Io::Blocked => match self.flush(kernel, socket, Flush::Now, pool) {
                None => Some(HandshakeState::Waits),
                Some(_) => Some(HandshakeState::Ended),
            },
            Io::Ended | Io::Failed(_) => Some(HandshakeState::Ended),
        }
    }

    /// Goes on with the handshake of a connection to a replica. Returns what that means to the session.
    #[cold]
    fn connect<K: Kernel>(&mut self, ready: Ready, kernel: &mut K, socket: &K::Socket, pool: &mut BufferPool) -> Ready {
        let (kind, why) = match self.flush(kernel, socket, Flush::Now, pool) {
            Some(Io::Failed(kind)) => (kind, None),
            _ => match self.shake_hands_with_replica(kernel, socket, pool) {
                Ok(ready) => return ready,
                Err(failure) => failure,
            },
        };
        self.stage = SecureStage::Failed(kind, why);
        Ready { readable: true, dead: ready.dead, hangup: true, ..Ready::default() }
    }

    fn shake_hands_with_replica<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        pool: &mut BufferPool,
    ) -> Result<Ready, (ErrorKind, Option<String>)> {
        match self.shake_hands(kernel, socket, &mut StepBudget::unlimited(), pool) {
            HandshakeState::Waits | HandshakeState::Deferred | HandshakeState::Named(_) => Ok(Ready::default()),
            HandshakeState::Established => {
                self.stage = SecureStage::Open;
                // Our last message leaves with the request.
                Ok(Ready { readable: self.has_more(), writable: true, ..Ready::default() })
            }
            HandshakeState::PlainText(_) => Err((ErrorKind::InvalidData, Some(NOT_TLS.into()))),
            HandshakeState::Ended => Err((ErrorKind::ConnectionReset, Some(CLOSED.into()))),
            HandshakeState::Failed(why) => Err((ErrorKind::InvalidData, Some(why))),
        }
    }

    /// Why the handshake with a replica failed; once.
    pub fn take_failure(&mut self) -> Option<String> {
        match &mut self.stage {
            SecureStage::Failed(_, why) => why.take(),
            SecureStage::Accepting(_) | SecureStage::Connecting | SecureStage::Open => None,
        }
    }

    /// Of a client whose session has not begun.
    pub fn handshake(&mut self) -> Option<&mut Handshake> {
        match &mut self.stage {
            SecureStage::Accepting(handshake) => Some(handshake),
            SecureStage::Connecting | SecureStage::Failed(..) | SecureStage::Open => None,
        }
    }

    /// Not inlined, as `send` is not: the loop of connections in plain text stays small.
    #[inline(never)]
    pub fn recv<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        space: &mut [u8],
        pool: &mut BufferPool,
    ) -> Io {
        match self.stage {
            SecureStage::Open => {}
            SecureStage::Accepting(_) | SecureStage::Connecting => return Io::Blocked,
            SecureStage::Failed(kind, _) => return Io::Failed(kind),
        }
        loop {
            match self.tls.open(space, HandshakeSteps::Taken, pool) {
                Ok(Opened::Plain(n)) => return Io::Moved(n as u64),
                Ok(Opened::Closed) => return Io::Ended,
                Ok(Opened::NeedsBytes) => match self.fill(kernel, socket, pool) {
                    Io::Moved(_) => {}
                    // Tickets leave with the first response. Where no request is here yet, they leave now.
                    Io::Blocked => return self.flush(kernel, socket, Flush::Now, pool).unwrap_or(Io::Blocked),
                    Io::Ended => {
                        self.truncated = true;
                        return self.failed.map_or(Io::Ended, Io::Failed);
                    }
                    failed @ Io::Failed(_) => return failed,
                },
                Ok(Opened::NeedsRoom) => {
                    if let Some(failed) = self.flush(kernel, socket, Flush::Now, pool) {
                        return failed;
                    }
                    self.starved = self.blocked;
                    if self.blocked {
                        return Io::Blocked;
                    }
                }
                Ok(Opened::HandshakeStep | Opened::Established) => {}
                Err(_) => {
                    self.flush(kernel, socket, Flush::Now, pool);
                    return Io::Failed(ErrorKind::InvalidData);
                }
            }
        }
    }

    #[inline(never)]
    pub fn send<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        bytes: &[u8],
        flush: Flush,
        pool: &mut BufferPool,
    ) -> Io {
        if !matches!(self.stage, SecureStage::Open) {
            return Io::Blocked;
        }
        if self.owes || self.blocked {
            if let Some(failed) = self.flush(kernel, socket, Flush::Now, pool) {
                return failed;
            }
            if self.blocked {
                return Io::Blocked;
            }
        }
        let mut taken = usize::from(std::mem::take(&mut self.owes)).min(bytes.len());
        loop {
            let Ok(sealed) = self.tls.seal(bytes.get(taken..).unwrap_or_default(), pool) else {
                return Io::Failed(ErrorKind::InvalidData);
            };
            taken += sealed;
            let is_all = taken == bytes.len();
            if is_all && flush == Flush::WithNext {
                // What comes next is the end of the stream: this leaves in the same segment.
                self.tls.close_notify(pool);
            }
            // To the session a short write means that an edge follows: none does while the socket takes more.
            if let Some(failed) = self.flush(kernel, socket, if is_all { flush } else { Flush::Now }, pool) {
                return failed;
            }
            self.owes = self.blocked && sealed > 0;
            if is_all || self.blocked || sealed == 0 {
                break;
            }
        }
        match taken - usize::from(self.owes) {
            0 => Io::Blocked,
            n => Io::Moved(n as u64),
        }
    }

    /// close_notify, then FIN.
    pub fn shutdown_write<K: Kernel>(&mut self, kernel: &mut K, socket: &K::Socket, pool: &mut BufferPool) {
        self.tls.close_notify(pool);
        self.shutdown_due = true;
        self.flush(kernel, socket, Flush::WithNext, pool);
        self.shut_down_if_due(kernel, socket);
    }

    /// Says that nothing more is sent. False while the socket does not take that.
    pub fn finish<K: Kernel>(&mut self, kernel: &mut K, socket: &K::Socket, pool: &mut BufferPool) -> bool {
        self.tls.close_notify(pool);
        self.flush(kernel, socket, Flush::WithNext, pool).is_some() || !self.blocked
    }

    pub fn abort(&mut self) {
        self.aborted = true;
    }

    /// The connection is closed next.
    pub fn close<K: Kernel>(&mut self, kernel: &mut K, socket: &K::Socket, pool: &mut BufferPool) {
        if !self.aborted {
            self.finish(kernel, socket, pool);
        }
        self.tls.release(pool);
    }

    /// An edge of the socket. Returns what it means to the session.
    pub fn on_edge<K: Kernel>(
        &mut self,
        ready: Ready,
        kernel: &mut K,
        socket: &K::Socket,
        pool: &mut BufferPool,
    ) -> Ready {
        self.readable |= ready.may_read();
        self.hung_up |= ready.hangup || ready.dead;
        if matches!(self.stage, SecureStage::Connecting) {
            return self.connect(ready, kernel, socket, pool);
        }
        if ready.writable && self.blocked {
            self.flush(kernel, socket, Flush::Now, pool);
            self.starved &= self.blocked;
            self.shut_down_if_due(kernel, socket);
        }
        Ready { readable: ready.readable || self.has_more(), ..ready }
    }

    /// A read may find plaintext, although the last one did not fill its space.
    pub fn has_more(&self) -> bool {
        !self.starved && (self.readable || self.tls.has_more())
    }

    pub fn was_truncated(&self) -> bool {
        self.truncated
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The socket was never opened.
    pub fn discard(mut self, pool: &mut BufferPool) {
        self.tls.release(pool);
    }

    pub fn release(&mut self, pool: &mut BufferPool) {
        self.tls.release(pool);
    }

    /// One read of the socket.
    fn fill<K: Kernel>(&mut self, kernel: &mut K, socket: &K::Socket, pool: &mut BufferPool) -> Io {
        if !self.readable {
            return Io::Blocked;
        }
        let space = self.tls.space(pool);
        let room = space.len() as u64;
        let io = transport::recv(kernel, socket, space);
        self.tls.commit_read(io.moved() as usize);
        self.readable = self.hung_up && io.moved() > 0 || io.moved() == room;
        self.tls.reclaim(pool);
        io
    }

    /// Sends what is pending, as far as the socket takes it. Returns an error.
    fn flush<K: Kernel>(
        &mut self,
        kernel: &mut K,
        socket: &K::Socket,
        flush: Flush,
        pool: &mut BufferPool,
    ) -> Option<Io> {
        self.blocked = false;
        let pending = self.tls.pending();
        if pending.is_empty() {
            return None;
        }
        match transport::send(kernel, socket, pending, flush) {
            Io::Moved(n) => {
                self.blocked = (n as usize) < pending.len();
                self.tls.sent(n as usize, pool);
            }
            Io::Blocked | Io::Ended => self.blocked = true,
            failed @ Io::Failed(kind) => {
                // A reset behind the end of the peer's stream leaves that an end.
                self.failed = self.failed.or((kind != ErrorKind::BrokenPipe).then_some(kind));
                return Some(failed);
            }
        }
        None
    }

    fn shut_down_if_due<K: Kernel>(&mut self, kernel: &mut K, socket: &K::Socket) {
        if self.shutdown_due && !self.blocked {
            self.shutdown_due = false;
            transport::shutdown_write(kernel, socket);
        }
    }
}
