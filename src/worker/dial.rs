//! Upstream connections: chosen by the ring, taken from the pool or opened, parked or closed.

use std::io;
use std::sync::Arc;

use crate::core::snapshot::{Replica, ReplicaId, Service, State};
use crate::core::step::{Call, Leg, Outcome};
use crate::kernel::{Kernel, Token};
use crate::shared::report::Fact;

use super::accept::is_exhaustion;
use super::slot::Conn;
use super::{DONE, Worker};

impl<K: Kernel> Worker<K> {
    /// Finds a replica for `call`: this turn's snapshot chooses, whatever was tried before is left out.
    pub(super) fn dial(&mut self, place: u32, call: Call) -> Outcome {
        let left = self.slots.at(place).and_then(|slot| slot.conn).and_then(|conn| self.conns.at(conn));
        let left = left.map(|conn| conn.replica);
        self.hang_up(place);
        let snapshot = Arc::clone(&self.lent.snapshot);
        let (Some(service), Some(slot)) = (snapshot.services.get(call.service), self.slots.at(place)) else {
            return Outcome::NoReplica;
        };
        let again = call.again.and_then(|id| live(service, id));
        let picked = again.or_else(|| service.pick(call.key, |id| slot.session.was_tried(id)));
        let Some((member, replica)) = picked else { return Outcome::NoReplica };
        match left {
            Some(from) => {
                self.counters.retried.count();
                self.reporter.report(Fact::Retried { from, to: replica.id });
            }
            None => self.counters.requests.count(),
        }
        let pooled = if again.is_none() { self.pools.take(call.service, member) } else { None };
        match pooled {
            Some(conn) => self.reuse(place, conn),
            None => self.open(place, call.service, replica),
        }
    }

    /// The upstream connection is clean: it waits for the next request.
    pub(super) fn park(&mut self, place: u32) -> Outcome {
        if let Some(number) = self.part(place)
            && let Some(conn) = self.conns.at_mut(number)
        {
            conn.idle_since = self.lent.now;
            let (service, replica) = (conn.service, conn.replica);
            if !self.pools.give(service, replica, number) {
                self.discard(number);
            }
        }
        DONE
    }

    /// The upstream connection is closed. A pipe that still holds bytes for it goes with it.
    pub(super) fn hang_up(&mut self, place: u32) -> Outcome {
        if let Some(number) = self.part(place) {
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

    /// Gives up an idle upstream connection for its descriptor; false if there is none.
    pub(super) fn evict(&mut self) -> bool {
        let victim = self.pools.evict();
        if let Some(number) = victim {
            self.discard(number);
        }
        victim.is_some()
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
        conn.owner = Some(place);
        conn.served.count(self.index);
        slot.conn = Some(number);
        self.counters.reused.count();
        Outcome::Dialed { replica: conn.replica, reused: true }
    }

    fn open(&mut self, place: u32, service: usize, replica: &Replica) -> Outcome {
        let socket = match self.connect(replica) {
            Ok(socket) => socket,
            Err(error) => return Outcome::Undialable { replica: replica.id, why: error.kind() },
        };
        let (number, generation) = self.conns.vacant();
        if let Err(error) = self.kernel.watch(&socket, Token::Upstream { place: number, generation }) {
            self.kernel.close(socket);
            return Outcome::Undialable { replica: replica.id, why: error.kind() };
        }
        replica.served.count(self.index);
        self.counters.dialled.count();
        let number = self.conns.insert(Conn {
            socket,
            service,
            replica: replica.id,
            owner: Some(place),
            idle_since: self.lent.now,
            served: Arc::clone(&replica.served),
        });
        if let Some(slot) = self.slots.at_mut(place) {
            slot.conn = Some(number);
        }
        Outcome::Dialed { replica: replica.id, reused: false }
    }

    fn connect(&mut self, replica: &Replica) -> io::Result<K::Socket> {
        loop {
            match self.kernel.connect(&replica.endpoint) {
                Err(error) if is_exhaustion(error.raw_os_error()) && self.evict() => {}
                result => return result,
            }
        }
    }

    /// Takes the upstream connection from a session: its request there is over.
    fn part(&mut self, place: u32) -> Option<u32> {
        let number = self.slots.at_mut(place)?.conn.take()?;
        let conn = self.conns.at_mut(number)?;
        conn.owner = None;
        conn.served.finish(self.index);
        Some(number)
    }
}

fn live(service: &Service, id: ReplicaId) -> Option<(usize, &Replica)> {
    service.replicas.iter().enumerate().find(|(_, replica)| replica.id == id && replica.state == State::Up)
}
