//! What happens to instances: they start, join, die, and their slots are filled again. How they are judged while they run
//! is decided in `verdicts`.

use std::collections::BTreeSet;
use std::sync::Arc;

use log::Level;

use super::Registry;
use super::answer::Rejection;
use super::command::{Effect, readable, since};
use super::health::Health;
use super::leaving::{Leaving, NameUse};
use super::slot::{Slot, SlotState};
use super::slots::SlotId;
use crate::control::runtime::{Failure, InstanceId, Origin, RuntimeEvent, Spec, Started};
use crate::core::snapshot::{Endpoint, ReplicaId, ServiceId};
use crate::core::tick::Tick;

impl Registry {
    pub(super) fn found(&mut self, found: Vec<(Spec, Started)>, now: Tick) {
        let names: BTreeSet<Arc<str>> = found.iter().map(|(spec, _)| spec.name.clone()).collect();
        let mut missing = self.missing_names(&names);
        let mut placed: Vec<_> = found.into_iter().map(|found| (self.inherited_place(&found.0), found)).collect();
        placed.sort_by_key(|(place, _)| *place);
        placed.iter().for_each(|(_, (spec, _))| self.reserve(spec.instance));
        for (place, (spec, started)) in placed {
            // A replica that has no instance now keeps its place on the ring.
            while let Some((_, service, name)) = missing.pop_front_if(|(gap, ..)| *gap < place) {
                self.insert_vacant(service, name, now);
            }
            self.adopt(spec, started, now);
        }
        self.roll_out_found(now);
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        services.into_iter().for_each(|service| self.fill_up(service, now));
        self.settled_below = Some(SlotId::default());
    }

    /// Instances that run already, of runtimes that were opened.
    pub(super) fn insert_found(&mut self, found: Vec<(Spec, Started)>, now: Tick) {
        for (spec, _) in &found {
            self.reserve(spec.instance);
        }
        found.into_iter().for_each(|(spec, started)| self.adopt(spec, started, now));
        self.roll_out_found(now);
    }

    fn adopt(&mut self, spec: Spec, started: Started, now: Tick) {
        if self.is_of_another_service(&spec) {
            return self.moving.push((spec, started));
        }
        if self.name_taken(&spec.name) || self.slots.of_instance(spec.instance).is_some() {
            let line = format!("{}: found twice, {} is left alone", spec.name, started.handle);
            return self.log(Level::Warn, line);
        }
        if spec.instance.origin() == Origin::Managed {
            self.log(Level::Info, format!("{}: adopted {}", spec.name, started.handle));
        }
        if self.was_removed(&spec) {
            self.removed.insert(spec.name.clone(), (spec, started));
        } else {
            self.insert_filled(spec, started, now);
        }
    }

    /// A foreign server whose name a replica of another service has: a configuration gave it to this one, and the other has
    /// not given it up yet.
    fn is_of_another_service(&self, spec: &Spec) -> bool {
        spec.instance.origin() == Origin::Foreign
            && self
                .slots
                .holder(&spec.name)
                .is_some_and(|slot| slot.origin == Origin::Foreign && slot.service != spec.service)
    }

    /// Servers that changed their service join it when their name is free.
    pub(super) fn insert_moved(&mut self, now: Tick) {
        if self.moving.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.moving);
        let (held, free): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(spec, _)| self.name_taken(&spec.name));
        self.moving = held;
        for (spec, started) in free {
            self.insert_filled(spec, started, now);
        }
    }

    /// The server of this slot, which leaves the ring, joins the service that it is listed in now. What it answered counts
    /// there.
    pub(super) fn join_moved(&mut self, slot: &Slot, now: Tick) {
        let is_it = |(spec, started): &mut (Spec, Started)| {
            spec.name == slot.name && spec.service != slot.service && started.endpoint == *slot.endpoint()
        };
        let Some((spec, started)) = self.moving.extract_if(.., is_it).next() else { return };
        let instance = spec.instance;
        self.insert_filled(spec, started, now);
        if slot.is_up()
            && let Some(id) = self.slots.of_instance(instance)
            && let Some(policy) = self.health_policy(id)
        {
            self.mark_up(id, &policy, now);
        }
    }

    /// No later instance gets the number of this one.
    fn reserve(&mut self, instance: InstanceId) {
        if let InstanceId::Managed(number) = instance {
            self.next_number = self.next_number.max(number + 1);
        }
    }

    /// Vacant slots up to the number of replicas that the service begins with.
    pub(super) fn fill_up(&mut self, id: ServiceId, now: Tick) {
        let Some(service) = self.services.get_mut(&id) else { return };
        service.mark_ring_changed();
        if service.config.can_start {
            let missing = service.config.replicas.saturating_sub(service.managed());
            // Only at the start: what a reload asks for is new.
            let inherited = self.settled_below.is_none().then(|| self.inherited_names(id)).flatten();
            let names = inherited.unwrap_or_else(|| self.free_names(missing));
            names.into_iter().for_each(|name| self.insert_vacant(id, name, now));
        }
    }

    fn insert_vacant(&mut self, id: ServiceId, name: Arc<str>, now: Tick) {
        let mut slot = Slot::vacant(id, name, self.workers, now);
        slot.decision = self.take_decision(id, &slot.name);
        self.insert(slot);
    }

    /// A slot for an instance that runs already.
    pub(super) fn insert_filled(&mut self, spec: Spec, started: Started, now: Tick) {
        let replica = self.replica_id(spec.instance);
        let Some(policy) = self.services.get(&spec.service).map(|service| service.config.health) else { return };
        let mut slot = Slot::vacant(spec.service, spec.name, self.workers, now);
        slot.origin = spec.instance.origin();
        slot.revision = spec.revision;
        slot.fill(spec.instance, replica, started, &policy, now);
        slot.decision = self.take_decision(slot.service, &slot.name);
        if self.stands_by() {
            slot.share();
        }
        self.insert(slot);
    }

    /// Replicas and managed instances share one sequence of numbers, and a managed instance its replica's number.
    fn replica_id(&mut self, instance: InstanceId) -> ReplicaId {
        match instance {
            InstanceId::Managed(number) => ReplicaId(number),
            InstanceId::Foreign(_) => ReplicaId(self.take_number()),
        }
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    pub(super) fn start_due(&mut self, due: &[SlotId], now: Tick) {
        for id in due {
            if self.slots.slot(*id).is_some_and(|slot| slot.may_start(now)) {
                self.start(*id, now);
            }
        }
    }

    fn start(&mut self, id: SlotId, now: Tick) {
        let instance = InstanceId::Managed(self.take_number());
        let Some(revision) = self.service_of(id).map(|service| service.revision) else { return };
        let spec = self.change(id, |slot| {
            slot.state = SlotState::Starting { instance, since: now };
            slot.revision = revision;
            Spec { service: slot.service, name: slot.name.clone(), instance, revision, replaces: slot.last_instance }
        });
        spec.into_iter().for_each(|spec| self.emit(Effect::Start(spec)));
    }

    pub(super) fn started(&mut self, instance: InstanceId, started: Started, now: Tick) {
        self.displace(&started.endpoint, instance, now);
        let Some(id) = self.slots.of_instance(instance) else {
            // It was given up while it started.
            return self.emit(Effect::Stop { instance, grace_ms: 0 });
        };
        let replica = self.replica_id(instance);
        let Some(policy) = self.health_policy(id) else { return };
        let line = self.change(id, |slot| {
            let SlotState::Starting { since: begun, .. } = slot.state else { return None };
            slot.fill(instance, replica, started, &policy, now);
            let address = address(slot);
            Some(format!("{}: started {} at {address} in {}", slot.name, slot.handle, since(now, begun)))
        });
        if let Some(line) = line.flatten() {
            self.log(Level::Debug, line);
        }
    }

    /// An address belongs to the instance that got it last. One that had it before is dead, though no event said so yet,
    /// and its requests must not reach another.
    fn displace(&mut self, endpoint: &Endpoint, by: InstanceId, now: Tick) {
        for instance in self.slots.instances_at(endpoint) {
            if instance != by {
                self.mark_down(instance, "another instance has its address now", now);
            }
        }
    }

    pub(super) fn start_failed(&mut self, instance: InstanceId, failure: Failure, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        if let Some(name) = self.joining_name(id) {
            return self.joining_failed(id, Rejection::start_failed(&name, &failure), now);
        }
        let vacated = self.change(id, |slot| {
            slot.note_failure(&failure.message);
            (slot.name.clone(), slot.vacate(now))
        });
        let Some((name, vacated)) = vacated else { return };
        let next = match vacated.pause_ms {
            0 => "at once".to_owned(),
            pause_ms => format!("in {}", readable(pause_ms)),
        };
        self.log(Level::Error, format!("{name}: cannot start: {}; next try {next}", failure.message));
        self.count_in_rollout(id, vacated, &Rejection::start_failed(&name, &failure), now);
    }

    /// It takes no more requests. A managed instance is ended by force and replaced; a foreign one is probed on.
    pub(super) fn mark_down(&mut self, instance: InstanceId, why: &str, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        if let Some(name) = self.joining_name(id) {
            return self.joining_failed(id, Rejection::bad_gateway(format!("{name} was started, but {why}")), now);
        }
        self.change(id, |slot| slot.note_failure(why));
        let left = match instance.origin() {
            Origin::Managed => self.change(id, |slot| {
                let leaving = Leaving::stopping(slot, instance, NameUse::Replaced);
                (leaving, slot.vacate(now))
            }),
            Origin::Foreign => {
                let interval_ms = self.health_policy(id).map_or(0, |policy| policy.interval_ms);
                let health = Health::watched_from(now, now.after_ms(interval_ms));
                self.change(id, |slot| {
                    slot.note_loss(now);
                    slot.state = SlotState::Down { instance, since: now, health };
                });
                None
            }
        };
        let then = if left.is_some() { "it is ended and replaced" } else { "it takes no requests until it answers" };
        let line = format!("{}: down: {why}; {then}; {}", self.name_of(id), self.count_death(id));
        // Of a foreign one it was said already that it takes no requests.
        self.log(if left.is_some() { Level::Warn } else { Level::Info }, line);
        if let Some((leaving, vacated)) = left {
            self.leaving.insert(leaving);
            self.emit(Effect::Stop { instance, grace_ms: 0 });
            let rejection = Rejection::bad_gateway(format!("{} was started, but {why}", self.name_of(id)));
            self.count_in_rollout(id, vacated, &rejection, now);
        }
    }

    /// Also the tally after it.
    pub(super) fn count_death(&mut self, id: SlotId) -> String {
        let Some(service) = self.service_of_mut(id) else { return String::new() };
        service.deaths += 1;
        service.tally()
    }

    pub(super) fn runtime_event(&mut self, event: RuntimeEvent, now: Tick) {
        match event {
            RuntimeEvent::Exited { instance, why } => self.exited(instance, &why, now),
            RuntimeEvent::Stopping { instance, why } => self.stopping_outside(instance, &why, now),
            RuntimeEvent::Joined { spec, started, why } => self.joined(spec, started, &why, now),
            RuntimeEvent::Left { instance, why } => self.left(instance, &why),
            RuntimeEvent::Delisted { instance, why } => self.delisted(instance, why, now),
        }
    }

    fn exited(&mut self, instance: InstanceId, why: &str, now: Tick) {
        if self.forget_leaving(instance) {
            return;
        }
        let Some(id) = self.slots.of_instance(instance) else { return };
        if let Some(name) = self.joining_name(id) {
            return self.joining_failed(
                id,
                Rejection::bad_gateway(format!("{name} was started and ended: {why}")),
                now,
            );
        }
        let vacated = self.change(id, |slot| {
            let lived = match slot.state {
                SlotState::Up { since: up, .. } => format!(" after {}", since(now, up)),
                _ => String::new(),
            };
            slot.note_failure(why);
            (lived, slot.vacate(now))
        });
        let Some((lived, vacated)) = vacated else { return };
        let then = match (self.is_stopping(), vacated.pause_ms) {
            (true, _) => "",
            (_, 0) => "; it is replaced at once",
            (_, pause_ms) => &format!("; it is replaced in {}", readable(pause_ms)),
        };
        let line = format!("{}: died{lived}: {why}{then}; {}", self.name_of(id), self.count_death(id));
        self.log(Level::Warn, line);
        let rejection = Rejection::bad_gateway(format!("{} was started and ended: {why}", self.name_of(id)));
        self.count_in_rollout(id, vacated, &rejection, now);
    }

    fn stopping_outside(&mut self, instance: InstanceId, why: &str, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        if self.joining_name(id).is_some() {
            return;
        }
        let drains = self.change(id, |slot| {
            let drains = matches!(slot.state, SlotState::Up { .. } | SlotState::Probing { .. });
            if drains {
                slot.note_loss(now);
                slot.state = SlotState::Draining { instance };
            }
            drains
        });
        if drains == Some(true) {
            let (name, tally) = (self.name_of(id), self.tally_of(id));
            self.log(Level::Warn, format!("{name}: is being stopped from outside: {why}; it drains; {tally}"));
        }
    }

    fn joined(&mut self, spec: Spec, started: Started, why: &str, now: Tick) {
        let (name, handle) = (spec.name.clone(), started.handle.clone());
        if let Some(removed) = self.removed.get_mut(&name).filter(|(removed, _)| removed.service == spec.service) {
            // It is put back as it is then.
            *removed = (spec, started);
            return;
        }
        let known = self.slots.named(&name).filter(|id| self.slots.slot(*id).is_some_and(Slot::is_member));
        if let Some(id) = known.filter(|id| self.is_relisted(*id, &spec, &started)) {
            return self.relist(id, spec.instance, started.weight);
        }
        // A list may give a server another name, and two lists may have the same one.
        if self.services.get(&spec.service).is_none_or(|service| service.config.can_start) {
            self.displace(&started.endpoint, spec.instance, now);
        }
        if self.is_of_another_service(&spec) {
            self.log(Level::Info, format!("{name}: another service has it: it joins when that has it no more"));
            self.moving.retain(|(known, _)| known.instance != spec.instance);
            return self.moving.push((spec, started));
        }
        match known.and_then(|id| Some((id, self.slots.slot(id)?))) {
            Some((id, slot)) if slot.origin == Origin::Foreign => {
                let was_up = slot.is_up();
                let replica = self.replica_id(spec.instance);
                let Some(policy) = self.health_policy(id) else { return };
                self.change(id, |slot| slot.fill(spec.instance, replica, started, &policy, now));
                // Where no other takes requests, they go to the new address before its first answer.
                if was_up && self.service_of(id).is_some_and(|service| service.routable() == 0) {
                    self.mark_up(id, &policy, now);
                }
            }
            None if !self.name_taken(&name) => self.insert_filled(spec, started, now),
            _ => return self.log(Level::Warn, format!("{name}: {handle} cannot join: that name is taken")),
        }
        // At level info it is said once: when it answers.
        self.log(Level::Debug, format!("{name}: {handle} joins: {why}"));
    }

    fn left(&mut self, instance: InstanceId, why: &str) {
        self.moving.retain(|(spec, _)| spec.instance != instance);
        let Some(id) = self.foreign_member(instance) else { return };
        let Some(slot) = self.remove(id) else { return };
        self.keep_decision(&slot);
        let tally = self.services.get(&slot.service).map_or_else(String::new, |service| service.tally());
        self.log(Level::Info, format!("{}: {} left: {why}; {tally}", slot.name, slot.handle));
    }

    pub(super) fn stopped(&mut self, instance: InstanceId, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.log(Level::Error, format!("instance {instance} could not be stopped: {}", failure.message));
        }
        self.forget_leaving(instance);
    }

    /// The name of a slot that is no member, or not yet.
    pub(super) fn joining_name(&self, id: SlotId) -> Option<Arc<str>> {
        let slot = self.slots.slot(id).filter(|slot| !slot.is_member())?;
        Some(slot.name.clone())
    }

    pub(super) fn name_of(&self, id: SlotId) -> Arc<str> {
        self.slots.slot(id).map_or_else(|| "a former replica".into(), |slot| slot.name.clone())
    }

    pub(super) fn tally_of(&self, id: SlotId) -> String {
        self.service_of(id).map_or_else(String::new, |service| service.tally())
    }
}

pub(super) fn address(slot: &Slot) -> String {
    match slot.endpoint() {
        Endpoint::Tcp(address) => address.to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    }
}
