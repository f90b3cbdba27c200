//! The outcomes of steps: what bytes that were received or sent mean for the exchange and its deadlines. Which bytes
//! they are is looked at elsewhere.

use super::{Readiness, SLOW_MS, Session, Stage, UpstreamError, UpstreamState, Wait};
use crate::core::context::Context;
use crate::core::exchange::{REPLAY_LIMIT, RequestState, Retained};
use crate::core::exchange_record::RetryReason;
use crate::core::lane::Phase;
use crate::core::snapshot::ReplicaId;
use crate::core::step::{Connect, Connection, FaultKind, Flush, Io, Leg, Notice, ReplicaFault, SpliceIn};

impl Session {
    /// `Step::Recv` came to this.
    #[inline(always)]
    pub fn received(&mut self, leg: Leg, io: Io, cx: &mut Context) {
        match io {
            Io::Moved(n) => self.commit_read(leg, n, cx),
            Io::Blocked => self.readiness(leg).readable = false,
            Io::Ended => self.source_ended(leg, cx),
            Io::Failed(kind) => self.source_failed(leg, kind, cx),
        }
        self.advance(cx);
    }

    /// `Step::SpliceIn` came to this.
    pub fn spliced_in(&mut self, leg: Leg, outcome: SpliceIn, cx: &mut Context) {
        match outcome {
            SpliceIn::Io(Io::Moved(n)) => {
                self.lane_from(leg).spliced_in(n);
                self.on_bytes_received(leg, n, cx);
            }
            SpliceIn::Io(Io::Blocked) => self.readiness(leg).readable = false,
            SpliceIn::Io(Io::Ended) => self.source_ended(leg, cx),
            SpliceIn::Io(Io::Failed(kind)) => self.source_failed(leg, kind, cx),
            SpliceIn::NoPipe => self.lane_from(leg).copy_next_read(),
            SpliceIn::Unsupported => self.lane_from(leg).refuse_splice(),
        }
        self.advance(cx);
    }

    /// `Step::Send` came to this.
    #[inline(always)]
    pub fn sent(&mut self, leg: Leg, flush: Flush, io: Io, cx: &mut Context) {
        match io {
            Io::Moved(n) => {
                let lane = self.lane_to(leg);
                let short = (n as usize) < lane.pending().len();
                lane.sent(n as usize);
                self.held_back = flush == Flush::WithNext && !short;
                self.readiness(leg).writable = !short;
                self.on_bytes_sent(leg, n, cx);
            }
            // A sink has no end of its own.
            Io::Blocked | Io::Ended => self.readiness(leg).writable = false,
            Io::Failed(kind) => self.sink_failed(leg, kind, cx),
        }
        self.advance(cx);
    }

    /// `Step::SpliceOut` came to this.
    pub fn spliced_out(&mut self, leg: Leg, io: Io, cx: &mut Context) {
        match io {
            Io::Moved(n) => {
                self.lane_to(leg).spliced_out(n);
                self.on_bytes_sent(leg, n, cx);
            }
            Io::Blocked | Io::Ended => self.readiness(leg).writable = false,
            Io::Failed(kind) => self.sink_failed(leg, kind, cx),
        }
        self.advance(cx);
    }

    /// `Step::Connect` came to this.
    pub fn connected(&mut self, outcome: Connect, cx: &mut Context) {
        match outcome {
            // No byte moved: the lanes stay as they are.
            Connect::Connected { replica, connection } => return self.open_upstream(replica, connection, cx),
            Connect::Failed { replica, why } => {
                self.exchange.tried.add(replica);
                self.exchange.timed_out = false;
                self.notice = Some(Notice::Fault(ReplicaFault { replica, kind: FaultKind::ConnectFailed(why) }));
                self.record_attempt(replica, cx);
                if self.exchange.may_redial(self.limits(&cx.snapshot).attempts) {
                    self.record_retry(RetryReason::ConnectFailed);
                    self.link = UpstreamState::Wanted { again: None, waits: Wait::No };
                } else {
                    self.no_replica_reachable(cx);
                }
            }
            Connect::NoResources => self.wait_for(Wait::Resources),
            Connect::Queued => {
                // The deadline is that of the whole wait.
                if !matches!(self.link, UpstreamState::Wanted { waits: Wait::Resumed, .. }) {
                    self.arm(cx.now, self.limits(&cx.snapshot).queue_timeout_ms);
                }
                self.wait_for(Wait::Room);
            }
            Connect::QueueFull => self.answer(503, "too many requests wait for a replica", cx),
            Connect::NoRetry => self.answer(502, "too many requests failed: this one is not sent again", cx),
            Connect::NoReplica => self.no_replica_reachable(cx),
        }
        self.advance(cx);
    }

    fn wait_for(&mut self, what: Wait) {
        if let UpstreamState::Wanted { waits, .. } = &mut self.link {
            *waits = what;
        }
    }

    /// `Step::ReleaseUpstream` was done: bytes behind the response belong to the next request on that connection.
    pub fn upstream_released(&mut self, cx: &mut Context) {
        self.link = UpstreamState::None;
        self.download.skip_all();
        self.advance(cx);
    }

    /// `Step::CloseUpstream` was done: what the replica did not take of the request, and what it sent behind the
    /// response, is dropped.
    pub fn upstream_closed(&mut self, cx: &mut Context) {
        self.link = UpstreamState::None;
        self.upload.drop_pending();
        self.upload.piped_lost();
        self.download.skip_all();
        self.advance(cx);
    }

    /// `Step::ShutdownWrite` was done.
    pub fn write_shut_down(&mut self, leg: Leg, cx: &mut Context) {
        self.lane_to(leg).finished = true;
        self.held_back &= leg == Leg::Upstream;
        self.advance(cx);
    }

    fn commit_read(&mut self, leg: Leg, n: u64, cx: &mut Context) {
        let more = self.lane_from(leg).commit_read(n as usize);
        let readiness = self.readiness(leg);
        readiness.readable = more || readiness.hangup;
        if leg == Leg::Upstream && self.exchange.request == RequestState::Unsent && !self.exchange.is_tunnel() {
            // Nothing was requested on this connection yet: these bytes cannot be the response.
            return self.upstream_failed(UpstreamError::Closed, cx);
        }
        self.on_bytes_received(leg, n, cx);
    }

    fn open_upstream(&mut self, replica: ReplicaId, connection: Connection, cx: &Context) {
        let reused = connection.is_reused();
        self.link = UpstreamState::Open { replica, connection, connected: reused, since: cx.now };
        self.upstream = Readiness { writable: true, ..Readiness::default() };
        self.download.ended = false;
        self.exchange.tried.add(replica);
        self.exchange.request = RequestState::Unsent;
        self.record_attempt(replica, cx);
        // To a replica that speaks TLS it goes in front of the handshake, which is the transport's.
        if let Some(service) = cx.snapshot.service(self.exchange.service).filter(|s| !reused && s.tls.is_none()) {
            self.upload.prepend(&self.proxy_header(service));
        }
        if !self.exchange.is_tunnel() {
            self.download.restart(Phase::Head);
        }
        let limits = self.limits(&cx.snapshot);
        self.arm(cx.now, if reused { limits.stall_timeout_ms } else { limits.connect_timeout_ms });
    }

    fn on_bytes_received(&mut self, leg: Leg, n: u64, cx: &Context) {
        if let Stage::Lingering { until } = self.stage {
            self.upload.drop_all();
            return self.linger_until(until, cx);
        }
        match leg {
            Leg::Upstream => {
                self.exchange.note_response_byte();
                if let Some(record) = &mut self.record {
                    record.times.first_byte.get_or_insert(cx.records.now);
                }
                if self.download.phase != Phase::Head {
                    self.extend_stall_deadline(cx);
                }
            }
            Leg::Client => {
                if self.exchange.is_active() {
                    self.exchange.retained.leave_buffer();
                } else if !self.head_begun {
                    self.head_begun = true;
                    self.head_begun_at = cx.records.now;
                    self.arm(cx.now, cx.snapshot.listener_limits(self.listener).head_timeout_ms);
                }
                if let Some(record) = &mut self.record {
                    record.bytes_in += n;
                }
                self.extend_by_rate(n, cx);
            }
        }
    }

    fn on_bytes_sent(&mut self, leg: Leg, n: u64, cx: &mut Context) {
        if leg == Leg::Client
            && let Some(record) = &mut self.record
        {
            record.bytes_out += n;
        }
        match leg {
            Leg::Client if !self.download.is_drained() => self.extend_by_rate(n, cx),
            Leg::Client => self.extend_stall_deadline(cx),
            Leg::Upstream => self.on_bytes_sent_upstream(cx),
        }
    }

    fn on_bytes_sent_upstream(&mut self, cx: &mut Context) {
        self.exchange.request.begin();
        self.exchange.head.expects_continue &= !self.upload.has_sent_content();
        let was_connecting = self.is_connecting();
        if let UpstreamState::Open { connected, .. } = &mut self.link {
            *connected = true;
        }
        if was_connecting {
            self.record_established(cx);
        }
        if !self.exchange.is_tunnel() && self.is_request_read() {
            return self.on_request_sent(cx);
        }
        let drained = self.upload.is_drained();
        if drained {
            self.exchange.retained.leave_buffer();
        }
        // Bytes that the replica takes at once extended the deadline when they were received from the client.
        if was_connecting || !drained || self.exchange.is_tunnel() {
            self.extend_stall_deadline(cx);
        }
    }

    /// The whole request was sent: the wait for its response head begins.
    fn on_request_sent(&mut self, cx: &mut Context) {
        if self.download.phase != Phase::Head {
            return self.extend_stall_deadline(cx);
        }
        // An interim response, or the first bytes of the final one, may be here: its head is awaited all the same.
        if let Retained::InBuffer(mark) = self.exchange.retained {
            let request = self.upload.sent_since(mark);
            let again = self.exchange.head.idempotent && !self.exchange.has_response();
            self.exchange.retained = if again && request.len() <= REPLAY_LIMIT {
                Retained::Copy(cx.pool.copy(request))
            } else {
                Retained::Nothing
            };
        }
        self.exchange.request = RequestState::Sent { at: cx.now };
        if let Some(record) = &mut self.record {
            record.times.sent = Some(cx.records.now);
        }
        self.arm(cx.now, SLOW_MS.min(self.limits(&cx.snapshot).response_timeout_ms));
    }

    /// n bytes that a client sent or took of a body extend the stall deadline by at most n / min_body_rate.
    fn extend_by_rate(&mut self, n: u64, cx: &Context) {
        let before = self.deadline;
        self.extend_stall_deadline(cx);
        let rate = self.limits(&cx.snapshot).min_body_rate;
        if rate > 0 && !self.exchange.is_tunnel() && self.deadline > before {
            self.deadline = self.deadline.min(before.after_ms(n.saturating_mul(1_000) / rate));
        }
    }

    /// Progress extends the stall deadline, once the upstream connection is established.
    pub(super) fn extend_stall_deadline(&mut self, cx: &Context) {
        if !self.exchange.is_active() || self.is_connecting() {
            return;
        }
        let limits = self.limits(&cx.snapshot);
        let open_ended = self.exchange.is_tunnel() || self.is_between_events();
        self.arm(cx.now, if open_ended { limits.tunnel_timeout_ms } else { limits.stall_timeout_ms });
    }

    /// The client has all of an event stream that came so far.
    fn is_between_events(&self) -> bool {
        self.exchange.is_event_stream
            && self.is_request_read()
            && self.download.is_drained()
            && !self.download.has_unscanned()
    }
}
