//! One client connection for life: two lanes, an upstream leg that comes and goes, and the exchange under way. It is
//! a pure state machine: [`Session::next_step`] asks for a step, [`Session::complete`] hears how it went.
//!
//! What one connection can make us hold has a ceiling, whatever its client and its replica send and however slowly
//! they read: [`HELD_MAX`] bytes of memory, asserted by [`Session::check`], and two pipes of
//! [`SPLICE_MAX`](super::lane::SPLICE_MAX) bytes each in the kernel, beside the socket buffers. At rest it holds nothing.

mod complete;
mod failure;
mod next_step;
mod protocol;

use std::io::ErrorKind;
use std::net::SocketAddr;

use super::buffer::{CAPACITY, STORE};
use super::context::Context;
use super::exchange::{Exchange, REPLAY_LIMIT};
use super::ip::IpText;
use super::lane::{Lane, Phase};
use super::limits::Limits;
use super::proxy::{self, Ends};
use super::reply;
use super::snapshot::{ReplicaId, ServiceId, Snapshot};
use super::step::{Call, Leg, Notice, Outcome, Ready, Step};
use super::tick::Tick;

/// How long a refused client may go on sending before its connection is cut, so that it can read the refusal.
pub const LINGER_MS: u64 = 2_000;
/// A request that waits longer than this for its response makes the control plane look at the replica.
pub const SILENT_MS: u64 = 250;

/// The most that one session holds in memory beside itself, in bytes: a buffer for each lane; in front of the upload's a
/// request that is sent again behind a PROXY header, and that request as it was kept; in front of the download's an
/// interim response with our own answer behind it, or the request that a TRACE gives back.
pub const HELD_MAX: usize = 2 * STORE + (REPLAY_LIMIT + proxy::WRITTEN_MAX) + REPLAY_LIMIT + (STORE + reply::HEAD_MAX);

#[derive(Debug)]
pub struct Session {
    upload: Lane,
    download: Lane,
    client: Readiness,
    upstream: Readiness,
    link: UpstreamState,
    stage: Stage,
    exchange: Exchange,
    /// A byte of the next head came: its deadline runs.
    head_begun: bool,
    deadline: Tick,
    notice: Option<Notice>,
    refused: Option<Notice>,
    /// A PROXY header comes before everything else.
    proxy_first: bool,
    /// The client's last bytes wait for the end of the stream, to leave with it.
    held_back: bool,
    ends: Ends,
    client_ip: IpText,
}

/// How a client came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The peer is a balancer that we trust to name the client, and has to.
    pub proxied: bool,
    /// The service whose tunnel this is; `None`: HTTP.
    pub tunnel_to: Option<ServiceId>,
}

/// A leg's side, as far as edges and short transfers told.
#[derive(Clone, Copy, Debug, Default)]
struct Readiness {
    readable: bool,
    writable: bool,
    hangup: bool,
    /// A write met a reset, which reading will not tell again: what looks like the end is none.
    was_reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamState {
    None,
    /// `waits`: for room for another connection, which is ours to make.
    Wanted {
        again: Option<ReplicaId>,
        waits: bool,
    },
    Open {
        replica: ReplicaId,
        reused: bool,
        connected: bool,
        since: Tick,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// The last answer is out; what the client still sends is read and dropped (RFC 9112 section 9.6).
    Lingering,
    Closing {
        reset: bool,
    },
}

/// Why an upstream connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamError {
    Closed,
    Failed(ErrorKind),
    TimedOut,
    /// The control plane says that the replica is down.
    ReplicaDown,
}

impl Session {
    pub fn new(arrival: Arrival, cx: &mut Context) -> Session {
        let mut session = Session {
            upload: Lane::new(Phase::Head),
            download: Lane::new(Phase::Done),
            // Its first bytes often come with the connection itself: asking costs less than being told.
            client: Readiness { readable: true, writable: true, ..Readiness::default() },
            upstream: Readiness::default(),
            link: UpstreamState::None,
            stage: Stage::Serving,
            exchange: Exchange::default(),
            head_begun: false,
            deadline: Tick::NEVER,
            notice: None,
            refused: None,
            proxy_first: arrival.proxied,
            held_back: false,
            ends: Ends { source: arrival.peer, destination: arrival.local },
            client_ip: IpText::new(arrival.peer.ip()),
        };
        session.arm(cx.now, cx.snapshot.first_limits().idle_timeout_ms);
        if let Some(service) = arrival.tunnel_to {
            session.exchange.service = service;
            session.exchange.tunnel = true;
            if !session.proxy_first {
                session.begin_tunnel(cx);
            }
        }
        session
    }

    /// Marks what the loop learned. Nothing acts here.
    pub fn on_ready(&mut self, leg: Leg, ready: Ready, cx: &Context) {
        if leg == Leg::Upstream
            && ready.writable
            && !ready.dead
            && let UpstreamState::Open { connected, .. } = &mut self.link
            && (!*connected || !self.upstream.writable && !self.upload.is_drained())
        {
            // How long the replica took no bytes is no delay of the client's.
            *connected = true;
            self.extend_stall_deadline(cx);
        }
        let readiness = self.readiness(leg);
        readiness.readable |= ready.readable || ready.hangup || ready.dead;
        readiness.writable |= ready.writable;
        readiness.hangup |= ready.hangup || ready.dead;
        if leg == Leg::Client && ready.dead && self.stage == Stage::Serving && !self.exchange.tunnel {
            self.stage = Stage::Closing { reset: false };
        }
    }

    /// There is always one.
    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// What was noticed of a replica, and then what that came to for the client.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notice.take().or_else(|| self.refused.take())
    }

    pub fn has_notice(&self) -> bool {
        self.notice.is_some() || self.refused.is_some()
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
        match leg {
            Leg::Client => &mut self.download,
            Leg::Upstream => &mut self.upload,
        }
    }

    pub fn was_tried(&self, replica: ReplicaId) -> bool {
        self.exchange.was_tried(replica)
    }

    /// How many replicas the request was tried on.
    pub fn tries(&self) -> usize {
        self.exchange.tries()
    }

    /// Where the exchange is with an upstream, which replica that is.
    pub fn replica(&self) -> Option<ReplicaId> {
        match self.link {
            UpstreamState::Open { replica, .. } => Some(replica),
            _ => None,
        }
    }

    /// False while nothing that the client does can matter: all of its last request is here, and the response is not
    /// overdue yet.
    pub fn wants_client_events(&self) -> bool {
        let asked = self.exchange.active && self.upload.phase == Phase::Done && self.exchange.request_sent_at.is_some();
        let last = !self.exchange.keep_alive && !self.exchange.upgrade && !self.exchange.tunnel;
        let soon = !self.exchange.response_seen && !self.exchange.slow_reported;
        !(asked && last && soon && self.client.writable && self.stage == Stage::Serving)
    }

    /// What waits for the client is the last that it gets.
    fn is_final_write(&self) -> bool {
        let exchange = &self.exchange;
        let last = exchange.active && !exchange.keep_alive && !exchange.tunnel && !exchange.truncated;
        let asked = self.upload.phase == Phase::Done && self.upload.is_drained();
        last && asked && self.download.phase == Phase::Done && self.stage == Stage::Serving
    }

    /// Others may come to stand in line behind it: nothing says yet that its response is long, or the connection's last.
    pub fn may_pipeline_behind(&self) -> bool {
        !self.exchange.response_seen
    }

    /// Its response will not be through soon, so nobody should stand in line behind it.
    pub fn blocks_pipeline(&self) -> bool {
        let more = self.download.body.credit() > CAPACITY as u64;
        self.exchange.pipelined && self.download.phase == Phase::Body && (more || !self.client.writable)
    }

    /// Neither a request nor a tunnel is under way.
    pub fn is_idle(&self) -> bool {
        !self.exchange.active && !self.head_begun
    }

    /// Its bytes pass as they are: only a clean end may look like one, on either side.
    pub fn is_tunnel(&self) -> bool {
        self.exchange.tunnel
    }

    /// What to do next; `None` means that only side, the deadline or the control plane can change anything.
    pub fn next_step(&mut self) -> Option<Step> {
        match self.stage {
            // What was held back goes out with the end of the stream; closing alone would lose it if the client sent
            // something that was not read (RFC 9112 section 9.6).
            Stage::Closing { reset: false } if self.held_back => return Some(Step::ShutdownWrite(Leg::Client)),
            Stage::Closing { reset } => return Some(Step::Close { reset }),
            Stage::Lingering => return self.linger(),
            Stage::Serving => {}
        }
        if let UpstreamState::Wanted { waits, .. } = self.link {
            return (!waits).then_some(Step::Connect);
        }
        self.push(Leg::Client)
            .or_else(|| self.finish_with_upstream())
            .or_else(|| self.push(Leg::Upstream))
            .or_else(|| self.pull(Leg::Upstream))
            .or_else(|| self.pull(Leg::Client))
    }

    /// What a replica is wanted for.
    pub fn call(&self) -> Call {
        let Exchange { service, key, shareable, .. } = self.exchange;
        let again = if let UpstreamState::Wanted { again, .. } = self.link { again } else { None };
        Call { service, key, again, shareable }
    }

    /// Hears how a step went and moves the protocol on as far as it goes without I/O.
    pub fn complete(&mut self, step: Step, outcome: Outcome, cx: &mut Context) {
        match step {
            Step::Recv(leg) => self.received(leg, outcome, cx),
            Step::Send { leg, last } => self.sent(leg, last, outcome, cx),
            Step::SpliceIn(leg, _) => self.filled(leg, outcome, cx),
            Step::SpliceOut(leg, _) => self.drained(leg, outcome, cx),
            Step::Connect => {
                self.connected_to_upstream(outcome, cx);
                if matches!(self.link, UpstreamState::Open { .. }) {
                    // Nothing came and nothing left: the lanes stand as they stood.
                    return;
                }
            }
            Step::ReleaseUpstream => {
                self.link = UpstreamState::None;
                // What came behind the response was for the next in line.
                self.download.skip(usize::MAX);
            }
            Step::CloseUpstream => {
                self.link = UpstreamState::None;
                // What the replica did not take of a request that it answered is for nobody either.
                self.upload.drop_pending();
                self.upload.piped_lost();
                // What came behind the response was for nobody.
                self.download.skip(usize::MAX);
            }
            Step::ShutdownWrite(leg) => {
                self.lane_to(leg).finished = true;
                self.held_back &= leg == Leg::Upstream;
            }
            Step::Close { .. } => {}
        }
        self.advance(cx);
    }

    /// Acts on the deadline if it has passed.
    pub fn on_deadline(&mut self, cx: &mut Context) {
        if cx.now < self.deadline {
            return;
        }
        self.expire(cx);
        self.advance(cx);
    }

    /// There may be room for another connection now.
    pub fn on_room(&mut self) {
        if let UpstreamState::Wanted { waits, .. } = &mut self.link {
            *waits = false;
        }
    }

    /// The client that a PROXY header named has as many connections as it may.
    pub fn on_cap(&mut self) {
        self.stage = Stage::Closing { reset: true };
    }

    /// The balancer is stopping: idle clients are let go, others after their answer. Whether one that may have sent
    /// something is idle, reading tells.
    pub fn on_drain(&mut self) {
        if self.is_idle() && !self.client.readable && self.stage == Stage::Serving {
            self.stage = Stage::Closing { reset: false };
        }
    }

    /// The control plane says that the replica in use is down: what can go elsewhere does so now.
    pub fn on_replica_down(&mut self, cx: &mut Context) {
        if self.exchange.may_redial(self.limits(&cx.snapshot).attempts) {
            self.upstream_failed(UpstreamError::ReplicaDown, cx);
            self.advance(cx);
        }
    }

    /// Memory held for bytes on their way and for a request that may be sent again, in bytes.
    pub fn held(&self) -> usize {
        self.upload.held() + self.download.held() + self.exchange.replay.len()
    }

    /// How many buffers of the worker's pool it holds.
    pub fn buffers(&self) -> usize {
        usize::from(self.upload.has_buffer()) + usize::from(self.download.has_buffer())
    }

    /// Panics where a law is broken.
    pub fn check(&self) {
        assert!(self.held() <= HELD_MAX, "{} bytes held: {self:?}", self.held());
        self.upload.check();
        self.download.check();
        assert!(self.deadline < Tick::NEVER, "no deadline: {self:?}");
        let open = matches!(self.link, UpstreamState::Open { .. });
        assert!(!open || self.exchange.active, "an upstream without an exchange: {self:?}");
    }

    /// The response was read whole; at most the request is still on its way.
    fn is_answered(&self) -> bool {
        self.exchange.active && self.download.phase == Phase::Done && self.exchange.response_seen
    }

    fn readiness(&mut self, leg: Leg) -> &mut Readiness {
        match leg {
            Leg::Client => &mut self.client,
            Leg::Upstream => &mut self.upstream,
        }
    }

    fn limits<'a>(&self, snapshot: &'a Snapshot) -> &'a Limits {
        snapshot.limits(self.exchange.service)
    }

    fn arm(&mut self, now: Tick, ms: u64) {
        self.deadline = now.after_ms(ms);
    }
}
