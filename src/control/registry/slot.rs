//! One slot: a stable name and the instance that fills it, as a state machine. It knows its deadlines and its
//! snapshot state; it asks for nothing itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::command::RegistryConfig;
use crate::control::runtime::Started;
use crate::core::snapshot::{Endpoint, Replica, ReplicaId, ReplicaLoad, State};
use crate::core::tick::Tick;

/// How soon a starting instance is asked again whether it answers.
const FIRST_PROBE_MS: u64 = 20;
/// An instance that has not answered so long after its start is given up.
pub const START_TIMEOUT_MS: u64 = 10_000;
/// A suspicion by a worker brings the next heartbeat forward, but no closer to the last one than this.
const SUSPICION_GAP_MS: u64 = 50;
/// A suspected replica gets so long for a heartbeat before requests go around it.
const SUSPICION_LIMIT_MS: u64 = 250;
/// Deaths in a row: the first replacement comes at once, then the pause doubles from the first to the second of these.
const BACKOFF_FIRST_MS: u64 = 100;
const BACKOFF_MOST_MS: u64 = 10_000;
/// An instance that was up for so long was a good one: its death is the first in a row again.
const LIVED_MS: u64 = 500;

#[derive(Debug)]
pub struct Slot {
    pub name: Arc<str>,
    pub weight: u32,
    pub load: Arc<ReplicaLoad>,
    /// True where we start and stop its instances.
    pub managed: bool,
    pub state: SlotState,
    /// What a snapshot shows: the instance that is up or was last.
    shown: (ReplicaId, Endpoint),
    pub handle: String,
    deaths_in_a_row: u32,
    /// When it was last seen up: from there a heal is timed.
    pub lost_at: Option<Tick>,
}

#[derive(Debug)]
pub enum SlotState {
    /// No instance; the next is started then.
    Vacant {
        start_at: Tick,
    },
    /// The runtime was asked for an instance.
    Starting {
        instance: u64,
        since: Tick,
    },
    /// It has an address and has not answered a heartbeat.
    Probing {
        instance: u64,
        since: Tick,
        probe: ProbeState,
    },
    Up {
        instance: u64,
        since: Tick,
        probe: ProbeState,
    },
    /// Somebody else asked it to stop: it finishes what it has.
    Draining {
        instance: u64,
    },
    /// Silent, and not managed to end: it comes back when it answers.
    Down {
        instance: u64,
        since: Tick,
        probe: ProbeState,
    },
}

/// The heartbeats of one instance.
#[derive(Debug)]
pub struct ProbeState {
    under_way: bool,
    last: Tick,
    next: Tick,
    pub misses: u32,
    /// A worker met a fault since the last answer.
    suspected: bool,
    /// Suspected, and a heartbeat was missed: requests go around it until it answers, or misses enough to be replaced.
    ejected: bool,
}

impl ProbeState {
    pub fn at(next: Tick) -> ProbeState {
        ProbeState { under_way: false, last: Tick::ZERO, next, misses: 0, suspected: false, ejected: false }
    }

    fn due(&self) -> Tick {
        if self.under_way { Tick::NEVER } else { self.next }
    }

    fn begin(&mut self, now: Tick, pause_ms: u64) {
        self.under_way = true;
        self.last = now;
        self.next = now.after_ms(pause_ms);
    }

    /// The first heartbeat after a suspicion is asked for in a hurry; whether to end it is decided with patience.
    fn limit_ms(&self, config: &RegistryConfig) -> u64 {
        let hurried = self.suspected && self.misses == 0;
        if hurried { SUSPICION_LIMIT_MS.min(config.heartbeat_interval_ms) } else { config.heartbeat_interval_ms }
    }
}

impl Slot {
    pub fn vacant(name: Arc<str>, workers: usize, now: Tick) -> Slot {
        let nowhere = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Slot {
            name,
            weight: 1,
            load: Arc::new(ReplicaLoad::new(workers)),
            managed: true,
            state: SlotState::Vacant { start_at: now },
            shown: (ReplicaId(0), nowhere),
            handle: String::new(),
            deaths_in_a_row: 0,
            lost_at: None,
        }
    }

    /// A slot for an instance that runs already.
    pub fn filled(name: Arc<str>, instance: u64, started: Started, managed: bool, workers: usize, now: Tick) -> Slot {
        let mut slot = Slot::vacant(name, workers, now);
        slot.managed = managed;
        slot.weight = started.weight;
        slot.fill(instance, started, now, now);
        slot
    }

    /// The instance has an address; now it is asked until it answers.
    pub fn fill(&mut self, instance: u64, started: Started, since: Tick, now: Tick) {
        self.shown = (ReplicaId(instance), started.endpoint);
        self.handle = started.handle;
        self.state = SlotState::Probing { instance, since, probe: ProbeState::at(now) };
    }

    pub fn instance(&self) -> Option<u64> {
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

    pub fn endpoint(&self) -> &Endpoint {
        &self.shown.1
    }

    pub fn seen(&self) -> (ReplicaId, State) {
        let state = match &self.state {
            SlotState::Up { probe, .. } if !probe.ejected => State::Up,
            SlotState::Draining { .. } => State::Draining,
            _ => State::Down,
        };
        (self.shown.0, state)
    }

    pub fn replica(&self) -> Replica {
        let state = self.seen().1;
        let (id, endpoint) = self.shown.clone();
        Replica { id, name: self.name.clone(), endpoint, weight: self.weight, state, load: self.load.clone() }
    }

    pub fn due(&self) -> Tick {
        match &self.state {
            SlotState::Vacant { start_at } => *start_at,
            SlotState::Probing { probe, .. } => probe.due().min(self.start_deadline()),
            SlotState::Up { probe, .. } | SlotState::Down { probe, .. } => probe.due(),
            SlotState::Starting { .. } | SlotState::Draining { .. } => Tick::NEVER,
        }
    }

    /// When an instance that never answered is given up. Those that are not managed are called down, and asked on.
    pub fn start_deadline(&self) -> Tick {
        match self.state {
            SlotState::Probing { since, .. } => since.after_ms(START_TIMEOUT_MS),
            _ => Tick::NEVER,
        }
    }

    /// How long a heartbeat may take that is to be asked for now; it counts as begun.
    pub fn begin_probe(&mut self, config: &RegistryConfig, now: Tick) -> Option<u64> {
        let (probe, pause_ms) = match &mut self.state {
            SlotState::Probing { probe, .. } => (probe, FIRST_PROBE_MS.min(config.heartbeat_interval_ms)),
            SlotState::Up { probe, .. } | SlotState::Down { probe, .. } => (probe, config.heartbeat_interval_ms),
            _ => return None,
        };
        if probe.due() > now {
            return None;
        }
        probe.begin(now, pause_ms);
        Some(probe.limit_ms(config))
    }

    pub fn probe_mut(&mut self) -> Option<&mut ProbeState> {
        match &mut self.state {
            SlotState::Probing { probe, .. } | SlotState::Up { probe, .. } | SlotState::Down { probe, .. } => {
                Some(probe)
            }
            _ => None,
        }
    }

    /// The heartbeat under way was answered: all is forgiven. True if requests went around it.
    pub fn probe_ok(&mut self) -> bool {
        let Some(probe) = self.probe_mut() else { return false };
        let was_ejected = probe.ejected;
        *probe = ProbeState { under_way: false, misses: 0, suspected: false, ejected: false, ..*probe };
        was_ejected
    }

    /// The heartbeat under way was not answered.
    pub fn probe_failed(&mut self) {
        if let Some(probe) = self.probe_mut() {
            probe.under_way = false;
            probe.misses += 1;
        }
    }

    /// The heartbeat under way never reached it.
    pub fn probe_skipped(&mut self) {
        if let Some(probe) = self.probe_mut() {
            probe.under_way = false;
        }
    }

    /// Lets requests go around it and asks again at once, if it is suspected. True if that is new.
    pub fn eject(&mut self, now: Tick) -> bool {
        match &mut self.state {
            SlotState::Up { probe, .. } if probe.suspected => {
                probe.next = now;
                !std::mem::replace(&mut probe.ejected, true)
            }
            _ => false,
        }
    }

    /// A worker met a fault here: no verdict, but a reason to ask soon.
    pub fn suspect(&mut self, now: Tick) {
        if let SlotState::Up { probe, .. } = &mut self.state {
            probe.suspected = true;
            let soonest = probe.last.after_ms(SUSPICION_GAP_MS).max(now);
            probe.next = probe.next.min(soonest);
        }
    }

    /// Its instance is gone. The next start comes after a pause that grows with deaths in a row; its length is returned.
    pub fn vacate(&mut self, now: Tick) -> u64 {
        self.note_loss(now);
        let pause_ms = match self.deaths_in_a_row {
            0 => 0,
            n => (BACKOFF_FIRST_MS << (n - 1).min(16)).min(BACKOFF_MOST_MS),
        };
        self.deaths_in_a_row = self.deaths_in_a_row.saturating_add(1);
        self.state = SlotState::Vacant { start_at: now.after_ms(pause_ms) };
        pause_ms
    }

    /// It was up and is no more: remembers when, for the heal's duration, and whether it had lived.
    pub fn note_loss(&mut self, now: Tick) {
        if let SlotState::Up { since, .. } = self.state {
            self.lost_at = Some(now);
            if now.ms_since(since) >= LIVED_MS {
                self.deaths_in_a_row = 0;
            }
        }
    }
}
