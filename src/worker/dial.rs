//! Upstream connections: chosen by the ring, taken from the pool or opened, parked or closed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::core::snapshot::{Replica, ReplicaId, State};
use crate::core::step::{Call, Leg, Outcome};
use crate::kernel::{Kernel, Token};
use crate::shared::report::{Fact, Lack};

use super::pool::Home;
use super::shortage::lack;
use super::slot::Conn;
use super::{DONE, Worker};

impl<K: Kernel> Worker<K> {
    /// Finds a replica for what `place` calls for: this turn's snapshot chooses, whatever was tried before is left out.
    pub(super) fn dial(&mut self, place: u32) -> Outcome {
        let left = self.slots.at(place).and_then(|slot| slot.conn).and_then(|conn| self.conns.at(conn));
        let left = left.map(|conn| conn.home.replica);
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
            Outcome::Short => self.counters.short.count(),
            _ if first => self.counters.requests.count(),
            _ => {}
        }
        outcome
    }

    /// The replica asked for again, or else the first on the walk that can be had.
    fn find(&mut self, place: u32, call: Call, left: Option<ReplicaId>) -> Outcome {
        let now = self.turn.now;
        let mut again = call.again.and_then(|replica| self.live(call.service, replica));
        // Replicas to which no local port is free.
        let mut passed: Vec<ReplicaId> = Vec::new();
        loop {
            let afresh = again.is_some();
            let Some(home) = again.take().or_else(|| self.choose(place, call, &passed)) else {
                return if passed.is_empty() { Outcome::NoReplica } else { self.put_off(place) };
            };
            let replica = home.replica;
            let joined = if afresh || left.is_some() { None } else { self.join(place, call, home) };
            if let Some(outcome) = joined {
                return outcome;
            }
            let pooled = if afresh { None } else { self.pools.take(home) };
            let outcome = match pooled {
                Some(conn) => self.reuse(place, conn),
                None if self.shortage.bars(replica, now) => {
                    passed.push(replica);
                    continue;
                }
                None if self.shortage.holds(now) => return self.put_off(place),
                None => match self.open(place, home) {
                    Ok(outcome) => outcome,
                    Err(error) => match lack(&error) {
                        None => Outcome::Undialable { replica, why: error.kind() },
                        Some(Lack::Ports) => {
                            self.tell_short(replica, Lack::Ports);
                            self.shortage.bar(replica, now);
                            passed.push(replica);
                            continue;
                        }
                        Some(lack) => {
                            self.tell_short(replica, lack);
                            self.shortage.begin(now);
                            return self.put_off(place);
                        }
                    },
                },
            };
            if let Some(from) = left {
                self.counters.retried.count();
                self.reporter.report(Fact::Retried { from, to: replica });
            }
            return outcome;
        }
    }

    /// The first live replica on the walk that was neither tried nor passed.
    fn choose(&self, place: u32, call: Call, passed: &[ReplicaId]) -> Option<Home> {
        let (slot, service) = (self.slots.at(place)?, self.turn.snapshot.service(call.service)?);
        let unfit = |replica| slot.session.was_tried(replica) || passed.contains(&replica);
        let (member, replica) = service.pick(call.key, unfit)?;
        Some(Home { service: call.service, member, replica: replica.id })
    }

    fn live(&self, service: usize, replica: ReplicaId) -> Option<Home> {
        let replicas = &self.turn.snapshot.service(service)?.replicas;
        let member = replicas.iter().position(|r| r.id == replica && r.state == State::Up)?;
        Some(Home { service, member, replica })
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
        conn.idle_since = self.turn.now;
        if !self.pools.give(conn.home, number) {
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
        let (now, conns, services) = (self.turn.now, &self.conns, &self.turn.snapshot.services);
        let stale = self.pools.expire(|number| {
            conns.at(number).is_some_and(|conn| {
                let limit = services.get(conn.home.service).map_or(0, |service| service.limits.pool_idle_timeout_ms);
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
        Outcome::Dialed { replica: conn.home.replica, reused: true, shared: false }
    }

    fn open(&mut self, place: u32, home: Home) -> io::Result<Outcome> {
        let snapshot = Arc::clone(&self.turn.snapshot);
        let replica = snapshot.service(home.service).and_then(|service| service.replicas.get(home.member));
        let replica = replica.ok_or(io::ErrorKind::NotFound)?;
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
            home,
            line: VecDeque::from([place]),
            batch: None,
            idle_since: self.turn.now,
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
