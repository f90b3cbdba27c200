//! What to do next: the order in which a session sends, releases its upstream connection, and reads. Nothing changes
//! here.

use super::{Session, Stage, UpstreamState, Wait};
use crate::core::exchange::{ResponseState, UpstreamEnd};
use crate::core::lane::Phase;
use crate::core::step::{Ending, Flush, Leg, Step};

impl Session {
    /// What to do next. `None`: only readiness, the deadline or the control plane can change anything.
    #[inline(always)]
    pub fn next_step(&self) -> Option<Step> {
        match self.stage {
            // Bytes that were held back leave with the end of the stream. A close alone would lose them if the client
            // sent something that was not read (RFC 9112 section 9.6).
            Stage::Closing(Ending::Clean) if self.held_back => return Some(Step::ShutdownWrite(Leg::Client)),
            Stage::Closing(ending) => return Some(Step::Close(ending)),
            Stage::Lingering { .. } => return self.linger(),
            Stage::Serving => {}
        }
        if let UpstreamState::Wanted { waits, again } = self.link {
            return matches!(waits, Wait::No | Wait::Resumed).then(|| Step::Connect(self.pick(again)));
        }
        self.send_to(Leg::Client)
            .or_else(|| self.finish_with_upstream())
            .or_else(|| self.send_to_upstream())
            .or_else(|| self.read_from(Leg::Upstream))
            .or_else(|| self.read_from(Leg::Client))
    }

    #[inline]
    fn send_to_upstream(&self) -> Option<Step> {
        if matches!(self.link, UpstreamState::Open { .. }) { self.send_to(Leg::Upstream) } else { None }
    }

    /// Sends what the lane to `leg` holds.
    #[inline]
    fn send_to(&self, leg: Leg) -> Option<Step> {
        let (lane, writable) = match leg {
            Leg::Client => (&self.download, self.client.writable),
            Leg::Upstream => (&self.upload, self.upstream.writable),
        };
        if lane.has_pending() {
            writable.then(|| Step::Send { leg, flush: self.flush_to(leg) })
        } else if lane.piped() > 0 {
            writable.then_some(Step::SpliceOut(leg, lane.piped()))
        } else {
            (self.exchange.is_tunnel() && lane.ended && !lane.finished).then_some(Step::ShutdownWrite(leg))
        }
    }

    /// The last bytes of a client's connection leave with the end of the stream.
    #[inline]
    fn flush_to(&self, leg: Leg) -> Flush {
        if leg == Leg::Client && self.is_final_write() { Flush::WithNext } else { Flush::Now }
    }

    /// Reads from `leg` if its lane can take more.
    #[inline(always)]
    fn read_from(&self, leg: Leg) -> Option<Step> {
        let linked = matches!(self.link, UpstreamState::Open { .. });
        let (lane, readable, open) = match leg {
            Leg::Client => (&self.upload, self.client.readable, true),
            Leg::Upstream => (&self.download, self.upstream.readable, linked),
        };
        if !open || !readable || !lane.wants_read() {
            return None;
        }
        // A pipelined connection may have read ahead: only a read that filled the buffer shows that more is in the socket.
        let in_socket = leg == Leg::Client || !self.is_pipelined();
        let splice = if in_socket { lane.splice_len() } else { lane.splice_len_after_full_read() };
        // Without an upstream connection the pipe would not be emptied.
        Some(match splice.filter(|_| linked) {
            Some(len) => Step::SpliceIn(leg, len),
            None => Step::Recv(leg),
        })
    }

    /// Releases or closes the upstream connection once the response was read whole. A request that is still being sent
    /// behind its response goes on, for as long as the replica keeps the connection (RFC 9112 section 9.3).
    #[inline]
    fn finish_with_upstream(&self) -> Option<Step> {
        if !matches!(self.link, UpstreamState::Open { .. }) || self.download.phase != Phase::Done {
            return None;
        }
        let sent = self.is_request_read();
        let early = self.exchange.response == ResponseState::Early;
        let reusable = self.exchange.upstream_end == UpstreamEnd::Reuse;
        if reusable && sent && !early && self.is_pipelined() {
            return Some(Step::ReleaseUpstream);
        }
        let quiet = !self.download.has_unscanned() && !self.download.ended && !self.upstream.hangup;
        match (reusable && quiet, sent) {
            (false, _) => Some(Step::CloseUpstream),
            (true, false) => None,
            // It is unknown what a replica does with content that came after its response.
            (true, true) if early => Some(Step::CloseUpstream),
            // The edge was consumed: what may be left in the socket would be taken for the next response.
            (true, true) if self.upstream.readable => Some(Step::Recv(Leg::Upstream)),
            (true, true) => Some(Step::ReleaseUpstream),
        }
    }

    fn linger(&self) -> Option<Step> {
        if !self.download.finished {
            return Some(Step::ShutdownWrite(Leg::Client));
        }
        self.client.readable.then_some(Step::Recv(Leg::Client))
    }
}
