//! `/rep`, `/add` and `/rm`: one at a time, in order, all or nothing. A call changes the members in one step, or never.

use std::sync::Arc;

use log::Level;

use super::Registry;
use super::answer::{Answer, Call, Change, Rejection};
use super::command::{Effect, readable, since};
use super::leaving::Leaving;
use super::slot::Slot;
use crate::core::tick::Tick;

/// An `/add` whose replicas do not all answer within this is undone.
pub const ADD_TIMEOUT_MS: u64 = 30_000;
/// Every worker takes a snapshot up within a turn; one that has not after so long is stuck, and the caller is told.
pub const ACK_TIMEOUT_MS: u64 = 5_000;
/// How long the answer to `/rm` waits for what was removed to be gone: most requests end much sooner than this.
pub const STOPPED_TIMEOUT_MS: u64 = 2_000;
/// Calls that wait for an `/add` before them.
const QUEUE_LIMIT: usize = 256;
/// Names are host names and container names.
const NAME_MIN: usize = 2;
const NAME_MAX: usize = 63;

/// A call that waits for its turn.
#[derive(Debug)]
pub struct QueuedCall {
    ticket: u64,
    call: Call,
}

/// An `/add` under way.
#[derive(Debug)]
pub struct Addition {
    ticket: u64,
    pub slots: Vec<Slot>,
    since: Tick,
    pub deadline: Tick,
}

/// An answer that waits until the workers act on its epoch.
#[derive(Debug)]
pub struct DeferredReply {
    ticket: u64,
    pub epoch: u64,
    deadline: Tick,
    answer: Answer,
    /// Instances that are to be gone too, so that whoever looks at the engine sees what the answer says; but an answer
    /// does not wait for a long drain.
    gone: Vec<u64>,
    gone_by: Tick,
}

impl DeferredReply {
    pub fn due(&self, live: u64) -> Tick {
        if self.epoch <= live { self.gone_by } else { self.deadline }
    }
}

impl Registry {
    pub(super) fn accept_call(&mut self, ticket: u64, call: Call, now: Tick) {
        if call == Call::List {
            let answer = self.member_list();
            self.emit(Effect::Reply { ticket, answer });
        } else if self.calls.len() >= QUEUE_LIMIT {
            self.reject(ticket, Rejection::unavailable(format!("{QUEUE_LIMIT} calls wait already; try again later")));
        } else {
            self.calls.push_back(QueuedCall { ticket, call });
            self.take_calls(now);
        }
    }

    pub(super) fn take_calls(&mut self, now: Tick) {
        while self.addition.is_none() {
            let Some(QueuedCall { ticket, call }) = self.calls.pop_front() else { return };
            let outcome = match call {
                _ if self.stopping => Err(Rejection::unavailable("the balancer is stopping".into())),
                Call::List => Ok(()),
                Call::Add(change) => self.add(ticket, &change, now),
                Call::Remove(change) => self.remove(ticket, &change, now),
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

    fn member_list(&self) -> Answer {
        Answer::Replicas(self.member_names().collect())
    }

    fn member_names(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        self.members.iter().map(|slot| slot.name.clone())
    }

    fn add(&mut self, ticket: u64, change: &Change, now: Tick) -> Result<(), Rejection> {
        let names = self.names_to_add(change)?;
        if change.dry_run {
            let answer = Answer::Replicas(self.member_names().chain(names).collect());
            self.emit(Effect::Reply { ticket, answer });
            return Ok(());
        }
        self.log(Level::Info, format!("add: starting {}", join(&names)));
        let slots = names.into_iter().map(|name| Slot::vacant(name, self.config.workers, now)).collect();
        self.addition = Some(Addition { ticket, slots, since: now, deadline: now.after_ms(ADD_TIMEOUT_MS) });
        self.start_what_is_due(now);
        Ok(())
    }

    fn names_to_add(&self, change: &Change) -> Result<Vec<Arc<str>>, Rejection> {
        let Change { n, hostnames, .. } = change;
        if !self.config.can_start {
            let message = format!("n is {n}: the replicas are a fixed list (--replica), none can be started");
            return Err(Rejection::bad(message));
        }
        if hostnames.len() as u64 > *n {
            let message = "Length of hostname list is more than newly added instances";
            return Err(Rejection::bad(message.into()));
        }
        let room = self.config.max_replicas.saturating_sub(self.managed_count());
        let count = usize::try_from(*n).ok().filter(|count| *count <= room).ok_or_else(|| {
            let (managed, most) = (self.managed_count(), self.config.max_replicas);
            Rejection::bad(format!("n is {n}: {managed} replicas run, and {most} is the most (--max-replicas)"))
        })?;
        check_names(hostnames)?;
        for (at, name) in hostnames.iter().enumerate() {
            if self.members.iter().any(|slot| *slot.name == **name) {
                return Err(Rejection::bad(format!("hostnames[{at}] is {name:?}: that name is taken")));
            }
        }
        let mut names: Vec<Arc<str>> = hostnames.iter().map(|name| Arc::from(name.as_str())).collect();
        let free = self.generated_names().filter(|name| !names.contains(name));
        let generated: Vec<Arc<str>> = free.take(count - names.len()).collect();
        names.extend(generated);
        Ok(names)
    }

    pub(super) fn free_names(&self, count: usize) -> Vec<Arc<str>> {
        self.generated_names().take(count).collect()
    }

    /// `server1`, `server2` and so on: those that nobody has, also not one that still drains.
    fn generated_names(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        (1u64..).map(|number| Arc::from(format!("server{number}"))).filter(|name: &Arc<str>| !self.name_taken(name))
    }

    pub(super) fn name_taken(&self, name: &str) -> bool {
        self.slots().any(|slot| *slot.name == *name) || self.leaving.iter().any(|leaving| leaving.holds(name))
    }

    /// Every added replica answers: all become members in one step.
    pub(super) fn finish_addition(&mut self, now: Tick) {
        let Some(addition) = self.addition.take() else { return };
        let names: Vec<Arc<str>> = addition.slots.iter().map(|slot| slot.name.clone()).collect();
        self.members.extend(addition.slots);
        self.builder.mark_ring_dirty();
        let line = format!("add: {} joined in {}; {}", join(&names), since(now, addition.since), self.tally());
        self.log(Level::Info, line);
        self.reply_when_acked(addition.ticket, Vec::new(), now);
    }

    /// One of them is no good: none stays.
    pub(super) fn undo_addition(&mut self, rejection: Rejection, now: Tick) {
        let Some(addition) = self.addition.take() else { return };
        for slot in addition.slots {
            if let Some(leaving) = Leaving::cancelled(&slot) {
                self.emit(Effect::Stop { instance: leaving.instance, grace_ms: 0 });
                self.leaving.push(leaving);
            }
        }
        self.log(Level::Warn, format!("add: undone after {}", since(now, addition.since)));
        self.reject(addition.ticket, rejection);
    }

    pub(super) fn expire_addition(&mut self, now: Tick) {
        let Some(addition) = self.addition.as_ref().filter(|addition| addition.deadline <= now) else { return };
        let late = addition.slots.iter().find(|slot| !slot.is_up()).map_or("a replica", |slot| &slot.name);
        let message = format!("{late} did not answer within {}", readable(ADD_TIMEOUT_MS));
        self.undo_addition(Rejection::unavailable(message), now);
    }

    fn remove(&mut self, ticket: u64, change: &Change, now: Tick) -> Result<(), Rejection> {
        let mut random = self.random.clone();
        let names = self.names_to_remove(change, &mut random)?;
        if change.dry_run {
            // The generator is left as it was: the same call without dry_run takes the same ones.
            let answer = Answer::Replicas(self.member_names().filter(|name| !names.contains(name)).collect());
            self.emit(Effect::Reply { ticket, answer });
            return Ok(());
        }
        self.random = random;
        let (leaving, stay): (Vec<_>, Vec<_>) = self.members.drain(..).partition(|slot| names.contains(&slot.name));
        self.members = stay;
        self.builder.mark_ring_dirty();
        let gone = leaving.iter().filter_map(Slot::instance).collect();
        for slot in leaving {
            self.begin_drain(slot, now);
        }
        let line = format!("rm: {} left the ring; {}", join(&names), self.tally());
        self.log(Level::Info, line);
        self.reply_when_acked(ticket, gone, now);
        Ok(())
    }

    fn names_to_remove(&self, change: &Change, random: &mut fastrand::Rng) -> Result<Vec<Arc<str>>, Rejection> {
        let Change { n, hostnames, .. } = change;
        if hostnames.len() as u64 > *n {
            return Err(Rejection::bad("Length of hostname list is more than removable instances".into()));
        }
        let most = self.members.len();
        let count = usize::try_from(*n)
            .ok()
            .filter(|count| *count <= most)
            .ok_or_else(|| Rejection::bad(format!("n is {n}: there are {most} replicas")))?;
        check_names(hostnames)?;
        for (at, name) in hostnames.iter().enumerate() {
            if !self.members.iter().any(|slot| *slot.name == **name) {
                return Err(Rejection::bad(format!("hostnames[{at}] is {name:?}: there is no such replica")));
            }
        }
        let mut names: Vec<Arc<str>> = hostnames.iter().map(|name| Arc::from(name.as_str())).collect();
        let others: Vec<Arc<str>> = self.member_names().filter(|name| !names.contains(name)).collect();
        names.extend(random.choose_multiple(others, count - hostnames.len()));
        Ok(names)
    }

    /// The answer is what `/rep` says now; it is sent when the next snapshot is live in every worker.
    fn reply_when_acked(&mut self, ticket: u64, gone: Vec<u64>, now: Tick) {
        let epoch = self.builder.next_epoch();
        let (deadline, gone_by) = (now.after_ms(ACK_TIMEOUT_MS), now.after_ms(STOPPED_TIMEOUT_MS));
        let answer = self.member_list();
        self.deferred.push_back(DeferredReply { ticket, epoch, deadline, answer, gone, gone_by });
    }

    pub(super) fn acked(&mut self, epoch: u64, now: Tick) {
        self.acked_epoch = epoch;
        self.leaving.iter_mut().for_each(|leaving| leaving.acked(epoch, now));
    }

    pub(super) fn answer_what_is_acked(&mut self, now: Tick) {
        while let Some(DeferredReply { ticket, answer, .. }) = self.deferred.pop_front_if(|reply| {
            let stays = |leaving: &Leaving| reply.gone.contains(&leaving.instance);
            reply.epoch <= self.acked_epoch && (reply.gone_by <= now || !self.leaving.iter().any(stays))
        }) {
            self.emit(Effect::Reply { ticket, answer });
        }
    }

    pub(super) fn expire_waiting(&mut self, now: Tick) {
        let live = self.acked_epoch;
        while self.deferred.front().is_some_and(|reply| reply.epoch > live && reply.deadline <= now) {
            let Some(late) = self.deferred.pop_front() else { break };
            let limit = readable(ACK_TIMEOUT_MS);
            let message = format!("the change is made, but a worker has not taken it up within {limit}");
            self.reject(late.ticket, Rejection::unavailable(message));
        }
    }

    /// The balancer stops: what was not begun is refused, what was begun is undone.
    pub(super) fn refuse_open_calls(&mut self, now: Tick) {
        self.undo_addition(Rejection::unavailable("the balancer is stopping".into()), now);
        self.take_calls(now);
    }
}

fn check_names(hostnames: &[String]) -> Result<(), Rejection> {
    for (at, name) in hostnames.iter().enumerate() {
        if let Some(fault) = name_fault(name) {
            return Err(Rejection::bad(format!("hostnames[{at}] is {:?}: {fault}", shortened(name))));
        }
        if hostnames[..at].contains(name) {
            return Err(Rejection::bad(format!("hostnames[{at}] is {name:?}: it is named twice")));
        }
    }
    Ok(())
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

fn shortened(name: &str) -> String {
    let mut short: String = name.chars().take(NAME_MAX + 1).collect();
    if short.len() < name.len() {
        short.push_str("...");
    }
    short
}

fn join(names: &[Arc<str>]) -> String {
    names.join(", ")
}
