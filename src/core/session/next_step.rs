//! What to do next: the order in which a session sends, lets its upstream connection go, and reads.

use super::{Session, UpstreamState};
use crate::core::lane::Phase;
use crate::core::step::{Leg, Step};

impl Session {
    /// Sends on what the lane to `leg` holds.
    pub(super) fn push(&mut self, leg: Leg) -> Option<Step> {
        if leg == Leg::Upstream && !matches!(self.link, UpstreamState::Open { .. }) {
            return None;
        }
        let tunnel = self.exchange.tunnel;
        let writable = self.readiness(leg).writable;
        let lane = self.lane_to(leg);
        if lane.has_pending() {
            writable.then(|| Step::Send { leg, last: leg == Leg::Client && self.is_final_write() })
        } else if lane.piped() > 0 {
            writable.then_some(Step::SpliceOut(leg, lane.piped()))
        } else {
            (tunnel && lane.ended && !lane.finished).then_some(Step::ShutdownWrite(leg))
        }
    }

    /// Reads from `leg` if its lane can take more.
    pub(super) fn pull(&mut self, leg: Leg) -> Option<Step> {
        let linked = matches!(self.link, UpstreamState::Open { .. });
        let open = leg == Leg::Client || linked;
        let readable = self.readiness(leg).readable;
        // In line, the connection may have read ahead; what fills a buffer comes from the socket.
        let sure = leg == Leg::Client || !self.exchange.pipelined;
        let lane = self.lane_from(leg);
        if !open || !readable || !lane.wants_read() {
            return None;
        }
        // Without a replica there is nobody to empty a pipe.
        Some(match lane.splice_len(sure).filter(|_| linked) {
            Some(ask) => Step::SpliceIn(leg, ask),
            None => Step::Recv(leg),
        })
    }

    /// Lets the upstream connection go once the response was read whole. A request that is still on its way behind
    /// its response goes on, for as long as the replica keeps the connection (RFC 9112 section 9.3).
    pub(super) fn finish_with_upstream(&mut self) -> Option<Step> {
        if !matches!(self.link, UpstreamState::Open { .. }) || self.download.phase != Phase::Done {
            return None;
        }
        let asked = self.upload.phase == Phase::Done && self.upload.is_drained();
        let quiet = !self.download.has_unscanned() && !self.download.ended && !self.upstream.hangup;
        if self.exchange.pipelined && self.exchange.reusable && asked && !self.exchange.response_before_request_end {
            return Some(Step::ReleaseUpstream);
        }
        match (self.exchange.reusable && quiet, asked) {
            (false, _) => Some(Step::CloseUpstream),
            (true, false) => None,
            // What a replica makes of a body that it answered before is not ours to guess.
            (true, true) if self.exchange.response_before_request_end => Some(Step::CloseUpstream),
            // Its edge was used up: what may be left in the socket would be taken for the next response.
            (true, true) if self.upstream.readable => Some(Step::Recv(Leg::Upstream)),
            (true, true) => Some(Step::ReleaseUpstream),
        }
    }

    pub(super) fn linger(&mut self) -> Option<Step> {
        if !self.download.finished {
            return Some(Step::ShutdownWrite(Leg::Client));
        }
        self.client.readable.then_some(Step::Recv(Leg::Client))
    }
}
