//! The control plane of one process of the balancer: the real control core, with a runtime and probes in virtual time. What
//! it publishes, workers and oracles read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringway::control::control_core::{ControlAction, ControlCore, End, WorkerEnd};
use ringway::control::registry::{
    Answer, Call, Command, Effect, HealthPolicy, Predecessor, Reconfiguration, Registry, RegistryConfig,
};
use ringway::control::runtime::{InstanceId, RuntimeEvent, Spec};
use ringway::core::snapshot::{
    Endpoint, Lifecycle, Replica as Entry, ReplicaId, ReplicaLoad, Service, Snapshot, State,
};
use ringway::core::tick::Tick;
use ringway::shared::events::{self, EventSender};
use ringway::shared::publish::{SnapshotPublisher, SnapshotReader, Wake};

use super::configuration::{Configuration, HTTP};
use super::fleet::{Fleet, ReplicaNumber};
use super::net::{Event, Net, ProcessId};
use super::reloads::Reload;
use super::runtime::{FoundInstance, Hosting, Runtime};

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
}

pub struct Control {
    process: ProcessId,
    core: ControlCore,
    runtime: Runtime,
    /// Its service of bytes, in every configuration.
    tcp: Arc<Service>,
    events: EventSender,
    coming: BTreeMap<u64, Coming>,
    number: u64,
    load: Vec<Arc<ReplicaLoad>>,
    open_calls: Vec<u64>,
    looking: bool,
    ticking: Tick,
    events_due: bool,
    /// It knows what ran before it.
    is_attached: bool,
    /// The ticket of the reload that is under way.
    reload: Option<u64>,
    has_been_up: BTreeSet<ReplicaId>,
}

impl Control {
    /// Of the first process.
    pub fn first(net: &mut Net, configuration: &Configuration, workers: usize, hosting: Hosting) -> Control {
        let tcp = configuration.tcp_service();
        let seed = net.random.control().draw();
        let topology = configuration.topology(tcp.clone());
        let registry = Registry::new(RegistryConfig { topology, workers, seed });
        Control::new(net, registry, Runtime::first(hosting), tcp, workers)
    }

    /// Of one that replaces another, which told it this.
    pub fn successor(
        net: &mut Net,
        configuration: &Configuration,
        workers: usize,
        hosting: Hosting,
        predecessor: Predecessor,
    ) -> Control {
        let tcp = configuration.tcp_service();
        let seed = net.random.upgrades().draw();
        let topology = configuration.topology(tcp.clone());
        let registry = Registry::starting(RegistryConfig { topology, workers, seed }, predecessor);
        let runtime = Runtime::of_successor(hosting, configuration.instance_settings);
        let control = Control::new(net, registry, runtime, tcp, workers);
        Control { core: control.core.with_predecessor(), ..control }
    }

    fn new(
        net: &mut Net,
        (registry, first): (Registry, Snapshot),
        runtime: Runtime,
        tcp: Arc<Service>,
        workers: usize,
    ) -> Control {
        let process = net.add_process();
        net.history.published(process, Arc::new(first.clone()), net.now_us);
        let (events, worker_events) = events::channel(Arc::new(|| {}));
        Control {
            process,
            core: ControlCore::new(registry, SnapshotPublisher::new(first), worker_events, workers),
            runtime,
            tcp,
            events,
            coming: BTreeMap::new(),
            number: 0,
            load: Vec::new(),
            open_calls: Vec::new(),
            looking: false,
            ticking: Tick::NEVER,
            events_due: false,
            is_attached: false,
            reload: None,
            has_been_up: BTreeSet::new(),
        }
    }

    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// It knows what runs already.
    pub fn attach(&mut self, net: &mut Net, fleet: &mut Fleet, found: Vec<FoundInstance>) {
        self.is_attached = true;
        let found = self.runtime.adopt(fleet, found);
        self.apply(net, fleet, Command::Found(found));
    }

    pub fn is_attached(&self) -> bool {
        self.is_attached
    }

    // Upgrades, as the process that is replaced.

    /// An upgrade is wanted: calls are refused from now on.
    pub fn hold(&mut self, net: &mut Net, fleet: &mut Fleet) {
        self.apply(net, fleet, Command::Hold("an upgrade is under way"));
    }

    /// Nothing is under way that a successor could not know of.
    pub fn is_quiet(&self) -> bool {
        self.core.is_quiet() && self.reload.is_none()
    }

    /// What a successor is told. From now on instances that outlive this process are the successor's.
    pub fn lend(&mut self) -> Predecessor {
        self.runtime.lend();
        self.core.for_successor()
    }

    /// What a successor finds.
    pub fn instances(&self, fleet: &Fleet) -> Vec<FoundInstance> {
        self.runtime.found(fleet)
    }

    /// There is no successor after all.
    pub fn take_back(&mut self, net: &mut Net, fleet: &mut Fleet) {
        for instance in self.runtime.take_back(net, fleet) {
            self.tell_exited(net, instance);
        }
        self.apply(net, fleet, Command::Release);
    }

    pub fn hand_over(&mut self, net: &mut Net, fleet: &mut Fleet) {
        let actions = self.core.hand_over(Control::tick_of(net));
        self.carry_out(net, fleet, actions);
    }

    // Upgrades, as the successor.

    pub fn can_take_over(&self) -> bool {
        self.core.is_standing_by() && self.core.can_take_over()
    }

    pub fn say_ready(&mut self) {
        self.core.say_ready();
    }

    pub fn predecessor_ended(&mut self, net: &mut Net, fleet: &mut Fleet) {
        self.apply(net, fleet, Command::PredecessorEnded);
    }

    /// It accepts from now on.
    pub fn serve(&mut self, net: &mut Net, fleet: &mut Fleet) {
        self.apply(net, fleet, Command::Enter(Lifecycle::Serving));
    }

    /// It has ended by force.
    pub fn end_children(&self, net: &mut Net, fleet: &mut Fleet) {
        self.runtime.end_children(net, fleet);
    }

    fn later(&mut self, net: &mut Net, us: u64, coming: Coming) {
        self.number += 1;
        self.coming.insert(self.number, coming);
        net.after(us, Event::Control(self.process, self.number));
    }

    fn tell_later(&mut self, net: &mut Net, us: u64, command: Command) {
        self.later(net, us, Coming::Command(command));
    }

    pub fn come(&mut self, net: &mut Net, fleet: &mut Fleet, number: u64) {
        match self.coming.remove(&number) {
            Some(Coming::Command(command)) => self.apply(net, fleet, command),
            Some(Coming::Up(spec)) => {
                let started = self.runtime.start(net, fleet, &spec);
                self.apply(net, fleet, Command::Started { instance: spec.instance, started });
            }
            Some(Coming::End(instance)) => {
                self.runtime.end(net, fleet, instance);
                self.apply(net, fleet, Command::Stopped { instance, result: Ok(()) });
            }
            Some(Coming::Tick) => {
                self.ticking = Tick::NEVER;
                self.apply(net, fleet, Command::Tick);
            }
            Some(Coming::LookForLive) => {
                self.looking = false;
                let actions = self.core.take_acks(Control::tick_of(net));
                self.carry_out(net, fleet, actions);
            }
            Some(Coming::Facts) => {
                self.events_due = false;
                while let Some(actions) = self.core.take_worker_event(Control::tick_of(net)) {
                    self.carry_out(net, fleet, actions);
                }
                let lines = self.core.flush_log(Control::tick_of(net));
                self.carry_out(net, fleet, lines);
            }
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

    fn apply(&mut self, net: &mut Net, fleet: &mut Fleet, command: Command) {
        net.log(|| format!("command to {}: {command:?}", self.process));
        let actions = self.core.apply(command, Control::tick_of(net));
        self.carry_out(net, fleet, actions);
    }

    fn carry_out(&mut self, net: &mut Net, fleet: &mut Fleet, actions: Vec<ControlAction>) {
        for action in actions {
            match action {
                ControlAction::Effect(effect) => self.perform(net, fleet, effect),
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

    fn perform(&mut self, net: &mut Net, fleet: &mut Fleet, effect: Effect) {
        match effect {
            Effect::Publish(snapshot) => self.published(net, snapshot),
            Effect::Start(spec) => {
                let us = net.random.control().range(1_000, 200_000);
                match self.runtime.start_failure(net, &spec) {
                    Some(failure) => {
                        self.tell_later(net, us, Command::StartFailed { instance: spec.instance, failure });
                    }
                    None => self.later(net, us, Coming::Up(spec)),
                }
            }
            Effect::Stop { instance, grace_ms } => {
                if self.runtime.cancels_starts() {
                    self.coming.retain(|_, coming| !matches!(coming, Coming::Up(spec) if spec.instance == instance));
                }
                let us = self.runtime.stop(net, fleet, self.process, instance, grace_ms);
                self.later(net, us, Coming::End(instance));
            }
            Effect::Probe { instance, endpoint, timeout_ms, .. } => {
                let Endpoint::Tcp(address) = endpoint else { return };
                let (us, answer) = self.runtime.probe(net, fleet, instance, address, timeout_ms);
                self.tell_later(net, us, answer);
            }
            Effect::Settle { revision, .. } => net.note("p.settled", revision.0, 0, 0),
            Effect::GiveUp { .. } => {}
            Effect::Reply { ticket, answer } => self.answered(net, ticket, &answer),
            Effect::Log(_, line) => net.log(|| format!("log: {line}")),
            Effect::Resume { .. } | Effect::Finished => {}
        }
    }

    fn published(&mut self, net: &mut Net, snapshot: Arc<Snapshot>) {
        net.note("p.publish", snapshot.epoch, u64::from(snapshot.lifecycle.is_stopping()), 0);
        self.check_health(net, &snapshot.services[0]);
        for replica in snapshot.services.iter().flat_map(|service| &service.replicas) {
            if replica.state == State::Up {
                self.has_been_up.insert(replica.id);
            }
            net.log(|| format!("    {} {:?} {:?} {:?}", replica.name, replica.id, replica.endpoint, replica.state));
            if !self.load.iter().any(|load| Arc::ptr_eq(load, &replica.load)) {
                self.load.push(replica.load.clone());
            }
        }
        net.history.published(self.process, snapshot, net.now_us);
    }

    /// Oracle: no replica has more requests than it may have.
    pub fn check_pressure(&self, net: &Net) {
        let limit = u64::from(net.history.max_connections);
        if limit > 0 {
            let most = self.load.iter().map(|load| load.in_flight()).max().unwrap_or(0);
            assert!(most <= limit, "{most} requests in flight at a replica that may have {limit}");
        }
    }

    /// Oracle: an answer is that of an open call.
    fn answered(&mut self, net: &mut Net, ticket: u64, answer: &Answer) {
        let before = self.open_calls.len();
        self.open_calls.retain(|open| *open != ticket);
        self.reload = self.reload.filter(|reload| *reload != ticket);
        assert!(self.open_calls.len() < before, "an answer to no open call: {answer:?}");
        net.note("p.reply", ticket, u64::from(matches!(answer, Answer::Replicas(_))), 0);
        net.log(|| format!("    {answer:?}"));
    }

    /// Oracles: at most the allowed share of a service is ejected; a replica that is only slow is never down.
    fn check_health(&self, net: &Net, service: &Service) {
        let members = &service.replicas[..service.ring.members()];
        let count = |state| members.iter().filter(|replica| replica.state == state).count();
        let max_ejected = (HealthPolicy::default().ejection.max_share * members.len() as f64) as usize;
        assert!(count(State::Ejected) <= max_ejected, "{} of {} are ejected", count(State::Ejected), members.len());
        if net.faults.serial && !net.history.is_ending(Some(self.process)) {
            let was_up = |replica: &&Entry| self.has_been_up.contains(&replica.id);
            let down = members.iter().filter(was_up).find(|replica| !replica.state.may_take_requests());
            assert!(down.is_none(), "a slow replica is taken down: {down:?}");
        }
    }

    /// A replica that may be one of its instances has died.
    pub fn replica_died(&mut self, net: &mut Net, replica: ReplicaNumber) {
        if let Some(instance) = self.runtime.watched(replica) {
            self.tell_exited(net, instance);
        }
    }

    fn tell_exited(&mut self, net: &mut Net, instance: InstanceId) {
        let us = net.random.control().range(100, 50_000);
        self.tell_later(net, us, Command::RuntimeEvent(RuntimeEvent::Exited { instance, why: "struck".into() }));
    }

    /// An admin call about the HTTP service.
    pub fn call(&mut self, net: &mut Net, fleet: &mut Fleet, ticket: u64, call: Call) {
        self.open_calls.push(ticket);
        self.apply(net, fleet, Command::Call { ticket, service: HTTP, call });
    }

    pub fn reload(&mut self, net: &mut Net, fleet: &mut Fleet, ticket: u64, reload: &Reload) {
        self.open_calls.push(ticket);
        self.reload = Some(ticket);
        let Reload { configuration, is_rolled_out } = reload;
        let revision = self.runtime.revision(configuration.instance_settings);
        let revisions = is_rolled_out.then_some((HTTP, revision)).into_iter().collect();
        let topology = configuration.topology(self.tcp.clone());
        let change = Reconfiguration { ticket, topology, found: Vec::new(), revisions };
        self.apply(net, fleet, Command::Reconfigure(change.into()));
    }

    pub fn stop(&mut self, net: &mut Net, fleet: &mut Fleet) {
        let actions = self.core.signal("SIGTERM", Control::tick_of(net));
        self.carry_out(net, fleet, actions);
    }

    /// One worker is gone.
    pub fn worker_ended(&mut self, net: &mut Net, fleet: &mut Fleet) {
        let actions = self.core.worker_ended(WorkerEnd::Returned, Control::tick_of(net));
        self.carry_out(net, fleet, actions);
    }

    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping()
    }

    pub fn has_ended(&self) -> bool {
        self.core.end().is_some()
    }

    pub fn reader(&mut self, wake: Wake) -> SnapshotReader {
        self.core.publisher_mut().reader(wake)
    }

    /// For its workers.
    pub fn events(&self) -> EventSender {
        self.events.clone()
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
