//! Upstream connections: chosen by the ring, taken from the pool or opened, parked or closed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::core::snapshot::{Replica, ReplicaId, ServiceId, State};
use crate::core::step::{Call, Leg, Outcome};
use crate::kernel::{Kernel, Token};
use crate::shared::events::{Resource, WorkerEvent};

use super::pool::PoolKey;
use super::resources::resource;
use super::slot::Conn;
use super::{DONE, Worker};

impl<K: Kernel> Worker<K> {
    /// Finds a replica for what `place` calls for: this turn's snapshot chooses, whatever was tried before is left out.
    pub(super) fn dial(&mut self, place: u32) -> Outcome {
        let left = self.slots.at(place).and_then(|slot| slot.conn).and_then(|conn| self.conns.at(conn));
        let left = left.map(|conn| conn.key.replica);
        if left.is_some() {
            self.hang_up(place);
        }
        let Some(slot) = self.slots.at_mut(place) else { return Outcome::NoReplica };
        if !std::mem::replace(&mut slot.asked, true) {
            self.fresh -= 1;
        }
        let (call, first) = (slot.session.call(), left.is_none() && slot.session.tries() == 0);
        let outcome = self.find(place, call, left);
        match outcome {
            Outcome::NoResources => self.counters.short.count(),
            _ if first => self.counters.requests.count(),
            _ => {}
        }
        outcome
    }

    /// The replica asked for again, or else the first on the walk that can be had.
    fn find(&mut self, place: u32, call: Call, left: Option<ReplicaId>) -> Outcome {
        let now = self.cx.now;
        let mut again = call.again.and_then(|replica| self.live(call.service, replica));
        // Replicas to which no local port is free.
        let mut passed: Vec<ReplicaId> = Vec::new();
        loop {
            let afresh = again.is_some();
            let Some(key) = again.take().or_else(|| self.choose(place, call, &passed)) else {
                return if passed.is_empty() { Outcome::NoReplica } else { self.put_off(place) };
            };
            let replica = key.replica;
            let joined = if afresh || left.is_some() { None } else { self.join(place, call, key) };
            if let Some(outcome) = joined {
                return outcome;
            }
            let pooled = if afresh { None } else { self.pools.take(key) };
            let outcome = match pooled {
                Some(conn) => self.reuse(place, conn),
                None if self.resources.bars(replica, now) => {
                    passed.push(replica);
                    continue;
                }
                None if self.resources.holds(now) => return self.put_off(place),
                None => match self.open(place, key) {
                    Ok(outcome) => outcome,
                    Err(error) => match resource(&error) {
                        None => Outcome::ConnectFailed { replica, why: error.kind() },
                        Some(Resource::Ports) => {
                            self.tell_short(replica, Resource::Ports);
                            self.resources.bar(replica, now);
                            passed.push(replica);
                            continue;
                        }
                        Some(resource) => {
                            self.tell_short(replica, resource);
                            self.resources.begin(now);
                            return self.put_off(place);
                        }
                    },
                },
            };
            if let Some(from) = left {
                self.counters.retried.count();
                self.events.send(WorkerEvent::Retried { from, to: replica });
            }
            return outcome;
        }
    }

    /// The first live replica on the walk that was neither tried nor passed.
    fn choose(&self, place: u32, call: Call, passed: &[ReplicaId]) -> Option<PoolKey> {
        let (slot, service) = (self.slots.at(place)?, self.cx.snapshot.service(call.service)?);
        let unfit = |replica| slot.session.was_tried(replica) || passed.contains(&replica);
        let (member, replica) = service.pick(call.key, unfit)?;
        Some(PoolKey { service: call.service, member, replica: replica.id })
    }

    fn live(&self, service: ServiceId, replica: ReplicaId) -> Option<PoolKey> {
        let replicas = &self.cx.snapshot.service(service)?.replicas;
        let member = replicas.iter().position(|r| r.id == replica && r.state == State::Up)?;
        Some(PoolKey { service, member, replica })
    }

    /// The upstream connection is clean: it waits for the next request.
    pub(super) fn park(&mut self, place: u32) -> Outcome {
        let shared = self.slots.at(place).is_some_and(|slot| slot.shared);
        if (!shared || !self.advance_queue(place))
            && let Some(number) = self.leave_queue(place)
        {
            self.put_back(number);
        }
        DONE
    }

    /// Nobody uses the connection: it waits in the pool, if there is room.
    pub(super) fn put_back(&mut self, number: u32) {
        let Some(conn) = self.conns.at_mut(number) else { return };
        conn.idle_since = self.cx.now;
        if !self.pools.give(conn.key, number) {
            self.discard(number);
        }
    }

    /// The upstream connection is closed. A pipe that still holds bytes for it goes with it.
    pub(super) fn hang_up(&mut self, place: u32) -> Outcome {
        if let Some(number) = self.leave_queue(place) {
            self.discard(number);
        }
        if let Some(slot) = self.slots.at_mut(place)
            && slot.session.lane_from(Leg::Client).piped() > 0
        {
            *slot.pipes.of(Leg::Client) = None;
        }
        DONE
    }

    /// Closes an upstream connection that nobody uses.
    pub(super) fn discard(&mut self, number: u32) {
        if let Some(conn) = self.conns.remove(number) {
            self.kernel.close(conn.socket);
        }
    }

    /// Closes upstream connections that were idle for too long.
    pub(super) fn sweep(&mut self) {
        let (now, conns, snapshot) = (self.cx.now, &self.conns, &self.cx.snapshot);
        let stale = self.pools.expire(|number| {
            conns.at(number).is_some_and(|conn| {
                let limit = snapshot.service(conn.key.service).map_or(0, |service| service.limits.pool_idle_timeout_ms);
                now.ms_since(conn.idle_since) >= limit
            })
        });
        for number in stale {
            self.discard(number);
        }
    }

    fn reuse(&mut self, place: u32, number: u32) -> Outcome {
        let (Some(conn), Some(slot)) = (self.conns.at_mut(number), self.slots.at_mut(place)) else {
            return Outcome::NoReplica;
        };
        conn.queue.push_back(place);
        conn.load.count(self.index);
        slot.conn = Some(number);
        self.busy += 1;
        self.counters.reused.count();
        Outcome::Connected { replica: conn.key.replica, reused: true, shared: false }
    }

    fn open(&mut self, place: u32, key: PoolKey) -> io::Result<Outcome> {
        let snapshot = Arc::clone(&self.cx.snapshot);
        let replica = snapshot.service(key.service).and_then(|service| service.replicas.get(key.member));
        let replica = replica.ok_or(io::ErrorKind::NotFound)?;
        let socket = self.connect(replica)?;
        let (number, generation) = self.conns.vacant();
        if let Err(error) = self.kernel.watch(&socket, Token::Upstream { place: number, generation }) {
            self.kernel.close(socket);
            return Err(error);
        }
        replica.load.count(self.index);
        self.counters.dialled.count();
        let number = self.conns.insert(Conn {
            socket,
            key,
            queue: VecDeque::from([place]),
            batch: None,
            idle_since: self.cx.now,
            load: Arc::clone(&replica.load),
        });
        if let Some(slot) = self.slots.at_mut(place) {
            slot.conn = Some(number);
        }
        self.busy += 1;
        Ok(Outcome::Connected { replica: replica.id, reused: false, shared: false })
    }

    fn connect(&mut self, replica: &Replica) -> io::Result<K::Socket> {
        loop {
            match self.kernel.connect(&replica.endpoint) {
                Err(error) if resource(&error) == Some(Resource::Descriptors) && self.evict() => {}
                result => return result,
            }
        }
    }
}
