//! The control plane of a simulated world: the real control core, with a runtime, probes and an operator in virtual
//! time. What it publishes, workers and oracles read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ringway::control::control_core::{ControlAction, ControlCore, End, WorkerEnd};
use ringway::control::registry::{
    Answer, Call, Change, Command, Effect, HealthPolicy, ProbeFailure, ProbeFault, Registry, RegistryConfig,
    ServiceConfig, ServiceSource, Topology,
};
use ringway::control::runtime::{Failure, FailureKind, InstanceId, RuntimeEvent, Spec, Started};
use ringway::core::limits::{AbortOn, Limits};
use ringway::core::ring::{Member, Ring, RingKind};
use ringway::core::snapshot::{
    Endpoint, KeyPolicy, Lifecycle, Listener, ListenerId, Mode, Replica as Entry, ReplicaId, ReplicaLoad, Service,
    ServiceId, State,
};
use ringway::core::tick::Tick;
use ringway::shared::events::EventReceiver;
use ringway::shared::publish::{SnapshotPublisher, SnapshotReader, Wake};

use super::kernel::listening_addresses;
use super::net::{Actor, Event, Net};
use super::reloads::{BROKEN, Reloads};
use super::replica::Replica;

/// Replicas of the service that is bytes only: they are always there.
const TCP_REPLICAS: u64 = 2;

/// What comes to the registry later.
#[derive(Debug)]
enum Coming {
    Command(Command),
    /// A new instance begins to listen.
    Up(Spec),
    /// A stopped one is forced to end.
    End(InstanceId),
    Tick,
    LookForLive,
    Facts,
    /// Once a second: deaths and calls.
    Fate,
}

pub struct Control {
    core: ControlCore,
    coming: BTreeMap<u64, Coming>,
    number: u64,
    /// By instance; the TCP service's first.
    pub replicas: Vec<Replica>,
    load: Vec<Arc<ReplicaLoad>>,
    next_actor: Actor,
    next_port: u16,
    ticket: u64,
    open_calls: Vec<u64>,
    looking: bool,
    ticking: Tick,
    events_due: bool,
    drain_ms: u64,
    reuse_addresses: bool,
    names: u64,
    has_been_up: BTreeSet<ReplicaId>,
    reloads: Option<Reloads>,
}

/// A listener of HTTP and one of bytes, each with the addresses of all workers.
fn topology(http: ServiceConfig, tcp: Service, workers: usize) -> Topology {
    let limits = http.limits.clone();
    let listener = |(at, mode): (usize, Mode)| Listener {
        name: "listener".into(),
        bind: (0..workers).map(|worker| listening_addresses(worker)[at]).collect(),
        lifecycle: Lifecycle::Serving,
        mode,
        service: Some(ServiceId(at as u32)),
        redirect: None,
        proxies: Vec::new(),
        limits: limits.clone(),
    };
    let listeners = [Mode::Http, Mode::Tcp].into_iter().enumerate().map(listener).map(Arc::new);
    Topology {
        listeners: (0..).map(ListenerId).zip(listeners).collect(),
        services: [(ServiceId(0), ServiceSource::Runtime(http)), (ServiceId(1), ServiceSource::Static(Arc::new(tcp)))]
            .into(),
        routes: Arc::default(),
    }
}

impl Control {
    pub fn new(net: &mut Net, workers: usize, first_actor: Actor, worker_events: EventReceiver) -> Control {
        let c = net.random.control();
        let mut limits = Limits {
            head_timeout_ms: c.range(2_000, 10_000),
            idle_timeout_ms: c.range(3_000, 10_000),
            connect_timeout_ms: c.range(300, 1_000),
            response_timeout_ms: c.range(1_500, 4_000),
            stall_timeout_ms: c.range(5_000, 10_000),
            tunnel_timeout_ms: c.range(8_000, 15_000),
            drain_timeout_ms: c.range(3_000, 8_000),
            pool_idle_timeout_ms: c.range(500, 5_000),
            pool_size: c.pick(&[0, 1, 2, 1024]),
            attempts: c.range(1, 5) as u32,
            upstream_pipelining: c.pick(&[0, 0, 2, 8, 32]),
            ..Limits::DEFAULT
        };
        // Not drawn: what a seed draws after it stays what it was.
        limits.min_body_rate = if limits.stall_timeout_ms.is_multiple_of(2) { 100 } else { 0 };
        limits.abort_on = match limits.response_timeout_ms % 4 {
            0 => AbortOn::Nothing,
            1 => AbortOn::Close,
            _ => AbortOn::Reset,
        };
        net.aborts_on_close = limits.abort_on == AbortOn::Close;
        let limits = Arc::new(limits);
        net.upstream_pipelining = limits.upstream_pipelining > 1;
        net.history.drain_ms = limits.drain_timeout_ms;
        net.history.idle_ms = limits.idle_timeout_ms;
        let c = net.random.control();
        let key = c.pick(&[0, 1, 2, 3, 4]);
        let key = match key {
            0 => KeyPolicy::Request,
            1 => KeyPolicy::Uri,
            2 => KeyPolicy::Path,
            3 => KeyPolicy::Query("k".into()),
            _ => KeyPolicy::ClientIp,
        };
        let tcp = tcp_service(workers, &limits);
        let http = ServiceConfig {
            name: "http".into(),
            mode: Mode::Http,
            key,
            ring: if c.one_in(6) { RingKind::Exercise } else { RingKind::Ketama },
            limits,
            send_proxy: None,
            replicas: c.range(1, 5) as usize,
            max_replicas: 8,
            can_start: true,
            keeps_on_exit: false,
            health: HealthPolicy {
                interval_ms: c.range(100, 1_000),
                fall: c.range(1, 3) as u32,
                ..HealthPolicy::default()
            },
        };
        let http = with_slowness(http, net);
        let topology = topology(http, tcp, workers);
        let reloads = Reloads::draw(&topology, net.random.reloads()).filter(|_| !net.faults.serial);
        let config = RegistryConfig { topology, workers, seed: net.random.control().draw() };
        let reuse_addresses = net.random.control().one_in(2);
        let (registry, first) = Registry::new(config);
        let now_us = net.now_us;
        net.history.snapshots.push((now_us, Arc::new(first.clone())));
        let mut control = Control {
            core: ControlCore::new(registry, SnapshotPublisher::new(first), worker_events, workers),
            coming: BTreeMap::new(),
            number: 0,
            replicas: Vec::new(),
            load: Vec::new(),
            next_actor: first_actor,
            next_port: 1000,
            ticket: 0,
            open_calls: Vec::new(),
            looking: false,
            ticking: Tick::NEVER,
            events_due: false,
            drain_ms: net.history.drain_ms,
            reuse_addresses,
            names: 0,
            has_been_up: BTreeSet::new(),
            reloads,
        };
        for number in 0..TCP_REPLICAS {
            control.spawn(net, format!("tcp{number}"), u64::MAX - number, tcp_address(number), Mode::Tcp);
        }
        control.apply(net, Command::Found(Vec::new()));
        control.later(net, 1_000_000, Coming::Fate);
        control
    }

    pub fn wake(&mut self, net: &mut Net, actor: Actor) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.me == actor) {
            replica.step(net);
        }
    }

    fn spawn(&mut self, net: &mut Net, name: String, instance: u64, address: SocketAddr, mode: Mode) {
        let me = self.next_actor;
        self.next_actor += 1;
        self.replicas.push(Replica::new(me, name, instance, address, mode, net));
    }

    fn later(&mut self, net: &mut Net, us: u64, coming: Coming) {
        self.number += 1;
        self.coming.insert(self.number, coming);
        net.after(us, Event::Control(self.number));
    }

    fn tell_later(&mut self, net: &mut Net, us: u64, command: Command) {
        self.later(net, us, Coming::Command(command));
    }

    pub fn come(&mut self, net: &mut Net, number: u64) {
        match self.coming.remove(&number) {
            Some(Coming::Command(command)) => self.apply(net, command),
            Some(Coming::Up(spec)) => self.started(net, spec),
            Some(Coming::End(instance)) => self.ended(net, instance),
            Some(Coming::Tick) => {
                self.ticking = Tick::NEVER;
                self.apply(net, Command::Tick);
            }
            Some(Coming::LookForLive) => {
                self.looking = false;
                let actions = self.core.take_acks(Control::tick_of(net));
                self.carry_out(net, actions);
            }
            Some(Coming::Facts) => {
                self.events_due = false;
                while let Some(actions) = self.core.take_worker_event(Control::tick_of(net)) {
                    self.carry_out(net, actions);
                }
                let lines = self.core.flush_log(Control::tick_of(net));
                self.carry_out(net, lines);
            }
            Some(Coming::Fate) => self.fate(net),
            None => {}
        }
    }

    /// After every event: has a worker something to say?
    pub fn listen(&mut self, net: &mut Net) {
        if !self.events_due && !self.core.worker_events().events.is_empty() {
            self.events_due = true;
            let us = net.random.control().range(10, 3_000);
            self.later(net, us, Coming::Facts);
        }
    }

    fn tick_of(net: &Net) -> Tick {
        Tick(net.now_us / 1000)
    }

    fn apply(&mut self, net: &mut Net, command: Command) {
        net.log(|| format!("command {command:?}"));
        let actions = self.core.apply(command, Control::tick_of(net));
        self.carry_out(net, actions);
    }

    fn carry_out(&mut self, net: &mut Net, actions: Vec<ControlAction>) {
        for action in actions {
            match action {
                ControlAction::Effect(effect) => self.perform(net, effect),
                ControlAction::Log(_, line) => net.log(|| format!("log: {line}")),
            }
        }
        if self.core.awaits_acks() && !self.looking {
            self.looking = true;
            self.later(net, 1_000, Coming::LookForLive);
        }
        let due = self.core.due();
        if due < self.ticking {
            self.ticking = due;
            let us = (due.0 * 1000).saturating_sub(net.now_us);
            self.later(net, us, Coming::Tick);
        }
    }

    fn perform(&mut self, net: &mut Net, effect: Effect) {
        match effect {
            Effect::Publish(snapshot) => {
                net.note("p.publish", snapshot.epoch, u64::from(snapshot.lifecycle.is_stopping()), 0);
                self.check_health(net, &snapshot.services[0]);
                for replica in snapshot.services.iter().flat_map(|service| &service.replicas) {
                    if replica.state == State::Up {
                        self.has_been_up.insert(replica.id);
                    }
                    net.log(|| {
                        format!("    {} {:?} {:?} {:?}", replica.name, replica.id, replica.endpoint, replica.state)
                    });
                    if !self.load.iter().any(|load| Arc::ptr_eq(load, &replica.load)) {
                        self.load.push(replica.load.clone());
                    }
                }
                let now_us = net.now_us;
                net.history.snapshots.push((now_us, snapshot));
            }
            Effect::Start(spec) => {
                let us = net.random.control().range(1_000, 200_000);
                let is_broken = spec.revision == BROKEN;
                if is_broken || !net.faults.calm && net.random.control().one_in(10) {
                    let failure = Failure { kind: FailureKind::Refused, message: "not today".into() };
                    return self.tell_later(net, us, Command::StartFailed { instance: spec.instance, failure });
                }
                self.later(net, us, Coming::Up(spec));
            }
            Effect::Stop { instance, grace_ms } => {
                if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.instance == instance.number()) {
                    net.note("p.stop", instance.number(), grace_ms, u64::from(replica.has_work()));
                    replica.leave(net);
                }
                let us = if grace_ms == 0 { 0 } else { net.random.control().range(0, grace_ms * 1000) };
                self.later(net, us, Coming::End(instance));
            }
            Effect::Probe { instance, endpoint, timeout_ms, .. } => {
                let Endpoint::Tcp(address) = endpoint else { return };
                self.probe(net, instance, address, timeout_ms);
            }
            Effect::Settle { revision, .. } => net.note("p.settled", revision.0, 0, 0),
            Effect::GiveUp { .. } => {}
            Effect::Reply { ticket, answer } => {
                let before = self.open_calls.len();
                self.open_calls.retain(|open| *open != ticket);
                assert!(self.open_calls.len() < before, "an answer to no open call: {answer:?}");
                net.note("p.reply", ticket, u64::from(matches!(answer, Answer::Replicas(_))), 0);
                net.log(|| format!("    {answer:?}"));
            }
            Effect::Log(_, line) => net.log(|| format!("log: {line}")),
            Effect::Resume { .. } | Effect::Finished => {}
        }
    }

    fn probe(&mut self, net: &mut Net, instance: InstanceId, address: SocketAddr, timeout_ms: u64) {
        let own = self.replicas.iter().any(|r| r.instance == instance.number() && r.alive && r.address == address);
        let answers = self.replicas.iter().any(|r| r.address == address && r.alive && !r.hung);
        let timeout_us = timeout_ms * 1_000;
        let us = if own && !answers { timeout_us } else { net.random.control().range(100, 5_000) };
        let busy_us = net.busy_until(address) - net.now_us;
        let failed = |fault| {
            let why = format!("{fault:?}");
            Command::ProbeFailed { instance, failure: ProbeFailure { fault, why } }
        };
        match (own, answers) {
            (true, true) if busy_us + us > timeout_us => {
                self.tell_later(net, timeout_us, failed(ProbeFault::Silent));
            }
            (true, true) => self.tell_later(net, busy_us + us, Command::ProbeOk { instance }),
            (true, false) => self.tell_later(net, us, failed(ProbeFault::ConnectTimedOut)),
            (false, _) => self.tell_later(net, us, failed(ProbeFault::Dead)),
        }
    }

    /// Oracles: at most the allowed share of a service is ejected; a replica that is only slow is never down.
    fn check_health(&self, net: &Net, service: &Service) {
        let members = &service.replicas[..service.ring.members()];
        let count = |state| members.iter().filter(|replica| replica.state == state).count();
        let max_ejected = (HealthPolicy::default().max_ejected_share * members.len() as f64) as usize;
        assert!(count(State::Ejected) <= max_ejected, "{} of {} are ejected", count(State::Ejected), members.len());
        if net.faults.serial && net.history.stopping.is_none() {
            let was_up = |replica: &&Entry| self.has_been_up.contains(&replica.id);
            let down = members.iter().filter(was_up).find(|replica| !replica.state.may_take_requests());
            assert!(down.is_none(), "a slow replica is taken down: {down:?}");
        }
    }

    fn started(&mut self, net: &mut Net, spec: Spec) {
        let free: Vec<SocketAddr> = self.replicas.iter().filter(|r| !r.alive).map(|r| r.address).collect();
        let unused = free.into_iter().find(|a| self.reuse_addresses && !net.bound.contains_key(a));
        let address = unused.unwrap_or_else(|| {
            self.next_port += 1;
            SocketAddr::from((Ipv4Addr::new(10, 1, 0, 1), self.next_port))
        });
        net.note("p.started", spec.instance.number(), u64::from(address.port()), 0);
        self.spawn(net, spec.name.to_string(), spec.instance.number(), address, Mode::Http);
        let started = Started { endpoint: Endpoint::Tcp(address), handle: format!("i{}", spec.instance), weight: 1 };
        self.apply(net, Command::Started { instance: spec.instance, started });
    }

    fn ended(&mut self, net: &mut Net, instance: InstanceId) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.instance == instance.number()) {
            replica.die(net);
        }
        self.apply(net, Command::Stopped { instance, result: Ok(()) });
    }

    fn fate(&mut self, net: &mut Net) {
        if net.random.control().per_mille(net.faults.death) {
            self.strike(net);
        }
        if net.history.stopping.is_none() && net.random.control().per_mille(net.faults.calls) {
            self.operator_calls(net);
        }
        if net.history.stopping.is_none() {
            self.reload(net);
        }
        self.later(net, 1_000_000, Coming::Fate);
    }

    /// Another configuration, if the world has reloads and now is the time.
    fn reload(&mut self, net: &mut Net) {
        let ticket = self.ticket + 1;
        let next = self.reloads.as_ref().and_then(|reloads| reloads.next(ticket, net.random.reloads()));
        let Some(command) = next else { return };
        self.ticket = ticket;
        net.note("p.reload", ticket, 0, 0);
        self.open_calls.push(ticket);
        self.apply(net, command);
    }

    /// A replica dies or hangs.
    fn strike(&mut self, net: &mut Net) {
        let alive: Vec<usize> =
            (TCP_REPLICAS as usize..self.replicas.len()).filter(|at| self.replicas[*at].alive).collect();
        if alive.is_empty() {
            return;
        }
        let replica = &mut self.replicas[net.random.control().pick(&alive)];
        if net.random.control().one_in(3) {
            return replica.hang(net);
        }
        replica.die(net);
        let instance = InstanceId::Managed(replica.instance);
        let us = net.random.control().range(100, 50_000);
        self.tell_later(net, us, Command::RuntimeEvent(RuntimeEvent::Exited { instance, why: "struck".into() }));
    }

    fn operator_calls(&mut self, net: &mut Net) {
        self.ticket += 1;
        let mut change = Change {
            n: net.random.control().range(1, 2),
            hostnames: Vec::new(),
            dry_run: net.random.control().one_in(10),
        };
        if net.random.control().one_in(2) {
            self.names += 1;
            change.hostnames.push(format!("named{}", self.names));
        }
        let members = self.core.publisher().view().current().services[0].ring.members();
        let call = if net.random.control().one_in(2) || members < 4 {
            Call::Add(change)
        } else {
            Call::Remove(Change { hostnames: Vec::new(), ..change })
        };
        net.note("p.call", self.ticket, 0, 0);
        self.open_calls.push(self.ticket);
        self.apply(net, Command::Call { ticket: self.ticket, service: ServiceId::default(), call });
    }

    pub fn stop(&mut self, net: &mut Net) {
        if net.history.stopping.is_none() {
            net.history.stopping = Some((net.now_us, self.drain_ms));
            let actions = self.core.signal("SIGTERM", Control::tick_of(net));
            self.carry_out(net, actions);
        }
    }

    /// One worker is gone.
    pub fn worker_ended(&mut self, net: &mut Net) {
        let actions = self.core.worker_ended(WorkerEnd::Returned, Control::tick_of(net));
        self.carry_out(net, actions);
    }

    pub fn has_ended(&self) -> bool {
        self.core.end().is_some()
    }

    pub fn reader(&mut self, wake: Wake) -> SnapshotReader {
        self.core.publisher_mut().reader(wake)
    }

    /// Oracle: nothing was given up, nothing is under way any more, and every call was answered.
    pub fn check_end(&self) {
        assert_eq!(self.core.end(), Some(End::Drained));
        for load in &self.load {
            assert_eq!(load.in_flight(), 0, "requests in flight of {} after the end", load.total());
        }
        assert!(self.open_calls.is_empty(), "calls without an answer: {:?}", self.open_calls);
        assert_eq!(self.core.worker_events().dropped(), 0, "facts were dropped");
    }

    pub fn check_in_flight(&self) {
        for load in &self.load {
            assert_eq!(load.in_flight(), 0, "requests in flight after the last client");
        }
    }
}

/// A service of slow replicas leaves requests as long as they take. The rest is how silence is judged.
fn with_slowness(config: ServiceConfig, net: &mut Net) -> ServiceConfig {
    const PATIENT_MS: u64 = 300_000;
    net.history.runs_once = net.faults.serial && !net.upstream_pipelining;
    let serial = net.faults.serial;
    let random = net.random.health();
    let health = HealthPolicy {
        timeout_ms: random.range(50, 1_000),
        rise: random.range(1, 2) as u32,
        // A slow replica sends nothing while it works on requests whose clients have left.
        replace_after_ms: if serial { 30_000 } else { random.pick(&[5_000, 30_000]) },
        ..config.health
    };
    let mut limits = Limits::clone(&config.limits);
    if serial {
        limits = Limits { response_timeout_ms: PATIENT_MS, drain_timeout_ms: PATIENT_MS, ..limits };
        net.history.drain_ms = PATIENT_MS;
    }
    ServiceConfig { health, limits: Arc::new(limits), ..config }
}

fn tcp_address(number: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 2, 0, 1), number as u16 + 1))
}

fn tcp_service(workers: usize, limits: &Arc<Limits>) -> Service {
    let members: Vec<Member> = (0..TCP_REPLICAS).map(|n| Member::new(format!("tcp{n}"), 1)).collect();
    let entry = |n: u64| Entry {
        id: ReplicaId(u64::MAX - n),
        name: format!("tcp{n}").into(),
        endpoint: Endpoint::Tcp(tcp_address(n)),
        weight: 1,
        state: State::Up,
        load: Arc::new(ReplicaLoad::new(workers)),
    };
    Service {
        name: "tcp".into(),
        mode: Mode::Tcp,
        key: KeyPolicy::ClientIp,
        limits: limits.clone(),
        send_proxy: None,
        is_removed: false,
        replicas: (0..TCP_REPLICAS).map(entry).collect(),
        ring: Arc::new(Ring::build(RingKind::Ketama, &members)),
    }
}
