//! A session without sockets: bytes in and bytes out on both sides, in pieces of any size, and a scripted replica.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use ringway::core::buffer::BufferPool;
use ringway::core::context::Context;
use ringway::core::limits::Limits;
use ringway::core::request::Scheme;
use ringway::core::ring::{Member, Ring, RingKind};
use ringway::core::session::{Arrival, Session};
use ringway::core::snapshot::{KeyPolicy, Lifecycle, ListenerId, Mode, ReplicaId, Service, Snapshot};
use ringway::core::step::{Connect, Connection, Ending, Io, Leg, Notice, Ready, SpliceIn, Step};
use ringway::core::tick::Tick;

use crate::strict;

pub const DATE_LINE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 40000);
const OURS: ([u8; 4], u16) = ([10, 0, 0, 9], 80);
/// More steps than any row takes: a session that goes on for longer is stuck in a circle.
const STEPS: usize = 1_000_000;

/// How bytes of one side arrive.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Whole,
    At(usize),
    Bytes,
}

/// What one side sends, cut.
#[derive(Debug, Default)]
struct Feed {
    pieces: VecDeque<Vec<u8>>,
    here: VecDeque<u8>,
    end: Option<End>,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

impl Feed {
    fn add(&mut self, bytes: &[u8], cut: Cut) {
        match cut {
            Cut::Whole => self.pieces.push_back(bytes.to_vec()),
            Cut::At(at) => {
                self.pieces.extend([bytes[..at.min(bytes.len())].to_vec(), bytes[at.min(bytes.len())..].to_vec()])
            }
            Cut::Bytes => self.pieces.extend(bytes.iter().map(|b| vec![*b])),
        }
        self.pieces.retain(|piece| !piece.is_empty());
    }

    /// Lets the next piece arrive; what the loop would be told of it.
    fn arrive(&mut self) -> Option<Ready> {
        if let Some(piece) = self.pieces.pop_front() {
            self.here.extend(piece);
            return Some(Ready { readable: true, ..Ready::default() });
        }
        if self.end.is_some() && !self.ended {
            self.ended = true;
            return Some(Ready { readable: true, hangup: true, ..Ready::default() });
        }
        None
    }

    fn recv(&mut self, space: &mut [u8]) -> Io {
        let n = space.len().min(self.here.len());
        for (place, byte) in space.iter_mut().zip(self.here.drain(..n)) {
            *place = byte;
        }
        match (n, self.ended, self.end) {
            (0, true, Some(End::Fin)) => Io::Ended,
            (0, true, Some(End::Reset)) => Io::Failed(ErrorKind::ConnectionReset),
            (0, _, _) => Io::Blocked,
            _ => Io::Moved(n as u64),
        }
    }
}

/// What a replica does for one request.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub bytes: Vec<u8>,
    /// As soon as the request's head is there.
    pub early: bool,
    pub end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    InUse,
    Released,
    Closed,
}

#[derive(Debug)]
pub struct Upstream {
    pub received: Vec<u8>,
    pub fate: Fate,
    pub finished: bool,
    answered: usize,
    looked_at: usize,
    feed: Feed,
}

pub struct Rig {
    pub session: Session,
    pub to_client: Vec<u8>,
    pub upstreams: Vec<Upstream>,
    /// How the client's connection was closed.
    pub closed: Option<Ending>,
    pub client_finished: bool,
    pub notices: Vec<Notice>,
    /// What the next connects come to; a connection where nothing is said.
    pub connects: VecDeque<Connect>,
    /// So many sends to replicas fail from now on.
    broken_sends: usize,
    /// The most that the session held.
    pub held_most: usize,
    /// So many bytes the client, and replicas, still take.
    client_room: usize,
    replica_room: usize,
    /// The client keeps its side open although it was told that nothing more comes.
    pub client_ignores_end: bool,
    client: Feed,
    answers: VecDeque<Answer>,
    cut: Cut,
    cx: Context,
}

impl Rig {
    pub fn new(limits: Limits) -> Rig {
        let service = Service {
            name: "service".into(),
            mode: Mode::Http,
            policy: Default::default(),
            key: KeyPolicy::Request,
            limits: Arc::new(limits),
            replicas: Vec::new(),
            send_proxy: None,
            tls: None,
            max_5xx_in_a_row: None,
            queue_heads: Arc::default(),
            is_removed: false,
            ring: Arc::new(Ring::build(RingKind::Ketama, &[Member::new("a", 1)])),
        };
        let snapshot = Snapshot::of_service(1, service);
        let mut cx = Context::new(Tick(1), Arc::new(snapshot), BufferPool::new(4), 1);
        cx.date_line = DATE_LINE.into();
        let arrival = Arrival {
            peer: SocketAddr::from(CLIENT),
            local: SocketAddr::from(OURS),
            proxied: false,
            listener: ListenerId(0),
            scheme: Scheme::Http,
        };
        let session = Session::new(arrival, &mut cx);
        Rig {
            session,
            to_client: Vec::new(),
            upstreams: Vec::new(),
            closed: None,
            client_finished: false,
            notices: Vec::new(),
            connects: VecDeque::new(),
            broken_sends: 0,
            held_most: 0,
            client_room: usize::MAX,
            replica_room: usize::MAX,
            client_ignores_end: false,
            client: Feed::default(),
            answers: VecDeque::new(),
            cut: Cut::Whole,
            cx,
        }
    }

    pub fn client_sends(&mut self, bytes: &[u8], cut: Cut) {
        self.client.add(bytes, cut);
    }

    pub fn client_ends(&mut self, end: End) {
        self.client.end = Some(end);
    }

    pub fn replica_answers(&mut self, answers: impl IntoIterator<Item = Answer>, cut: Cut) {
        self.answers.extend(answers);
        self.cut = cut;
    }

    /// Bytes on an upstream connection that belong to no request.
    pub fn replica_says(&mut self, upstream: usize, bytes: &[u8]) {
        self.upstreams[upstream].feed.add(bytes, Cut::Whole);
    }

    pub fn replica_ends(&mut self, upstream: usize, end: End) {
        self.upstreams[upstream].feed.end = Some(end);
    }

    /// Replicas take so many bytes more, and then none.
    pub fn replica_takes(&mut self, bytes: usize) {
        self.replica_room = bytes;
        self.writable(Leg::Upstream);
    }

    /// The client takes so many bytes more, and then none.
    pub fn client_takes(&mut self, bytes: usize) {
        self.client_room = bytes;
        self.writable(Leg::Client);
    }

    fn writable(&mut self, leg: Leg) {
        let room = *self.room(leg) > 0;
        if room && (leg == Leg::Client || self.session.replica().is_some()) {
            let ready = Ready { writable: true, ..Ready::default() };
            self.with_context(|session, cx| session.on_ready(leg, ready, cx));
        }
    }

    fn room(&mut self, leg: Leg) -> &mut usize {
        match leg {
            Leg::Client => &mut self.client_room,
            Leg::Upstream => &mut self.replica_room,
        }
    }

    pub fn break_sends(&mut self, times: usize) {
        self.broken_sends = times;
    }

    /// Steps until nothing can happen any more but the passing of time.
    pub fn run(&mut self) {
        for _ in 0..STEPS {
            if self.closed.is_some() {
                return;
            }
            match self.session.next_step() {
                Some(step) => self.take(step),
                None if self.arrive() => {}
                None => return,
            }
        }
        panic!("still busy after {STEPS} steps: {:?}", self.session);
    }

    /// Time passes: the session acts on its deadline if that has passed.
    pub fn pass(&mut self, ms: u64) {
        self.cx.now = self.cx.now.after_ms(ms);
        self.with_context(|session, cx| session.on_deadline(cx));
        self.run();
    }

    /// Nothing happens until the session's deadline has passed.
    pub fn time_out(&mut self) {
        self.cx.now = Tick(self.session.deadline().0.max(self.cx.now.0));
        self.with_context(|session, cx| session.on_deadline(cx));
        self.run();
    }

    /// Everything that replicas received, connection by connection.
    pub fn received(&self) -> Vec<u8> {
        self.upstreams.iter().flat_map(|upstream| upstream.received.clone()).collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Recv(leg) => {
                let io = self.recv(leg);
                self.with_context(|session, cx| session.received(leg, io, cx));
            }
            Step::Send { leg, flush } => {
                let io = self.send(leg);
                self.with_context(|session, cx| session.sent(leg, flush, io, cx));
            }
            Step::SpliceIn(leg, _) => {
                self.with_context(|session, cx| session.spliced_in(leg, SpliceIn::Unsupported, cx));
            }
            Step::SpliceOut(..) => panic!("nothing was spliced"),
            Step::Connect(_) => {
                let outcome = self.connect();
                self.with_context(|session, cx| session.connected(outcome, cx));
            }
            Step::ReleaseUpstream => {
                current(&mut self.upstreams).fate = Fate::Released;
                self.with_context(Session::upstream_released);
            }
            Step::CloseUpstream => {
                current(&mut self.upstreams).fate = Fate::Closed;
                self.with_context(Session::upstream_closed);
            }
            Step::ShutdownWrite(leg) => {
                match leg {
                    Leg::Client => self.client_finished = true,
                    Leg::Upstream => current(&mut self.upstreams).finished = true,
                }
                self.with_context(|session, cx| session.write_shut_down(leg, cx));
            }
            Step::Close(ending) => return self.close(ending),
        }
        self.session.check(&self.cx.snapshot);
        self.held_most = self.held_most.max(self.session.held());
        while let Some(notice) = self.session.take_notice() {
            self.notices.push(notice);
        }
        self.answer_requests();
    }

    fn recv(&mut self, leg: Leg) -> Io {
        let space = self.session.lane_from(leg).space(&mut self.cx.pool);
        match leg {
            Leg::Client => self.client.recv(space),
            Leg::Upstream => current(&mut self.upstreams).feed.recv(space),
        }
    }

    fn send(&mut self, leg: Leg) -> Io {
        if leg == Leg::Upstream && self.broken_sends > 0 {
            self.broken_sends -= 1;
            current(&mut self.upstreams).feed.arrive();
            return Io::Failed(ErrorKind::BrokenPipe);
        }
        if *self.room(leg) == 0 {
            return Io::Blocked;
        }
        let mut bytes = self.session.lane_to(leg).pending().to_vec();
        bytes.truncate(*self.room(leg));
        *self.room(leg) -= bytes.len();
        match leg {
            Leg::Client => self.to_client.extend_from_slice(&bytes),
            Leg::Upstream => current(&mut self.upstreams).received.extend_from_slice(&bytes),
        }
        Io::Moved(bytes.len() as u64)
    }

    fn close(&mut self, ending: Ending) {
        self.closed = Some(ending);
        if let Some(upstream) = self.upstreams.last_mut().filter(|upstream| upstream.fate == Fate::InUse) {
            upstream.fate = Fate::Closed;
        }
    }

    fn connect(&mut self) -> Connect {
        if let Some(upstream) = self.upstreams.last_mut().filter(|upstream| upstream.fate == Fate::InUse) {
            upstream.fate = Fate::Closed;
        }
        if let Some(outcome) = self.connects.pop_front() {
            if !matches!(outcome, Connect::Connected { .. }) {
                return outcome;
            }
        } else if let Some(upstream) = self.upstreams.last_mut()
            && upstream.fate == Fate::Released
        {
            upstream.fate = Fate::InUse;
            return Connect::Connected { replica: ReplicaId(1), connection: Connection::Reused };
        }
        self.upstreams.push(Upstream {
            received: Vec::new(),
            fate: Fate::InUse,
            finished: false,
            answered: 0,
            looked_at: 0,
            feed: Feed::default(),
        });
        Connect::Connected { replica: ReplicaId(self.upstreams.len() as u64), connection: Connection::New }
    }

    /// The replica answers each request once it has it whole (or its head, where it is hasty).
    fn answer_requests(&mut self) {
        let Some(upstream) = self.upstreams.last_mut() else { return };
        if upstream.received.len() == upstream.looked_at {
            return;
        }
        upstream.looked_at = upstream.received.len();
        let (whole, len) = strict::requests(&upstream.received);
        let partly = strict::has_head(&upstream.received[len..]);
        let early = self.answers.front().is_some_and(|answer| answer.early);
        let due = whole.len() + usize::from(partly && early);
        while upstream.answered < due
            && let Some(answer) = self.answers.pop_front()
        {
            upstream.answered += 1;
            upstream.feed.add(&answer.bytes, self.cut);
            upstream.feed.end = answer.end;
        }
    }

    /// Something arrives; false if nothing is on its way.
    fn arrive(&mut self) -> bool {
        if let Some(upstream) = self.upstreams.last_mut()
            && upstream.fate == Fate::InUse
            && let Some(ready) = upstream.feed.arrive()
        {
            self.with_context(|session, cx| session.on_ready(Leg::Upstream, ready, cx));
            return true;
        }
        if let Some(ready) = self.client.arrive() {
            self.with_context(|session, cx| session.on_ready(Leg::Client, ready, cx));
            return true;
        }
        if self.client_finished && !self.client.ended && !self.client_ignores_end {
            // A client that was told that nothing more comes closes its side.
            self.client.end = Some(End::Fin);
            return true;
        }
        false
    }

    /// The balancer is told to stop.
    pub fn stop(&mut self) {
        Arc::make_mut(&mut self.cx.snapshot).lifecycle = Lifecycle::Stopping;
        self.with_context(|session, cx| session.on_drain(cx));
        self.run();
    }

    pub fn with_context(&mut self, act: impl FnOnce(&mut Session, &mut Context)) {
        act(&mut self.session, &mut self.cx);
    }
}

fn current(upstreams: &mut [Upstream]) -> &mut Upstream {
    upstreams.last_mut().expect("an upstream connection")
}
