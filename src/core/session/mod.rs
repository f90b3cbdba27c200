//! One client connection from accept to close: two lanes, an upstream leg that comes and goes, and the exchange in
//! progress. It is a pure state machine: [`Session::next_step`] asks for a step, the methods in `complete` take its
//! outcome. Sockets, pools and the ring never enter.
//!
//! What one connection can hold has a ceiling, whatever its client and its replica send and however slowly they read:
//! [`held_max`] bytes of memory, asserted by [`Session::check`], and two pipes of
//! [`SPLICE_MAX`](super::lane::SPLICE_MAX) bytes each in the kernel, beside the socket buffers. At rest it holds nothing but what
//! replicas are told of the client's certificate.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`Session`], its states (`Stage`: serving, lingering, closing; `UpstreamState`: none, wanted, open) and `Arrival`; what the worker tells it (ready, deadline, drain, replica down, connection limit) and asks of it (deadline, notice, idle, tunnel, pipelined); which replica it picks again; linger; which lane a leg is source or sink of |
//! | `bounds` | what a session holds: its ceiling (`held_max`), its buffers given back, its invariants |
//! | `next_step` | chooses the next step from the state alone: send, splice, connect, release the upstream connection, shut down, read; flush or more; changes nothing; by readiness of each leg (readable, writable), the lanes and the stage |
//! | `complete` | takes the outcome of a step: bytes received, sent or spliced, connected, released; deadlines extended by bytes and rate; upload and download lanes told, stall and readiness noted, a retained copy |
//! | `opening` | what comes before the protocol (`Opening`): a PROXY header, a TLS handshake below, a ClientHello that passes through; the client named, the mode of the listener begun, plain text on a port of TLS refused |
//! | `protocol` | heads: request and response head read and rewritten, bodies begun, interim responses, tunnels opened, the exchange ended and the next request awaited; which lane's unscanned bytes, upload and download advanced, analyses and edits applied |
//! | `failure` | what goes wrong: a leg ends early or fails, connect fails, a deadline expires, a head or body is malformed; to a redial, a local reply (4xx, 5xx), a truncated response or a reset |
//! | `record` | the record of an exchange while it runs: stamps of its phases, attempts and why, status, how it ended; request ids that are made |

mod bounds;
mod complete;
mod failure;
mod next_step;
mod opening;
mod protocol;
mod record;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use opening::Opening;

use super::buffer::CAPACITY;
use super::client_cert::ClientCertField;
use super::context::Context;
use super::exchange::{ClientEnd, Exchange, ResponseState};
use super::exchange_record::{ExchangeEnd, ExchangeRecord};
use super::ip::IpText;
use super::lane::{Lane, Phase};
use super::limits::{AbortOn, Limits};
use super::proxy::{self, Ends};
use super::request::Scheme;
use super::snapshot::{Lifecycle, ListenerId, ReplicaId, Service, Snapshot};
use super::step::{Connection, Ending, Leg, Notice, Pick, Ready};
use super::tick::{Stamp, Tick};

pub use bounds::held_max;

/// A response head that is awaited for longer makes the control plane probe the replica.
pub const SLOW_MS: u64 = 250;

#[derive(Debug)]
pub struct Session {
    listener: ListenerId,
    upload: Lane,
    download: Lane,
    client: Readiness,
    upstream: Readiness,
    link: UpstreamState,
    stage: Stage,
    exchange: Exchange,
    /// A byte of the next head came: the head deadline runs.
    head_begun: bool,
    /// When that byte came.
    head_begun_at: Stamp,
    deadline: Tick,
    notice: Option<Notice>,
    refusal: Option<Notice>,
    opening: Opening,
    scheme: Scheme,
    /// Boxed, since few clients are asked for a certificate.
    client_cert: Option<Box<ClientCertField>>,
    /// The client's last bytes were sent with MSG_MORE: the end of the stream must follow.
    held_back: bool,
    ends: Ends,
    client_ip: IpText,
    /// Of the exchange in progress, where exchanges are recorded.
    record: Option<Box<ExchangeRecord>>,
}

/// How a client connected.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The peer is a trusted balancer and must begin with a PROXY header.
    pub proxied: bool,
    pub listener: ListenerId,
    /// `Https`: the session begins when its transport has a handshake behind it.
    pub scheme: Scheme,
}

/// A leg's readiness, as far as edges and short transfers tell.
#[derive(Clone, Copy, Debug, Default)]
struct Readiness {
    readable: bool,
    writable: bool,
    hangup: bool,
    /// A write met a reset. A read will not report it again: what looks like the end of the stream is not one.
    was_reset: bool,
}

/// What a request that wants a replica waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    No,
    /// The balancer's resources for another connection.
    Resources,
    /// A replica with room for another request.
    Room,
    /// Nothing more: there was room a moment ago.
    Resumed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamState {
    None,
    Wanted {
        /// This replica again: the pooled connection to it was stale.
        again: Option<ReplicaId>,
        waits: Wait,
    },
    Open {
        replica: ReplicaId,
        connection: Connection,
        connected: bool,
        since: Tick,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// The last response was sent; what the client still sends is read and dropped (RFC 9112 section 9.6).
    Lingering {
        until: Tick,
    },
    Closing(Ending),
}

/// Why an upstream connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamError {
    Closed,
    Failed(ErrorKind),
    TimedOut,
    /// The control plane took the replica down.
    ReplicaDown,
}

impl Session {
    pub fn new(arrival: Arrival, cx: &mut Context) -> Session {
        let Arrival { peer, local, proxied, listener, scheme } = arrival;
        let mut session = Session {
            listener,
            upload: Lane::new(Phase::Head),
            download: Lane::new(Phase::Done),
            // The first bytes often come with the connection: a read costs less than waiting for its edge.
            client: Readiness { readable: true, writable: true, ..Readiness::default() },
            upstream: Readiness::default(),
            link: UpstreamState::None,
            stage: Stage::Serving,
            exchange: Exchange::default(),
            head_begun: false,
            head_begun_at: cx.records.now,
            deadline: Tick::NEVER,
            notice: None,
            refusal: None,
            opening: match (scheme, proxied) {
                (Scheme::Https, _) => Opening::Handshake,
                (Scheme::Http, true) => Opening::ProxyHeader,
                (Scheme::Http, false) => Opening::Done,
            },
            scheme,
            client_cert: None,
            held_back: false,
            ends: Ends { source: peer, destination: local },
            client_ip: IpText::new(peer.ip()),
            record: None,
        };
        session.arm(cx.now, cx.snapshot.listener_limits(listener).idle_timeout_ms);
        if session.opening == Opening::Done {
            session.begin_mode(cx);
        }
        session
    }

    /// As a PROXY header named it, where one did.
    pub fn client_address(&self) -> IpAddr {
        self.ends.source.ip()
    }

    /// How long a browser shall use TLS only. A response in plain text must not say so (RFC 6797 section 7.2).
    #[inline]
    fn hsts_seconds(&self, cx: &Context) -> Option<u64> {
        if self.scheme == Scheme::Https { cx.snapshot.listener_limits(self.listener).hsts_seconds } else { None }
    }

    /// What tells a replica of `service` who the client is, first on a connection; empty where the service has none.
    pub fn proxy_header(&self, service: &Service) -> Vec<u8> {
        service.send_proxy.map(|version| proxy::write(version, self.ends)).unwrap_or_default()
    }

    /// Marks what the event loop learned. Nothing acts here.
    pub fn on_ready(&mut self, leg: Leg, ready: Ready, cx: &Context) {
        if leg == Leg::Upstream
            && ready.writable
            && !ready.dead
            && let UpstreamState::Open { connected, .. } = &mut self.link
            && (!*connected || !self.upstream.writable && !self.upload.is_drained())
        {
            // The time in which the replica took no bytes does not count against the client.
            if !std::mem::replace(connected, true) {
                self.record_established(cx);
            }
            self.extend_stall_deadline(cx);
        }
        let readiness = self.readiness(leg);
        readiness.readable |= ready.may_read();
        readiness.writable |= ready.writable;
        readiness.hangup |= ready.hangup || ready.dead;
        if leg == Leg::Client && self.client.hangup {
            self.close_if_abandoned(ready, cx);
        }
    }

    /// There always is one.
    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// A fault at a replica comes before the refusal that it caused.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notice.take().or_else(|| self.refusal.take())
    }

    pub fn has_notice(&self) -> bool {
        self.notice.is_some() || self.refusal.is_some()
    }

    /// The lane whose source this leg is.
    pub fn lane_from(&mut self, leg: Leg) -> &mut Lane {
        match leg {
            Leg::Client => &mut self.upload,
            Leg::Upstream => &mut self.download,
        }
    }

    /// The lane whose sink this leg is.
    pub fn lane_to(&mut self, leg: Leg) -> &mut Lane {
        self.lane_from(leg.other())
    }

    /// Bytes in the pipe of the lane whose source this leg is.
    pub fn piped(&self, leg: Leg) -> u64 {
        match leg {
            Leg::Client => self.upload.piped(),
            Leg::Upstream => self.download.piped(),
        }
    }

    /// The replica of the upstream connection in use.
    pub fn replica(&self) -> Option<ReplicaId> {
        match self.link {
            UpstreamState::Open { replica, .. } => Some(replica),
            UpstreamState::None | UpstreamState::Wanted { .. } => None,
        }
    }

    /// False while nothing that the client does can matter: all of its last request was read and sent, and the response
    /// is not overdue yet.
    pub fn wants_client_events(&self) -> bool {
        let exchange = &self.exchange;
        let sent = self.upload.phase == Phase::Done && exchange.sent_at().is_some();
        let last = exchange.client_end != ClientEnd::KeepAlive && exchange.head.upgrade.is_none();
        let soon = !exchange.has_response() && !exchange.slow_reported;
        let awaits = exchange.is_active() && !exchange.is_tunnel() && sent && last && soon;
        !(awaits && self.client.writable && self.stage == Stage::Serving)
    }

    /// It would read from its client, and waits to be told that it can.
    pub fn awaits_client_bytes(&self) -> bool {
        self.stage == Stage::Serving && !self.client.readable && self.upload.wants_read()
    }

    /// Other requests may be pipelined behind this one: nothing says yet that its response is long, or the connection's
    /// last.
    pub fn may_pipeline_behind(&self) -> bool {
        !self.exchange.has_response()
    }

    /// Its response takes long to read, so no request should be queued behind it.
    pub fn blocks_pipeline(&self) -> bool {
        let more = self.download.body.credit() > CAPACITY as u64;
        self.is_pipelined() && self.download.phase == Phase::Body && (more || !self.client.writable)
    }

    /// It ends, whatever comes.
    pub fn closing(&self) -> Option<Ending> {
        match self.stage {
            Stage::Closing(ending) => Some(ending),
            Stage::Serving | Stage::Lingering { .. } => None,
        }
    }

    /// Neither a request nor a tunnel is in progress.
    pub fn is_idle(&self) -> bool {
        !self.exchange.is_active() && !self.head_begun
    }

    /// Its bytes pass as they are: only a clean end may look like one, on either leg.
    pub fn is_tunnel(&self) -> bool {
        self.exchange.is_tunnel()
    }

    /// Where its client connected.
    pub fn listener(&self) -> ListenerId {
        self.listener
    }

    /// Acts on the deadline if it has passed.
    pub fn on_deadline(&mut self, cx: &mut Context) {
        if cx.now < self.deadline {
            return;
        }
        self.expire(cx);
        self.advance(cx);
    }

    /// There may be resources for another connection now, or room at a replica.
    pub fn on_room(&mut self) {
        if let UpstreamState::Wanted { waits, .. } = &mut self.link {
            *waits = if *waits == Wait::Room { Wait::Resumed } else { Wait::No };
        }
    }

    /// Its request has no replica yet.
    pub fn wants_replica(&self) -> bool {
        matches!(self.link, UpstreamState::Wanted { .. })
    }

    /// The client that a PROXY header named has as many connections as it may have.
    pub fn on_connection_limit(&mut self) {
        self.fail_record(ExchangeEnd::Refused, "the client has as many connections as it may have");
        self.stage = Stage::Closing(Ending::Reset);
    }

    /// The balancer stops, or the listener was removed: idle clients are closed now, others after their response. Where a
    /// client may have sent something, a read decides whether it is idle.
    pub fn on_drain(&mut self, cx: &Context) {
        match self.stage {
            Stage::Serving if self.is_idle() && !self.client.readable => self.stage = Stage::Closing(Ending::Clean),
            Stage::Lingering { until } => self.linger_until(until.min(self.linger_end(cx)), cx),
            Stage::Serving | Stage::Closing(_) => {}
        }
    }

    /// The control plane took the replica in use down: a request that may be sent again goes to another one now.
    pub fn on_replica_down(&mut self, cx: &mut Context) {
        if self.exchange.may_redial(self.limits(&cx.snapshot).attempts) {
            self.upstream_failed(UpstreamError::ReplicaDown, cx);
            self.advance(cx);
        }
    }

    /// What a replica is picked for.
    fn pick(&self, again: Option<ReplicaId>) -> Pick {
        let Exchange { service, key, tried, sticky: preferred, .. } = self.exchange;
        Pick { service, key, tried, again, preferred, pipelinable: self.exchange.head.pipelinable }
    }

    /// A client that only half-closed may still read: it must not take a response that breaks off for complete.
    #[cold]
    fn close_if_abandoned(&mut self, ready: Ready, cx: &Context) {
        if self.is_abandoned(ready, cx) {
            let breaks_off = !ready.dead && self.exchange.has_response();
            self.stage = Stage::Closing(if breaks_off { Ending::Reset } else { Ending::Clean });
        }
    }

    /// The client does not wait for its response, as far as `ready` and `Limits::abort_on` tell. Whether it half-closed matters
    /// only once its request was read whole.
    fn is_abandoned(&self, ready: Ready, cx: &Context) -> bool {
        if self.stage != Stage::Serving || self.exchange.is_tunnel() {
            return false;
        }
        match self.limits(&cx.snapshot).abort_on {
            _ if !self.exchange.is_active() => ready.dead,
            AbortOn::Nothing => false,
            AbortOn::Reset => ready.dead,
            AbortOn::Close => ready.dead || self.upload.phase == Phase::Done && self.awaits_replica(),
        }
    }

    /// The bytes that wait for the client are the last ones of the connection.
    fn is_final_write(&self) -> bool {
        let exchange = &self.exchange;
        let last = exchange.is_active()
            && !exchange.is_tunnel()
            && exchange.client_end != ClientEnd::KeepAlive
            && exchange.response != ResponseState::Truncated;
        last && self.is_request_read() && self.download.phase == Phase::Done && self.stage == Stage::Serving
    }

    /// The request was read whole, and all of it was sent.
    fn is_request_read(&self) -> bool {
        self.upload.phase == Phase::Done && self.upload.is_drained()
    }

    /// The response was read whole; at most the request is still on its way.
    fn is_answered(&self) -> bool {
        self.exchange.is_active() && self.download.phase == Phase::Done && self.exchange.has_response()
    }

    /// A replica is to respond, or has not responded whole.
    fn awaits_replica(&self) -> bool {
        match self.link {
            UpstreamState::None => false,
            UpstreamState::Wanted { .. } => true,
            UpstreamState::Open { .. } => self.download.phase != Phase::Done,
        }
    }

    fn is_pipelined(&self) -> bool {
        matches!(self.link, UpstreamState::Open { connection: Connection::Pipelined, .. })
    }

    fn is_connecting(&self) -> bool {
        matches!(self.link, UpstreamState::Open { connected: false, .. })
    }

    fn readiness(&mut self, leg: Leg) -> &mut Readiness {
        match leg {
            Leg::Client => &mut self.client,
            Leg::Upstream => &mut self.upstream,
        }
    }

    /// Whether the connection ends after its exchange.
    fn lifecycle(&self, snapshot: &Snapshot) -> Lifecycle {
        snapshot.lifecycle_of(self.listener)
    }

    fn limits<'a>(&self, snapshot: &'a Snapshot) -> &'a Limits {
        snapshot.limits(self.exchange.service)
    }

    /// The client may read its last response until then, for as long as it is not silent (RFC 9112 section 9.6).
    fn linger_until(&mut self, until: Tick, cx: &Context) {
        self.stage = Stage::Lingering { until };
        self.arm(cx.now, self.limits(&cx.snapshot).linger_timeout_ms);
        self.deadline = self.deadline.min(until);
    }

    /// When a connection that begins to linger now is closed. A drain waits for silence only.
    fn linger_end(&self, cx: &Context) -> Tick {
        let limits = self.limits(&cx.snapshot);
        cx.now.after_ms(if self.lifecycle(&cx.snapshot).is_stopping() {
            limits.linger_timeout_ms
        } else {
            limits.linger_max_ms
        })
    }

    fn arm(&mut self, now: Tick, ms: u64) {
        self.deadline = now.after_ms(ms);
    }
}
