//! What probes and workers' reports mean: which replicas take requests, which are ejected, and which are replaced because
//! nothing comes from them any more. One instance is judged in `health`; starts and deaths are not here.

use log::Level;

use super::Registry;
use super::command::{Effect, readable, since};
use super::error_rate::{self, Outlier};
use super::health::{Exclusion, Health, HealthPolicy, Improvement, ProbeFailure, Verdict};
use super::instances::address;
use super::leaving::Leaving;
use super::service::ServiceState;
use super::slot::{Slot, SlotState};
use super::slots::SlotId;
use crate::control::runtime::{InstanceId, Origin};
use crate::core::snapshot::{ServiceId, State};
use crate::core::tick::Tick;
use crate::shared::events::WorkerEvent;

/// Skipped probes are logged so often at most.
const SKIPPED_LOG_PAUSE_MS: u64 = 1_000;

/// Why new requests go to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EjectionReason {
    /// Until it answers a heartbeat.
    Slow,
    /// For some time.
    Failing,
}

impl Registry {
    pub(super) fn expire_starts(&mut self, due: &[SlotId], now: Tick) {
        for id in due {
            let Some(slot) = self.slots.slot(*id).filter(|slot| slot.is_start_overdue(now)) else { continue };
            let (Some(instance), Some(policy)) = (slot.instance(), self.health_policy(*id)) else { continue };
            let last = slot.last_failure.as_ref().map_or_else(String::new, |why| format!(", the last failure: {why}"));
            let why = format!("no heartbeat answered within {}{last}", readable(policy.start_timeout_ms));
            self.mark_down(instance, &why, now);
        }
    }

    pub(super) fn probe_due(&mut self, due: &[SlotId], now: Tick) {
        for id in due {
            let Some(mut policy) = self.health_policy(*id) else { continue };
            policy.interval_ms = self.jittered(&policy);
            let probe = self.change(*id, |slot| probe(slot, &policy, now)).flatten();
            self.effects.extend(probe);
        }
    }

    /// The time from a probe to the next one.
    fn jittered(&mut self, policy: &HealthPolicy) -> u64 {
        let HealthPolicy { interval_ms, jitter_percent, .. } = *policy;
        let most = interval_ms * u64::from(jitter_percent) / 100;
        // Nothing is drawn where there is no choice.
        if most == 0 { interval_ms } else { interval_ms - most + self.random.u64(0..=2 * most) }
    }

    pub(super) fn health_policy(&self, id: SlotId) -> Option<HealthPolicy> {
        Some(self.service_of(id)?.config.health)
    }

    pub(super) fn probe_ok(&mut self, instance: InstanceId, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        let Some(policy) = self.health_policy(id) else { return };
        self.eject_failing(id, now);
        self.eject_outliers(id, now);
        match self.change(id, |slot| slot.probe_ok(&policy, now)) {
            Some(Improvement::Risen) => self.mark_up(id, &policy, now),
            Some(Improvement::Readmitted) => {
                let is_drained = self.slots.slot(id).is_some_and(Slot::is_drained);
                let then = match self.begin_slow_start(id, now) {
                    _ if is_drained => "it stays drained by an operator".to_owned(),
                    slowly => format!("it takes requests{slowly}"),
                };
                let line = format!("{}: answers again; {then}", self.name_of(id));
                self.log(Level::Info, line);
            }
            Some(Improvement::None) | None => {}
        }
    }

    /// A first answer: it takes requests from now on.
    pub(super) fn mark_up(&mut self, id: SlotId, policy: &HealthPolicy, now: Tick) {
        let next_probe = now.after_ms(policy.interval_ms);
        let risen = self.change(id, |slot| {
            let (SlotState::Probing { instance, since: begun, .. } | SlotState::Down { instance, since: begun, .. }) =
                slot.state
            else {
                return None;
            };
            slot.state = SlotState::Up { instance, since: now, health: Health::watched_from(now, next_probe) };
            // What the instance before failed is not its fault.
            slot.take_errors(policy.ejection.counts_5xx);
            let title = format!("{}: {} at {}", slot.name, slot.handle, address(slot));
            Some((title, slot.lost_at.take(), begun))
        });
        let Some((title, lost_at, begun)) = risen.flatten() else { return };
        if self.slots.slot(id).is_some_and(|slot| !slot.is_member()) {
            return self.joining_is_up(id, now);
        }
        // The replicas of a service that starts are all at their whole weight.
        let slowly = if lost_at.is_some() { self.begin_slow_start(id, now) } else { String::new() };
        let Some(service) = self.service_of_mut(id) else { return };
        let tally = service.tally();
        let line = match lost_at {
            Some(lost_at) => {
                service.heals.record(now.ms_since(lost_at).saturating_mul(1_000));
                format!("{title} healed it in {}{slowly}; {tally}", since(now, lost_at))
            }
            None => format!("{title} is up after {}; {tally}", since(now, begun)),
        };
        self.log(Level::Info, line);
    }

    pub(super) fn probe_failed(&mut self, instance: InstanceId, failure: &ProbeFailure, now: Tick) {
        let Some(id) = self.slots.of_instance(instance) else { return };
        let Some(policy) = self.health_policy(id) else { return };
        self.eject_failing(id, now);
        self.eject_outliers(id, now);
        let verdict = self.change(id, |slot| slot.probe_failed(failure, &policy, now)).flatten();
        let (name, why) = (self.name_of(id), &failure.why);
        match verdict {
            None => self.report_not_ready(id, why, now),
            Some(Verdict::Busy) => self.log(Level::Debug, format!("{name}: heartbeat missed, but it sends: {why}")),
            Some(Verdict::Missed(n)) => {
                self.log(Level::Debug, format!("{name}: heartbeat missed, {n} in a row: {why}"))
            }
            Some(Verdict::Excluded(exclusion)) => {
                let then = match exclusion {
                    Exclusion::Unhealthy => "it takes no new requests until it is healthy",
                    Exclusion::Unreachable | Exclusion::Slow | Exclusion::Failing => {
                        "it takes no requests until it answers"
                    }
                };
                self.log(Level::Warn, format!("{name}: {why}; {then}"));
            }
            Some(Verdict::Slow) => self.eject_if_spare(id, EjectionReason::Slow, why, now),
            Some(Verdict::Dead(n)) => self.mark_down(instance, &format!("{n} heartbeats failed, the last: {why}"), now),
            Some(Verdict::Expired(silent_ms)) => self.replace_silent(id, instance, silent_ms, why, now),
        }
    }

    fn report_not_ready(&mut self, id: SlotId, why: &str, now: Tick) {
        if let Some(ms) = self.change(id, |slot| slot.report_not_ready(now)).flatten() {
            let line = format!("{}: not ready after {}: {why}; heartbeats go on", self.name_of(id), readable(ms));
            self.log(Level::Warn, line);
        }
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

    /// It failed too many requests in a row. Where too few others could take its requests, each heartbeat asks again.
    fn eject_failing(&mut self, id: SlotId, now: Tick) {
        let Some(policy) = self.health_policy(id).map(|policy| policy.ejection) else { return };
        let is_failing = |slot: &&Slot| {
            let failures = slot.load.failures.len();
            policy.consecutive_failures > 0 && failures >= policy.consecutive_failures && slot.shown().1 == State::Up
        };
        let Some(slot) = self.slots.slot(id).filter(is_failing) else { return };
        let why = format!("{} requests in a row failed", slot.load.failures.len());
        self.eject_if_spare(id, EjectionReason::Failing, &why, now);
    }

    pub(super) fn end_ejections(&mut self, due: &[SlotId], now: Tick) {
        for id in due {
            // Most are due for a probe alone.
            let is_over = self.slots.slot(*id).is_some_and(|slot| slot.is_ejection_over(now));
            if is_over && self.change(*id, |slot| slot.end_ejection(now)) == Some(true) {
                let slowly = self.begin_slow_start(*id, now);
                let line = format!("{}: its ejection is over; it takes requests{slowly}", self.name_of(*id));
                self.log(Level::Info, line);
            }
        }
    }

    /// It takes a growing part of its weight, where others take the rest. Returns what is to be said of that.
    pub(super) fn begin_slow_start(&mut self, id: SlotId, now: Tick) -> String {
        let takes_ms = self.health_policy(id).map_or(0, |policy| policy.slow_start_ms);
        let others = self.service_of(id).map_or(0, ServiceState::routable).saturating_sub(1);
        let is_routable = self.slots.slot(id).is_some_and(|slot| slot.is_member() && slot.shown().1 == State::Up);
        if takes_ms == 0 || others == 0 || !is_routable {
            return String::new();
        }
        self.change(id, |slot| slot.begin_slow_start(takes_ms, now));
        format!(", its share grows for {}", readable(takes_ms))
    }

    pub(super) fn advance_slow_starts(&mut self, due: &[SlotId], now: Tick) {
        for id in due {
            if self.change(*id, |slot| slot.advance_slow_start(now)) == Some(true) {
                let line = format!("{}: its slow start is over; it takes its whole share", self.name_of(*id));
                self.log(Level::Info, line);
            }
        }
    }

    /// Compares the shares of failed requests of a service's replicas, once in an interval.
    fn eject_outliers(&mut self, of: SlotId, now: Tick) {
        let Some(service) = self.service_of_mut(of) else { return };
        let policy = service.config.health.ejection;
        if policy.error_rate <= 0.0 || now.ms_since(service.errors_compared) < policy.interval_ms {
            return;
        }
        service.errors_compared = now;
        let members = service.members().to_vec();
        let counts = members.into_iter().filter_map(|id| {
            let count = self.change(id, |slot| slot.take_errors(policy.counts_5xx))?;
            let is_up = self.slots.slot(id).is_some_and(|slot| slot.shown().1 == State::Up);
            is_up.then_some((id, count))
        });
        let counts: Vec<_> = counts.collect();
        for Outlier { key: id, count, share, others } in error_rate::outliers(&policy, &counts) {
            let (share, others) = (share * 100.0, others * 100.0);
            let why = format!("{share:.0} % of {} requests failed, {others:.0} % at the others", count.requests);
            self.eject_if_spare(id, EjectionReason::Failing, &why, now);
        }
    }

    /// Other replicas get its new requests, if at least one is up and not too many are ejected already: where most are slow
    /// or fail, the load is the cause, and fewer replicas would be worse.
    fn eject_if_spare(&mut self, id: SlotId, reason: EjectionReason, why: &str, now: Tick) {
        let Some(slot) = self.slots.slot(id).filter(|slot| slot.is_member() && !slot.is_drained()) else { return };
        let is_routable = slot.shown().1 == State::Up;
        let Some(service) = self.service_of(id) else { return };
        let others = service.routable() - usize::from(is_routable);
        if others == 0 || service.ejected() >= service.max_ejected() {
            let what = match reason {
                EjectionReason::Slow => "heartbeat missed",
                EjectionReason::Failing => "failing",
            };
            let line = format!("{}: {what}: {why}; too few others could take its requests", slot.name);
            return self.log(Level::Debug, line);
        }
        let Some(policy) = self.health_policy(id) else { return };
        let name = self.name_of(id);
        let line = match reason {
            EjectionReason::Slow => {
                self.change(id, Slot::eject);
                format!("{name}: slow: {why}; new requests go to others until it answers")
            }
            EjectionReason::Failing => {
                let ms = self.change(id, |slot| {
                    slot.note_failure(why);
                    slot.eject_failing(&policy.ejection, now)
                });
                let ms = ms.flatten().unwrap_or(0);
                format!("{name}: failing: {why}; new requests go to others for {}", readable(ms))
            }
        };
        if let Some(service) = self.service_of_mut(id) {
            service.ejections += 1;
        }
        self.log(Level::Warn, line);
    }

    /// Fewer members allow fewer ejections.
    pub(super) fn readmit_excess(&mut self, service: ServiceId) {
        let Some(state) = self.services.get(&service) else { return };
        let excess = state.ejected().saturating_sub(state.max_ejected());
        if excess == 0 {
            return;
        }
        let ejected = |id: &&SlotId| self.slots.slot(**id).is_some_and(|slot| slot.shown().1 == State::Ejected);
        let ids: Vec<SlotId> = state.members().iter().filter(ejected).take(excess).copied().collect();
        for id in ids {
            self.change(id, Slot::readmit);
        }
    }

    /// A managed instance that sends nothing any more is replaced, one of a service at a time: it gets time to finish what
    /// it has, then it is stopped, and its slot is filled when it is gone.
    fn replace_silent(&mut self, id: SlotId, instance: InstanceId, silent_ms: u64, why: &str, now: Tick) {
        let Some(service) = self.service_of(id) else { return };
        let is_replaced = |slot: &Slot| slot.origin == Origin::Managed && !slot.is_up();
        if instance.origin() == Origin::Foreign
            || self.is_stopping()
            || service.members().iter().filter_map(|id| self.slots.slot(*id)).any(is_replaced)
        {
            // It stays, and is at least passed over.
            if self.slots.slot(id).is_some_and(|slot| slot.shown().1 == State::Up) {
                self.eject_if_spare(id, EjectionReason::Slow, why, now);
            }
            return;
        }
        let limit_ms = service.config.limits.drain_timeout_ms;
        let (epoch, deadline) = (self.publication.next_epoch(), now.after_ms(limit_ms));
        let shared_until = self.slots.slot(id).map_or(Tick::ZERO, |slot| self.shared_until(slot));
        let leaving = self.change(id, |slot| {
            let leaving = Leaving::draining(slot, instance, epoch, now, deadline).shared_until(shared_until);
            slot.vacate_gently(now);
            leaving
        });
        let Some(leaving) = leaving else { return };
        self.leaving.insert(leaving);
        let silence = readable(silent_ms);
        let line = format!(
            "{}: no answer for {silence}, the last failure: {why}; it is stopped and replaced; {}",
            self.name_of(id),
            self.count_death(id)
        );
        self.log(Level::Warn, line);
    }

    /// A worker's fault marks no replica down: it brings the next probe forward. Many in a row eject it.
    pub(super) fn worker_event(&mut self, event: &WorkerEvent, now: Tick) {
        let Some(id) = event.suspect().and_then(|replica| self.slots.of_replica(replica)) else { return };
        self.change(id, |slot| {
            if let WorkerEvent::Fault(fault) = event
                && fault.kind.ends_request()
            {
                slot.count_failed_request();
            }
            slot.suspect(now);
        });
        self.eject_failing(id, now);
    }
}

fn probe(slot: &mut Slot, policy: &HealthPolicy, now: Tick) -> Option<Effect> {
    let instance = slot.instance()?;
    let timeout_ms = slot.begin_probe(policy, now)?;
    let name = (slot.origin == Origin::Managed).then(|| slot.name.clone());
    let (service, revision, endpoint) = (slot.service, slot.revision, slot.endpoint().clone());
    Some(Effect::Probe { service, revision, instance, name, endpoint, timeout_ms })
}
