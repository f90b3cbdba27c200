//! Servers of others that their source lists no more. Each leaves the ring and finishes its requests, but not before
//! another replica of its service can take its place: a list may change whole, and those that are new have not answered yet.

use std::collections::BTreeMap;

use log::Level;

use super::Registry;
use super::leaving::NameUse;
use super::service::ServiceState;
use super::slot::{Slot, SlotState};
use super::slots::SlotId;
use crate::control::runtime::{InstanceId, Origin, Spec, Started};
use crate::core::snapshot::State;
use crate::core::tick::Tick;

/// By instance: why it leaves, and when it does whatever the others do.
pub type DelistedServers = BTreeMap<InstanceId, (String, Tick)>;

impl Registry {
    pub(super) fn delisted(&mut self, instance: InstanceId, why: String, now: Tick) {
        self.moving.retain(|(spec, _)| spec.instance != instance);
        self.removed.retain(|_, (spec, _)| spec.instance != instance);
        if let Some(policy) = self.foreign_member(instance).and_then(|id| self.health_policy(id)) {
            self.delisted.insert(instance, (why, now.after_ms(policy.start_timeout_ms)));
        }
    }

    /// Those leave that are not needed any more, or were for long enough.
    pub(super) fn end_delisted(&mut self, now: Tick) {
        if self.delisted.is_empty() {
            return;
        }
        let over = |(instance, (_, until)): (&InstanceId, &(String, Tick))| {
            (*until <= now || !self.is_needed(*instance)).then_some(*instance)
        };
        let over: Vec<InstanceId> = self.delisted.iter().filter_map(over).collect();
        for instance in over {
            let why = self.delisted.remove(&instance).map(|(why, _)| why).unwrap_or_default();
            let Some(slot) = self.foreign_member(instance).and_then(|id| self.remove(id)) else { continue };
            self.keep_decision(&slot);
            let tally = self.services.get(&slot.service).map_or_else(String::new, ServiceState::tally);
            self.log(Level::Info, format!("{}: {} left: {why}; {tally}", slot.name, slot.handle));
            self.join_moved(&slot, now);
            self.begin_drain(slot, NameUse::Replaced, now);
        }
    }

    pub(super) fn delisted_due(&self) -> Tick {
        self.delisted.values().map(|(_, until)| *until).min().unwrap_or(Tick::NEVER)
    }

    /// It takes requests, no replica that is listed does, and one that is has yet to answer.
    fn is_needed(&self, instance: InstanceId) -> bool {
        let routable = |slot: &Slot| slot.shown().1 == State::Up;
        let Some(slot) = self.foreign_member(instance).and_then(|id| self.slots.slot(id)) else { return false };
        let Some(service) = self.services.get(&slot.service) else { return false };
        let delisted = self.delisted.keys().filter_map(|other| self.slots.slot(self.foreign_member(*other)?));
        let unlisted = delisted.filter(|other| other.service == slot.service && routable(other)).count();
        let is_awaited =
            |id: &SlotId| self.slots.slot(*id).is_some_and(|other| matches!(other.state, SlotState::Probing { .. }));
        routable(slot) && service.routable() <= unlisted && service.members().iter().any(is_awaited)
    }

    /// The server that the slot has, with another weight, or listed again before it left.
    pub(super) fn is_relisted(&self, id: SlotId, spec: &Spec, started: &Started) -> bool {
        let is_same = |instance| instance == spec.instance || self.delisted.contains_key(&instance);
        self.slots.slot(id).is_some_and(|slot| {
            slot.service == spec.service
                && slot.occupied() == Some(&started.endpoint)
                && slot.instance().is_some_and(is_same)
        })
    }

    pub(super) fn relist(&mut self, id: SlotId, instance: InstanceId, weight: u32) {
        let before = self.slots.slot(id).and_then(Slot::instance);
        before.map(|before| self.delisted.remove(&before));
        self.change(id, |slot| slot.relist(instance, weight));
    }

    pub(super) fn foreign_member(&self, instance: InstanceId) -> Option<SlotId> {
        let is_member = |slot: &Slot| slot.origin == Origin::Foreign && slot.is_member();
        self.slots.of_instance(instance).filter(|id| self.slots.slot(*id).is_some_and(is_member))
    }
}

impl Slot {
    /// It is the server that it was, under this number.
    pub fn relist(&mut self, number: InstanceId, weight: u32) {
        if self.instance() != Some(number) {
            // The answer to a probe in flight comes under the number before.
            self.probe_skipped();
        }
        match &mut self.state {
            SlotState::Vacant { .. } => {}
            SlotState::Starting { instance, .. }
            | SlotState::Probing { instance, .. }
            | SlotState::Up { instance, .. }
            | SlotState::Draining { instance }
            | SlotState::Down { instance, .. } => *instance = number,
        }
        self.last_instance = Some(number);
        self.configure_weight(weight);
    }
}
