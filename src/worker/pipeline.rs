//! Coalescing: requests that became ready in one turn for one replica leave in one write on one upstream connection,
//! and their sessions stand in queue for the responses, which come in the same order (RFC 9112 section 9.3.2).
//!
//! A session knows nothing of the queue: what it reads is what is meant for it, because the connection keeps what came
//! behind a response for the next in queue. Whoever leaves the queue before its response came takes everybody behind it
//! along; they ask again, each on a connection of its own, which is safe because only safe requests stand in queue. So a
//! large or slow response, a fault and a client that goes away all end the same way: the queue behind it dissolves.
//!
//! Two rules keep the order of bytes. Nobody joins a queue whose first response has begun: it may be long, or the
//! connection's last. And the first in queue splices only from the socket itself, never past what was read ahead.

use std::collections::VecDeque;

use crate::core::step::{Call, Leg, Outcome, Ready, Step};
use crate::kernel::Kernel;

use super::Worker;
use super::perform::{given, gone, taken, uninterrupted};
use super::pool::PoolKey;
use super::slot::Conn;

/// A replica where the queue dissolved gets requests one by one for so long.
const APART_MS: u64 = 1_000;
/// A session takes so much at once of what came for those behind it, too: small responses are copied once.
const GULP: usize = 2 * 1024;

/// What a connection owns while sessions stand in queue on it.
#[derive(Debug, Default)]
pub struct Batch {
    /// The connection is used in queue; otherwise whoever has it has it alone.
    open: bool,
    /// Something joined in this turn.
    gathering: bool,
    /// Requests on their way out, and how many at the end of the queue they belong to.
    out: Vec<u8>,
    unsent: usize,
    /// Responses that came behind others, and where the first in queue goes on reading.
    ahead: Vec<u8>,
    at: usize,
    /// The socket may hold more: an edge that no read has used up.
    more: bool,
    /// The replica will send no more, or the connection broke: reading tells.
    hung: bool,
    /// Somebody left the queue: what would come behind it is for nobody.
    spent: bool,
}

impl Batch {
    /// Nothing is left that the next user of the connection could take for its own.
    fn is_clean(&self) -> bool {
        self.at == self.ahead.len() && self.out.is_empty() && !self.more && !self.hung && !self.spent
    }
}

impl<K: Kernel> Worker<K> {
    /// Stands `place` in queue for this replica, if a warm connection to it gathers requests or can begin to.
    pub(super) fn join(&mut self, place: u32, call: Call, key: PoolKey) -> Option<Outcome> {
        let depth = self.cx.snapshot.service(key.service)?.limits.upstream_pipelining;
        if depth < 2 || !call.shareable || call.again.is_some() {
            return None;
        }
        let gathering = self.pools.gathering(key, self.cx.now)?;
        let gathers = |conn: &Conn<K>| {
            let ours = (conn.key.service, conn.key.replica) == (key.service, key.replica);
            let open = conn.batch.as_ref().is_some_and(|batch| batch.open && !batch.spent && !batch.hung);
            let first = conn.queue.front().and_then(|first| self.slots.at(*first));
            ours && open && conn.queue.len() < depth && first.is_some_and(|first| first.session.may_pipeline_behind())
        };
        let open = gathering.filter(|number| self.conns.at(*number).is_some_and(gathers));
        let number = match open {
            Some(number) => number,
            None => {
                let number = self.pools.take(key)?;
                *self.pools.gathering(key, self.cx.now)? = Some(number);
                self.busy += 1;
                number
            }
        };
        let (Some(conn), Some(slot)) = (self.conns.at_mut(number), self.slots.at_mut(place)) else { return None };
        let batch = conn.batch.get_or_insert_default();
        if open.is_none() {
            (batch.open, batch.more, batch.hung, batch.spent) = (true, false, false, false);
        }
        if !std::mem::replace(&mut batch.gathering, true) {
            self.to_flush.push(number);
        }
        slot.conn = Some(number);
        slot.shared = true;
        conn.load.count(self.index);
        self.counters.reused.count();
        Some(Outcome::Connected { replica: conn.key.replica, reused: true, shared: true })
    }

    /// The steps that are different for a session in queue; `None`: as for any other.
    pub(super) fn transfer_pipelined(&mut self, place: u32, step: Step) -> Option<Outcome> {
        let slot = self.slots.at_mut(place)?;
        let conn = slot.conn.and_then(|conn| self.conns.at_mut(conn))?;
        let is_first = conn.queue.front() == Some(&place);
        let batch = conn.batch.as_mut()?;
        match step {
            Step::Send { leg: Leg::Upstream, .. } if batch.gathering => {
                let request = slot.session.lane_to(Leg::Upstream).pending();
                batch.out.extend_from_slice(request);
                batch.unsent += 1;
                conn.queue.push_back(place);
                self.counters.bytes_up.add(request.len() as u64);
                Some(Outcome::Moved(request.len() as u64))
            }
            Step::Send { leg: Leg::Upstream, .. } => Some(gone()),
            Step::Recv(Leg::Upstream) | Step::SpliceIn(Leg::Upstream, _) if !is_first => Some(gone()),
            Step::Recv(Leg::Upstream) => {
                let space = slot.session.lane_from(Leg::Upstream).space(&mut self.cx.pool);
                let ahead = batch.ahead.get(batch.at..).unwrap_or_default();
                if !ahead.is_empty() {
                    let n = ahead.len().min(GULP).min(space.len());
                    if let (Some(to), Some(from)) = (space.get_mut(..n), ahead.get(..n)) {
                        to.copy_from_slice(from);
                    }
                    batch.at += n;
                    return Some(Outcome::Moved(n as u64));
                }
                batch.ahead.clear();
                batch.at = 0;
                let room = space.len() as u64;
                let outcome = taken(uninterrupted(|| self.kernel.recv(&conn.socket, space)));
                batch.more = outcome == Outcome::Moved(room);
                Some(outcome)
            }
            _ => None,
        }
    }

    /// The first in queue spliced past the buffers: the socket may hold more until it says that it does not.
    pub(super) fn spliced_pipelined(&mut self, place: u32, outcome: Outcome) {
        let conn = self.slots.at(place).and_then(|slot| slot.conn).and_then(|conn| self.conns.at_mut(conn));
        if let Some(batch) = conn.and_then(|conn| conn.batch.as_mut()) {
            batch.more = matches!(outcome, Outcome::Moved(_));
        }
    }

    /// After a read of the first in queue: what else is there for it already is no less ready than an edge.
    pub(super) fn remind(&mut self, place: u32) {
        let Some(slot) = self.slots.at_mut(place).filter(|slot| slot.shared) else { return };
        let Some(conn) = slot.conn.and_then(|conn| self.conns.at(conn)) else { return };
        if let Some(batch) = &conn.batch
            && conn.queue.front() == Some(&place)
            && (batch.at < batch.ahead.len() || batch.more)
        {
            slot.session.on_ready(Leg::Upstream, READABLE, &self.cx);
        }
    }

    /// An edge of a connection with a queue: the first reads, and what did not fit before goes out.
    pub(super) fn mark_batch(&mut self, number: u32, ready: Ready) {
        let Some(batch) = self.conns.at_mut(number).and_then(|conn| conn.batch.as_mut()) else { return };
        batch.more |= ready.readable;
        batch.hung |= ready.hangup || ready.dead;
        if ready.writable && !batch.out.is_empty() {
            self.flush(number);
        }
    }

    /// The first in queue has its response: what came behind it is the next one's. True if the connection is taken care of.
    pub(super) fn advance_queue(&mut self, place: u32) -> bool {
        let Some(slot) = self.slots.at_mut(place) else { return false };
        let Some(conn) = slot.conn.and_then(|conn| self.conns.at_mut(conn)) else { return false };
        let Some(batch) = conn.batch.as_mut() else { return false };
        let behind = slot.session.lane_from(Leg::Upstream).unscanned();
        if batch.ahead.is_empty() {
            batch.ahead.extend_from_slice(behind);
        } else {
            batch.at = batch.at.saturating_sub(behind.len());
        }
        let (ready, hung) = (batch.at < batch.ahead.len() || batch.more || batch.hung, batch.hung);
        conn.queue.pop_front();
        // What is there cannot be the answer to a request that has not left.
        let spoilt = ready && conn.queue.len() <= batch.unsent;
        conn.load.finish(self.index);
        let next = conn.queue.front().copied();
        let (number, clean) = (slot.conn.take(), batch.is_clean());
        slot.shared = false;
        if next.is_none() {
            batch.open = false;
            self.rests();
        }
        match (next, number) {
            (Some(next), _) if spoilt => self.requeue_from(next),
            (Some(next), _) => {
                if ready && let Some(slot) = self.slots.at_mut(next) {
                    let ready = Ready { hangup: hung, ..READABLE };
                    slot.session.on_ready(Leg::Upstream, ready, &self.cx);
                    self.resumed.push(next);
                }
            }
            (None, Some(number)) if clean => self.put_back(number),
            (None, Some(number)) => self.discard(number),
            (None, None) => {}
        }
        true
    }

    /// Takes `place` out of the queue, and everybody behind it. What is left of the connection, if nobody stands before it.
    pub(super) fn leave_queue(&mut self, place: u32) -> Option<u32> {
        let slot = self.slots.at_mut(place)?;
        slot.shared = false;
        let number = slot.conn.take()?;
        let conn = self.conns.at_mut(number)?;
        conn.load.finish(self.index);
        let behind = if conn.queue.back() == Some(&place) {
            VecDeque::new()
        } else {
            // Whoever joined and sent nothing leaves no trace.
            let at = conn.queue.iter().position(|stands| *stands == place)?;
            conn.queue.split_off(at + 1)
        };
        conn.queue.pop_back();
        if let Some(batch) = &mut conn.batch {
            batch.spent = true;
        }
        let alone = conn.queue.is_empty();
        let key = conn.key;
        if !behind.is_empty() || !alone {
            self.pools.suspend_pipelining(key, self.cx.now.after_ms(APART_MS));
        }
        if alone {
            self.rests();
        }
        behind.into_iter().for_each(|place| self.requeue(place, number));
        alone.then_some(number)
    }

    /// An upstream connection is no longer in use.
    fn rests(&mut self) {
        self.busy -= 1;
        self.gave_back();
    }

    /// A session in queue that is not the first has waited long enough.
    pub(super) fn is_queued_behind(&self, place: u32) -> bool {
        let conn = self.slots.at(place).filter(|slot| slot.shared).and_then(|slot| self.conns.at(slot.conn?));
        conn.is_some_and(|conn| conn.queue.front() != Some(&place) && conn.queue.contains(&place))
    }

    /// Nobody waits behind a response that will not be through soon.
    pub(super) fn requeue_behind(&mut self, place: u32) {
        let Some(slot) = self.slots.at(place).filter(|slot| slot.shared && slot.session.blocks_pipeline()) else {
            return;
        };
        let second = slot.conn.and_then(|conn| self.conns.at(conn)).and_then(|conn| conn.queue.get(1).copied());
        if let Some(second) = second {
            self.requeue_from(second);
        }
    }

    /// Takes `place` and all behind it out of the queue; they ask again.
    pub(super) fn requeue_from(&mut self, place: u32) {
        let number = self.slots.at(place).and_then(|slot| slot.conn);
        let alone = self.leave_queue(place);
        if let Some(number) = number {
            self.requeue(place, number);
        }
        if let Some(number) = alone {
            self.discard(number);
        }
    }

    /// Everything that to_flush in this turn leaves, one write for each connection.
    pub(super) fn flush_pipelined(&mut self) {
        for number in std::mem::take(&mut self.to_flush) {
            let Some(conn) = self.conns.at_mut(number) else { continue };
            let Some(batch) = conn.batch.as_mut().filter(|batch| batch.gathering) else { continue };
            batch.gathering = false;
            if conn.queue.is_empty() {
                batch.open = false;
                self.rests();
                self.put_back(number);
            } else {
                self.flush(number);
            }
        }
    }

    fn flush(&mut self, number: u32) {
        let Some(conn) = self.conns.at_mut(number) else { return };
        let Some(batch) = conn.batch.as_mut() else { return };
        match given(uninterrupted(|| self.kernel.send(&conn.socket, &batch.out, false)).map(|n| n as u64)) {
            Outcome::Moved(n) => {
                batch.out.drain(..(n as usize).min(batch.out.len()));
                if batch.out.is_empty() {
                    batch.unsent = 0;
                }
            }
            Outcome::Blocked => {}
            _ => {
                // Reading tells the first in queue what is left to be known.
                batch.out.clear();
                (batch.unsent, batch.hung) = (0, true);
                if let Some(first) = conn.queue.front().copied()
                    && let Some(slot) = self.slots.at_mut(first)
                {
                    let ready = Ready { hangup: true, ..READABLE };
                    slot.session.on_ready(Leg::Upstream, ready, &self.cx);
                    self.resumed.push(first);
                }
            }
        }
    }

    /// The session finds its connection gone, and asks again.
    fn requeue(&mut self, place: u32, from: u32) {
        let Some(slot) = self.slots.at_mut(place) else { return };
        if slot.conn == Some(from) {
            slot.conn = None;
            slot.shared = false;
            if let Some(conn) = self.conns.at(from) {
                conn.load.finish(self.index);
            }
        }
        let ready = Ready { hangup: true, ..READABLE };
        slot.session.on_ready(Leg::Upstream, ready, &self.cx);
        self.resumed.push(place);
    }
}

const READABLE: Ready = Ready { readable: true, writable: false, hangup: false, dead: false };
