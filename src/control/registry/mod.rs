//! The only owner of desired state and the only author of snapshots: a pure reducer. Commands and the time go in, effects
//! come out. No socket, clock, thread or runtime enters; what is random comes from a seed.
//!
//! Desired state is a list of slots for each service: stable names, each with at most one live instance. Whatever happens
//! to an instance, its slot keeps its place on the ring until an `/rm` takes it away, so no other replica's keys move.
//!
//! No command scans all replicas but one that changes what a snapshot shows of them, or a call: 10,000 replicas are
//! probed at the cost of few (`benches/registry.rs`).
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | [`Registry`]: all its fields, `apply` (one arm for each command), `due`, `expire`, and the only insertion, change and removal of a slot |
//! | `command` | values in and out: [`RegistryConfig`], [`ServiceConfig`], [`Command`], [`Effect`]; durations as an operator reads them |
//! | `answer` | values of an admin call: [`Call`], [`Change`] (n, hostnames, dry run), [`Answer`], [`Rejection`] with its HTTP status; which runtime failure is which status |
//! | `service` | `ServiceState`: one service's members in ring order, counts (managed, routable, ejected, at most ejected), what changed since the last publication, its ring built anew |
//! | `slot` | `Slot`: one name and its state machine (`SlotState`: vacant, starting, probing, up, draining, down), its standing (member, joining, successor), backoff before the next start, its requests and failures, what snapshot and operator see of it (`Condition`), its last failure, when an instance that never answered is told to the operator; no effect, no log line, no other slot |
//! | `condition` | `Condition`: starting, up, slow, unhealthy, failing, draining, drained, down, in one word each; `Standing`: member, joining, successor |
//! | `health` | `Health` of one instance as a pure rule: `HealthPolicy`, `ProbeFault`, rise and fall counts, misses in a row, when the next probe is due, suspicion, `Exclusion` (unreachable, slow, unhealthy, failing), `Verdict` and its variants; decides nothing for the service; probes in flight, answers in a row, what was received meanwhile, how long silent |
//! | `error_rate` | requests and failures of a replica in one interval (`ErrorWindow`), and which replicas fail a larger share of them than the others (`Outlier`) |
//! | `slow_start` | `SlowStart` of one replica that is back: its ramp from a tenth of its weight to the whole, when the next step is due |
//! | `ejection` | `PassiveEjection` of one instance that failed requests in a row: until when, twice as long where it follows the one before; `EjectionPolicy` |
//! | `slots` | `Slots`: the collection, indexed by name, instance, replica, endpoint and deadline (`Keys`), and `View`, what its service counts of a slot; decides nothing; reindexing before and after a change |
//! | `leaving` | `LeavingTable`: instances without a slot that drain (awaits the epoch's ack, then polls the requests in flight) or stop, whether their name is free; indices by epoch and deadline; stage of each (`LeavingState`), polled every 10 ms |
//! | `deadlines` | an ordered set of one deadline for each key; generic: rescheduled, next, due now |
//! | `calls` | `/rep`, `/add`, `/rm`: the queue of calls, checks names and counts, generates free names, picks which members to remove, waits for all to come up or undoes it; workers' acknowledgements of an epoch (`acked`), replies deferred until then |
//! | `instances` | starts and deaths: found, started, start failed, runtime events (exited, stopping, joined, left), stopped; numbers of instances, heartbeat resumed, marking down, an address that another got; slots filled up, the joining of an `/add`'s slots, deaths counted, deaths and heals logged with the service's tally; the name of a slot, also of one that is no member yet |
//! | `verdicts` | what a probe's result or a worker's fault does to the slot and the service: up, ejected if others can be spared, readmitted (slow, failing), a slow start begun and advanced, shares of failed requests compared, a silent one replaced (stopped, its slot filled when it is gone), start timeouts, the `Probe` effect and log lines; a heal recorded with its duration; never more ejected than the share allows, one silent instance replaced at a time; the log lines about heartbeats: missed, busy, the last failure, skipped probes |
//! | `operator` | `PATCH /replicas/NAME`: what an operator decided about a replica (drained, weight), also of those that are not here now; names near an unknown one; the warning when all are drained |
//! | `removed` | servers of a fixed list that `/rm` took and `/add` puts back: `Spec` and endpoint remembered by name |
//! | `delisted` | servers that a list or source has no more: each stays on the ring while its service has no other to take requests and one that is new has yet to answer, then drains |
//! | `drain` | begins and ends the drain of a replica (to the stop of its instance); the stop of the whole balancer, until `Finished`; grace of a stop, instances kept on exit, leaving instances forgotten |
//! | `publication` | `Publication`: whether workers can tell a difference, the next epoch, the snapshot built and its effect; unchanged services are shared with the one before |
//! | `rollout` | `Rollout`: one service's rolling replacement as a pure rule: failures in a row, pause before the next attempt, which member is next |
//! | `succession` | outdated instances (other settings than now): a successor starts beside each, one at a time, takes over the slot when it is up; two failures in a row send all back (why is kept for the operator); the end of a member's instance counted as a failure of the new settings; `Succession` in progress: member, successor, since when |
//! | `topology` | `Topology` (services, listeners, routes by id) and `Reconfiguration`: taken in at the start and at a reload; what waits until each new service can serve (`PendingTopology`, at most 10 s); a service added, changed, removed (given up) or shrunk, its members drained; a server that moves from a removed service to a new one |
//! | `status` | copies for `/replicas`, the live page and the metrics: [`Status`], `ServiceStatus` (deaths, heals with durations, ejections), [`ReplicaStatus`] (address, weight, state and why, requests, failures, handle); made when asked for |
//! | `tests` | tests of all of this |
//! | `lifecycle` | `Lifecycle` entered (starting, serving, lame duck, handed over, stopping) and whether a start is settled: each replica answers or has failed; `Predecessor`: names and ring places, configured numbers, removed servers and decisions that a successor takes over; instances shared with it meanwhile; counts of replicas up for the status line; calls held |

mod answer;
mod calls;
mod command;
mod condition;
mod deadlines;
mod delisted;
mod drain;
mod ejection;
mod error_rate;
mod health;
mod instances;
mod leaving;
mod lifecycle;
mod operator;
mod publication;
mod removed;
mod rollout;
mod service;
mod slot;
mod slots;
mod slow_start;
mod status;
mod succession;
#[cfg(test)]
pub(super) mod tests;
mod topology;
mod verdicts;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use log::Level;

pub use answer::{Answer, Call, Change, Rejection, ReplicaPatch, RequestedState};
pub use calls::{ACK_TIMEOUT_MS, UPGRADE_UNDER_WAY, add_limit_ms};
pub use command::{Command, Effect, RegistryConfig, ServiceConfig, readable};
pub use drain::STOP_GRACE_MS;
pub use ejection::EjectionPolicy;
pub use health::{HealthPolicy, ProbeFailure, ProbeFault};
pub use lifecycle::Predecessor;
pub use status::{ReplicaStatus, ServiceStatus, Status};
use topology::PendingTopology;
pub use topology::{IDLE_CLIENTS_MS, Reconfiguration, ServiceSource, Topology};

use crate::control::runtime::{Spec, Started};
use crate::core::challenges::Challenges;
use crate::core::routes::Routes;
use crate::core::snapshot::{Lifecycle, Listener, ListenerId, Service, ServiceId, Snapshot};
use crate::core::tick::Tick;
use calls::{Addition, DeferredReply, QueuedCall};
use delisted::DelistedServers;
use leaving::LeavingTable;
use operator::Decisions;
use publication::Publication;
use removed::RemovedServers;
use service::ServiceState;
use slot::Slot;
use slots::{SlotId, Slots};
use succession::Successions;

/// Invariants: names are unique over all slots, and a new instance starts only when no leaving one holds its name; an
/// instance is in one slot or leaving.
pub struct Registry {
    services: BTreeMap<ServiceId, ServiceState>,
    static_services: BTreeMap<ServiceId, Arc<Service>>,
    listeners: BTreeMap<ListenerId, Arc<Listener>>,
    /// Those that were removed, and when their idle clients are closed.
    closing_listeners: BTreeMap<ListenerId, Tick>,
    /// Services that were removed together with listeners, whose clients get their last responses until then.
    closing_services: BTreeMap<ServiceId, Tick>,
    routes: Arc<Routes>,
    challenges: Option<Arc<Challenges>>,
    /// How many cells a `ReplicaLoad` has.
    workers: usize,
    random: fastrand::Rng,
    publication: Publication,
    slots: Slots,
    leaving: LeavingTable,
    removed: RemovedServers,
    /// Servers of others that are listed no more and still take requests.
    delisted: DelistedServers,
    /// Servers of others that another service has to give up before they join theirs.
    moving: Vec<(Spec, Started)>,
    /// The `/add` under way: its slots are no members until all of them answer.
    addition: Option<Addition>,
    successions: Successions,
    /// The reconfiguration under way.
    pending_topology: Option<PendingTopology>,
    /// Calls that wait for their turn.
    calls: VecDeque<QueuedCall>,
    /// Answers that wait until every worker acts on their epoch, in the order of their epochs and deadlines.
    deferred: VecDeque<DeferredReply>,
    /// When the command that is applied came.
    now: Tick,
    /// What every worker acts on, as far as is known.
    acked_epoch: u64,
    /// Of the next managed instance or foreign replica.
    next_number: u64,
    /// Once it stops, nothing is started or healed any more.
    lifecycle: Lifecycle,
    predecessor: Predecessor,
    /// By then the process before this one has ended. `Tick::NEVER`: it still serves.
    predecessor_until: Tick,
    /// What an operator decided about replicas that are not here now.
    decisions: Decisions,
    /// Why no change is taken now.
    held: Option<&'static str>,
    /// `Found` came, and slots below this one are settled.
    settled_below: Option<SlotId>,
    /// Set by `WorkersEnded`: the instances end.
    ending: bool,
    /// When skipped probes may be logged again.
    log_skipped_at: Tick,
    effects: Vec<Effect>,
}

impl Registry {
    /// Also the first snapshot, epoch 1, with no replica in it: they come with `Command::Found`.
    pub fn new(config: RegistryConfig) -> (Registry, Snapshot) {
        Registry::with_lifecycle(config, Lifecycle::Serving, Predecessor::default())
    }

    fn with_lifecycle(
        config: RegistryConfig,
        lifecycle: Lifecycle,
        mut predecessor: Predecessor,
    ) -> (Registry, Snapshot) {
        let decisions = predecessor.take_decisions();
        let mut registry = Registry {
            services: BTreeMap::new(),
            static_services: BTreeMap::new(),
            listeners: config.topology.listeners,
            closing_listeners: BTreeMap::new(),
            closing_services: BTreeMap::new(),
            routes: config.topology.routes,
            challenges: None,
            workers: config.workers,
            random: fastrand::Rng::with_seed(config.seed),
            publication: Publication::first(lifecycle),
            slots: Slots::new(),
            leaving: LeavingTable::new(),
            removed: RemovedServers::new(),
            delisted: DelistedServers::new(),
            moving: Vec::new(),
            addition: None,
            successions: Successions::default(),
            pending_topology: None,
            calls: VecDeque::new(),
            deferred: VecDeque::new(),
            now: Tick::ZERO,
            acked_epoch: 0,
            next_number: 1,
            lifecycle,
            predecessor_until: if predecessor.is_absent() { Tick::ZERO } else { Tick::NEVER },
            predecessor,
            decisions,
            held: None,
            settled_below: None,
            ending: false,
            log_skipped_at: Tick::ZERO,
            effects: Vec::new(),
        };
        for (id, source) in config.topology.services {
            registry.insert_service(id, source);
        }
        let first = registry.snapshot();
        (registry, first)
    }

    fn insert_service(&mut self, id: ServiceId, source: ServiceSource) {
        match source {
            ServiceSource::Runtime(config) => drop(self.services.insert(id, ServiceState::new(config, self.workers))),
            ServiceSource::Static(service) => drop(self.static_services.insert(id, service)),
        }
    }

    /// Takes one command in. The effects are to be carried out in their order.
    pub fn apply(&mut self, command: Command, now: Tick) -> Vec<Effect> {
        self.now = now;
        match command {
            Command::Found(found) => self.found(found, now),
            Command::Reconfigure(change) => self.reconfigure(*change, now),
            Command::ReplaceListeners(listeners) => self.replace_listeners(listeners),
            Command::ReplaceChallenges { ticket, challenges } => self.replace_challenges(ticket, challenges, now),
            Command::Call { ticket, service, call } => self.accept_call(ticket, service, call, now),
            Command::Started { instance, started } => self.started(instance, started, now),
            Command::StartFailed { instance, failure } => self.start_failed(instance, failure, now),
            Command::Stopped { instance, result } => self.stopped(instance, result),
            Command::RuntimeEvent(event) => self.runtime_event(event, now),
            Command::ProbeOk { instance } => self.probe_ok(instance, now),
            Command::ProbeFailed { instance, failure } => self.probe_failed(instance, &failure, now),
            Command::ProbeSkipped { instance, why } => self.probe_skipped(instance, &why, now),
            Command::WorkerEvent(event) => self.worker_event(&event, now),
            Command::Acked(epoch) => self.acked(epoch, now),
            Command::Tick => {}
            Command::Enter(lifecycle) => self.enter(lifecycle, now),
            Command::Hold(why) => self.held = Some(why),
            Command::Release => self.held = None,
            Command::Stop => self.stop(now),
            Command::WorkersEnded => self.workers_ended(now),
            Command::PredecessorEnded => self.predecessor_ended(now),
        }
        self.expire(now);
        self.advance_reconfiguration(now);
        self.take_calls(now);
        self.publish_changes();
        #[cfg(debug_assertions)]
        self.check();
        std::mem::take(&mut self.effects)
    }

    /// When `Command::Tick` is wanted next.
    pub fn due(&self) -> Tick {
        let slots = if self.is_stopping() { Tick::NEVER } else { self.slots.due() };
        let addition = self.addition.as_ref().map_or(Tick::NEVER, |addition| addition.deadline);
        let deferred = self.deferred.front().map_or(Tick::NEVER, |reply| reply.due(self.acked_epoch));
        let topology = self.pending_topology.as_ref().map_or(Tick::NEVER, |pending| pending.deadline);
        let closing = self.closing_listeners.values().chain(self.closing_services.values());
        let listeners = closing.copied().min().unwrap_or(Tick::NEVER);
        let waits = self.ending && self.leaving.is_empty() && self.predecessor_until > self.now;
        let end = if waits { self.predecessor_until } else { Tick::NEVER };
        let delisted = self.delisted_due();
        let other = [listeners, addition, deferred, self.leaving.due(), topology, self.rollouts_due(), end, delisted];
        other.into_iter().fold(slots, Tick::min)
    }

    /// True while something waits until the workers act on a snapshot: then `Command::Acked` is wanted.
    pub fn awaits_acks(&self) -> bool {
        self.deferred.back().is_some_and(|reply| reply.awaits_acks(self.acked_epoch)) || self.leaving.awaits_acks()
    }

    fn expire(&mut self, now: Tick) {
        if !self.is_stopping() {
            let due = self.slots.due_at(now);
            self.start_due(&due, now);
            self.expire_starts(&due, now);
            self.end_ejections(&due, now);
            self.advance_slow_starts(&due, now);
            self.probe_due(&due, now);
            self.begin_succession(now);
        }
        self.stop_listeners(now);
        self.end_delisted(now);
        self.insert_moved(now);
        self.expire_addition(now);
        self.expire_deferred_replies(now);
        self.end_drains(now);
        self.finish_if_ended();
        self.send_deferred_replies(now);
    }

    fn insert(&mut self, mut slot: Slot) -> SlotId {
        slot.name_held = self.leaving.holds_name(&slot.name);
        let id = self.slots.insert(slot);
        if let Some((service, slot)) = self.member(id) {
            service.add_member(id, slot);
        }
        id
    }

    fn remove(&mut self, id: SlotId) -> Option<Slot> {
        if let Some((service, slot)) = self.member(id) {
            service.remove_member(id, slot);
        }
        let slot = self.slots.remove(id)?;
        self.readmit_excess(slot.service);
        Some(slot)
    }

    /// The only way to change a slot: indices, counts and what is to be published follow.
    fn change<R>(&mut self, id: SlotId, change: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        let (result, before) = self.slots.change(id, self.now, change)?;
        if let Some((service, slot)) = self.member(id) {
            service.update_member(before, slot);
        }
        Some(result)
    }

    /// The slot and its service, if it is on the service's ring.
    fn member(&mut self, id: SlotId) -> Option<(&mut ServiceState, &Slot)> {
        let slot = self.slots.slot(id).filter(|slot| slot.is_member())?;
        Some((self.services.get_mut(&slot.service)?, slot))
    }

    fn service_of(&self, id: SlotId) -> Option<&ServiceState> {
        self.services.get(&self.slots.slot(id)?.service)
    }

    fn service_of_mut(&mut self, id: SlotId) -> Option<&mut ServiceState> {
        self.services.get_mut(&self.slots.slot(id)?.service)
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn log(&mut self, level: Level, line: String) {
        self.emit(Effect::Log(level, line));
    }

    #[cfg(debug_assertions)]
    fn check(&self) {
        self.slots.check();
        self.services.values().for_each(|service| service.check(&self.slots));
    }
}
