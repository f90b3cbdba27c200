//! Replicas that left the ring: they finish the requests they have, then they are stopped. And the end of it all.

use std::sync::Arc;

use log::Level;

use super::Registry;
use super::command::{Effect, since};
use super::slot::{Slot, SlotState};
use crate::core::snapshot::{Replica, ReplicaLoad, State};
use crate::core::tick::Tick;

/// What an instance gets to end by itself once its requests are done; then it is ended by force.
pub const STOP_GRACE_MS: u64 = 2_000;
/// How often requests in flight are looked at.
const LOOK_MS: u64 = 10;

/// An instance without a slot.
#[derive(Debug)]
pub struct Leaving {
    pub name: Arc<str>,
    pub instance: u64,
    /// Its name is not given away before it is gone. Not so where a replacement fills its slot meanwhile.
    holds_name: bool,
    since: Tick,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Some worker may still choose it.
    AwaitingAck { replica: Replica, epoch: u64, deadline: Tick },
    /// Chosen by nobody: it finishes what it has.
    Draining { replica: Replica, look_at: Tick, deadline: Tick },
    /// The runtime was asked to stop it.
    Ending,
}

impl Leaving {
    /// Of an `/add` that is undone: it never took a request.
    pub fn cancelled(slot: &Slot) -> Option<Leaving> {
        let instance = slot.instance()?;
        let name = slot.name.clone();
        Some(Leaving { name, instance, holds_name: true, since: Tick::ZERO, stage: Stage::Ending })
    }

    /// A silent one that is being ended by force.
    pub fn replaced(name: Arc<str>, instance: u64) -> Leaving {
        Leaving { name, instance, holds_name: false, since: Tick::ZERO, stage: Stage::Ending }
    }

    pub fn holds(&self, name: &str) -> bool {
        self.holds_name && *self.name == *name
    }

    pub fn due(&self) -> Tick {
        match self.stage {
            Stage::AwaitingAck { deadline, .. } => deadline,
            Stage::Draining { look_at, deadline, .. } => look_at.min(deadline),
            Stage::Ending => Tick::NEVER,
        }
    }

    pub fn awaits_acks(&self) -> bool {
        matches!(self.stage, Stage::AwaitingAck { .. })
    }

    pub fn acked(&mut self, live: u64, now: Tick) {
        if let Stage::AwaitingAck { replica, epoch, deadline } = &self.stage
            && *epoch <= live
        {
            self.stage = Stage::Draining { replica: replica.clone(), look_at: now, deadline: *deadline };
        }
    }

    /// What a snapshot shows beside the ring's members.
    pub fn replica(&self) -> Option<&Replica> {
        match &self.stage {
            Stage::AwaitingAck { replica, .. } | Stage::Draining { replica, .. } => Some(replica),
            Stage::Ending => None,
        }
    }

    fn load(&self) -> Option<&ReplicaLoad> {
        self.replica().map(|replica| &*replica.load)
    }

    /// Looks at the requests in flight: true when the wait is over.
    fn look(&mut self, now: Tick) -> bool {
        let in_flight = self.load().map_or(0, ReplicaLoad::in_flight);
        match &mut self.stage {
            Stage::AwaitingAck { deadline, .. } => *deadline <= now,
            Stage::Draining { look_at, deadline, .. } if (*look_at).min(*deadline) <= now => {
                *look_at = now.after_ms(LOOK_MS);
                in_flight == 0 || *deadline <= now
            }
            Stage::Draining { .. } | Stage::Ending => false,
        }
    }
}

impl Registry {
    /// A slot leaves the ring: it drains if it took requests, and is stopped at once if it did not.
    pub(super) fn begin_drain(&mut self, slot: Slot, now: Tick) {
        let Some(instance) = slot.instance() else { return };
        let name = slot.name.clone();
        let (stage, stop) = match slot.state {
            SlotState::Up { .. } | SlotState::Draining { .. } => {
                let replica = Replica { state: State::Draining, ..slot.replica() };
                let deadline = now.after_ms(self.config.limits.drain_timeout_ms);
                (Stage::AwaitingAck { replica, epoch: self.builder.next_epoch(), deadline }, false)
            }
            _ => (Stage::Ending, true),
        };
        self.leaving.push(Leaving { name, instance, holds_name: true, since: now, stage });
        if stop {
            self.emit(Effect::Stop { instance, grace_ms: STOP_GRACE_MS });
        }
    }

    pub(super) fn end_drains(&mut self, now: Tick) {
        let mut ended = Vec::new();
        for leaving in &mut self.leaving {
            if leaving.look(now) {
                let left = leaving.load().map_or(0, ReplicaLoad::in_flight);
                leaving.stage = Stage::Ending;
                ended.push((leaving.name.clone(), leaving.instance, leaving.since, left));
            }
        }
        for (name, instance, begun, left) in ended {
            let (level, cut) = match left {
                0 => (Level::Info, String::new()),
                n => (Level::Warn, format!(", {n} requests still open")),
            };
            self.log(level, format!("{name}: drained in {}{cut}; it is stopped", since(now, begun)));
            self.emit(Effect::Stop { instance, grace_ms: STOP_GRACE_MS });
        }
    }

    /// True when it was one of those leaving.
    pub(super) fn forget_leaving(&mut self, instance: u64) -> bool {
        let before = self.leaving.len();
        self.leaving.retain(|leaving| leaving.instance != instance);
        let forgot = self.leaving.len() != before;
        if forgot {
            self.finish_if_ended();
        }
        forgot
    }

    /// No more starts, heals or calls; the workers finish what they have.
    pub(super) fn stop(&mut self, now: Tick) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.log(Level::Info, format!("stopping: requests under way finish; {}", self.tally()));
        self.refuse_open_calls(now);
    }

    /// The workers are gone: every instance ends, unless they are to outlive us.
    pub(super) fn workers_ended(&mut self) {
        self.stopping = true;
        self.ending = true;
        if self.config.keeps_on_exit {
            self.members.clear();
            self.leaving.clear();
        }
        for slot in std::mem::take(&mut self.members) {
            if let Some(leaving) = Leaving::cancelled(&slot) {
                self.leaving.push(leaving);
            }
        }
        let ending: Vec<u64> = self.leaving.iter().map(|leaving| leaving.instance).collect();
        for instance in ending {
            self.emit(Effect::Stop { instance, grace_ms: STOP_GRACE_MS });
        }
        self.leaving.iter_mut().for_each(|leaving| leaving.stage = Stage::Ending);
        self.finish_if_ended();
    }

    fn finish_if_ended(&mut self) {
        if self.ending && self.leaving.is_empty() {
            self.emit(Effect::Finished);
        }
    }
}
