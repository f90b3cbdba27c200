//! A whole session under a fuzzer: the bytes are what arrives, when, and how every step goes.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use super::DATE_LINE;
use super::sent::Sent;
use crate::core::buffer::BufferPool;
use crate::core::context::Context;
use crate::core::limits::Limits;
use crate::core::proxy::Version;
use crate::core::request::Scheme;
use crate::core::ring::{Member, Ring, RingKind};
use crate::core::session::{Arrival, Session};
use crate::core::snapshot::{KeyPolicy, Lifecycle, ListenerId, Mode, ReplicaId, Service, Snapshot};
use crate::core::step::{Connect, Connection, Ending, Flush, Io, Leg, Ready, SpliceIn, Step};
use crate::core::tick::Tick;

/// Steps in a row that one arrival can lead to, generously.
const STEPS: usize = 100_000;
/// Bits of the first byte, which says how the client came.
const PROXIED: u8 = 7;
const TUNNEL: u8 = 8;
const INTRODUCED: u8 = 16;

pub fn session(bytes: &[u8]) {
    let mut input = Input { bytes, at: 0, legs: [Source::default(), Source::default()], pipes: [0, 0], dials: 0 };
    let kind = input.byte().unwrap_or(0);
    let introduced = (kind & INTRODUCED != 0).then_some(Version::V2);
    let mode = if kind & TUNNEL != 0 { Mode::Tcp } else { Mode::Http };
    let snapshot = Snapshot::of_service(1, service(mode, introduced));
    let mut cx = Context::new(Tick(1), Arc::new(snapshot), BufferPool::new(2), 1);
    cx.date_line = DATE_LINE.into();
    let mut sent = Sent::default();
    let local = SocketAddr::from(([127, 0, 0, 1], 80));
    let arrival = Arrival {
        peer: local,
        local,
        proxied: kind & PROXIED == PROXIED,
        listener: ListenerId(0),
        scheme: Scheme::Http,
    };
    let mut session = Session::new(arrival, &mut cx);
    while let Some(event) = input.event() {
        match event {
            Event::Ready(leg, ready) => {
                session.on_room();
                session.on_ready(leg, ready, &cx);
            }
            Event::Late => {
                cx.now = session.deadline();
                session.on_deadline(&mut cx);
            }
            Event::Down if session.replica().is_some() => session.on_replica_down(&mut cx),
            Event::Down => {}
            Event::Stop => {
                Arc::make_mut(&mut cx.snapshot).lifecycle = Lifecycle::Stopping;
                session.on_drain(&cx);
            }
        }
        // The client's last bytes may wait for what comes next, but only for that.
        let mut held_back = false;
        for number in 0.. {
            assert!(number < STEPS, "busy without end: {session:?}");
            let Some(step) = session.next_step() else { break };
            match step {
                Step::Close(ending) => {
                    assert!(!held_back || ending == Ending::Clean, "the last bytes are cut off: {session:?}");
                    return closed(&mut session, &mut cx);
                }
                Step::Recv(leg) => {
                    let io = input.recv(leg, session.lane_from(leg).space(&mut cx.pool));
                    session.received(leg, io, &mut cx);
                }
                Step::Send { leg, flush } => {
                    let tunnel = session.is_tunnel();
                    let pending = session.lane_to(leg).pending();
                    let io = input.sent(pending.len() as u64);
                    held_back &= leg == Leg::Upstream;
                    held_back |= flush == Flush::WithNext && io == Io::Moved(pending.len() as u64);
                    if let (Leg::Upstream, Io::Moved(n)) = (leg, io) {
                        sent.send(&pending[..n as usize], tunnel);
                    }
                    session.sent(leg, flush, io, &mut cx);
                }
                Step::SpliceIn(leg, len) => session.spliced_in(leg, input.spliced_in(leg, len), &mut cx),
                Step::SpliceOut(leg, len) => session.spliced_out(leg, input.spliced_out(leg, len), &mut cx),
                Step::Connect(pick) => {
                    let same = pick.tried.contains(ReplicaId(input.dials));
                    sent = if same { sent.again(introduced.is_some()) } else { Sent::new(introduced.is_some()) };
                    // A connection that began with a PROXY header serves one client.
                    let offered = match (introduced, pick.pipelinable) {
                        (Some(_), _) => Offered::New,
                        (None, false) => Offered::Reused,
                        (None, true) => Offered::Pipelined,
                    };
                    let outcome = input.connected(offered);
                    session.connected(outcome, &mut cx);
                }
                Step::CloseUpstream => {
                    input.pipes[0] = 0;
                    session.upstream_closed(&mut cx);
                }
                Step::ShutdownWrite(leg) => {
                    held_back &= leg == Leg::Upstream;
                    session.write_shut_down(leg, &mut cx);
                }
                Step::ReleaseUpstream => session.upstream_released(&mut cx),
            }
            session.check(&cx.snapshot);
            assert_eq!(cx.pool.lent(), session.buffers(), "buffers lent and held: {session:?}");
            while session.take_notice().is_some() {}
        }
        assert!(!held_back, "the last bytes wait for nothing: {session:?}");
        assert!(!session.is_idle() || session.buffers() == 0, "an idle session holds a buffer: {session:?}");
    }
}

fn closed(session: &mut Session, cx: &mut Context) {
    session.release_buffers(cx);
    assert_eq!(cx.pool.lent(), 0, "a buffer went with its session: {session:?}");
}

fn service(mode: Mode, send_proxy: Option<Version>) -> Service {
    Service {
        name: "service".into(),
        mode,
        policy: Default::default(),
        key: KeyPolicy::Uri,
        limits: Arc::new(Limits::DEFAULT),
        replicas: Vec::new(),
        send_proxy,
        tls: None,
        max_5xx_in_a_row: None,
        queue_heads: Arc::default(),
        ring: Arc::new(Ring::build(RingKind::Ketama, &[Member::new("a", 1)])),
        is_removed: false,
    }
}

/// The most that a connection to a replica may be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Offered {
    New,
    Reused,
    Pipelined,
}

enum Event {
    Ready(Leg, Ready),
    Late,
    /// The replica in use is said to be down.
    Down,
    Stop,
}

/// The fuzzer's bytes, read as what happens.
struct Input<'b> {
    bytes: &'b [u8],
    at: usize,
    legs: [Source<'b>; 2],
    /// Bytes in the pipe of the lane from each leg.
    pipes: [u64; 2],
    dials: u64,
}

#[derive(Clone, Copy, Default)]
struct Source<'b> {
    here: &'b [u8],
    end: Option<Io>,
}

fn index(leg: Leg) -> usize {
    usize::from(leg == Leg::Upstream)
}

impl<'b> Input<'b> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// The next byte as a choice. It stays: what is chosen hangs on what comes, and costs the fuzzer nothing.
    fn choice(&self, of: u8) -> Option<u8> {
        self.bytes.get(self.at).map(|byte| byte % of)
    }

    /// An arrival: two bytes say whose and how long, then come the bytes themselves.
    fn event(&mut self) -> Option<Event> {
        let kind = self.byte()?;
        let leg = if kind & 1 == 0 { Leg::Client } else { Leg::Upstream };
        let source = &mut self.legs[index(leg)];
        let mut ready = Ready { readable: true, writable: true, ..Ready::default() };
        match kind >> 1 & 7 {
            _ if kind >> 4 == 15 => return Some(if leg == Leg::Client { Event::Stop } else { Event::Down }),
            0 => source.end = Some(Io::Ended),
            1 => source.end = Some(Io::Failed(ErrorKind::ConnectionReset)),
            2 => return Some(Event::Late),
            3 => ready.hangup = true,
            _ => {
                let len = usize::from(self.byte()?);
                let from = self.at;
                self.at = (from + len).min(self.bytes.len());
                self.legs[index(leg)].here = &self.bytes[from..self.at];
            }
        }
        ready.hangup |= self.legs[index(leg)].end.is_some();
        ready.dead = kind >> 4 == 14;
        Some(Event::Ready(leg, ready))
    }

    fn recv(&mut self, leg: Leg, space: &mut [u8]) -> Io {
        assert!(!space.is_empty(), "a read with no room can only look like the end");
        let source = &mut self.legs[index(leg)];
        let n = space.len().min(source.here.len());
        if n == 0 {
            return source.end.unwrap_or(Io::Blocked);
        }
        space[..n].copy_from_slice(&source.here[..n]);
        source.here = &source.here[n..];
        Io::Moved(n as u64)
    }

    /// Mostly all of it; now and then a part, nothing, or an error.
    fn sent(&mut self, len: u64) -> Io {
        assert!(len > 0, "nothing to send");
        match self.choice(16) {
            Some(0) => Io::Moved(1),
            Some(1) => Io::Blocked,
            Some(2) => Io::Failed(ErrorKind::BrokenPipe),
            Some(3) => Io::Failed(ErrorKind::ConnectionReset),
            _ => Io::Moved(len),
        }
    }

    fn spliced_in(&mut self, leg: Leg, len: u64) -> SpliceIn {
        assert!(len > 0, "a splice of nothing");
        match self.choice(4) {
            Some(0) => return SpliceIn::Unsupported,
            Some(1) => return SpliceIn::NoPipe,
            _ => {}
        }
        let source = &mut self.legs[index(leg)];
        let n = source.here.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        if n == 0 {
            return SpliceIn::Io(source.end.unwrap_or(Io::Blocked));
        }
        source.here = &source.here[n..];
        self.pipes[index(leg)] += n as u64;
        SpliceIn::Io(Io::Moved(n as u64))
    }

    fn spliced_out(&mut self, to: Leg, len: u64) -> Io {
        let from = 1 - index(to);
        assert!(len > 0 && len <= self.pipes[from], "{len} of {:?} in the pipe", self.pipes);
        let io = self.sent(len);
        if let Io::Moved(n) = io {
            self.pipes[from] -= n;
        }
        io
    }

    fn connected(&mut self, offered: Offered) -> Connect {
        self.dials += 1;
        self.legs[1] = Source::default();
        let replica = ReplicaId(self.dials);
        let connection = match self.choice(8) {
            Some(0) => return Connect::NoReplica,
            Some(1) => return Connect::Failed { replica, why: ErrorKind::ConnectionRefused },
            Some(3) => return Connect::NoResources,
            Some(2) if offered >= Offered::Reused => Connection::Reused,
            Some(4) if offered == Offered::Pipelined => Connection::Pipelined,
            _ => Connection::New,
        };
        Connect::Connected { replica, connection }
    }
}
