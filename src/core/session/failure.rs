//! Ends, errors and deadlines: what they mean for the request, and the local reply or the reset that the client gets.
//! Nothing of the ordinary course of an exchange is here.

use std::borrow::Cow;
use std::io::ErrorKind;

use super::opening::Opening;
use super::{Readiness, Session, Stage, UpstreamError, UpstreamState, Wait};
use crate::core::body::Body;
use crate::core::context::Context;
use crate::core::exchange::{ClientEnd, ExchangeKind, RequestState, ResponseState, Retained, UpstreamEnd};
use crate::core::exchange_record::{ExchangeEnd, RetryReason};
use crate::core::lane::Phase;
use crate::core::reply;
use crate::core::snapshot::ReplicaId;
use crate::core::step::{Connection, Ending, FaultKind, Leg, Notice, ReplicaFault};

const CUT_SHORT: &str = "the request body was cut short";

impl Session {
    pub(super) fn source_ended(&mut self, leg: Leg, cx: &mut Context) {
        self.readiness(leg).readable = false;
        self.lane_from(leg).ended = true;
        if matches!(self.stage, Stage::Lingering { .. }) {
            self.stage = Stage::Closing(Ending::Clean);
        } else if leg == Leg::Upstream && self.upstream.was_reset {
            self.upstream_failed(UpstreamError::Failed(ErrorKind::ConnectionReset), cx);
        } else if !self.exchange.is_tunnel() {
            match leg {
                Leg::Client => self.client_ended(cx),
                Leg::Upstream => self.upstream_ended(cx),
            }
        } else if leg == Leg::Upstream {
            // The end is passed on to the client: no other replica can continue from here.
            self.exchange.note_response_byte();
        }
    }

    fn client_ended(&mut self, cx: &mut Context) {
        match self.upload.phase {
            Phase::Head => self.stage = Stage::Closing(Ending::Clean),
            Phase::Body => {
                self.fail_record(ExchangeEnd::ClientAbort, CUT_SHORT);
                self.request_body_failed(CUT_SHORT, cx);
            }
            Phase::Done => {}
        }
    }

    fn upstream_ended(&mut self, cx: &mut Context) {
        match (self.download.phase, &self.download.body) {
            (Phase::Body, Body::UntilClose) => self.download.phase = Phase::Done,
            (Phase::Done, _) => {}
            _ => self.upstream_failed(UpstreamError::Closed, cx),
        }
    }

    #[cold]
    pub(super) fn source_failed(&mut self, leg: Leg, kind: ErrorKind, cx: &mut Context) {
        match leg {
            Leg::Client => self.stage = Stage::Closing(Ending::Reset),
            // The response was read whole: what happens to its connection afterwards does not matter to it.
            Leg::Upstream if self.download.phase == Phase::Done => self.upstream.hangup = true,
            Leg::Upstream => self.upstream_failed(UpstreamError::Failed(kind), cx),
        }
    }

    /// A replica that stopped reading may have responded all the same: a read decides (RFC 9112 section 9.5).
    #[cold]
    pub(super) fn sink_failed(&mut self, leg: Leg, kind: ErrorKind, cx: &mut Context) {
        match leg {
            Leg::Client => self.stage = Stage::Closing(Ending::Reset),
            // No connection was established: the request goes to another replica.
            Leg::Upstream if self.is_connecting() => self.upstream_failed(UpstreamError::Failed(kind), cx),
            Leg::Upstream => {
                // EPIPE follows a FIN; a reset is reported once, and as EPIPE from then on.
                let was_reset = self.upstream.was_reset || kind != ErrorKind::BrokenPipe;
                self.upstream = Readiness { readable: true, writable: false, hangup: true, was_reset };
                if self.download.phase == Phase::Body && self.exchange.is_tunnel() {
                    self.upload.drop_all();
                }
            }
        }
    }

    /// The upstream connection cannot be used any more, and the response is not complete.
    #[cold]
    pub(super) fn upstream_failed(&mut self, error: UpstreamError, cx: &mut Context) {
        let UpstreamState::Open { replica, connection, connected, since } = self.link else { return };
        let reused = connection.is_reused();
        let begun = self.exchange.has_response();
        let after_ms = cx.now.ms_since(self.exchange.sent_at().unwrap_or(since));
        self.exchange.timed_out = error == UpstreamError::TimedOut;
        let kind = match (error, connected) {
            (UpstreamError::TimedOut, false) => Some(FaultKind::ConnectTimedOut { after_ms }),
            (UpstreamError::TimedOut, true) => Some(FaultKind::ResponseTimedOut { after_ms }),
            (UpstreamError::Failed(why), false) => Some(FaultKind::ConnectFailed(why)),
            (UpstreamError::ReplicaDown, _) => None,
            // A pooled connection may be closed at any time: that alone is no fault.
            (UpstreamError::Closed, _) | (UpstreamError::Failed(_), true) => {
                (!reused || begun).then_some(FaultKind::ConnectionClosed)
            }
        };
        self.notice = kind.map(|kind| Notice::Fault(ReplicaFault { replica, kind }));
        let response_timed_out = connected && error == UpstreamError::TimedOut;
        let attempts = self.limits(&cx.snapshot).attempts.saturating_add(u32::from(reused));
        if !response_timed_out && self.exchange.may_redial(attempts) {
            self.record_retry(retry_reason(error, self.link));
            return self.redial((reused && error != UpstreamError::ReplicaDown).then_some(replica), cx);
        }
        match (self.download.phase, response_timed_out) {
            (Phase::Body, _) if !self.exchange.is_tunnel() => self.truncate(),
            (_, true) => self.answer(504, "the replica took too long", cx),
            _ if self.exchange.timed_out => self.answer(504, "no replica could be reached in time", cx),
            _ if begun => self.answer(502, "the replica broke off its answer", cx),
            _ => self.answer(502, "the replica closed the connection", cx),
        }
    }

    #[cold]
    fn redial(&mut self, again: Option<ReplicaId>, cx: &Context) {
        match &self.exchange.retained {
            Retained::Copy(request) => self.upload.set_prefix(request.clone().into()),
            Retained::InBuffer(mark) => self.upload.resend_from(*mark),
            Retained::Nothing => {}
        }
        self.download.drop_all();
        self.exchange.request = RequestState::Unsent;
        self.link = UpstreamState::Wanted { again, waits: Wait::No };
        self.arm(cx.now, self.limits(&cx.snapshot).connect_timeout_ms);
    }

    #[cold]
    pub(super) fn no_replica_reachable(&mut self, cx: &Context) {
        self.link = UpstreamState::None;
        match (self.exchange.tried.len(), self.exchange.timed_out) {
            (0, _) => self.answer(503, "no replica is available", cx),
            (_, true) => self.answer(504, "no replica could be reached in time", cx),
            _ => self.answer(502, "no replica could be reached", cx),
        }
    }

    /// The client's own framing is broken: nothing more of the request reaches the replica.
    #[cold]
    pub(super) fn request_body_failed(&mut self, why: &'static str, cx: &mut Context) {
        self.answer(400, why, cx);
    }

    #[cold]
    pub(super) fn bad_response(&mut self, why: &'static str, cx: &mut Context) {
        let replica = self.replica();
        self.answer(502, why, cx);
        if let Some(replica) = replica {
            self.notice = Some(Notice::Fault(ReplicaFault { replica, kind: FaultKind::BadResponse(why) }));
        }
    }

    /// The response cannot be completed: what was read is still sent, then the connection is closed.
    #[cold]
    pub(super) fn truncate(&mut self) {
        self.exchange.response = ResponseState::Truncated;
        self.fail_record(ExchangeEnd::Truncated, "the replica broke off its answer");
        self.exchange.close_after_response();
        self.exchange.upstream_end = UpstreamEnd::Close;
        self.download.phase = Phase::Done;
    }

    /// A local reply, where the client can still understand one; otherwise a reset.
    #[cold]
    pub(super) fn answer(&mut self, status: u16, why: &'static str, cx: &Context) {
        if self.is_answered() {
            // One request has one response: the rest of the request is not sent, and the connection closes.
            self.exchange.upstream_end = UpstreamEnd::Close;
            return;
        }
        self.fail_record(ExchangeEnd::of_status(status), why);
        if self.exchange.is_tunnel() || self.download.phase == Phase::Body || self.download.piped() > 0 {
            self.refusal = Some(Notice::Reset { status, why });
            self.stage = Stage::Closing(Ending::Reset);
            return;
        }
        self.refusal = Some(Notice::Refused { status, why });
        if !self.exchange.is_active() {
            self.exchange.head.is_head = self.upload.unscanned().starts_with(b"HEAD ");
        }
        let refusal = if self.exchange.head.is_head { reply::refusal_head } else { reply::refusal };
        self.answer_with(status, refusal(status, why, &self.own_fields(cx)));
        self.arm(cx.now, self.limits(&cx.snapshot).stall_timeout_ms);
    }

    /// The fields of each response of our own: `Date`, and HSTS (RFC 6797 section 7.1).
    #[cold]
    pub(super) fn own_fields<'c>(&self, cx: &'c Context) -> Cow<'c, str> {
        match self.hsts_seconds(cx) {
            None => Cow::Borrowed(&cx.date_line),
            Some(seconds) => format!("{}Strict-Transport-Security: max-age={seconds}\r\n", cx.date_line).into(),
        }
    }

    /// An interim response that was not sent yet goes first.
    #[cold]
    pub(super) fn answer_with(&mut self, status: u16, mut reply: bytes::Bytes) {
        self.record_reply(status, &reply);
        if self.download.has_pending() {
            reply = [self.download.pending(), &reply].concat().into();
        }
        self.exchange.kind = ExchangeKind::Http;
        self.exchange.client_end = ClientEnd::Linger;
        self.exchange.upstream_end = UpstreamEnd::Close;
        self.head_begun = false;
        if matches!(self.link, UpstreamState::Wanted { .. }) {
            self.link = UpstreamState::None;
        }
        self.upload.drop_all();
        self.upload.phase = Phase::Done;
        self.download.drop_all();
        self.download.phase = Phase::Done;
        self.download.set_prefix(reply);
    }

    #[cold]
    pub(super) fn expire(&mut self, cx: &mut Context) {
        if self.stage != Stage::Serving {
            self.stage = Stage::Closing(Ending::Clean);
        } else if self.opening == Opening::ClientHello {
            self.refusal = Some(Notice::Reset { status: 408, why: "the ClientHello did not come in time" });
            self.stage = Stage::Closing(Ending::Reset);
        } else if !self.exchange.is_active() {
            if self.head_begun {
                self.begin_refused_record(cx);
                self.answer(408, "the request head did not come in time", cx);
            } else {
                self.stage = Stage::Closing(Ending::Clean);
            }
        } else {
            self.expire_exchange(cx);
        }
    }

    fn expire_exchange(&mut self, cx: &mut Context) {
        match self.link {
            UpstreamState::Wanted { waits: Wait::Room | Wait::Resumed, .. } => {
                self.answer(503, "no replica had room for another request in time", cx);
            }
            UpstreamState::Wanted { .. } => {
                self.answer(503, "there is no room for another connection to a replica", cx);
            }
            UpstreamState::Open { connected: false, .. } => self.upstream_failed(UpstreamError::TimedOut, cx),
            // Neither leg ended the tunnel: it must not look as if one had.
            _ if self.exchange.is_tunnel() => {
                self.fail_record(ExchangeEnd::Timeout, "no byte of the tunnel moved in time");
                self.stage = Stage::Closing(Ending::Reset);
            }
            UpstreamState::Open { .. } if self.is_answered() => self.exchange.upstream_end = UpstreamEnd::Close,
            UpstreamState::Open { replica, .. } if self.download.phase == Phase::Head => {
                if self.is_request_read() {
                    self.response_overdue(replica, cx);
                } else if self.upload.is_drained() {
                    self.answer(408, "the request body did not come in time", cx);
                } else {
                    self.upstream_failed(UpstreamError::TimedOut, cx);
                }
            }
            UpstreamState::None | UpstreamState::Open { .. } => self.stalled(),
        }
    }

    /// No byte of a response moves any more: where it stands still is reported.
    fn stalled(&mut self) {
        let is_unread = self.download.has_pending() || self.download.piped() > 0;
        let (status, why) = match is_unread {
            true => (408, "the client did not read the response in time"),
            false => (504, "the replica sent no more of its response in time"),
        };
        self.fail_record(ExchangeEnd::Timeout, why);
        self.refusal = Some(Notice::Reset { status, why });
        self.stage = Stage::Closing(Ending::Reset);
    }

    /// A response head is overdue: it is reported to the control plane once; at the response deadline the client gets 504.
    fn response_overdue(&mut self, replica: ReplicaId, cx: &mut Context) {
        let since = self.exchange.sent_at().unwrap_or(cx.now);
        self.exchange.request = RequestState::Sent { at: since };
        let timeout_ms = self.limits(&cx.snapshot).response_timeout_ms;
        let after_ms = cx.now.ms_since(since);
        if after_ms >= timeout_ms {
            return self.upstream_failed(UpstreamError::TimedOut, cx);
        }
        if !self.exchange.slow_reported {
            self.exchange.slow_reported = true;
            self.notice = Some(Notice::Fault(ReplicaFault { replica, kind: FaultKind::Slow { after_ms } }));
        }
        self.deadline = since.after_ms(timeout_ms);
    }
}

/// Why the request is sent again after `error` on `link`.
fn retry_reason(error: UpstreamError, link: UpstreamState) -> RetryReason {
    match (error, link) {
        (UpstreamError::ReplicaDown, _) => RetryReason::ReplicaDown,
        (UpstreamError::TimedOut, _) => RetryReason::ConnectTimedOut,
        (UpstreamError::Failed(_), UpstreamState::Open { connected: false, .. }) => RetryReason::ConnectFailed,
        (_, UpstreamState::Open { connection: Connection::Reused | Connection::Pipelined, .. }) => {
            RetryReason::StaleConnection
        }
        _ => RetryReason::ConnectionClosed,
    }
}
