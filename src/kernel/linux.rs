//! The kernel as Linux has it: epoll by mio, sockets and pipes by rustix and socket2, all of them safe to call.

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
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Event, Kernel, Token, Wake};
use crate::core::lane::SPLICE_MAX;
use crate::core::snapshot::Endpoint;
use crate::core::step::Ready;
use crate::core::tick::Tick;

/// Events taken in one wait.
const EVENTS: usize = 512;
/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4096;
/// How long the kernel alone waits for a client's first bytes: the first repetition of its SYN-ACK (1 s).
const SILENT_S: u32 = 1;

const WAKER: mio::Token = mio::Token(usize::MAX);

pub struct Linux {
    poll: Poll,
    events: Events,
}

impl Linux {
    /// A kernel for one worker, and the means to wake it from another thread.
    pub fn new() -> io::Result<(Linux, Wake)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let wake: Wake = Arc::new(move || {
            if let Err(error) = waker.wake() {
                log::error!("a worker could not be woken: {error}");
            }
        });
        Ok((Linux { poll, events: Events::with_capacity(EVENTS) }, wake))
    }
}

/// TCP_DEFER_ACCEPT (tcp(7)), in seconds. Neither std, rustix nor socket2 has it; nix makes a safe call of it.
#[derive(Clone, Copy)]
struct DeferAccept;
nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, u32, SetStruct<u32>);

/// Who says the first word on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstWord {
    Client,
    /// The other side may (SMTP greets, for example).
    Either,
}

/// A listening socket that shares its port with those of the other workers. Where the client speaks first, it comes in
/// with its first bytes: it is read at once, without a wait in between. Who stays silent comes in after `SILENT_S`.
pub fn listen(address: SocketAddr, first_word: FirstWord) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it: no call per connection.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if first_word == FirstWord::Client {
        // A kernel without it lets everybody in at once.
        let _ = DeferAccept.set(&socket, &SILENT_S);
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// An address is free when a plain bind works: `SO_REUSEPORT` alone would share a port with an earlier Ringway.
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

/// Keeps the calling thread on one core.
pub fn pin_to(core: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// How many descriptors this process may have, raised as far as is allowed.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// How many descriptors this process has open, as far as it can tell.
pub fn open_descriptors() -> usize {
    // Three is what every process begins with.
    std::fs::read_dir("/proc/self/fd").map_or(3, Iterator::count)
}

#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Kernel for Linux {
    type Socket = OwnedFd;
    type Listener = OwnedFd;
    type Pipe = Pipe;

    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<Event>) -> io::Result<()> {
        events.clear();
        match self.poll.poll(&mut self.events, timeout_ms.map(Duration::from_millis)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        events.extend(self.events.iter().filter(|event| event.token() != WAKER).map(|event| Event {
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

    fn now(&mut self) -> Tick {
        let time = rustix::time::clock_gettime(ClockId::MonotonicCoarse);
        Tick(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
    }

    fn unix_seconds(&mut self) -> u64 {
        rustix::time::clock_gettime(ClockId::RealtimeCoarse).tv_sec as u64
    }

    fn accept(&mut self, listener: &OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
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

    fn watch_listener(&mut self, listener: &OwnedFd, token: Token) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), pack(token), Interest::READABLE)
    }

    fn recv(&mut self, socket: &OwnedFd, space: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(socket, space, RecvFlags::empty())?.0)
    }

    fn send(&mut self, socket: &OwnedFd, bytes: &[u8], more: bool) -> io::Result<usize> {
        let more = if more { SendFlags::MORE } else { SendFlags::empty() };
        Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | more)?)
    }

    fn pipe(&mut self) -> io::Result<Pipe> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user's share of pipe memory may be used up; then the pipe stays as small as it came.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, SPLICE_MAX as usize);
        Ok(Pipe { read, write })
    }

    fn splice_in(&mut self, socket: &OwnedFd, pipe: &Pipe, most: u64) -> io::Result<u64> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(rustix::pipe::splice(socket, None, &pipe.write, None, most as usize, flags)? as u64)
    }

    fn splice_out(&mut self, pipe: &Pipe, socket: &OwnedFd, most: u64) -> io::Result<u64> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(rustix::pipe::splice(&pipe.read, None, socket, None, most as usize, flags)? as u64)
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
    let (kind, generation, place) = match token {
        Token::Listener(place) => (0u64, 0, place),
        Token::Client { place, generation } => (1, generation, place),
        Token::Upstream { place, generation } => (2, generation, place),
    };
    let generation = u64::from(generation) & GENERATION_MASK;
    mio::Token((kind << KIND_SHIFT | generation << GENERATION_SHIFT | u64::from(place)) as usize)
}

fn unpack(token: mio::Token) -> Token {
    let word = token.0 as u64;
    let place = word as u32;
    let generation = (word >> GENERATION_SHIFT & GENERATION_MASK) as u32;
    match word >> KIND_SHIFT {
        1 => Token::Client { place, generation },
        2 => Token::Upstream { place, generation },
        _ => Token::Listener(place),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;

    /// Two clients in this order, the first of them silent: which one comes in first, and whether the other one follows.
    fn silent_comes_first(first_word: FirstWord) -> bool {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), first_word).expect("a free port");
        let address = local_address(&listener).expect("it is bound");
        let silent = TcpStream::connect(address).expect("it listens");
        let mut speaks = TcpStream::connect(address).expect("it listens");
        speaks.write_all(b"GET").expect("it is connected");
        let mut poll = Poll::new().expect("a descriptor");
        let mut events = Events::with_capacity(1);
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), WAKER, Interest::READABLE).expect("a socket");
        let mut came = Vec::new();
        let (mut kernel, _) = Linux::new().expect("two descriptors");
        while came.len() < 2 {
            match kernel.accept(&listener) {
                Ok((_, peer)) => came.push(peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => poll.poll(&mut events, None).expect("an edge"),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(came.contains(&speaks.local_addr().expect("it is connected")), "{came:?}");
        came.first() == Some(&silent.local_addr().expect("it is connected"))
    }

    #[test]
    fn who_is_to_speak_first_comes_in_with_its_bytes() {
        // A second between the two connects on a stalled machine, and the silent one is in already.
        assert!((0..5).any(|_| !silent_comes_first(FirstWord::Client)), "the silent one came in first, always");
    }

    #[test]
    fn where_either_side_may_speak_first_nobody_waits() {
        assert!(silent_comes_first(FirstWord::Either), "it was made to wait");
    }
}
