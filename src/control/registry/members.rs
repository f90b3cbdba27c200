//! What happens to instances: they start, answer, fall silent, die, and their slots are filled again.

use std::sync::Arc;

use log::Level;

use super::Registry;
use super::answer::Rejection;
use super::command::{Effect, readable, since};
use super::leaving::Leaving;
use super::slot::{ProbeState, START_TIMEOUT_MS, Slot, SlotState};
use crate::control::runtime::{Event, FOREIGN_FROM, Failure, Spec, Started};
use crate::core::snapshot::{Endpoint, ReplicaId, State};
use crate::core::tick::Tick;
use crate::shared::events::WorkerEvent;

/// What is wrong with ourselves is said so often at most.
const COMPLAINT_PAUSE_MS: u64 = 1_000;

impl Registry {
    pub(super) fn found(&mut self, found: Vec<(Spec, Started)>, now: Tick) {
        for (spec, started) in found {
            if self.name_taken(&spec.name) {
                self.log(Level::Warn, format!("{}: found twice, {} is left alone", spec.name, started.handle));
                continue;
            }
            let managed = self.config.can_start && spec.instance < FOREIGN_FROM;
            if managed {
                self.next_instance = self.next_instance.max(spec.instance + 1);
                self.log(Level::Info, format!("{}: adopted {}", spec.name, started.handle));
            }
            let slot = Slot::filled(spec.name, spec.instance, started, managed, self.config.workers, now);
            self.members.push(slot);
        }
        if self.config.can_start {
            let missing = self.config.replicas.saturating_sub(self.managed_count());
            for name in self.free_names(missing) {
                self.members.push(Slot::vacant(name, self.config.workers, now));
            }
        }
        self.builder.mark_ring_dirty();
    }

    /// How many members we started ourselves: what `--max-replicas` limits.
    pub(super) fn managed_count(&self) -> usize {
        self.members.iter().filter(|slot| slot.managed).count()
    }

    pub(super) fn start_what_is_due(&mut self, now: Tick) {
        if self.stopping {
            return;
        }
        let mut next = self.next_instance;
        let mut specs = Vec::new();
        let leaving = &self.leaving;
        let held = |name: &str| leaving.iter().any(|leaving| leaving.holds(name));
        let adding = self.addition.iter_mut().flat_map(|addition| &mut addition.slots);
        for slot in self.members.iter_mut().chain(adding) {
            if matches!(slot.state, SlotState::Vacant { start_at } if start_at <= now) && !held(&slot.name) {
                slot.state = SlotState::Starting { instance: next, since: now };
                specs.push(Spec { name: slot.name.clone(), instance: next });
                next += 1;
            }
        }
        self.next_instance = next;
        self.effects.extend(specs.into_iter().map(Effect::Start));
    }

    pub(super) fn started(&mut self, instance: u64, started: Started, now: Tick) {
        self.displace(&started.endpoint, instance, now);
        let Some(slot) = self.slot_of(instance) else {
            // It was given up while it started.
            return self.emit(Effect::Stop { instance, grace_ms: 0 });
        };
        let SlotState::Starting { since: begun, .. } = slot.state else { return };
        slot.fill(instance, started, begun, now);
        let line = format!("{}: started {} at {} in {}", slot.name, slot.handle, place(slot), since(now, begun));
        self.log(Level::Debug, line);
    }

    /// An address belongs to whoever got it last: an instance that had it before is dead, though nobody said so yet, and
    /// its requests must not be answered by another.
    fn displace(&mut self, endpoint: &Endpoint, by: u64, now: Tick) {
        let displaced = |slot: &&Slot| {
            let there =
                matches!(slot.state, SlotState::Probing { .. } | SlotState::Up { .. } | SlotState::Draining { .. });
            there && slot.endpoint() == endpoint && slot.instance() != Some(by)
        };
        let former: Vec<u64> = self.slots().filter(displaced).filter_map(Slot::instance).collect();
        for instance in former {
            self.mark_down(instance, "another instance has its address now", now);
        }
    }

    pub(super) fn start_failed(&mut self, instance: u64, failure: Failure, now: Tick) {
        if let Some(name) = self.added_name(instance) {
            return self.undo_addition(Rejection::failed(&name, &failure), now);
        }
        let Some(slot) = self.slot_of(instance) else { return };
        let name = slot.name.clone();
        let pause_ms = slot.vacate(now);
        self.log(
            Level::Error,
            format!("{name}: cannot start: {}; next try in {}", failure.message, readable(pause_ms)),
        );
    }

    pub(super) fn give_up_on_late_starts(&mut self, now: Tick) {
        if self.stopping {
            return;
        }
        let late: Vec<u64> =
            self.slots().filter(|slot| slot.start_deadline() <= now).filter_map(Slot::instance).collect();
        for instance in late {
            let why = format!("no heartbeat answered within {}", readable(START_TIMEOUT_MS));
            self.mark_down(instance, &why, now);
        }
    }

    pub(super) fn probe_what_is_due(&mut self, now: Tick) {
        if self.stopping {
            return;
        }
        let config = self.config.clone();
        let probes: Vec<Effect> = self
            .slots_mut()
            .filter_map(|slot| {
                let instance = slot.instance()?;
                let limit_ms = slot.begin_probe(&config, now)?;
                let name = slot.managed.then(|| slot.name.clone());
                Some(Effect::Probe { instance, name, endpoint: slot.endpoint().clone(), limit_ms })
            })
            .collect();
        self.effects.extend(probes);
    }

    pub(super) fn probe_ok(&mut self, instance: u64, now: Tick) {
        let Some(slot) = self.slot_of(instance) else { return };
        if slot.probe_ok() {
            let line = format!("{}: answers again; it takes requests", slot.name);
            return self.log(Level::Info, line);
        }
        if matches!(slot.state, SlotState::Probing { .. } | SlotState::Down { .. }) {
            self.mark_up(instance, now);
        }
    }

    /// A first heartbeat: it takes requests from now on.
    fn mark_up(&mut self, instance: u64, now: Tick) {
        let next_probe = now.after_ms(self.config.heartbeat_interval_ms);
        let Some(slot) = self.slot_of(instance) else { return };
        let (SlotState::Probing { since: begun, .. } | SlotState::Down { since: begun, .. }) = slot.state else {
            return;
        };
        slot.state = SlotState::Up { instance, since: now, probe: ProbeState::at(next_probe) };
        let lost_at = slot.lost_at.take();
        let who = format!("{}: {} at {}", slot.name, slot.handle, place(slot));
        if self.addition.as_ref().is_some_and(|addition| addition.slots.iter().all(Slot::is_up)) {
            return self.finish_addition(now);
        }
        if self.added_name(instance).is_some() {
            return;
        }
        let line = match lost_at {
            Some(lost_at) => {
                self.heals += 1;
                format!("{who} healed it in {}; {}", since(now, lost_at), self.tally())
            }
            None => format!("{who} is up after {}; {}", since(now, begun), self.tally()),
        };
        self.log(Level::Info, line);
    }

    pub(super) fn probe_failed(&mut self, instance: u64, why: &str, now: Tick) {
        let limit = self.config.heartbeat_misses;
        let Some(slot) = self.slot_of(instance) else { return };
        slot.probe_failed();
        let up = slot.is_up();
        let name = slot.name.clone();
        let Some(probe) = slot.probe_mut() else { return };
        let misses = probe.misses;
        if !up {
            return;
        }
        if misses >= limit {
            return self.mark_down(instance, &format!("{misses} heartbeats missed, the last: {why}"), now);
        }
        self.log(Level::Debug, format!("{name}: heartbeat {misses} of {limit} missed: {why}"));
        self.eject(instance, now);
    }

    pub(super) fn probe_skipped(&mut self, instance: u64, why: &str, now: Tick) {
        if let Some(slot) = self.slot_of(instance) {
            slot.probe_skipped();
        }
        if self.complain_at <= now {
            self.complain_at = now.after_ms(COMPLAINT_PAUSE_MS);
            self.log(Level::Error, format!("heartbeats cannot be asked for: {why}; nobody is judged by that"));
        }
    }

    /// A request met a fault there and a heartbeat was missed: no verdict yet, but others can answer meanwhile. Not
    /// where most would be gone around: then it is the load that is slow, and fewer replicas would be slower.
    fn eject(&mut self, instance: u64, now: Tick) {
        let answering = |slot: &&Slot| slot.instance() != Some(instance) && slot.seen().1 == State::Up;
        if 2 * self.members.iter().filter(answering).count() < self.members.len() {
            return;
        }
        let Some(slot) = self.slot_of(instance) else { return };
        if slot.eject(now) {
            let line = format!("{}: silent; requests go around it until it answers", slot.name);
            self.log(Level::Warn, line);
        }
    }

    /// A verdict: it takes no more requests. Ours is ended by force and replaced; another's is asked on.
    fn mark_down(&mut self, instance: u64, why: &str, now: Tick) {
        if let Some(name) = self.added_name(instance) {
            return self.undo_addition(Rejection::refused(format!("{name} was started, but {why}")), now);
        }
        let next_probe = now.after_ms(self.config.heartbeat_interval_ms);
        let Some(slot) = self.slot_of(instance) else { return };
        let (name, managed) = (slot.name.clone(), slot.managed);
        if managed {
            slot.vacate(now);
        } else {
            slot.note_loss(now);
            slot.state = SlotState::Down { instance, since: now, probe: ProbeState::at(next_probe) };
        }
        self.deaths += 1;
        let then = if managed { "it is ended and replaced" } else { "it takes no requests until it answers" };
        let line = format!("{name}: down: {why}; {then}; {}", self.tally());
        self.log(Level::Warn, line);
        if managed {
            self.leaving.push(Leaving::replaced(name, instance));
            self.emit(Effect::Stop { instance, grace_ms: 0 });
        }
    }

    pub(super) fn runtime_event(&mut self, event: Event, now: Tick) {
        match event {
            Event::Exited { instance, why } => self.exited(instance, &why, now),
            Event::Stopping { instance, why } => self.asked_to_stop(instance, &why, now),
            Event::Joined { spec, started, why } => self.joined(spec, started, &why, now),
            Event::Left { instance, why } => self.left(instance, &why),
        }
    }

    fn exited(&mut self, instance: u64, why: &str, now: Tick) {
        if let Some(name) = self.added_name(instance) {
            return self.undo_addition(Rejection::refused(format!("{name} was started and ended: {why}")), now);
        }
        if self.forget_leaving(instance) {
            return;
        }
        let Some(slot) = self.slot_of(instance) else { return };
        let lived = match slot.state {
            SlotState::Up { since: up, .. } => format!(" after {}", since(now, up)),
            _ => String::new(),
        };
        let name = slot.name.clone();
        let pause_ms = slot.vacate(now);
        self.deaths += 1;
        let then = match (self.stopping, pause_ms) {
            (true, _) => "",
            (_, 0) => "; it is replaced at once",
            (_, _) => &format!("; it is replaced in {}", readable(pause_ms)),
        };
        let line = format!("{name}: died{lived}: {why}{then}; {}", self.tally());
        self.log(Level::Warn, line);
    }

    fn asked_to_stop(&mut self, instance: u64, why: &str, now: Tick) {
        if self.added_name(instance).is_some() {
            return;
        }
        let Some(slot) = self.slot_of(instance) else { return };
        if !matches!(slot.state, SlotState::Up { .. } | SlotState::Probing { .. }) {
            return;
        }
        slot.note_loss(now);
        slot.state = SlotState::Draining { instance };
        let name = slot.name.clone();
        let line = format!("{name}: is being stopped from outside: {why}; it drains; {}", self.tally());
        self.log(Level::Warn, line);
    }

    fn joined(&mut self, spec: Spec, started: Started, why: &str, now: Tick) {
        let Spec { name, instance } = spec;
        let handle = started.handle.clone();
        self.displace(&started.endpoint, instance, now);
        let taken = self.name_taken(&name);
        match self.members.iter_mut().find(|slot| slot.name == name) {
            Some(slot) if !slot.managed => {
                self.builder.mark_ring_dirty_if(slot.weight != started.weight);
                slot.weight = started.weight;
                slot.fill(instance, started, now, now);
            }
            None if !taken => {
                let slot = Slot::filled(name.clone(), instance, started, false, self.config.workers, now);
                self.members.push(slot);
                self.builder.mark_ring_dirty();
            }
            _ => return self.log(Level::Warn, format!("{name}: {handle} cannot join: that name is taken")),
        }
        self.log(Level::Info, format!("{name}: {handle} joins: {why}"));
    }

    fn left(&mut self, instance: u64, why: &str) {
        let Some(at) = self.members.iter().position(|slot| !slot.managed && slot.instance() == Some(instance)) else {
            return;
        };
        let slot = self.members.remove(at);
        self.builder.mark_ring_dirty();
        let line = format!("{}: {} left: {why}; {}", slot.name, slot.handle, self.tally());
        self.log(Level::Info, line);
    }

    pub(super) fn stopped(&mut self, instance: u64, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.log(Level::Error, format!("instance {instance} could not be stopped: {}", failure.message));
        }
        self.forget_leaving(instance);
    }

    /// A worker's fault is no verdict: it brings the next heartbeat forward.
    pub(super) fn worker_event(&mut self, fact: &WorkerEvent, now: Tick) {
        if let Some(ReplicaId(instance)) = fact.suspect()
            && let Some(slot) = self.slot_of(instance)
        {
            slot.suspect(now);
        }
    }

    pub(super) fn slot_of(&mut self, instance: u64) -> Option<&mut Slot> {
        self.slots_mut().find(|slot| slot.instance() == Some(instance))
    }

    /// The name of an instance that an `/add` under way waits for.
    fn added_name(&self, instance: u64) -> Option<Arc<str>> {
        let addition = self.addition.as_ref()?;
        let slot = addition.slots.iter().find(|slot| slot.instance() == Some(instance))?;
        Some(slot.name.clone())
    }
}

fn place(slot: &Slot) -> String {
    match slot.endpoint() {
        Endpoint::Tcp(address) => address.to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    }
}
