//! The kernel on Linux: epoll through mio, sockets and pipes through rustix and socket2, without unsafe code.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Waker};
use nix::libc;
use nix::sys::socket::SetSockOpt;
use nix::sys::socket::sockopt::SetStruct;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags};
use rustix::time::ClockId;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::listening::ListeningSockets;
use super::{Flush, Kernel, SocketEvent, Token, Wake};
use crate::core::lane::SPLICE_MAX;
use crate::core::snapshot::Endpoint;
use crate::core::step::Ready;
use crate::core::tick::{Stamp, Tick};

/// Events that one wait returns at most.
const EVENTS: usize = 512;
/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 4096;
/// How long the kernel defers a silent client (TCP_DEFER_ACCEPT): until the first retransmission of its SYN-ACK, 1 s.
const DEFER_S: u32 = 1;

const WAKER: mio::Token = mio::Token(usize::MAX);

pub struct Linux {
    poll: Poll,
    events: Events,
    sockets: Arc<ListeningSockets>,
    worker: usize,
}

impl Linux {
    /// A kernel for one worker, and the function that wakes it from another thread.
    pub fn new(sockets: Arc<ListeningSockets>, worker: usize) -> io::Result<(Linux, Wake)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let wake: Wake = Arc::new(move || {
            if let Err(error) = waker.wake() {
                log::error!("a worker could not be woken: {error}");
            }
        });
        Ok((Linux { poll, events: Events::with_capacity(EVENTS), sockets, worker }, wake))
    }
}

/// TCP_DEFER_ACCEPT (tcp(7)), in seconds. std, rustix and socket2 lack it; nix wraps it in a safe call.
#[derive(Clone, Copy)]
struct DeferAccept;
nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, u32, SetStruct<u32>);

/// Which side of a connection sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendsFirst {
    Client,
    /// The server may: SMTP, for example.
    Either,
}

/// A listening socket that shares its port with those of the other workers (SO_REUSEPORT). If clients send first, a
/// connection is accepted once its first bytes are here, so that it is read without another wait; a silent one is accepted
/// after `DEFER_S`.
pub fn listen(address: SocketAddr, sends_first: SendsFirst) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it, which saves a call per connection.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if sends_first == SendsFirst::Client {
        // Without it, connections are accepted at once.
        let _ = DeferAccept.set(&socket, &DEFER_S);
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes a listening socket that another process bound one of ours. Its backlog stays.
pub fn adopt(socket: &OwnedFd, sends_first: SendsFirst) -> io::Result<()> {
    let options = SockRef::from(socket);
    options.set_nonblocking(true)?;
    options.set_tcp_nodelay(true)?;
    let defer_s = if sends_first == SendsFirst::Client { DEFER_S } else { 0 };
    let _ = DeferAccept.set(socket, &defer_s);
    Ok(())
}

/// Fails if the address is in use. A bind without SO_REUSEPORT: with it, the port of another Ringway would be shared.
pub fn probe_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let name = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(name).map_err(|_| io::Error::from(ErrorKind::AddrNotAvailable))
}

/// Pins the calling thread to one core.
pub fn pin_to(core: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Raises the limit of open descriptors as far as is allowed, and returns it.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// The number of open descriptors of this process; 3 where /proc cannot be read.
pub fn open_descriptors() -> usize {
    // Standard input, output and error.
    std::fs::read_dir("/proc/self/fd").map_or(3, Iterator::count)
}

/// The precise monotonic clock, now.
pub fn stamp() -> Stamp {
    let time = rustix::time::clock_gettime(ClockId::Monotonic);
    Stamp(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000)
}

#[derive(Debug)]
pub struct LinuxPipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Kernel for Linux {
    type Socket = OwnedFd;
    /// Shared with what passes it on to another process.
    type Listener = Arc<OwnedFd>;
    type Pipe = LinuxPipe;

    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<SocketEvent>) -> io::Result<()> {
        events.clear();
        match self.poll.poll(&mut self.events, timeout_ms.map(Duration::from_millis)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        events.extend(self.events.iter().filter(|event| event.token() != WAKER).map(|event| SocketEvent {
            token: unpack(event.token()),
            ready: Ready {
                readable: event.is_readable(),
                writable: event.is_writable(),
                hangup: event.is_read_closed(),
                dead: event.is_error() || event.is_write_closed(),
            },
        }));
        Ok(())
    }

    fn listeners(&mut self, address: SocketAddr) -> Vec<(Arc<OwnedFd>, SocketAddr)> {
        self.sockets.take(address, self.worker)
    }

    fn now(&mut self) -> Tick {
        let time = rustix::time::clock_gettime(ClockId::MonotonicCoarse);
        Tick(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
    }

    fn stamp(&mut self) -> Stamp {
        stamp()
    }

    fn unix_seconds(&mut self) -> u64 {
        rustix::time::clock_gettime(ClockId::RealtimeCoarse).tv_sec as u64
    }

    fn accept(&mut self, listener: &Arc<OwnedFd>) -> io::Result<(OwnedFd, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = rustix::net::acceptfrom_with(listener, flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        Ok((socket, peer.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))))
    }

    fn local(&mut self, socket: &OwnedFd) -> io::Result<SocketAddr> {
        local_address(socket)
    }

    fn connect(&mut self, endpoint: &Endpoint) -> io::Result<OwnedFd> {
        let (domain, protocol, address) = match endpoint {
            Endpoint::Tcp(address) => (Domain::for_address(*address), Some(Protocol::TCP), SockAddr::from(*address)),
            Endpoint::Unix(path) => (Domain::UNIX, None, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), protocol)?;
        if protocol.is_some() {
            socket.set_tcp_nodelay(true)?;
        }
        match socket.connect(&address) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
            _ => Ok(socket.into()),
        }
    }

    fn watch(&mut self, socket: &OwnedFd, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), pack(token), both)
    }

    fn watch_listener(&mut self, listener: &Arc<OwnedFd>, token: Token) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), pack(token), Interest::READABLE)
    }

    fn close_listener(&mut self, listener: Arc<OwnedFd>) {
        // Epoll forgets a socket only when no process has it any more (epoll(7), question 6).
        let _ = self.poll.registry().deregister(&mut SourceFd(&listener.as_raw_fd()));
    }

    fn recv(&mut self, socket: &OwnedFd, space: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(socket, space, RecvFlags::empty())?.0)
    }

    fn send(&mut self, socket: &OwnedFd, bytes: &[u8], flush: Flush) -> io::Result<usize> {
        let more = if flush == Flush::WithNext { SendFlags::MORE } else { SendFlags::empty() };
        Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | more)?)
    }

    fn pipe(&mut self) -> io::Result<LinuxPipe> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The pipe keeps its default size if the user's limit of pipe memory is reached (pipe(7)).
        let _ = rustix::pipe::fcntl_setpipe_size(&write, SPLICE_MAX as usize);
        Ok(LinuxPipe { read, write })
    }

    fn splice_in(&mut self, socket: &OwnedFd, pipe: &LinuxPipe, len_max: u64) -> io::Result<u64> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(rustix::pipe::splice(socket, None, &pipe.write, None, len_max as usize, flags)? as u64)
    }

    fn splice_out(&mut self, pipe: &LinuxPipe, socket: &OwnedFd, len_max: u64) -> io::Result<u64> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(rustix::pipe::splice(&pipe.read, None, socket, None, len_max as usize, flags)? as u64)
    }

    fn shutdown_write(&mut self, socket: &OwnedFd) -> io::Result<()> {
        Ok(rustix::net::shutdown(socket, Shutdown::Write)?)
    }

    fn abort(&mut self, socket: &OwnedFd) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(socket, Some(Duration::ZERO))?)
    }
}

const KIND_SHIFT: u32 = 62;
const GENERATION_SHIFT: u32 = 32;
const GENERATION_MASK: u64 = (1 << 30) - 1;

fn pack(token: Token) -> mio::Token {
    let (kind, generation, index) = match token {
        Token::Listener(index) => (0u64, 0, index),
        Token::Client { index, generation } => (1, generation, index),
        Token::Upstream { index, generation } => (2, generation, index),
    };
    let generation = u64::from(generation) & GENERATION_MASK;
    mio::Token((kind << KIND_SHIFT | generation << GENERATION_SHIFT | u64::from(index)) as usize)
}

fn unpack(token: mio::Token) -> Token {
    let word = token.0 as u64;
    let index = word as u32;
    let generation = (word >> GENERATION_SHIFT & GENERATION_MASK) as u32;
    match word >> KIND_SHIFT {
        1 => Token::Client { index, generation },
        2 => Token::Upstream { index, generation },
        _ => Token::Listener(index),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;
    use crate::kernel::inherited::Inherited;

    /// Of two clients that connect, the first is silent: whether it is accepted first. Both are accepted in the end.
    fn accepts_the_silent_first(sends_first: SendsFirst) -> bool {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), sends_first).expect("a free port");
        let listener = Arc::new(listener);
        let address = local_address(&listener).expect("it is bound");
        let silent = TcpStream::connect(address).expect("it listens");
        let mut sender = TcpStream::connect(address).expect("it listens");
        sender.write_all(b"GET").expect("it is connected");
        let mut poll = Poll::new().expect("a descriptor");
        let mut events = Events::with_capacity(1);
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), WAKER, Interest::READABLE).expect("a socket");
        let mut accepted = Vec::new();
        let (mut kernel, _) =
            Linux::new(Arc::new(ListeningSockets::new(1, Inherited::default())), 0).expect("two descriptors");
        while accepted.len() < 2 {
            match kernel.accept(&listener) {
                Ok((_, peer)) => accepted.push(peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => poll.poll(&mut events, None).expect("an edge"),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(accepted.contains(&sender.local_addr().expect("it is connected")), "{accepted:?}");
        accepted.first() == Some(&silent.local_addr().expect("it is connected"))
    }

    #[test]
    fn where_clients_send_first_a_silent_one_is_accepted_later() {
        // On a machine that stalls for DEFER_S between the two connects, the silent one is accepted first.
        assert!(
            (0..5).any(|_| !accepts_the_silent_first(SendsFirst::Client)),
            "the silent client was accepted first in five of five attempts"
        );
    }

    #[test]
    fn where_either_side_may_send_first_no_client_is_deferred() {
        assert!(accepts_the_silent_first(SendsFirst::Either), "the silent client was deferred");
    }
}
