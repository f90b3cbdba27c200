//! How a step went: what bytes that came or left mean for the exchange and its deadlines.

use super::{Link, Loss, SILENT_MS, Session, Side, Stage};
use crate::core::exchange::REPLAY_LIMIT;
use crate::core::lane::Phase;
use crate::core::proxy;
use crate::core::step::{Leg, Notice, Outcome, Symptom};
use crate::core::turn::Turn;

impl Session {
    pub(super) fn received(&mut self, leg: Leg, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                let more = self.lane_from(leg).read(n as usize);
                let side = self.side(leg);
                side.readable = more || side.hangup;
                if leg == Leg::Upstream && !self.exchange.left && !self.exchange.tunnel {
                    // Nobody was asked anything yet: this cannot be the answer.
                    return self.lost(Loss::Closed, turn);
                }
                self.came(leg, n, turn);
            }
            Outcome::Ended => self.source_ended(leg, turn),
            Outcome::Failed(kind) => self.leg_failed(leg, kind, turn),
            _ => self.side(leg).readable = false,
        }
    }

    pub(super) fn filled(&mut self, leg: Leg, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                self.lane_from(leg).piped_in(n);
                self.came(leg, n, turn);
            }
            Outcome::Ended => self.source_ended(leg, turn),
            Outcome::Failed(kind) => self.leg_failed(leg, kind, turn),
            Outcome::Unspliceable => self.lane_from(leg).refuse_splice(),
            _ => self.side(leg).readable = false,
        }
    }

    pub(super) fn sent(&mut self, leg: Leg, last: bool, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                let lane = self.lane_to(leg);
                let short = (n as usize) < lane.pending().len();
                lane.sent(n as usize);
                self.held_back = last && !short;
                self.side(leg).writable = !short;
                self.went(leg, n, turn);
            }
            Outcome::Failed(kind) => self.sink_failed(leg, kind, turn),
            _ => self.side(leg).writable = false,
        }
    }

    pub(super) fn drained(&mut self, leg: Leg, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                self.lane_to(leg).piped_out(n);
                self.went(leg, n, turn);
            }
            Outcome::Failed(kind) => self.sink_failed(leg, kind, turn),
            _ => self.side(leg).writable = false,
        }
    }

    pub(super) fn dialled(&mut self, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Dialed { replica, reused, shared } => {
                self.link = Link::Open { replica, reused, connected: reused, since: turn.now };
                self.upstream = Side { writable: true, ..Side::default() };
                self.download.ended = false;
                self.exchange.tried(replica);
                self.exchange.left = false;
                self.exchange.shared = shared;
                if let Some(version) =
                    turn.snapshot.service(self.exchange.service).and_then(|s| s.send_proxy).filter(|_| !reused)
                {
                    self.upload.prepend(&proxy::write(version, self.ends));
                }
                if !self.exchange.tunnel {
                    self.download.restart(Phase::Head);
                }
                let limits = self.limits(&turn.snapshot);
                self.arm(turn.now, if reused { limits.stall_timeout_ms } else { limits.connect_timeout_ms });
            }
            Outcome::Undialable { replica, why } => {
                self.exchange.tried(replica);
                self.exchange.timed_out = false;
                self.notice = Some(Notice::Ill { replica, symptom: Symptom::ConnectFailed(why) });
                if self.exchange.may_redial(self.limits(&turn.snapshot).attempts) {
                    self.link = Link::Wanted { again: None, waits: false };
                } else {
                    self.unreachable(turn);
                }
            }
            Outcome::Short => {
                if let Link::Wanted { waits, .. } = &mut self.link {
                    *waits = true;
                }
            }
            _ => self.unreachable(turn),
        }
    }

    /// `n` bytes came in from `leg`.
    fn came(&mut self, leg: Leg, n: u64, turn: &Turn) {
        if self.stage == Stage::Lingering {
            self.upload.drop_all();
            return;
        }
        match leg {
            Leg::Upstream => self.exchange.response_seen = true,
            Leg::Client if self.exchange.active => self.exchange.mark = None,
            Leg::Client if !self.head_begun => {
                self.head_begun = true;
                self.arm(turn.now, turn.snapshot.first_limits().head_timeout_ms);
            }
            Leg::Client => {}
        }
        match leg {
            Leg::Client => self.paid(n, turn),
            Leg::Upstream if self.download.phase != Phase::Head => self.moved(turn),
            Leg::Upstream => {}
        }
    }

    /// `n` bytes went out to `leg`.
    fn went(&mut self, leg: Leg, n: u64, turn: &mut Turn) {
        let mut paid_for = false;
        if leg == Leg::Upstream {
            self.exchange.left = true;
            if let Link::Open { connected, .. } = &mut self.link {
                paid_for = std::mem::replace(connected, true) && !self.exchange.tunnel;
            }
            if !self.exchange.tunnel && self.upload.phase == Phase::Done && self.upload.is_drained() {
                self.asked(turn);
                return;
            }
            if self.upload.is_drained() {
                self.exchange.mark = None;
            }
        }
        match leg {
            Leg::Client if !self.download.is_drained() => self.paid(n, turn),
            // What the replica takes at once won its time when it came from the client.
            Leg::Upstream if paid_for && self.upload.is_drained() => {}
            _ => self.moved(turn),
        }
    }

    /// The request is out, whole: the wait for its response begins.
    fn asked(&mut self, turn: &mut Turn) {
        if self.download.phase != Phase::Head {
            return self.moved(turn);
        }
        // An interim response, or the first bytes of the final one, may be here: its head is waited for all the same.
        if let Some(mark) = self.exchange.mark.take()
            && self.exchange.idempotent
            && !self.exchange.response_seen
        {
            let request = self.upload.sent_since(mark);
            if request.len() <= REPLAY_LIMIT {
                self.exchange.replay = turn.pool.copy(request);
            }
        }
        self.exchange.asked_at = Some(turn.now);
        self.arm(turn.now, SILENT_MS.min(self.limits(&turn.snapshot).response_timeout_ms));
    }

    /// A body moves at the client's pace: its bytes put the stall deadline off by what they are worth.
    fn paid(&mut self, n: u64, turn: &Turn) {
        let before = self.deadline;
        self.moved(turn);
        let rate = self.limits(&turn.snapshot).min_body_rate;
        if rate > 0 && !self.exchange.tunnel && self.deadline > before {
            self.deadline = self.deadline.min(before.after_ms(n.saturating_mul(1_000) / rate));
        }
    }

    /// Progress puts the stall deadline off.
    pub(super) fn moved(&mut self, turn: &Turn) {
        let limits = self.limits(&turn.snapshot);
        let connecting = matches!(self.link, Link::Open { connected: false, .. });
        if self.exchange.tunnel {
            if !connecting {
                self.arm(turn.now, limits.tunnel_timeout_ms);
            }
        } else if self.exchange.active && !connecting {
            self.arm(turn.now, limits.stall_timeout_ms);
        }
    }
}
