//! What starts, stops and probes replicas for one process of the balancer. When that happens is drawn; what follows from it
//! is decided in the control core.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use ringway::control::registry::{Command, ProbeFailure, ProbeFault};
use ringway::control::runtime::revisions::Revision;
use ringway::control::runtime::{Failure, FailureKind, InstanceId, Spec, Started};
use ringway::core::snapshot::{Endpoint, ServiceId};

use super::configuration::{HTTP, InstanceSettings};
use super::fleet::{Fleet, ReplicaNumber};
use super::net::{Net, ProcessId};
use super::replica::Replica;

/// What the instances of a world are to their process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosting {
    /// They outlive it, and its successor adopts them.
    Containers,
    /// They end with it, and its successor starts its own.
    Children,
}

/// An instance that runs, as a successor finds it.
pub struct FoundInstance {
    service: ServiceId,
    number: u64,
    replica: ReplicaNumber,
}

pub struct Runtime {
    hosting: Hosting,
    /// A successor starts and stops instances meanwhile, and no event is looked at.
    is_lent: bool,
    /// Instances that were to stop meanwhile.
    refused_stops: RefCell<Vec<InstanceId>>,
    /// By the instance's number.
    instances: BTreeMap<u64, Running>,
    /// What instances of HTTP are started with, by revision.
    settings: Vec<InstanceSettings>,
}

#[derive(Clone, Debug)]
struct Running {
    service: ServiceId,
    replica: ReplicaNumber,
}

impl Runtime {
    /// Of the first process: its revisions are those of all settings that there are.
    pub fn first(hosting: Hosting) -> Runtime {
        let settings = InstanceSettings::FIRST.0..=InstanceSettings::BROKEN.0;
        let settings = settings.map(InstanceSettings).collect();
        Runtime { hosting, is_lent: false, refused_stops: RefCell::default(), instances: BTreeMap::new(), settings }
    }

    /// Of a process that begins with these settings.
    pub fn of_successor(hosting: Hosting, settings: InstanceSettings) -> Runtime {
        Runtime {
            hosting,
            is_lent: false,
            refused_stops: RefCell::default(),
            instances: BTreeMap::new(),
            settings: vec![settings],
        }
    }

    /// Until it is taken back, nothing that a successor would find is started or stopped.
    pub fn lend(&mut self) {
        self.is_lent = self.hosting == Hosting::Containers;
    }

    /// Its instances that have ended meanwhile. What only the successor knew is removed, as is what was given up.
    pub fn take_back(&mut self, net: &mut Net, fleet: &mut Fleet) -> Vec<InstanceId> {
        if !std::mem::replace(&mut self.is_lent, false) {
            return Vec::new();
        }
        let strays: Vec<ReplicaNumber> = fleet.alive().filter(|number| self.instance_of(*number).is_none()).collect();
        strays.into_iter().for_each(|number| fleet.get_mut(number).die(net));
        self.refused_stops.take().into_iter().for_each(|instance| self.end(net, fleet, instance));
        let ended = self.instances.iter().filter(|(_, running)| !fleet.get(running.replica).alive);
        ended.map(|(number, _)| InstanceId::Managed(*number)).collect()
    }

    /// What a successor finds.
    pub fn found(&self, fleet: &Fleet) -> Vec<FoundInstance> {
        let alive = self.instances.iter().filter(|(_, running)| fleet.get(running.replica).alive);
        let found = |(number, running): (&u64, &Running)| {
            let Running { service, replica } = *running;
            FoundInstance { service, number: *number, replica }
        };
        if self.hosting == Hosting::Containers { alive.map(found).collect() } else { Vec::new() }
    }

    /// Takes over what was found.
    pub fn adopt(&mut self, fleet: &Fleet, found: Vec<FoundInstance>) -> Vec<(Spec, Started)> {
        let adopt = |FoundInstance { service, number, replica }: FoundInstance| {
            self.instances.insert(number, Running { service, replica });
            let instance = InstanceId::Managed(number);
            let is_same = fleet.get(replica).settings == self.settings_of(service, Revision::FIRST);
            let revision = if is_same { Revision::FIRST } else { Revision::UNKNOWN };
            let name = fleet.get(replica).name.as_str().into();
            let spec = Spec { service, name, instance, revision, replaces: None };
            (spec, started(fleet, replica, instance))
        };
        found.into_iter().map(adopt).collect()
    }

    /// The process has ended by force.
    pub fn end_children(&self, net: &mut Net, fleet: &mut Fleet) {
        if self.hosting == Hosting::Children {
            self.instances.values().for_each(|running| fleet.get_mut(running.replica).die(net));
        }
    }

    /// As which it knows these settings of HTTP.
    pub fn revision(&mut self, settings: InstanceSettings) -> Revision {
        let known = self.settings.iter().position(|known| *known == settings);
        let place = known.unwrap_or_else(|| {
            self.settings.push(settings);
            self.settings.len() - 1
        });
        Revision(Revision::FIRST.0 + place as u64)
    }

    fn settings(&self, spec: &Spec) -> InstanceSettings {
        self.settings_of(spec.service, spec.revision)
    }

    fn settings_of(&self, service: ServiceId, revision: Revision) -> InstanceSettings {
        let place = (revision.0 - Revision::FIRST.0) as usize;
        if service == HTTP { self.settings[place] } else { InstanceSettings::FIRST }
    }

    /// An engine is not asked twice: what is stopped while it starts never runs.
    pub fn cancels_starts(&self) -> bool {
        self.hosting == Hosting::Containers
    }

    /// Why an instance does not start.
    pub fn start_failure(&self, net: &mut Net, spec: &Spec) -> Option<Failure> {
        if self.is_lent {
            return Some(Failure { kind: FailureKind::Unavailable, message: "an upgrade is under way".into() });
        }
        let is_broken = self.settings(spec) == InstanceSettings::BROKEN;
        let fails = is_broken || !net.faults.calm && net.random.control().one_in(10);
        fails.then(|| Failure { kind: FailureKind::Refused, message: "not today".into() })
    }

    pub fn start(&mut self, net: &mut Net, fleet: &mut Fleet, spec: &Spec) -> Started {
        let number = spec.instance.number();
        let replica = fleet.start(net, spec.name.to_string(), number, self.settings(spec));
        self.instances.insert(number, Running { service: spec.service, replica });
        started(fleet, replica, spec.instance)
    }

    fn replica(&self, instance: InstanceId) -> Option<ReplicaNumber> {
        self.instances.get(&instance.number()).map(|running| running.replica)
    }

    /// It is asked to stop. When it ends by force (us from now).
    pub fn stop(
        &self,
        net: &mut Net,
        fleet: &mut Fleet,
        process: ProcessId,
        instance: InstanceId,
        grace_ms: u64,
    ) -> u64 {
        if self.is_lent {
            self.refused_stops.borrow_mut().push(instance);
            return 0;
        }
        if let Some(replica) = self.replica(instance).map(|number| fleet.get_mut(number)) {
            check_stop(net, process, replica);
            net.note("p.stop", instance.number(), grace_ms, u64::from(replica.has_work()));
            replica.leave(net);
        }
        if grace_ms == 0 { 0 } else { net.random.control().range(0, grace_ms * 1000) }
    }

    pub fn end(&self, net: &mut Net, fleet: &mut Fleet, instance: InstanceId) {
        if let Some(replica) = self.replica(instance).filter(|_| !self.is_lent) {
            fleet.get_mut(replica).die(net);
        }
    }

    /// The answer to a probe, and when it comes (us from now).
    pub fn probe(
        &self,
        net: &mut Net,
        fleet: &Fleet,
        instance: InstanceId,
        address: SocketAddr,
        timeout_ms: u64,
    ) -> (u64, Command) {
        let replica = self.replica(instance).map(|number| fleet.get(number));
        let own = replica.is_some_and(|replica| replica.alive && replica.address == address);
        let answers = fleet.answers_at(address);
        let timeout_us = timeout_ms * 1_000;
        let us = if own && !answers { timeout_us } else { net.random.control().range(100, 5_000) };
        let busy_us = net.busy_until(address) - net.now_us;
        let failed = |fault| {
            let why = format!("{fault:?}");
            Command::ProbeFailed { instance, failure: ProbeFailure { fault, why } }
        };
        match (own, answers) {
            (true, true) if busy_us + us > timeout_us => (timeout_us, failed(ProbeFault::Silent)),
            (true, true) => (busy_us + us, Command::ProbeOk { instance }),
            (true, false) => (us, failed(ProbeFault::ConnectTimedOut)),
            (false, _) => (us, failed(ProbeFault::Dead)),
        }
    }

    /// Its instance that this replica is, where its end is noticed.
    pub fn watched(&self, replica: ReplicaNumber) -> Option<InstanceId> {
        self.instance_of(replica).filter(|_| !self.is_lent)
    }

    fn instance_of(&self, replica: ReplicaNumber) -> Option<InstanceId> {
        let mut own = self.instances.iter().filter(|(_, running)| running.replica == replica);
        own.next().map(|(number, _)| InstanceId::Managed(*number))
    }
}

/// Oracle: no process stops an instance that runs well while another serves with it.
fn check_stop(net: &Net, process: ProcessId, replica: &Replica) {
    let others = net.history.processes().filter(|other| *other != process);
    let serving: Vec<ProcessId> = others.filter(|other| net.history.serves_with(*other, replica.address)).collect();
    let is_served = replica.answers() && !serving.is_empty();
    assert!(!is_served, "{} is stopped by process {process}, and {serving:?} serve with it", replica.name);
}

fn started(fleet: &Fleet, replica: ReplicaNumber, instance: InstanceId) -> Started {
    let endpoint = Endpoint::Tcp(fleet.get(replica).address);
    Started { endpoint, handle: format!("i{instance}"), weight: 1 }
}
