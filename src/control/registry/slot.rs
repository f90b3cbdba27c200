//! One slot: a stable name and the instance that fills it, as a state machine. It knows its deadlines and its
//! snapshot state; it asks for nothing itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::command::Plan;
use crate::control::runtime::Started;
use crate::core::snapshot::{Endpoint, Replica, ReplicaId, ReplicaLoad, State};
use crate::core::tick::Tick;

/// How soon a starting instance is asked again whether it answers.
const FIRST_BEAT_MS: u64 = 20;
/// An instance that has not answered so long after its start is given up.
pub const START_LIMIT_MS: u64 = 10_000;
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
    pub ours: bool,
    pub phase: Phase,
    /// What a snapshot shows: the instance that is up or was last.
    shown: (ReplicaId, Endpoint),
    pub handle: String,
    deaths_in_a_row: u32,
    /// When it was last seen up: from there a heal is timed.
    pub lost_at: Option<Tick>,
}

#[derive(Debug)]
pub enum Phase {
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
    Waiting {
        instance: u64,
        since: Tick,
        beat: Beat,
    },
    Up {
        instance: u64,
        since: Tick,
        beat: Beat,
    },
    /// Somebody else asked it to stop: it finishes what it has.
    Draining {
        instance: u64,
    },
    /// Silent, and not ours to end: it comes back when it answers.
    Down {
        instance: u64,
        since: Tick,
        beat: Beat,
    },
}

/// The heartbeats of one instance.
#[derive(Debug)]
pub struct Beat {
    under_way: bool,
    last: Tick,
    next: Tick,
    pub misses: u32,
    /// A worker met a fault since the last answer.
    suspected: bool,
    /// Suspected, and a heartbeat was missed: requests go around it until it answers, or misses enough to be replaced.
    shunned: bool,
}

impl Beat {
    pub fn at(next: Tick) -> Beat {
        Beat { under_way: false, last: Tick::ZERO, next, misses: 0, suspected: false, shunned: false }
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
    fn limit_ms(&self, plan: &Plan) -> u64 {
        let hurried = self.suspected && self.misses == 0;
        if hurried { SUSPICION_LIMIT_MS.min(plan.heartbeat_interval_ms) } else { plan.heartbeat_interval_ms }
    }
}

impl Slot {
    pub fn vacant(name: Arc<str>, workers: usize, now: Tick) -> Slot {
        let nowhere = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Slot {
            name,
            weight: 1,
            load: Arc::new(ReplicaLoad::new(workers)),
            ours: true,
            phase: Phase::Vacant { start_at: now },
            shown: (ReplicaId(0), nowhere),
            handle: String::new(),
            deaths_in_a_row: 0,
            lost_at: None,
        }
    }

    /// A slot for an instance that runs already.
    pub fn filled(name: Arc<str>, instance: u64, started: Started, ours: bool, workers: usize, now: Tick) -> Slot {
        let mut slot = Slot::vacant(name, workers, now);
        slot.ours = ours;
        slot.weight = started.weight;
        slot.fill(instance, started, now, now);
        slot
    }

    /// The instance has an address; now it is asked until it answers.
    pub fn fill(&mut self, instance: u64, started: Started, since: Tick, now: Tick) {
        self.shown = (ReplicaId(instance), started.endpoint);
        self.handle = started.handle;
        self.phase = Phase::Waiting { instance, since, beat: Beat::at(now) };
    }

    pub fn instance(&self) -> Option<u64> {
        match self.phase {
            Phase::Vacant { .. } => None,
            Phase::Starting { instance, .. }
            | Phase::Waiting { instance, .. }
            | Phase::Up { instance, .. }
            | Phase::Draining { instance }
            | Phase::Down { instance, .. } => Some(instance),
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.shown.1
    }

    pub fn seen(&self) -> (ReplicaId, State) {
        let state = match &self.phase {
            Phase::Up { beat, .. } if !beat.shunned => State::Up,
            Phase::Draining { .. } => State::Draining,
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
        match &self.phase {
            Phase::Vacant { start_at } => *start_at,
            Phase::Waiting { beat, .. } => beat.due().min(self.start_deadline()),
            Phase::Up { beat, .. } | Phase::Down { beat, .. } => beat.due(),
            Phase::Starting { .. } | Phase::Draining { .. } => Tick::NEVER,
        }
    }

    /// When an instance that never answered is given up. Those that are not ours are called down, and asked on.
    pub fn start_deadline(&self) -> Tick {
        match self.phase {
            Phase::Waiting { since, .. } => since.after_ms(START_LIMIT_MS),
            _ => Tick::NEVER,
        }
    }

    /// How long a heartbeat may take that is to be asked for now; it counts as begun.
    pub fn begin_beat(&mut self, plan: &Plan, now: Tick) -> Option<u64> {
        let (beat, pause_ms) = match &mut self.phase {
            Phase::Waiting { beat, .. } => (beat, FIRST_BEAT_MS.min(plan.heartbeat_interval_ms)),
            Phase::Up { beat, .. } | Phase::Down { beat, .. } => (beat, plan.heartbeat_interval_ms),
            _ => return None,
        };
        if beat.due() > now {
            return None;
        }
        beat.begin(now, pause_ms);
        Some(beat.limit_ms(plan))
    }

    pub fn beat_mut(&mut self) -> Option<&mut Beat> {
        match &mut self.phase {
            Phase::Waiting { beat, .. } | Phase::Up { beat, .. } | Phase::Down { beat, .. } => Some(beat),
            _ => None,
        }
    }

    /// The heartbeat under way was answered: all is forgiven. True if requests went around it.
    pub fn answered(&mut self) -> bool {
        let Some(beat) = self.beat_mut() else { return false };
        let was_shunned = beat.shunned;
        *beat = Beat { under_way: false, misses: 0, suspected: false, shunned: false, ..*beat };
        was_shunned
    }

    /// The heartbeat under way was not answered.
    pub fn missed(&mut self) {
        if let Some(beat) = self.beat_mut() {
            beat.under_way = false;
            beat.misses += 1;
        }
    }

    /// The heartbeat under way never reached it.
    pub fn unasked(&mut self) {
        if let Some(beat) = self.beat_mut() {
            beat.under_way = false;
        }
    }

    /// Lets requests go around it and asks again at once, if it is suspected. True if that is new.
    pub fn shun(&mut self, now: Tick) -> bool {
        match &mut self.phase {
            Phase::Up { beat, .. } if beat.suspected => {
                beat.next = now;
                !std::mem::replace(&mut beat.shunned, true)
            }
            _ => false,
        }
    }

    /// A worker met a fault here: no verdict, but a reason to ask soon.
    pub fn suspect(&mut self, now: Tick) {
        if let Phase::Up { beat, .. } = &mut self.phase {
            beat.suspected = true;
            let soonest = beat.last.after_ms(SUSPICION_GAP_MS).max(now);
            beat.next = beat.next.min(soonest);
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
        self.phase = Phase::Vacant { start_at: now.after_ms(pause_ms) };
        pause_ms
    }

    /// It was up and is no more: remembers when, for the heal's duration, and whether it had lived.
    pub fn note_loss(&mut self, now: Tick) {
        if let Phase::Up { since, .. } = self.phase {
            self.lost_at = Some(now);
            if now.ms_since(since) >= LIVED_MS {
                self.deaths_in_a_row = 0;
            }
        }
    }
}
