//! One simulated world: workers, registry, clients and replicas on one thread, driven by the queue of what happens
//! next. It ends when everything has ended, and what was opened is held against what was closed.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringway::core::snapshot::ServiceId;
use ringway::kernel::Wake;
use ringway::shared::counters::Counters;
use ringway::shared::events;
use ringway::worker::{BoundListener, Worker, WorkerInit};

use super::client::Client;
use super::control::Control;
use super::faults::Faults;
use super::kernel::{SimKernel, would_wait};
use super::ledger::Tally;
use super::net::{Bound, Event, Net, Owner, Shared};
use super::regressions;

/// Turns in a row that move nothing: a worker that spins.
const IDLE_TURNS: u64 = 500;
/// Faults end then.
const CALM_AFTER_US: u64 = 20_000_000;
/// And by then every client has its answer or its end.
const STUCK_AFTER_US: u64 = 400_000_000;
/// How long the end may take beyond the drain timeout.
const END_SLACK_US: u64 = 30_000_000;

pub struct Ended {
    pub hash: u64,
    pub tally: Tally,
    pub calm: bool,
}

struct World {
    net: Shared,
    control: Control,
    hands: Vec<Option<Hand>>,
    clients: Vec<Client>,
    counters: Vec<Arc<Counters>>,
    stop_at_us: u64,
}

/// A worker and how it is driven.
struct Hand {
    worker: Worker<SimKernel>,
    patience: Rc<RefCell<Option<u64>>>,
    wake: Arc<AtomicBool>,
    /// The newest turn that was planned.
    planned: u64,
    blocked: bool,
    turned_us: u64,
    idle_turns: u64,
    seen_progress: u64,
}

pub fn run(seed: u64, loud: bool) -> Ended {
    let mut random = regressions::streams(seed);
    let faults = Faults::draw(random.faults());
    if loud {
        println!("{faults:#?}");
    }
    let workers = random.world().range(1, 3) as usize;
    let calm = faults.calm;
    let net: Shared = Rc::new(RefCell::new(Net::new(random, faults, workers, loud)));
    let mut world = World::new(net, workers);
    world.live();
    world.end();
    let net = world.net.borrow();
    Ended { hash: net.hash(), tally: net.ledger.tally, calm }
}

impl World {
    fn new(shared: Shared, workers: usize) -> World {
        let (events, worker_events) = events::channel(Arc::new(|| {}));
        let mut net = shared.borrow_mut();
        let count = net.random.world().range(1, 20) as usize;
        let mut control = Control::new(&mut net, workers, count, worker_events);
        let clients = draw_clients(&mut net, workers, count);
        let stop_us = if net.faults.early_stop { net.random.world().range(500_000, 5_000_000) } else { u64::MAX / 2 };
        let stop_at_us = net.now_us + stop_us;
        let cap =
            if !net.faults.calm && net.random.world().one_in(6) { net.random.world().range(1, 10) as usize } else { 0 };
        let seed = net.random.world().draw();
        // Half of the worlds that are short of descriptors know it.
        let share = if net.faults.descriptors > 0 { (net.faults.descriptors / workers).max(16) } else { usize::MAX };
        drop(net);
        let mut hands = Vec::new();
        let mut all_counters = Vec::new();
        for index in 0..workers {
            let wake = Arc::new(AtomicBool::new(false));
            let rung = wake.clone();
            let bell: Wake = Arc::new(move || rung.store(true, Ordering::Relaxed));
            let patience = Rc::new(RefCell::new(None));
            let counters = Arc::new(Counters::default());
            let init = WorkerInit {
                index,
                kernel: SimKernel::new(shared.clone(), index, patience.clone(), wake.clone()),
                listeners: vec![entry(&shared, index, None), entry(&shared, index, Some(ServiceId(1)))],
                reader: control.publisher.reader(bell),
                counters: counters.clone(),
                events: events.clone(),
                seed: seed + index as u64,
                max_connections: cap,
                connection_limiter: None,
                descriptors: if seed.is_multiple_of(2) { share } else { usize::MAX },
            };
            let worker = Worker::new(init).unwrap_or_else(|error| panic!("worker {index} cannot begin: {error}"));
            all_counters.push(counters);
            hands.push(Some(Hand {
                worker,
                patience,
                wake,
                planned: 0,
                blocked: true,
                turned_us: 0,
                idle_turns: 0,
                seen_progress: 0,
            }));
            shared.borrow_mut().after(1, Event::Turn(index, 0));
        }
        World { net: shared, control, hands, clients, counters: all_counters, stop_at_us }
    }

    /// Until every client has come to its end.
    fn live(&mut self) {
        let mut steps = 0u64;
        let mut calm = false;
        loop {
            self.step();
            steps += 1;
            let net = &mut *self.net.borrow_mut();
            if !calm && net.now_us > CALM_AFTER_US {
                calm = true;
                net.faults.cease();
                net.note("s.faults end", 0, 0, 0);
            }
            if net.now_us >= self.stop_at_us {
                self.control.stop(net);
            }
            if steps.is_multiple_of(64) {
                let open = net.ledger.client_sockets().filter(|end| matches!(net.owner(*end), Owner::Worker(_)));
                let open: Vec<_> = open.collect();
                if open.is_empty() && self.clients.iter().all(|client| client.is_over(net)) {
                    break;
                }
                if net.now_us > STUCK_AFTER_US {
                    let open: Vec<_> = open.into_iter().map(|end| net.describe(end)).collect();
                    let clients = self.clients.iter().filter(|client| !client.is_over(net));
                    let clients: Vec<_> = clients.map(|client| client.describe(net)).collect();
                    panic!("stuck: sockets {open:#?}, clients {clients:#?}");
                }
            }
        }
        if self.net.borrow().ledger.stopping.is_none() {
            self.control.check_in_flight();
        }
    }

    /// The balancer stops: everything that was opened is closed.
    fn end(&mut self) {
        self.control.stop(&mut self.net.borrow_mut());
        let stopped = self.net.borrow().ledger.stopping;
        let by = stopped.map_or(0, |(at, drain_ms)| at + drain_ms * 1000) + END_SLACK_US;
        let by = by.max(self.net.borrow().now_us + END_SLACK_US);
        while self.hands.iter().any(Option::is_some) {
            self.step();
            assert!(self.net.borrow().now_us < by, "a worker does not stop");
        }
        self.control.drained(&mut self.net.borrow_mut());
        while !self.control.finished {
            self.step();
            assert!(self.net.borrow().now_us < by + END_SLACK_US, "the control control does not finish");
        }
        self.control.check_end();
        for counters in &self.counters {
            assert_eq!(counters.accepted.value(), counters.closed.value(), "clients accepted and closed");
        }
        let net = self.net.borrow();
        let books = net.books;
        assert_eq!(books.sockets_opened, books.sockets_closed, "sockets: {:?}", net.worker_sockets());
        assert_eq!(books.pipes_opened, books.pipes_closed, "pipes");
    }

    fn step(&mut self) {
        let event = self.net.borrow_mut().next_event().expect("something is always to come");
        match event {
            Event::Turn(worker, number) => self.turn(worker, number),
            _ => {
                let net = &mut *self.net.borrow_mut();
                match event {
                    Event::Deliver(end) => net.deliver(end),
                    Event::Arrive(end) => net.arrive(end),
                    Event::Edge(end) => net.edge(end),
                    Event::Control(number) => self.control.come(net, number),
                    Event::Wake(actor) => match self.clients.get_mut(actor) {
                        Some(client) => client.step(net),
                        None => self.control.wake(net, actor),
                    },
                    Event::Turn(..) => {}
                }
            }
        }
        let net = &mut *self.net.borrow_mut();
        self.control.listen(net);
        for (index, hand) in self.hands.iter_mut().enumerate() {
            if let Some(hand) = hand
                && hand.blocked
                && (hand.wake.load(Ordering::Relaxed) || net.has_edges(index))
            {
                let us = net.random.schedule().range(1, 30);
                hand.plan(net, index, net.now_us + us);
            }
        }
    }

    fn turn(&mut self, index: usize, number: u64) {
        let Some(hand) = self.hands[index].as_mut().filter(|hand| hand.planned == number) else { return };
        let result = hand.worker.turn();
        // Dropped last: its sockets are closed in a network that nobody else holds.
        let _over;
        let net = &mut *self.net.borrow_mut();
        match result {
            Ok(true) => {
                hand.worker.check();
                hand.watch_progress(net, index);
                let held_up = net.random.schedule().per_mille(net.faults.held_up);
                let us = if held_up {
                    net.random.schedule().range(1_000, 60_000)
                } else {
                    net.random.schedule().range(2, 60)
                };
                hand.plan(net, index, net.now_us + us);
            }
            Ok(false) => {
                net.note("w.over", index as u64, 0, 0);
                _over = self.hands[index].take();
            }
            Err(error) if would_wait(&error) => {
                let until = hand.patience.borrow().unwrap_or(u64::MAX);
                if until < u64::MAX {
                    hand.plan(net, index, until);
                }
                hand.blocked = true;
            }
            Err(error) => panic!("worker {index}: {error}"),
        }
    }
}

fn entry(net: &Shared, worker: usize, tunnel_to: Option<ServiceId>) -> BoundListener<SimKernel> {
    let local = SocketAddr::from((Ipv4Addr::new(10, 0, worker as u8, 1), 80));
    BoundListener { socket: SimKernel::listener(net, worker), local, tunnel_to, proxies: Vec::new() }
}

impl Hand {
    fn plan(&mut self, net: &mut Net, index: usize, us: u64) {
        self.blocked = false;
        self.planned += 1;
        net.at(us, Event::Turn(index, self.planned));
    }

    /// Oracle: no worker turns and turns while nothing moves.
    fn watch_progress(&mut self, net: &Net, index: usize) {
        let at_once = net.now_us - self.turned_us < 2_000 && net.progress == self.seen_progress;
        self.idle_turns = if at_once { self.idle_turns + 1 } else { 0 };
        (self.turned_us, self.seen_progress) = (net.now_us, net.progress);
        assert!(self.idle_turns < IDLE_TURNS, "worker {index} spins");
    }
}

fn draw_clients(net: &mut Net, workers: usize, count: usize) -> Vec<Client> {
    let mut addresses = Vec::new();
    for worker in 0..workers {
        for listener in 0..2 {
            let address = SocketAddr::from((Ipv4Addr::new(10, 0, worker as u8, 1), 80 + listener as u16));
            net.bound.insert(address, Bound::Door { worker, listener });
            addresses.push((address, listener == 1));
        }
    }
    let mut draw = |me| {
        let (address, tcp) = match net.random.clients().pick(&addresses) {
            (_, true) if net.random.clients().one_in(2) => addresses[0],
            other => other,
        };
        Client::draw(me, address, tcp, net)
    };
    (0..count).map(&mut draw).collect()
}
