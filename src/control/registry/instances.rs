//! What happens to instances: they start, answer probes, stop answering, die, and their slots are filled again.

use std::sync::Arc;

use log::Level;

use super::Registry;
use super::answer::Rejection;
use super::command::{Effect, readable, since};
use super::leaving::{Leaving, NameUse};
use super::slot::{ProbeState, START_TIMEOUT_MS, Slot, SlotState};
use super::slots::SlotId;
use crate::control::runtime::{Failure, InstanceId, Origin, RuntimeEvent, Spec, Started};
use crate::core::snapshot::{Endpoint, ReplicaId, ServiceId, State};
use crate::core::tick::Tick;
use crate::shared::events::WorkerEvent;

/// Skipped probes are logged so often at most.
const SKIPPED_LOG_PAUSE_MS: u64 = 1_000;

impl Registry {
    pub(super) fn found(&mut self, found: Vec<(Spec, Started)>, now: Tick) {
        for (spec, _) in &found {
            self.reserve(spec.instance);
        }
        for (spec, started) in found {
            if self.name_taken(&spec.name) {
                self.log(Level::Warn, format!("{}: found twice, {} is left alone", spec.name, started.handle));
                continue;
            }
            if spec.instance.origin() == Origin::Managed {
                self.log(Level::Info, format!("{}: adopted {}", spec.name, started.handle));
            }
            self.insert_filled(spec, started, now);
        }
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        services.into_iter().for_each(|service| self.fill_up(service, now));
    }

    /// No later instance gets the number of this one.
    fn reserve(&mut self, instance: InstanceId) {
        if let InstanceId::Managed(number) = instance {
            self.next_number = self.next_number.max(number + 1);
        }
    }

    /// Vacant slots up to the number of replicas that the service begins with.
    fn fill_up(&mut self, id: ServiceId, now: Tick) {
        let Some(service) = self.services.get_mut(&id) else { return };
        service.mark_ring_changed();
        if service.config.can_start {
            let missing = service.config.replicas.saturating_sub(service.managed());
            for name in self.free_names(missing) {
                let slot = Slot::vacant(id, name, self.workers, now);
                self.insert(slot);
            }
        }
    }

    /// A slot for an instance that runs already.
    fn insert_filled(&mut self, spec: Spec, started: Started, now: Tick) {
        let replica = self.replica_id(spec.instance);
        let mut slot = Slot::vacant(spec.service, spec.name, self.workers, now);
        slot.origin = spec.instance.origin();
        slot.fill(spec.instance, replica, started, now, now);
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
        let spec = self.change(id, |slot| {
            slot.state = SlotState::Starting { instance, since: now };
            Spec { service: slot.service, name: slot.name.clone(), instance, replaces: slot.last_instance }
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
        let line = self.change(id, |slot| {
            let SlotState::Starting { since: begun, .. } = slot.state else { return None };
            slot.fill(instance, replica, started, begun, now);
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
            return self.undo_addition(Rejection::start_failed(&name, &failure), now);
        }
        let Some((name, pause_ms)) = self.change(id, |slot| (slot.name.clone(), slot.vacate(now))) else { return };
        let pause = readable(pause_ms);
        self.log(Level::Error, format!("{name}: cannot start: {}; next try in {pause}", failure.message));
    }

    pub(super) fn expire_starts(&mut self, due: &[SlotId], now: Tick) {
        let slots = due.iter().filter_map(|id| self.slots.slot(*id));
        let late: Vec<InstanceId> =
            slots.filter(|slot| slot.start_deadline() <= now).filter_map(Slot::instance).collect();
        for instance in late {
            let why = format!("no heartbeat answered within {}", readable(START_TIMEOUT_MS));
            self.mark_down(instance, &why, now);
        }
    }

    pub(super) fn probe_due(&mut self, due: &[SlotId], now: Tick) {
        for id in due {
            let interval_ms = self.heartbeat_interval_ms(*id);
            let probe = self.change(*id, |slot| probe(slot, interval_ms, now)).flatten();
            self.effects.extend(probe);
        }
    }

    fn heartbeat_interval_ms(&self, id: SlotId) -> u64 {
        self.service_of(id).map_or(0, |service| service.config.heartbeat_interval_ms)
    }

    pub(super) fn probe_ok(&mut self, instance: InstanceId, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        if self.change(id, Slot::probe_ok) == Some(true) {
            let line = format!("{}: answers again; it takes requests", self.name_of(id));
            return self.log(Level::Info, line);
        }
        self.mark_up(id, now);
    }

    /// A first answer: it takes requests from now on.
    fn mark_up(&mut self, id: SlotId, now: Tick) {
        let next_probe = now.after_ms(self.heartbeat_interval_ms(id));
        let risen = self.change(id, |slot| {
            let (SlotState::Probing { instance, since: begun, .. } | SlotState::Down { instance, since: begun, .. }) =
                slot.state
            else {
                return None;
            };
            slot.state = SlotState::Up { instance, since: now, probe: ProbeState::at(next_probe) };
            let title = format!("{}: {} at {}", slot.name, slot.handle, address(slot));
            Some((title, slot.lost_at.take(), begun))
        });
        let Some((title, lost_at, begun)) = risen.flatten() else { return };
        if self.slots.slot(id).is_some_and(|slot| !slot.is_member()) {
            return self.finish_addition_if_up(now);
        }
        let Some(service) = self.service_of_mut(id) else { return };
        let tally = service.tally();
        let line = match lost_at {
            Some(lost_at) => {
                service.heals += 1;
                format!("{title} healed it in {}; {tally}", since(now, lost_at))
            }
            None => format!("{title} is up after {}; {tally}", since(now, begun)),
        };
        self.log(Level::Info, line);
    }

    pub(super) fn probe_failed(&mut self, instance: InstanceId, why: &str, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        let Some(failures) = self.change(id, Slot::probe_failed).flatten() else { return };
        let limit = self.service_of(id).map_or(1, |service| service.config.heartbeat_misses);
        if failures >= limit {
            return self.mark_down(instance, &format!("{failures} heartbeats missed, the last: {why}"), now);
        }
        let line = format!("{}: heartbeat {failures} of {limit} missed: {why}", self.name_of(id));
        self.log(Level::Debug, line);
        self.eject_if_few(id, now);
    }

    pub(super) fn probe_skipped(&mut self, instance: InstanceId, why: &str, now: Tick) {
        if let Some(id) = self.slots.of_instance(instance) {
            self.change(id, Slot::probe_skipped);
        }
        if self.log_skipped_at <= now {
            self.log_skipped_at = now.after_ms(SKIPPED_LOG_PAUSE_MS);
            self.log(Level::Error, format!("heartbeats cannot be asked for: {why}; no replica is judged by that"));
        }
    }

    /// A request met a fault there and a probe failed: other replicas answer meanwhile. Not where at least half of the
    /// members take no requests already: then the load is what is slow, and fewer replicas would be slower.
    fn eject_if_few(&mut self, id: SlotId, now: Tick) {
        let Some(slot) = self.slots.slot(id).filter(|slot| slot.is_suspected()) else { return };
        let is_routable = slot.is_member() && slot.shown().1 == State::Up;
        let Some(service) = self.service_of(id) else { return };
        let others = service.routable() - usize::from(is_routable);
        if 2 * others < service.members().len() {
            return;
        }
        if self.change(id, |slot| slot.eject(now)) == Some(true) {
            let line = format!("{}: silent; requests go around it until it answers", self.name_of(id));
            self.log(Level::Warn, line);
        }
    }

    /// It takes no more requests. A managed instance is ended by force and replaced; a foreign one is probed on.
    fn mark_down(&mut self, instance: InstanceId, why: &str, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        if let Some(name) = self.joining_name(id) {
            return self.undo_addition(Rejection::bad_gateway(format!("{name} was started, but {why}")), now);
        }
        let leaving = match instance.origin() {
            Origin::Managed => self.change(id, |slot| {
                slot.vacate(now);
                Leaving::stopping(slot, instance, NameUse::Replaced)
            }),
            Origin::Foreign => {
                let probe = ProbeState::at(now.after_ms(self.heartbeat_interval_ms(id)));
                self.change(id, |slot| {
                    slot.note_loss(now);
                    slot.state = SlotState::Down { instance, since: now, probe };
                });
                None
            }
        };
        let then = if leaving.is_some() { "it is ended and replaced" } else { "it takes no requests until it answers" };
        let line = format!("{}: down: {why}; {then}; {}", self.name_of(id), self.count_death(id));
        self.log(Level::Warn, line);
        if let Some(leaving) = leaving {
            self.leaving.insert(leaving);
            self.emit(Effect::Stop { instance, grace_ms: 0 });
        }
    }

    /// Also the tally after it.
    fn count_death(&mut self, id: SlotId) -> String {
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
        }
    }

    fn exited(&mut self, instance: InstanceId, why: &str, now: Tick) {
        if self.forget_leaving(instance) {
            return;
        }
        let Some(id) = self.slots.of_instance(instance) else { return };
        if let Some(name) = self.joining_name(id) {
            return self.undo_addition(Rejection::bad_gateway(format!("{name} was started and ended: {why}")), now);
        }
        let vacated = self.change(id, |slot| {
            let lived = match slot.state {
                SlotState::Up { since: up, .. } => format!(" after {}", since(now, up)),
                _ => String::new(),
            };
            (lived, slot.vacate(now))
        });
        let Some((lived, pause_ms)) = vacated else { return };
        let then = match (self.stopping, pause_ms) {
            (true, _) => "",
            (_, 0) => "; it is replaced at once",
            (_, _) => &format!("; it is replaced in {}", readable(pause_ms)),
        };
        let line = format!("{}: died{lived}: {why}{then}; {}", self.name_of(id), self.count_death(id));
        self.log(Level::Warn, line);
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
        self.displace(&started.endpoint, spec.instance, now);
        let known = self.slots.named(&name).filter(|id| self.slots.slot(*id).is_some_and(Slot::is_member));
        match known.and_then(|id| Some((id, self.slots.slot(id)?))) {
            Some((id, slot)) if slot.origin == Origin::Foreign => {
                let is_reweighted = slot.weight != started.weight;
                let replica = self.replica_id(spec.instance);
                self.change(id, |slot| slot.fill(spec.instance, replica, started, now, now));
                if is_reweighted && let Some(service) = self.service_of_mut(id) {
                    service.mark_ring_changed();
                }
            }
            None if !self.name_taken(&name) => self.insert_filled(spec, started, now),
            _ => return self.log(Level::Warn, format!("{name}: {handle} cannot join: that name is taken")),
        }
        self.log(Level::Info, format!("{name}: {handle} joins: {why}"));
    }

    fn left(&mut self, instance: InstanceId, why: &str) {
        let is_member = |slot: &&Slot| slot.origin == Origin::Foreign && slot.is_member();
        let id = self.slots.of_instance(instance);
        let Some(id) = id.filter(|id| self.slots.slot(*id).as_ref().is_some_and(is_member)) else { return };
        let Some(slot) = self.remove(id) else { return };
        let tally = self.services.get(&slot.service).map_or_else(String::new, |service| service.tally());
        self.log(Level::Info, format!("{}: {} left: {why}; {tally}", slot.name, slot.handle));
    }

    pub(super) fn stopped(&mut self, instance: InstanceId, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.log(Level::Error, format!("instance {instance} could not be stopped: {}", failure.message));
        }
        self.forget_leaving(instance);
    }

    /// A worker's fault marks no replica down: it brings the next probe forward.
    pub(super) fn worker_event(&mut self, event: &WorkerEvent, now: Tick) {
        if let Some(replica) = event.suspect()
            && let Some(id) = self.slots.of_replica(replica)
        {
            self.change(id, |slot| slot.suspect(now));
        }
    }

    /// The name of a slot that an `/add` under way waits for.
    fn joining_name(&self, id: SlotId) -> Option<Arc<str>> {
        let slot = self.slots.slot(id).filter(|slot| !slot.is_member())?;
        Some(slot.name.clone())
    }

    fn name_of(&self, id: SlotId) -> Arc<str> {
        self.slots.slot(id).map_or_else(|| "a former replica".into(), |slot| slot.name.clone())
    }

    fn tally_of(&self, id: SlotId) -> String {
        self.service_of(id).map_or_else(String::new, |service| service.tally())
    }
}

fn probe(slot: &mut Slot, interval_ms: u64, now: Tick) -> Option<Effect> {
    let instance = slot.instance()?;
    let timeout_ms = slot.begin_probe(interval_ms, now)?;
    let name = (slot.origin == Origin::Managed).then(|| slot.name.clone());
    Some(Effect::Probe { instance, name, endpoint: slot.endpoint().clone(), timeout_ms })
}

fn address(slot: &Slot) -> String {
    match slot.endpoint() {
        Endpoint::Tcp(address) => address.to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    }
}
