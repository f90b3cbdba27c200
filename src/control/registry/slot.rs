//! One slot: a stable name and the instance that fills it, as a state machine. It knows its deadlines and the state that
//! a snapshot shows; it emits no effect and knows no other slot.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::control::runtime::{InstanceId, Origin, Started};
use crate::core::snapshot::{Endpoint, Replica, ReplicaId, ReplicaLoad, ServiceId, State};
use crate::core::tick::Tick;

/// Between two probes of an instance that has not answered yet.
const FIRST_PROBE_MS: u64 = 20;
/// An instance that has not answered so long after its start is marked down.
pub const START_TIMEOUT_MS: u64 = 10_000;
/// A worker's fault brings the next probe forward, but not closer to the last one than this.
const SUSPECT_PROBE_GAP_MS: u64 = 50;
/// The timeout of the first probe after a worker's fault; then the replica is ejected.
const SUSPECT_PROBE_TIMEOUT_MS: u64 = 250;
/// The first replacement starts at once; the pause before the next doubles from the first to the second of these.
const BACKOFF_FIRST_MS: u64 = 100;
const BACKOFF_MAX_MS: u64 = 10_000;
/// An instance that was up for so long resets the backoff.
const STABLE_MS: u64 = 500;

#[derive(Debug)]
pub struct Slot {
    pub service: ServiceId,
    pub name: Arc<str>,
    pub weight: u32,
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
    pub handle: String,
    failures_in_a_row: u32,
    /// When it was last seen up: the start of the heal's duration.
    pub lost_at: Option<Tick>,
}

/// Whether the slot is on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Member,
    /// Part of an `/add` under way.
    Joining,
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
        probe: ProbeState,
    },
    Up {
        instance: InstanceId,
        since: Tick,
        probe: ProbeState,
    },
    /// Something other than Ringway asked it to stop: it finishes its requests.
    Draining {
        instance: InstanceId,
    },
    /// Foreign and not answering: it is probed until it answers.
    Down {
        instance: InstanceId,
        since: Tick,
        probe: ProbeState,
    },
}

/// The probes of one instance. At most one is in flight.
#[derive(Debug)]
pub struct ProbeState {
    in_flight: bool,
    last: Tick,
    next: Tick,
    pub failures: u32,
    /// A worker reported a fault since the last answer.
    suspected: bool,
    /// Suspected, and a probe failed: it takes no requests until it answers, or fails enough to be replaced.
    ejected: bool,
}

impl ProbeState {
    pub fn at(next: Tick) -> ProbeState {
        ProbeState { in_flight: false, last: Tick::ZERO, next, failures: 0, suspected: false, ejected: false }
    }

    fn due(&self) -> Tick {
        if self.in_flight { Tick::NEVER } else { self.next }
    }

    fn begin(&mut self, now: Tick, pause_ms: u64) {
        self.in_flight = true;
        self.last = now;
        self.next = now.after_ms(pause_ms);
    }

    /// Short for the first probe after a worker's fault, which may eject; the later ones may end the instance.
    fn timeout_ms(&self, interval_ms: u64) -> u64 {
        if self.suspected && self.failures == 0 { SUSPECT_PROBE_TIMEOUT_MS.min(interval_ms) } else { interval_ms }
    }
}

impl Slot {
    pub fn vacant(service: ServiceId, name: Arc<str>, workers: usize, now: Tick) -> Slot {
        let no_address = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Slot {
            service,
            name,
            weight: 1,
            load: Arc::new(ReplicaLoad::new(workers)),
            origin: Origin::Managed,
            standing: Standing::Member,
            state: SlotState::Vacant { start_at: now },
            name_held: false,
            replica: (ReplicaId(0), no_address),
            last_instance: None,
            handle: String::new(),
            failures_in_a_row: 0,
            lost_at: None,
        }
    }

    pub fn joining(self) -> Slot {
        Slot { standing: Standing::Joining, ..self }
    }

    pub fn joined(self) -> Slot {
        Slot { standing: Standing::Member, ..self }
    }

    /// The instance has an address; it is probed from now on.
    pub fn fill(&mut self, instance: InstanceId, replica: ReplicaId, started: Started, since: Tick, now: Tick) {
        self.replica = (replica, started.endpoint);
        self.last_instance = Some(instance);
        self.handle = started.handle;
        self.weight = started.weight;
        self.state = SlotState::Probing { instance, since, probe: ProbeState::at(now) };
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

    pub fn is_up(&self) -> bool {
        matches!(self.state, SlotState::Up { .. })
    }

    pub fn is_member(&self) -> bool {
        self.standing == Standing::Member
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
            SlotState::Up { probe, .. } if !probe.ejected => State::Up,
            SlotState::Draining { .. } => State::Draining,
            _ => State::Down,
        };
        (self.replica.0, state)
    }

    pub fn replica(&self) -> Replica {
        let state = self.shown().1;
        let (id, endpoint) = self.replica.clone();
        Replica { id, name: self.name.clone(), endpoint, weight: self.weight, state, load: self.load.clone() }
    }

    pub fn due(&self) -> Tick {
        match &self.state {
            SlotState::Vacant { .. } if self.name_held => Tick::NEVER,
            SlotState::Vacant { start_at } => *start_at,
            SlotState::Probing { probe, .. } => probe.due().min(self.start_deadline()),
            SlotState::Up { probe, .. } | SlotState::Down { probe, .. } => probe.due(),
            SlotState::Starting { .. } | SlotState::Draining { .. } => Tick::NEVER,
        }
    }

    pub fn may_start(&self, now: Tick) -> bool {
        matches!(self.state, SlotState::Vacant { .. }) && self.due() <= now
    }

    /// When an instance that never answered is marked down.
    pub fn start_deadline(&self) -> Tick {
        match self.state {
            SlotState::Probing { since, .. } => since.after_ms(START_TIMEOUT_MS),
            _ => Tick::NEVER,
        }
    }

    /// The timeout of a probe that is due now; it counts as in flight.
    pub fn begin_probe(&mut self, interval_ms: u64, now: Tick) -> Option<u64> {
        let (probe, pause_ms) = match &mut self.state {
            SlotState::Probing { probe, .. } => (probe, FIRST_PROBE_MS.min(interval_ms)),
            SlotState::Up { probe, .. } | SlotState::Down { probe, .. } => (probe, interval_ms),
            _ => return None,
        };
        if probe.due() > now {
            return None;
        }
        probe.begin(now, pause_ms);
        Some(probe.timeout_ms(interval_ms))
    }

    fn probe_mut(&mut self) -> Option<&mut ProbeState> {
        match &mut self.state {
            SlotState::Probing { probe, .. } | SlotState::Up { probe, .. } | SlotState::Down { probe, .. } => {
                Some(probe)
            }
            _ => None,
        }
    }

    /// The probe in flight was answered: suspicion and ejection end. True if it was ejected.
    pub fn probe_ok(&mut self) -> bool {
        let Some(probe) = self.probe_mut() else { return false };
        let was_ejected = probe.ejected;
        *probe = ProbeState { in_flight: false, failures: 0, suspected: false, ejected: false, ..*probe };
        was_ejected
    }

    /// The probe in flight was not answered. The failures in a row of an instance that is up.
    pub fn probe_failed(&mut self) -> Option<u32> {
        let is_up = self.is_up();
        let probe = self.probe_mut()?;
        probe.in_flight = false;
        probe.failures += 1;
        is_up.then_some(probe.failures)
    }

    /// The probe in flight was never sent.
    pub fn probe_skipped(&mut self) {
        if let Some(probe) = self.probe_mut() {
            probe.in_flight = false;
        }
    }

    pub fn is_suspected(&self) -> bool {
        matches!(&self.state, SlotState::Up { probe, .. } if probe.suspected)
    }

    /// Takes requests away from a suspected replica and probes it again at once. True if it was not ejected before.
    pub fn eject(&mut self, now: Tick) -> bool {
        match &mut self.state {
            SlotState::Up { probe, .. } if probe.suspected => {
                probe.next = now;
                !std::mem::replace(&mut probe.ejected, true)
            }
            _ => false,
        }
    }

    /// A worker reported a fault: the next probe comes sooner.
    pub fn suspect(&mut self, now: Tick) {
        if let SlotState::Up { probe, .. } = &mut self.state {
            probe.suspected = true;
            let soonest = probe.last.after_ms(SUSPECT_PROBE_GAP_MS).max(now);
            probe.next = probe.next.min(soonest);
        }
    }

    /// Its instance is gone. Returns the pause before the next start in milliseconds, which grows with each failure in
    /// a row.
    pub fn vacate(&mut self, now: Tick) -> u64 {
        self.note_loss(now);
        let pause_ms = match self.failures_in_a_row {
            0 => 0,
            n => (BACKOFF_FIRST_MS << (n - 1).min(16)).min(BACKOFF_MAX_MS),
        };
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.state = SlotState::Vacant { start_at: now.after_ms(pause_ms) };
        pause_ms
    }

    /// It is up no more: remembers when, and whether it was up long enough to reset the backoff.
    pub fn note_loss(&mut self, now: Tick) {
        if let SlotState::Up { since, .. } = self.state {
            self.lost_at = Some(now);
            if now.ms_since(since) >= STABLE_MS {
                self.failures_in_a_row = 0;
            }
        }
    }
}
