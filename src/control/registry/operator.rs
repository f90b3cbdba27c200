//! What an operator decides about single replicas (`PATCH /replicas/NAME`): drained or not, and a weight of their own. A
//! drained replica keeps its place on the ring and is passed over, so no other replica's keys move; it is probed, counted
//! and healed as before, and is not stopped.
//!
//! A decision holds until the next one or an `/rm`: through replacements, reloads and upgrades. A weight that a
//! configuration or a label changes is the newer word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log::Level;
use serde::{Deserialize, Serialize};

use super::Registry;
use super::answer::{Answer, Rejection, ReplicaPatch, RequestedState};
use super::service::ServiceState;
use super::slot::Slot;
use super::slots::SlotId;
use crate::core::snapshot::{Lifecycle, ServiceId};
use crate::core::tick::Tick;

/// So many names a message offers in place of one that is unknown.
const NAMES_OFFERED: usize = 5;

/// Above these, names are not compared.
const COMPARED_NAMES: usize = 500;
const COMPARED_BYTES: usize = 64;

/// Of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decision {
    /// It takes no new requests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_drained: bool,
    /// In place of the runtime's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

impl Decision {
    fn is_none(&self) -> bool {
        *self == Decision::default()
    }
}

/// By service and replica, by name: of replicas that have no slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decisions(BTreeMap<Arc<str>, BTreeMap<Arc<str>, Decision>>);

impl Decisions {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One that decides nothing is not kept.
    pub fn insert(&mut self, service: Arc<str>, replica: Arc<str>, decision: Decision) {
        if !decision.is_none() {
            self.0.entry(service).or_default().insert(replica, decision);
        }
    }

    pub fn take(&mut self, service: &str, replica: &str) -> Decision {
        let Some(of_service) = self.0.get_mut(service) else { return Decision::default() };
        let taken = of_service.remove(replica).unwrap_or_default();
        if of_service.is_empty() {
            self.0.remove(service);
        }
        taken
    }
}

impl Registry {
    pub(super) fn patch(
        &mut self,
        ticket: u64,
        service: ServiceId,
        patch: &ReplicaPatch,
        now: Tick,
    ) -> Result<(), Rejection> {
        let id = self.member_named(service, &patch.name)?;
        let lines = self.change(id, |slot| patch_slot(slot, patch)).unwrap_or_default();
        // A replica that was ejected before it was drained may be one too many now.
        self.readmit_excess(service);
        for line in lines {
            let line = format!("{}: {line}; {}", self.name_of(id), self.tally_of(id));
            self.log(Level::Info, line);
        }
        let Some(status) = self.slots.slot(id).map(|slot| self.status_of(slot, now)) else { return Ok(()) };
        self.defer_reply(ticket, Answer::Replica(status.into()), BTreeSet::new(), now);
        Ok(())
    }

    fn member_named(&self, service: ServiceId, name: &str) -> Result<SlotId, Rejection> {
        self.service(service)?;
        let is_its = |slot: &Slot| slot.is_member() && slot.service == service;
        let id = self.slots.named(name).filter(|id| self.slots.slot(*id).is_some_and(is_its));
        id.ok_or_else(|| self.unknown_replica(service, name))
    }

    fn unknown_replica(&self, service: ServiceId, name: &str) -> Rejection {
        let state = self.services.get(&service);
        let of = state.map_or_else(String::new, |state| format!(" in service {}", state.config.name));
        let elsewhere = self.slots.holder(name).filter(|slot| slot.is_member());
        let hint = match elsewhere.and_then(|slot| self.services.get(&slot.service)) {
            Some(other) => format!("it is one of service {0}: ask with ?service={0}", other.config.name),
            None => self.names_near(service, name),
        };
        Rejection::not_found(format!("there is no replica {:?}{of}: {hint}", super::calls::shortened(name)))
    }

    /// The most similar names first, where they are few and short: heartbeats wait while they are compared.
    fn names_near(&self, service: ServiceId, name: &str) -> String {
        let mut names: Vec<Arc<str>> = self.member_names(service).collect();
        if names.is_empty() {
            return "it has none".into();
        }
        if names.len() <= COMPARED_NAMES && name.len() <= COMPARED_BYTES {
            names.sort_by_cached_key(|known| strsim::osa_distance(known, name));
        }
        let more = names.len().saturating_sub(NAMES_OFFERED);
        names.truncate(NAMES_OFFERED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more, see GET /replicas") };
        format!("there are {}{more}", super::calls::join(&names))
    }

    /// What was decided about a replica before it came: of a predecessor, or of a foreign one that had left.
    pub(super) fn take_decision(&mut self, service: ServiceId, name: &str) -> Decision {
        match self.services.get(&service) {
            Some(service) => self.decisions.take(&service.config.name, name),
            None => Decision::default(),
        }
    }

    /// A foreign replica left: what was decided about it waits for its return.
    pub(super) fn keep_decision(&mut self, slot: &Slot) {
        if let Some(service) = self.services.get(&slot.service) {
            self.decisions.insert(service.config.name.clone(), slot.name.clone(), slot.decision.clone());
        }
    }

    /// Those of members, and of replicas that are not here now.
    pub(super) fn all_decisions(&self) -> Decisions {
        let mut all = self.decisions.clone();
        for service in self.services.values() {
            for slot in service.members().iter().filter_map(|id| self.slots.slot(*id)) {
                all.insert(service.config.name.clone(), slot.name.clone(), slot.decision.clone());
            }
        }
        all
    }

    /// Requests of these services are answered 503 from now on. Before a start is over that says nothing.
    pub(super) fn warn_of_drained_services(&mut self) {
        if self.lifecycle == Lifecycle::Starting {
            return;
        }
        let drained = self.services.values_mut().filter_map(ServiceState::note_all_drained);
        for line in drained.collect::<Vec<_>>() {
            self.log(Level::Warn, line);
        }
    }
}

/// A log line for each change that it makes.
fn patch_slot(slot: &mut Slot, patch: &ReplicaPatch) -> Vec<String> {
    let mut lines = Vec::new();
    match patch.state {
        Some(RequestedState::Drain) if !slot.decision.is_drained => {
            slot.decision.is_drained = true;
            let in_flight = slot.load.in_flight();
            lines.push(format!("drained by an operator, it takes no new requests; {in_flight} in flight"));
        }
        Some(RequestedState::Up) if slot.decision.is_drained => {
            slot.decision.is_drained = false;
            lines.push("no longer drained by an operator".into());
        }
        _ => {}
    }
    if let Some(weight) = patch.weight {
        let before = slot.weight();
        slot.decision.weight = Some(weight);
        if before != weight {
            lines.push(format!("weight {weight} by an operator, {before} before"));
        }
    }
    lines
}
