//! One simulated world: workers, registry, clients and replicas on one thread, driven by the network's queue of events.
//! It ends when all clients have ended and the balancer has stopped. What clients and replicas check does not enter
//! here.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringway::core::exchange_record::Recording;
use ringway::core::snapshot::Mode;
use ringway::kernel::Wake;
use ringway::shared::counters::Counters;
use ringway::shared::events;
use ringway::worker::{Worker, WorkerInit};

use super::client::Client;
use super::control::Control;
use super::faults::Faults;
use super::history::Totals;
use super::kernel::{SimKernel, WaitDeadline, listening_addresses, would_wait};
use super::net::{Bound, Event, Net, Owner, SharedNet, SocketId, Trace};
use super::regressions;

/// A worker spins if so many turns in a row move nothing, ...
const IDLE_TURNS_MAX: u64 = 500;
/// ... each less than this after the one before.
const IDLE_TURN_GAP_US: u64 = 2_000;
/// When faults end.
const FAULTS_END_US: u64 = 20_000_000;
/// By then every client has all of its responses, or its connection has ended.
const CLIENTS_END_US: u64 = 400_000_000;
/// How long a stop may take beyond the drain timeout.
const STOP_SLACK_US: u64 = 30_000_000;
/// How many events pass between two checks whether all clients have ended.
const EVENTS_PER_CHECK: u64 = 64;

/// The result of a world in which no oracle failed.
pub struct Outcome {
    pub hash: u64,
    pub totals: Totals,
    pub calm: bool,
}

struct World {
    net: SharedNet,
    control: Control,
    /// `None`: stopped.
    workers: Vec<Option<SimWorker>>,
    clients: Vec<Client>,
    counters: Vec<Arc<Counters>>,
    stop_at_us: u64,
}

/// A worker and when its next turn is.
struct SimWorker {
    worker: Worker<SimKernel>,
    index: usize,
    wait_until_us: WaitDeadline,
    wake: Arc<AtomicBool>,
    /// The number of the last turn scheduled; events of earlier numbers are void.
    scheduled: u64,
    /// It waits for an edge, a wake-up or its deadline.
    blocked: bool,
    last_turn_us: u64,
    idle_turns: u64,
    last_progress: u64,
}

/// Runs the world of a seed. A failed oracle panics.
pub fn run(seed: u64) -> Outcome {
    run_with(seed, Trace::Hashed)
}

/// Runs the world of a seed and prints its trace.
pub fn replay(seed: u64) -> Outcome {
    run_with(seed, Trace::Printed)
}

fn run_with(seed: u64, trace: Trace) -> Outcome {
    let mut random = regressions::streams(seed);
    let faults = Faults::draw(&mut random);
    if trace == Trace::Printed {
        println!("{faults:#?}");
    }
    let workers = random.world().range(1, 3) as usize;
    let calm = faults.calm;
    let net = Rc::new(RefCell::new(Net::new(random, faults, workers, trace)));
    let mut world = World::new(net, workers);
    world.run_until_clients_end();
    world.stop();
    let net = world.net.borrow();
    Outcome { hash: net.hash(), totals: net.history.totals, calm }
}

impl World {
    fn new(shared: SharedNet, workers: usize) -> World {
        let (events, worker_events) = events::channel(Arc::new(|| {}));
        let mut net = shared.borrow_mut();
        let client_count = net.random.world().range(1, 20) as usize;
        let mut control = Control::new(&mut net, workers, client_count, worker_events);
        let clients = draw_clients(&mut net, workers, client_count);
        let stop_us = if net.faults.early_stop { net.random.world().range(500_000, 5_000_000) } else { u64::MAX / 2 };
        let stop_at_us = net.now_us + stop_us;
        let max_connections =
            if !net.faults.calm && net.random.world().one_in(6) { net.random.world().range(1, 10) as usize } else { 0 };
        let seed = net.random.world().draw();
        // Only half of the worlds with a descriptor limit announce it to the workers.
        let limited = net.faults.max_descriptors > 0 && seed.is_multiple_of(2);
        let descriptors = if limited { (net.faults.max_descriptors / workers).max(16) } else { usize::MAX };
        drop(net);
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(Counters::default())).collect();
        let workers = counters.iter().enumerate().map(|(index, counters)| {
            let wake = Arc::new(AtomicBool::new(false));
            let flag = wake.clone();
            let wake_reader: Wake = Arc::new(move || flag.store(true, Ordering::Relaxed));
            let wait_until_us = WaitDeadline::default();
            let init = WorkerInit {
                index,
                kernel: SimKernel::new(shared.clone(), index, wait_until_us.clone(), wake.clone()),
                reader: control.reader(wake_reader),
                counters: counters.clone(),
                events: events.clone(),
                seed: seed + index as u64,
                max_connections,
                connection_limiter: None,
                access_log: None,
                recording: Recording::Numbers,
                descriptors,
            };
            let worker = Worker::new(init);
            shared.borrow_mut().after(1, Event::Turn(index, 0));
            Some(SimWorker::new(worker, index, wait_until_us, wake))
        });
        let workers = workers.collect();
        World { net: shared, control, workers, clients, counters, stop_at_us }
    }

    /// Oracle: every client ends, and no request is in flight then.
    fn run_until_clients_end(&mut self) {
        let mut events = 0u64;
        let mut faults_ended = false;
        loop {
            self.step();
            events += 1;
            let net = &mut *self.net.borrow_mut();
            if !faults_ended && net.now_us > FAULTS_END_US {
                faults_ended = true;
                net.faults.cease();
                net.note("s.faults end", 0, 0, 0);
            }
            if net.now_us >= self.stop_at_us {
                self.control.stop(net);
            }
            if events.is_multiple_of(EVENTS_PER_CHECK) && clients_ended(net, &self.clients) {
                break;
            }
        }
        if self.net.borrow().history.stopping.is_none() {
            self.control.check_in_flight();
        }
    }

    /// Oracle: workers and control plane stop in time, and everything that was opened is closed.
    fn stop(&mut self) {
        self.control.stop(&mut self.net.borrow_mut());
        let stopping = self.net.borrow().history.stopping;
        let by = stopping.map_or(0, |(at, drain_ms)| at + drain_ms * 1000) + STOP_SLACK_US;
        let by = by.max(self.net.borrow().now_us + STOP_SLACK_US);
        while self.workers.iter().any(Option::is_some) {
            self.step();
            assert!(self.net.borrow().now_us < by, "a worker does not stop");
        }
        while !self.control.has_ended() {
            self.step();
            assert!(self.net.borrow().now_us < by + STOP_SLACK_US, "the control plane does not finish");
        }
        self.control.check_end();
        for counters in &self.counters {
            assert_eq!(counters.accepted.value(), counters.closed.value(), "clients accepted and closed");
        }
        let net = self.net.borrow();
        let resources = net.resources;
        assert_eq!(resources.sockets_opened, resources.sockets_closed, "sockets: {:?}", net.worker_sockets());
        assert_eq!(resources.pipes_opened, resources.pipes_closed, "pipes");
    }

    fn step(&mut self) {
        let event = self.net.borrow_mut().next_event().expect("control events repeat for ever");
        if let Event::Turn(worker, number) = event {
            self.turn(worker, number);
        } else {
            self.handle(event);
        }
        let net = &mut *self.net.borrow_mut();
        self.control.listen(net);
        for worker in self.workers.iter_mut().flatten() {
            if worker.blocked && (worker.wake.load(Ordering::Relaxed) || net.has_edges(worker.index)) {
                let us = net.random.schedule().range(1, 30);
                worker.schedule(net, net.now_us + us);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let net = &mut *self.net.borrow_mut();
        match event {
            Event::Deliver(socket) => net.deliver(socket),
            Event::ConnectArrives(socket) => net.connect_arrives(socket),
            Event::Edge(socket) => net.edge(socket),
            Event::Control(number) => self.control.come(net, number),
            Event::Wake(actor) => match self.clients.get_mut(actor) {
                Some(client) => client.step(net),
                None => self.control.wake(net, actor),
            },
            Event::Turn(..) => {}
        }
    }

    fn turn(&mut self, index: usize, number: u64) {
        let Some(worker) = self.workers[index].as_mut().filter(|worker| worker.scheduled == number) else { return };
        let result = worker.worker.turn();
        // Dropped after the borrow of the network, which closing its sockets needs.
        let _stopped;
        let net = &mut *self.net.borrow_mut();
        match result {
            Ok(true) => {
                worker.worker.check();
                worker.check_progress(net);
                let delayed = net.random.schedule().per_mille(net.faults.delayed_turn);
                let (min_us, max_us) = if delayed { (1_000, 60_000) } else { (2, 60) };
                let us = net.random.schedule().range(min_us, max_us);
                worker.schedule(net, net.now_us + us);
            }
            Ok(false) => {
                net.note("w.over", index as u64, 0, 0);
                _stopped = self.workers[index].take();
                self.control.worker_ended(net);
            }
            Err(error) if would_wait(&error) => worker.block(net),
            Err(error) => panic!("worker {index}: {error}"),
        }
    }
}

impl SimWorker {
    fn new(worker: Worker<SimKernel>, index: usize, wait_until_us: WaitDeadline, wake: Arc<AtomicBool>) -> SimWorker {
        SimWorker {
            worker,
            index,
            wait_until_us,
            wake,
            scheduled: 0,
            blocked: true,
            last_turn_us: 0,
            idle_turns: 0,
            last_progress: 0,
        }
    }

    fn schedule(&mut self, net: &mut Net, us: u64) {
        self.blocked = false;
        self.scheduled += 1;
        net.at(us, Event::Turn(self.index, self.scheduled));
    }

    fn block(&mut self, net: &mut Net) {
        let until = self.wait_until_us.borrow().unwrap_or(u64::MAX);
        if until < u64::MAX {
            self.schedule(net, until);
        }
        self.blocked = true;
    }

    /// Oracle: a worker does not spin.
    fn check_progress(&mut self, net: &Net) {
        let idle = net.now_us - self.last_turn_us < IDLE_TURN_GAP_US && net.progress == self.last_progress;
        self.idle_turns = if idle { self.idle_turns + 1 } else { 0 };
        (self.last_turn_us, self.last_progress) = (net.now_us, net.progress);
        assert!(self.idle_turns < IDLE_TURNS_MAX, "worker {} spins", self.index);
    }
}

/// Oracle: it is true before [`CLIENTS_END_US`].
fn clients_ended(net: &Net, clients: &[Client]) -> bool {
    let open = net.history.client_sockets().filter(|id| matches!(net.owner(*id), Owner::Worker(_)));
    let open: Vec<SocketId> = open.collect();
    if open.is_empty() && clients.iter().all(|client| client.is_over(net)) {
        return true;
    }
    if net.now_us > CLIENTS_END_US {
        let open: Vec<_> = open.into_iter().map(|id| net.describe(id)).collect();
        let clients = clients.iter().filter(|client| !client.is_over(net));
        let clients: Vec<_> = clients.map(|client| client.describe(net)).collect();
        panic!("stuck: sockets {open:#?}, clients {clients:#?}");
    }
    false
}

/// Each worker has a listener for HTTP and one for TCP. Half of the clients drawn for TCP use HTTP.
fn draw_clients(net: &mut Net, workers: usize, count: usize) -> Vec<Client> {
    let mut addresses = Vec::new();
    for worker in 0..workers {
        let modes = [Mode::Http, Mode::Tcp];
        for (listener, (address, mode)) in listening_addresses(worker).into_iter().zip(modes).enumerate() {
            net.bound.insert(address, Bound::Listener { worker, listener });
            addresses.push((address, mode));
        }
    }
    let draw = |me| {
        let (address, mode) = match net.random.clients().pick(&addresses) {
            (_, Mode::Tcp) if net.random.clients().one_in(2) => addresses[0],
            other => other,
        };
        Client::draw(me, address, mode, net)
    };
    (0..count).map(draw).collect()
}
