//! Draining: of replicas that left the ring, and of the whole balancer when it stops.

use log::Level;

use super::Registry;
use super::answer::Rejection;
use super::command::{Effect, since};
use super::leaving::{Drained, Leaving, NameUse};
use super::slot::{Slot, SlotState};
use crate::control::runtime::{InstanceId, Origin};
use crate::core::snapshot::{Lifecycle, ServiceId};
use crate::core::tick::Tick;

/// What an instance gets to end by itself once its requests are done; then it is ended by force.
pub const STOP_GRACE_MS: u64 = 2_000;

impl Registry {
    /// A slot left the ring: its instance drains if it took requests, and is stopped at once if not.
    pub(super) fn begin_drain(&mut self, slot: Slot, name_use: NameUse, now: Tick) {
        let Some(instance) = slot.instance() else { return };
        let shared_until = self.shared_until(&slot);
        if !matches!(slot.state, SlotState::Up { .. } | SlotState::Draining { .. }) && shared_until <= now {
            self.leaving.insert(Leaving::stopping(&slot, instance, name_use));
            return self.emit(Effect::Stop { instance, grace_ms: STOP_GRACE_MS });
        }
        let limit_ms = self.services.get(&slot.service).map_or(0, |service| service.config.limits.drain_timeout_ms);
        let (epoch, deadline) = (self.publication.next_epoch(), now.after_ms(limit_ms));
        let mut leaving = Leaving::draining(&slot, instance, epoch, now, deadline).shared_until(shared_until);
        leaving.name_use = name_use;
        self.leaving.insert(leaving);
    }

    pub(super) fn end_drains(&mut self, now: Tick) {
        for Drained { service, name, instance, since: begun, requests_in_flight } in self.leaving.end_drains(now) {
            self.mark_replicas_changed(service);
            let (level, open) = match requests_in_flight {
                0 => (Level::Info, String::new()),
                n => (Level::Warn, format!(", {n} requests still open")),
            };
            let then = match instance.origin() {
                Origin::Managed => "it is stopped",
                Origin::Foreign => "it runs on",
            };
            self.log(level, format!("{name}: drained in {}{open}; {then}", since(now, begun)));
            self.emit(Effect::Stop { instance, grace_ms: STOP_GRACE_MS });
        }
    }

    fn mark_replicas_changed(&mut self, service: ServiceId) {
        if let Some(service) = self.services.get_mut(&service) {
            service.mark_replicas_changed();
        }
    }

    /// True when it was one of those leaving: it is gone.
    pub(super) fn forget_leaving(&mut self, instance: InstanceId) -> bool {
        let Some(leaving) = self.leaving.remove(instance) else { return false };
        self.forget(&leaving);
        self.finish_if_ended();
        true
    }

    fn forget(&mut self, leaving: &Leaving) {
        if leaving.replica().is_some() {
            self.mark_replicas_changed(leaving.service);
        }
        if leaving.name_use == NameUse::Held
            && let Some(id) = self.slots.named(&leaving.name)
        {
            self.change(id, |slot| slot.name_held = false);
        }
        self.deferred.iter_mut().for_each(|reply| reply.stopped(leaving.instance));
    }

    /// No more starts, heals or calls; the workers finish the requests they have.
    pub(super) fn stop(&mut self, now: Tick) {
        if self.is_stopping() {
            return;
        }
        self.lifecycle = Lifecycle::Stopping;
        self.log(Level::Info, format!("stopping: requests under way finish; {}", self.tally()));
        self.undo_addition(Rejection::unavailable("the balancer is stopping".into()), now);
        self.end_successions("the balancer is stopping");
        self.take_calls(now);
    }

    /// The workers are gone: every managed instance ends, unless those of its service outlive the balancer. Those at which
    /// the process before this one may have requests end after that.
    pub(super) fn workers_ended(&mut self, now: Tick) {
        self.lifecycle = Lifecycle::Stopping;
        self.ending = true;
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        services.into_iter().for_each(|service| self.give_up_members(service, now));
        for (service, instance) in self.leaving.workers_ended(now) {
            self.mark_replicas_changed(service);
            self.emit(Effect::Stop { instance, grace_ms: STOP_GRACE_MS });
        }
        if self.predecessor_until > now {
            self.log(Level::Info, "the process before this one still has requests: this one ends after it".into());
        }
        self.finish_if_ended();
    }

    fn give_up_members(&mut self, id: ServiceId, now: Tick) {
        let Some(service) = self.services.get_mut(&id) else { return };
        let keeps = service.config.keeps_on_exit;
        let members = service.members().to_vec();
        if keeps {
            let kept = self.leaving.iter().filter(|leaving| leaving.service == id);
            let kept: Vec<InstanceId> = kept.map(|leaving| leaving.instance).collect();
            let kept: Vec<Leaving> = kept.into_iter().filter_map(|instance| self.leaving.remove(instance)).collect();
            kept.iter().for_each(|leaving| self.forget(leaving));
        }
        for slot in members.into_iter().filter_map(|id| self.remove(id)).collect::<Vec<_>>() {
            if let Some(instance) = slot.instance().filter(|_| !keeps) {
                let leaving = Leaving::without_workers(&slot, instance, now).shared_until(self.shared_until(&slot));
                self.leaving.insert(leaving);
            }
        }
    }

    /// A process ends after the one that it replaced.
    pub(super) fn finish_if_ended(&mut self) {
        if self.ending && self.leaving.is_empty() && self.predecessor_until <= self.now {
            self.emit(Effect::Finished);
        }
    }
}
