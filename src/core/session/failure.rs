//! What ends early: sides that end or break, deadlines that pass, and the answer or the cut that the client gets.

use std::io::ErrorKind;

use super::{Link, Loss, Session, Side, Stage};
use crate::core::body::Body;
use crate::core::lane::Phase;
use crate::core::reply;
use crate::core::snapshot::ReplicaId;
use crate::core::step::{Leg, Notice, Symptom};
use crate::core::turn::Turn;

impl Session {
    pub(super) fn source_ended(&mut self, leg: Leg, turn: &mut Turn) {
        self.side(leg).readable = false;
        self.lane_from(leg).ended = true;
        if self.stage == Stage::Lingering {
            self.stage = Stage::Closing { reset: false };
        } else if leg == Leg::Upstream && self.upstream.cut {
            self.lost(Loss::Failed(ErrorKind::ConnectionReset), turn);
        } else if !self.exchange.tunnel || !self.exchange.active {
            match leg {
                Leg::Client => self.client_ended(turn),
                Leg::Upstream => self.upstream_ended(turn),
            }
        } else if leg == Leg::Upstream {
            // The client is told of this end: no other replica can go on from here.
            self.exchange.response_seen = true;
        }
    }

    fn client_ended(&mut self, turn: &mut Turn) {
        match self.upload.phase {
            Phase::Head => self.stage = Stage::Closing { reset: false },
            Phase::Body => self.spoiled("the request body was cut short", turn),
            Phase::Done => {}
        }
    }

    fn upstream_ended(&mut self, turn: &mut Turn) {
        match (self.download.phase, &self.download.body) {
            (Phase::Body, Body::UntilClose) => self.download.phase = Phase::Done,
            (Phase::Done, _) => {}
            _ => self.lost(Loss::Closed, turn),
        }
    }

    #[cold]
    pub(super) fn leg_failed(&mut self, leg: Leg, kind: ErrorKind, turn: &mut Turn) {
        match leg {
            Leg::Client => self.stage = Stage::Closing { reset: true },
            // The response is here whole, whatever became of its connection since.
            Leg::Upstream if self.download.phase == Phase::Done => self.upstream.hangup = true,
            Leg::Upstream => self.lost(Loss::Failed(kind), turn),
        }
    }

    /// A replica that stopped reading may have answered all the same: reading tells (RFC 9112 section 9.5).
    #[cold]
    pub(super) fn sink_failed(&mut self, leg: Leg, kind: ErrorKind, turn: &mut Turn) {
        match leg {
            Leg::Client => self.stage = Stage::Closing { reset: true },
            // Nothing was connected: what waits to be sent goes to another replica.
            Leg::Upstream if matches!(self.link, Link::Open { connected: false, .. }) => {
                self.lost(Loss::Failed(kind), turn);
            }
            Leg::Upstream => {
                // After a FIN it would have been EPIPE; but a reset is told once, and EPIPE from then on.
                let cut = self.upstream.cut || kind != ErrorKind::BrokenPipe;
                self.upstream = Side { readable: true, writable: false, hangup: true, cut };
                if self.download.phase == Phase::Body && self.exchange.tunnel {
                    self.upload.drop_all();
                }
            }
        }
    }

    /// The upstream connection is of no more use before the response was through.
    #[cold]
    pub(super) fn lost(&mut self, loss: Loss, turn: &mut Turn) {
        let Link::Open { replica, reused, connected, since } = self.link else { return };
        let seen = self.exchange.response_seen;
        let after_ms = turn.now.ms_since(self.exchange.asked_at.unwrap_or(since));
        self.exchange.timed_out = loss == Loss::TimedOut;
        let symptom = match (loss, connected) {
            (Loss::TimedOut, false) => Some(Symptom::ConnectTimedOut { after_ms }),
            (Loss::TimedOut, true) => Some(Symptom::ResponseTimedOut { after_ms }),
            (Loss::Failed(why), false) => Some(Symptom::ConnectFailed(why)),
            (Loss::ReplicaDown, _) => None,
            _ => (!reused || seen).then_some(Symptom::Hungup),
        };
        self.notice = symptom.map(|symptom| Notice::Ill { replica, symptom });
        let patient = connected && loss == Loss::TimedOut;
        if !patient && self.exchange.may_redial(self.limits(&turn.snapshot).attempts.saturating_add(u32::from(reused)))
        {
            return self.redial((reused && loss != Loss::ReplicaDown).then_some(replica), turn);
        }
        match (self.download.phase, patient) {
            (Phase::Body, _) if !self.exchange.tunnel => self.truncate(),
            (_, true) => self.answer(504, "the replica took too long", turn),
            _ if self.exchange.timed_out => self.answer(504, "no replica could be reached in time", turn),
            _ if seen => self.answer(502, "the replica broke off its answer", turn),
            _ => self.answer(502, "the replica closed the connection", turn),
        }
    }

    #[cold]
    fn redial(&mut self, again: Option<ReplicaId>, turn: &Turn) {
        if !self.exchange.replay.is_empty() {
            self.upload.push_prefix(self.exchange.replay.clone().into());
        } else if let Some(mark) = self.exchange.mark {
            self.upload.resend_from(mark);
        }
        self.download.drop_all();
        self.exchange.asked_at = None;
        self.exchange.left = false;
        self.link = Link::Wanted { again, waits: false };
        self.arm(turn.now, self.limits(&turn.snapshot).connect_timeout_ms);
    }

    #[cold]
    pub(super) fn unreachable(&mut self, turn: &Turn) {
        self.link = Link::None;
        match (self.exchange.tries(), self.exchange.timed_out) {
            (0, _) => self.answer(503, "no replica is available", turn),
            (_, true) => self.answer(504, "no replica could be reached in time", turn),
            _ => self.answer(502, "no replica could be reached", turn),
        }
    }

    /// The client's own framing is broken: its fault, and nothing more of it reaches the replica.
    #[cold]
    pub(super) fn spoiled(&mut self, why: &'static str, turn: &mut Turn) {
        self.answer(400, why, turn);
    }

    #[cold]
    pub(super) fn bad_response(&mut self, why: &'static str, turn: &mut Turn) {
        let replica = self.replica();
        self.answer(502, why, turn);
        if let Some(replica) = replica {
            self.notice = Some(Notice::Ill { replica, symptom: Symptom::BadResponse(why) });
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
    pub(super) fn answer(&mut self, status: u16, why: &'static str, turn: &Turn) {
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
        self.answer_with(reply::reply(status, why, self.exchange.is_head, &turn.date_line));
        self.arm(turn.now, self.limits(&turn.snapshot).stall_timeout_ms);
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
        if matches!(self.link, Link::Wanted { .. }) {
            self.link = Link::None;
        }
        self.upload.drop_all();
        self.upload.phase = Phase::Done;
        self.download.drop_all();
        self.download.phase = Phase::Done;
        self.download.push_prefix(reply);
    }

    #[cold]
    pub(super) fn expire(&mut self, turn: &mut Turn) {
        let waiting = self.upload.phase == Phase::Done && self.upload.is_drained();
        match self.link {
            _ if self.stage != Stage::Serving => self.stage = Stage::Closing { reset: false },
            _ if !self.exchange.active && self.head_begun => {
                self.answer(408, "the request head did not come in time", turn);
            }
            _ if !self.exchange.active => self.stage = Stage::Closing { reset: false },
            Link::Wanted { .. } => self.answer(503, "there is no room for another connection to a replica", turn),
            Link::Open { connected: false, .. } => self.lost(Loss::TimedOut, turn),
            // Neither side ended it, so it must not look as if one had.
            _ if self.exchange.tunnel => self.stage = Stage::Closing { reset: true },
            Link::Open { .. } if self.is_answered() => self.exchange.reusable = false,
            Link::Open { replica, .. } if waiting && self.download.phase == Phase::Head => {
                self.waited(replica, turn);
            }
            Link::Open { .. } if self.download.phase == Phase::Head => {
                if self.upload.is_drained() {
                    self.answer(408, "the request body did not come in time", turn);
                } else {
                    self.lost(Loss::TimedOut, turn);
                }
            }
            _ => self.stage = Stage::Closing { reset: true },
        }
    }

    /// A response head is overdue: first a word to the control plane, at the deadline 504.
    fn waited(&mut self, replica: ReplicaId, turn: &mut Turn) {
        let since = *self.exchange.asked_at.get_or_insert(turn.now);
        let timeout_ms = self.limits(&turn.snapshot).response_timeout_ms;
        let after_ms = turn.now.ms_since(since);
        if after_ms >= timeout_ms {
            return self.lost(Loss::TimedOut, turn);
        }
        if !self.exchange.told_silent {
            self.exchange.told_silent = true;
            self.notice = Some(Notice::Ill { replica, symptom: Symptom::Silent { after_ms } });
        }
        self.deadline = since.after_ms(timeout_ms);
    }
}
