//! Edge-triggered readiness: which sockets `epoll_wait` reports to a worker, and when an actor is woken. Bytes do not move
//! here.

use std::collections::VecDeque;

use ringway::core::step::Ready;
use ringway::kernel::{SocketEvent, Token};

use super::listening::Listener;
use super::{Actor, Event, Net, Owner, ProcessId, SocketId, WorkerId};

/// One worker's epoll instance and listeners.
#[derive(Debug)]
pub struct Poller {
    pub(super) process: ProcessId,
    /// With an edge that was not reported.
    queue: VecDeque<Source>,
    pub(super) listeners: Vec<Listener>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Socket(SocketId),
    Listener(usize),
}

impl Net {
    /// A worker of this process.
    pub fn add_worker(&mut self, process: ProcessId) -> WorkerId {
        self.pollers.push(Poller { process, queue: VecDeque::new(), listeners: Vec::new() });
        self.pollers.len() - 1
    }

    pub(super) fn listener_edge(&mut self, worker: WorkerId, listener: usize) {
        let poller = &mut self.pollers[worker];
        if !std::mem::replace(&mut poller.listeners[listener].queued, true) {
            poller.queue.push_back(Source::Listener(listener));
        }
    }

    // Sockets.

    pub fn watch(&mut self, id: SocketId, token: Token) {
        self.sockets[id].token = Some(token);
        if self.mask(id) != Mask::default() {
            self.edge(id);
        }
    }

    /// The state of `id` changed: its worker gets an event, its actor a wake-up.
    pub fn edge(&mut self, id: SocketId) {
        match self.sockets[id].owner {
            Owner::Worker(worker) => {
                let socket = &mut self.sockets[id];
                if socket.token.is_some() && !std::mem::replace(&mut socket.queued, true) {
                    self.pollers[worker].queue.push_back(Source::Socket(id));
                }
            }
            Owner::Actor(actor) => self.wake(actor),
            Owner::Queue | Owner::Closed => {}
        }
    }

    /// An edge up to 500 us later, as if the bytes that a call left had only then arrived.
    pub fn edge_later(&mut self, id: SocketId) {
        let us = self.random.network().range(1, 500);
        self.after(us, Event::Edge(id));
    }

    pub(super) fn wake(&mut self, actor: Actor) {
        if self.woken.insert(actor) {
            let us = self.random.network().range(1, 50);
            self.after(us, Event::Wake(actor));
        }
    }

    pub(super) fn edge_if_space(&mut self, id: SocketId) {
        if self.sockets[id].wants_space && self.has_space(id) {
            self.sockets[id].wants_space = false;
            self.edge(id);
        }
    }

    /// Linux reports a socket as writable when a third of its buffer is free.
    fn has_space(&self, id: SocketId) -> bool {
        let socket = &self.sockets[id];
        socket.outbox.len() * 3 <= socket.outbox_capacity * 2
    }

    // epoll_wait.

    pub fn has_edges(&self, worker: WorkerId) -> bool {
        !self.pollers[worker].queue.is_empty()
    }

    /// At most `max` events; the others stay for the next call.
    pub fn edges(&mut self, worker: WorkerId, max: usize, out: &mut Vec<SocketEvent>) {
        while out.len() < max
            && let Some(source) = self.pollers[worker].queue.pop_front()
        {
            match source {
                Source::Listener(listener) => out.extend(self.listener_event(worker, listener)),
                Source::Socket(id) => out.extend(self.socket_event(id)),
            }
        }
    }

    fn listener_event(&mut self, worker: WorkerId, listener: usize) -> Option<SocketEvent> {
        let listener = &mut self.pollers[worker].listeners[listener];
        listener.queued = false;
        let token = listener.token.filter(|_| !self.listening[listener.socket].is_empty())?;
        Some(SocketEvent { token, ready: Ready { readable: true, ..Ready::default() } })
    }

    fn socket_event(&mut self, id: SocketId) -> Option<SocketEvent> {
        self.sockets[id].queued = false;
        let mask = self.mask(id);
        let token = self.sockets[id].token.filter(|_| mask != Mask::default())?;
        Some(SocketEvent { token, ready: mask.ready() })
    }

    /// An event for a random socket of the worker that may not be ready.
    pub fn spurious_event(&mut self, worker: WorkerId) -> Option<SocketEvent> {
        let id = self.random.network().below(self.sockets.len() as u64) as usize;
        let socket = self.sockets.get(id)?;
        let token = socket.token.filter(|_| socket.owner == Owner::Worker(worker) && !socket.connecting)?;
        let readable = self.random.network().one_in(2);
        Some(SocketEvent { token, ready: Ready { readable, writable: !readable, ..Ready::default() } })
    }

    /// What poll(2) would report (tcp_poll in Linux).
    fn mask(&mut self, id: SocketId) -> Mask {
        let space = self.has_space(id);
        let socket = &mut self.sockets[id];
        let read_closed = socket.fin_received || socket.dead;
        let write_closed = socket.fin_queued || socket.dead;
        let open = !socket.connecting || socket.dead;
        if open && !write_closed && !space {
            socket.wants_space = true;
        }
        Mask {
            readable: read_closed || (open && !socket.inbox.is_empty()),
            writable: open && (write_closed || space),
            read_closed,
            hangup: read_closed && write_closed,
            error: socket.error.is_some(),
        }
    }
}

/// EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mask {
    readable: bool,
    writable: bool,
    read_closed: bool,
    hangup: bool,
    error: bool,
}

impl Mask {
    /// As the Linux kernel behind `trait Kernel` translates mio's events.
    fn ready(self) -> Ready {
        Ready {
            readable: self.readable,
            writable: self.writable,
            hangup: self.hangup || (self.readable && self.read_closed),
            dead: self.error || self.hangup,
        }
    }
}
