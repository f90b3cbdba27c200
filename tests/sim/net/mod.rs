//! A network in virtual time and the queue of future events. HTTP and policy never enter: sockets move bytes only.
//!
//! - `mod.rs`: events, trace, addresses
//! - [`socket`]: TCP connections: windows, segments, FIN and RST as Linux shows them
//! - [`listening`]: listening sockets, which processes of the balancer share, and their queues
//! - [`readiness`]: edge-triggered events, and which actor is woken

mod listening;
mod readiness;
mod socket;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use super::faults::Faults;
use super::history::History;
use super::random::Streams;
use listening::ListeningSocket;
use readiness::Poller;
use socket::Socket;

pub type SharedNet = Rc<RefCell<Net>>;
/// One end of a connection: its index in the network.
pub type SocketId = usize;
/// A scripted client or replica.
pub type Actor = usize;
/// A process of the balancer. Each that an upgrade starts has a number of its own.
pub type ProcessId = usize;
/// A worker of any process.
pub type WorkerId = usize;
/// A listening socket of one worker of each process.
pub type ListeningId = usize;

/// What happens at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The next segment that this socket sends arrives.
    Deliver(SocketId),
    /// This socket's connection attempt arrives.
    ConnectArrives(SocketId),
    Wake(Actor),
    /// A worker's turn, void if a later one was scheduled (worker, number of the turn).
    Turn(WorkerId, u64),
    /// A delayed edge.
    Edge(SocketId),
    /// An event of a process's control plane, by its number.
    Control(ProcessId, u64),
    /// A message or an event of an upgrade, by its number.
    Upgrade(u64),
    /// A replica dies or hangs, or an operator calls, in the middle of an upgrade.
    Strike,
    Call,
    /// Once a second: deaths and what operators do.
    Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Worker(WorkerId),
    /// It waits in the queue of a listening socket.
    Queue,
    Actor(Actor),
    /// The program closed the socket.
    Closed,
}

/// How a program closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    Fin,
    Reset,
}

/// What accepts connections to an address.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    Listener(ListeningId),
    Replica {
        actor: Actor,
        /// Attempts get no reply.
        hung: bool,
    },
}

/// Kernel resources of all workers of a process together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceCounts {
    pub sockets_opened: u64,
    pub sockets_closed: u64,
    pub pipes_opened: u64,
    pub pipes_closed: u64,
}

impl ResourceCounts {
    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        (self.sockets_opened - self.sockets_closed + 2 * (self.pipes_opened - self.pipes_closed)) as usize
    }
}

/// Whether the trace is printed or only hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    Hashed,
    Printed,
}

pub struct Net {
    pub now_us: u64,
    pub random: Streams,
    pub faults: Faults,
    /// Requests may be pipelined on a connection to a replica.
    pub upstream_pipelining: bool,
    /// Replicas of HTTP speak TLS and cut bodies that only a close ends, without close_notify.
    pub cuts_bodies: bool,
    /// A client that half-closes gives its request up.
    pub aborts_on_close: bool,
    pub history: History,
    /// By process.
    pub resources: Vec<ResourceCounts>,
    /// Rises with every byte, connection, FIN and RST.
    pub progress: u64,
    trace: Trace,
    hash: u64,
    sockets: Vec<Socket>,
    listening: Vec<ListeningSocket>,
    /// By worker.
    pollers: Vec<Poller>,
    pub bound: BTreeMap<SocketAddr, Bound>,
    /// Connections that an actor has not accepted.
    pub backlogs: BTreeMap<Actor, VecDeque<SocketId>>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Breaks ties between events of the same time.
    event_number: u64,
    /// Actors with a wake-up on its way.
    woken: BTreeSet<Actor>,
    /// Sockets whose last bytes were sent with MSG_MORE.
    pub corked: BTreeSet<SocketId>,
    /// Until when a replica that works on one request at a time is busy (us).
    busy_until: BTreeMap<SocketAddr, u64>,
}

/// The longest work on one request of a replica that works on one at a time.
const SERIAL_WORK_MAX_US: u64 = 3_000_000;

impl Net {
    /// When the response to a request that has arrived now begins. `delay_us` is how long it takes by itself.
    pub fn response_time(&mut self, replica: SocketAddr, delay_us: u64) -> u64 {
        if !self.faults.serial {
            return self.now_us + delay_us;
        }
        let work_us = if self.random.health().one_in(3) { SERIAL_WORK_MAX_US } else { 20_000 };
        let work_us = self.random.health().range(1_000, work_us);
        let begins_us = self.busy_until(replica);
        self.busy_until.insert(replica, begins_us + work_us);
        begins_us + work_us
    }

    /// When a replica that works on one request at a time has done those that it has.
    pub fn busy_until(&self, replica: SocketAddr) -> u64 {
        self.busy_until.get(&replica).copied().unwrap_or(0).max(self.now_us)
    }

    pub fn new(random: Streams, faults: Faults, trace: Trace) -> Net {
        Net {
            now_us: 1_000_000,
            random,
            faults,
            upstream_pipelining: false,
            cuts_bodies: false,
            aborts_on_close: false,
            history: History::default(),
            resources: Vec::new(),
            progress: 0,
            trace,
            hash: 0xCBF2_9CE4_8422_2325,
            sockets: Vec::new(),
            listening: Vec::new(),
            pollers: Vec::new(),
            bound: BTreeMap::new(),
            backlogs: BTreeMap::new(),
            events: BinaryHeap::new(),
            event_number: 0,
            woken: BTreeSet::new(),
            corked: BTreeSet::new(),
            busy_until: BTreeMap::new(),
        }
    }

    /// Another process of the balancer begins.
    pub fn add_process(&mut self) -> ProcessId {
        self.history.add_process();
        self.resources.push(ResourceCounts::default());
        self.resources.len() - 1
    }

    // The trace.

    /// Adds a line to the trace. The hash of a world is made of these lines, `what` included.
    pub fn note(&mut self, what: &'static str, a: u64, b: u64, c: u64) {
        for word in [self.now_us, what.len() as u64, what.as_bytes()[0].into(), a, b, c] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        self.log(|| format!("{what} {a} {b} {c}"));
    }

    /// Prints a line that is no part of the hash.
    pub fn log(&self, text: impl FnOnce() -> String) {
        if self.trace == Trace::Printed {
            println!("{:>6}.{:06} {}", self.now_us / 1_000_000, self.now_us % 1_000_000, text());
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    // Time.

    pub fn at(&mut self, us: u64, event: Event) {
        self.event_number += 1;
        self.events.push(Reverse((us.max(self.now_us), self.event_number, event)));
    }

    pub fn after(&mut self, us: u64, event: Event) {
        self.at(self.now_us + us, event);
    }

    pub fn next_event(&mut self) -> Option<Event> {
        let Reverse((us, _, event)) = self.events.pop()?;
        self.now_us = us;
        if let Event::Wake(actor) = event {
            self.woken.remove(&actor);
        }
        Some(event)
    }

    /// The workers' clock.
    pub fn now_ms(&self) -> u64 {
        let ms = self.now_us / 1000;
        ms - ms % self.faults.clock_step_ms
    }
}
