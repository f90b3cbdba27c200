//! The replica's one loop: accept, drive what is ready, and on SIGTERM stop within a fixed time.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Protocol, Socket, Type};

use super::answer::Answers;
use super::conn::{Conn, Fate, Shared};
use crate::core::limits::Limits;
use crate::core::rewrite::Edits;

/// What a stopping replica gives its clients to send what they had begun to send.
const DRAIN: Duration = Duration::from_millis(150);
const BACKLOG: i32 = 4096;
const SCRATCH: usize = 64 * 1024;
const EVENTS: usize = 1024;

const LISTENER: Token = Token(usize::MAX - 1);
const SIGNAL: Token = Token(usize::MAX - 2);

pub struct Server {
    poll: Poll,
    listener: Option<TcpListener>,
    /// Readable once a signal asked to stop. Held open: nothing is ever read from it.
    _signal: mio::net::UnixStream,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    shared: Shared,
    stop_at: Option<Instant>,
}

/// Binds with a backlog that a burst of clients fits in.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Server {
    pub fn new(id: &str, listener: std::net::TcpListener) -> io::Result<Server> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::from_std(listener);
        let mut signal = stop_signal()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut signal, SIGNAL, Interest::READABLE)?;
        let shared = Shared {
            answers: Answers::new(id),
            limits: Limits::default(),
            draining: false,
            edits: Edits::default(),
            scratch: vec![0; SCRATCH].into(),
        };
        Ok(Server {
            poll,
            listener: Some(listener),
            _signal: signal,
            conns: Vec::new(),
            free: Vec::new(),
            shared,
            stop_at: None,
        })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().map_or_else(|| Err(ErrorKind::NotConnected.into()), |listener| listener.local_addr())
    }

    /// Until a signal, and then until the last answer has left or the drain is over.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_finished() {
            let patience = self.stop_at.map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, patience) {
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.shared.answers.at(SystemTime::now());
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    SIGNAL => self.stop(),
                    Token(at) => self.drive(at, event.is_readable() || event.is_error(), event.is_read_closed()),
                }
            }
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let empty = self.free.len() == self.conns.len();
        self.stop_at.is_some_and(|at| empty || Instant::now() >= at)
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => self.begin(stream),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                // WouldBlock: the queue is empty. Out of descriptors: tried again when a connection ends.
                Err(_) => return,
            }
        }
    }

    /// A connection that cannot be set up is dropped, which closes it.
    fn begin(&mut self, mut stream: TcpStream) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let ready =
            stream.set_nodelay(true).and_then(|()| self.poll.registry().register(&mut stream, Token(at), interest));
        match ready {
            Ok(()) => self.conns[at] = Some(Conn::new(stream)),
            Err(_) => self.free.push(at),
        }
    }

    fn drive(&mut self, at: usize, readable: bool, hung_up: bool) {
        let Some(Some(conn)) = self.conns.get_mut(at) else { return };
        if conn.drive(readable, hung_up, &mut self.shared) == Fate::Over {
            self.end(at);
            self.accept();
        }
    }

    fn end(&mut self, at: usize) {
        if let Some(mut conn) = self.conns.get_mut(at).and_then(Option::take) {
            // Closing the descriptor takes it out of the poll in any case.
            let _ = self.poll.registry().deregister(conn.stream());
            self.free.push(at);
        }
    }

    /// Accepts what has queued, then nothing more; every answer from now on closes its connection.
    fn stop(&mut self) {
        if self.stop_at.is_none() {
            self.accept();
            self.listener = None;
            self.shared.draining = true;
            self.stop_at = Some(Instant::now() + DRAIN);
        }
    }
}

/// A stream that becomes readable on SIGTERM or SIGINT.
fn stop_signal() -> io::Result<mio::net::UnixStream> {
    let (told, tells) = UnixStream::pair()?;
    told.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGINT, tells.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGTERM, tells)?;
    Ok(mio::net::UnixStream::from_std(told))
}
