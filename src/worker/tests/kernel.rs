//! `trait Kernel` over sockets that a test scripts: what peers send and take, byte by byte. It draws nothing at random and
//! judges nothing.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use crate::core::snapshot::Endpoint;
use crate::core::step::Ready;
use crate::core::tick::{Stamp, Tick};
use crate::kernel::{Flush, Kernel, SocketEvent, Token};

/// Where clients connect.
pub const LISTENING: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 80);

/// The kernel, and the peers' side of it: copies share one state.
#[derive(Clone, Default)]
pub struct ScriptedKernel(Rc<RefCell<Script>>);

#[derive(Default)]
pub struct Script {
    pub now: Tick,
    /// Every connection, in the order in which it was made.
    pub sockets: Vec<ScriptedSocket>,
    /// Connections that the worker made, by number.
    pub dialled: Vec<usize>,
    pub pipes_opened: usize,
    /// The error code of the next `watch`.
    pub watch_fails: Option<i32>,
    /// The error codes of the next `connect`s.
    pub connects_fail: VecDeque<i32>,
    /// Connections that the worker makes take so many bytes, if not all.
    pub dialled_room: Option<usize>,
    /// The timeout of the last wait.
    pub waited_ms: Option<u64>,
    backlog: VecDeque<usize>,
    events: Vec<SocketEvent>,
}

pub struct ScriptedSocket {
    /// What the worker sent.
    pub received: Vec<u8>,
    pub end: Option<SocketEnd>,
    unread: VecDeque<u8>,
    ended: bool,
    was_reset: bool,
    room: usize,
    aborted: bool,
    shut: bool,
    token: Option<Token>,
}

/// How the worker closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    Closed,
    Reset,
}

impl Script {
    fn open(&mut self) -> usize {
        self.sockets.push(ScriptedSocket {
            received: Vec::new(),
            end: None,
            unread: VecDeque::new(),
            ended: false,
            was_reset: false,
            room: usize::MAX,
            aborted: false,
            shut: false,
            token: None,
        });
        self.sockets.len() - 1
    }

    fn edge(&mut self, socket: usize, ready: Ready) {
        let socket = &self.sockets[socket];
        if let Some(token) = socket.token.filter(|_| socket.end.is_none()) {
            self.events.push(SocketEvent { token, ready });
        }
    }
}

impl ScriptedKernel {
    pub fn script(&self) -> RefMut<'_, Script> {
        self.0.borrow_mut()
    }

    /// A client connects, and `bytes` come with it.
    pub fn client(&self, bytes: &(impl AsRef<[u8]> + ?Sized)) -> usize {
        let script = &mut *self.script();
        let socket = script.open();
        script.sockets[socket].unread.extend(bytes.as_ref());
        script.backlog.push_back(socket);
        script.events.push(SocketEvent { token: Token::Listener(0), ready: Ready::READABLE });
        socket
    }

    /// The peer sends.
    pub fn says(&self, socket: usize, bytes: &(impl AsRef<[u8]> + ?Sized)) {
        let script = &mut *self.script();
        script.sockets[socket].unread.extend(bytes.as_ref());
        script.edge(socket, Ready::READABLE);
    }

    /// The peer sends no more.
    pub fn ends(&self, socket: usize) {
        let script = &mut *self.script();
        script.sockets[socket].ended = true;
        script.edge(socket, Ready::HANGUP);
    }

    /// The peer resets the connection.
    pub fn resets(&self, socket: usize) {
        let script = &mut *self.script();
        script.sockets[socket].was_reset = true;
        script.edge(socket, Ready { dead: true, writable: true, ..Ready::HANGUP });
    }

    /// The peer takes so many bytes more.
    pub fn takes(&self, socket: usize, bytes: usize) {
        let script = &mut *self.script();
        script.sockets[socket].room = bytes;
        if bytes > 0 {
            script.edge(socket, Ready { writable: true, ..Ready::default() });
        }
    }

    /// What the worker sent since the last call.
    pub fn received(&self, socket: usize) -> String {
        String::from_utf8_lossy(&self.received_bytes(socket)).into_owned()
    }

    pub fn received_bytes(&self, socket: usize) -> Vec<u8> {
        std::mem::take(&mut self.script().sockets[socket].received)
    }

    /// The worker sends no more.
    pub fn is_shut(&self, socket: usize) -> bool {
        self.script().sockets[socket].shut
    }

    pub fn end(&self, socket: usize) -> Option<SocketEnd> {
        self.script().sockets[socket].end
    }

    /// `watch` was called on this socket: its edges are events.
    pub fn is_watched(&self, socket: usize) -> bool {
        self.script().sockets[socket].token.is_some()
    }

    pub fn has_events(&self) -> bool {
        !self.script().events.is_empty()
    }

    pub fn pass(&self, ms: u64) {
        let script = &mut *self.script();
        script.now = script.now.after_ms(ms);
    }
}

impl Kernel for ScriptedKernel {
    type Socket = usize;
    type Listener = ();
    type Pipe = RefCell<VecDeque<u8>>;

    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<SocketEvent>) -> io::Result<()> {
        let mut script = self.script();
        script.waited_ms = timeout_ms;
        *events = std::mem::take(&mut script.events);
        Ok(())
    }

    fn now(&mut self) -> Tick {
        self.script().now
    }

    fn stamp(&mut self) -> Stamp {
        Stamp(self.script().now.0 * 1_000)
    }

    fn unix_seconds(&mut self) -> u64 {
        0
    }

    fn listeners(&mut self, address: SocketAddr) -> Vec<((), SocketAddr)> {
        vec![((), address)]
    }

    fn accept(&mut self, (): &()) -> io::Result<(usize, SocketAddr)> {
        let socket = self.script().backlog.pop_front().ok_or(ErrorKind::WouldBlock)?;
        Ok((socket, SocketAddr::from(([10, 0, 0, 1], 1024 + socket as u16))))
    }

    fn local(&mut self, _: &usize) -> io::Result<SocketAddr> {
        Ok(LISTENING)
    }

    fn connect(&mut self, _: &Endpoint) -> io::Result<usize> {
        let mut script = self.script();
        if let Some(code) = script.connects_fail.pop_front() {
            return Err(io::Error::from_raw_os_error(code));
        }
        let socket = script.open();
        script.sockets[socket].room = script.dialled_room.unwrap_or(usize::MAX);
        script.dialled.push(socket);
        Ok(socket)
    }

    /// As epoll does, it reports at once what can be read already.
    fn watch(&mut self, socket: &usize, token: Token) -> io::Result<()> {
        let mut script = self.script();
        if let Some(code) = script.watch_fails.take() {
            return Err(io::Error::from_raw_os_error(code));
        }
        let ScriptedSocket { unread, ended, .. } = &script.sockets[*socket];
        let ready = Ready { readable: !unread.is_empty(), hangup: *ended, writable: true, dead: false };
        script.sockets[*socket].token = Some(token);
        script.edge(*socket, ready);
        Ok(())
    }

    fn watch_listener(&mut self, (): &(), _: Token) -> io::Result<()> {
        Ok(())
    }

    fn recv(&mut self, socket: &usize, space: &mut [u8]) -> io::Result<usize> {
        let socket = &mut self.script().sockets[*socket];
        let n = socket.readable(space.len())?;
        space.iter_mut().zip(socket.unread.drain(..n)).for_each(|(place, byte)| *place = byte);
        Ok(n)
    }

    fn send(&mut self, socket: &usize, bytes: &[u8], _: Flush) -> io::Result<usize> {
        let socket = &mut self.script().sockets[*socket];
        let n = socket.writable(bytes.len())?;
        socket.received.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn pipe(&mut self) -> io::Result<Self::Pipe> {
        self.script().pipes_opened += 1;
        Ok(RefCell::default())
    }

    fn splice_in(&mut self, socket: &usize, pipe: &Self::Pipe, len_max: u64) -> io::Result<u64> {
        let socket = &mut self.script().sockets[*socket];
        let n = socket.readable(len_max as usize)?;
        pipe.borrow_mut().extend(socket.unread.drain(..n));
        Ok(n as u64)
    }

    fn splice_out(&mut self, pipe: &Self::Pipe, socket: &usize, len_max: u64) -> io::Result<u64> {
        let socket = &mut self.script().sockets[*socket];
        let n = socket.writable(pipe.borrow().len().min(len_max as usize))?;
        socket.received.extend(pipe.borrow_mut().drain(..n));
        Ok(n as u64)
    }

    fn shutdown_write(&mut self, socket: &usize) -> io::Result<()> {
        self.script().sockets[*socket].shut = true;
        Ok(())
    }

    fn abort(&mut self, socket: &usize) -> io::Result<()> {
        self.script().sockets[*socket].aborted = true;
        Ok(())
    }

    fn close(&mut self, socket: usize) {
        let socket = &mut self.script().sockets[socket];
        socket.end = Some(if socket.aborted { SocketEnd::Reset } else { SocketEnd::Closed });
    }
}

impl ScriptedSocket {
    /// How many bytes a read of up to `max` returns.
    fn readable(&self, max: usize) -> io::Result<usize> {
        match self.unread.len().min(max) {
            0 if self.was_reset => Err(ErrorKind::ConnectionReset.into()),
            0 if self.ended => Ok(0),
            0 => Err(ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    /// Takes up to `len` bytes of the room.
    fn writable(&mut self, len: usize) -> io::Result<usize> {
        let n = len.min(self.room);
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.room < usize::MAX {
            self.room -= n;
        }
        Ok(n)
    }
}
