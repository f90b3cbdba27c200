//! Layer 1: what a worker asks of the operating system. One method is one system call; no policy. The simulation
//! implements the same trait.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the trait [`Kernel`] with its types `Socket`, `Listener`, `Pipe`; [`SocketEvent`], [`Token`] (which client, upstream or listener an event is for), [`Wake`] |
//! | `listening` | `ListeningSockets`: binds each address for every worker, all or none, and shares out inherited ones; a worker takes its own socket; unwanted ones closed; `BindError`, which addresses are in use |
//! | `inherited` | sockets that this process was started with (`LISTEN_FDS`, `LISTEN_FDNAMES`): by systemd or by a predecessor; listeners, admin socket, handshake, lock; each taken by its name or address, the rest named and closed |
//! | `linux` | the same on Linux: mio's epoll, tokens packed into 64 bits, sockets with their options (SO_REUSEPORT, TCP_DEFER_ACCEPT, TCP_NODELAY), `splice`, descriptor limit, pinning to a core; waker, pipes with their size, flags close-on-exec and non-blocking |
//! | `parent` | a child dies with its parent: PR_SET_PDEATHSIG, `RINGWAY_PARENT_PID`, and `ringway exec`, which does so for another program |

pub mod inherited;
pub mod linux;
pub mod listening;
pub mod parent;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::core::snapshot::Endpoint;
pub use crate::core::step::Flush;
use crate::core::step::Ready;
use crate::core::tick::{Stamp, Tick};

/// The receiver of an event: a listener, a client connection or an upstream connection, by its index in a slab and the
/// generation of that index, so that an event of a closed connection never reaches its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Listener(u32),
    Client { index: u32, generation: u32 },
    Upstream { index: u32, generation: u32 },
}

#[derive(Clone, Copy, Debug)]
pub struct SocketEvent {
    pub token: Token,
    pub ready: Ready,
}

/// Wakes a thread that waits in its own event loop.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

pub trait Kernel {
    type Socket;
    type Listener;
    /// Both ends of a pipe.
    type Pipe;

    /// Waits for events, at most `timeout_ms` (`None`: without limit). A wake-up from another thread returns without an event.
    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<SocketEvent>) -> io::Result<()>;
    /// A monotonic clock.
    fn now(&mut self) -> Tick;
    /// The same clock, precisely: for what is measured.
    fn stamp(&mut self) -> Stamp;
    fn unix_seconds(&mut self) -> u64;
    /// The listening sockets that were bound for this worker at a configured address, and the address that they really
    /// have. None of them is there a second time.
    fn listeners(&mut self, address: SocketAddr) -> Vec<(Self::Listener, SocketAddr)>;
    /// The next connection and its peer. `WouldBlock`: none is waiting.
    fn accept(&mut self, listener: &Self::Listener) -> io::Result<(Self::Socket, SocketAddr)>;
    /// The address that the client connected to.
    fn local(&mut self, socket: &Self::Socket) -> io::Result<SocketAddr>;
    /// Begins to connect. The first write gives the result.
    fn connect(&mut self, endpoint: &Endpoint) -> io::Result<Self::Socket>;
    /// Events of both directions, edge-triggered, until the socket is closed.
    fn watch(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;
    fn watch_listener(&mut self, listener: &Self::Listener, token: Token) -> io::Result<()>;
    fn recv(&mut self, socket: &Self::Socket, space: &mut [u8]) -> io::Result<usize>;
    fn send(&mut self, socket: &Self::Socket, bytes: &[u8], flush: Flush) -> io::Result<usize>;
    fn pipe(&mut self) -> io::Result<Self::Pipe>;
    /// Socket to pipe.
    fn splice_in(&mut self, socket: &Self::Socket, pipe: &Self::Pipe, len_max: u64) -> io::Result<u64>;
    /// Pipe to socket.
    fn splice_out(&mut self, pipe: &Self::Pipe, socket: &Self::Socket, len_max: u64) -> io::Result<u64>;
    /// Half-closes the connection: FIN.
    fn shutdown_write(&mut self, socket: &Self::Socket) -> io::Result<()>;
    /// Makes the close of the socket a reset.
    fn abort(&mut self, socket: &Self::Socket) -> io::Result<()>;
    /// Stops watching the listener, which other processes may have too, and closes it.
    fn close_listener(&mut self, listener: Self::Listener) {
        drop(listener);
    }
    /// Closes the socket. Dropping it does the same; the simulation counts here.
    fn close(&mut self, socket: Self::Socket) {
        drop(socket);
    }
}
