//! What one session holds, the ceiling of that, and the invariants that tests check after each step. What is sent and when is
//! decided elsewhere.

use super::{Session, UpstreamState};
use crate::core::buffer::store_for;
use crate::core::client_cert;
use crate::core::context::Context;
use crate::core::exchange::REPLAY_LIMIT;
use crate::core::lane::HEADROOM_STEP;
use crate::core::request_text::RequestText;
use crate::core::snapshot::Snapshot;
use crate::core::tick::Tick;
use crate::core::{proxy, reply};

/// The most that one session holds in memory beside itself, in bytes, where heads may have `head_limit` bytes: a buffer
/// for each lane; before the upload's buffer a request that is sent again behind a PROXY header, and the copy of that
/// request; before the download's buffer an interim response with a local reply behind it, or the request that a TRACE
/// reply contains; where requests are logged, parts of their text. A client's certificate adds its line of up to
/// [`LINE_MAX`](client_cert::LINE_MAX) bytes, for as long as its connection, and as much room in the upload's buffer.
pub const fn held_max(head_limit: usize) -> usize {
    let store = store_for(head_limit);
    2 * store + (REPLAY_LIMIT + proxy::WRITTEN_MAX) + REPLAY_LIMIT + (store + reply::HEAD_MAX) + RequestText::MAX
}

impl Session {
    /// Gives the buffers back at the end of the session.
    pub fn release_buffers(&mut self, cx: &mut Context) {
        self.end_record_at_close(cx);
        for lane in [&mut self.upload, &mut self.download] {
            lane.drop_all();
            lane.reclaim(&mut cx.pool);
        }
    }

    /// Memory held for bytes in transit, for a request that may be sent again, and for what each request is told of the
    /// client's certificate, in bytes.
    pub fn held(&self) -> usize {
        let (retained, record) = (self.exchange.retained.copied(), self.record_held());
        self.upload.held() + self.download.held() + retained + record + self.client_cert_len()
    }

    pub(super) fn client_cert_len(&self) -> usize {
        self.client_cert.as_ref().map_or(0, |field| field.line().len())
    }

    /// Buffers of the worker's pool that it holds.
    pub fn buffers(&self) -> usize {
        usize::from(self.upload.has_buffer()) + usize::from(self.download.has_buffer())
    }

    /// Panics where an invariant is broken.
    pub fn check(&self, snapshot: &Snapshot) {
        let head_limit = snapshot.listener_limits(self.listener).head_limit.max(self.limits(snapshot).head_limit);
        let certificate = self.client_cert_len();
        assert!(certificate <= client_cert::LINE_MAX, "{certificate} bytes of a certificate");
        assert!(
            self.held() <= held_max(head_limit + certificate.next_multiple_of(HEADROOM_STEP)) + certificate,
            "{} bytes held: {self:?}",
            self.held()
        );
        self.upload.check();
        self.download.check();
        assert!(self.deadline < Tick::NEVER, "no deadline: {self:?}");
        let open = matches!(self.link, UpstreamState::Open { .. });
        assert!(!open || self.exchange.is_active(), "an upstream connection without an exchange: {self:?}");
        assert!(self.record.is_none() || self.exchange.is_active(), "a record without an exchange: {self:?}");
    }
}
