//! One request and its response, or one tunnel, as states; and the rule of when a request may be sent again. It holds
//! facts and states only: bytes are in the lanes, deadlines and sockets elsewhere.

use super::response::RequestSummary;
use super::snapshot::{ReplicaId, ServiceId};
use super::tick::Tick;

/// Replicas that one request may be tried on, whatever the configuration says.
pub const ATTEMPTS_MAX: usize = 8;
/// Requests up to this size, in bytes, are kept until their response begins, to be sent again if the connection fails.
pub const REPLAY_LIMIT: usize = 16 * 1024;
/// Request heads up to this size, in bytes, may be pipelined: pipelining copies them once more.
pub const PIPELINED_HEAD_MAX: usize = 2 * 1024;
/// Bytes of interim heads that one exchange takes at once (RFC 9110 section 15.2 sets no bound; a flood has to end).
pub const INTERIM_BURST: u64 = 64 * 1024;
/// Bytes of interim heads that it takes for each millisecond from then on.
pub const INTERIM_RATE: u64 = 16;

#[derive(Debug, Default)]
pub struct Exchange {
    pub kind: ExchangeKind,
    pub service: ServiceId,
    pub key: u32,
    pub head: RequestFacts,
    pub request: RequestState,
    pub response: ResponseState,
    pub client_end: ClientEnd,
    pub upstream_end: UpstreamEnd,
    pub retained: Retained,
    pub interims: InterimBudget,
    /// The response is server-sent events.
    pub is_event_stream: bool,
    /// The last attempt ended by a deadline.
    pub timed_out: bool,
    /// The control plane knows that the response is slow.
    pub slow_reported: bool,
    pub tried: Attempts,
    /// The replica that the request's cookie names.
    pub sticky: Option<ReplicaId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Between two exchanges.
    #[default]
    Idle,
    /// From the request's head to the last byte of the response.
    Http,
    /// Bytes pass both ways as they are.
    Tunnel,
}

/// What the request's head says.
#[derive(Debug, Default)]
pub struct RequestFacts {
    pub minor: u8,
    pub is_head: bool,
    pub idempotent: bool,
    /// It may share a connection with other requests in flight.
    pub pipelinable: bool,
    /// The protocols of `Upgrade`, as they were forwarded. `None`: no upgrade was asked for.
    pub upgrade: Option<Box<[u8]>>,
    /// The client asked for 100 before its content (RFC 9110 section 10.1.1): none has come, and no content was sent on.
    pub expects_continue: bool,
}

/// How much of the request was sent on the upstream connection in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestState {
    #[default]
    Unsent,
    Sending,
    /// All of it. The wait for the response head began `at` this time.
    Sent {
        at: Tick,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseState {
    #[default]
    Awaited,
    /// Bytes of it came, but no final head.
    Begun,
    /// The final head came behind the whole request.
    InOrder,
    /// The final head came before the request was sent whole.
    Early,
    /// It broke off behind its head: the client must see that.
    Truncated,
}

/// What becomes of the client's connection behind the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientEnd {
    #[default]
    Close,
    /// The client may still be sending: the connection closes after it could read the response (RFC 9112 section 9.6).
    Linger,
    KeepAlive,
}

/// What becomes of the upstream connection behind the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamEnd {
    #[default]
    Close,
    Reuse,
}

/// The request, for as long as it can be sent again.
#[derive(Debug, Default)]
pub enum Retained {
    #[default]
    Nothing,
    /// All of it lies in the upload's buffer, from this mark on.
    InBuffer(usize),
    /// A copy: the buffer went back to the pool.
    Copy(Vec<u8>),
}

/// The replicas that a request was tried on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    replicas: [ReplicaId; ATTEMPTS_MAX],
    len: u8,
}

/// The interim responses of one exchange, as a leaky bucket: their number is free, their bytes and rate are bounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct InterimBudget {
    spent: u64,
    at: Tick,
}

impl InterimBudget {
    /// A head of `len` bytes came at `now`; whether it is within the budget. The first one is, however long.
    pub fn spend(&mut self, len: usize, now: Tick) -> bool {
        let refilled = now.ms_since(self.at).saturating_mul(INTERIM_RATE);
        *self = InterimBudget { spent: self.spent.saturating_sub(refilled), at: now };
        let is_within = self.spent < INTERIM_BURST;
        self.spent += len as u64;
        is_within
    }
}

impl Exchange {
    /// An exchange begins: nothing of the one before it stays.
    pub fn begin(&mut self, kind: ExchangeKind, service: ServiceId, key: u32) {
        *self = Exchange { kind, service, key, ..Exchange::default() };
    }

    /// When a request may be sent again: nothing of the response was seen, and either no byte of the request was sent
    /// (a connect failed), or it is idempotent (RFC 9110 section 9.2.2) and still whole in memory.
    pub fn may_redial(&self, attempts: u32) -> bool {
        let attempts = (attempts as usize).min(ATTEMPTS_MAX);
        let whole = !matches!(self.retained, Retained::Nothing);
        let unsent = self.request == RequestState::Unsent;
        self.response == ResponseState::Awaited
            && self.tried.len() < attempts
            && (unsent || (self.head.idempotent && whole))
    }

    pub fn is_active(&self) -> bool {
        self.kind != ExchangeKind::Idle
    }

    pub fn is_tunnel(&self) -> bool {
        self.kind == ExchangeKind::Tunnel
    }

    /// A byte of the response came.
    pub fn has_response(&self) -> bool {
        self.response != ResponseState::Awaited
    }

    /// A response byte, or the end of a tunnel's upstream, came.
    pub fn note_response_byte(&mut self) {
        if self.response == ResponseState::Awaited {
            self.response = ResponseState::Begun;
        }
    }

    pub fn sent_at(&self) -> Option<Tick> {
        match self.request {
            RequestState::Sent { at } => Some(at),
            RequestState::Unsent | RequestState::Sending => None,
        }
    }

    /// The connection closes behind the response, and lingers where the client may still be sending.
    pub fn close_after_response(&mut self) {
        if self.client_end == ClientEnd::KeepAlive {
            self.client_end = ClientEnd::Linger;
        }
    }

    /// What the response's head is read with.
    pub fn asked(&self) -> RequestSummary {
        let RequestFacts { is_head, minor, upgrade, .. } = &self.head;
        let keep_alive = self.client_end == ClientEnd::KeepAlive;
        RequestSummary { is_head: *is_head, upgrade: upgrade.is_some(), minor: *minor, keep_alive, hsts_seconds: None }
    }
}

impl RequestState {
    /// At least one byte was sent.
    pub fn begin(&mut self) {
        if *self == RequestState::Unsent {
            *self = RequestState::Sending;
        }
    }
}

impl Retained {
    /// The bytes of the copy, if there is one.
    pub fn copied(&self) -> usize {
        match self {
            Retained::Copy(request) => request.len(),
            Retained::Nothing | Retained::InBuffer(_) => 0,
        }
    }

    /// The buffer changes: what lies there cannot be sent again.
    pub fn leave_buffer(&mut self) {
        if matches!(self, Retained::InBuffer(_)) {
            *self = Retained::Nothing;
        }
    }
}

impl Attempts {
    pub fn add(&mut self, replica: ReplicaId) {
        if !self.contains(replica)
            && let Some(free) = self.replicas.get_mut(usize::from(self.len))
        {
            *free = replica;
            self.len += 1;
        }
    }

    pub fn len(&self) -> usize {
        self.len.into()
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.replicas.iter().take(self.len()).any(|tried| *tried == replica)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many heads of `len` bytes, one every `every_ms`, are within the budget, of 10,000.
    fn taken(len: usize, every_ms: u64) -> usize {
        let mut budget = InterimBudget::default();
        let mut now = Tick(1_000_000);
        (0..10_000)
            .take_while(|_| {
                now = now.after_ms(every_ms);
                budget.spend(len, now)
            })
            .count()
    }

    #[test]
    fn an_exchange_begins_with_what_it_is_given_and_nothing_of_the_one_before() {
        let mut exchange = Exchange { response: ResponseState::Early, ..Exchange::default() };
        exchange.begin(ExchangeKind::Http, ServiceId(3), 0xFEED);
        assert_eq!((exchange.kind, exchange.service, exchange.key), (ExchangeKind::Http, ServiceId(3), 0xFEED));
        assert_eq!(exchange.response, ResponseState::default());
    }

    #[test]
    fn a_byte_begins_a_response_that_is_awaited_and_no_other() {
        for (before, after) in [
            (ResponseState::Awaited, ResponseState::Begun),
            (ResponseState::Begun, ResponseState::Begun),
            (ResponseState::Early, ResponseState::Early),
            (ResponseState::Truncated, ResponseState::Truncated),
        ] {
            let mut exchange = Exchange { response: before, ..Exchange::default() };
            exchange.note_response_byte();
            assert_eq!((exchange.response, exchange.has_response()), (after, true));
        }
    }

    #[test]
    fn only_replicas_that_were_tried_are_attempts() {
        let mut attempts = Attempts::default();
        assert!(attempts.is_empty() && !attempts.contains(ReplicaId::default()));
        attempts.add(ReplicaId(5));
        assert!(attempts.contains(ReplicaId(5)) && !attempts.contains(ReplicaId(6)) && attempts.len() == 1);
        assert!(!attempts.contains(ReplicaId::default()), "what is not filled counts for nothing");
    }

    #[test]
    fn interim_heads_are_bounded_by_their_bytes_and_their_rate() {
        assert_eq!(taken(64, 0), 1024, "64 KiB at once");
        assert_eq!(taken(16, 1), 10_000, "16 bytes a millisecond, for ever");
        assert!((2048..2060).contains(&taken(64, 2)), "twice that, while the burst lasts");
        assert_eq!(taken(16_000, 1_000), 10_000, "one long head a second, for ever");
        assert_eq!(taken(100_000, 0), 1, "one head is taken, however long");
    }
}
