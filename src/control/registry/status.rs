//! What an operator sees of the registry: plain values, copied out when asked for.

use std::sync::Arc;

use super::Registry;
use super::slot::{Slot, SlotState};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub replicas: Vec<ReplicaStatus>,
    /// Replicas that died or stopped answering, and those that were replaced or answer again.
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
    /// Of all services together, members first. Takes time in proportion to their number.
    pub fn status(&self) -> Status {
        let slots = self.slots.all().filter(|slot| slot.has_name()).map(|slot| ReplicaStatus {
            name: slot.name.clone(),
            state: state(slot),
            handle: slot.handle.clone(),
        });
        let leaving = self.leaving.iter().map(|leaving| ReplicaStatus {
            name: leaving.name.clone(),
            state: "draining",
            handle: String::new(),
        });
        let deaths = self.services.values().map(|service| service.deaths).sum();
        let heals = self.services.values().map(|service| service.heals).sum();
        Status { replicas: slots.chain(leaving).collect(), deaths, heals }
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
