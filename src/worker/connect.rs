//! Connects a session to a replica: the balancer picks it, the connection is pipelined, taken from the pool or
//! opened; and what becomes of connections afterwards. Bytes are moved elsewhere.

use std::io;
use std::sync::Arc;

use crate::core::exchange_record::Recording;
use crate::core::snapshot::{Replica, ReplicaId, Service, ServiceId, State};
use crate::core::step::{Connect, Connection, Leg, Pick};
use crate::core::tls::upstream::UpstreamPolicy;
use crate::kernel::{Kernel, Token};
use crate::shared::events::{Resource, WorkerEvent};

use super::Worker;
use super::clients::UpstreamIo;
use super::pool::PoolKey;
use super::resources::exhausted;
use super::secure::Secure;
use super::slab::{SessionId, UpstreamId};
use super::transport::Transport;
use super::upstreams::{Mux, Upstream};

impl<K: Kernel> Worker<K> {
    /// Connects `session` to a replica: one of this turn's snapshot that was not tried before.
    pub(super) fn connect(&mut self, session: SessionId, pick: &Pick) -> Connect {
        let used = self.clients.get(session).and_then(|client| client.upstream.id());
        let from = used.and_then(|id| self.upstreams.get(id)).map(|upstream| upstream.key.replica);
        if from.is_some() {
            self.close_upstream(session);
        }
        self.clients.mark_requested(session);
        let is_retry = !pick.tried.is_empty();
        if is_retry && !self.retry_budgets.allows(pick.service) {
            self.leave_queue(session, pick.service);
            return Connect::NoRetry;
        }
        let outcome = if self.waits_behind_others(session, pick.service) {
            self.enqueue(session, pick.service)
        } else {
            self.find(session, pick, from)
        };
        match outcome {
            Connect::NoResources => self.counters.short.count(),
            Connect::Queued => {}
            _ => self.settle(session, pick.service, is_retry),
        }
        outcome
    }

    /// The attempt was made, or is not: it waits no longer.
    #[inline]
    fn settle(&mut self, session: SessionId, service: ServiceId, is_retry: bool) {
        self.leave_queue(session, service);
        if is_retry {
            self.retry_budgets.withdraw(service);
        } else {
            self.retry_budgets.deposit(service, self.cx.snapshot.limits(service).retry_budget);
        }
    }

    /// The replica asked for again, or else the first pick that a connection can be had to.
    fn find(&mut self, session: SessionId, pick: &Pick, from: Option<ReplicaId>) -> Connect {
        let mut again = pick.again.and_then(|replica| self.live(pick.service, replica));
        // Replicas to which no local port is free.
        let mut passed: Vec<ReplicaId> = Vec::new();
        loop {
            let (key, existing) = match again.take() {
                Some(key) => (key, None),
                None => match self.choose(pick, &passed) {
                    Some(key) => (key, self.take_existing(session, pick, key, from)),
                    None if self.has_full(pick) => return self.enqueue(session, pick.service),
                    None if passed.is_empty() => return Connect::NoReplica,
                    None => return self.wait_for_resources(session),
                },
            };
            match existing.or_else(|| self.open(session, key)) {
                Some(outcome) => {
                    self.count_retry(outcome, from);
                    self.name_replica(session, key);
                    return outcome;
                }
                None => passed.push(key.replica),
            }
        }
    }

    /// A live replica that was neither tried nor passed over.
    fn choose(&mut self, pick: &Pick, passed: &[ReplicaId]) -> Option<PoolKey> {
        let preferred = pick.preferred.filter(|id| !pick.tried.contains(*id) && !passed.contains(id));
        if let Some(key) = preferred.and_then(|replica| self.with_room(pick.service, replica, State::Up)) {
            return Some(key);
        }
        let (member, replica) = self.balancer.pick(&self.cx.snapshot, pick, passed, &mut self.cx.prng)?;
        Some(PoolKey { service: pick.service, member, replica: replica.id })
    }

    /// One that may take requests, and was not tried, has no room.
    #[cold]
    fn has_full(&self, pick: &Pick) -> bool {
        self.cx.snapshot.service(pick.service).is_some_and(|service| {
            let waits_for = |replica: &&Replica| {
                replica.state.may_take_requests() && !pick.tried.contains(replica.id) && service.is_full(replica)
            };
            service.replicas.iter().any(|replica| waits_for(&replica))
        })
    }

    /// It may take requests.
    fn live(&self, service: ServiceId, replica: ReplicaId) -> Option<PoolKey> {
        let of = |state| self.with_room(service, replica, state);
        of(State::Up).or_else(|| of(State::Ejected))
    }

    /// It is in this state and has room for a request.
    fn with_room(&self, service: ServiceId, replica: ReplicaId, state: State) -> Option<PoolKey> {
        let of = self.cx.snapshot.service(service)?;
        let has_room = |r: &Replica| r.id == replica && r.state == state && !of.is_full(r);
        let member = of.replicas.iter().position(has_room)?;
        Some(PoolKey { service, member, replica })
    }

    /// A connection that is open already: one that requests are pipelined on, or an idle one.
    fn take_existing(
        &mut self,
        session: SessionId,
        pick: &Pick,
        key: PoolKey,
        from: Option<ReplicaId>,
    ) -> Option<Connect> {
        let policy = self.cx.snapshot.service(key.service).and_then(|service| service.tls.clone());
        // Plaintext may be here without an edge, which a queue of sessions does not look for.
        let may_pipeline = from.is_none() && policy.is_none();
        let pipelined = if may_pipeline { self.join_pipeline(session, pick, key) } else { None };
        pipelined.or_else(|| self.reuse(session, key, policy.as_ref()))
    }

    /// An idle connection. One that was made by another policy of TLS than is in force now is closed.
    fn reuse(&mut self, session: SessionId, key: PoolKey, policy: Option<&Arc<UpstreamPolicy>>) -> Option<Connect> {
        let id = loop {
            let id = self.upstreams.pools.take(key)?;
            let own = self.upstreams.get(id)?.policy.as_ref();
            if own.map(Arc::as_ptr) == policy.map(Arc::as_ptr) {
                break id;
            }
            self.discard_upstream(id);
        };
        let (upstream, client) = (self.upstreams.get_mut(id)?, self.clients.get_mut(session)?);
        upstream.mux = Mux::Exclusive(session);
        upstream.load.start(self.index);
        client.upstream = UpstreamIo::Exclusive(id);
        let replica = upstream.key.replica;
        self.upstreams.in_use += 1;
        self.counters.reused.count();
        Some(Connect::Connected { replica, connection: Connection::Reused })
    }

    /// Opens a connection. `None`: no local port is free for it.
    fn open(&mut self, session: SessionId, key: PoolKey) -> Option<Connect> {
        let (now, replica) = (self.cx.now, key.replica);
        if self.resources.is_replica_blocked(replica, now) {
            return None;
        }
        if self.resources.is_blocked(now) {
            return Some(self.wait_for_resources(session));
        }
        let error = match self.try_open(session, key) {
            Ok(outcome) => return Some(outcome),
            Err(error) => error,
        };
        let Some(resource) = exhausted(&error) else {
            return Some(Connect::Failed { replica, why: error.kind() });
        };
        self.report_exhausted(replica, resource);
        if resource == Resource::Ports {
            self.resources.block_replica(replica, now);
            return None;
        }
        self.resources.block(now);
        Some(self.wait_for_resources(session))
    }

    fn try_open(&mut self, session: SessionId, key: PoolKey) -> io::Result<Connect> {
        let snapshot = Arc::clone(&self.cx.snapshot);
        let service = snapshot.service(key.service).ok_or(io::ErrorKind::NotFound)?;
        let replica = service.replicas.get(key.member).ok_or(io::ErrorKind::NotFound)?;
        let transport = self.connect_transport(session, service, replica)?;
        let (index, generation) = self.upstreams.next_token();
        if let Err(error) = transport.watch(&mut self.kernel, Token::Upstream { index, generation }) {
            transport.close(&mut self.kernel, &mut self.cx.pool);
            return Err(error);
        }
        replica.load.start(self.index);
        self.counters.dialled.count();
        let (mux, load) = (Mux::Exclusive(session), Arc::clone(&replica.load));
        let policy = service.tls.clone();
        let id = self.upstreams.insert(Upstream { transport, key, policy, mux, idle_since: self.cx.now, load });
        if let Some(client) = self.clients.get_mut(session) {
            client.upstream = UpstreamIo::Exclusive(id);
        }
        self.upstreams.in_use += 1;
        Ok(Connect::Connected { replica: replica.id, connection: Connection::New })
    }

    fn connect_transport(
        &mut self,
        session: SessionId,
        service: &Service,
        replica: &Replica,
    ) -> io::Result<Transport<K>> {
        let Some(policy) = &service.tls else { return Ok(Transport::new(self.connect_socket(replica)?)) };
        let tls = match policy.connect(&replica.endpoint, self.date_seconds, &mut self.cx.pool) {
            Ok(mut tls) => {
                if let Some(client) = self.clients.get(session) {
                    tls.introduce(&client.session.proxy_header(service), &mut self.cx.pool);
                }
                Secure::of_replica(tls)
            }
            Err(fault) => {
                let why = fault.to_string();
                self.events.send(WorkerEvent::UpstreamHandshakeFailed { replica: replica.id, why });
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        match self.connect_socket(replica) {
            Ok(socket) => Ok(Transport::secure(socket, tls)),
            Err(error) => {
                tls.discard(&mut self.cx.pool);
                Err(error)
            }
        }
    }

    fn connect_socket(&mut self, replica: &Replica) -> io::Result<K::Socket> {
        loop {
            match self.kernel.connect(&replica.endpoint) {
                Err(error) if exhausted(&error) == Some(Resource::Descriptors) && self.evict() => {}
                result => return result,
            }
        }
    }

    /// A session knows the id of its replica only: its record says the name.
    #[inline]
    fn name_replica(&mut self, session: SessionId, key: PoolKey) {
        if self.cx.records.recording == Recording::All
            && let Some(client) = self.clients.get_mut(session)
            && let Some(replica) = self.cx.snapshot.service(key.service).and_then(|s| s.replicas.get(key.member))
        {
            client.session.name_replica(&replica.name);
        }
    }

    fn count_retry(&self, outcome: Connect, from: Option<ReplicaId>) {
        if let Some(from) = from
            && let Connect::Connected { replica: to, .. } | Connect::Failed { replica: to, .. } = outcome
        {
            self.counters.retried.count();
            self.events.send(WorkerEvent::Retried { from, to });
        }
    }

    /// The upstream connection is clean: it serves the next request.
    pub(super) fn release_upstream(&mut self, session: SessionId) {
        let Some(client) = self.clients.get(session) else { return };
        match client.upstream {
            UpstreamIo::None => {}
            UpstreamIo::Pipelined(id) => self.advance_queue(session, id),
            UpstreamIo::Exclusive(_) => {
                if let Some(id) = self.leave_upstream(session) {
                    self.park_upstream(id);
                }
            }
        }
    }

    /// The upstream connection cannot be used again. A pipe that still holds bytes for it is closed with it.
    pub(super) fn close_upstream(&mut self, session: SessionId) {
        if let Some(id) = self.leave_upstream(session) {
            self.discard_upstream(id);
        }
        if let Some(client) = self.clients.get_mut(session)
            && client.session.piped(Leg::Client) > 0
        {
            *client.pipes.from(Leg::Client) = None;
        }
    }

    /// The session uses its upstream connection no longer. Returns the connection if no other session uses it.
    fn leave_upstream(&mut self, session: SessionId) -> Option<UpstreamId> {
        let io = std::mem::replace(&mut self.clients.get_mut(session)?.upstream, UpstreamIo::None);
        match io {
            UpstreamIo::None => None,
            UpstreamIo::Pipelined(id) => self.leave_pipeline(session, id),
            UpstreamIo::Exclusive(id) => {
                let upstream = self.upstreams.get(id)?;
                upstream.load.finish(self.index);
                let service = upstream.key.service;
                self.on_room(service);
                self.on_upstream_unused();
                Some(id)
            }
        }
    }

    /// An upstream connection is no longer in use.
    pub(super) fn on_upstream_unused(&mut self) {
        self.upstreams.in_use -= 1;
        self.on_freed();
    }

    pub(super) fn park_upstream(&mut self, id: UpstreamId) {
        if !self.upstreams.park(id, self.cx.now, &mut self.kernel, &mut self.cx.pool) {
            self.counters.upstream_closed.count();
        }
    }

    pub(super) fn discard_upstream(&mut self, id: UpstreamId) {
        self.counters.upstream_closed.count();
        self.upstreams.close(id, &mut self.kernel, &mut self.cx.pool);
    }

    /// Closes upstream connections that were idle for too long.
    pub(super) fn sweep_pools(&mut self) {
        let (now, snapshot) = (self.cx.now, Arc::clone(&self.cx.snapshot));
        for id in self.upstreams.take_stale(now, &snapshot) {
            self.discard_upstream(id);
        }
    }
}
