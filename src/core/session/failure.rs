//! What ends early: sides that end or break, deadlines that pass, and the answer or the cut that the client gets.

use std::io::ErrorKind;

use super::{Readiness, Session, Stage, UpstreamError, UpstreamState};
use crate::core::body::Body;
use crate::core::context::Context;
use crate::core::lane::Phase;
use crate::core::reply;
use crate::core::snapshot::ReplicaId;
use crate::core::step::{FaultKind, Leg, Notice};

impl Session {
    pub(super) fn source_ended(&mut self, leg: Leg, cx: &mut Context) {
        self.readiness(leg).readable = false;
        self.lane_from(leg).ended = true;
        if self.stage == Stage::Lingering {
            self.stage = Stage::Closing { reset: false };
        } else if leg == Leg::Upstream && self.upstream.was_reset {
            self.upstream_failed(UpstreamError::Failed(ErrorKind::ConnectionReset), cx);
        } else if !self.exchange.tunnel || !self.exchange.active {
            match leg {
                Leg::Client => self.client_ended(cx),
                Leg::Upstream => self.upstream_ended(cx),
            }
        } else if leg == Leg::Upstream {
            // The client is told of this end: no other replica can go on from here.
            self.exchange.response_seen = true;
        }
    }

    fn client_ended(&mut self, cx: &mut Context) {
        match self.upload.phase {
            Phase::Head => self.stage = Stage::Closing { reset: false },
            Phase::Body => self.request_body_failed("the request body was cut short", cx),
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
    pub(super) fn leg_failed(&mut self, leg: Leg, kind: ErrorKind, cx: &mut Context) {
        match leg {
            Leg::Client => self.stage = Stage::Closing { reset: true },
            // The response is here whole, whatever became of its connection since.
            Leg::Upstream if self.download.phase == Phase::Done => self.upstream.hangup = true,
            Leg::Upstream => self.upstream_failed(UpstreamError::Failed(kind), cx),
        }
    }

    /// A replica that stopped reading may have answered all the same: reading tells (RFC 9112 section 9.5).
    #[cold]
    pub(super) fn sink_failed(&mut self, leg: Leg, kind: ErrorKind, cx: &mut Context) {
        match leg {
            Leg::Client => self.stage = Stage::Closing { reset: true },
            // Nothing was connected: what waits to be sent goes to another replica.
            Leg::Upstream if matches!(self.link, UpstreamState::Open { connected: false, .. }) => {
                self.upstream_failed(UpstreamError::Failed(kind), cx);
            }
            Leg::Upstream => {
                // After a FIN it would have been EPIPE; but a reset is told once, and EPIPE from then on.
                let was_reset = self.upstream.was_reset || kind != ErrorKind::BrokenPipe;
                self.upstream = Readiness { readable: true, writable: false, hangup: true, was_reset };
                if self.download.phase == Phase::Body && self.exchange.tunnel {
                    self.upload.drop_all();
                }
            }
        }
    }

    /// The upstream connection is of no more use before the response was through.
    #[cold]
    pub(super) fn upstream_failed(&mut self, error: UpstreamError, cx: &mut Context) {
        let UpstreamState::Open { replica, reused, connected, since } = self.link else { return };
        let seen = self.exchange.response_seen;
        let after_ms = cx.now.ms_since(self.exchange.request_sent_at.unwrap_or(since));
        self.exchange.timed_out = error == UpstreamError::TimedOut;
        let kind = match (error, connected) {
            (UpstreamError::TimedOut, false) => Some(FaultKind::ConnectTimedOut { after_ms }),
            (UpstreamError::TimedOut, true) => Some(FaultKind::ResponseTimedOut { after_ms }),
            (UpstreamError::Failed(why), false) => Some(FaultKind::ConnectFailed(why)),
            (UpstreamError::ReplicaDown, _) => None,
            _ => (!reused || seen).then_some(FaultKind::Hungup),
        };
        self.notice = kind.map(|kind| Notice::Ill { replica, kind });
        let patient = connected && error == UpstreamError::TimedOut;
        if !patient && self.exchange.may_redial(self.limits(&cx.snapshot).attempts.saturating_add(u32::from(reused))) {
            return self.redial((reused && error != UpstreamError::ReplicaDown).then_some(replica), cx);
        }
        match (self.download.phase, patient) {
            (Phase::Body, _) if !self.exchange.tunnel => self.truncate(),
            (_, true) => self.answer(504, "the replica took too long", cx),
            _ if self.exchange.timed_out => self.answer(504, "no replica could be reached in time", cx),
            _ if seen => self.answer(502, "the replica broke off its answer", cx),
            _ => self.answer(502, "the replica closed the connection", cx),
        }
    }

    #[cold]
    fn redial(&mut self, again: Option<ReplicaId>, cx: &Context) {
        if !self.exchange.replay.is_empty() {
            self.upload.set_prefix(self.exchange.replay.clone().into());
        } else if let Some(mark) = self.exchange.mark {
            self.upload.resend_from(mark);
        }
        self.download.drop_all();
        self.exchange.request_sent_at = None;
        self.exchange.bytes_sent_upstream = false;
        self.link = UpstreamState::Wanted { again, waits: false };
        self.arm(cx.now, self.limits(&cx.snapshot).connect_timeout_ms);
    }

    #[cold]
    pub(super) fn no_replica_reachable(&mut self, cx: &Context) {
        self.link = UpstreamState::None;
        match (self.exchange.tries(), self.exchange.timed_out) {
            (0, _) => self.answer(503, "no replica is available", cx),
            (_, true) => self.answer(504, "no replica could be reached in time", cx),
            _ => self.answer(502, "no replica could be reached", cx),
        }
    }

    /// The client's own framing is broken: its fault, and nothing more of it reaches the replica.
    #[cold]
    pub(super) fn request_body_failed(&mut self, why: &'static str, cx: &mut Context) {
        self.answer(400, why, cx);
    }

    #[cold]
    pub(super) fn bad_response(&mut self, why: &'static str, cx: &mut Context) {
        let replica = self.replica();
        self.answer(502, why, cx);
        if let Some(replica) = replica {
            self.notice = Some(Notice::Ill { replica, kind: FaultKind::BadResponse(why) });
        }
    }

    /// The response cannot be completed: what was read still goes out, and then the connection breaks.
    #[cold]
    pub(super) fn truncate(&mut self) {
        self.exchange.truncated = true;
        self.exchange.keep_alive = false;
        self.exchange.reusable = false;
        self.download.phase = Phase::Done;
    }

    /// The balancer's own last word, where the client can still understand it; otherwise a cut.
    #[cold]
    pub(super) fn answer(&mut self, status: u16, why: &'static str, cx: &Context) {
        if self.is_answered() {
            // There is no second word: the replica loses the rest of the request, the client was told to close.
            self.exchange.reusable = false;
            return;
        }
        self.refused = Some(Notice::Refused { status, why });
        if self.exchange.tunnel || self.download.phase == Phase::Body || self.download.piped() > 0 {
            self.stage = Stage::Closing { reset: true };
            return;
        }
        if !self.exchange.active {
            self.exchange.is_head = self.upload.unscanned().starts_with(b"HEAD ");
        }
        self.answer_with(reply::reply(status, why, self.exchange.is_head, &cx.date_line));
        self.arm(cx.now, self.limits(&cx.snapshot).stall_timeout_ms);
    }

    /// An interim response that is still on its way goes first.
    #[cold]
    pub(super) fn answer_with(&mut self, mut reply: bytes::Bytes) {
        if self.download.has_pending() {
            reply = [self.download.pending(), &reply].concat().into();
        }
        self.exchange.active = true;
        self.exchange.lingers = true;
        self.exchange.keep_alive = false;
        self.exchange.reusable = false;
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
        let waiting = self.upload.phase == Phase::Done && self.upload.is_drained();
        match self.link {
            _ if self.stage != Stage::Serving => self.stage = Stage::Closing { reset: false },
            _ if !self.exchange.active && self.head_begun => {
                self.answer(408, "the request head did not come in time", cx);
            }
            _ if !self.exchange.active => self.stage = Stage::Closing { reset: false },
            UpstreamState::Wanted { .. } => {
                self.answer(503, "there is no room for another connection to a replica", cx)
            }
            UpstreamState::Open { connected: false, .. } => self.upstream_failed(UpstreamError::TimedOut, cx),
            // Neither side ended it, so it must not look as if one had.
            _ if self.exchange.tunnel => self.stage = Stage::Closing { reset: true },
            UpstreamState::Open { .. } if self.is_answered() => self.exchange.reusable = false,
            UpstreamState::Open { replica, .. } if waiting && self.download.phase == Phase::Head => {
                self.response_overdue(replica, cx);
            }
            UpstreamState::Open { .. } if self.download.phase == Phase::Head => {
                if self.upload.is_drained() {
                    self.answer(408, "the request body did not come in time", cx);
                } else {
                    self.upstream_failed(UpstreamError::TimedOut, cx);
                }
            }
            _ => self.stage = Stage::Closing { reset: true },
        }
    }

    /// A response head is overdue: first a word to the control plane, at the deadline 504.
    fn response_overdue(&mut self, replica: ReplicaId, cx: &mut Context) {
        let since = *self.exchange.request_sent_at.get_or_insert(cx.now);
        let timeout_ms = self.limits(&cx.snapshot).response_timeout_ms;
        let after_ms = cx.now.ms_since(since);
        if after_ms >= timeout_ms {
            return self.upstream_failed(UpstreamError::TimedOut, cx);
        }
        if !self.exchange.slow_reported {
            self.exchange.slow_reported = true;
            self.notice = Some(Notice::Ill { replica, kind: FaultKind::Silent { after_ms } });
        }
        self.deadline = since.after_ms(timeout_ms);
    }
}
