//! The data plane: one event loop per core. A [turn](Worker::turn) waits, reads the clock once, loads the snapshot
//! once, marks who is ready, and then drives the sessions that can go on. Events only mark; driving acts.

mod accept;
mod check;
mod dial;
mod drive;
mod perform;
mod pipeline;
mod pool;
mod resources;
mod slab;
mod slot;
mod timers;
mod workers;

pub use accept::BoundListener;
pub use workers::{Listen, Settings, Workers, start};

use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::core::buffer::Pool;
use crate::core::context::Context;
use crate::core::session::{Arrival, Session};
use crate::core::snapshot::{Snapshot, State};
use crate::core::step::{Leg, Outcome};
use crate::core::tick::Tick;
use crate::kernel::{Event, Kernel, Token};
use crate::shared::connection_limiter::ConnectionLimiter;
use crate::shared::counters::Counters;
use crate::shared::events::EventSender;
use crate::shared::publish::SnapshotReader;
use accept::Door;
use pool::Pools;
use resources::ResourceLimits;
use slab::Slab;
use slot::{Conn, Pipe, Slot};
use timers::Timers;

/// Buffers that stay allocated while nothing is on its way.
const SPARE_BUFFERS: usize = 64;
/// How often idle upstream connections are looked over for age.
const SWEEP_MS: u64 = 1_000;

/// One event loop and all that it owns. Nothing in it is shared but the snapshot, the counters and the events.
pub struct Worker<K: Kernel> {
    index: usize,
    kernel: K,
    doors: Vec<Door<K>>,
    slots: Slab<Slot<K>>,
    conns: Slab<Conn<K>>,
    pools: Pools,
    timers: Timers,
    runnable: Vec<u32>,
    /// Sessions whose turn in the pipeline came while others were driven.
    resumed: Vec<u32>,
    /// Upstream connections on which this turn's requests gather.
    to_flush: Vec<u32>,
    ready: Vec<Event>,
    spare_pipes: Vec<Pipe<K::Pipe>>,
    /// Each pipe holds one more of it.
    pipes: Arc<()>,
    /// Apart from the other parts, so that a session and what it is lent can be used at once.
    cx: Context,
    /// The second that the turn's date is of.
    dated: u64,
    reader: SnapshotReader,
    counters: Arc<Counters>,
    events: EventSender,
    max_slots: usize,
    /// Where each client is capped: how many connections it has, in all workers.
    crowd: Option<Arc<ConnectionLimiter>>,
    resources: ResourceLimits,
    /// Clients that have not asked for anything yet.
    fresh: usize,
    /// Upstream connections in use.
    busy: usize,
    swept: Tick,
    /// When a stop no longer waits for what is under way.
    stop_by: Option<Tick>,
}

/// What a worker is made with.
pub struct WorkerInit<K: Kernel> {
    pub index: usize,
    pub kernel: K,
    pub listeners: Vec<BoundListener<K>>,
    pub reader: SnapshotReader,
    pub counters: Arc<Counters>,
    pub events: EventSender,
    pub seed: u64,
    /// Client connections at most. 0: no cap.
    pub max_connections: usize,
    /// Shared by all workers where connections of each client are capped.
    pub crowd: Option<Arc<ConnectionLimiter>>,
    /// Descriptors that connections and pipes of this worker may take.
    pub descriptors: usize,
}

impl<K: Kernel> Worker<K> {
    pub fn new(init: WorkerInit<K>) -> io::Result<Worker<K>> {
        let WorkerInit { index, mut kernel, listeners, mut reader, counters, events, seed, .. } = init;
        let mut doors = Vec::with_capacity(listeners.len());
        for (number, entry) in listeners.into_iter().enumerate() {
            kernel.watch_listener(&entry.listener, Token::Listener(number as u32))?;
            doors.push(Door::new(entry));
        }
        let snapshot = reader.load().clone();
        let now = kernel.now();
        let mut worker = Worker {
            index,
            kernel,
            doors,
            slots: Slab::new(),
            conns: Slab::new(),
            pools: Pools::default(),
            timers: Timers::default(),
            runnable: Vec::new(),
            resumed: Vec::new(),
            to_flush: Vec::new(),
            ready: Vec::new(),
            spare_pipes: Vec::new(),
            pipes: Arc::new(()),
            cx: Context::new(now, snapshot, Pool::new(SPARE_BUFFERS), seed),
            dated: 0,
            reader,
            counters,
            events,
            max_slots: if init.max_connections == 0 { usize::MAX } else { init.max_connections },
            crowd: init.crowd,
            resources: ResourceLimits::new(init.descriptors),
            fresh: 0,
            busy: 0,
            swept: now,
            stop_by: None,
        };
        worker.read_clocks();
        worker.adopt_snapshot();
        Ok(worker)
    }

    /// Turns until the snapshot says stop and everything under way is over.
    pub fn run(mut self) -> io::Result<()> {
        while self.turn()? {}
        self.reader.detach();
        Ok(())
    }

    /// One pass of the loop; false when the worker is done.
    pub fn turn(&mut self) -> io::Result<bool> {
        let mut ready = std::mem::take(&mut self.ready);
        self.kernel.wait(self.patience_ms(), &mut ready)?;
        self.read_clocks();
        self.follow_snapshot();
        for event in &ready {
            self.mark(event);
        }
        self.ready = ready;
        self.accept();
        self.expire();
        self.end_shortage();
        let mut due = std::mem::take(&mut self.runnable);
        for place in due.drain(..) {
            self.drive(place);
            self.drive_resumed();
        }
        if self.runnable.is_empty() {
            // The list's memory serves the next turn.
            self.runnable = due;
        }
        while !self.to_flush.is_empty() {
            self.flush_pipelined();
            self.drive_resumed();
        }
        if self.is_over() {
            self.end();
            return Ok(false);
        }
        Ok(true)
    }

    /// What is still under way when a stop no longer waits is cut, visibly, and booked out.
    fn end(&mut self) {
        for place in self.slots.taken().collect::<Vec<_>>() {
            self.close(place, true);
        }
    }

    fn is_over(&self) -> bool {
        self.stop_by.is_some_and(|by| self.slots.len() == 0 || self.cx.now >= by)
    }

    /// How long the next wait may last.
    fn patience_ms(&self) -> Option<u64> {
        if !self.runnable.is_empty() || self.doors.iter().any(|door| door.is_ready(self.cx.now)) {
            return Some(0);
        }
        let sweep = (self.conns.len() > 0).then(|| self.swept.after_ms(SWEEP_MS));
        let doors = self.doors.iter().filter_map(Door::opens_at);
        let next =
            doors.chain(self.timers.next()).chain(sweep).chain(self.stop_by).chain(self.resources.due()).min()?;
        Some(next.ms_since(self.cx.now).max(1))
    }

    fn read_clocks(&mut self) {
        self.cx.now = self.kernel.now();
        let seconds = self.kernel.unix_seconds();
        if seconds != self.dated {
            self.dated = seconds;
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            self.cx.date_line = format!("Date: {date}\r\n");
        }
    }

    /// The turn's one look at what the control plane says.
    fn follow_snapshot(&mut self) {
        if self.reader.load().epoch != self.cx.snapshot.epoch {
            self.cx.snapshot = self.reader.load().clone();
            self.adopt_snapshot();
        }
    }

    fn adopt_snapshot(&mut self) {
        let snapshot = self.cx.snapshot.clone();
        for conn in self.pools.follow(&snapshot) {
            self.discard(conn);
        }
        self.leave_the_dead(&snapshot);
        if snapshot.stopping && self.stop_by.is_none() {
            self.begin_stop(&snapshot);
        }
        self.reader.ack(snapshot.epoch);
    }

    /// Requests at a replica that is down go elsewhere where that is safe.
    fn leave_the_dead(&mut self, snapshot: &Snapshot) {
        let replicas = snapshot.services.iter().flat_map(|service| &service.replicas);
        let down: Vec<_> = replicas.filter(|replica| replica.state == State::Down).map(|replica| replica.id).collect();
        if down.is_empty() {
            return;
        }
        for place in self.slots.taken().collect::<Vec<_>>() {
            let Some(slot) = self.slots.at_mut(place) else { continue };
            if slot.session.replica().is_some_and(|replica| down.contains(&replica)) {
                slot.session.on_replica_down(&mut self.cx);
                self.queue(place);
            }
        }
    }

    fn begin_stop(&mut self, snapshot: &Snapshot) {
        self.accept();
        self.doors.clear();
        let drain_ms = snapshot.services.iter().map(|service| service.limits.drain_timeout_ms).max().unwrap_or(0);
        self.stop_by = Some(self.cx.now.after_ms(drain_ms));
        for place in self.slots.taken().collect::<Vec<_>>() {
            if let Some(slot) = self.slots.at_mut(place) {
                slot.session.on_drain();
                self.queue(place);
            }
        }
    }

    fn mark(&mut self, event: &Event) {
        match event.token {
            Token::Listener(number) => {
                if let Some(door) = self.doors.get_mut(number as usize) {
                    door.set_readable();
                }
            }
            Token::Client { place, generation } => {
                if let Some(slot) = self.slots.tenant(place, generation) {
                    slot.session.on_ready(Leg::Client, event.ready, &self.cx);
                    self.queue(place);
                }
            }
            Token::Upstream { place, generation } => {
                let Some(conn) = self.conns.tenant(place, generation) else { return };
                match conn.queue.front().copied() {
                    Some(owner) => {
                        if conn.batch.is_some() {
                            self.mark_batch(place, event.ready);
                        }
                        if let Some(slot) = self.slots.at_mut(owner) {
                            slot.session.on_ready(Leg::Upstream, event.ready, &self.cx);
                            self.queue(owner);
                        }
                    }
                    // An idle connection that has something to say is dead or poisoned.
                    None if event.ready.readable || event.ready.hangup || event.ready.dead => {
                        self.pools.forget(conn.key, place);
                        self.discard(place);
                    }
                    None => {}
                }
            }
        }
    }

    fn queue(&mut self, place: u32) {
        if let Some(slot) = self.slots.at_mut(place)
            && !slot.queued
        {
            slot.queued = true;
            self.runnable.push(place);
        }
    }

    fn expire(&mut self) {
        let now = self.cx.now;
        while let Some(place) = self.timers.due(now) {
            if let Some(slot) = self.slots.at_mut(place) {
                let waited = slot.session.deadline() <= now;
                slot.session.on_deadline(&mut self.cx);
                if waited && self.is_queued_behind(place) {
                    self.requeue_from(place);
                }
                self.queue(place);
            }
        }
        if now.ms_since(self.swept) >= SWEEP_MS {
            self.swept = now;
            self.sweep();
        }
    }

    fn welcome(&mut self, socket: K::Socket, mut arrival: Arrival) {
        self.counters.accepted.count();
        let counted = match self.enter(&arrival) {
            Ok(counted) => counted,
            Err(cap) => return self.turn_away(socket, arrival.peer.ip(), cap),
        };
        let told = self.cx.snapshot.services.iter().any(|service| service.send_proxy.is_some());
        if told && arrival.local.ip().is_unspecified() {
            arrival.local = self.kernel.local(&socket).unwrap_or(arrival.local);
        }
        let session = Session::new(arrival, &mut self.cx);
        let deadline = session.deadline();
        let place = self.slots.insert(Slot::new(session, socket, arrival.peer.ip(), counted));
        self.fresh += 1;
        self.timers.hint(place, deadline);
        self.queue(place);
    }
}

impl<K: Kernel> Drop for Worker<K> {
    fn drop(&mut self) {
        self.reader.detach();
    }
}

/// What a dial came to, for steps that have no other outcome.
const DONE: Outcome = Outcome::Done;
