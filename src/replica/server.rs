//! The replica's event loop: accept, drive the connections that are ready, and stop within a fixed time on SIGTERM or SIGINT.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Protocol, Socket, Type};

use super::connection::{ClientConnection, ConnectionStatus, Shared};
use super::responses::Responses;
use crate::core::limits::Limits;
use crate::core::rewrite::Edits;

/// For clients of a stopping replica to finish the requests that they are sending.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(150);
const BACKLOG: i32 = 4096;
const SCRATCH_SIZE: usize = 64 * 1024;
const EVENTS_PER_POLL: usize = 1024;

const LISTENER: Token = Token(usize::MAX - 1);
const STOP_SIGNAL: Token = Token(usize::MAX - 2);

pub struct Server {
    poll: Poll,
    listener: Option<TcpListener>,
    /// Readable once a stop signal came. Held open; nothing is read from it.
    _signal: mio::net::UnixStream,
    connections: Vec<Option<ClientConnection>>,
    free: Vec<usize>,
    shared: Shared,
    stop_at: Option<Instant>,
}

/// Binds with a backlog for bursts of clients.
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
        poll.registry().register(&mut signal, STOP_SIGNAL, Interest::READABLE)?;
        let shared = Shared {
            responses: Responses::new(id),
            limits: Limits::default(),
            draining: false,
            edits: Edits::default(),
            scratch: vec![0; SCRATCH_SIZE].into(),
        };
        Ok(Server {
            poll,
            listener: Some(listener),
            _signal: signal,
            connections: Vec::new(),
            free: Vec::new(),
            shared,
            stop_at: None,
        })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().map_or_else(|| Err(ErrorKind::NotConnected.into()), |listener| listener.local_addr())
    }

    /// Runs until a signal comes and then until the last response is sent or the drain times out.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        while !self.is_finished() {
            let timeout = self.stop_at.map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.shared.responses.update_date(SystemTime::now());
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    STOP_SIGNAL => self.stop(),
                    Token(index) => self.drive(index, event),
                }
            }
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let empty = self.free.len() == self.connections.len();
        self.stop_at.is_some_and(|at| empty || Instant::now() >= at)
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => self.open(stream),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                // WouldBlock: the queue is empty. Out of descriptors: accepted when another connection closes.
                Err(_) => return,
            }
        }
    }

    /// A connection that cannot be registered is dropped, which closes it.
    fn open(&mut self, mut stream: TcpStream) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let ready =
            stream.set_nodelay(true).and_then(|()| self.poll.registry().register(&mut stream, Token(index), interest));
        match ready {
            Ok(()) => self.connections[index] = Some(ClientConnection::new(stream)),
            Err(_) => self.free.push(index),
        }
    }

    fn drive(&mut self, index: usize, event: &Event) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        if connection.drive(event, &mut self.shared) == ConnectionStatus::Closed {
            self.close(index);
            self.accept();
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) {
            // Closing the descriptor removes it from the poll in any case.
            let _ = self.poll.registry().deregister(connection.stream());
            self.free.push(index);
        }
    }

    /// Accepts what is queued, then nothing more. Every response from now on closes its connection.
    fn stop(&mut self) {
        if self.stop_at.is_none() {
            self.accept();
            self.listener = None;
            self.shared.draining = true;
            self.stop_at = Some(Instant::now() + DRAIN_TIMEOUT);
        }
    }
}

/// A stream that becomes readable on SIGTERM or SIGINT.
fn stop_signal() -> io::Result<mio::net::UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGINT, writer.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGTERM, writer)?;
    Ok(mio::net::UnixStream::from_std(reader))
}
