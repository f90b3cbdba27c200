//! Drives a session: its steps are taken until it waits or is over, and its notices are reported. What a step does is
//! elsewhere.

use std::net::IpAddr;

use crate::core::context::Tally;
use crate::core::exchange_record::ExchangeRecord;
use crate::core::step::{Connect, Connection, Ending, Notice, Step};
use crate::kernel::{Kernel, Token};
use crate::shared::access_log::Sent;
use crate::shared::events::WorkerEvent;

use super::Worker;
use super::clients::ClientIo;
use super::handshake::SessionStart;
use super::slab::SessionId;
use super::transfer::read_stamp;
use super::upstreams::Upstream;

/// What a session may do in one turn: 64 steps of a splice alone could be 32 MiB each way.
const STEPS: usize = 64;
const BYTES: u64 = 4 * 1024 * 1024;

/// The place of 5xx among the classes of responses.
const SERVER_ERROR: usize = 4;

/// What one step did.
enum Taken {
    JoinedPipeline,
    /// So many bytes were received or sent.
    Moved(u64),
}

/// What a session may still do in this turn, so that others are not kept waiting.
struct Budget {
    steps: usize,
    bytes: u64,
}

impl Budget {
    fn is_left(&self) -> bool {
        self.steps > 0 && self.bytes > 0
    }

    fn spend(&mut self, taken: Taken) {
        match taken {
            // It must send before the pipeline is flushed.
            Taken::JoinedPipeline => {}
            Taken::Moved(n) => {
                self.steps -= 1;
                self.bytes = self.bytes.saturating_sub(n);
            }
        }
    }
}

impl<K: Kernel> Worker<K> {
    pub(super) fn drive_resumed(&mut self) {
        while let Some(id) = self.clients.take_resumed() {
            self.drive(id);
        }
    }

    /// Takes steps until the session waits, is over, or used its budget of this turn.
    pub(super) fn drive(&mut self, id: SessionId) {
        if self.clients.unqueue(id) == SessionStart::Waits && self.shake_hands(id) == SessionStart::Waits {
            return;
        }
        let mut budget = Budget { steps: STEPS, bytes: BYTES };
        while budget.is_left() {
            let Some(step) = self.clients.get(id).and_then(|client| client.session.next_step()) else {
                return self.rest(id);
            };
            if let Step::Close(ending) = step {
                return self.close_in_order(id, ending);
            }
            budget.spend(self.take(id, step));
            self.after_step(id);
        }
        self.rest(id);
        self.clients.queue(id);
    }

    #[inline(always)]
    fn take(&mut self, id: SessionId, step: Step) -> Taken {
        match step {
            Step::Connect(pick) => {
                read_stamp(&mut self.cx, &mut self.kernel);
                let outcome = self.connect(id, &pick);
                if let Some(client) = self.clients.get_mut(id) {
                    client.session.connected(outcome, &mut self.cx);
                }
                if let Connect::Connected { connection: Connection::Pipelined, .. } = outcome {
                    return Taken::JoinedPipeline;
                }
            }
            Step::ReleaseUpstream => {
                self.release_upstream(id);
                if let Some(client) = self.clients.get_mut(id) {
                    client.session.upstream_released(&mut self.cx);
                }
            }
            Step::CloseUpstream => {
                self.close_upstream(id);
                if let Some(client) = self.clients.get_mut(id) {
                    client.session.upstream_closed(&mut self.cx);
                }
            }
            _ => return Taken::Moved(self.transfer(id, step)),
        }
        Taken::Moved(0)
    }

    /// Counts what the step counted, before a client can see it.
    fn take_tally(&mut self, id: SessionId) {
        if self.cx.tally.is_counted() {
            let Tally { requests, responses, .. } = std::mem::take(&mut self.cx.tally);
            self.counters.requests.add(requests);
            for (counter, n) in self.counters.responses().into_iter().zip(responses) {
                counter.add(n);
            }
            // It is released by a later step.
            let upstream = self.clients.get(id).and_then(|client| client.upstream.id());
            if let Some(upstream) = upstream.and_then(|upstream| self.upstreams.get(upstream)) {
                upstream.load.respond(self.index, responses);
                if responses[SERVER_ERROR] > 0 || !upstream.load.failures.is_empty() {
                    self.judge(upstream, responses);
                }
            }
        }
    }

    /// A response ends a run of failed requests, unless its status is one of those that count as a failure.
    #[cold]
    fn judge(&self, upstream: &Upstream<K>, responses: [u64; 5]) {
        let limit = self.cx.snapshot.service(upstream.key.service).and_then(|service| service.max_5xx_in_a_row);
        let [_interim, finals @ ..] = responses;
        let failures = &upstream.load.failures;
        match limit.filter(|_| responses[SERVER_ERROR] > 0) {
            // Reported once: each heartbeat looks at those that follow.
            Some(limit) if failures.fail() == limit => {
                self.events.send(WorkerEvent::FailuresInARow { replica: upstream.key.replica, failures: limit });
            }
            None if finals.iter().any(|n| *n > 0) => failures.end(),
            Some(_) | None => {}
        }
    }

    /// Passes on what exchanges were that have ended.
    pub(super) fn report_exchanges(&mut self) {
        if !self.cx.records.has_ended() {
            return;
        }
        let mut ended = self.cx.records.take_ended();
        for record in ended.drain(..) {
            self.report_exchange(record);
        }
        self.cx.records.give_back_list(ended);
        if let Some(log) = &self.access_log {
            log.flush();
        }
    }

    /// The one place where an exchange's record is read.
    fn report_exchange(&mut self, record: Box<ExchangeRecord>) {
        if let Some(service) = self.services.get(record.service.0 as usize) {
            service.record(&record);
        }
        let sent = match &mut self.access_log {
            Some(log) => log.send(record),
            None => Sent::Skipped(record),
        };
        let unused = match sent {
            Sent::Queued(written) => {
                self.counters.access_log_records.count();
                written
            }
            Sent::Skipped(record) => Some(record),
            Sent::Dropped(record) => {
                self.counters.access_log_dropped.count();
                Some(record)
            }
        };
        if let Some(record) = unused {
            self.cx.records.give_back(record);
        }
    }

    fn after_step(&mut self, id: SessionId) {
        self.take_tally(id);
        let Some(client) = self.clients.get_mut(id) else { return };
        if cfg!(debug_assertions) {
            client.session.check(&self.cx.snapshot);
        }
        let pipelined = client.upstream.pipelined().is_some();
        if client.session.has_notice() {
            self.report_notices(id);
        }
        if pipelined {
            self.remind(id);
        }
    }

    /// The session waits: its notices are reported, its deadline is set, pipes that it does not need are given back.
    fn rest(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        self.timers.hint(id, client.session.deadline());
        let pipelined = client.upstream.pipelined().is_some();
        let unwatched = !client.watched && client.session.wants_client_events();
        if client.session.has_notice() {
            self.report_notices(id);
        }
        self.release_pipes(id);
        if unwatched {
            self.watch(id);
        }
        if pipelined {
            self.requeue_behind(id);
        }
    }

    /// A client is watched from when it is first waited for: one whose only request came with it never is.
    pub(super) fn watch(&mut self, id: SessionId) {
        let Some((index, generation)) = self.clients.token(id) else { return };
        let Some(client) = self.clients.get_mut(id) else { return };
        client.watched = true;
        let ClientIo::Transport(transport) = &client.io;
        if let Err(error) = transport.watch(&mut self.kernel, Token::Client { index, generation }) {
            self.report_unwatched(&error);
            self.close(id, Ending::Reset);
        }
    }

    pub(super) fn report_notices(&mut self, id: SessionId) {
        while let Some((notice, client)) = self
            .clients
            .get_mut(id)
            .and_then(|client| Some((client.session.take_notice()?, client.session.client_address())))
        {
            match notice {
                Notice::ClientNamed { client } => self.name_client(id, client),
                notice => self.report(notice, client),
            }
        }
    }

    /// Over TLS a stream has to say that it ends, or it would look cut: where the socket is full, the close waits for that.
    fn close_in_order(&mut self, id: SessionId, ending: Ending) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let due = client.session.deadline();
        let ClientIo::Transport(transport) = &mut client.io;
        let is_late = due <= self.cx.now;
        if ending == Ending::Reset || is_late || transport.finish(&mut self.kernel, &mut self.cx.pool) {
            return self.close(id, ending);
        }
        client.session.release_buffers(&mut self.cx);
        let is_watched = client.watched;
        self.timers.hint(id, due);
        if !is_watched {
            self.watch(id);
        }
    }

    pub(super) fn close(&mut self, id: SessionId, ending: Ending) {
        if ending == Ending::Reset {
            self.abort_tunnel(id);
        }
        self.close_upstream(id);
        let Some(mut client) = self.clients.remove(id) else { return };
        client.session.release_buffers(&mut self.cx);
        if client.io.is_handshaking() {
            self.handshake_cap.end();
        }
        let ClientIo::Transport(mut transport) = client.io;
        if ending == Ending::Reset {
            transport.abort(&mut self.kernel);
        }
        while let Some(notice) = client.session.take_notice() {
            self.report(notice, client.session.client_address());
        }
        transport.close(&mut self.kernel, &mut self.cx.pool);
        self.counters.closed.count();
        if client.limited {
            self.release_limit(client.session.client_address());
        }
        self.on_freed();
    }

    /// A tunnel that failed on the client's side must not look to the replica as if it had ended.
    fn abort_tunnel(&mut self, id: SessionId) {
        if let Some(client) = self.clients.get(id)
            && client.session.is_tunnel()
            && let Some(transport) = self.upstreams.transport(client.upstream)
        {
            transport.abort(&mut self.kernel);
        }
    }

    fn report(&self, notice: Notice, client: IpAddr) {
        let event = match notice {
            Notice::ClientNamed { .. } => return,
            Notice::Fault(fault) => {
                self.counters.faults(fault.kind).count();
                WorkerEvent::Fault(fault)
            }
            Notice::Refused { status, why } => {
                self.counters.refused.count();
                self.counters.replies.count(status, why);
                WorkerEvent::Refused { client, status, why }
            }
            Notice::Reset { status, why } => {
                self.counters.refused.count();
                self.counters.resets.count(status, why);
                WorkerEvent::Reset { client, status, why }
            }
        };
        self.events.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_bytes_both_end_a_turn_of_a_session() {
        let mut budget = Budget { steps: 2, bytes: 10 };
        budget.spend(Taken::JoinedPipeline);
        budget.spend(Taken::Moved(9));
        assert!(budget.is_left());
        budget.spend(Taken::Moved(0));
        assert!(!budget.is_left(), "no step is left");
        let mut budget = Budget { steps: 2, bytes: 10 };
        budget.spend(Taken::Moved(11));
        assert!(!budget.is_left(), "no byte is left");
    }
}
