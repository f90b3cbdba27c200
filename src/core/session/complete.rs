//! How a step went: what bytes that came or left mean for the exchange and its deadlines.

use super::{Readiness, SILENT_MS, Session, Stage, UpstreamError, UpstreamState};
use crate::core::context::Context;
use crate::core::exchange::REPLAY_LIMIT;
use crate::core::lane::Phase;
use crate::core::proxy;
use crate::core::step::{FaultKind, Leg, Notice, Outcome};

impl Session {
    pub(super) fn received(&mut self, leg: Leg, outcome: Outcome, cx: &mut Context) {
        match outcome {
            Outcome::Moved(n) => {
                let more = self.lane_from(leg).commit_read(n as usize);
                let readiness = self.readiness(leg);
                readiness.readable = more || readiness.hangup;
                if leg == Leg::Upstream && !self.exchange.bytes_sent_upstream && !self.exchange.tunnel {
                    // Nobody was asked anything yet: this cannot be the answer.
                    return self.upstream_failed(UpstreamError::Closed, cx);
                }
                self.on_bytes_received(leg, n, cx);
            }
            Outcome::Ended => self.source_ended(leg, cx),
            Outcome::Failed(kind) => self.leg_failed(leg, kind, cx),
            _ => self.readiness(leg).readable = false,
        }
    }

    pub(super) fn filled(&mut self, leg: Leg, outcome: Outcome, cx: &mut Context) {
        match outcome {
            Outcome::Moved(n) => {
                self.lane_from(leg).spliced_in(n);
                self.on_bytes_received(leg, n, cx);
            }
            Outcome::Ended => self.source_ended(leg, cx),
            Outcome::Failed(kind) => self.leg_failed(leg, kind, cx),
            Outcome::Unspliceable => self.lane_from(leg).refuse_splice(),
            _ => self.readiness(leg).readable = false,
        }
    }

    pub(super) fn sent(&mut self, leg: Leg, last: bool, outcome: Outcome, cx: &mut Context) {
        match outcome {
            Outcome::Moved(n) => {
                let lane = self.lane_to(leg);
                let short = (n as usize) < lane.pending().len();
                lane.sent(n as usize);
                self.held_back = last && !short;
                self.readiness(leg).writable = !short;
                self.on_bytes_sent(leg, n, cx);
            }
            Outcome::Failed(kind) => self.sink_failed(leg, kind, cx),
            _ => self.readiness(leg).writable = false,
        }
    }

    pub(super) fn drained(&mut self, leg: Leg, outcome: Outcome, cx: &mut Context) {
        match outcome {
            Outcome::Moved(n) => {
                self.lane_to(leg).spliced_out(n);
                self.on_bytes_sent(leg, n, cx);
            }
            Outcome::Failed(kind) => self.sink_failed(leg, kind, cx),
            _ => self.readiness(leg).writable = false,
        }
    }

    pub(super) fn connected_to_upstream(&mut self, outcome: Outcome, cx: &mut Context) {
        match outcome {
            Outcome::Connected { replica, reused, shared } => {
                self.link = UpstreamState::Open { replica, reused, connected: reused, since: cx.now };
                self.upstream = Readiness { writable: true, ..Readiness::default() };
                self.download.ended = false;
                self.exchange.tried(replica);
                self.exchange.bytes_sent_upstream = false;
                self.exchange.pipelined = shared;
                if let Some(version) =
                    cx.snapshot.service(self.exchange.service).and_then(|s| s.send_proxy).filter(|_| !reused)
                {
                    self.upload.prepend(&proxy::write(version, self.ends));
                }
                if !self.exchange.tunnel {
                    self.download.restart(Phase::Head);
                }
                let limits = self.limits(&cx.snapshot);
                self.arm(cx.now, if reused { limits.stall_timeout_ms } else { limits.connect_timeout_ms });
            }
            Outcome::ConnectFailed { replica, why } => {
                self.exchange.tried(replica);
                self.exchange.timed_out = false;
                self.notice = Some(Notice::Ill { replica, kind: FaultKind::ConnectFailed(why) });
                if self.exchange.may_redial(self.limits(&cx.snapshot).attempts) {
                    self.link = UpstreamState::Wanted { again: None, waits: false };
                } else {
                    self.no_replica_reachable(cx);
                }
            }
            Outcome::NoResources => {
                if let UpstreamState::Wanted { waits, .. } = &mut self.link {
                    *waits = true;
                }
            }
            _ => self.no_replica_reachable(cx),
        }
    }

    /// `n` bytes came in from `leg`.
    fn on_bytes_received(&mut self, leg: Leg, n: u64, cx: &Context) {
        if self.stage == Stage::Lingering {
            self.upload.drop_all();
            return;
        }
        match leg {
            Leg::Upstream => self.exchange.response_seen = true,
            Leg::Client if self.exchange.active => self.exchange.mark = None,
            Leg::Client if !self.head_begun => {
                self.head_begun = true;
                self.arm(cx.now, cx.snapshot.first_limits().head_timeout_ms);
            }
            Leg::Client => {}
        }
        match leg {
            Leg::Client => self.extend_by_rate(n, cx),
            Leg::Upstream if self.download.phase != Phase::Head => self.extend_stall_deadline(cx),
            Leg::Upstream => {}
        }
    }

    /// `n` bytes went out to `leg`.
    fn on_bytes_sent(&mut self, leg: Leg, n: u64, cx: &mut Context) {
        let mut paid_for = false;
        if leg == Leg::Upstream {
            self.exchange.bytes_sent_upstream = true;
            if let UpstreamState::Open { connected, .. } = &mut self.link {
                paid_for = std::mem::replace(connected, true) && !self.exchange.tunnel;
            }
            if !self.exchange.tunnel && self.upload.phase == Phase::Done && self.upload.is_drained() {
                self.on_request_sent(cx);
                return;
            }
            if self.upload.is_drained() {
                self.exchange.mark = None;
            }
        }
        match leg {
            Leg::Client if !self.download.is_drained() => self.extend_by_rate(n, cx),
            // What the replica takes at once won its time when it came from the client.
            Leg::Upstream if paid_for && self.upload.is_drained() => {}
            _ => self.extend_stall_deadline(cx),
        }
    }

    /// The request is out, whole: the wait for its response begins.
    fn on_request_sent(&mut self, cx: &mut Context) {
        if self.download.phase != Phase::Head {
            return self.extend_stall_deadline(cx);
        }
        // An interim response, or the first bytes of the final one, may be here: its head is waited for all the same.
        if let Some(mark) = self.exchange.mark.take()
            && self.exchange.idempotent
            && !self.exchange.response_seen
        {
            let request = self.upload.sent_since(mark);
            if request.len() <= REPLAY_LIMIT {
                self.exchange.replay = cx.pool.copy(request);
            }
        }
        self.exchange.request_sent_at = Some(cx.now);
        self.arm(cx.now, SILENT_MS.min(self.limits(&cx.snapshot).response_timeout_ms));
    }

    /// A body moves at the client's pace: its bytes put the stall deadline off by what they are worth.
    fn extend_by_rate(&mut self, n: u64, cx: &Context) {
        let before = self.deadline;
        self.extend_stall_deadline(cx);
        let rate = self.limits(&cx.snapshot).min_body_rate;
        if rate > 0 && !self.exchange.tunnel && self.deadline > before {
            self.deadline = self.deadline.min(before.after_ms(n.saturating_mul(1_000) / rate));
        }
    }

    /// Progress puts the stall deadline off.
    pub(super) fn extend_stall_deadline(&mut self, cx: &Context) {
        let limits = self.limits(&cx.snapshot);
        let connecting = matches!(self.link, UpstreamState::Open { connected: false, .. });
        if self.exchange.tunnel {
            if !connecting {
                self.arm(cx.now, limits.tunnel_timeout_ms);
            }
        } else if self.exchange.active && !connecting {
            self.arm(cx.now, limits.stall_timeout_ms);
        }
    }
}
