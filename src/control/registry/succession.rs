//! Instances that run well and are outdated: each is replaced, one at a time, and leaves when its successor answers.
//!
//! The successor fills a slot of its own, which is no member, until it answers; then it fills the member's slot, in one
//! step, and the instance before it drains. A successor that fails ends the whole: the others stay as they are.

use std::collections::VecDeque;

use log::Level;

use super::Registry;
use super::answer::Rejection;
use super::command::{Effect, since};
use super::leaving::{Leaving, NameUse};
use super::slot::Slot;
use super::slots::SlotId;
use crate::control::runtime::InstanceId;
use crate::core::tick::Tick;

#[derive(Debug, Default)]
pub struct Successions {
    outdated: VecDeque<(InstanceId, String)>,
    /// The one under way.
    current: Option<Succession>,
}

#[derive(Debug)]
struct Succession {
    member: SlotId,
    successor: SlotId,
    since: Tick,
}

impl Successions {
    pub fn is_under_way(&self) -> bool {
        self.current.is_some()
    }
}

impl Registry {
    /// An instance runs with settings that hold no longer.
    pub(super) fn outdated(&mut self, instance: InstanceId, why: String) {
        self.successions.outdated.push_back((instance, why));
    }

    /// The next outdated instance that is up gets a successor. One that is not up is replaced anyway.
    pub(super) fn begin_succession(&mut self, now: Tick) {
        if self.successions.current.is_some() || self.is_stopping() || self.held.is_some() {
            return;
        }
        let slots = &self.slots;
        self.successions.outdated.retain(|(instance, _)| slots.of_instance(*instance).is_some());
        let up = |(instance, _): &(InstanceId, String)| {
            slots.of_instance(*instance).and_then(|id| slots.slot(id)).is_some_and(Slot::is_up)
        };
        let Some(at) = self.successions.outdated.iter().position(up) else { return };
        let Some((instance, why)) = self.successions.outdated.remove(at) else { return };
        let Some(member) = self.slots.of_instance(instance) else { return };
        let Some(slot) = self.slots.slot(member) else { return };
        let line = format!("{}: {} {why}: it is replaced", slot.name, slot.handle);
        let successor = slot.successor(self.workers, now);
        let successor = self.insert(successor);
        self.successions.current = Some(Succession { member, successor, since: now });
        self.log(Level::Info, line);
        self.start_due(&[successor], now);
    }

    /// A replica that was to become a member answers.
    pub(super) fn joining_is_up(&mut self, id: SlotId, now: Tick) {
        let Some(current) = self.successions.current.take_if(|current| current.successor == id) else {
            return self.finish_addition_if_up(now);
        };
        let Some(successor) = self.remove(id) else { return };
        let (name, handle, begun) = (successor.name.clone(), successor.handle.clone(), current.since);
        let Some(before) = self.change(current.member, |slot| std::mem::replace(slot, successor.joined())) else {
            return;
        };
        let line = format!(
            "{name}: {handle} replaced {} in {}; {}",
            before.handle,
            since(now, begun),
            self.tally_of(current.member)
        );
        self.log(Level::Info, line);
        self.begin_drain(before, NameUse::Replaced, now);
    }

    /// A replica that was to become a member failed.
    pub(super) fn joining_failed(&mut self, id: SlotId, rejection: Rejection, now: Tick) {
        match &self.successions.current {
            Some(current) if current.successor == id => self.end_successions(&rejection.message),
            _ => self.undo_addition(rejection, now),
        }
    }

    /// The one under way is undone, and no other begins.
    pub(super) fn end_successions(&mut self, why: &str) {
        self.successions.outdated.clear();
        let Some(current) = self.successions.current.take() else { return };
        let Some(slot) = self.remove(current.successor) else { return };
        let line = format!("{}: not replaced: {why}; replicas with earlier settings stay", slot.name);
        self.log(Level::Error, line);
        if let Some(instance) = slot.instance() {
            self.emit(Effect::Stop { instance, grace_ms: 0 });
            self.leaving.insert(Leaving::stopping(&slot, instance, NameUse::Held));
        }
    }

    /// Members left the ring: a successor of one of them is not wanted any more.
    pub(super) fn end_orphaned_succession(&mut self) {
        let member = self.successions.current.as_ref().map(|current| current.member);
        if member.is_some_and(|member| self.slots.slot(member).is_none()) {
            let outdated = std::mem::take(&mut self.successions.outdated);
            self.end_successions("it was removed");
            self.successions.outdated = outdated;
        }
    }
}
