//! Pipelining: requests that became ready in one turn for one replica leave in one write on one upstream connection, and
//! their sessions are queued for the responses, which come in the same order (RFC 9112 section 9.3.2).
//!
//! A session does not see the queue: the connection keeps bytes behind a response for the next session. A session that
//! leaves the queue before its response came takes all sessions behind it out: their requests are sent again, each on a
//! connection of its own, which is safe because only safe requests (RFC 9110 section 9.2.1) are pipelined. A large or slow
//! response, a fault and a client that disconnects all end so.
//!
//! Two rules keep the order of bytes. No request is queued behind a response that has begun: that response may be long, or
//! the connection's last. And the first session splices only from the socket itself, never past bytes that were read ahead.

use std::collections::VecDeque;

use crate::core::buffer::BufferPool;
use crate::core::step::{Connect, Connection, Flush, Io, Leg, Pick, Ready, SpliceIn};
use crate::kernel::Kernel;

use super::Worker;
use super::clients::UpstreamIo;
use super::pool::PoolKey;
use super::slab::{SessionId, UpstreamId};
use super::transport::Transport;
use super::upstreams::{GONE, Mux, Upstream};

/// After a queue was broken up, requests to that replica are not pipelined for this long.
const SUSPEND_MS: u64 = 1_000;
/// At most this much of what was read ahead is copied to a session at once, so that small responses are copied once.
const COPY_MAX: usize = 2 * 1024;

/// The requests in flight on one connection.
#[derive(Debug, Default)]
pub struct Pipeline {
    /// Sessions in the order of their requests. The first one reads.
    queue: VecDeque<SessionId>,
    /// Requests may be added in this turn.
    gathering: bool,
    /// Requests not sent yet, and how many sessions at the end of the queue they belong to.
    out: Vec<u8>,
    unsent: usize,
    /// Bytes read behind the response that they were read with, and how many of them the first session took.
    ahead: Vec<u8>,
    taken: usize,
    /// The socket may hold more: an edge that no read has consumed.
    more: bool,
    /// The replica sends no more, or the connection failed: a read says which.
    hung_up: bool,
    /// A session left the queue: no session waits for what comes behind it.
    broken: bool,
}

impl Pipeline {
    /// Ready for the next connection; memory stays allocated.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.out.clear();
        self.ahead.clear();
        (self.unsent, self.taken) = (0, 0);
        (self.gathering, self.more, self.hung_up, self.broken) = (false, false, false, false);
    }

    pub fn first(&self) -> Option<SessionId> {
        self.queue.front().copied()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn contains(&self, session: SessionId) -> bool {
        self.queue.contains(&session)
    }

    /// Nothing is left that the next user of the connection could take for its own.
    fn is_clean(&self) -> bool {
        !self.has_ahead() && self.out.is_empty() && !self.more && !self.hung_up && !self.broken
    }

    fn has_ahead(&self) -> bool {
        self.taken < self.ahead.len()
    }

    /// What is there for the first session already is as good as an edge.
    fn readiness(&self) -> Option<Ready> {
        let ready = Ready { hangup: self.hung_up, ..Ready::READABLE };
        (self.has_ahead() || self.more || self.hung_up).then_some(ready)
    }

    /// The request of `session` leaves with the others of this turn.
    pub fn add(&mut self, session: SessionId, request: &[u8]) -> Io {
        if !self.gathering {
            return GONE;
        }
        self.out.extend_from_slice(request);
        self.unsent += 1;
        self.queue.push_back(session);
        Io::Moved(request.len() as u64)
    }

    pub fn recv<K: Kernel>(
        &mut self,
        session: SessionId,
        transport: &mut Transport<K>,
        kernel: &mut K,
        space: &mut [u8],
        pool: &mut BufferPool,
    ) -> Io {
        if self.first() != Some(session) {
            return GONE;
        }
        let ahead = self.ahead.get(self.taken..).unwrap_or_default();
        if !ahead.is_empty() {
            let n = ahead.len().min(COPY_MAX).min(space.len());
            if let (Some(to), Some(from)) = (space.get_mut(..n), ahead.get(..n)) {
                to.copy_from_slice(from);
            }
            self.taken += n;
            return Io::Moved(n as u64);
        }
        self.ahead.clear();
        self.taken = 0;
        let room = space.len() as u64;
        let io = transport.recv(kernel, space, pool);
        self.more = io == Io::Moved(room);
        io
    }

    pub fn splice_in<K: Kernel>(
        &mut self,
        session: SessionId,
        transport: &mut Transport<K>,
        kernel: &mut K,
        pipe: &K::Pipe,
        len: u64,
    ) -> SpliceIn {
        if self.first() != Some(session) {
            return SpliceIn::Io(GONE);
        }
        let outcome = transport.splice_in(kernel, pipe, len);
        // The socket may hold more until it says that it does not.
        self.more = matches!(outcome, SpliceIn::Io(Io::Moved(_)));
        outcome
    }

    /// Sends what was gathered, as far as the socket takes it; false if the connection failed.
    fn flush<K: Kernel>(&mut self, transport: &mut Transport<K>, kernel: &mut K, pool: &mut BufferPool) -> bool {
        match transport.send(kernel, &self.out, Flush::Now, pool) {
            Io::Moved(n) => {
                self.out.drain(..(n as usize).min(self.out.len()));
                if self.out.is_empty() {
                    self.unsent = 0;
                }
                true
            }
            Io::Blocked => true,
            Io::Ended | Io::Failed(_) => {
                self.out.clear();
                (self.unsent, self.hung_up) = (0, true);
                false
            }
        }
    }

    /// The response of the first session was read whole; `behind` was read with it.
    fn pop_first(&mut self, behind: &[u8]) {
        if self.ahead.is_empty() {
            self.ahead.extend_from_slice(behind);
        } else {
            self.taken = self.taken.saturating_sub(behind.len());
        }
        self.queue.pop_front();
    }

    /// Bytes came although none of the queued requests was sent: they are no response.
    fn is_ahead_of_requests(&self) -> bool {
        self.readiness().is_some() && self.queue.len() <= self.unsent
    }

    /// Takes `session` out, and all sessions behind it, which are returned. A session that has sent nothing is not in the
    /// queue. `None`: it is not there.
    fn break_at(&mut self, session: SessionId) -> Option<VecDeque<SessionId>> {
        let behind = if self.queue.back() == Some(&session) {
            VecDeque::new()
        } else {
            let at = self.queue.iter().position(|queued| *queued == session)?;
            self.queue.split_off(at + 1)
        };
        self.queue.pop_back();
        self.broken = true;
        Some(behind)
    }
}

impl<K: Kernel> Worker<K> {
    /// Pipelines `session`'s request to this replica, if a warm connection gathers requests or can begin to.
    pub(super) fn join_pipeline(&mut self, session: SessionId, pick: &Pick, key: PoolKey) -> Option<Connect> {
        let depth = self.cx.snapshot.service(key.service)?.limits.upstream_pipelining;
        if depth < 2 || !pick.pipelinable || pick.again.is_some() {
            return None;
        }
        let id = match (*self.upstreams.pools.pipelined(key, self.cx.now)?).filter(|id| self.can_join(*id, key, depth))
        {
            Some(id) => id,
            None => self.begin_pipeline(key)?,
        };
        let (upstream, client) = (self.upstreams.get_mut(id)?, self.clients.get_mut(session)?);
        let replica = upstream.key.replica;
        let newly = upstream.mux.pipeline().is_some_and(|pipeline| !std::mem::replace(&mut pipeline.gathering, true));
        upstream.load.start(self.index);
        client.upstream = UpstreamIo::Pipelined(id);
        if newly {
            self.upstreams.to_flush.push(id);
        }
        self.counters.reused.count();
        Some(Connect::Connected { replica, connection: Connection::Pipelined })
    }

    fn can_join(&self, id: UpstreamId, key: PoolKey, depth: usize) -> bool {
        let Some(Upstream { key: own, mux: Mux::Pipelined(pipeline), .. }) = self.upstreams.get(id) else {
            return false;
        };
        let first = pipeline.first().and_then(|first| self.clients.get(first));
        (own.service, own.replica) == (key.service, key.replica)
            && !pipeline.broken
            && !pipeline.hung_up
            && pipeline.len() < depth
            && first.is_some_and(|first| first.session.may_pipeline_behind())
    }

    /// Takes an idle connection for pipelining.
    fn begin_pipeline(&mut self, key: PoolKey) -> Option<UpstreamId> {
        let id = self.upstreams.pools.take(key)?;
        *self.upstreams.pools.pipelined(key, self.cx.now)? = Some(id);
        let pipeline = self.upstreams.pipeline();
        self.upstreams.get_mut(id)?.mux = Mux::Pipelined(pipeline);
        self.upstreams.in_use += 1;
        Some(id)
    }

    /// After a step of the first session: what is there for it already is as good as an edge.
    pub(super) fn remind(&mut self, session: SessionId) {
        let Some(client) = self.clients.get_mut(session) else { return };
        let Some(id) = client.upstream.pipelined() else { return };
        let Some(pipeline) = self.upstreams.get_mut(id).and_then(|upstream| upstream.mux.pipeline()) else { return };
        if pipeline.first() == Some(session) && (pipeline.has_ahead() || pipeline.more) {
            client.session.on_ready(Leg::Upstream, Ready::READABLE, &self.cx);
        }
    }

    /// An edge of a connection that carries several requests: what did not fit before is sent.
    pub(super) fn on_pipeline_ready(&mut self, id: UpstreamId, ready: Ready) {
        let Some(pipeline) = self.upstreams.get_mut(id).and_then(|upstream| upstream.mux.pipeline()) else { return };
        pipeline.more |= ready.readable;
        pipeline.hung_up |= ready.hangup || ready.dead;
        if ready.writable && !pipeline.out.is_empty() {
            self.flush_pipeline(id);
        }
    }

    /// The first session has its response: the connection is the next one's, or goes back to the pool.
    pub(super) fn advance_queue(&mut self, session: SessionId, id: UpstreamId) {
        let (Some(client), Some(upstream)) = (self.clients.get_mut(session), self.upstreams.get_mut(id)) else {
            return;
        };
        client.upstream = UpstreamIo::None;
        upstream.load.finish(self.index);
        let service = upstream.key.service;
        let Some(pipeline) = upstream.mux.pipeline() else { return };
        pipeline.pop_first(client.session.lane_from(Leg::Upstream).unscanned());
        let (next, ready, clean) = (pipeline.first(), pipeline.readiness(), pipeline.is_clean());
        let unrequested = pipeline.is_ahead_of_requests();
        self.on_room(service);
        match next {
            Some(next) if unrequested => self.requeue_from(next),
            Some(next) => {
                if let Some(ready) = ready {
                    self.clients.resume(next, ready, &self.cx);
                }
            }
            None => {
                self.on_upstream_unused();
                if clean { self.park_upstream(id) } else { self.discard_upstream(id) }
            }
        }
    }

    /// Takes `session` out of the queue with all sessions behind it. Returns the connection if no session uses it any more.
    pub(super) fn leave_pipeline(&mut self, session: SessionId, id: UpstreamId) -> Option<UpstreamId> {
        let upstream = self.upstreams.get_mut(id)?;
        upstream.load.finish(self.index);
        let key = upstream.key;
        let pipeline = upstream.mux.pipeline()?;
        let behind = pipeline.break_at(session)?;
        self.on_room(key.service);
        let pipeline = self.upstreams.get_mut(id).and_then(|upstream| upstream.mux.pipeline())?;
        let unused = pipeline.len() == 0;
        if !behind.is_empty() || !unused {
            self.upstreams.pools.suspend_pipelining(key, self.cx.now.after_ms(SUSPEND_MS));
        }
        if unused {
            self.on_upstream_unused();
        }
        behind.into_iter().for_each(|session| self.requeue(session, id));
        unused.then_some(id)
    }

    /// The session is queued behind another one.
    pub(super) fn is_queued_behind(&self, session: SessionId) -> bool {
        let id = self.clients.get(session).and_then(|client| client.upstream.pipelined());
        let mux = id.and_then(|id| self.upstreams.get(id)).map(|upstream| &upstream.mux);
        mux.is_some_and(|mux| mux.reader() != Some(session) && mux.contains(session))
    }

    /// No request waits behind a response that takes long to read.
    pub(super) fn requeue_behind(&mut self, session: SessionId) {
        let Some(client) = self.clients.get(session).filter(|client| client.session.blocks_pipeline()) else { return };
        let Some(id) = client.upstream.pipelined() else { return };
        let pipeline = self.upstreams.get_mut(id).and_then(|upstream| upstream.mux.pipeline());
        if let Some(second) = pipeline.and_then(|pipeline| pipeline.queue.get(1).copied()) {
            self.requeue_from(second);
        }
    }

    /// Takes `session` and all behind it out of the queue; their requests are sent again.
    pub(super) fn requeue_from(&mut self, session: SessionId) {
        let Some(id) = self.clients.get_mut(session).and_then(|client| client.upstream.take()) else { return };
        let unused = self.leave_pipeline(session, id);
        self.requeue(session, id);
        if let Some(id) = unused {
            self.discard_upstream(id);
        }
    }

    /// The session finds its connection gone, and its request is sent again.
    fn requeue(&mut self, session: SessionId, from: UpstreamId) {
        let Some(client) = self.clients.get_mut(session) else { return };
        if client.upstream.id() == Some(from) {
            client.upstream = UpstreamIo::None;
            if let Some(upstream) = self.upstreams.get(from) {
                upstream.load.finish(self.index);
            }
        }
        self.clients.resume(session, Ready::HANGUP, &self.cx);
    }

    /// Sends what was pipelined in this turn, one write for each connection.
    pub(super) fn flush_pipelines(&mut self) {
        for id in std::mem::take(&mut self.upstreams.to_flush) {
            let Some(pipeline) = self.upstreams.get_mut(id).and_then(|upstream| upstream.mux.pipeline()) else {
                continue;
            };
            if !std::mem::take(&mut pipeline.gathering) {
                continue;
            }
            if pipeline.len() == 0 {
                self.on_upstream_unused();
                self.park_upstream(id);
            } else {
                self.flush_pipeline(id);
            }
        }
    }

    fn flush_pipeline(&mut self, id: UpstreamId) {
        let Some(Upstream { transport, mux: Mux::Pipelined(pipeline), .. }) = self.upstreams.get_mut(id) else {
            return;
        };
        if !pipeline.flush(transport, &mut self.kernel, &mut self.cx.pool)
            && let Some(first) = pipeline.first()
        {
            // Its read says what happened.
            self.clients.resume(first, Ready::HANGUP, &self.cx);
        }
    }
}
