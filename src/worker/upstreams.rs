//! Upstream connections, which outlive the sessions that use them: one object owns the transport, what was read ahead and
//! who uses it. Which replica a request goes to is decided elsewhere.

use std::sync::Arc;

use crate::core::buffer::BufferPool;
use crate::core::snapshot::{ReplicaLoad, Snapshot};
use crate::core::step::{Flush, Io, SpliceIn};
use crate::core::tick::Tick;
use crate::core::tls::upstream::UpstreamPolicy;
use crate::kernel::Kernel;

use super::clients::UpstreamIo;
use super::pipeline::Pipeline;
use super::pool::{PoolKey, Pools};
use super::slab::{Key, SessionId, Slab, UpstreamId};
use super::transport::Transport;

/// Pipelines kept for connections that will carry several requests.
const SPARE_PIPELINES: usize = 64;

pub struct Upstream<K: Kernel> {
    pub transport: Transport<K>,
    pub key: PoolKey,
    /// What its TLS was made by.
    pub policy: Option<Arc<UpstreamPolicy>>,
    pub mux: Mux,
    pub idle_since: Tick,
    pub load: Arc<ReplicaLoad>,
}

/// How sessions share an upstream connection.
pub enum Mux {
    /// In the pool.
    Idle,
    /// One request at a time.
    Exclusive(SessionId),
    /// Requests one behind the other (RFC 9112 section 9.3.2).
    Pipelined(Box<Pipeline>),
}

impl Mux {
    pub fn pipeline(&mut self) -> Option<&mut Pipeline> {
        match self {
            Mux::Pipelined(pipeline) => Some(pipeline),
            Mux::Idle | Mux::Exclusive(_) => None,
        }
    }

    /// The session that reads from the connection.
    pub fn reader(&self) -> Option<SessionId> {
        match self {
            Mux::Idle => None,
            Mux::Exclusive(session) => Some(*session),
            Mux::Pipelined(pipeline) => pipeline.first(),
        }
    }

    /// Sessions whose requests are in flight.
    pub fn sessions(&self) -> usize {
        match self {
            Mux::Idle => 0,
            Mux::Exclusive(_) => 1,
            Mux::Pipelined(pipeline) => pipeline.len(),
        }
    }

    pub fn contains(&self, session: SessionId) -> bool {
        match self {
            Mux::Idle => false,
            Mux::Exclusive(user) => *user == session,
            Mux::Pipelined(pipeline) => pipeline.contains(session),
        }
    }
}

pub struct Upstreams<K: Kernel> {
    /// Which cell of a `ReplicaLoad` is this worker's.
    worker: usize,
    slab: Slab<UpstreamId, Upstream<K>>,
    pub pools: Pools,
    /// Connections in use.
    pub in_use: usize,
    /// Connections on which this turn's requests were pipelined and not sent yet.
    pub to_flush: Vec<UpstreamId>,
    #[expect(clippy::vec_box, reason = "the boxes move into connections and back")]
    spare: Vec<Box<Pipeline>>,
}

impl<K: Kernel> Upstreams<K> {
    pub fn new(worker: usize) -> Upstreams<K> {
        let (slab, pools) = (Slab::new(), Pools::default());
        Upstreams { worker, slab, pools, in_use: 0, to_flush: Vec::new(), spare: Vec::new() }
    }

    /// The token of the next connection, as index and generation.
    pub fn next_token(&self) -> (u32, u32) {
        let (id, generation) = self.slab.next_key();
        (id.index(), generation)
    }

    pub fn insert(&mut self, upstream: Upstream<K>) -> UpstreamId {
        self.slab.insert(upstream)
    }

    pub fn get(&self, id: UpstreamId) -> Option<&Upstream<K>> {
        self.slab.get(id)
    }

    pub fn get_mut(&mut self, id: UpstreamId) -> Option<&mut Upstream<K>> {
        self.slab.get_mut(id)
    }

    pub fn key_of(&self, index: u32, generation: u32) -> Option<UpstreamId> {
        self.slab.key_of(index, generation)
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Upstream<K>> {
        self.slab.values()
    }

    /// Closes a connection that no session uses.
    pub fn close(&mut self, id: UpstreamId, kernel: &mut K, pool: &mut BufferPool) {
        if let Some(upstream) = self.slab.remove(id) {
            if let Mux::Pipelined(pipeline) = upstream.mux {
                self.give_back(pipeline);
            }
            upstream.transport.close(kernel, pool);
        }
    }

    /// The connection is clean and unused: it goes into the pool; false if it is closed, since there is no room.
    pub fn park(&mut self, id: UpstreamId, now: Tick, kernel: &mut K, pool: &mut BufferPool) -> bool {
        let Some(upstream) = self.slab.get_mut(id) else { return false };
        upstream.idle_since = now;
        let key = upstream.key;
        if let Mux::Pipelined(pipeline) = std::mem::replace(&mut upstream.mux, Mux::Idle) {
            self.give_back(pipeline);
        }
        let kept = self.pools.give(key, id);
        if !kept {
            self.close(id, kernel, pool);
        }
        kept
    }

    /// Takes the connections out of the pools that were idle for too long.
    pub fn take_stale(&mut self, now: Tick, snapshot: &Snapshot) -> Vec<UpstreamId> {
        let slab = &self.slab;
        self.pools.expire(|id| {
            slab.get(id).is_some_and(|upstream| {
                let service = snapshot.service(upstream.key.service);
                let limit_ms = service.map_or(0, |service| service.limits.pool_idle_timeout_ms);
                now.ms_since(upstream.idle_since) >= limit_ms
            })
        })
    }

    /// A pipeline for a connection that begins to carry several requests.
    pub fn pipeline(&mut self) -> Box<Pipeline> {
        self.spare.pop().unwrap_or_default()
    }

    fn give_back(&mut self, mut pipeline: Box<Pipeline>) {
        if self.spare.len() < SPARE_PIPELINES {
            pipeline.clear();
            self.spare.push(pipeline);
        }
    }

    /// A read for `session`'s response, and whether there is more that no edge will tell of.
    #[inline]
    pub fn recv(
        &mut self,
        io: UpstreamIo,
        session: SessionId,
        kernel: &mut K,
        space: &mut [u8],
        pool: &mut BufferPool,
    ) -> (Io, bool) {
        let Some(upstream) = io.id().and_then(|id| self.slab.get_mut(id)) else { return (GONE, false) };
        let outcome = match (io, &mut upstream.mux) {
            (UpstreamIo::Pipelined(_), Mux::Pipelined(pipeline)) => {
                pipeline.recv(session, &mut upstream.transport, kernel, space, pool)
            }
            _ => upstream.transport.recv(kernel, space, pool),
        };
        if outcome.moved() > 0 {
            upstream.load.receive(self.worker);
        }
        if outcome == Io::Ended && upstream.transport.was_truncated() {
            return (CUT, false);
        }
        (outcome, upstream.transport.has_more())
    }

    /// Sends bytes of `session`'s request.
    #[inline]
    pub fn send(
        &mut self,
        io: UpstreamIo,
        session: SessionId,
        kernel: &mut K,
        bytes: &[u8],
        flush: Flush,
        pool: &mut BufferPool,
    ) -> Io {
        let Some(upstream) = io.id().and_then(|id| self.slab.get_mut(id)) else { return GONE };
        match (io, &mut upstream.mux) {
            (UpstreamIo::Pipelined(_), Mux::Pipelined(pipeline)) => pipeline.add(session, bytes),
            _ => upstream.transport.send(kernel, bytes, flush, pool),
        }
    }

    /// Splices `session`'s response from the connection into a pipe.
    pub fn splice_in(
        &mut self,
        io: UpstreamIo,
        session: SessionId,
        kernel: &mut K,
        pipe: &K::Pipe,
        len: u64,
    ) -> SpliceIn {
        let Some(upstream) = io.id().and_then(|id| self.slab.get_mut(id)) else { return SpliceIn::Io(GONE) };
        let outcome = match (io, &mut upstream.mux) {
            (UpstreamIo::Pipelined(_), Mux::Pipelined(pipeline)) => {
                pipeline.splice_in(session, &mut upstream.transport, kernel, pipe, len)
            }
            _ => upstream.transport.splice_in(kernel, pipe, len),
        };
        if outcome.moved() > 0 {
            upstream.load.receive(self.worker);
        }
        outcome
    }

    /// The transport that `io` stands for.
    pub fn transport(&mut self, io: UpstreamIo) -> Option<&mut Transport<K>> {
        io.id().and_then(|id| self.slab.get_mut(id)).map(|upstream| &mut upstream.transport)
    }
}

/// The stream ended over TLS without close_notify: a body without a length is not whole (RFC 9112 section 9.8).
pub const CUT: Io = Io::Failed(std::io::ErrorKind::UnexpectedEof);

/// The connection was taken from the session.
pub const GONE: Io = Io::Failed(std::io::ErrorKind::NotConnected);

#[cfg(test)]
mod tests {
    use super::super::tests::kernel::ScriptedKernel;
    use super::*;

    #[test]
    fn pipelines_that_are_not_used_are_kept_up_to_a_limit() {
        let mut upstreams: Upstreams<ScriptedKernel> = Upstreams::new(0);
        let mut used: Vec<_> = (0..=SPARE_PIPELINES).map(|_| upstreams.pipeline()).collect();
        for pipeline in used.drain(..) {
            upstreams.give_back(pipeline);
        }
        assert_eq!(upstreams.spare.len(), SPARE_PIPELINES);
        upstreams.pipeline();
        assert_eq!(upstreams.spare.len(), SPARE_PIPELINES - 1, "a kept one is used again");
    }
}
