//! `/rep`, `/add` and `/rm`: one at a time, in order, all or nothing. A call changes the members in one step, or never.

use std::collections::BTreeSet;
use std::sync::Arc;

use log::Level;

use super::Registry;
use super::answer::{Answer, Call, Change, Rejection};
use super::command::{Effect, readable, since};
use super::health::HealthPolicy;
use super::leaving::{Leaving, NameUse};
use super::service::ServiceState;
use super::slot::Slot;
use super::slots::SlotId;
use crate::control::runtime::InstanceId;
use crate::core::snapshot::ServiceId;
use crate::core::tick::Tick;

/// What an `/add` grants the runtime, beside the time that its replicas get to answer.
const ADD_RUNTIME_MS: u64 = 30_000;
/// Every worker takes a snapshot up within a turn. A call whose snapshot is not taken up within this is answered 503.
pub const ACK_TIMEOUT_MS: u64 = 5_000;
/// How long the answer to `/rm` waits until the removed instances have ended: most requests end much sooner.
pub const STOPPED_TIMEOUT_MS: u64 = 2_000;
/// Why a process that is about to replace another refuses calls: the other still serves with the same replicas.
pub const UPGRADE_UNDER_WAY: &str = "an upgrade is under way: ask again in a moment";
/// Calls that wait for an `/add` before them.
const QUEUE_LIMIT: usize = 256;
/// Names are host names and container names.
const NAME_MIN: usize = 2;
const NAME_MAX: usize = 63;

/// A call that waits for its turn.
#[derive(Debug)]
pub struct QueuedCall {
    ticket: u64,
    service: ServiceId,
    call: Call,
}

/// An `/add` under way.
#[derive(Debug)]
pub struct Addition {
    ticket: u64,
    service: ServiceId,
    slots: Vec<SlotId>,
    since: Tick,
    pub deadline: Tick,
}

/// An answer that waits until the workers act on its epoch.
#[derive(Debug)]
pub struct DeferredReply {
    ticket: u64,
    epoch: u64,
    deadline: Tick,
    answer: Answer,
    /// Instances that are to end before, so that a look at the engine shows what the answer says. The answer does not
    /// wait for a long drain.
    running: BTreeSet<InstanceId>,
    stopped_deadline: Tick,
}

impl DeferredReply {
    pub fn due(&self, acked_epoch: u64) -> Tick {
        if self.awaits_acks(acked_epoch) { self.deadline } else { self.stopped_deadline }
    }

    pub fn awaits_acks(&self, acked_epoch: u64) -> bool {
        self.epoch > acked_epoch
    }

    /// An instance has ended.
    pub fn stopped(&mut self, instance: InstanceId) {
        self.running.remove(&instance);
    }

    fn is_ready(&self, acked_epoch: u64, now: Tick) -> bool {
        !self.awaits_acks(acked_epoch) && (self.running.is_empty() || self.stopped_deadline <= now)
    }
}

/// An `/add` whose replicas do not all answer within this is undone.
pub fn add_limit_ms(policy: &HealthPolicy) -> u64 {
    ADD_RUNTIME_MS + policy.start_timeout_ms
}

impl Registry {
    pub(super) fn accept_call(&mut self, ticket: u64, service: ServiceId, call: Call, now: Tick) {
        if call == Call::List {
            let answer = self.member_list(service);
            self.emit(Effect::Reply { ticket, answer });
        } else if self.calls.len() >= QUEUE_LIMIT {
            self.reject(ticket, Rejection::unavailable(format!("{QUEUE_LIMIT} calls wait already; try again later")));
        } else {
            self.calls.push_back(QueuedCall { ticket, service, call });
            self.take_calls(now);
        }
    }

    pub(super) fn take_calls(&mut self, now: Tick) {
        while self.addition.is_none() {
            let Some(QueuedCall { ticket, service, call }) = self.calls.pop_front() else { return };
            let outcome = match call {
                _ if self.is_stopping() => Err(Rejection::unavailable("the balancer is stopping".into())),
                _ if self.held.is_some() => Err(Rejection::unavailable(self.held.unwrap_or_default().into())),
                _ if self.stands_by() => Err(Rejection::unavailable(UPGRADE_UNDER_WAY.into())),
                Call::List => Ok(()),
                Call::Add(change) => self.add(ticket, service, &change, now),
                Call::Remove(change) => self.remove_members(ticket, service, &change, now),
                Call::Patch(patch) => self.patch(ticket, service, &patch, now),
            };
            if let Err(rejection) = outcome {
                self.reject(ticket, rejection);
            }
        }
    }

    fn reject(&mut self, ticket: u64, rejection: Rejection) {
        self.log(Level::Warn, format!("admin call refused ({}): {}", rejection.status, rejection.message));
        self.emit(Effect::Reply { ticket, answer: Answer::Rejected(rejection) });
    }

    fn member_list(&self, service: ServiceId) -> Answer {
        Answer::Replicas(self.member_names(service).collect())
    }

    pub(super) fn member_names(&self, service: ServiceId) -> impl Iterator<Item = Arc<str>> + '_ {
        let members = self.services.get(&service).into_iter().flat_map(ServiceState::members);
        members.filter_map(|id| Some(self.slots.slot(*id)?.name.clone()))
    }

    fn add(&mut self, ticket: u64, service: ServiceId, change: &Change, now: Tick) -> Result<(), Rejection> {
        if !self.service(service)?.config.can_start {
            return self.put_back(ticket, service, change, now);
        }
        let names = self.names_to_add(service, change)?;
        if change.dry_run {
            let answer = Answer::Replicas(self.member_names(service).chain(names).collect());
            self.emit(Effect::Reply { ticket, answer });
            return Ok(());
        }
        self.log(Level::Info, format!("add: starting {}", join(&names)));
        let vacant = |name| Slot::vacant(service, name, self.workers, now).joining();
        let slots: Vec<Slot> = names.into_iter().map(vacant).collect();
        let slots = slots.into_iter().map(|slot| self.insert(slot)).collect();
        let limit_ms = self.services.get(&service).map_or(0, |service| add_limit_ms(&service.config.health));
        self.addition = Some(Addition { ticket, service, slots, since: now, deadline: now.after_ms(limit_ms) });
        let due = self.slots.due_at(now);
        self.start_due(&due, now);
        Ok(())
    }

    fn names_to_add(&self, id: ServiceId, change: &Change) -> Result<Vec<Arc<str>>, Rejection> {
        let Change { n, hostnames, .. } = change;
        let service = self.service(id)?;
        if hostnames.len() as u64 > *n {
            let message = "Length of hostname list is more than newly added instances";
            return Err(Rejection::bad_request(message.into()));
        }
        let (running, max) = (service.managed(), service.config.max_replicas);
        let count = within(*n, max.saturating_sub(running)).ok_or_else(|| {
            Rejection::bad_request(format!("n is {n}: {running} replicas run, and {max} is the most (--max-replicas)"))
        })?;
        check_new_names(hostnames)?;
        for (at, name) in hostnames.iter().enumerate() {
            if self.is_member_name(name) {
                return Err(wrong_name(at, name, "that name is taken"));
            }
        }
        let named: BTreeSet<&str> = hostnames.iter().map(String::as_str).collect();
        let free = self.generated_names().filter(|name| !named.contains(&**name));
        let given = hostnames.iter().map(|name| Arc::from(name.as_str()));
        Ok(given.chain(free).take(count).collect())
    }

    /// Of any service: names are unique in all of them together.
    fn is_member_name(&self, name: &str) -> bool {
        self.slots.holder(name).is_some_and(Slot::is_member)
    }

    pub(super) fn free_names(&self, count: usize) -> Vec<Arc<str>> {
        self.generated_names().take(count).collect()
    }

    /// `server1`, `server2` and so on: those that no replica has, nor one that still drains.
    pub(super) fn generated_names(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        (1u64..).map(|number| Arc::from(format!("server{number}"))).filter(|name: &Arc<str>| !self.name_taken(name))
    }

    pub(super) fn name_taken(&self, name: &str) -> bool {
        self.slots.named(name).is_some() || self.leaving.holds_name(name)
    }

    /// Every added replica answers: all become members in one step.
    pub(super) fn finish_addition_if_up(&mut self, now: Tick) {
        let is_up = |id: &SlotId| self.slots.slot(*id).is_some_and(Slot::is_up);
        let Some(addition) = self.addition.take_if(|addition| addition.slots.iter().all(is_up)) else { return };
        let slots: Vec<Slot> = addition.slots.into_iter().filter_map(|id| self.remove(id)).collect();
        let names: Vec<Arc<str>> = slots.iter().map(|slot| slot.name.clone()).collect();
        for slot in slots {
            let id = self.insert(slot.joined());
            self.begin_slow_start(id, now);
        }
        let tally = self.services.get(&addition.service).map_or_else(String::new, ServiceState::tally);
        let line = format!("add: {} joined in {}; {tally}", join(&names), since(now, addition.since));
        self.log(Level::Info, line);
        self.reply_when_acked(addition.ticket, addition.service, BTreeSet::new(), now);
    }

    /// The `/add` under way is undone if it is of this service.
    pub(super) fn undo_addition_of(&mut self, service: ServiceId, rejection: Rejection, now: Tick) {
        if self.addition.as_ref().is_some_and(|addition| addition.service == service) {
            self.undo_addition(rejection, now);
        }
    }

    /// One of them failed: none stays.
    pub(super) fn undo_addition(&mut self, rejection: Rejection, now: Tick) {
        let Some(addition) = self.addition.take() else { return };
        for slot in addition.slots.iter().filter_map(|id| self.remove(*id)).collect::<Vec<_>>() {
            if let Some(instance) = slot.instance() {
                self.emit(Effect::Stop { instance, grace_ms: 0 });
                self.leaving.insert(Leaving::stopping(&slot, instance, NameUse::Held));
            }
        }
        self.log(Level::Warn, format!("add: undone after {}", since(now, addition.since)));
        self.reject(addition.ticket, rejection);
    }

    pub(super) fn expire_addition(&mut self, now: Tick) {
        let Some(addition) = self.addition.as_ref().filter(|addition| addition.deadline <= now) else { return };
        let mut slots = addition.slots.iter().filter_map(|id| self.slots.slot(*id));
        let late = slots.find(|slot| !slot.is_up()).map_or("a replica", |slot| &slot.name);
        let message = format!("{late} did not answer within {}", since(now, addition.since));
        self.undo_addition(Rejection::unavailable(message), now);
    }

    fn remove_members(&mut self, ticket: u64, service: ServiceId, change: &Change, now: Tick) -> Result<(), Rejection> {
        let mut random = self.random.clone();
        let names = self.names_to_remove(service, change, &mut random)?;
        let removed: BTreeSet<&Arc<str>> = names.iter().collect();
        if change.dry_run {
            // The generator is left as it was: the same call without dry_run takes the same ones.
            let answer = Answer::Replicas(self.member_names(service).filter(|name| !removed.contains(name)).collect());
            self.emit(Effect::Reply { ticket, answer });
            return Ok(());
        }
        self.random = random;
        let mut ids: Vec<SlotId> = names.iter().filter_map(|name| self.slots.named(name)).collect();
        ids.sort_unstable();
        let slots: Vec<Slot> = ids.into_iter().filter_map(|id| self.remove(id)).collect();
        let running = slots.iter().filter_map(Slot::instance).collect();
        for slot in slots {
            self.remember_removed(&slot);
            self.begin_drain(slot, NameUse::Held, now);
        }
        self.end_orphaned_succession();
        let tally = self.services.get(&service).map_or_else(String::new, ServiceState::tally);
        self.log(Level::Info, format!("rm: {} left the ring; {tally}", join(&names)));
        self.reply_when_acked(ticket, service, running, now);
        Ok(())
    }

    fn names_to_remove(
        &self,
        service: ServiceId,
        change: &Change,
        random: &mut fastrand::Rng,
    ) -> Result<Vec<Arc<str>>, Rejection> {
        let Change { n, hostnames, .. } = change;
        if hostnames.len() as u64 > *n {
            let message = "Length of hostname list is more than removable instances";
            return Err(Rejection::bad_request(message.into()));
        }
        let max = self.service(service)?.members().len();
        let count =
            within(*n, max).ok_or_else(|| Rejection::bad_request(format!("n is {n}: there are {max} replicas")))?;
        check_distinct(hostnames)?;
        let members: BTreeSet<Arc<str>> = self.member_names(service).collect();
        for (at, name) in hostnames.iter().enumerate() {
            if !members.contains(name.as_str()) {
                return Err(wrong_name(at, name, "there is no such replica"));
            }
        }
        let named: BTreeSet<&str> = hostnames.iter().map(String::as_str).collect();
        let others: Vec<Arc<str>> = self.member_names(service).filter(|name| !named.contains(&**name)).collect();
        let chosen = random.choose_multiple(others, count - hostnames.len());
        Ok(hostnames.iter().map(|name| Arc::from(name.as_str())).chain(chosen).collect())
    }

    pub(super) fn service(&self, id: ServiceId) -> Result<&ServiceState, Rejection> {
        self.services
            .get(&id)
            .filter(|service| !service.is_removed)
            .ok_or_else(|| Rejection::bad_request(format!("there is no service {}", id.0)))
    }

    /// The answer is what `/rep` says now; it is sent when every worker acts on the next snapshot.
    pub(super) fn reply_when_acked(
        &mut self,
        ticket: u64,
        service: ServiceId,
        running: BTreeSet<InstanceId>,
        now: Tick,
    ) {
        let answer = self.member_list(service);
        self.defer_reply(ticket, answer, running, now);
    }

    /// Sent when every worker acts on what was changed until now, and `running` have ended.
    pub(super) fn defer_reply(&mut self, ticket: u64, answer: Answer, running: BTreeSet<InstanceId>, now: Tick) {
        let epoch = self.pending_epoch();
        let (deadline, stopped_deadline) = (now.after_ms(ACK_TIMEOUT_MS), now.after_ms(STOPPED_TIMEOUT_MS));
        self.deferred.push_back(DeferredReply { ticket, epoch, deadline, answer, running, stopped_deadline });
    }

    pub(super) fn acked(&mut self, epoch: u64, now: Tick) {
        self.acked_epoch = epoch;
        self.leaving.acked(epoch, now);
    }

    pub(super) fn send_deferred_replies(&mut self, now: Tick) {
        let acked = self.acked_epoch;
        while let Some(DeferredReply { ticket, answer, .. }) =
            self.deferred.pop_front_if(|reply| reply.is_ready(acked, now))
        {
            self.emit(Effect::Reply { ticket, answer });
        }
    }

    pub(super) fn expire_deferred_replies(&mut self, now: Tick) {
        let acked = self.acked_epoch;
        while let Some(late) = self.deferred.pop_front_if(|reply| reply.awaits_acks(acked) && reply.deadline <= now) {
            let limit = readable(ACK_TIMEOUT_MS);
            let message = format!("the change is made, but a worker has not taken it up within {limit}");
            self.reject(late.ticket, Rejection::unavailable(message));
        }
    }
}

/// `n`, if it is at most `max`.
fn within(n: u64, max: usize) -> Option<usize> {
    usize::try_from(n).ok().filter(|n| *n <= max)
}

/// Names that are to be given. Those of others, found or listed, have rules of their own: `web:1`, `127.0.0.1:9001`.
fn check_new_names(hostnames: &[String]) -> Result<(), Rejection> {
    let mut named = hostnames.iter().enumerate();
    let fault = named.find_map(|(at, name)| Some(wrong_name(at, name, name_fault(name)?)));
    fault.map_or_else(|| check_distinct(hostnames), Err)
}

pub(super) fn check_distinct(hostnames: &[String]) -> Result<(), Rejection> {
    let mut seen = BTreeSet::new();
    let twice = hostnames.iter().enumerate().find(|(_, name)| !seen.insert(*name));
    twice.map_or(Ok(()), |(at, name)| Err(wrong_name(at, name, "it is named twice")))
}

pub(super) fn wrong_name(at: usize, name: &str, fault: &str) -> Rejection {
    Rejection::bad_request(format!("hostnames[{at}] is {:?}: {fault}", shortened(name)))
}

/// What keeps a name from being a container's name and a host's.
fn name_fault(name: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() {
        Some("a name is empty")
    } else if !(NAME_MIN..=NAME_MAX).contains(&name.len()) {
        Some("a name has 2 to 63 characters")
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Some("a name begins with a letter or a digit")
    } else if !name.chars().all(allowed) {
        Some("a name has letters, digits, '_', '.' and '-' only")
    } else {
        None
    }
}

pub(super) fn shortened(name: &str) -> String {
    let mut short: String = name.chars().take(NAME_MAX + 1).collect();
    if short.len() < name.len() {
        short.push_str("...");
    }
    short
}

pub(super) fn join(names: &[Arc<str>]) -> String {
    names.join(", ")
}
