//! What the bytes of a client or a replica pass through: its socket as it is, or TLS over it. The TLS is rustls' own buffered
//! connection, which shares no code with the balancer's beyond the library. What the bytes mean never enters.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};

use rustls::{Connection, Error, ProtocolVersion};

use super::net::{Net, SocketId};
use super::tls::Speech;

/// Ciphertext read at a time, in bytes.
const READ_MAX: u64 = 16 * 1024;

pub enum Stream {
    Plain,
    Secure(Box<SecureStream>),
}

/// Whether requests can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Done,
    UnderWay,
    /// The connection ended before.
    Ended,
}

pub struct SecureStream {
    connection: Connection,
    speech: Speech,
    /// Ciphertext that was read and not opened: what is opened is taken before more is.
    incoming: VecDeque<u8>,
    /// Ciphertext that the socket has not taken.
    outgoing: VecDeque<u8>,
    /// The plaintext whose record is in `outgoing`: it counts as sent once all of that is out.
    sealed: Option<usize>,
    shutdown_due: bool,
    /// Ciphertext that it may still move.
    left: u64,
}

impl Stream {
    /// It moves `limit` bytes at most.
    pub fn secure(connection: Connection, speech: Speech, limit: u64) -> Stream {
        let (incoming, outgoing, sealed, shutdown_due) = Default::default();
        let stream = SecureStream { connection, speech, incoming, outgoing, sealed, shutdown_due, left: limit };
        Stream::Secure(Box::new(stream))
    }

    pub fn is_secure(&self) -> bool {
        matches!(self, Stream::Secure(_))
    }

    /// It moved as much as it may.
    pub fn is_spent(&self) -> bool {
        matches!(self, Stream::Secure(tls) if tls.left == 0)
    }

    /// What comes before requests, and what is due anyway.
    pub fn advance(&mut self, net: &mut Net, socket: SocketId) -> Handshake {
        match self {
            Stream::Plain => Handshake::Done,
            Stream::Secure(tls) => tls.advance(net, socket),
        }
    }

    pub fn write(&mut self, net: &mut Net, socket: SocketId, bytes: &[u8]) -> Result<usize, ErrorKind> {
        match self {
            Stream::Plain => net.write(socket, bytes),
            Stream::Secure(tls) => tls.write(net, socket, bytes),
        }
    }

    /// 0 is the end of the stream. `UnexpectedEof`: it ended, and the peer did not say so.
    pub fn read(&mut self, net: &mut Net, socket: SocketId, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        match self {
            Stream::Plain => net.read(socket, buffer),
            Stream::Secure(tls) => tls.read(net, socket, buffer),
        }
    }

    pub fn shutdown_write(&mut self, net: &mut Net, socket: SocketId) {
        match self {
            Stream::Plain => net.shutdown_write(socket),
            Stream::Secure(tls) => {
                tls.send_close_notify(net, socket);
                tls.shutdown_due = true;
                let _ = tls.flush(net, socket);
            }
        }
    }

    /// Whether it says close_notify at its end from now on.
    pub fn set_close_notify(&mut self, is_said: bool) {
        if let Stream::Secure(tls) = self {
            tls.speech.sends_close_notify = is_said;
        }
    }

    /// Between two messages: other keys are in force at times.
    pub fn rest(&mut self, net: &mut Net, socket: SocketId) {
        if let Stream::Secure(tls) = self {
            tls.update_keys(net);
            tls.collect();
            let _ = tls.flush(net, socket);
        }
    }

    /// The socket took all that was written, and the end of it if that was said.
    pub fn is_flushed(&self) -> bool {
        match self {
            Stream::Plain => true,
            Stream::Secure(tls) => tls.outgoing.is_empty(),
        }
    }

    /// An orderly close follows.
    pub fn end(&mut self, net: &mut Net, socket: SocketId) {
        if let Stream::Secure(tls) = self {
            tls.send_close_notify(net, socket);
        }
    }
}

impl SecureStream {
    fn advance(&mut self, net: &mut Net, socket: SocketId) -> Handshake {
        while self.connection.is_handshaking() {
            self.collect();
            match self.flush(net, socket).and_then(|()| self.fill(net, socket, READ_MAX)) {
                Ok(0) => return Handshake::Ended,
                Ok(_) => {}
                Err(ErrorKind::WouldBlock) => return Handshake::UnderWay,
                Err(_) => return Handshake::Ended,
            }
        }
        self.collect();
        if self.sealed.is_none() {
            // An error is met by the next read too.
            let _ = self.flush(net, socket);
        }
        Handshake::Done
    }

    fn write(&mut self, net: &mut Net, socket: SocketId, bytes: &[u8]) -> Result<usize, ErrorKind> {
        if self.sealed.is_none() {
            self.flush(net, socket)?;
            if !self.outgoing.is_empty() {
                return Err(ErrorKind::WouldBlock);
            }
            self.update_keys(net);
            let n = bytes.len().min(self.speech.record_max);
            self.connection.writer().write_all(&bytes[..n]).expect("room for a record");
            self.collect();
            self.sealed = Some(n);
        }
        self.flush(net, socket)?;
        if !self.outgoing.is_empty() {
            return Err(ErrorKind::WouldBlock);
        }
        Ok(self.sealed.take().unwrap_or_default())
    }

    fn read(&mut self, net: &mut Net, socket: SocketId, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other.map_err(|error| error.kind()),
            }
            self.fill(net, socket, buffer.len() as u64)?;
        }
    }

    /// 0 is the end of the socket's stream.
    ///
    /// Oracle: what comes is TLS without a fault, and no alert but for a certificate that is not to be taken or a name without a route.
    fn fill(&mut self, net: &mut Net, socket: SocketId, max: u64) -> Result<usize, ErrorKind> {
        if self.incoming.is_empty() {
            let max = max.min(READ_MAX).min(self.left);
            if max == 0 {
                return Err(ErrorKind::WouldBlock);
            }
            let mut buffer = vec![0; max as usize];
            let n = net.read(socket, &mut buffer)?;
            self.left -= n as u64;
            self.incoming.extend(&buffer[..n]);
        }
        let n = self.connection.read_tls(&mut self.incoming).expect("room for a record");
        match self.connection.process_new_packets() {
            Ok(_) => Ok(n),
            Err(Error::AlertReceived(_)) if self.speech.is_refused => Err(ErrorKind::InvalidData),
            Err(error) => panic!("socket {socket}: the balancer breaks TLS: {error}"),
        }
    }

    fn update_keys(&mut self, net: &mut Net) {
        let is_new = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if is_new && net.random.tls().per_mille(self.speech.key_updates) {
            self.connection.refresh_traffic_keys().expect("a handshake that is over");
        }
    }

    fn send_close_notify(&mut self, net: &mut Net, socket: SocketId) {
        if self.speech.sends_close_notify && !self.connection.is_handshaking() {
            self.connection.send_close_notify();
            self.collect();
        }
        let _ = self.flush(net, socket);
    }

    fn collect(&mut self) {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.outgoing).expect("a buffer takes all");
        }
    }

    fn flush(&mut self, net: &mut Net, socket: SocketId) -> Result<(), ErrorKind> {
        while !self.outgoing.is_empty() && self.left > 0 {
            let front = self.outgoing.as_slices().0;
            let max = front.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            match net.write(socket, &front[..max]) {
                Ok(n) => {
                    self.outgoing.drain(..n);
                    self.left -= n as u64;
                }
                Err(ErrorKind::WouldBlock) => break,
                Err(error) => return Err(error),
            }
        }
        if self.outgoing.is_empty() && std::mem::take(&mut self.shutdown_due) {
            net.shutdown_write(socket);
        }
        Ok(())
    }
}
