//! One slot: a stable name and the instance that fills it, as a state machine. It knows its deadlines and the state that
//! a snapshot shows; it emits no effect and knows no other slot.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::condition::{Condition, Standing};
use super::ejection::EjectionPolicy;
use super::error_rate::{ErrorWindow, RequestCount};
use super::health::{Exclusion, Health, HealthPolicy, Improvement, ProbeFailure, Verdict};
use super::operator::Decision;
use super::slow_start::SlowStart;
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::{InstanceId, Origin, Started};
use crate::core::balance::Ramp;
use crate::core::snapshot::{Endpoint, Replica, ReplicaId, ReplicaLoad, ServiceId, State};
use crate::core::tick::Tick;

/// A starting instance that does not answer is reported once, so long after it began to run.
const NOT_READY_MS: u64 = 500;
/// The first replacement starts at once; the pause before the next doubles from the first to the second of these.
const BACKOFF_FIRST_MS: u64 = 100;
const BACKOFF_MAX_MS: u64 = 10_000;
/// An instance that was up for so many times the pause before its successor resets the backoff.
const STABLE_FACTOR: u64 = 10;

/// An instance that was up for so long has proven what it was started with.
const PROVEN_MS: u64 = 10_000;

#[derive(Debug)]
pub struct Slot {
    pub service: ServiceId,
    pub name: Arc<str>,
    /// As the runtime has it.
    configured_weight: u32,
    /// An operator's, which is before the runtime's.
    pub decision: Decision,
    pub load: Arc<ReplicaLoad>,
    pub origin: Origin,
    pub standing: Standing,
    pub state: SlotState,
    /// An instance that left this slot's name behind is still ending: none is started before it is gone.
    pub name_held: bool,
    /// What a snapshot shows: the instance that is up or was last.
    replica: (ReplicaId, Endpoint),
    /// The last instance that had an address: the next one replaces it.
    pub last_instance: Option<InstanceId>,
    /// The process before this one may have requests at its instance, as long as it runs.
    pub is_shared: bool,
    /// What its instance was started with.
    pub revision: Revision,
    pub handle: String,
    failures_in_a_row: u32,
    /// When it was last seen up: the start of the heal's duration.
    pub lost_at: Option<Tick>,
    /// Why it last failed to start, to answer or to live, for the operator; and how often it did.
    pub last_failure: Option<Arc<str>>,
    pub failures: u64,
    errors: ErrorWindow,
    /// In force while it takes requests.
    slow_start: Option<SlowStart>,
    /// Since when it is in the condition that it is in.
    pub condition_since: Tick,
}

/// What an instance left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vacated {
    /// Before the next start; it grows with each failure in a row.
    pub pause_ms: u64,
    /// What it was started with, and whether it was up for long enough to say that this works.
    pub revision: Revision,
    pub has_proven: bool,
}

#[derive(Debug)]
pub enum SlotState {
    /// No instance.
    Vacant {
        start_at: Tick,
    },
    /// The runtime was asked for an instance.
    Starting {
        instance: InstanceId,
        since: Tick,
    },
    /// It has an address and has not answered a probe.
    Probing {
        instance: InstanceId,
        since: Tick,
        /// It is marked down if it has not answered by then.
        deadline: Tick,
        health: Health,
        /// The operator was told that it does not answer yet.
        reported: bool,
    },
    Up {
        instance: InstanceId,
        since: Tick,
        health: Health,
    },
    /// Something other than Ringway asked it to stop: it finishes its requests.
    Draining {
        instance: InstanceId,
    },
    /// Foreign and not answering: it is probed until it answers.
    Down {
        instance: InstanceId,
        since: Tick,
        health: Health,
    },
}

impl Slot {
    pub fn vacant(service: ServiceId, name: Arc<str>, workers: usize, now: Tick) -> Slot {
        let no_address = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Slot {
            service,
            name,
            configured_weight: 1,
            decision: Decision::default(),
            load: Arc::new(ReplicaLoad::new(workers)),
            origin: Origin::Managed,
            standing: Standing::Member,
            state: SlotState::Vacant { start_at: now },
            name_held: false,
            replica: (ReplicaId(0), no_address),
            last_instance: None,
            is_shared: false,
            revision: Revision::UNKNOWN,
            handle: String::new(),
            failures_in_a_row: 0,
            lost_at: None,
            last_failure: None,
            failures: 0,
            errors: ErrorWindow::default(),
            slow_start: None,
            condition_since: now,
        }
    }

    pub fn joining(self) -> Slot {
        Slot { standing: Standing::Joining, ..self }
    }

    /// A slot for an instance that replaces this one's while that runs.
    pub fn successor(&self, now: Tick) -> Slot {
        let slot = Slot::vacant(self.service, self.name.clone(), 0, now);
        let load = Arc::new(self.load.successor());
        Slot { standing: Standing::Successor, last_instance: self.last_instance, load, ..slot }
    }

    /// Its instance was started with other settings than these.
    pub fn is_outdated(&self, now: Revision) -> bool {
        self.origin == Origin::Managed && self.instance().is_some() && self.revision != now
    }

    pub fn has_name(&self) -> bool {
        self.standing != Standing::Successor
    }

    pub fn joined(self) -> Slot {
        Slot { standing: Standing::Member, ..self }
    }

    /// The instance has an address; it is probed from now on.
    pub fn fill(
        &mut self,
        instance: InstanceId,
        replica: ReplicaId,
        started: Started,
        policy: &HealthPolicy,
        now: Tick,
    ) {
        self.replica = (replica, started.endpoint);
        self.last_instance = Some(instance);
        self.is_shared = false;
        self.handle = started.handle;
        self.configure_weight(started.weight);
        let (health, deadline) = (Health::watched_from(now, now), now.after_ms(policy.start_timeout_ms));
        self.state = SlotState::Probing { instance, since: now, deadline, health, reported: false };
    }

    /// Another configured weight takes the place of an operator's.
    pub fn configure_weight(&mut self, weight: u32) {
        if self.configured_weight != weight {
            self.configured_weight = weight;
            self.decision.weight = None;
        }
    }

    pub fn instance(&self) -> Option<InstanceId> {
        match self.state {
            SlotState::Vacant { .. } => None,
            SlotState::Starting { instance, .. }
            | SlotState::Probing { instance, .. }
            | SlotState::Up { instance, .. }
            | SlotState::Draining { instance }
            | SlotState::Down { instance, .. } => Some(instance),
        }
    }

    /// What an operator is shown of its state.
    pub fn condition(&self) -> Condition {
        match &self.state {
            SlotState::Vacant { .. } | SlotState::Starting { .. } | SlotState::Probing { .. } => Condition::Starting,
            SlotState::Up { health, .. } => match health.exclusion() {
                None | Some(Exclusion::Slow | Exclusion::Failing) if self.decision.is_drained => Condition::Drained,
                None => Condition::Up,
                Some(Exclusion::Slow) => Condition::Slow,
                Some(Exclusion::Unhealthy) => Condition::Unhealthy,
                Some(Exclusion::Failing) => Condition::Failing,
                Some(Exclusion::Unreachable) => Condition::Down,
            },
            SlotState::Draining { .. } => Condition::Draining,
            SlotState::Down { .. } => Condition::Down,
        }
    }

    pub fn note_failure(&mut self, why: &str) {
        self.last_failure = Some(why.into());
        self.failures += 1;
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, SlotState::Up { .. })
    }

    /// It is known whether an instance of it answers: one does or did, or a start of one has failed. One that was adopted has
    /// run before: so many heartbeats in a row that fail are an answer.
    pub fn is_settled(&self, fall: u32) -> bool {
        match &self.state {
            _ if self.failures_in_a_row > 0 => true,
            SlotState::Vacant { .. } | SlotState::Starting { .. } => false,
            SlotState::Probing { health, .. } => self.is_shared && health.failures_in_a_row() >= fall,
            SlotState::Up { .. } | SlotState::Draining { .. } | SlotState::Down { .. } => true,
        }
    }

    pub fn is_member(&self) -> bool {
        self.standing == Standing::Member
    }

    pub fn weight(&self) -> u32 {
        self.decision.weight.unwrap_or(self.configured_weight)
    }

    /// It is up, and takes no new requests because an operator drained it.
    pub fn is_drained(&self) -> bool {
        self.is_up() && self.decision.is_drained
    }

    pub fn configured_weight(&self) -> u32 {
        self.configured_weight
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.replica.1
    }

    /// The address that its instance has now, unless the instance is known not to answer there.
    pub fn occupied(&self) -> Option<&Endpoint> {
        let occupies =
            matches!(self.state, SlotState::Probing { .. } | SlotState::Up { .. } | SlotState::Draining { .. });
        occupies.then_some(&self.replica.1)
    }

    /// What workers can tell apart.
    pub fn shown(&self) -> (ReplicaId, State) {
        let state = match &self.state {
            SlotState::Up { health, .. } => match health.exclusion().map_or(State::Up, Exclusion::state) {
                State::Up | State::Ejected if self.decision.is_drained => State::Draining,
                state => state,
            },
            SlotState::Draining { .. } => State::Draining,
            _ => State::Down,
        };
        (self.replica.0, state)
    }

    pub fn replica(&self) -> Replica {
        let state = self.shown().1;
        let (id, endpoint) = self.replica.clone();
        let (name, weight, ramp) = (self.name.clone(), self.weight(), self.ramp());
        Replica { id, name, endpoint, weight, state, ramp, sticky: None, load: self.load.clone() }
    }

    pub fn due(&self) -> Tick {
        match &self.state {
            SlotState::Vacant { .. } if self.name_held => Tick::NEVER,
            SlotState::Vacant { start_at } => *start_at,
            SlotState::Probing { health, deadline, .. } => health.due().min(*deadline),
            SlotState::Up { health, .. } => self.slow_start().map_or(Tick::NEVER, SlowStart::due).min(health.due()),
            SlotState::Down { health, .. } => health.due(),
            SlotState::Starting { .. } | SlotState::Draining { .. } => Tick::NEVER,
        }
    }

    pub fn may_start(&self, now: Tick) -> bool {
        matches!(self.state, SlotState::Vacant { .. }) && self.due() <= now
    }

    /// An instance that never answered is marked down.
    pub fn is_start_overdue(&self, now: Tick) -> bool {
        matches!(self.state, SlotState::Probing { deadline, .. } if deadline <= now)
    }

    /// Another process serves with the instance. It gets all the time that it wants for its first answer here.
    pub fn share(&mut self) {
        self.is_shared = true;
        if let SlotState::Probing { deadline, .. } = &mut self.state {
            *deadline = Tick::NEVER;
        }
    }

    /// The other process begins no more requests: the first answer is due by now.
    pub fn take_over(&mut self, answer_by: Tick) {
        if let SlotState::Probing { deadline, .. } = &mut self.state
            && *deadline == Tick::NEVER
        {
            *deadline = answer_by;
        }
    }

    /// The timeout of a probe that is due now; it counts as in flight.
    pub fn begin_probe(&mut self, policy: &HealthPolicy, now: Tick) -> Option<u64> {
        let received = self.load.received();
        match &mut self.state {
            SlotState::Probing { health, .. } => health.begin_first_probe(policy, received, now),
            SlotState::Up { health, .. } | SlotState::Down { health, .. } => health.begin_probe(policy, received, now),
            _ => None,
        }
    }

    fn health_mut(&mut self) -> Option<&mut Health> {
        match &mut self.state {
            SlotState::Probing { health, .. } | SlotState::Up { health, .. } | SlotState::Down { health, .. } => {
                Some(health)
            }
            _ => None,
        }
    }

    pub fn probe_ok(&mut self, policy: &HealthPolicy, now: Tick) -> Improvement {
        let is_up = self.is_up();
        let Some(health) = self.health_mut() else { return Improvement::None };
        match (health.probe_ok(policy, now), is_up) {
            (false, _) => Improvement::None,
            (true, false) => Improvement::Risen,
            (true, true) if health.readmit() => Improvement::Readmitted,
            (true, true) => Improvement::None,
        }
    }

    /// What follows for an instance that is up.
    pub fn probe_failed(&mut self, failure: &ProbeFailure, policy: &HealthPolicy, now: Tick) -> Option<Verdict> {
        let received = self.load.received();
        let verdict = match &mut self.state {
            SlotState::Up { health, .. } => Some(health.probe_failed(failure.fault, policy, received, now)),
            _ => {
                self.health_mut()?.miss(failure.fault);
                None
            }
        };
        if verdict != Some(Verdict::Busy) {
            self.note_failure(&failure.why);
        }
        verdict
    }

    /// For how long an instance that never answered runs, when the operator is to be told; that is once.
    pub fn report_not_ready(&mut self, now: Tick) -> Option<u64> {
        match &mut self.state {
            SlotState::Probing { since, reported, .. } if now.ms_since(*since) >= NOT_READY_MS => {
                (!std::mem::replace(reported, true)).then(|| now.ms_since(*since))
            }
            _ => None,
        }
    }

    /// The probe in flight was never sent.
    pub fn probe_skipped(&mut self) {
        if let Some(health) = self.health_mut() {
            health.probe_skipped();
        }
    }

    /// It takes new requests only where no other replica does, until it answers.
    pub fn eject(&mut self) {
        if let SlotState::Up { health, .. } = &mut self.state {
            health.eject();
        }
    }

    /// The same, for some time, because it failed requests in a row. Returns for how many milliseconds.
    pub fn eject_failing(&mut self, policy: &EjectionPolicy, now: Tick) -> Option<u64> {
        let SlotState::Up { health, .. } = &mut self.state else { return None };
        self.load.failures.end();
        Some(health.eject_failing(policy, now))
    }

    pub fn is_ejection_over(&self, now: Tick) -> bool {
        matches!(&self.state, SlotState::Up { health, .. } if health.is_ejection_over(now))
    }

    /// Ends an ejection for failed requests that is due by now. True if it takes requests again.
    pub fn end_ejection(&mut self, now: Tick) -> bool {
        let SlotState::Up { health, .. } = &mut self.state else { return false };
        health.end_ejection(now)
    }

    /// Ends an ejection.
    pub fn readmit(&mut self) {
        if let SlotState::Up { health, .. } = &mut self.state {
            match health.exclusion() {
                Some(Exclusion::Slow | Exclusion::Failing) => {
                    health.end_ejection(Tick::NEVER);
                    health.readmit();
                }
                Some(Exclusion::Unreachable | Exclusion::Unhealthy) | None => {}
            }
        }
    }

    /// The part of its weight that it takes.
    pub fn ramp(&self) -> Ramp {
        self.slow_start().map_or(Ramp::WHOLE, SlowStart::ramp)
    }

    fn slow_start(&self) -> Option<&SlowStart> {
        self.slow_start.as_ref().filter(|_| self.shown().1 == State::Up)
    }

    pub fn begin_slow_start(&mut self, takes_ms: u64, now: Tick) {
        self.slow_start = Some(SlowStart::new(takes_ms, now));
    }

    /// True if it takes its whole weight from now on.
    pub fn advance_slow_start(&mut self, now: Tick) -> bool {
        let Some(due) = self.slow_start().filter(|start| start.due() <= now).copied() else { return false };
        self.slow_start = due.at(now);
        self.slow_start.is_none()
    }

    /// A request failed at it.
    pub fn count_failed_request(&mut self) {
        self.errors.report();
        self.load.failures.fail();
    }

    /// Requests since the last call.
    pub fn take_errors(&mut self, counts_5xx: bool) -> RequestCount {
        self.errors.take(&self.load, counts_5xx)
    }

    /// A worker reported a fault: the next probe comes sooner.
    pub fn suspect(&mut self, now: Tick) {
        if let SlotState::Up { health, .. } = &mut self.state {
            health.suspect(now);
        }
    }

    /// Its instance is gone.
    pub fn vacate(&mut self, now: Tick) -> Vacated {
        let has_proven = matches!(self.state, SlotState::Up { since, .. } if now.ms_since(since) >= PROVEN_MS);
        self.note_loss(now);
        let pause_ms = self.backoff_ms();
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.state = SlotState::Vacant { start_at: now.after_ms(pause_ms) };
        Vacated { pause_ms, revision: self.revision, has_proven }
    }

    fn backoff_ms(&self) -> u64 {
        match self.failures_in_a_row {
            0 => 0,
            n => (BACKOFF_FIRST_MS << (n - 1).min(16)).min(BACKOFF_MAX_MS),
        }
    }

    /// It is up no more: remembers when, and whether it was up long enough to reset the backoff.
    pub fn note_loss(&mut self, now: Tick) {
        self.slow_start = None;
        if let SlotState::Up { since, .. } = self.state {
            self.lost_at = Some(now);
            if now.ms_since(since) >= STABLE_FACTOR * self.backoff_ms() {
                self.failures_in_a_row = 0;
            }
        }
    }

    /// Its instance ends by itself, without a slot: no snapshot takes it for this slot's.
    pub fn vacate_gently(&mut self, now: Tick) {
        self.vacate(now);
        self.replica.0 = ReplicaId::default();
        self.name_held = true;
    }
}
