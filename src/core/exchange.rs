//! One request and its response (or one tunnel): what must be known until both are through, and the rule of when a
//! request may be sent again.

use super::response::Asked;
use super::snapshot::{ReplicaId, ServiceId};
use super::tick::Tick;

/// Replicas that one request may be tried on, whatever the configuration says.
pub const ATTEMPTS_MAX: usize = 8;
/// Requests up to this size are kept until their response begins, to be sent again if the connection dies.
pub const REPLAY_LIMIT: usize = 16 * 1024;
/// Heads up to this size may leave together with others: they are copied once more.
pub const SHAREABLE_MAX: usize = 2 * 1024;
/// Interim responses to one request (RFC 9110 section 15.2 sets no bound; a flood has to end).
pub const INTERIM_LIMIT: u8 = 32;

#[derive(Debug, Default)]
pub struct Exchange {
    /// From the request's head to the last byte of the answer.
    pub active: bool,
    pub service: ServiceId,
    pub key: u32,
    pub minor: u8,
    pub keep_alive: bool,
    /// The client may be sending more when its connection is closed: it must be able to read the answer all the same.
    pub lingers: bool,
    pub is_head: bool,
    pub idempotent: bool,
    pub upgrade: bool,
    /// What to: the `Upgrade` that went on.
    pub protocols: Vec<u8>,
    /// The client waits for 100 before it sends its body, and none has come yet.
    pub expects_continue: bool,
    /// May leave together with other requests.
    pub shareable: bool,
    /// Does so: what comes behind its response is for somebody else.
    pub pipelined: bool,
    pub tunnel: bool,
    /// The response began before the request was out whole.
    pub response_before_request_end: bool,
    /// The response broke off: the client must see that.
    pub truncated: bool,
    pub reusable: bool,
    pub response_seen: bool,
    pub interims: u8,
    /// A byte of the request left on this connection.
    pub bytes_sent_upstream: bool,
    /// The last failure was a deadline.
    pub timed_out: bool,
    /// When the request was sent whole.
    pub request_sent_at: Option<Tick>,
    pub slow_reported: bool,
    /// Where in the upload's buffer the request begins, while all of it is still there.
    pub mark: Option<usize>,
    /// The whole request, once the buffer was given back.
    pub replay: Vec<u8>,
    tried: [ReplicaId; ATTEMPTS_MAX],
    tries: usize,
}

impl Exchange {
    /// A request begins: nothing of the one before it stays.
    pub fn begin(&mut self, service: ServiceId, key: u32) {
        *self = Exchange { active: true, service, key, ..Exchange::default() };
    }

    /// When a request may be sent again: nothing of the response was seen, and either no byte of it left (a connect
    /// failed), or doing it twice does no harm (RFC 9110 section 9.2.2) and it is still whole in our hands.
    pub fn may_redial(&self, attempts: u32) -> bool {
        let attempts = (attempts as usize).min(ATTEMPTS_MAX);
        let whole = self.mark.is_some() || !self.replay.is_empty();
        !self.response_seen && self.tries < attempts && (!self.bytes_sent_upstream || (self.idempotent && whole))
    }

    pub fn tried(&mut self, replica: ReplicaId) {
        if !self.was_tried(replica)
            && let Some(place) = self.tried.get_mut(self.tries)
        {
            *place = replica;
            self.tries += 1;
        }
    }

    pub fn tries(&self) -> usize {
        self.tries
    }

    pub fn was_tried(&self, replica: ReplicaId) -> bool {
        self.tried.iter().take(self.tries).any(|tried| *tried == replica)
    }

    pub fn request_summary(&self) -> Asked {
        Asked { is_head: self.is_head, upgrade: self.upgrade, minor: self.minor, keep_alive: self.keep_alive }
    }
}
