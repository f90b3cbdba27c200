//! A connection's byte stream over one socket, in plain or by TLS: what is above it moves plaintext only. Which session
//! uses it, and pools of connections, never enter.

use std::io::{self, ErrorKind};

use crate::core::buffer::BufferPool;
use crate::core::step::{Flush, Io, Ready, SpliceIn};
use crate::kernel::{Kernel, Token};

use super::secure::{Secure, SecureStage};

pub struct Transport<K: Kernel> {
    socket: K::Socket,
    tls: Option<Box<Secure>>,
}

impl<K: Kernel> Transport<K> {
    pub fn new(socket: K::Socket) -> Transport<K> {
        Transport { socket, tls: None }
    }

    pub fn secure(socket: K::Socket, tls: Secure) -> Transport<K> {
        Transport { socket, tls: Some(tls.into()) }
    }

    pub fn watch(&self, kernel: &mut K, token: Token) -> io::Result<()> {
        kernel.watch(&self.socket, token)
    }

    #[inline(always)]
    pub fn recv(&mut self, kernel: &mut K, space: &mut [u8], pool: &mut BufferPool) -> Io {
        match &mut self.tls {
            None => recv(kernel, &self.socket, space),
            Some(tls) => tls.recv(kernel, &self.socket, space, pool),
        }
    }

    #[inline(always)]
    pub fn send(&mut self, kernel: &mut K, bytes: &[u8], flush: Flush, pool: &mut BufferPool) -> Io {
        match &mut self.tls {
            None => send(kernel, &self.socket, bytes, flush),
            Some(tls) => tls.send(kernel, &self.socket, bytes, flush, pool),
        }
    }

    /// The socket, where bytes pass as they are: only such a one can be spliced.
    pub fn bare(&self) -> Option<&K::Socket> {
        self.tls.is_none().then_some(&self.socket)
    }

    /// At most `len` bytes, from the socket into `pipe`.
    pub fn splice_in(&mut self, kernel: &mut K, pipe: &K::Pipe, len: u64) -> SpliceIn {
        let Some(socket) = self.bare() else { return SpliceIn::Unsupported };
        match retry_interrupted(|| kernel.splice_in(socket, pipe, len)) {
            Ok(0) => SpliceIn::Io(Io::Ended),
            // EINVAL: the kernel does not splice from this kind of socket (splice(2)).
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                SpliceIn::Unsupported
            }
            other => SpliceIn::Io(moved(other)),
        }
    }

    /// At most `len` bytes, from `pipe` into the socket.
    pub fn splice_out(&mut self, kernel: &mut K, pipe: &K::Pipe, len: u64) -> Io {
        match self.bare() {
            Some(socket) => moved(retry_interrupted(|| kernel.splice_out(pipe, socket, len))),
            None => Io::Failed(ErrorKind::Unsupported),
        }
    }

    pub fn shutdown_write(&mut self, kernel: &mut K, pool: &mut BufferPool) {
        match &mut self.tls {
            None => shutdown_write(kernel, &self.socket),
            Some(tls) => tls.shutdown_write(kernel, &self.socket, pool),
        }
    }

    /// Says that nothing more is sent. False while that waits for the socket: an edge follows.
    pub fn finish(&mut self, kernel: &mut K, pool: &mut BufferPool) -> bool {
        self.tls.as_mut().is_none_or(|tls| tls.finish(kernel, &self.socket, pool))
    }

    /// The close that follows is a reset.
    pub fn abort(&mut self, kernel: &mut K) {
        if let Some(tls) = &mut self.tls {
            tls.abort();
        }
        // It fails where the connection is closed already.
        let _ = kernel.abort(&self.socket);
    }

    pub fn close(mut self, kernel: &mut K, pool: &mut BufferPool) {
        if let Some(tls) = &mut self.tls {
            tls.close(kernel, &self.socket, pool);
        }
        kernel.close(self.socket);
    }

    /// An edge of the socket. Returns what it means to what is above.
    #[inline]
    pub fn on_edge(&mut self, ready: Ready, kernel: &mut K, pool: &mut BufferPool) -> Ready {
        match &mut self.tls {
            None => ready,
            Some(tls) => tls.on_edge(ready, kernel, &self.socket, pool),
        }
    }

    /// Plaintext may be here although no edge will say so. False without TLS.
    pub fn has_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_more())
    }

    #[inline]
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| matches!(tls.stage, SecureStage::Accepting(_)))
    }

    #[inline]
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Why the TLS handshake with a replica failed; once.
    pub fn take_failure(&mut self) -> Option<String> {
        self.tls.as_mut().and_then(|tls| tls.take_failure())
    }

    /// An edge of a connection that no session uses: over TLS it may be a ticket. False where bytes came that belong to no
    /// request, or the end.
    pub fn stays_clean(&mut self, ready: Ready, kernel: &mut K, pool: &mut BufferPool) -> bool {
        if !self.is_secure() {
            return !ready.may_read();
        }
        self.on_edge(ready, kernel, pool);
        self.recv(kernel, &mut [0], pool) == Io::Blocked
    }

    /// The stream ended, and the peer did not say so.
    pub fn was_truncated(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.was_truncated())
    }

    /// TLS, and the socket that it runs over.
    pub fn tls(&mut self) -> Option<(&mut Secure, &K::Socket)> {
        self.tls.as_deref_mut().map(|tls| (tls, &self.socket))
    }

    /// Bytes pass as they are from now on.
    pub fn drop_tls(&mut self, pool: &mut BufferPool) {
        if let Some(mut tls) = self.tls.take() {
            tls.release(pool);
        }
    }

    /// Buffers of the pool that it holds.
    pub fn buffers(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.tls().buffers())
    }

    /// Panics where an invariant is broken.
    pub fn check(&self) {
        if let Some(tls) = &self.tls {
            tls.tls().check();
        }
    }
}

#[inline]
pub fn recv<K: Kernel>(kernel: &mut K, socket: &K::Socket, space: &mut [u8]) -> Io {
    match retry_interrupted(|| kernel.recv(socket, space)) {
        Ok(0) => Io::Ended,
        other => moved(other.map(|n| n as u64)),
    }
}

#[inline]
pub fn send<K: Kernel>(kernel: &mut K, socket: &K::Socket, bytes: &[u8], flush: Flush) -> Io {
    moved(retry_interrupted(|| kernel.send(socket, bytes, flush)).map(|n| n as u64))
}

pub fn shutdown_write<K: Kernel>(kernel: &mut K, socket: &K::Socket) {
    // It fails where the connection is closed already.
    let _ = kernel.shutdown_write(socket);
}

/// EINTR is no outcome: the call is made again.
fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn moved(result: io::Result<u64>) -> Io {
    match result {
        Ok(n) => Io::Moved(n),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock => Io::Blocked,
            kind => Io::Failed(kind),
        },
    }
}
