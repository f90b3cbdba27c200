//! What starts, stops and probes replicas for one process of the balancer. When that happens is drawn; what follows from it
//! is decided in the control core.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ringway::control::registry::{Command, ProbeFailure, ProbeFault};
use ringway::control::runtime::revisions::Revision;
use ringway::control::runtime::{Failure, FailureKind, InstanceId, Spec, Started};
use ringway::core::snapshot::{Endpoint, ServiceId};

use super::configuration::{HTTP, InstanceSettings};
use super::fleet::{Fleet, ReplicaNumber};
use super::net::Net;

pub struct Runtime {
    /// By the instance's number.
    instances: BTreeMap<u64, Running>,
    /// What instances of HTTP are started with, by revision.
    settings: Vec<InstanceSettings>,
}

#[derive(Clone, Debug)]
struct Running {
    #[expect(dead_code, reason = "a process that adopts it needs it")]
    service: ServiceId,
    replica: ReplicaNumber,
}

impl Runtime {
    /// Its revisions are those of all settings that there are.
    pub fn new() -> Runtime {
        let settings = InstanceSettings::FIRST.0..=InstanceSettings::BROKEN.0;
        Runtime { instances: BTreeMap::new(), settings: settings.map(InstanceSettings).collect() }
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
        let place = (spec.revision.0 - Revision::FIRST.0) as usize;
        if spec.service == HTTP { self.settings[place] } else { InstanceSettings::FIRST }
    }

    /// Why an instance does not start.
    pub fn start_failure(&self, net: &mut Net, spec: &Spec) -> Option<Failure> {
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
    pub fn stop(&self, net: &mut Net, fleet: &mut Fleet, instance: InstanceId, grace_ms: u64) -> u64 {
        if let Some(replica) = self.replica(instance).map(|number| fleet.get_mut(number)) {
            net.note("p.stop", instance.number(), grace_ms, u64::from(replica.has_work()));
            replica.leave(net);
        }
        if grace_ms == 0 { 0 } else { net.random.control().range(0, grace_ms * 1000) }
    }

    pub fn end(&self, net: &mut Net, fleet: &mut Fleet, instance: InstanceId) {
        if let Some(replica) = self.replica(instance) {
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

    /// Its instance that this replica is.
    pub fn instance_of(&self, replica: ReplicaNumber) -> Option<InstanceId> {
        let mut own = self.instances.iter().filter(|(_, running)| running.replica == replica);
        own.next().map(|(number, _)| InstanceId::Managed(*number))
    }
}

fn started(fleet: &Fleet, replica: ReplicaNumber, instance: InstanceId) -> Started {
    let endpoint = Endpoint::Tcp(fleet.get(replica).address);
    Started { endpoint, handle: format!("i{instance}"), weight: 1 }
}
