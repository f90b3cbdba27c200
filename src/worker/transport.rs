//! A connection's byte stream over one socket. TLS will attach here: what is above it moves plaintext only. Which session
//! uses it, and pools of connections, never enter.

use std::io::{self, ErrorKind};

use crate::core::step::{Flush, Io, SpliceIn};
use crate::kernel::{Kernel, Token};

pub struct Transport<K: Kernel> {
    socket: K::Socket,
}

impl<K: Kernel> Transport<K> {
    pub fn new(socket: K::Socket) -> Transport<K> {
        Transport { socket }
    }

    pub fn watch(&self, kernel: &mut K, token: Token) -> io::Result<()> {
        kernel.watch(&self.socket, token)
    }

    #[inline]
    pub fn recv(&mut self, kernel: &mut K, space: &mut [u8]) -> Io {
        match retry_interrupted(|| kernel.recv(&self.socket, space)) {
            Ok(0) => Io::Ended,
            other => moved(other.map(|n| n as u64)),
        }
    }

    #[inline]
    pub fn send(&mut self, kernel: &mut K, bytes: &[u8], flush: Flush) -> Io {
        moved(retry_interrupted(|| kernel.send(&self.socket, bytes, flush)).map(|n| n as u64))
    }

    /// At most `len` bytes, from the socket into `pipe`.
    pub fn splice_in(&mut self, kernel: &mut K, pipe: &K::Pipe, len: u64) -> SpliceIn {
        match retry_interrupted(|| kernel.splice_in(&self.socket, pipe, len)) {
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
        moved(retry_interrupted(|| kernel.splice_out(pipe, &self.socket, len)))
    }

    pub fn shutdown_write(&mut self, kernel: &mut K) {
        // It fails where the connection is closed already.
        let _ = kernel.shutdown_write(&self.socket);
    }

    /// The close that follows is a reset.
    pub fn abort(&self, kernel: &mut K) {
        // It fails where the connection is closed already.
        let _ = kernel.abort(&self.socket);
    }

    pub fn close(self, kernel: &mut K) {
        kernel.close(self.socket);
    }
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
