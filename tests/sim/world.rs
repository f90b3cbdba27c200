//! One simulated world: the balancer, clients and replicas on one thread, driven by the network's queue of events. It ends
//! when all clients have ended and the balancer has stopped. What clients and replicas check does not enter here.

use std::cell::RefCell;
use std::rc::Rc;

use ringway::core::snapshot::Mode;

use super::client::Client;
use super::configuration::Configuration;
use super::control::Control;
use super::faults::Faults;
use super::fleet::Fleet;
use super::history::Totals;
use super::kernel::listening_addresses;
use super::net::{Event, Net, Owner, SharedNet, SocketId, Trace};
use super::operator::Operator;
use super::processes::Processes;
use super::regressions::{self, StreamKind};
use super::tls::{ReplicaTls, Spoken, WorldTls};
use super::upgrades::Upgrades;
use super::worker::WorkerSettings;

/// When faults end.
const FAULTS_END_US: u64 = 20_000_000;
/// By then every client has all of its responses, or its connection has ended.
const CLIENTS_END_US: u64 = 400_000_000;
/// How long a stop may take beyond the drain timeout.
const STOP_SLACK_US: u64 = 30_000_000;
/// How many events pass between two checks whether all clients have ended.
const EVENTS_PER_CHECK: u64 = 64;
const FATE_US: u64 = 1_000_000;

/// The result of a world in which no oracle failed.
pub struct Outcome {
    pub hash: u64,
    pub totals: Totals,
    pub calm: bool,
}

struct World {
    net: SharedNet,
    processes: Processes,
    upgrades: Upgrades,
    fleet: Fleet,
    operator: Operator,
    clients: Vec<Client>,
    stop_at_us: u64,
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
    let tls = WorldTls::draw(random.tls()).filter(|_| !regressions::predates(seed, StreamKind::WithTls));
    let replica_tls = ReplicaTls::draw(random.replica_tls(), faults.calm);
    let replica_tls = replica_tls.filter(|_| !regressions::predates(seed, StreamKind::WithReplicaTls));
    let passes = replica_tls.as_ref().is_some_and(|replicas| replicas.tcp == Spoken::PassedThrough);
    let tls = if passes { tls.map(WorldTls::without_tcp) } else { tls };
    if trace == Trace::Printed {
        println!("{faults:#?}, {tls:?}, {replica_tls:?}");
    }
    let draws_policies = !regressions::predates(seed, StreamKind::WithPolicies);
    let workers = random.world().range(1, 3) as usize;
    let calm = faults.calm;
    let net = Rc::new(RefCell::new(Net::new(random, faults, trace)));
    let mut world = World::new(net, workers, tls, replica_tls, draws_policies);
    world.run_until_clients_end();
    world.stop();
    let net = world.net.borrow();
    Outcome { hash: net.hash(), totals: net.history.totals, calm }
}

impl World {
    fn new(
        shared: SharedNet,
        workers: usize,
        tls: Option<WorldTls>,
        replica_tls: Option<ReplicaTls>,
        draws_policies: bool,
    ) -> World {
        let mut net = shared.borrow_mut();
        let client_count = net.random.world().range(1, 20) as usize;
        let configuration = Configuration::draw(&mut net, workers, tls.clone(), replica_tls.clone(), draws_policies);
        let operator = Operator::new(&mut net, configuration);
        let upgrades = Upgrades::draw(&mut net);
        let mut control = Control::first(&mut net, &operator.configuration, workers, upgrades.hosting());
        let mut fleet = Fleet::new(&mut net, client_count, replica_tls.clone());
        control.attach(&mut net, &mut fleet, Vec::new());
        net.after(FATE_US, Event::Fate);
        let clients = draw_clients(&mut net, workers, client_count, tls.as_ref(), replica_tls.as_ref());
        let stop_us = if net.faults.early_stop { net.random.world().range(500_000, 5_000_000) } else { u64::MAX / 2 };
        let stop_at_us = net.now_us + stop_us;
        let (settings, seed) = draw_worker_settings(&mut net, workers, tls.as_ref());
        drop(net);
        let processes = Processes::new(&shared, settings, control, seed);
        World { net: shared, processes, upgrades, fleet, operator, clients, stop_at_us }
    }

    /// Oracle: every client ends, and no request is in flight then.
    fn run_until_clients_end(&mut self) {
        let mut events = 0u64;
        let mut faults_ended = false;
        loop {
            self.step();
            events += 1;
            let now_us = self.net.borrow().now_us;
            if !faults_ended && now_us > FAULTS_END_US {
                faults_ended = true;
                let net = &mut *self.net.borrow_mut();
                net.faults.cease();
                net.note("s.faults end", 0, 0, 0);
            }
            if now_us >= self.stop_at_us || self.upgrades.wants_stop() {
                self.begin_stop();
            }
            if events.is_multiple_of(EVENTS_PER_CHECK) && clients_ended(&self.net.borrow(), &self.clients) {
                break;
            }
        }
        if self.net.borrow().history.stopping.is_none() {
            self.processes.check_in_flight();
        }
    }

    /// The balancer is told to stop, once. The service manager tells the main process, and in
    /// some worlds those that it has replaced.
    fn begin_stop(&mut self) {
        if self.is_stopping() {
            return;
        }
        self.upgrades.fail(&mut self.processes, &mut self.fleet);
        let with_earlier = {
            let net = &mut *self.net.borrow_mut();
            net.history.stopping = Some(net.now_us);
            net.random.upgrades().one_in(2)
        };
        let main = self.upgrades.successor().unwrap_or(self.processes.main().process());
        self.processes.stop(&mut self.fleet, main, with_earlier);
    }

    fn is_stopping(&self) -> bool {
        self.net.borrow().history.stopping.is_some()
    }

    /// Oracle: workers and control plane stop in time, and everything that was opened is closed.
    fn stop(&mut self) {
        self.begin_stop();
        let by = self.stop_limit_us();
        while self.processes.have_workers() {
            self.step();
            assert!(self.net.borrow().now_us < by, "a worker does not stop");
        }
        while !self.processes.have_ended() {
            self.step();
            assert!(self.net.borrow().now_us < by + STOP_SLACK_US, "the control plane does not finish");
        }
        self.processes.check_end(&self.fleet);
    }

    fn stop_limit_us(&self) -> u64 {
        let net = self.net.borrow();
        let begun_us = net.history.stopping.unwrap_or(net.now_us);
        (begun_us + net.history.drain_ms * 1000).max(net.now_us) + STOP_SLACK_US
    }

    fn step(&mut self) {
        let event = self.net.borrow_mut().next_event().expect("the events of fate repeat for ever");
        if let Event::Turn(worker, number) = event {
            self.processes.turn(&mut self.fleet, worker, number);
        } else if let Event::Upgrade(number) = event {
            self.upgrades.come(number, &mut self.processes, &mut self.fleet, &self.operator);
        } else {
            self.handle(event);
        }
        self.processes.advance();
        self.upgrades.advance(&mut self.processes);
    }

    fn handle(&mut self, event: Event) {
        let shared = self.net.clone();
        let net = &mut *shared.borrow_mut();
        match event {
            Event::Deliver(socket) => net.deliver(socket),
            Event::ConnectArrives(socket) => net.connect_arrives(socket),
            Event::Edge(socket) => net.edge(socket),
            Event::Control(process, number) => self.processes.come(net, &mut self.fleet, process, number),
            Event::Wake(actor) => match self.clients.get_mut(actor) {
                Some(client) => client.step(net),
                None => self.fleet.wake(net, actor),
            },
            Event::Fate => self.fate(net),
            Event::Strike => self.strike(net),
            Event::Call if net.history.stopping.is_none() => self.call(net),
            Event::Call | Event::Turn(..) | Event::Upgrade(_) => {}
        }
    }

    /// Deaths, admin calls and reloads.
    fn fate(&mut self, net: &mut Net) {
        if net.random.control().per_mille(net.faults.death) {
            self.strike(net);
        }
        if net.history.stopping.is_none() && net.random.control().per_mille(net.faults.calls) {
            self.call(net);
        }
        if net.history.stopping.is_none() && self.upgrades.may_reload() {
            self.reload(net);
        }
        net.after(FATE_US, Event::Fate);
    }

    fn strike(&mut self, net: &mut Net) {
        if let Some(replica) = self.fleet.strike(net) {
            self.processes.replica_died(net, replica);
        }
    }

    fn call(&mut self, net: &mut Net) {
        let called = self.processes.with_admin_socket(net);
        let (ticket, call) = self.operator.call(net, called.process());
        called.control.call(net, &mut self.fleet, ticket, call);
    }

    fn reload(&mut self, net: &mut Net) {
        if let Some((ticket, reload)) = self.operator.reload(net) {
            let main = self.processes.main_mut();
            main.control.reload(net, &mut self.fleet, ticket, &reload);
        }
    }
}

/// Also the seed of the first process's workers.
fn draw_worker_settings(net: &mut Net, count: usize, tls: Option<&WorldTls>) -> (WorkerSettings, u64) {
    let max_connections =
        if !net.faults.calm && net.random.world().one_in(6) { net.random.world().range(1, 10) as usize } else { 0 };
    let seed = net.random.world().draw();
    // Only half of the worlds with a descriptor limit announce it to the workers.
    let limited = net.faults.max_descriptors > 0 && seed.is_multiple_of(2);
    let descriptors = if limited { (net.faults.max_descriptors / count).max(16) } else { usize::MAX };
    // Not drawn: what a seed draws after it stays what it was.
    let max_handshakes = tls.map_or(0, |tls| (tls.handshake_timeout_ms % 4) as usize);
    (WorkerSettings { count, max_connections, max_handshakes, descriptors }, seed)
}

/// Oracle: it is true before [`CLIENTS_END_US`].
fn clients_ended(net: &Net, clients: &[Client]) -> bool {
    let open = net.history.client_sockets();
    let open = open.filter(|id| matches!(net.owner(*id), Owner::Worker(_) | Owner::Queue));
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
fn draw_clients(
    net: &mut Net,
    workers: usize,
    count: usize,
    tls: Option<&WorldTls>,
    replica_tls: Option<&ReplicaTls>,
) -> Vec<Client> {
    let mut addresses = Vec::new();
    for worker in 0..workers {
        for (address, mode) in listening_addresses(worker).into_iter().zip([Mode::Http, Mode::Tcp]) {
            net.listen(address);
            addresses.push((address, mode));
        }
    }
    let draw = |me| {
        let (address, mode) = match net.random.clients().pick(&addresses) {
            (_, Mode::Tcp) if net.random.clients().one_in(2) => addresses[0],
            other => other,
        };
        let terminated = tls.and_then(|tls| tls.draw_client(mode, net.random.tls()));
        let passed = replica_tls.filter(|_| mode == Mode::Tcp);
        let passed = passed.and_then(|replicas| replicas.draw_client(net.random.replica_tls()));
        Client::draw(me, address, mode, terminated.or(passed), net)
    };
    (0..count).map(draw).collect()
}
