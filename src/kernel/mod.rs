//! Floor 1: what a worker asks of the operating system. One verb is one syscall; no policy. The simulator has a
//! kernel of its own behind the same trait.

pub mod linux;
pub mod parent;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::core::snapshot::Endpoint;
use crate::core::step::Ready;
use crate::core::tick::Tick;

/// Whom an event is for: a listener, a client connection or an upstream connection, by its place and the generation
/// of that place, so that an event of a closed connection never reaches its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Listener(u32),
    Client { place: u32, generation: u32 },
    Upstream { place: u32, generation: u32 },
}

#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub token: Token,
    pub ready: Ready,
}

/// Wakes a thread that waits in its own event loop.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

pub trait Kernel {
    type Socket;
    type Listener;
    /// A pipe's two ends, and what it can hold.
    type Pipe;

    /// Waits for edges, at most so long (`None`: until there is one). A wake-up from another thread has no event.
    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<Event>) -> io::Result<()>;
    fn now(&mut self) -> Tick;
    fn unix_seconds(&mut self) -> u64;
    fn accept(&mut self, listener: &Self::Listener) -> io::Result<(Self::Socket, SocketAddr)>;
    /// The address that the client reached.
    fn local(&mut self, socket: &Self::Socket) -> io::Result<SocketAddr>;
    /// Begins to connect; whether it worked is told by writing.
    fn connect(&mut self, endpoint: &Endpoint) -> io::Result<Self::Socket>;
    /// Both directions, edge-triggered, for the socket's life.
    fn watch(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;
    fn watch_listener(&mut self, listener: &Self::Listener, token: Token) -> io::Result<()>;
    fn recv(&mut self, socket: &Self::Socket, space: &mut [u8]) -> io::Result<usize>;
    /// With `more`, the bytes may wait for what is done to the socket next, in the same turn: a send, a finish, a close.
    fn send(&mut self, socket: &Self::Socket, bytes: &[u8], more: bool) -> io::Result<usize>;
    fn pipe(&mut self) -> io::Result<Self::Pipe>;
    /// Socket to pipe.
    fn splice_in(&mut self, socket: &Self::Socket, pipe: &Self::Pipe, most: u64) -> io::Result<u64>;
    /// Pipe to socket.
    fn splice_out(&mut self, pipe: &Self::Pipe, socket: &Self::Socket, most: u64) -> io::Result<u64>;
    /// Nothing more will be sent.
    fn shutdown_write(&mut self, socket: &Self::Socket) -> io::Result<()>;
    /// Closing is to be a reset.
    fn abort(&mut self, socket: &Self::Socket) -> io::Result<()>;
    /// The socket is closed by being dropped; a kernel that keeps books hears of it here.
    fn close(&mut self, socket: Self::Socket) {
        drop(socket);
    }
}
