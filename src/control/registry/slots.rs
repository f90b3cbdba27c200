//! All slots of the registry with their indices: by name, instance, replica, address and deadline. Every change of a
//! slot goes through `change`, which keeps the indices right; it decides nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::deadlines::Deadlines;
use super::slot::Slot;
use crate::control::runtime::InstanceId;
use crate::core::balance::Ramp;
use crate::core::snapshot::{Endpoint, ReplicaId, State};
use crate::core::tick::Tick;

/// Rises with every insertion: the members of a service are in ring order when sorted by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId(u64);

#[derive(Debug)]
pub struct Slots {
    slots: BTreeMap<SlotId, Slot>,
    next: u64,
    by_name: BTreeMap<Arc<str>, SlotId>,
    by_instance: BTreeMap<InstanceId, SlotId>,
    by_replica: BTreeMap<ReplicaId, SlotId>,
    /// More than one only until the earlier ones are marked down.
    by_endpoint: HashMap<Endpoint, Vec<SlotId>>,
    deadlines: Deadlines<SlotId>,
}

/// What the indices hold of a slot.
#[derive(PartialEq)]
struct Keys {
    instance: Option<InstanceId>,
    replica: Option<ReplicaId>,
    endpoint: Option<Endpoint>,
    due: Tick,
}

impl Keys {
    const NONE: Keys = Keys { instance: None, replica: None, endpoint: None, due: Tick::NEVER };

    fn of(slot: &Slot) -> Keys {
        let endpoint = slot.occupied().cloned();
        let replica = endpoint.is_some().then(|| slot.shown().0);
        Keys { instance: slot.instance(), replica, endpoint, due: slot.due() }
    }
}

/// What a service counts and publishes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub is_up: bool,
    pub is_drained: bool,
    pub weight: u32,
    pub ramp: Ramp,
    pub shown: (ReplicaId, State),
}

impl View {
    pub fn of(slot: &Slot) -> View {
        let (is_up, is_drained) = (slot.is_up(), slot.is_drained());
        View { is_up, is_drained, weight: slot.weight(), ramp: slot.ramp(), shown: slot.shown() }
    }
}

impl Slots {
    pub fn new() -> Slots {
        Slots {
            slots: BTreeMap::new(),
            next: 0,
            by_name: BTreeMap::new(),
            by_instance: BTreeMap::new(),
            by_replica: BTreeMap::new(),
            by_endpoint: HashMap::new(),
            deadlines: Deadlines::new(),
        }
    }

    /// Its name, if it has one of its own, must be free: see `named`.
    pub fn insert(&mut self, slot: Slot) -> SlotId {
        let id = SlotId(self.next);
        self.next += 1;
        self.reindex(id, &Keys::NONE, &Keys::of(&slot));
        if slot.has_name() {
            self.by_name.insert(slot.name.clone(), id);
        }
        self.slots.insert(id, slot);
        id
    }

    pub fn remove(&mut self, id: SlotId) -> Option<Slot> {
        let slot = self.slots.remove(&id)?;
        self.reindex(id, &Keys::of(&slot), &Keys::NONE);
        if slot.has_name() {
            self.by_name.remove(&slot.name);
        }
        Some(slot)
    }

    /// Applies `change` to one slot. Also what services saw of the slot before.
    pub fn change<R>(&mut self, id: SlotId, now: Tick, change: impl FnOnce(&mut Slot) -> R) -> Option<(R, View)> {
        let slot = self.slots.get_mut(&id)?;
        let (before, view, condition) = (Keys::of(slot), View::of(slot), slot.condition());
        let result = change(slot);
        if slot.condition() != condition {
            slot.condition_since = now;
        }
        let after = Keys::of(slot);
        if before != after {
            self.reindex(id, &before, &after);
        }
        Some((result, view))
    }

    fn reindex(&mut self, id: SlotId, before: &Keys, after: &Keys) {
        self.deadlines.reschedule(id, before.due, after.due);
        if before.instance != after.instance {
            before.instance.map(|instance| self.by_instance.remove(&instance));
            after.instance.map(|instance| self.by_instance.insert(instance, id));
        }
        if before.replica != after.replica {
            before.replica.map(|replica| self.by_replica.remove(&replica));
            after.replica.map(|replica| self.by_replica.insert(replica, id));
        }
        if before.endpoint != after.endpoint {
            if let Some(endpoint) = &before.endpoint {
                self.release(endpoint, id);
            }
            if let Some(endpoint) = &after.endpoint {
                self.by_endpoint.entry(endpoint.clone()).or_default().push(id);
            }
        }
    }

    fn release(&mut self, endpoint: &Endpoint, id: SlotId) {
        if let Some(ids) = self.by_endpoint.get_mut(endpoint) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_endpoint.remove(endpoint);
            }
        }
    }

    pub fn slot(&self, id: SlotId) -> Option<&Slot> {
        self.slots.get(&id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// Those from `id` on, in order.
    pub fn from(&self, id: SlotId) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.range(id..).map(|(id, slot)| (*id, slot))
    }

    pub fn named(&self, name: &str) -> Option<SlotId> {
        self.by_name.get(name).copied()
    }

    /// The replica that has the name.
    pub fn holder(&self, name: &str) -> Option<&Slot> {
        self.slot(self.named(name)?)
    }

    pub fn of_instance(&self, instance: InstanceId) -> Option<SlotId> {
        self.by_instance.get(&instance).copied()
    }

    pub fn of_replica(&self, replica: ReplicaId) -> Option<SlotId> {
        self.by_replica.get(&replica).copied()
    }

    /// Instances that are believed to answer at this address, in slot order.
    pub fn instances_at(&self, endpoint: &Endpoint) -> Vec<InstanceId> {
        let mut ids = self.by_endpoint.get(endpoint).cloned().unwrap_or_default();
        self.sort(&mut ids);
        ids.into_iter().filter_map(|id| self.slots.get(&id)?.instance()).collect()
    }

    /// The next deadline of any slot.
    pub fn due(&self) -> Tick {
        self.deadlines.due()
    }

    /// Slots with a deadline at `now` or before, in slot order.
    pub fn due_at(&self, now: Tick) -> Vec<SlotId> {
        let mut ids: Vec<SlotId> = self.deadlines.due_at(now).collect();
        self.sort(&mut ids);
        ids
    }

    /// Members first, then those of an `/add` under way.
    fn sort(&self, ids: &mut [SlotId]) {
        if ids.len() > 1 {
            ids.sort_unstable_by_key(|id| (self.slots.get(id).map(|slot| slot.standing), *id));
        }
    }
}

#[cfg(debug_assertions)]
impl Slots {
    /// The indices say what the slots say.
    pub fn check(&self) {
        let filled = self.slots.values().filter(|slot| slot.instance().is_some()).count();
        let named = self.slots.values().filter(|slot| slot.has_name()).count();
        assert_eq!((self.by_name.len(), self.by_instance.len()), (named, filled), "names and instances");
        for (id, slot) in &self.slots {
            let keys = Keys::of(slot);
            assert_eq!(self.by_name.get(&slot.name) == Some(id), slot.has_name(), "{}: by name", slot.name);
            assert!(
                keys.instance.is_none_or(|instance| self.by_instance[&instance] == *id),
                "{}: by instance",
                slot.name
            );
            assert!(
                keys.endpoint.is_none_or(|endpoint| self.by_endpoint[&endpoint].contains(id)),
                "{}: by address",
                slot.name
            );
            assert!(keys.due == Tick::NEVER || self.deadlines.contains(*id, keys.due), "{}: by deadline", slot.name);
        }
    }
}
