//! One client connection for life: two lanes, an upstream leg that comes and goes, and the exchange under way. It is
//! a pure state machine: [`Session::next_step`] asks for a step, [`Session::complete`] hears how it went.

use std::io::ErrorKind;
use std::net::SocketAddr;

use super::body::Body;
use super::exchange::{Exchange, INTERIM_LIMIT, REPLAY_LIMIT};
use super::head::{self, HeadScan, Refusal};
use super::ip::IpText;
use super::lane::{Lane, Phase};
use super::limits::Limits;
use super::proxy::{self, Ends};
use super::request::{self, Origin, Own};
use super::snapshot::ReplicaId;
use super::step::{Call, Leg, Notice, Outcome, Ready, Step};
use super::tick::Tick;
use super::turn::Turn;
use super::{key, reply, response};

/// How long a refused client may go on sending before its connection is cut, so that it can read the refusal.
pub const LINGER_MS: u64 = 2_000;
/// A request that waits longer than this for its response makes the control plane look at the replica.
pub const SILENT_MS: u64 = 250;

#[derive(Debug)]
pub struct Session {
    upload: Lane,
    download: Lane,
    client: Side,
    upstream: Side,
    link: Link,
    stage: Stage,
    exchange: Exchange,
    /// A byte of the next head came: its deadline runs.
    head_begun: bool,
    deadline: Tick,
    notice: Option<Notice>,
    refused: Option<Notice>,
    /// A PROXY header comes before everything else.
    proxy_first: bool,
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
    pub tunnel_to: Option<usize>,
}

/// A leg's readiness, as far as edges and short transfers told.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    readable: bool,
    writable: bool,
    hangup: bool,
    /// A write met a reset, which reading will not tell again: what looks like the end is none.
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    Wanted { again: Option<ReplicaId> },
    Open { replica: ReplicaId, reused: bool, connected: bool, since: Tick },
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
enum Loss {
    Closed,
    Failed(ErrorKind),
    TimedOut,
    /// The control plane says that the replica is down.
    ReplicaDown,
}

impl Session {
    pub fn new(arrival: Arrival, turn: &mut Turn) -> Session {
        let mut session = Session {
            upload: Lane::new(Phase::Head),
            download: Lane::new(Phase::Done),
            client: Side { writable: true, ..Side::default() },
            upstream: Side::default(),
            link: Link::None,
            stage: Stage::Serving,
            exchange: Exchange::default(),
            head_begun: false,
            deadline: Tick::NEVER,
            notice: None,
            refused: None,
            proxy_first: arrival.proxied,
            ends: Ends { source: arrival.peer, destination: arrival.local },
            client_ip: IpText::new(arrival.peer.ip()),
        };
        session.arm(turn.now, turn.limits(turn.routes.default).idle_timeout_ms);
        if let Some(service) = arrival.tunnel_to {
            session.exchange.service = service;
            session.exchange.tunnel = true;
            if !session.proxy_first {
                session.begin_tunnel(turn);
            }
        }
        session
    }

    /// Marks what the loop learned. Nothing acts here.
    pub fn on_ready(&mut self, leg: Leg, ready: Ready, turn: &Turn) {
        if leg == Leg::Upstream
            && ready.writable
            && !ready.dead
            && let Link::Open { connected, .. } = &mut self.link
            && !*connected
        {
            *connected = true;
            self.moved(turn);
        }
        let side = self.side(leg);
        side.readable |= ready.readable || ready.hangup || ready.dead;
        side.writable |= ready.writable;
        side.hangup |= ready.hangup || ready.dead;
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

    /// Where the exchange is with an upstream, which replica that is.
    pub fn replica(&self) -> Option<ReplicaId> {
        match self.link {
            Link::Open { replica, .. } => Some(replica),
            _ => None,
        }
    }

    /// Neither a request nor a tunnel is under way.
    pub fn is_idle(&self) -> bool {
        !self.exchange.active && !self.head_begun
    }

    /// Its bytes pass as they are: only a clean end may look like one, on either side.
    pub fn is_tunnel(&self) -> bool {
        self.exchange.tunnel
    }

    /// What to do next; `None` means that only readiness, the deadline or the control plane can change anything.
    pub fn next_step(&mut self) -> Option<Step> {
        match self.stage {
            Stage::Closing { reset } => return Some(Step::Close { reset }),
            Stage::Lingering => return self.linger(),
            Stage::Serving => {}
        }
        if let Link::Wanted { again } = self.link {
            return Some(Step::Dial(Call { service: self.exchange.service, key: self.exchange.key, again }));
        }
        self.push(Leg::Client)
            .or_else(|| self.part())
            .or_else(|| self.push(Leg::Upstream))
            .or_else(|| self.pull(Leg::Upstream))
            .or_else(|| self.pull(Leg::Client))
    }

    /// Hears how a step went and moves the protocol on as far as it goes without I/O.
    pub fn complete(&mut self, step: Step, outcome: Outcome, turn: &mut Turn) {
        match step {
            Step::Recv(leg) => self.received(leg, outcome, turn),
            Step::Send(leg) => self.sent(leg, outcome, turn),
            Step::Fill(leg, _) => self.filled(leg, outcome, turn),
            Step::Drain(leg, _) => self.drained(leg, outcome, turn),
            Step::Dial(_) => self.dialled(outcome, turn),
            Step::Park => self.link = Link::None,
            Step::Hangup => {
                self.link = Link::None;
                self.upload.piped_lost();
                // What came behind the response was for nobody.
                self.download.skip(usize::MAX);
            }
            Step::Finish(leg) => self.lane_to(leg).finished = true,
            Step::Close { .. } => {}
        }
        self.settle(turn);
    }

    /// Acts on the deadline if it has passed.
    pub fn on_deadline(&mut self, turn: &mut Turn) {
        if turn.now < self.deadline {
            return;
        }
        self.expire(turn);
        self.settle(turn);
    }

    /// The balancer is stopping: idle clients are let go, others after their answer.
    pub fn on_drain(&mut self) {
        if self.is_idle() && self.stage == Stage::Serving {
            self.stage = Stage::Closing { reset: false };
        }
    }

    /// The control plane says that the replica in use is down: what can go elsewhere does so now.
    pub fn on_replica_down(&mut self, turn: &mut Turn) {
        if self.exchange.may_redial(self.limits(turn).attempts) {
            self.lost(Loss::ReplicaDown, turn);
            self.settle(turn);
        }
    }

    /// Panics where a law is broken.
    pub fn check(&self) {
        self.upload.check();
        self.download.check();
        assert!(self.deadline < Tick::NEVER, "no deadline: {self:?}");
        let open = matches!(self.link, Link::Open { .. });
        assert!(!open || self.exchange.active, "an upstream without an exchange: {self:?}");
    }

    // What to do next.

    /// Sends on what the lane to `leg` holds.
    fn push(&mut self, leg: Leg) -> Option<Step> {
        if leg == Leg::Upstream && !matches!(self.link, Link::Open { .. }) {
            return None;
        }
        let tunnel = self.exchange.tunnel;
        let writable = self.side(leg).writable;
        let lane = self.lane_to(leg);
        if lane.has_pending() {
            writable.then_some(Step::Send(leg))
        } else if lane.piped() > 0 {
            writable.then_some(Step::Drain(leg, lane.piped()))
        } else {
            (tunnel && lane.ended && !lane.finished).then_some(Step::Finish(leg))
        }
    }

    /// Reads from `leg` if its lane can take more.
    fn pull(&mut self, leg: Leg) -> Option<Step> {
        let open = leg == Leg::Client || matches!(self.link, Link::Open { .. });
        let readable = self.side(leg).readable;
        let lane = self.lane_from(leg);
        if !open || !readable || !lane.is_hungry() {
            return None;
        }
        Some(match lane.fill_ask() {
            Some(ask) => Step::Fill(leg, ask),
            None => Step::Recv(leg),
        })
    }

    /// Lets the upstream connection go once the response was read whole. A request that is still on its way behind
    /// its response goes on, for as long as the replica keeps the connection (RFC 9112 section 9.3).
    fn part(&mut self) -> Option<Step> {
        if !matches!(self.link, Link::Open { .. }) || self.download.phase != Phase::Done {
            return None;
        }
        let asked = self.upload.phase == Phase::Done && self.upload.is_drained();
        let quiet = !self.download.has_unscanned() && !self.download.ended && !self.upstream.hangup;
        match (self.exchange.reusable && quiet, asked) {
            (false, _) => Some(Step::Hangup),
            (true, false) => None,
            // What a replica makes of a body that it answered before is not ours to guess.
            (true, true) if self.exchange.early => Some(Step::Hangup),
            // Its edge was used up: what may be left in the socket would be taken for the next response.
            (true, true) if self.upstream.readable => Some(Step::Recv(Leg::Upstream)),
            (true, true) => Some(Step::Park),
        }
    }

    /// The response was read whole; at most the request is still on its way.
    fn is_answered(&self) -> bool {
        self.exchange.active && self.download.phase == Phase::Done && self.exchange.response_seen
    }

    fn linger(&mut self) -> Option<Step> {
        if !self.download.finished {
            return Some(Step::Finish(Leg::Client));
        }
        self.client.readable.then_some(Step::Recv(Leg::Client))
    }

    // How it went.

    fn received(&mut self, leg: Leg, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                let more = self.lane_from(leg).read(n as usize);
                let side = self.side(leg);
                side.readable = more || side.hangup;
                if leg == Leg::Upstream && !self.exchange.left && !self.exchange.tunnel {
                    // Nobody was asked anything yet: this cannot be the answer.
                    return self.lost(Loss::Closed, turn);
                }
                self.came(leg, turn);
            }
            Outcome::Ended => self.source_ended(leg, turn),
            Outcome::Failed(kind) => self.leg_failed(leg, kind, turn),
            _ => self.side(leg).readable = false,
        }
    }

    fn filled(&mut self, leg: Leg, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                self.lane_from(leg).piped_in(n);
                self.came(leg, turn);
            }
            Outcome::Ended => self.source_ended(leg, turn),
            Outcome::Failed(kind) => self.leg_failed(leg, kind, turn),
            Outcome::Unspliceable => self.lane_from(leg).refuse_splice(),
            _ => self.side(leg).readable = false,
        }
    }

    fn sent(&mut self, leg: Leg, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                let lane = self.lane_to(leg);
                let short = (n as usize) < lane.pending().len();
                lane.sent(n as usize);
                self.side(leg).writable = !short;
                self.went(leg, turn);
            }
            Outcome::Failed(kind) => self.sink_failed(leg, kind, turn),
            _ => self.side(leg).writable = false,
        }
    }

    fn drained(&mut self, leg: Leg, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Moved(n) => {
                self.lane_to(leg).piped_out(n);
                self.went(leg, turn);
            }
            Outcome::Failed(kind) => self.sink_failed(leg, kind, turn),
            _ => self.side(leg).writable = false,
        }
    }

    fn dialled(&mut self, outcome: Outcome, turn: &mut Turn) {
        match outcome {
            Outcome::Dialed { replica, reused } => {
                self.link = Link::Open { replica, reused, connected: reused, since: turn.now };
                self.upstream = Side { writable: true, ..Side::default() };
                self.download.ended = false;
                self.exchange.tried(replica);
                self.exchange.left = false;
                if let Some(version) =
                    turn.service(self.exchange.service).and_then(|s| s.send_proxy).filter(|_| !reused)
                {
                    self.upload.prepend(&proxy::write(version, self.ends));
                }
                if !self.exchange.tunnel {
                    self.download.restart(Phase::Head);
                }
                let limits = self.limits(turn);
                self.arm(turn.now, if reused { limits.stall_timeout_ms } else { limits.connect_timeout_ms });
            }
            Outcome::Undialable { replica, why } => {
                self.exchange.tried(replica);
                self.exchange.timed_out = false;
                self.notice = Some(Notice::ConnectFailed { replica, why });
                if self.exchange.may_redial(self.limits(turn).attempts) {
                    self.link = Link::Wanted { again: None };
                } else {
                    self.unreachable(turn);
                }
            }
            _ => self.unreachable(turn),
        }
    }

    fn unreachable(&mut self, turn: &Turn) {
        self.link = Link::None;
        match (self.exchange.tries(), self.exchange.timed_out) {
            (0, _) => self.answer(503, "no replica is available", turn),
            (_, true) => self.answer(504, "no replica could be reached in time", turn),
            _ => self.answer(502, "no replica could be reached", turn),
        }
    }

    /// Bytes came in from `leg`.
    fn came(&mut self, leg: Leg, turn: &Turn) {
        if self.stage == Stage::Lingering {
            self.upload.drop_all();
            return;
        }
        match leg {
            Leg::Upstream => self.exchange.response_seen = true,
            Leg::Client if self.exchange.active => self.exchange.mark = None,
            Leg::Client if !self.head_begun => {
                self.head_begun = true;
                self.arm(turn.now, turn.limits(turn.routes.default).head_timeout_ms);
            }
            Leg::Client => {}
        }
        if leg == Leg::Client || self.download.phase != Phase::Head {
            self.moved(turn);
        }
    }

    /// Bytes went out to `leg`.
    fn went(&mut self, leg: Leg, turn: &mut Turn) {
        if leg == Leg::Upstream {
            self.exchange.left = true;
            if let Link::Open { connected, .. } = &mut self.link {
                *connected = true;
            }
            if !self.exchange.tunnel && self.upload.phase == Phase::Done && self.upload.is_drained() {
                self.asked(turn);
                return;
            }
            if self.upload.is_drained() {
                self.exchange.mark = None;
            }
        }
        self.moved(turn);
    }

    /// The request is out, whole: the wait for its response begins.
    fn asked(&mut self, turn: &mut Turn) {
        if self.exchange.response_seen {
            return;
        }
        if let Some(mark) = self.exchange.mark.take()
            && self.exchange.idempotent
        {
            let request = self.upload.sent_since(mark);
            if request.len() <= REPLAY_LIMIT {
                self.exchange.replay = turn.pool.copy(request);
            }
        }
        self.exchange.asked_at = Some(turn.now);
        self.arm(turn.now, SILENT_MS.min(self.limits(turn).response_timeout_ms));
    }

    /// Progress puts the stall deadline off.
    fn moved(&mut self, turn: &Turn) {
        let limits = self.limits(turn);
        let connecting = matches!(self.link, Link::Open { connected: false, .. });
        if self.exchange.tunnel {
            if !connecting {
                self.arm(turn.now, limits.tunnel_timeout_ms);
            }
        } else if self.exchange.active && !connecting {
            self.arm(turn.now, limits.stall_timeout_ms);
        }
    }

    fn source_ended(&mut self, leg: Leg, turn: &mut Turn) {
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

    fn leg_failed(&mut self, leg: Leg, kind: ErrorKind, turn: &mut Turn) {
        match leg {
            Leg::Client => self.stage = Stage::Closing { reset: true },
            // The response is here whole, whatever became of its connection since.
            Leg::Upstream if self.download.phase == Phase::Done => self.upstream.hangup = true,
            Leg::Upstream => self.lost(Loss::Failed(kind), turn),
        }
    }

    /// A replica that stopped reading may have answered all the same: reading tells (RFC 9112 section 9.5).
    fn sink_failed(&mut self, leg: Leg, kind: ErrorKind, turn: &mut Turn) {
        match leg {
            Leg::Client => self.stage = Stage::Closing { reset: true },
            // Nothing was connected: what waits to be sent goes to another replica.
            Leg::Upstream if matches!(self.link, Link::Open { connected: false, .. }) => {
                self.lost(Loss::Failed(kind), turn);
            }
            Leg::Upstream => {
                // After a FIN it would have been EPIPE.
                self.upstream =
                    Side { readable: true, writable: false, hangup: true, cut: kind != ErrorKind::BrokenPipe };
                if self.download.phase == Phase::Body && self.exchange.tunnel {
                    self.upload.drop_all();
                }
            }
        }
    }

    /// The upstream connection is of no more use before the response was through.
    fn lost(&mut self, loss: Loss, turn: &mut Turn) {
        let Link::Open { replica, reused, connected, since } = self.link else { return };
        let seen = self.exchange.response_seen;
        let after_ms = turn.now.ms_since(self.exchange.asked_at.unwrap_or(since));
        self.exchange.timed_out = loss == Loss::TimedOut;
        self.notice = match (loss, connected) {
            (Loss::TimedOut, false) => Some(Notice::ConnectTimedOut { replica, after_ms }),
            (Loss::TimedOut, true) => Some(Notice::ResponseTimedOut { replica, after_ms }),
            (Loss::Failed(why), false) => Some(Notice::ConnectFailed { replica, why }),
            (Loss::ReplicaDown, _) => None,
            _ => (!reused || seen).then_some(Notice::Hungup { replica }),
        };
        let patient = connected && loss == Loss::TimedOut;
        if !patient && self.exchange.may_redial(self.limits(turn).attempts.saturating_add(u32::from(reused))) {
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

    fn redial(&mut self, again: Option<ReplicaId>, turn: &Turn) {
        if !self.exchange.replay.is_empty() {
            self.upload.push_prefix(self.exchange.replay.clone().into());
        } else if let Some(mark) = self.exchange.mark {
            self.upload.resend_from(mark);
        }
        self.download.drop_all();
        self.exchange.asked_at = None;
        self.exchange.left = false;
        self.link = Link::Wanted { again };
        self.arm(turn.now, self.limits(turn).connect_timeout_ms);
    }

    // The protocol.

    /// Moves both lanes on until only I/O can.
    fn settle(&mut self, turn: &mut Turn) {
        while self.stage == Stage::Serving {
            self.advance_upload(turn);
            self.advance_download(turn);
            let answered = self.download.phase == Phase::Done && self.download.is_drained();
            if self.exchange.tunnel {
                if self.upload.finished && self.download.finished {
                    self.stage = Stage::Closing { reset: false };
                }
                break;
            }
            if !self.exchange.active || !answered || self.link != Link::None {
                break;
            }
            self.end_exchange(turn);
        }
        if self.upload.is_drained() {
            self.upload.reclaim(turn.pool);
        }
        if self.download.is_drained() {
            self.download.reclaim(turn.pool);
        }
    }

    /// The bytes of the client go to its service as they are.
    fn begin_tunnel(&mut self, turn: &mut Turn) {
        let service = self.exchange.service;
        let fresh = turn.choices.draw();
        let key = turn.service(service).map_or(fresh, |s| key::of(&s.key, b"", &[], self.client_ip.text(), fresh));
        self.exchange.begin(service, key);
        self.exchange.tunnel = true;
        self.open_tunnel();
        self.link = Link::Wanted { again: None };
        self.arm(turn.now, turn.limits(service).tunnel_timeout_ms);
    }

    /// Takes a PROXY header off the front, if one is due.
    fn read_proxy(&mut self, turn: &mut Turn) -> Result<(), &'static str> {
        let Some((len, ends)) = proxy::read(self.upload.unscanned())? else { return Ok(()) };
        self.upload.skip(len);
        self.proxy_first = false;
        self.head_begun = self.upload.has_unscanned();
        if let Some(ends) = ends {
            self.ends = ends;
            self.client_ip = IpText::new(ends.source.ip());
        }
        if self.exchange.tunnel {
            self.begin_tunnel(turn);
        }
        Ok(())
    }

    fn advance_upload(&mut self, turn: &mut Turn) {
        if self.proxy_first
            && self.upload.has_unscanned()
            && let Err(why) = self.read_proxy(turn)
        {
            self.refused = Some(Notice::Refused { status: 0, why });
            self.stage = Stage::Closing { reset: true };
        }
        if self.proxy_first {
            return;
        }
        if self.upload.phase == Phase::Head
            && !self.exchange.active
            && self.upload.has_unscanned()
            && let Err(refusal) = self.read_request(turn)
        {
            self.answer(refusal.status, refusal.why, turn);
        }
        if self.upload.phase == Phase::Body
            && let Err(fault) = self.upload.advance_body()
        {
            self.spoiled(fault.0, turn);
        }
    }

    fn advance_download(&mut self, turn: &mut Turn) {
        while self.download.phase == Phase::Head && self.download.has_unscanned() && !self.download.has_pending() {
            match self.read_response(turn) {
                Ok(true) => {}
                Ok(false) => break,
                Err(why) => return self.bad_response(why, turn),
            }
        }
        if self.download.phase == Phase::Body && self.download.advance_body().is_err() {
            self.truncate();
        }
    }

    /// Reads a request head if it is here whole, and asks for a replica.
    fn read_request(&mut self, turn: &mut Turn) -> Result<(), Refusal> {
        let limits = turn.limits(turn.routes.default);
        let mut scan: HeadScan = self.upload.head;
        let blank = scan.skip_blank(self.upload.unscanned())?;
        self.upload.skip(blank);
        let bytes = self.upload.unscanned();
        if HeadScan::is_hopeless(bytes) {
            return Err(head::refusal(400, "this is not HTTP/1"));
        }
        let whole = if HeadScan::is_blank_start(bytes) { None } else { scan.find(bytes, limits)? };
        self.upload.head = scan;
        let Some(len) = whole else { return self.head_awaited(blank, turn) };
        let head = self.upload.unscanned().get(..len).unwrap_or_default();
        let mut room = head::room();
        let request = head::parse_request(head, &mut room, limits)?;
        let target = head::origin_form(request.target).as_bytes();
        let index = turn.routes.service(key::path(target));
        let service = turn.service(index).ok_or(head::refusal(503, "no service is configured"))?;
        let client_ip = self.client_ip.text();
        let origin = Origin { client_ip, proto: b"http", service: &service.name };
        turn.edits.clear();
        let plan = request::plan(head, &request, limits, origin, turn.edits)?;
        let key = key::of(&service.key, target, request.fields, client_ip, turn.choices.draw());
        let edits = &*turn.edits;
        self.upload.release_head(len, |store, from, to| edits.apply(store, from, to));
        self.upload.body = plan.body;
        self.upload.phase = Phase::Body;
        self.head_begun = false;
        self.exchange.begin(index, key);
        self.exchange.minor = plan.minor;
        self.exchange.keep_alive = plan.keep_alive;
        self.exchange.lingers = plan.keep_alive;
        self.exchange.is_head = plan.is_head;
        self.exchange.idempotent = plan.idempotent;
        self.exchange.upgrade = plan.upgrade;
        self.exchange.mark = Some(self.upload.mark());
        match plan.own {
            Some(Own::Options) => self.answer_with(reply::options(turn.date)),
            Some(Own::Trace(request)) => self.answer_with(reply::trace(&request, turn.date)),
            None => self.link = Link::Wanted { again: None },
        }
        self.arm(turn.now, service.limits.connect_timeout_ms);
        Ok(())
    }

    /// The head is not here whole.
    fn head_awaited(&mut self, blank: usize, turn: &Turn) -> Result<(), Refusal> {
        if self.upload.head.is_unversioned(self.upload.unscanned()) {
            return Err(head::UNVERSIONED);
        }
        if blank > 0 && !self.upload.has_unscanned() {
            // Empty lines after a request are no beginning of another one.
            self.head_begun = false;
            self.arm(turn.now, turn.limits(turn.routes.default).idle_timeout_ms);
        }
        Ok(())
    }

    /// Reads a response head if it is here whole; true if there may be another one behind it.
    fn read_response(&mut self, turn: &mut Turn) -> Result<bool, &'static str> {
        let limits = self.limits(turn);
        let mut scan = self.download.head;
        let whole = scan.find(self.download.unscanned(), limits).map_err(|refusal| refusal.why)?;
        self.download.head = scan;
        let Some(len) = whole else { return Ok(false) };
        let head = self.download.unscanned().get(..len).unwrap_or_default();
        let mut room = head::room();
        let parsed = head::parse_response(head, &mut room, limits)?;
        let mut asked = self.exchange.asked();
        asked.keep_alive &= !turn.stopping && self.upload.phase == Phase::Done && !self.upload.ended;
        turn.edits.clear();
        let plan = response::plan(head, &parsed, asked, turn.date, turn.edits)?;
        self.download.head.reset();
        if plan.is_interim() {
            self.exchange.interims += 1;
            if self.exchange.interims > INTERIM_LIMIT {
                return Err("too many interim responses");
            }
            self.exchange.asked_at = self.exchange.asked_at.map(|_| turn.now);
            self.arm(turn.now, limits.response_timeout_ms);
            if self.exchange.minor == 0 {
                self.download.skip(len);
                return Ok(true);
            }
        }
        let edits = &*turn.edits;
        self.download.release_head(len, |store, from, to| edits.apply(store, from, to));
        if plan.is_interim() {
            return Ok(true);
        }
        turn.pool.forget(std::mem::take(&mut self.exchange.replay));
        self.exchange.keep_alive = plan.keep_alive;
        self.exchange.early = self.upload.phase != Phase::Done || !self.upload.is_drained();
        self.exchange.reusable =
            plan.reusable && turn.service(self.exchange.service).is_some_and(|s| s.send_proxy.is_none());
        self.download.body = plan.body;
        self.download.phase = Phase::Body;
        if plan.status == 101 {
            self.exchange.tunnel = true;
            self.open_tunnel();
        }
        self.arm(turn.now, limits.stall_timeout_ms);
        Ok(false)
    }

    fn open_tunnel(&mut self) {
        for lane in [&mut self.upload, &mut self.download] {
            lane.body = Body::Tunnel;
            lane.phase = Phase::Body;
        }
    }

    fn end_exchange(&mut self, turn: &mut Turn) {
        let whole = self.upload.phase == Phase::Done;
        let exchange = &mut self.exchange;
        exchange.active = false;
        if exchange.truncated {
            let reset = self.download.body.is_close_delimited();
            self.stage = Stage::Closing { reset };
        } else if exchange.keep_alive && whole && !turn.stopping && !self.upload.ended {
            self.upload.restart(Phase::Head);
            self.download.restart(Phase::Done);
            self.arm(turn.now, turn.limits(turn.routes.default).idle_timeout_ms);
            if self.upload.has_unscanned() {
                self.head_begun = true;
                self.arm(turn.now, turn.limits(turn.routes.default).head_timeout_ms);
            }
        } else if (exchange.lingers || !whole || self.client.readable) && !self.upload.ended {
            self.stage = Stage::Lingering;
            self.upload.restart(Phase::Body);
            self.upload.drop_all();
            self.arm(turn.now, LINGER_MS);
        } else {
            self.stage = Stage::Closing { reset: false };
        }
    }

    /// The client's own framing is broken: its fault, and nothing more of it reaches the replica.
    fn spoiled(&mut self, why: &'static str, turn: &mut Turn) {
        self.answer(400, why, turn);
    }

    fn bad_response(&mut self, why: &'static str, turn: &mut Turn) {
        let replica = self.replica();
        self.answer(502, why, turn);
        if let Some(replica) = replica {
            self.notice = Some(Notice::BadResponse { replica, why });
        }
    }

    /// The response cannot be completed: what was read still goes out, and then the connection breaks.
    fn truncate(&mut self) {
        self.exchange.truncated = true;
        self.exchange.keep_alive = false;
        self.exchange.reusable = false;
        self.download.phase = Phase::Done;
    }

    /// The balancer's own last word, where the client can still understand it; otherwise a cut.
    fn answer(&mut self, status: u16, why: &'static str, turn: &Turn) {
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
        self.answer_with(reply::reply(status, why, self.exchange.is_head, turn.date));
        self.arm(turn.now, self.limits(turn).stall_timeout_ms);
    }

    /// An interim response that is still on its way goes first.
    fn answer_with(&mut self, mut reply: bytes::Bytes) {
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

    fn expire(&mut self, turn: &mut Turn) {
        let waiting = self.upload.phase == Phase::Done && self.upload.is_drained();
        match self.link {
            _ if self.stage != Stage::Serving => self.stage = Stage::Closing { reset: false },
            _ if !self.exchange.active && self.head_begun => {
                self.answer(408, "the request head did not come in time", turn);
            }
            _ if !self.exchange.active => self.stage = Stage::Closing { reset: false },
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
        let since = self.exchange.asked_at.unwrap_or(turn.now);
        let timeout_ms = self.limits(turn).response_timeout_ms;
        let after_ms = turn.now.ms_since(since);
        if after_ms >= timeout_ms {
            return self.lost(Loss::TimedOut, turn);
        }
        if !self.exchange.told_silent {
            self.exchange.told_silent = true;
            self.notice = Some(Notice::Silent { replica, after_ms });
        }
        self.deadline = since.after_ms(timeout_ms);
    }

    fn side(&mut self, leg: Leg) -> &mut Side {
        match leg {
            Leg::Client => &mut self.client,
            Leg::Upstream => &mut self.upstream,
        }
    }

    fn limits<'a>(&self, turn: &Turn<'a>) -> &'a Limits {
        turn.limits(self.exchange.service)
    }

    fn arm(&mut self, now: Tick, ms: u64) {
        self.deadline = now.after_ms(ms);
    }
}
