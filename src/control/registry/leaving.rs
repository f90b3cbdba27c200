//! Instances without a slot: they finish their requests, then they are stopped. Their table, with its indices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::deadlines::Deadlines;
use super::slot::Slot;
use crate::control::runtime::InstanceId;
use crate::core::snapshot::{Replica, ReplicaLoad, ServiceId, State};
use crate::core::tick::Tick;

/// Between two looks at the requests in flight of a replica that drains.
const DRAIN_LOOK_MS: u64 = 10;

/// Rises with every instance that leaves: snapshots and effects follow it.
pub type LeavingId = u64;

#[derive(Debug)]
pub struct Leaving {
    pub service: ServiceId,
    pub name: Arc<str>,
    pub instance: InstanceId,
    /// Whether its name may be used before it is gone.
    pub name_use: NameUse,
    pub since: Tick,
    /// Until then, or until that has ended, the process before this one may have requests at it.
    shared_until: Tick,
    stage: LeavingState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameUse {
    /// No other instance starts under its name before it is gone.
    Held,
    /// A replacement fills its slot meanwhile.
    Replaced,
}

#[derive(Debug)]
enum LeavingState {
    /// Some worker may still choose it.
    AwaitingAck { replica: Replica, epoch: u64, deadline: Tick },
    /// No worker chooses it any more: it finishes its requests.
    Draining { replica: Replica, look_at: Tick, deadline: Tick },
    /// The runtime was asked to stop it.
    Stopping,
}

impl Leaving {
    /// Left the ring, and may have requests.
    pub fn draining(slot: &Slot, instance: InstanceId, epoch: u64, now: Tick, deadline: Tick) -> Leaving {
        let stage = LeavingState::AwaitingAck { replica: draining(slot), epoch, deadline };
        Leaving { since: now, stage, ..Leaving::stopping(slot, instance, NameUse::Held) }
    }

    /// No worker is left that may choose it.
    pub fn without_workers(slot: &Slot, instance: InstanceId, now: Tick) -> Leaving {
        let stage = LeavingState::Draining { replica: draining(slot), look_at: now, deadline: now };
        Leaving { since: now, stage, ..Leaving::stopping(slot, instance, NameUse::Held) }
    }

    /// Stopped at once: it takes no requests.
    pub fn stopping(slot: &Slot, instance: InstanceId, name_use: NameUse) -> Leaving {
        let (service, name) = (slot.service, slot.name.clone());
        let (since, shared_until) = (Tick::ZERO, Tick::ZERO);
        Leaving { service, name, instance, name_use, since, shared_until, stage: LeavingState::Stopping }
    }

    /// The process before this one may have requests at it until then.
    pub fn shared_until(self, until: Tick) -> Leaving {
        Leaving { shared_until: until, ..self }
    }

    fn due(&self) -> Tick {
        match self.stage {
            LeavingState::AwaitingAck { deadline, .. } => deadline.max(self.shared_until),
            LeavingState::Draining { look_at, deadline, .. } => look_at.min(deadline).max(self.shared_until),
            LeavingState::Stopping => Tick::NEVER,
        }
    }

    fn awaited_epoch(&self) -> Option<u64> {
        match self.stage {
            LeavingState::AwaitingAck { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// What a snapshot shows beside the ring's members.
    pub fn replica(&self) -> Option<&Replica> {
        match &self.stage {
            LeavingState::AwaitingAck { replica, .. } | LeavingState::Draining { replica, .. } => Some(replica),
            LeavingState::Stopping => None,
        }
    }

    pub fn requests_in_flight(&self) -> u64 {
        self.replica().map_or(0, |replica| ReplicaLoad::in_flight(&replica.load))
    }

    fn acked(&mut self, now: Tick) {
        if let LeavingState::AwaitingAck { replica, deadline, .. } = &self.stage {
            self.stage = LeavingState::Draining { replica: replica.clone(), look_at: now, deadline: *deadline };
        }
    }

    /// Looks at the requests in flight when that is due. True when the drain is over.
    fn is_drained(&mut self, now: Tick) -> bool {
        let in_flight = self.requests_in_flight();
        let is_shared = self.shared_until > now;
        match &mut self.stage {
            LeavingState::AwaitingAck { deadline, .. } => *deadline <= now && !is_shared,
            LeavingState::Draining { look_at, deadline, .. } => {
                *look_at = now.after_ms(DRAIN_LOOK_MS);
                (in_flight == 0 || *deadline <= now) && !is_shared
            }
            LeavingState::Stopping => false,
        }
    }

    /// Its drain is over: it is to be stopped.
    fn end_drain(&mut self, now: Tick) -> Option<Drained> {
        if !self.is_drained(now) {
            return None;
        }
        let requests_in_flight = self.requests_in_flight();
        let (service, name) = (self.stop(), self.name.clone());
        Some(Drained { service, name, instance: self.instance, since: self.since, requests_in_flight })
    }

    /// The workers have ended. True if it is to be stopped now.
    fn workers_ended(&mut self, now: Tick) -> bool {
        match &self.stage {
            LeavingState::AwaitingAck { replica, .. } | LeavingState::Draining { replica, .. }
                if self.shared_until > now =>
            {
                self.stage = LeavingState::Draining { replica: replica.clone(), look_at: now, deadline: now };
                false
            }
            _ => {
                self.stage = LeavingState::Stopping;
                true
            }
        }
    }

    fn stop(&mut self) -> ServiceId {
        self.stage = LeavingState::Stopping;
        self.service
    }
}

#[derive(Debug)]
pub struct LeavingTable {
    entries: BTreeMap<LeavingId, Leaving>,
    next: LeavingId,
    by_instance: BTreeMap<InstanceId, LeavingId>,
    held_names: BTreeSet<Arc<str>>,
    awaiting_ack: BTreeSet<(u64, LeavingId)>,
    deadlines: Deadlines<LeavingId>,
}

/// An instance whose drain is over.
pub struct Drained {
    pub service: ServiceId,
    pub name: Arc<str>,
    pub instance: InstanceId,
    pub since: Tick,
    /// More than 0 where the drain timeout ended it.
    pub requests_in_flight: u64,
}

impl LeavingTable {
    pub fn new() -> LeavingTable {
        LeavingTable {
            entries: BTreeMap::new(),
            next: 0,
            by_instance: BTreeMap::new(),
            held_names: BTreeSet::new(),
            awaiting_ack: BTreeSet::new(),
            deadlines: Deadlines::new(),
        }
    }

    pub fn insert(&mut self, leaving: Leaving) {
        let id = self.next;
        self.next += 1;
        self.deadlines.reschedule(id, Tick::NEVER, leaving.due());
        self.awaiting_ack.extend(leaving.awaited_epoch().map(|epoch| (epoch, id)));
        self.by_instance.insert(leaving.instance, id);
        if leaving.name_use == NameUse::Held {
            self.held_names.insert(leaving.name.clone());
        }
        self.entries.insert(id, leaving);
    }

    /// It is gone.
    pub fn remove(&mut self, instance: InstanceId) -> Option<Leaving> {
        let id = self.by_instance.remove(&instance)?;
        let leaving = self.entries.remove(&id)?;
        self.deadlines.reschedule(id, leaving.due(), Tick::NEVER);
        leaving.awaited_epoch().map(|epoch| self.awaiting_ack.remove(&(epoch, id)));
        if leaving.name_use == NameUse::Held {
            self.held_names.remove(&leaving.name);
        }
        Some(leaving)
    }

    fn change<R>(&mut self, id: LeavingId, change: impl FnOnce(&mut Leaving) -> R) -> Option<R> {
        let leaving = self.entries.get_mut(&id)?;
        let (due, epoch) = (leaving.due(), leaving.awaited_epoch());
        let result = change(leaving);
        self.deadlines.reschedule(id, due, leaving.due());
        if leaving.awaited_epoch().is_none() {
            epoch.map(|epoch| self.awaiting_ack.remove(&(epoch, id)));
        }
        Some(result)
    }

    /// Every worker acts on this epoch or a newer one.
    pub fn acked(&mut self, epoch: u64, now: Tick) {
        let acked: Vec<LeavingId> = self.awaiting_ack.range(..=(epoch, LeavingId::MAX)).map(|(_, id)| *id).collect();
        for id in acked {
            self.change(id, |leaving| leaving.acked(now));
        }
    }

    /// Those whose requests are over, or whose drain timeout came, in the order in which they left. They are to be
    /// stopped.
    pub fn end_drains(&mut self, now: Tick) -> Vec<Drained> {
        let mut due: Vec<LeavingId> = self.deadlines.due_at(now).collect();
        due.sort_unstable();
        due.into_iter().filter_map(|id| self.change(id, |leaving| leaving.end_drain(now))?).collect()
    }

    /// Those that are to be stopped now that the workers have ended, with their services.
    pub fn workers_ended(&mut self, now: Tick) -> Vec<(ServiceId, InstanceId)> {
        let all: Vec<LeavingId> = self.entries.keys().copied().collect();
        let mut stop =
            |id| self.change(id, |leaving| leaving.workers_ended(now).then_some((leaving.service, leaving.instance)));
        all.into_iter().filter_map(|id| stop(id)?).collect()
    }

    /// The process before this one has ended.
    pub fn end_sharing(&mut self) {
        let all: Vec<LeavingId> = self.entries.keys().copied().collect();
        for id in all {
            self.change(id, |leaving| leaving.shared_until = Tick::ZERO);
        }
    }

    pub fn due(&self) -> Tick {
        self.deadlines.due()
    }

    pub fn awaits_acks(&self) -> bool {
        !self.awaiting_ack.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn holds_name(&self, name: &str) -> bool {
        self.held_names.contains(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Leaving> {
        self.entries.values()
    }
}

/// What a snapshot shows of it from now on.
fn draining(slot: &Slot) -> Replica {
    Replica { state: State::Draining, ..slot.replica() }
}
