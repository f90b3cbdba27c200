//! What an operator's page shows of the registry: plain values, copied out.

use std::sync::Arc;

use super::Registry;
use super::slot::{Slot, SlotState};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub replicas: Vec<ReplicaStatus>,
    /// Replicas that died or fell silent, and those replaced or back.
    pub deaths: u64,
    pub heals: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub name: Arc<str>,
    /// One word: starting, up, draining, down.
    pub state: &'static str,
    pub handle: String,
}

impl Registry {
    pub fn status(&self) -> Status {
        let members = self.slots().map(|slot| ReplicaStatus {
            name: slot.name.clone(),
            state: state(slot),
            handle: slot.handle.clone(),
        });
        let leaving = self.leaving.iter().map(|leaving| ReplicaStatus {
            name: leaving.name.clone(),
            state: "draining",
            handle: String::new(),
        });
        Status { replicas: members.chain(leaving).collect(), deaths: self.deaths, heals: self.heals }
    }
}

fn state(slot: &Slot) -> &'static str {
    match slot.state {
        SlotState::Vacant { .. } | SlotState::Starting { .. } | SlotState::Probing { .. } => "starting",
        SlotState::Up { .. } => "up",
        SlotState::Draining { .. } => "draining",
        SlotState::Down { .. } => "down",
    }
}
