//! The runtimes of all services as one: a call goes to the runtime of its instance's service, and what a runtime reports
//! gets its service and numbers that no other runtime's instances have. What each of them is made of is in
//! `service_runtime`.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Pid;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

use super::discovery::follow::SourceStatus;
use super::revisions::Revision;
use super::service_runtime::{DockerPredecessors, RuntimeSettings, ServiceRuntime};
use super::{Failure, FailureKind, InstanceId, Lent, Runtime, RuntimeEvent, Spec, Started};
use crate::core::snapshot::ServiceId;
use crate::kernel::inherited::LOCK;

/// One runtime for each service.
#[derive(Default)]
pub struct PerService {
    runtimes: RefCell<BTreeMap<ServiceId, Rc<ServiceRuntime>>>,
    /// The service of each managed instance that was asked for or adopted, and has not ended.
    managed: Rc<RefCell<BTreeMap<u64, ServiceId>>>,
    events: OnceCell<UnboundedSender<RuntimeEvent>>,
}

/// Of a foreign instance's number, the low bits are its service: each runtime numbers its own from 0.
const SERVICE_BITS: u32 = 16;

fn number_of(service: ServiceId, own: u64) -> u64 {
    (own << SERVICE_BITS) | u64::from(service.0)
}

/// A runtime's own name for an instance, as all others know it.
fn outward(service: ServiceId, instance: InstanceId) -> InstanceId {
    match instance {
        InstanceId::Managed(number) => InstanceId::Managed(number),
        InstanceId::Foreign(own) => InstanceId::Foreign(number_of(service, own)),
    }
}

/// As its runtime knows it.
fn inward(instance: InstanceId) -> InstanceId {
    match instance {
        InstanceId::Managed(number) => InstanceId::Managed(number),
        InstanceId::Foreign(number) => InstanceId::Foreign(number >> SERVICE_BITS),
    }
}

fn outward_spec(service: ServiceId, spec: Spec) -> Spec {
    let replaces = spec.replaces.map(|instance| outward(service, instance));
    Spec { service, instance: outward(service, spec.instance), replaces, ..spec }
}

fn outward_event(service: ServiceId, event: RuntimeEvent) -> RuntimeEvent {
    match event {
        RuntimeEvent::Exited { instance, why } => RuntimeEvent::Exited { instance: outward(service, instance), why },
        RuntimeEvent::Stopping { instance, why } => {
            RuntimeEvent::Stopping { instance: outward(service, instance), why }
        }
        RuntimeEvent::Joined { spec, started, why } => {
            RuntimeEvent::Joined { spec: outward_spec(service, spec), started, why }
        }
        RuntimeEvent::Left { instance, why } => RuntimeEvent::Left { instance: outward(service, instance), why },
        RuntimeEvent::Delisted { instance, why } => {
            RuntimeEvent::Delisted { instance: outward(service, instance), why }
        }
    }
}

impl PerService {
    /// Before `attach`.
    pub fn insert(&self, service: ServiceId, runtime: ServiceRuntime) {
        self.runtimes.borrow_mut().insert(service, Rc::new(runtime));
    }

    pub fn get(&self, service: ServiceId) -> Option<Rc<ServiceRuntime>> {
        self.runtimes.borrow().get(&service).cloned()
    }

    /// What runs this service's replicas, as it is configured; empty for a service without a runtime.
    pub fn word(&self, service: ServiceId) -> &'static str {
        self.get(service).map_or("", |runtime| runtime.word())
    }

    /// What lists this service's replicas, where a source does.
    pub fn source(&self, service: ServiceId) -> Option<SourceStatus> {
        self.get(service)?.source()
    }

    /// Takes in the settings of another configuration: runtimes of new services are opened first, since that may fail; then
    /// those that run change. A service that is not among them runs on until it is given up.
    pub async fn reconfigure(&self, settings: Vec<(ServiceId, RuntimeSettings)>) -> Result<Reconfigured, Failure> {
        let mut done = Reconfigured::default();
        let mut changes = Vec::new();
        let (known, new): (Vec<_>, Vec<_>) = settings.into_iter().partition(|(id, _)| self.get(*id).is_some());
        for (id, settings) in known {
            if let Some(own) = self.get(id) {
                changes.push((id, own.clone(), own.prepare(settings).await?));
            }
        }
        let mut opened = Vec::new();
        if let Err(failure) = self.open_all(new, &mut opened, &mut done.found).await {
            for (_, runtime) in opened {
                runtime.close().await;
            }
            return Err(failure);
        }
        for (id, own, change) in changes {
            done.revisions.extend(own.take_in(change).map(|revision| (id, revision)));
        }
        self.runtimes.borrow_mut().extend(opened);
        Ok(done)
    }

    /// Its service is removed. What it runs still ends by `stop`.
    pub fn give_up(&self, service: ServiceId) {
        if let Some(own) = self.get(service) {
            own.give_up();
        }
    }

    /// A service that runs and is to have another runtime: which it has, and which it is to have.
    pub fn other_kind(
        &self,
        settings: &[(ServiceId, RuntimeSettings)],
    ) -> Option<(ServiceId, &'static str, &'static str)> {
        settings.iter().find_map(|(id, settings)| {
            let has = self.get(*id)?;
            (!has.takes(settings)).then(|| (*id, has.word(), settings.word()))
        })
    }

    /// Settings of services that run, with the revision that they have, if they are known.
    pub fn revisions_of(&self, settings: &[(ServiceId, RuntimeSettings)]) -> Vec<(ServiceId, Option<Revision>)> {
        let of_one = |(id, settings): &(ServiceId, RuntimeSettings)| Some((*id, self.get(*id)?.revision_of(settings)));
        settings.iter().filter_map(of_one).collect()
    }

    /// Settings that take effect only when the balancer starts anew, where they differ from what runs.
    pub fn needs_restart(&self, settings: &[(ServiceId, RuntimeSettings)]) -> Vec<String> {
        let of_one = |(id, settings): &(ServiceId, RuntimeSettings)| Some(self.get(*id)?.needs_restart(settings));
        settings.iter().filter_map(of_one).flatten().collect()
    }

    /// What is opened stands in `opened`, also where a later one fails.
    async fn open_all(
        &self,
        settings: Vec<(ServiceId, RuntimeSettings)>,
        opened: &mut Vec<(ServiceId, Rc<ServiceRuntime>)>,
        found: &mut Vec<(Spec, Started)>,
    ) -> Result<(), Failure> {
        for (service, settings) in settings {
            opened.push((service, Rc::new(settings.open(&mut DockerPredecessors::new()).await?)));
        }
        for (service, runtime) in opened {
            found.append(&mut self.attach_one(*service, runtime).await?);
        }
        Ok(())
    }

    async fn attach_one(&self, service: ServiceId, runtime: &ServiceRuntime) -> Result<Vec<(Spec, Started)>, Failure> {
        let (events, mut own_events) = unbounded_channel();
        let all = self.events.get().cloned();
        let running = self.managed.clone();
        spawn_local(async move {
            while let (Some(event), Some(all)) = (own_events.recv().await, &all) {
                if let RuntimeEvent::Exited { instance: InstanceId::Managed(number), .. } = event {
                    running.borrow_mut().remove(&number);
                }
                let _ = all.send(outward_event(service, event));
            }
        });
        let found = runtime.attach(events).await?;
        let found: Vec<_> = found.into_iter().map(|(spec, started)| (outward_spec(service, spec), started)).collect();
        let numbers = found.iter().filter_map(|(spec, _)| managed(spec.instance));
        self.managed.borrow_mut().extend(numbers.map(|number| (number, service)));
        Ok(found)
    }

    /// A successor of this process is about to start: what the runtimes pass on to it, run ids and locks, by service.
    pub fn lend_all(&self) -> (BTreeMap<String, String>, Vec<(String, OwnedFd)>) {
        let (mut run_ids, mut locks) = (BTreeMap::new(), Vec::new());
        for runtime in self.all() {
            let Lent { run_id, lock } = runtime.lend();
            if let ServiceRuntime::Docker(docker) = &*runtime {
                run_ids.extend(run_id.map(|run_id| (docker.service().to_owned(), run_id)));
                locks.extend(lock.map(|lock| (format!("{LOCK}{}", docker.service()), lock)));
            }
        }
        (run_ids, locks)
    }

    fn all(&self) -> Vec<Rc<ServiceRuntime>> {
        self.runtimes.borrow().values().cloned().collect()
    }

    fn of(&self, instance: InstanceId) -> Option<Rc<ServiceRuntime>> {
        let service = match instance {
            InstanceId::Managed(number) => *self.managed.borrow().get(&number)?,
            InstanceId::Foreign(number) => ServiceId((number & ((1 << SERVICE_BITS) - 1)) as u32),
        };
        self.get(service)
    }
}

/// What a reconfiguration found and could not do.
#[derive(Debug, Default)]
pub struct Reconfigured {
    /// What new runtimes have already.
    pub found: Vec<(Spec, Started)>,
    /// Services whose instances are to be started with these settings from now on.
    pub revisions: BTreeMap<ServiceId, Revision>,
}

fn managed(instance: InstanceId) -> Option<u64> {
    match instance {
        InstanceId::Managed(number) => Some(number),
        InstanceId::Foreign(_) => None,
    }
}

impl Runtime for PerService {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        let unknown = || Failure {
            kind: FailureKind::Unavailable,
            message: format!("{} cannot be started: its service has no runtime", spec.name),
        };
        let runtime = self.get(spec.service).ok_or_else(unknown)?;
        let Some(number) = managed(spec.instance) else { return runtime.start(spec).await };
        self.managed.borrow_mut().insert(number, spec.service);
        let result = runtime.start(spec).await;
        if result.is_err() {
            self.managed.borrow_mut().remove(&number);
        }
        result
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), Failure> {
        let Some(runtime) = self.of(instance) else { return Ok(()) };
        let result = runtime.stop(inward(instance), grace).await;
        if let (Ok(()), Some(number)) = (&result, managed(instance)) {
            self.managed.borrow_mut().remove(&number);
        }
        result
    }

    async fn attach(&self, events: UnboundedSender<RuntimeEvent>) -> Result<Vec<(Spec, Started)>, Failure> {
        let _ = self.events.set(events);
        let runtimes: Vec<_> = self.runtimes.borrow().iter().map(|(id, runtime)| (*id, runtime.clone())).collect();
        let mut found = Vec::new();
        for (service, runtime) in runtimes {
            found.append(&mut self.attach_one(service, &runtime).await?);
        }
        Ok(found)
    }

    fn resume(&self, instance: InstanceId) {
        if let Some(runtime) = self.of(instance) {
            runtime.resume(inward(instance));
        }
    }

    async fn suspension(&self, instance: InstanceId) -> Option<String> {
        self.of(instance)?.suspension(inward(instance)).await
    }

    fn on_probe_failed(&self, instance: InstanceId) {
        if let Some(runtime) = self.of(instance) {
            runtime.on_probe_failed(inward(instance));
        }
    }

    fn settle(&self, service: ServiceId, revision: Revision) {
        if let Some(runtime) = self.get(service) {
            runtime.settle(service, revision);
        }
    }

    fn stop_limit(&self) -> Duration {
        self.all().iter().map(|runtime| runtime.stop_limit()).max().unwrap_or_default()
    }

    fn take_back(&self) {
        self.all().iter().for_each(|runtime| runtime.take_back());
    }

    fn is_own_child(&self, process: Pid) -> bool {
        self.all().iter().any(|runtime| runtime.is_own_child(process))
    }

    async fn close(&self) {
        for runtime in self.all() {
            runtime.close().await;
        }
    }

    fn left_behind(&self) -> Vec<String> {
        self.all().iter().flat_map(|runtime| runtime.left_behind()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_instances_of_two_services_have_different_numbers() {
        let (shop, blog) = (ServiceId(0), ServiceId(7));
        let own = InstanceId::Foreign(3);
        let numbers = [shop, blog].map(|service| outward(service, own));
        assert_ne!(numbers[0], numbers[1]);
        assert_eq!(numbers.map(inward), [own; 2]);
        assert_eq!(outward(blog, InstanceId::Managed(3)), InstanceId::Managed(3));
    }
}
