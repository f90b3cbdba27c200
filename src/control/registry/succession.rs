//! Instances that run well with other settings than their service's of now: each is replaced, one at a time, and leaves when
//! its successor answers.
//!
//! The successor fills a slot of its own, which is no member, until it answers; then it fills the member's slot, in one
//! step, and the instance before it drains. Where two successors in a row do not come up, those that were replaced are
//! replaced again, with the settings before. The newest configuration ends what an earlier one began.

use std::collections::BTreeMap;

use log::Level;

use super::Registry;
use super::answer::Rejection;
use super::calls::join;
use super::command::{Effect, readable, since};
use super::leaving::{Leaving, NameUse};
use super::rollout::{AfterFailure, Rollout};
use super::slot::{Slot, Vacated};
use super::slots::SlotId;
use crate::control::runtime::Origin;
use crate::control::runtime::revisions::Revision;
use crate::core::snapshot::ServiceId;
use crate::core::tick::Tick;

#[derive(Debug, Default)]
pub struct Successions {
    rollouts: BTreeMap<ServiceId, Rollout>,
    /// The one under way.
    current: Option<Succession>,
}

#[derive(Debug)]
struct Succession {
    service: ServiceId,
    member: SlotId,
    successor: SlotId,
    since: Tick,
}

/// What a rolling replacement does next.
enum NextReplacement {
    Replace(SlotId),
    /// Some instance is not up yet, or is none of the ring's yet.
    Wait,
    Finish,
}

impl Successions {
    pub fn is_under_way(&self) -> bool {
        self.current.is_some()
    }

    /// The rolling replacement of this service goes on then.
    pub fn wait(&mut self, service: ServiceId, until: Tick) {
        if let Some(rollout) = self.rollouts.get_mut(&service) {
            rollout.wait(until);
        }
    }

    /// What waits until then goes on now.
    pub fn go_on(&mut self, until: Tick, now: Tick) {
        self.rollouts.values_mut().filter(|rollout| rollout.due() == until).for_each(|rollout| rollout.go_on(now));
    }

    /// A successor of this member's instance starts.
    pub fn is_replaced(&self, member: SlotId) -> bool {
        self.current.as_ref().is_some_and(|current| current.member == member)
    }
}

impl Registry {
    /// The service is there, and its instances are started with other settings than these.
    pub fn rolls_out(&self, id: ServiceId, to: Option<Revision>) -> bool {
        self.services.get(&id).is_some_and(|service| Some(service.revision) != to)
    }

    /// The instances of a service are to run with these settings.
    pub(super) fn roll_out(&mut self, id: ServiceId, to: Revision, now: Tick) {
        let Some(service) = self.services.get_mut(&id) else { return };
        service.refused = None;
        let before = std::mem::replace(&mut service.revision, to);
        if before == to {
            return;
        }
        let from = self.successions.rollouts.remove(&id).map_or(Some(before), |earlier| earlier.from);
        self.undo_succession_of(id, "there is a newer configuration");
        self.begin_rollout(id, from, now);
    }

    /// Instances that an earlier process started otherwise.
    pub(super) fn roll_out_found(&mut self, now: Tick) {
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        for id in services {
            if !self.is_rolling(id) && !matches!(self.next_of(id), NextReplacement::Finish) {
                self.begin_rollout(id, None, now);
            }
        }
    }

    fn begin_rollout(&mut self, id: ServiceId, from: Option<Revision>, now: Tick) {
        self.successions.rollouts.insert(id, Rollout::new(from, now));
        let n = self.outdated(id).len();
        let Some(service) = self.services.get(&id).filter(|_| n > 0) else { return };
        let name = &service.config.name;
        let line =
            format!("service {name}: rolling replacement begins: {n} replicas get other settings, one at a time");
        self.log(Level::Info, line);
    }

    /// When a rolling replacement goes on after a failure.
    pub(super) fn rollouts_due(&self) -> Tick {
        if self.may_not_begin() {
            return Tick::NEVER;
        }
        self.successions.rollouts.values().map(Rollout::due).min().unwrap_or(Tick::NEVER)
    }

    fn may_not_begin(&self) -> bool {
        self.successions.current.is_some() || self.is_stopping() || self.held.is_some() || self.stands_by()
    }

    /// The next outdated instance that is up gets a successor. One that is not up is replaced anyway.
    pub(super) fn begin_succession(&mut self, now: Tick) {
        if self.successions.rollouts.is_empty() || self.may_not_begin() {
            return;
        }
        let rollouts = self.successions.rollouts.iter_mut();
        let ready: Vec<ServiceId> = rollouts.filter_map(|(id, own)| own.may_begin(now).then_some(*id)).collect();
        for id in ready {
            match self.next_of(id) {
                NextReplacement::Replace(member) => return self.start_successor(id, member, now),
                NextReplacement::Finish => self.finish_rollout(id, now),
                NextReplacement::Wait => {}
            }
        }
    }

    /// Looks at all slots: only for a service that is rolled out.
    fn next_of(&self, id: ServiceId) -> NextReplacement {
        let outdated = self.outdated(id);
        if self.has_replaced_that_is_not_up(id) {
            return NextReplacement::Wait;
        }
        if outdated.is_empty() {
            return NextReplacement::Finish;
        }
        let replaceable = outdated.iter().filter(|(_, slot)| slot.is_member() && slot.is_up());
        let replaceable: Vec<SlotId> = replaceable.map(|(id, _)| *id).collect();
        let rollout = self.successions.rollouts.get(&id);
        rollout.and_then(|rollout| rollout.choose(&replaceable)).map_or(NextReplacement::Wait, NextReplacement::Replace)
    }

    /// No other member leaves while one that has the settings of now is not up.
    fn has_replaced_that_is_not_up(&self, id: ServiceId) -> bool {
        let Some(service) = self.services.get(&id) else { return false };
        let mut members = service.members().iter().filter_map(|member| self.slots.slot(*member));
        members.any(|slot| slot.origin == Origin::Managed && !slot.is_up() && !slot.is_outdated(service.revision))
    }

    /// A member could not start, or ended. Where it had the settings of a rolling replacement and has not proven them, that
    /// is a failure of theirs.
    pub(super) fn count_in_rollout(&mut self, id: SlotId, vacated: Vacated, rejection: &Rejection, now: Tick) {
        let Some(service) = self.slots.slot(id).map(|slot| slot.service) else { return };
        let Some(to) = self.services.get(&service).map(|service| service.revision) else { return };
        let Some(rollout) = self.successions.rollouts.get_mut(&service) else { return };
        if vacated.has_proven || vacated.revision != to {
            return;
        }
        if rollout.failed(id, to, rejection, now) == AfterFailure::Stop {
            self.undo_succession_of(service, "the rolling replacement stops");
            self.stop_rollout(service, to, &rejection.message, now);
        }
    }

    pub(super) fn is_rolling(&self, id: ServiceId) -> bool {
        self.successions.rollouts.contains_key(&id)
    }

    /// Slots whose instances have other settings than their service's of now.
    pub(super) fn outdated(&self, id: ServiceId) -> Vec<(SlotId, &Slot)> {
        let Some(service) = self.services.get(&id) else { return Vec::new() };
        let own = self.slots.from(SlotId::default()).filter(|(_, slot)| slot.service == id);
        own.filter(|(_, slot)| slot.is_outdated(service.revision)).collect()
    }

    fn start_successor(&mut self, service: ServiceId, member: SlotId, now: Tick) {
        let Some(slot) = self.slots.slot(member) else { return };
        let line = format!("{}: {} has other settings than it would get now: it is replaced", slot.name, slot.handle);
        let successor = slot.successor(now);
        let successor = self.insert(successor);
        self.successions.current = Some(Succession { service, member, successor, since: now });
        self.log(Level::Info, line);
        self.start_due(&[successor], now);
    }

    fn finish_rollout(&mut self, id: ServiceId, now: Tick) {
        let (Some(rollout), Some(service)) = (self.successions.rollouts.remove(&id), self.services.get(&id)) else {
            return;
        };
        let (name, revision) = (&service.config.name, service.revision);
        let n = rollout.replaced.len();
        let line = format!(
            "service {name}: rolling replacement done: {n} replicas replaced in {}; {}",
            since(now, rollout.since),
            service.tally()
        );
        if n > 0 {
            self.log(Level::Info, line);
        }
        self.emit(Effect::Settle { service: id, revision });
    }

    /// A replica that was to become a member answers.
    pub(super) fn joining_is_up(&mut self, id: SlotId, now: Tick) {
        let Some(current) = self.successions.current.take_if(|current| current.successor == id) else {
            return self.finish_addition_if_up(now);
        };
        let Some(successor) = self.remove(id) else { return };
        let (name, handle, begun) = (successor.name.clone(), successor.handle.clone(), current.since);
        let before = self.change(current.member, |slot| {
            let mut joined = successor.joined();
            joined.decision = slot.decision.clone();
            joined.failures += slot.failures;
            std::mem::replace(slot, joined)
        });
        let Some(before) = before else { return };
        self.begin_slow_start(current.member, now);
        let replaced = self.successions.rollouts.get_mut(&current.service).map_or(0, |rollout| {
            rollout.succeeded(name.clone());
            rollout.replaced.len()
        });
        let (tally, to_go) = (self.tally_of(current.member), self.outdated(current.service).len());
        let line = format!(
            "{name}: {handle} replaced {} in {}; {replaced} replaced, {to_go} to go; {tally}",
            before.handle,
            since(now, begun),
        );
        self.log(Level::Info, line);
        self.begin_drain(before, NameUse::Replaced, now);
    }

    /// A replica that was to become a member failed.
    pub(super) fn joining_failed(&mut self, id: SlotId, rejection: Rejection, now: Tick) {
        match self.successions.current.take_if(|current| current.successor == id) {
            Some(current) => self.succession_failed(&current, &rejection, now),
            None => self.undo_addition(rejection, now),
        }
    }

    fn succession_failed(&mut self, current: &Succession, rejection: &Rejection, now: Tick) {
        self.stop_successor(current);
        let (id, why) = (current.service, &rejection.message);
        let Some(to) = self.services.get(&id).map(|service| service.revision) else { return };
        let Some(rollout) = self.successions.rollouts.get_mut(&id) else { return };
        match rollout.failed(current.member, to, rejection, now) {
            AfterFailure::Retry { pause_ms } => {
                let name = self.name_of(current.member);
                let pause = readable(pause_ms);
                self.log(Level::Error, format!("{name}: not replaced: {why}; the next attempt is in {pause}"));
            }
            AfterFailure::Stop => self.stop_rollout(id, to, why, now),
        }
    }

    /// The new settings do not work: those that got them go back.
    fn stop_rollout(&mut self, id: ServiceId, to: Revision, why: &str, now: Tick) {
        let (Some(rollout), Some(service)) = (self.successions.rollouts.remove(&id), self.services.get_mut(&id)) else {
            return;
        };
        service.refused = Some(why.into());
        let replaced = if rollout.replaced.is_empty() { "none".into() } else { join(&rollout.replaced) };
        let stopped = format!(
            "service {}: rolling replacement stopped, two in a row did not come up: {why}",
            service.config.name
        );
        let Some(from) = rollout.from else {
            self.emit(Effect::Settle { service: id, revision: to });
            let line = format!("{stopped}; replicas with earlier settings stay; replaced were: {replaced}");
            return self.log(Level::Error, line);
        };
        service.revision = from;
        self.successions.rollouts.insert(id, Rollout::new(Some(from), now));
        self.log(Level::Error, format!("{stopped}; all go back to the settings before; replaced were: {replaced}"));
    }

    /// No successor is wanted any more.
    pub(super) fn end_successions(&mut self, why: &str) {
        self.successions.rollouts.clear();
        self.undo_succession(why);
    }

    fn undo_succession_of(&mut self, service: ServiceId, why: &str) {
        if self.successions.current.as_ref().is_some_and(|current| current.service == service) {
            self.undo_succession(why);
        }
    }

    fn undo_succession(&mut self, why: &str) {
        let Some(current) = self.successions.current.take() else { return };
        let name = self.name_of(current.successor);
        self.log(Level::Info, format!("{name}: not replaced: {why}"));
        self.stop_successor(&current);
    }

    fn stop_successor(&mut self, current: &Succession) {
        let Some(slot) = self.remove(current.successor) else { return };
        if let Some(instance) = slot.instance() {
            self.emit(Effect::Stop { instance, grace_ms: 0 });
            self.leaving.insert(Leaving::stopping(&slot, instance, NameUse::Replaced));
        }
    }

    /// Members left the ring: a successor of one of them is not wanted any more.
    pub(super) fn end_orphaned_succession(&mut self) {
        let member = self.successions.current.as_ref().map(|current| current.member);
        if member.is_some_and(|member| self.slots.slot(member).is_none()) {
            self.undo_succession("it was removed");
        }
    }
}
