//! Listening sockets: each worker of a process has one for an address, which the same worker of the next process shares.
//! Connections wait in its queue until a process accepts them. Bytes do not move here.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ringway::kernel::Token;

use super::{Bound, ListeningId, Net, Owner, SocketId, WorkerId};

/// What all descriptors of it have in common.
#[derive(Debug, Default)]
pub struct ListeningSocket {
    queue: VecDeque<SocketId>,
    /// Descriptors that are open: a worker's, and its number of it.
    open: Vec<(WorkerId, usize)>,
}

impl ListeningSocket {
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// A worker's descriptor.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: ListeningId,
    /// In the poller's queue.
    pub(super) queued: bool,
    pub(super) token: Option<Token>,
}

impl Net {
    /// Binds an address. It accepts connections as long as a worker has it open.
    pub fn listen(&mut self, address: SocketAddr) {
        self.bound.insert(address, Bound::Listener(self.listening.len()));
        self.listening.push(ListeningSocket::default());
    }

    /// Another descriptor of what is bound to the address. `None`: nothing is.
    pub fn add_listener(&mut self, worker: WorkerId, address: SocketAddr) -> Option<usize> {
        let Some(Bound::Listener(socket)) = self.bound.get(&address).copied() else { return None };
        let listeners = &mut self.pollers[worker].listeners;
        listeners.push(Listener { socket, queued: false, token: None });
        let number = listeners.len() - 1;
        self.listening[socket].open.push((worker, number));
        Some(number)
    }

    /// Some process has a listening socket open.
    pub fn is_listening(&self) -> bool {
        self.listening.iter().any(ListeningSocket::is_open)
    }

    pub fn watch_listener(&mut self, worker: WorkerId, listener: usize, token: Token) {
        let watched = &mut self.pollers[worker].listeners[listener];
        watched.token = Some(token);
        if !self.listening[watched.socket].is_empty() {
            self.listener_edge(worker, listener);
        }
    }

    /// Every process that has the socket open gets an edge.
    pub(super) fn enqueue_client(&mut self, listening: ListeningId, socket: SocketId) {
        self.listening[listening].queue.push_back(socket);
        for (worker, listener) in self.listening[listening].open.clone() {
            self.listener_edge(worker, listener);
        }
    }

    pub fn accept(&mut self, worker: WorkerId, listener: usize) -> Option<SocketId> {
        let listening = self.pollers[worker].listeners[listener].socket;
        let socket = self.listening[listening].queue.pop_front()?;
        self.give_to(socket, worker);
        self.progress += 1;
        Some(socket)
    }

    /// Closes a descriptor. With the last of a socket, connections in its queue are reset.
    ///
    /// Oracle: that happens only at the end of the balancer.
    pub fn close_listener(&mut self, worker: WorkerId, listener: usize) {
        let closed = &mut self.pollers[worker].listeners[listener];
        closed.token = None;
        let listening = &mut self.listening[closed.socket];
        listening.open.retain(|open| *open != (worker, listener));
        if listening.is_open() {
            return;
        }
        let queue = std::mem::take(&mut listening.queue);
        // A failed oracle drops the world as it is.
        let may_drop = self.history.stopping.is_some() || std::thread::panicking();
        assert!(queue.is_empty() || may_drop, "the last listener is closed with a queue");
        queue.into_iter().for_each(|socket| self.refuse_accepted(socket));
    }

    fn give_to(&mut self, socket: SocketId, worker: WorkerId) {
        self.sockets[socket].owner = Owner::Worker(worker);
        self.sockets[socket].process = Some(self.pollers[worker].process);
    }
}
