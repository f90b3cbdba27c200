//! The client connections of one worker, each with its session, and which of them can go on. Upstream connections and
//! sockets of listeners never enter.

use crate::core::context::Context;
use crate::core::session::Session;
use crate::core::step::{Leg, Ready};
use crate::kernel::Kernel;

use super::handshake::SessionStart;
use super::pipes::Pipes;
use super::slab::{Key, SessionId, Slab, UpstreamId};
use super::transport::Transport;

pub struct Client<K: Kernel> {
    pub session: Session,
    pub io: ClientIo<K>,
    pub upstream: UpstreamIo,
    pub pipes: Pipes<K::Pipe>,
    /// It counts among the connections of its address in the connection limiter.
    pub limited: bool,
    /// It asked for a replica at least once.
    pub requested: bool,
    /// It is in the list of sessions that can go on.
    queued: bool,
    /// The kernel reports its socket's edges: from when the session first waits for it.
    pub watched: bool,
}

/// What carries a session's client leg.
pub enum ClientIo<K: Kernel> {
    Transport(Transport<K>),
}

/// What carries a session's upstream leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamIo {
    None,
    Exclusive(UpstreamId),
    /// Other sessions may be queued on the connection.
    Pipelined(UpstreamId),
}

impl<K: Kernel> ClientIo<K> {
    /// The session has not begun.
    #[inline]
    pub fn is_handshaking(&self) -> bool {
        let ClientIo::Transport(transport) = self;
        transport.is_handshaking()
    }
}

impl UpstreamIo {
    pub fn id(self) -> Option<UpstreamId> {
        match self {
            UpstreamIo::None => None,
            UpstreamIo::Exclusive(id) | UpstreamIo::Pipelined(id) => Some(id),
        }
    }

    pub fn pipelined(self) -> Option<UpstreamId> {
        match self {
            UpstreamIo::Pipelined(id) => Some(id),
            UpstreamIo::None | UpstreamIo::Exclusive(_) => None,
        }
    }

    pub fn take(&mut self) -> Option<UpstreamId> {
        std::mem::replace(self, UpstreamIo::None).id()
    }
}

pub struct Clients<K: Kernel> {
    slab: Slab<SessionId, Client<K>>,
    /// Sessions that can go on in this turn.
    runnable: Vec<SessionId>,
    /// Sessions that can go on because of what another one did in this turn.
    resumed: Vec<SessionId>,
    /// Clients that asked for no replica yet.
    pub unrequested: usize,
}

impl<K: Kernel> Client<K> {
    pub fn new(session: Session, transport: Transport<K>) -> Client<K> {
        Client {
            session,
            io: ClientIo::Transport(transport),
            upstream: UpstreamIo::None,
            pipes: Pipes::new(),
            limited: false,
            requested: false,
            queued: false,
            watched: false,
        }
    }

    pub fn is_queued(&self) -> bool {
        self.queued
    }
}

impl<K: Kernel> Clients<K> {
    pub fn new() -> Clients<K> {
        Clients { slab: Slab::new(), runnable: Vec::new(), resumed: Vec::new(), unrequested: 0 }
    }

    pub fn insert(&mut self, client: Client<K>) -> SessionId {
        self.unrequested += 1;
        self.slab.insert(client)
    }

    pub fn remove(&mut self, id: SessionId) -> Option<Client<K>> {
        let client = self.slab.remove(id)?;
        self.unrequested -= usize::from(!client.requested);
        Some(client)
    }

    pub fn get(&self, id: SessionId) -> Option<&Client<K>> {
        self.slab.get(id)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Client<K>> {
        self.slab.get_mut(id)
    }

    pub fn key_of(&self, index: u32, generation: u32) -> Option<SessionId> {
        self.slab.key_of(index, generation)
    }

    /// What the kernel reports events of this client with.
    pub fn token(&self, id: SessionId) -> Option<(u32, u32)> {
        Some((id.index(), self.slab.generation(id)?))
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn ids(&self) -> Vec<SessionId> {
        self.slab.keys().collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Client<K>> {
        self.slab.values()
    }

    pub fn mark_requested(&mut self, id: SessionId) {
        if let Some(client) = self.slab.get_mut(id)
            && !std::mem::replace(&mut client.requested, true)
        {
            self.unrequested -= 1;
        }
    }

    /// The session can go on in this turn, or in the next one if this turn drove it already.
    pub fn queue(&mut self, id: SessionId) {
        if let Some(client) = self.slab.get_mut(id)
            && !client.queued
        {
            client.queued = true;
            self.runnable.push(id);
        }
    }

    /// The session is driven now. Returns whether it has begun.
    pub fn unqueue(&mut self, id: SessionId) -> SessionStart {
        let Some(client) = self.slab.get_mut(id) else { return SessionStart::Waits };
        client.queued = false;
        if client.io.is_handshaking() { SessionStart::Waits } else { SessionStart::Begun }
    }

    /// An edge of the client's socket.
    pub fn on_edge(&mut self, id: SessionId, ready: Ready, kernel: &mut K, cx: &mut Context) {
        if let Some(client) = self.slab.get_mut(id) {
            let ClientIo::Transport(transport) = &mut client.io;
            let ready = transport.on_edge(ready, kernel, &mut cx.pool);
            if !client.io.is_handshaking() {
                client.session.on_ready(Leg::Client, ready, cx);
            }
        }
        self.queue(id);
    }

    /// Marks readiness and queues the session.
    pub fn on_ready(&mut self, id: SessionId, leg: Leg, ready: Ready, cx: &Context) {
        if let Some(client) = self.slab.get_mut(id) {
            client.session.on_ready(leg, ready, cx);
        }
        self.queue(id);
    }

    /// Another session's step made this one ready: it is driven in this turn.
    pub fn resume(&mut self, id: SessionId, ready: Ready, cx: &Context) {
        if let Some(client) = self.slab.get_mut(id) {
            client.session.on_ready(Leg::Upstream, ready, cx);
            self.resumed.push(id);
        }
    }

    pub fn take_resumed(&mut self) -> Option<SessionId> {
        self.resumed.pop()
    }

    pub fn has_runnable(&self) -> bool {
        !self.runnable.is_empty()
    }

    /// What can go on in this turn.
    pub fn take_runnable(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.runnable)
    }

    /// Takes the emptied list back, so that its memory serves the next turn.
    pub fn give_back_list(&mut self, list: Vec<SessionId>) {
        if self.runnable.is_empty() {
            self.runnable = list;
        }
    }
}
