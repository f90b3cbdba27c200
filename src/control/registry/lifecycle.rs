//! From the start to the end of a balancer: when a start is over, and what a process that replaces this one takes over
//! from it. The drain itself is in `drain`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Registry;
use super::command::RegistryConfig;
use super::operator::Decisions;
use super::service::ServiceState;
use super::slot::{Slot, SlotState};
use super::slots::SlotId;
use super::topology::IDLE_CLIENTS_MS;
use crate::control::runtime::Spec;
use crate::core::snapshot::{Lifecycle, ServiceId, Snapshot};
use crate::core::tick::Tick;

/// Beyond its drain timeout: its idle clients may send one more request first, and the two processes tell each other.
const PREDECESSOR_MS: u64 = IDLE_CLIENTS_MS + 1_000;

/// What a balancer tells the process that replaces it: the replicas of each service, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    services: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// How many replicas its configuration asks for.
    #[serde(default)]
    configured: BTreeMap<Arc<str>, usize>,
    /// Servers of its fixed lists that calls removed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    removed: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Services whose requests find a replica: they must in the new process, before it takes over.
    #[serde(default)]
    serving: BTreeSet<Arc<str>>,
    /// What an operator decided about them.
    #[serde(default, skip_serializing_if = "Decisions::is_empty")]
    decisions: Decisions,
}

impl Predecessor {
    pub(super) fn is_absent(&self) -> bool {
        self.services.is_empty()
    }

    pub(super) fn take_decisions(&mut self) -> Decisions {
        std::mem::take(&mut self.decisions)
    }
}

impl Registry {
    /// Begins with the replicas of `predecessor`, if it had any, and accepts nothing before
    /// `Command::Enter(Lifecycle::Serving)`.
    pub fn starting(config: RegistryConfig, predecessor: Predecessor) -> (Registry, Snapshot) {
        Registry::with_lifecycle(config, Lifecycle::Starting, predecessor)
    }

    /// What a successor of this balancer is told.
    pub fn for_successor(&self) -> Predecessor {
        let names = |id: &ServiceId| self.member_names(*id).collect();
        let services = self.services.iter().map(|(id, service)| (service.config.name.clone(), names(id)));
        let serving = self.services.values().filter(|service| !service.is_removed && service.routable() > 0);
        let serving = serving.map(|service| service.config.name.clone()).collect();
        let configured = self.services.values().map(|service| (service.config.name.clone(), service.config.replicas));
        let (services, configured, removed) = (services.collect(), configured.collect(), self.removed_by_service());
        Predecessor { services, configured, removed, serving, decisions: self.all_decisions() }
    }

    pub(super) fn enter(&mut self, lifecycle: Lifecycle, now: Tick) {
        if self.stands_by() && lifecycle > Lifecycle::Starting {
            self.take_over(now);
        }
        self.lifecycle = self.lifecycle.max(lifecycle);
    }

    /// Another process still serves with the instances that this one has adopted: none of them is ended or replaced.
    pub(super) fn stands_by(&self) -> bool {
        self.lifecycle == Lifecycle::Starting && !self.predecessor.is_absent()
    }

    /// Adopted instances are this process's own from now on. The one before may have requests in flight at them until it
    /// ends; one that hangs is not waited for longer than its drain may take.
    fn take_over(&mut self, now: Tick) {
        let drain_ms = self.services.values().map(|service| service.config.limits.drain_timeout_ms).max().unwrap_or(0);
        self.predecessor_until = self.predecessor_until.min(now.after_ms(PREDECESSOR_MS + drain_ms));
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        for id in services {
            let Some(config) = self.services.get(&id).map(|service| service.config.clone()) else { continue };
            self.successions.wait(id, self.predecessor_until);
            let own = self.slots.from(SlotId::default()).filter(|(_, slot)| slot.service == id);
            let own: Vec<SlotId> = own.map(|(id, _)| id).collect();
            for slot in own {
                self.change(slot, |slot| slot.take_over(now.after_ms(config.health.start_timeout_ms)));
            }
            if self.is_resized(id) {
                self.shrink(id, config.replicas, now);
            }
        }
    }

    /// It has no request in flight any more.
    pub(super) fn predecessor_ended(&mut self, now: Tick) {
        self.successions.go_on(self.predecessor_until, now);
        self.predecessor_until = Tick::ZERO;
        self.leaving.end_sharing();
    }

    /// Until then the process before this one may have requests at the slot's instance.
    pub(super) fn shared_until(&self, slot: &Slot) -> Tick {
        if slot.is_shared { self.predecessor_until } else { Tick::ZERO }
    }

    /// By then the process before this one has ended.
    pub fn predecessor_until(&self) -> Tick {
        self.predecessor_until
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lifecycle.is_stopping()
    }

    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    /// The predecessor had a server of this name removed from its fixed list.
    pub(super) fn was_removed(&self, spec: &Spec) -> bool {
        let Some(service) = self.services.get(&spec.service) else { return false };
        self.predecessor.removed.get(&service.config.name).is_some_and(|names| names.contains(&spec.name))
    }

    /// Where the predecessor lists a replica: first those that it has, in its order.
    pub(super) fn inherited_place(&self, spec: &Spec) -> usize {
        let service = self.services.get(&spec.service);
        let names = service.and_then(|service| self.predecessor.services.get(&service.config.name));
        names.and_then(|names| names.iter().position(|name| *name == spec.name)).unwrap_or(usize::MAX)
    }

    /// The names of replicas that are to start: those of the predecessor, which may have had calls that changed their number,
    /// unless the configuration asks for another number than its. `None` without a predecessor that had the service.
    pub(super) fn inherited_names(&self, id: ServiceId) -> Option<Vec<Arc<str>>> {
        let service = self.services.get(&id)?;
        let names = self.predecessor.services.get(&service.config.name)?;
        let mut missing: Vec<_> = names.iter().filter(|name| !self.name_taken(name)).cloned().collect();
        if self.is_resized(id) {
            let count = service.config.replicas.saturating_sub(service.managed());
            let free = self.generated_names().filter(|name| !names.contains(name));
            missing.extend(free.take(count.saturating_sub(missing.len())));
            missing.truncate(count);
        }
        Some(missing)
    }

    /// It is to have another number of replicas than the predecessor's configuration says.
    fn is_resized(&self, id: ServiceId) -> bool {
        let Some(service) = self.services.get(&id) else { return false };
        let before = self.predecessor.configured.get(&service.config.name);
        before.is_some_and(|before| *before != service.config.replicas)
    }

    /// Replicas that the predecessor had and that are not among those found, each with its place, in the order of places.
    pub(super) fn missing_names(&self, found: &BTreeSet<Arc<str>>) -> VecDeque<(usize, ServiceId, Arc<str>)> {
        let keeps_all = |id: &ServiceId, service: &ServiceState| service.config.can_start && !self.is_resized(*id);
        let startable = self.services.iter().filter(|(id, service)| keeps_all(id, service));
        let missing = startable.flat_map(|(id, service)| {
            let names = self.predecessor.services.get(&service.config.name).into_iter().flatten().enumerate();
            let missing = names.filter(|(_, name)| !found.contains(*name));
            missing.map(|(place, name)| (place, *id, name.clone()))
        });
        let mut missing: Vec<_> = missing.collect();
        missing.sort_by_key(|(place, ..)| *place);
        missing.into()
    }

    /// For each replica that there was at first it is known whether it answers: the start is over. Each slot is looked at
    /// a few times, however often this is called.
    pub fn is_settled(&mut self) -> bool {
        let Some(from) = self.settled_below else { return false };
        let fall = |slot: &Slot| self.services.get(&slot.service).map_or(0, |service| service.config.health.fall);
        let open = self.slots.from(from).find(|(_, slot)| !slot.is_settled(fall(slot))).map(|(id, _)| id);
        self.settled_below = open.or(Some(from));
        open.is_none()
    }

    /// A replica takes requests, or none is to take any: there is none, or an operator drained it; and so it is in each
    /// service that the predecessor serves. A successor may take over.
    pub fn can_serve(&self) -> bool {
        let has_members = |service: &ServiceState| !service.members().is_empty();
        let serves = |service: &ServiceState| service.routable() > 0 || service.drained() > 0;
        let is_missed = |service: &ServiceState| {
            self.predecessor.serving.contains(&service.config.name) && has_members(service) && !serves(service)
        };
        let mut services = self.services.values().filter(|service| !service.is_removed);
        (self.services.values().any(serves) || !self.services.values().any(has_members)) && !services.any(is_missed)
    }

    /// Requests of every service find a replica.
    pub fn can_serve_all(&self) -> bool {
        self.services.values().filter(|service| !service.is_removed).all(|service| service.routable() > 0)
    }

    /// Nothing is under way that a successor could not take over: no change, no start of an instance, none that ends.
    pub fn is_quiet(&self) -> bool {
        let is_starting =
            |id: &_| self.slots.slot(*id).is_some_and(|slot| matches!(slot.state, SlotState::Starting { .. }));
        self.addition.is_none()
            && self.pending_topology.is_none()
            && self.calls.is_empty()
            && self.leaving.is_empty()
            && !self.successions.is_under_way()
            && !self.services.values().flat_map(ServiceState::members).any(is_starting)
    }

    /// "2 of 3 live", of each service.
    pub fn tally(&self) -> String {
        let services = self.services.values().filter(|service| !service.is_removed);
        let tallies: Vec<String> = services.map(ServiceState::tally).collect();
        tallies.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::registry::tests::{SERVICE, config, managed, spec, started};
    use crate::control::registry::{Answer, Command, Effect};

    const NOW: Tick = Tick(1);

    /// The names of the replicas that are started, and what they answer to: they are up.
    fn bring_up(registry: &mut Registry) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        let mut effects = registry.apply(Command::Found(Vec::new()), NOW);
        while let Some(effect) = effects.pop() {
            let answer = match effect {
                Effect::Start(spec) => {
                    let instance = spec.instance;
                    names.push(spec.name);
                    Command::Started { instance, started: started(instance) }
                }
                Effect::Probe { instance, .. } => Command::ProbeOk { instance },
                _ => continue,
            };
            effects.extend(registry.apply(answer, NOW));
        }
        names.sort();
        names
    }

    #[test]
    fn a_successor_starts_the_replicas_of_its_predecessor() {
        let text = r#"{"services":{"test":["S5","server2"],"gone":["other"]},"of a later version":1}"#;
        let predecessor: Predecessor = serde_json::from_str(text).unwrap();
        let (mut registry, first) = Registry::starting(config(), predecessor);
        assert_eq!(first.lifecycle, Lifecycle::Starting);
        assert!(!registry.is_settled(), "it was not told what there is");
        assert_eq!(bring_up(&mut registry), ["S5".into(), "server2".into()] as [Arc<str>; 2]);
        assert!(registry.is_settled() && registry.can_serve() && registry.is_quiet());
        let passed_on = serde_json::to_string(&registry.for_successor()).unwrap();
        assert_eq!(passed_on, r#"{"services":{"test":["S5","server2"]},"configured":{"test":3},"serving":["test"]}"#);
    }

    fn successor_of(names: &str) -> Registry {
        let predecessor = serde_json::from_str(&format!(r#"{{"services":{{"test":{names}}}}}"#)).unwrap();
        Registry::starting(config(), predecessor).0
    }

    #[test]
    fn a_replica_without_an_instance_keeps_its_place_between_those_that_are_adopted() {
        let mut registry = successor_of(r#"["a","b","c","d"]"#);
        let found = |(number, name)| (spec(managed(number), name), started(managed(number)));
        let adopted = [(7, "other"), (3, "c"), (1, "a")].map(found).to_vec();
        registry.apply(Command::Found(adopted), NOW);
        let names: Vec<_> = registry.member_names(SERVICE).collect();
        assert_eq!(names, ["a", "b", "c", "d", "other"].map(Arc::from));
    }

    #[test]
    fn a_process_that_stands_by_refuses_calls() {
        use crate::control::registry::tests::{add, remove};
        let mut registry = successor_of(r#"["a","b"]"#);
        bring_up(&mut registry);
        let refused = |registry: &mut Registry, call| {
            let effects = registry.apply(Command::Call { ticket: 1, service: SERVICE, call }, NOW);
            effects.iter().any(|effect| matches!(effect, Effect::Reply { answer: Answer::Rejected(_), .. }))
        };
        assert!(refused(&mut registry, add(1, &[])) && refused(&mut registry, remove(1, &[])));
        registry.apply(Command::Enter(Lifecycle::Serving), NOW);
        assert!(!refused(&mut registry, remove(1, &[])));
    }

    #[test]
    fn a_start_is_settled_when_each_replica_answers_or_has_failed() {
        let (mut registry, _) = Registry::new(config());
        let effects = registry.apply(Command::Found(Vec::new()), NOW);
        let starts: Vec<_> = effects.into_iter().filter(|effect| matches!(effect, Effect::Start(_))).collect();
        assert_eq!(starts.len(), 3);
        for effect in starts {
            assert!(!registry.is_settled());
            let Effect::Start(spec) = effect else { continue };
            let failure = crate::control::runtime::Failure {
                kind: crate::control::runtime::FailureKind::Refused,
                message: "no".into(),
            };
            registry.apply(Command::StartFailed { instance: spec.instance, failure }, NOW);
        }
        assert!(registry.is_settled(), "each has failed once");
        assert!(!registry.can_serve(), "but a successor would serve nothing");
    }

    #[test]
    fn held_calls_are_refused_until_the_release() {
        use crate::control::registry::tests::add;
        let (mut registry, _) = Registry::new(config());
        bring_up(&mut registry);
        registry.apply(Command::Hold("not now"), NOW);
        let call = |ticket| Command::Call { ticket, service: SERVICE, call: add(1, &[]) };
        let refused = registry.apply(call(1), NOW);
        assert!(refused.iter().any(|effect| matches!(effect, Effect::Reply { ticket: 1, .. })), "{refused:?}");
        registry.apply(Command::Release, NOW);
        let begun = registry.apply(call(2), NOW);
        assert!(begun.iter().any(|effect| matches!(effect, Effect::Start(_))), "{begun:?}");
        assert!(!registry.is_quiet());
    }
}
