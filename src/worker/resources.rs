//! What runs out in the balancer, and what is done about it: descriptors, memory for sockets, local ports to one replica.
//! No replica is blamed for it.
//!
//! A client takes one descriptor, and its request a second one, to a replica. A client is accepted only while there is room
//! for both, beside those of the clients that are connected already, and a share is kept for clients that were idle and
//! send a request: a request that was accepted does not meet EMFILE. Where something runs out all the same (the limit is
//! shared with the rest of the process, and memory with the rest of the machine), the request waits for it.

use std::collections::VecDeque;
use std::io;

use crate::core::snapshot::ReplicaId;
use crate::core::step::Connect;
use crate::core::tick::Tick;
use crate::kernel::Kernel;
use crate::shared::events::{Resource, WorkerEvent};

use super::Worker;
use super::slab::SessionId;

/// A connect that waits is tried again after this long, if nothing was freed before.
const RETRY_MS: u64 = 10;
/// Connects tried again in one turn: with thousands waiting, a turn stays short.
const BATCH: usize = 256;
/// Descriptors of a client and its request.
const PAIR: usize = 2;
/// Descriptors of a pipe.
pub const PIPE: usize = 2;
/// One part in this many of the descriptors is kept for clients that were idle.
const RESERVE: usize = 8;

/// Error codes of Linux; std has names for one or two of them.
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EADDRNOTAVAIL: i32 = 99;
const ENOBUFS: i32 = 105;

/// The resource of ours that a connection failed for, if it was one.
pub fn exhausted(error: &io::Error) -> Option<Resource> {
    match error.raw_os_error()? {
        EMFILE | ENFILE => Some(Resource::Descriptors),
        // ENOSPC: no more sockets may be watched (epoll_ctl(2)).
        ENOBUFS | ENOMEM | ENOSPC => Some(Resource::Memory),
        EADDRNOTAVAIL => Some(Resource::Ports),
        _ => None,
    }
}

#[derive(Debug)]
pub struct ResourceLimits {
    /// What this worker may have open.
    descriptors: usize,
    /// Sessions whose connect waits, oldest first.
    waiting: VecDeque<SessionId>,
    /// When they try again.
    retry_at: Tick,
    /// No connection is opened before this.
    blocked_until: Tick,
    /// No connection to these replicas is opened before this: no local port is free.
    ports: Vec<(ReplicaId, Tick)>,
    /// A session or a listener waits for what is freed next.
    is_awaited: bool,
}

impl ResourceLimits {
    pub fn new(descriptors: usize) -> ResourceLimits {
        ResourceLimits {
            descriptors,
            waiting: VecDeque::new(),
            retry_at: Tick::ZERO,
            blocked_until: Tick::ZERO,
            ports: Vec::new(),
            is_awaited: false,
        }
    }

    /// When connects that wait are tried again.
    pub fn due(&self) -> Option<Tick> {
        (!self.waiting.is_empty()).then_some(self.retry_at)
    }

    /// No local port is free for a connection to `replica`.
    pub fn is_replica_blocked(&self, replica: ReplicaId, now: Tick) -> bool {
        self.ports.iter().any(|(blocked, until)| *blocked == replica && now < *until)
    }

    pub fn block_replica(&mut self, replica: ReplicaId, now: Tick) {
        self.ports.retain(|(_, until)| now < *until);
        self.ports.push((replica, now.after_ms(RETRY_MS)));
    }

    /// Opening a connection now would fail as the last attempt did.
    pub fn is_blocked(&self, now: Tick) -> bool {
        now < self.blocked_until
    }

    pub fn block(&mut self, now: Tick) {
        self.blocked_until = now.after_ms(RETRY_MS);
        self.is_awaited = true;
    }

    /// A listener waits for what is freed next.
    pub fn await_next(&mut self) {
        self.is_awaited = true;
    }
}

impl<K: Kernel> Worker<K> {
    /// Whether `more` descriptors can be opened without one that a connected client may need for its request.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let (share, pipes) = (self.resources.descriptors, PIPE * self.pipes.count());
        let connections = self.clients.len() + self.clients.unrequested + self.upstreams.in_use;
        connections + self.resources.waiting.len() + pipes + more <= share - share / RESERVE
    }

    pub(super) fn has_room_for_client(&self) -> bool {
        self.has_room(PAIR)
    }

    /// The session's connect waits until something is freed.
    pub(super) fn wait_for_resources(&mut self, session: SessionId) -> Connect {
        self.resources.waiting.push_back(session);
        self.resources.is_awaited = true;
        if self.resources.retry_at <= self.cx.now {
            self.resources.retry_at = self.cx.now.after_ms(RETRY_MS);
        }
        Connect::NoResources
    }

    /// Connects that waited longest are tried again.
    pub(super) fn retry_connects(&mut self) {
        let now = self.cx.now;
        if self.resources.due().is_some_and(|due| due <= now) {
            let first = self.resources.waiting.len().min(BATCH);
            for id in self.resources.waiting.drain(..first).collect::<Vec<_>>() {
                if let Some(client) = self.clients.get_mut(id) {
                    client.session.on_room();
                    self.clients.queue(id);
                }
            }
        }
    }

    /// A descriptor, and the memory that goes with it, was freed.
    pub(super) fn on_freed(&mut self) {
        if std::mem::take(&mut self.resources.is_awaited) {
            self.retry_now();
        }
    }

    #[cold]
    fn retry_now(&mut self) {
        let now = self.cx.now;
        self.resources.blocked_until = self.resources.blocked_until.min(now);
        self.resources.retry_at = self.resources.retry_at.min(now);
        self.listeners.iter_mut().for_each(|listener| listener.retry_now(now));
    }

    /// Closes something idle for its descriptor: a pipe, else the upstream connection that was idle for longest. False:
    /// there is none.
    pub(super) fn evict(&mut self) -> bool {
        if self.pipes.evict() {
            return true;
        }
        let victim = self.upstreams.pools.evict();
        if let Some(id) = victim {
            self.discard_upstream(id);
        }
        victim.is_some()
    }

    pub(super) fn report_exhausted(&self, replica: ReplicaId, resource: Resource) {
        self.events.send(WorkerEvent::Exhausted { replica, resource });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_replica_is_tried_again_after_the_retry_time() {
        let mut resources = ResourceLimits::new(100);
        let (now, later) = (Tick(5), Tick(5).after_ms(RETRY_MS));
        resources.block_replica(ReplicaId(1), now);
        assert!(resources.is_replica_blocked(ReplicaId(1), now) && !resources.is_replica_blocked(ReplicaId(2), now));
        assert!(!resources.is_replica_blocked(ReplicaId(1), later));
        resources.block_replica(ReplicaId(2), later);
        assert_eq!(resources.ports.len(), 1, "an entry that expired is removed");
    }

    #[test]
    fn after_a_failure_no_connection_is_opened_until_the_retry_time() {
        let mut resources = ResourceLimits::new(100);
        assert!(!resources.is_blocked(Tick(5)));
        resources.block(Tick(5));
        assert!(resources.is_blocked(Tick(5).after_ms(RETRY_MS - 1)));
        assert!(!resources.is_blocked(Tick(5).after_ms(RETRY_MS)));
    }

    #[test]
    fn exhausted_resources_are_told_from_faults_of_a_replica() {
        let code = |code| exhausted(&io::Error::from_raw_os_error(code));
        assert_eq!([code(24), code(23)], [Some(Resource::Descriptors); 2]);
        assert_eq!([code(12), code(105), code(28)], [Some(Resource::Memory); 3]);
        assert_eq!(code(99), Some(Resource::Ports));
        assert_eq!([code(111), code(113), code(110), code(13)], [None; 4], "refused, no route, timed out, forbidden");
    }
}
