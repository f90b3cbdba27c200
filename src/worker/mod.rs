//! The data plane: one event loop per core. A [turn](Worker::turn) waits, reads the clock once, loads the snapshot once,
//! marks readiness, and then drives the sessions that can go on. Events only mark; driving acts. The ring, health and
//! desired state never enter: they come in with the snapshot.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`Worker`], all its fields, built from `WorkerInit` (kernel, reader, counters, limits); its turn: wait, clocks, adopt the snapshot and ack it, mark events by token, expire deadlines; leave replicas that went down |
//! | `workers` | starts the data plane: splits the descriptor limit, one named thread (and core) for each worker; publisher and readers, kernel `Linux` |
//! | `listeners` | `OpenListener`, `Listeners`: the listening sockets that are open, their numbers, readiness; which the snapshot opens and closes (`ListenerChanges`); the `Arrival` of a peer |
//! | `accept` | accepts in batches from open listeners (opening and closing those that the snapshot changed), pauses where descriptors run out (since when, tried again when, told once), checks the caps (of all, of one client), refuses, makes a new connection's session; pauses and resumptions reported; the limiter of each client address |
//! | `clients` | `Client` (session, socket, pipes, which upstream connection it uses: `UpstreamIo`), the slab of them, and the lists of sessions that can go on: runnable, resumed |
//! | `drive` | one session's loop: ask for a step, carry it out, spend the budget of steps and bytes; then its notices, timer, epoll registration and close; sessions resumed by others; a tunnel aborted when its peer failed; notices to worker events |
//! | `drain` | `Drains`: connections that end, all at a stop, those of a removed listener at a reload; what is left at the drain timeout is reset; closes all listening sockets, whether the worker is done |
//! | `transfer` | steps that move bytes: recv, send, splice in and out, shut down; which pipe and which transport; bytes counted |
//! | `connect` | the step `Connect` of one session: has the balancer pick a live replica that was neither tried nor passed over, joins a pipeline, reuses an idle connection (and makes its `Mux` exclusive) or dials; the `UpstreamIo` of the client; then releases, parks, closes upstream connections, sweeps stale ones; counts retries; passed replicas, no resource left, outcome of the step; an upstream connection left while its pipe holds bytes |
//! | `upstreams` | the slab of all upstream connections: `Upstream` (transport, pool key, idle since, load) and the type `Mux` (idle, exclusive, pipelined), which `connect` and `pipeline` assign; recv, send and splice for the session that uses it; park, stale ones, spare pipelines |
//! | `pipeline` | several requests in flight on one upstream connection: the queue of sessions, bytes read ahead for the next, one write for a turn; a session leaves and those behind it are sent again; a hang-up, readiness of the first, when pipelining to a replica is suspended |
//! | `pool` | which idle connections, by id, each replica has: take, give, evict, expire, limit; which connection pipelines this turn, and until when pipelining is suspended; no socket |
//! | `transport` | one socket's calls (recv, send, splice, shutdown, abort) and their results as outcomes of steps; retries EINTR; in plain, or by `secure` |
//! | `secure` | TLS over one socket: handshake, recv, send (the byte that is held back while the socket is full), close_notify; edges |
//! | `handshake` | `Handshake` (deadline, what is awaited): clients whose TLS handshake is under way: PROXY header, deadline, steps of a turn and who waits for the next, a request in plain text; the session's begin |
//! | `pipes` | pipes for splicing: the two of a session (upload and download, by the leg that is read), the pool of spare ones |
//! | `resources` | EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL: room for descriptors, sessions that wait for them, blocked replicas, eviction of idle connections; when to try again, who waits, how much room is left |
//! | `queue` | requests that wait for a replica with room, first come, first served; whose turn it is among the workers; which replica is full |
//! | `retry_budget` | how many requests of a service may be sent again to another replica: a token bucket |
//! | `timers` | heap of hints when to look at a session's deadline |
//! | `slab` | typed keys with generations, free list; no connection, no socket |
//! | `check` | assertions between the parts: an idle session holds no buffer and no pipe, session and worker agree on the upstream; for tests and the simulation |
//! | `tests` | one worker over a scripted kernel: pipelining, resources that run out, stops, which sockets are watched |

mod accept;
mod check;
mod clients;
mod connect;
mod drain;
mod drive;
mod handshake;
mod listeners;
mod pipeline;
mod pipes;
mod pool;
mod queue;
mod resources;
mod retry_budget;
mod secure;
mod slab;
#[cfg(test)]
mod tests;
mod timers;
mod transfer;
mod transport;
mod upstreams;
mod workers;

pub use workers::{WorkerSettings, Workers, start};

use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::core::balance::Balancer;
use crate::core::buffer::BufferPool;
use crate::core::context::Context;
use crate::core::exchange_record::Recording;
use crate::core::snapshot::{Lifecycle, Snapshot, State};
use crate::core::step::{Leg, Ready};
use crate::core::tick::{Stamp, Tick};
use crate::kernel::{Kernel, SocketEvent, Token};
use crate::shared::access_log::AccessLogSender;
use crate::shared::connection_limiter::ConnectionLimiter;
use crate::shared::counters::Counters;
use crate::shared::events::{EventSender, WorkerEvent};
use crate::shared::publish::SnapshotReader;
use crate::shared::service_metrics::ServiceMetrics;
use clients::Clients;
use drain::Drains;
use handshake::{HandshakeCap, StepBudget};
use listeners::{Listeners, OpenListener};
use pipes::PipePool;
use queue::RequestQueues;
use resources::ResourceLimits;
use retry_budget::RetryBudgets;
use slab::UpstreamId;
use timers::SessionTimers;
use transfer::read_stamp;
use upstreams::{Mux, Upstreams};

/// Buffers that stay allocated while no bytes are in transit.
const SPARE_BUFFERS: usize = 64;
/// How often idle upstream connections are checked for age.
const SWEEP_MS: u64 = 1_000;

/// One event loop and its parts. Only the snapshot, the counters, the connection limiter and the event channel are shared
/// with other threads.
pub struct Worker<K: Kernel> {
    index: usize,
    kernel: K,
    listeners: Listeners<K::Listener>,
    clients: Clients<K>,
    handshakes: StepBudget,
    handshake_cap: HandshakeCap,
    upstreams: Upstreams<K>,
    balancer: Balancer,
    pipes: PipePool<K::Pipe>,
    timers: SessionTimers,
    resources: ResourceLimits,
    queues: RequestQueues,
    retry_budgets: RetryBudgets,
    /// What sessions are lent, apart from the other parts so that both can be borrowed at once.
    cx: Context,
    /// The second that `cx.date_line` is of.
    date_seconds: u64,
    /// The memory of the list of events, kept over turns.
    events_buffer: Vec<SocketEvent>,
    reader: SnapshotReader,
    counters: Arc<Counters>,
    /// By service of the snapshot.
    services: Arc<Vec<Arc<ServiceMetrics>>>,
    events: EventSender,
    max_clients: usize,
    /// Connections of each client address over all workers, where they are capped.
    connection_limiter: Option<Arc<ConnectionLimiter>>,
    /// Where records of exchanges go, if there is an access log.
    access_log: Option<AccessLogSender>,
    swept: Tick,
    drains: Drains,
}

/// What a worker is made from.
pub struct WorkerInit<K: Kernel> {
    pub index: usize,
    pub kernel: K,
    pub reader: SnapshotReader,
    pub counters: Arc<Counters>,
    pub events: EventSender,
    pub seed: u64,
    /// Client connections at most. 0: no cap, here and below.
    pub max_connections: usize,
    /// TLS handshakes of clients at most.
    pub max_handshakes: usize,
    /// Shared by all workers where the connections of each client address are capped.
    pub connection_limiter: Option<Arc<ConnectionLimiter>>,
    pub access_log: Option<AccessLogSender>,
    /// What is recorded of each exchange where there is no access log.
    pub recording: Recording,
    /// Descriptors that connections and pipes of this worker may take.
    pub descriptors: usize,
}

impl<K: Kernel> Worker<K> {
    pub fn new(init: WorkerInit<K>) -> Worker<K> {
        let WorkerInit { index, mut kernel, mut reader, counters, events, seed, .. } = init;
        let snapshot = reader.load().clone();
        let now = kernel.now();
        let mut worker = Worker {
            index,
            kernel,
            listeners: Listeners::new(),
            clients: Clients::new(),
            handshakes: StepBudget::default(),
            handshake_cap: HandshakeCap::new(cap(init.max_handshakes)),
            upstreams: Upstreams::new(init.index),
            balancer: Balancer::new(init.index),
            pipes: PipePool::new(),
            timers: SessionTimers::default(),
            resources: ResourceLimits::new(init.descriptors),
            queues: RequestQueues::default(),
            retry_budgets: RetryBudgets::default(),
            cx: Context::new(now, snapshot, BufferPool::new(SPARE_BUFFERS), seed),
            date_seconds: 0,
            events_buffer: Vec::new(),
            reader,
            counters,
            services: Arc::default(),
            events,
            max_clients: cap(init.max_connections),
            connection_limiter: init.connection_limiter,
            access_log: init.access_log,
            swept: now,
            drains: Drains::default(),
        };
        worker.cx.records.recording = if worker.access_log.is_some() { Recording::All } else { init.recording };
        worker.read_clocks();
        worker.adopt_snapshot();
        worker
    }

    /// Turns until the snapshot says stop and everything in progress is over.
    pub fn run(mut self) -> io::Result<()> {
        while self.turn()? {}
        self.reader.detach();
        Ok(())
    }

    /// One pass of the loop; false when the worker is done.
    pub fn turn(&mut self) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.events_buffer);
        self.kernel.wait(self.wait_ms(), &mut events)?;
        self.read_clocks();
        let begun = self.cx.records.now;
        self.follow_snapshot();
        self.renew_handshakes();
        for event in &events {
            self.mark(event);
        }
        self.events_buffer = events;
        self.accept();
        self.expire();
        self.retry_connects();
        self.retry_queues();
        let mut runnable = self.clients.take_runnable();
        for id in runnable.drain(..) {
            self.drive(id);
            self.drive_resumed();
        }
        self.clients.give_back_list(runnable);
        while !self.upstreams.to_flush.is_empty() {
            self.flush_pipelines();
            self.drive_resumed();
        }
        let is_over = self.is_over();
        if is_over {
            self.end();
        }
        self.report_exchanges();
        if self.cx.records.is_on() {
            self.measure_turn(begun);
        }
        Ok(!is_over)
    }

    fn measure_turn(&mut self, begun: Stamp) {
        self.counters.turns.record(self.kernel.stamp().us_since(begun));
        let gauges = &self.counters.gauges;
        gauges.clients.set(self.clients.len());
        gauges.handshakes.set(self.handshake_cap.under_way());
        gauges.upstreams.set(self.upstreams.len());
        gauges.upstreams_in_use.set(self.upstreams.in_use);
        gauges.queued.set(self.queues.len());
        gauges.buffers.set(self.cx.pool.lent());
        gauges.pipes.set(self.pipes.count());
    }

    /// How long the next wait may last.
    fn wait_ms(&self) -> Option<u64> {
        let accepts = self.cx.snapshot.lifecycle != Lifecycle::Starting;
        let waits = accepts && self.listeners.iter().any(|listener| listener.is_ready(self.cx.now));
        let has_room = self.queues.due().is_some_and(|due| due <= self.cx.now);
        if self.clients.has_runnable() || waits || self.handshakes.has_deferred() || has_room {
            return Some(0);
        }
        let sweep = (self.upstreams.len() > 0).then(|| self.swept.after_ms(SWEEP_MS));
        let listeners = self.listeners.iter().filter_map(OpenListener::paused_until);
        let next = listeners
            .chain(self.timers.next())
            .chain(sweep)
            .chain(self.drains.due())
            .chain(self.resources.due())
            .chain(self.queues.due())
            .min()?;
        Some(next.ms_since(self.cx.now).max(1))
    }

    fn read_clocks(&mut self) {
        self.cx.now = self.kernel.now();
        read_stamp(&mut self.cx, &mut self.kernel);
        let seconds = self.kernel.unix_seconds();
        if seconds != self.date_seconds {
            self.date_seconds = seconds;
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            self.cx.date_line = format!("Date: {date}\r\n");
        }
    }

    /// The only load of the snapshot in a turn.
    fn follow_snapshot(&mut self) {
        if self.reader.load().epoch != self.cx.snapshot.epoch {
            self.cx.snapshot = self.reader.load().clone();
            self.adopt_snapshot();
        }
    }

    fn adopt_snapshot(&mut self) {
        let snapshot = self.cx.snapshot.clone();
        self.services = self.counters.services.follow(&snapshot);
        self.queues.follow(snapshot.services.len());
        self.retry_budgets.follow(snapshot.services.len());
        for id in self.upstreams.pools.follow(&snapshot) {
            self.discard_upstream(id);
        }
        self.leave_down_replicas(&snapshot);
        match snapshot.lifecycle {
            Lifecycle::Stopping => self.begin_drain(&snapshot),
            // What waits in their queues is the other process's.
            Lifecycle::HandedOver => self.close_listeners(),
            Lifecycle::Starting | Lifecycle::Serving | Lifecycle::LameDuck => self.follow_listeners(),
        }
        self.drain_listeners(&snapshot);
        self.reader.ack(snapshot.epoch);
    }

    /// Requests at a replica that is down go to another one where that is safe.
    fn leave_down_replicas(&mut self, snapshot: &Snapshot) {
        let replicas = snapshot.services.iter().flat_map(|service| &service.replicas);
        let down: Vec<_> = replicas.filter(|replica| replica.state == State::Down).map(|replica| replica.id).collect();
        if down.is_empty() {
            return;
        }
        for id in self.clients.ids() {
            let Some(client) = self.clients.get_mut(id) else { continue };
            if client.session.replica().is_some_and(|replica| down.contains(&replica)) {
                client.session.on_replica_down(&mut self.cx);
                self.clients.queue(id);
            }
        }
    }

    fn mark(&mut self, event: &SocketEvent) {
        match event.token {
            Token::Listener(number) => self.listeners.set_readable(number),
            Token::Client { index, generation } => {
                if let Some(id) = self.clients.key_of(index, generation) {
                    self.clients.on_edge(id, event.ready, &mut self.kernel, &mut self.cx);
                }
            }
            Token::Upstream { index, generation } => {
                if let Some(id) = self.upstreams.key_of(index, generation) {
                    self.mark_upstream(id, event.ready);
                }
            }
        }
    }

    fn mark_upstream(&mut self, id: UpstreamId, ready: Ready) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let (kernel, pool) = (&mut self.kernel, &mut self.cx.pool);
        let is_idle = matches!(upstream.mux, Mux::Idle);
        let ready = if is_idle { ready } else { upstream.transport.on_edge(ready, kernel, pool) };
        if let Some(why) = upstream.transport.take_failure() {
            self.events.send(WorkerEvent::UpstreamHandshakeFailed { replica: upstream.key.replica, why });
        }
        match &upstream.mux {
            // An idle connection that becomes readable was closed by its replica, or carries bytes that belong to no request.
            Mux::Idle => {
                if !upstream.transport.stays_clean(ready, kernel, pool) {
                    let key = upstream.key;
                    self.upstreams.pools.forget(key, id);
                    self.discard_upstream(id);
                }
            }
            Mux::Exclusive(session) => self.clients.on_ready(*session, Leg::Upstream, ready, &self.cx),
            Mux::Pipelined(pipeline) => {
                let first = pipeline.first();
                self.on_pipeline_ready(id, ready);
                if let Some(first) = first {
                    self.clients.on_ready(first, Leg::Upstream, ready, &self.cx);
                }
            }
        }
    }

    fn expire(&mut self) {
        let now = self.cx.now;
        while let Some(id) = self.timers.due(now) {
            if self.expire_handshake(id) {
                continue;
            }
            if let Some(client) = self.clients.get_mut(id) {
                let late = client.session.deadline() <= now;
                client.session.on_deadline(&mut self.cx);
                if late && self.is_queued_behind(id) {
                    self.requeue_from(id);
                }
                self.clients.queue(id);
            }
        }
        if now.ms_since(self.swept) >= SWEEP_MS {
            self.swept = now;
            self.sweep_pools();
        }
        self.end_listener_drains();
    }
}

fn cap(max: usize) -> usize {
    if max == 0 { usize::MAX } else { max }
}

impl<K: Kernel> Drop for Worker<K> {
    fn drop(&mut self) {
        self.reader.detach();
    }
}
