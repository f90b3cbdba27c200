//! Upstream connections: chosen by the ring, taken from the pool or opened, parked or closed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::core::snapshot::{Replica, ReplicaId, Service, State};
use crate::core::step::{Call, Leg, Outcome};
use crate::kernel::{Kernel, Token};
use crate::shared::report::{Fact, Lack};

use super::shortage::lack;
use super::slot::Conn;
use super::{DONE, Worker};

impl<K: Kernel> Worker<K> {
    /// Finds a replica for `call`: this turn's snapshot chooses, whatever was tried before is left out.
    pub(super) fn dial(&mut self, place: u32, call: Call) -> Outcome {
        let left = self.slots.at(place).and_then(|slot| slot.conn).and_then(|conn| self.conns.at(conn));
        let left = left.map(|conn| conn.replica);
        self.hang_up(place);
        let snapshot = Arc::clone(&self.lent.snapshot);
        let (Some(service), Some(slot)) = (snapshot.services.get(call.service), self.slots.at_mut(place)) else {
            return Outcome::NoReplica;
        };
        if !std::mem::replace(&mut slot.asked, true) {
            self.fresh -= 1;
        }
        let first = left.is_none() && slot.session.tries() == 0;
        let outcome = self.find(place, call, service, left);
        match outcome {
            Outcome::Short => self.counters.short.count(),
            _ if first => self.counters.requests.count(),
            _ => {}
        }
        outcome
    }

    /// The replica asked for again, or else the first on the walk that can be had.
    fn find(&mut self, place: u32, call: Call, service: &Service, left: Option<ReplicaId>) -> Outcome {
        let now = self.lent.now;
        let mut again = call.again.and_then(|id| live(service, id));
        // Replicas to which no local port is free.
        let mut passed: Vec<ReplicaId> = Vec::new();
        loop {
            let Some(slot) = self.slots.at(place) else { return Outcome::NoReplica };
            let afresh = again.is_some();
            let unfit = |id| slot.session.was_tried(id) || passed.contains(&id);
            let Some((member, replica)) = again.take().or_else(|| service.pick(call.key, unfit)) else {
                return if passed.is_empty() { Outcome::NoReplica } else { self.put_off(place) };
            };
            let joined = if afresh || left.is_some() { None } else { self.join(place, call, member, replica.id) };
            if let Some(outcome) = joined {
                return outcome;
            }
            let pooled = if afresh { None } else { self.pools.take(call.service, member) };
            let outcome = match pooled {
                Some(conn) => self.reuse(place, conn),
                None if self.shortage.bars(replica.id, now) => {
                    passed.push(replica.id);
                    continue;
                }
                None if self.shortage.holds(now) => return self.put_off(place),
                None => match self.open(place, call.service, replica) {
                    Ok(outcome) => outcome,
                    Err(error) => match lack(&error) {
                        None => Outcome::Undialable { replica: replica.id, why: error.kind() },
                        Some(Lack::Ports) => {
                            self.tell_short(replica.id, Lack::Ports);
                            self.shortage.bar(replica.id, now);
                            passed.push(replica.id);
                            continue;
                        }
                        Some(lack) => {
                            self.tell_short(replica.id, lack);
                            self.shortage.begin(now);
                            return self.put_off(place);
                        }
                    },
                },
            };
            if let Some(from) = left {
                self.counters.retried.count();
                self.reporter.report(Fact::Retried { from, to: replica.id });
            }
            return outcome;
        }
    }

    /// The upstream connection is clean: it waits for the next request.
    pub(super) fn park(&mut self, place: u32) -> Outcome {
        let shared = self.slots.at(place).is_some_and(|slot| slot.shared);
        if (!shared || !self.hand_on(place))
            && let Some(number) = self.leave_line(place)
        {
            self.put_back(number);
        }
        DONE
    }

    /// Nobody uses the connection: it waits in the pool, if there is room.
    pub(super) fn put_back(&mut self, number: u32) {
        let Some(conn) = self.conns.at_mut(number) else { return };
        conn.idle_since = self.lent.now;
        let (service, replica) = (conn.service, conn.replica);
        if !self.pools.give(service, replica, number) {
            self.discard(number);
        }
    }

    /// The upstream connection is closed. A pipe that still holds bytes for it goes with it.
    pub(super) fn hang_up(&mut self, place: u32) -> Outcome {
        if let Some(number) = self.leave_line(place) {
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
        let (now, conns, services) = (self.lent.now, &self.conns, &self.lent.snapshot.services);
        let stale = self.pools.expire(|number| {
            conns.at(number).is_some_and(|conn| {
                let limit = services.get(conn.service).map_or(0, |service| service.limits.pool_idle_timeout_ms);
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
        conn.line.push_back(place);
        conn.served.count(self.index);
        slot.conn = Some(number);
        self.busy += 1;
        self.counters.reused.count();
        Outcome::Dialed { replica: conn.replica, reused: true, shared: false }
    }

    fn open(&mut self, place: u32, service: usize, replica: &Replica) -> io::Result<Outcome> {
        let socket = self.connect(replica)?;
        let (number, generation) = self.conns.vacant();
        if let Err(error) = self.kernel.watch(&socket, Token::Upstream { place: number, generation }) {
            self.kernel.close(socket);
            return Err(error);
        }
        replica.served.count(self.index);
        self.counters.dialled.count();
        let number = self.conns.insert(Conn {
            socket,
            service,
            replica: replica.id,
            line: VecDeque::from([place]),
            batch: None,
            idle_since: self.lent.now,
            served: Arc::clone(&replica.served),
        });
        if let Some(slot) = self.slots.at_mut(place) {
            slot.conn = Some(number);
        }
        self.busy += 1;
        Ok(Outcome::Dialed { replica: replica.id, reused: false, shared: false })
    }

    fn connect(&mut self, replica: &Replica) -> io::Result<K::Socket> {
        loop {
            match self.kernel.connect(&replica.endpoint) {
                Err(error) if lack(&error) == Some(Lack::Descriptors) && self.evict() => {}
                result => return result,
            }
        }
    }
}

fn live(service: &Service, id: ReplicaId) -> Option<(usize, &Replica)> {
    service.replicas.iter().enumerate().find(|(_, replica)| replica.id == id && replica.state == State::Up)
}
