//! The only owner of desired state and the only author of snapshots: a pure reducer. Commands and the time go in,
//! effects come out. No socket, clock, thread or runtime enters; what is random comes from a seed.
//!
//! Desired state is a list of slots: stable names, each with at most one live instance. Whatever happens to an instance,
//! its slot keeps its place on the ring until an `/rm` takes it away, so no other replica's keys move.

mod answer;
mod calls;
mod command;
mod leaving;
mod members;
mod slot;
mod snapshot_builder;
mod status;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use log::Level;

pub use answer::{Answer, Call, Change, Rejection};
pub use calls::{ACK_TIMEOUT_MS, ADD_TIMEOUT_MS};
pub use command::{Command, Effect, RegistryConfig, readable};
pub use leaving::STOP_GRACE_MS;
pub use status::{ReplicaStatus, Status};

use crate::core::snapshot::Snapshot;
use crate::core::tick::Tick;
use calls::{Addition, DeferredReply, QueuedCall};
use leaving::Leaving;
use slot::Slot;
use snapshot_builder::SnapshotBuilder;

/// Invariants: names are unique over members, the addition and those leaving; an instance number is in one place only.
pub struct Registry {
    config: RegistryConfig,
    random: fastrand::Rng,
    builder: SnapshotBuilder,
    members: Vec<Slot>,
    /// The `/add` under way: its slots are no members until all of them answer.
    addition: Option<Addition>,
    leaving: Vec<Leaving>,
    /// Calls that wait for their turn.
    calls: VecDeque<QueuedCall>,
    /// Answers that wait until every worker acts on their epoch.
    deferred: VecDeque<DeferredReply>,
    /// What every worker acts on, as far as we heard.
    acked_epoch: u64,
    next_instance: u64,
    /// Set by `Stop`: nothing is started or healed any more.
    stopping: bool,
    /// Set by `WorkersEnded`: the instances end.
    ending: bool,
    /// Not before then is it said again that heartbeats cannot be asked for.
    complain_at: Tick,
    deaths: u64,
    heals: u64,
    effects: Vec<Effect>,
}

impl Registry {
    /// Also the first snapshot, epoch 1, with no replica in it: they come with `Command::Found`.
    pub fn new(config: RegistryConfig) -> (Registry, Snapshot) {
        let builder = SnapshotBuilder::new(&config);
        let registry = Registry {
            random: fastrand::Rng::with_seed(config.seed),
            config,
            builder,
            members: Vec::new(),
            addition: None,
            leaving: Vec::new(),
            calls: VecDeque::new(),
            deferred: VecDeque::new(),
            acked_epoch: 0,
            next_instance: 1,
            stopping: false,
            ending: false,
            complain_at: Tick::ZERO,
            deaths: 0,
            heals: 0,
            effects: Vec::new(),
        };
        let first = registry.builder.first(&registry.config);
        (registry, first)
    }

    /// Takes one command in and says what is to be done, in this order.
    pub fn apply(&mut self, command: Command, now: Tick) -> Vec<Effect> {
        match command {
            Command::Found(found) => self.found(found, now),
            Command::Call { ticket, call } => self.accept_call(ticket, call, now),
            Command::Started { instance, started } => self.started(instance, started, now),
            Command::StartFailed { instance, failure } => self.start_failed(instance, failure, now),
            Command::Stopped { instance, result } => self.stopped(instance, result),
            Command::RuntimeEvent(event) => self.runtime_event(event, now),
            Command::ProbeOk { instance } => self.probe_ok(instance, now),
            Command::ProbeFailed { instance, why } => self.probe_failed(instance, &why, now),
            Command::ProbeSkipped { instance, why } => self.probe_skipped(instance, &why, now),
            Command::WorkerEvent(fact) => self.worker_event(&fact, now),
            Command::Acked(epoch) => self.acked(epoch, now),
            Command::Tick => {}
            Command::Stop => self.stop(now),
            Command::WorkersEnded => self.workers_ended(),
        }
        self.expire(now);
        self.take_calls(now);
        self.publish_changes();
        self.check();
        std::mem::take(&mut self.effects)
    }

    /// When `Command::Tick` is wanted next.
    pub fn due(&self) -> Tick {
        let slots = self.slots().filter(|slot| !self.stopping && !self.is_held(slot)).map(Slot::due);
        let addition = self.addition.iter().map(|addition| addition.deadline);
        let leaving = self.leaving.iter().map(Leaving::due);
        let waiting = self.deferred.iter().map(|reply| reply.due(self.acked_epoch));
        slots.chain(addition).chain(leaving).chain(waiting).min().unwrap_or(Tick::NEVER)
    }

    /// True while somebody waits for the workers to take the newest snapshot up: then `Command::Acked` is wanted.
    pub fn awaits_acks(&self) -> bool {
        self.deferred.iter().any(|reply| reply.epoch > self.acked_epoch)
            || self.leaving.iter().any(Leaving::awaits_acks)
    }

    fn expire(&mut self, now: Tick) {
        self.start_what_is_due(now);
        self.give_up_on_late_starts(now);
        self.probe_what_is_due(now);
        self.expire_addition(now);
        self.expire_waiting(now);
        self.end_drains(now);
        self.answer_what_is_acked(now);
    }

    /// Every slot that may have a living instance which we look after.
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.members.iter().chain(self.addition.iter().flat_map(|addition| &addition.slots))
    }

    fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.members.iter_mut().chain(self.addition.iter_mut().flat_map(|addition| &mut addition.slots))
    }

    /// Its name still belongs to an instance that is on its way out; the end of that one is a command.
    fn is_held(&self, slot: &Slot) -> bool {
        slot.instance().is_none() && self.leaving.iter().any(|leaving| leaving.holds(&slot.name))
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn log(&mut self, level: Level, line: String) {
        self.emit(Effect::Log(level, line));
    }

    /// "2 of 3 live", for the operator.
    fn tally(&self) -> String {
        let live = self.members.iter().filter(|slot| slot.is_up()).count();
        format!("{live} of {} live", self.members.len())
    }

    fn check(&self) {
        debug_assert!(self.names_are_unique(), "a name is used twice");
    }

    fn names_are_unique(&self) -> bool {
        let mut names: Vec<&str> = self.slots().map(|slot| &*slot.name).collect();
        names.sort_unstable();
        names.windows(2).all(|pair| pair[0] != pair[1])
    }
}
