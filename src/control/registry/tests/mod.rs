//! The registry alone: a scripted runtime and virtual time, no thread and no socket.
//!
//! | file | tests |
//! |---|---|
//! | `mod.rs` | `World`: the registry with scripted starts, stops and probes, and helpers that make specs, calls and configurations |
//! | `calls` | `/rep`, `/add`, `/rm`: names, undo, replies after acks, drains before stops, dry runs, bad calls |
//! | `delisted` | servers that a list has no more: drained, kept while they are needed, listed again; weights; shared addresses |
//! | `ejections` | requests that fail: in a row, more than at others; slow starts |
//! | `healing` | dead and failing instances replaced, backoff, start timeouts, fixed, foreign and adopted instances, the stop of all |
//! | `operator` | `PATCH /replicas/NAME`: drains and weights, and what they outlast |
//! | `reconfiguration` | other services, listeners and routes: shared, changed, new, resized, removed and come back |
//! | `services` | two services in one registry; numbers of managed and foreign instances |
//! | `storm` | random faults, calls and stuck workers from seeds, then everything is up again |
//! | `successions` | outdated instances and their successors |
//! | `takeover` | a process that replaces another: adopted instances, and the end of the process before |
//! | `verdicts` | probes and worker faults: down, slowness, suspicion, silence, rise and fall, skipped probes |

mod calls;
mod delisted;
mod ejections;
mod healing;
mod operator;
mod reconfiguration;
mod services;
mod storm;
mod successions;
mod takeover;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::{Failure, FailureKind, InstanceId, Origin, RuntimeEvent, Spec, Started};
use crate::core::limits::Limits;
use crate::core::ring::RingKind;
use crate::core::snapshot::{Endpoint, KeyPolicy, Mode, ReplicaLoad, Service, ServiceId, State};

pub const SERVICE: ServiceId = ServiceId(0);

pub fn config() -> RegistryConfig {
    config_of([service_config()])
}

pub fn config_of(services: impl IntoIterator<Item = ServiceConfig>) -> RegistryConfig {
    RegistryConfig { topology: Topology::of_services(services), workers: 1, seed: 7 }
}

pub fn service_config() -> ServiceConfig {
    ServiceConfig {
        name: "test".into(),
        mode: Mode::Http,
        policy: Default::default(),
        key: KeyPolicy::Request,
        ring: RingKind::Ketama,
        limits: Arc::new(Limits::default()),
        send_proxy: None,
        tls: None,
        replicas: 3,
        max_replicas: 8,
        can_start: true,
        keeps_on_exit: false,
        health: HealthPolicy::default(),
    }
}

/// One service, changed by `change`.
pub fn config_with(change: impl FnOnce(&mut ServiceConfig)) -> RegistryConfig {
    let mut service = service_config();
    change(&mut service);
    config_of([service])
}

pub struct World {
    pub registry: Registry,
    pub now: Tick,
    pub shown: Arc<Snapshot>,
    pub epochs: u64,
    pub alive: BTreeMap<InstanceId, Arc<str>>,
    /// Instances that answer no probe, though they accept the connection.
    pub silent: BTreeSet<InstanceId>,
    /// Instances that answer that they are not healthy.
    pub unhealthy: BTreeSet<InstanceId>,
    /// Instances that start are silent.
    pub mute: bool,
    /// Names whose starts fail, and how.
    pub broken: BTreeMap<String, FailureKind>,
    /// Names whose instances end as soon as they have started.
    pub crashing: BTreeSet<String>,
    /// Settings with which no instance starts.
    pub broken_revisions: BTreeSet<Revision>,
    /// Workers acknowledge no snapshot.
    pub stuck: bool,
    /// No descriptor is left to probe with.
    pub exhausted: bool,
    pub starts: Vec<(Tick, Spec)>,
    pub stops: Vec<(Tick, InstanceId, u64)>,
    pub replies: BTreeMap<u64, Answer>,
    pub resumed: Vec<InstanceId>,
    pub log: Vec<String>,
    /// Of these, what an operator sees by default.
    pub log_at_info: Vec<String>,
    pub finished: bool,
    pub settled: Option<Revision>,
    pub given_up: Vec<ServiceId>,
    next_ticket: u64,
}

impl World {
    /// A balancer whose replicas have all answered.
    pub fn up() -> World {
        let mut world = World::empty(config());
        world.tell(Command::Found(Vec::new()));
        world.pass(100);
        assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
        world
    }

    pub fn empty(config: RegistryConfig) -> World {
        let (registry, shown) = Registry::new(config);
        World {
            registry,
            now: Tick(1_000),
            epochs: shown.epoch,
            shown: Arc::new(shown),
            alive: BTreeMap::new(),
            silent: BTreeSet::new(),
            unhealthy: BTreeSet::new(),
            mute: false,
            broken: BTreeMap::new(),
            crashing: BTreeSet::new(),
            broken_revisions: BTreeSet::new(),
            stuck: false,
            exhausted: false,
            starts: Vec::new(),
            stops: Vec::new(),
            replies: BTreeMap::new(),
            resumed: Vec::new(),
            log: Vec::new(),
            log_at_info: Vec::new(),
            finished: false,
            settled: None,
            given_up: Vec::new(),
            next_ticket: 0,
        }
    }

    /// One command, and everything that follows from it at once.
    pub fn tell(&mut self, command: Command) {
        let mut commands = vec![command];
        while !commands.is_empty() {
            let effects = self.registry.apply(commands.remove(0), self.now);
            for effect in effects {
                commands.extend(self.perform(effect));
            }
            if !self.stuck && self.registry.awaits_acks() && commands.is_empty() {
                commands.push(Command::Acked(self.epochs));
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Vec<Command> {
        match effect {
            Effect::Publish(snapshot) => {
                assert_eq!(snapshot.epoch, self.epochs + 1, "epochs rise by one");
                self.epochs = snapshot.epoch;
                self.shown = snapshot;
                Vec::new()
            }
            Effect::Start(spec) => self.start(spec),
            Effect::Stop { instance, grace_ms } => {
                self.stops.push((self.now, instance, grace_ms));
                let exited = self.alive.remove(&instance).map(|_| exited(instance, "told to"));
                exited.into_iter().chain([Command::Stopped { instance, result: Ok(()) }]).collect()
            }
            Effect::Resume { instance } => {
                self.resumed.push(instance);
                Vec::new()
            }
            Effect::Probe { instance, .. } if self.exhausted => {
                vec![Command::ProbeSkipped { instance, why: "too many open files".into() }]
            }
            Effect::Probe { instance, name, .. } => vec![self.probe(instance, name)],
            Effect::Reply { ticket, answer } => {
                assert!(self.replies.insert(ticket, answer).is_none(), "answered twice");
                Vec::new()
            }
            Effect::Log(level, line) => {
                self.log_at_info.extend((level <= Level::Info).then(|| line.clone()));
                self.log.push(line);
                Vec::new()
            }
            Effect::Settle { revision, .. } => {
                self.settled = Some(revision);
                Vec::new()
            }
            Effect::GiveUp { service } => {
                self.given_up.push(service);
                Vec::new()
            }
            Effect::Finished => {
                self.finished = true;
                Vec::new()
            }
        }
    }

    fn probe(&self, instance: InstanceId, name: Option<Arc<str>>) -> Command {
        let real = self.alive.get(&instance);
        let fault = match real {
            None => ProbeFault::Dead,
            Some(real) if name.is_some_and(|name| *real != name) => ProbeFault::Dead,
            Some(_) if self.silent.contains(&instance) => ProbeFault::Silent,
            Some(_) if self.unhealthy.contains(&instance) => ProbeFault::Unhealthy,
            Some(_) => return Command::ProbeOk { instance },
        };
        probe_failed(instance, fault)
    }

    fn start(&mut self, spec: Spec) -> Vec<Command> {
        let Spec { name, instance, revision, .. } = spec.clone();
        assert!(self.starts.iter().all(|(_, earlier)| earlier.instance != instance), "an instance number came twice");
        self.starts.push((self.now, spec));
        let broken = self.broken.get(&*name).copied();
        let broken = broken.or(self.broken_revisions.contains(&revision).then_some(FailureKind::Refused));
        if let Some(kind) = broken {
            let failure = Failure { kind, message: "no such image".into() };
            return vec![Command::StartFailed { instance, failure }];
        }
        let started = Command::Started { instance, started: started(instance) };
        if self.crashing.contains(&*name) {
            return vec![started, exited(instance, "exit status 1")];
        }
        self.alive.insert(instance, name);
        self.silent.extend(self.mute.then_some(instance));
        vec![started]
    }

    /// Time passes, with a tick at every deadline.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.after_ms(ms);
        while self.registry.due() <= end {
            self.now = self.now.max(self.registry.due());
            self.tell(Command::Tick);
        }
        self.now = end;
    }

    pub fn call(&mut self, call: Call) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tell(Command::Call { ticket, service: SERVICE, call });
        ticket
    }

    pub fn answer(&mut self, call: Call) -> Answer {
        let ticket = self.call(call);
        self.pass(100);
        if !self.replies.contains_key(&ticket) {
            self.pass(super::calls::STOPPED_TIMEOUT_MS);
        }
        self.replies.get(&ticket).cloned().expect("answered in time")
    }

    pub fn names(&mut self) -> Vec<String> {
        listed(self.answer(Call::List))
    }

    pub fn service(&self) -> &Service {
        &self.shown.services[0]
    }

    pub fn up_names(&self) -> Vec<String> {
        let up = self.service().replicas.iter().filter(|replica| replica.state == State::Up);
        up.map(|replica| replica.name.to_string()).collect()
    }

    pub fn state(&self, name: &str) -> Option<State> {
        self.service().replicas.iter().find(|replica| *replica.name == *name).map(|replica| replica.state)
    }

    pub fn instance(&self, name: &str) -> InstanceId {
        *self.alive.iter().find(|(_, alive)| ***alive == *name).expect("it lives").0
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        let instance = self.instance(name);
        self.alive.remove(&instance);
        self.tell(exited(instance, "killed by signal 9"));
    }

    /// The next log line from `after` on that holds all of this.
    pub fn logged(&self, parts: &[&str]) -> bool {
        self.log.iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }
}

pub fn started(instance: InstanceId) -> Started {
    let host = if instance.origin() == Origin::Managed { 1 } else { 2 };
    let endpoint = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, host], 10_000 + instance.number() as u16)));
    Started { endpoint, handle: format!("process {instance}"), weight: 1 }
}

pub fn probe_failed(instance: InstanceId, fault: ProbeFault) -> Command {
    let why = match fault {
        ProbeFault::Dead => "cannot connect: refused",
        ProbeFault::ConnectTimedOut => "no connection within 500 ms",
        ProbeFault::Silent => "no answer within 500 ms",
        ProbeFault::Unhealthy => "it answered 500",
    };
    Command::ProbeFailed { instance, failure: ProbeFailure { fault, why: why.into() } }
}

pub fn exited(instance: InstanceId, why: &str) -> Command {
    Command::RuntimeEvent(RuntimeEvent::Exited { instance, why: why.into() })
}

pub fn managed(number: u64) -> InstanceId {
    InstanceId::Managed(number)
}

pub fn spec(instance: InstanceId, name: &str) -> Spec {
    Spec { service: SERVICE, name: name.into(), instance, revision: Revision::FIRST, replaces: None }
}

pub fn add(n: u64, hostnames: &[&str]) -> Call {
    Call::Add(change(n, hostnames))
}

pub fn remove(n: u64, hostnames: &[&str]) -> Call {
    Call::Remove(change(n, hostnames))
}

pub fn change(n: u64, hostnames: &[&str]) -> Change {
    Change { n, hostnames: hostnames.iter().map(|name| name.to_string()).collect(), dry_run: false }
}

pub fn dry(call: Call) -> Call {
    match call {
        Call::List => Call::List,
        Call::Add(change) => Call::Add(Change { dry_run: true, ..change }),
        Call::Remove(change) => Call::Remove(Change { dry_run: true, ..change }),
        Call::Patch(_) => panic!("a patch has no dry run"),
    }
}

pub fn listed(answer: Answer) -> Vec<String> {
    match answer {
        Answer::Replicas(names) => names.iter().map(|name| name.to_string()).collect(),
        other => panic!("not a list: {other:?}"),
    }
}

pub fn rejected(answer: Answer) -> (u16, String) {
    match answer {
        Answer::Rejected(Rejection { status, message }) => (status, message),
        other => panic!("not rejected: {other:?}"),
    }
}
