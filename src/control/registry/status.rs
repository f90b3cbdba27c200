//! What an operator sees of the registry: plain values, copied out when asked for.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::Registry;
use super::condition::Condition;
use super::instances::address;
use super::leaving::Leaving;
use super::service::ServiceState;
use super::slot::Slot;
use crate::control::runtime::discovery::follow::SourceStatus;
use crate::core::snapshot::ServiceId;
use crate::core::tick::Tick;
use crate::shared::histogram::Durations;

const DRAINED: &str = "drained by an operator";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub replicas: Vec<ReplicaStatus>,
    /// By id, which is the place in a snapshot.
    pub services: Vec<ServiceStatus>,
    /// Replicas that died or stopped answering, and those that were replaced or answer again, of all services.
    pub deaths: u64,
    pub heals: u64,
}

/// What happened to the replicas of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    pub id: ServiceId,
    pub name: Arc<str>,
    pub deaths: u64,
    /// From the loss of a replica until its replacement, or itself, answered.
    pub heals: Durations,
    pub ejections: u64,
    /// Replicas that a rolling replacement is still to reach.
    pub outdated: usize,
    /// Why the newest settings of its replicas are not used.
    pub refused: Option<Arc<str>>,
    /// What runs its replicas, in one word. The registry does not know.
    pub runtime: &'static str,
    /// What lists its replicas, where a source does. The registry does not know.
    pub source: Option<SourceStatus>,
    /// No configuration names it any more.
    pub is_removed: bool,
    /// How many replicas it is to have, how many of them have answered, and how many of those an operator drained.
    pub replicas: usize,
    pub up: usize,
    pub drained: usize,
}

/// As `GET /replicas` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReplicaStatus {
    #[schema(value_type = String)]
    pub name: Arc<str>,
    #[schema(value_type = String)]
    pub service: Arc<str>,
    /// Where it is dialled; `null` where no instance has had an address yet.
    pub address: Option<String>,
    pub weight: u32,
    /// One word: starting, up, slow, unhealthy, draining, drained (by an operator), down.
    pub state: &'static str,
    /// The percentage of its weight that it takes: less than 100 while it starts slowly.
    pub weight_percent: u16,
    /// An operator drained it, whatever its state.
    pub drained: bool,
    /// Why it is not up: its last failure, or that an operator drained it. Of one that is up: that a rolling replacement is
    /// still to reach it.
    #[schema(value_type = Option<String>)]
    pub why: Option<Arc<str>>,
    /// For how long it is in this state.
    pub state_ms: u64,
    /// Since the slot exists.
    pub requests: u64,
    pub in_flight: u64,
    /// Heartbeats and starts that failed, and deaths, since the slot exists.
    pub failures: u64,
    /// What the runtime calls its instance.
    pub handle: String,
}

impl Status {
    /// A comment line, as of a configuration file, for each service whose newest settings are not used.
    pub fn refused_settings(&self) -> String {
        let refused = self.services.iter().filter_map(|service| Some((&service.name, service.refused.as_ref()?)));
        let line = |(name, why)| format!("# service {name}: its replicas run with the settings before these: {why}\n");
        refused.map(line).collect()
    }
}

impl Registry {
    /// Of all services together, members first. Takes time in proportion to their number.
    pub fn status(&self, now: Tick) -> Status {
        let slots = self.slots.all().filter(|slot| slot.has_name()).map(|slot| self.status_of(slot, now));
        let leaving = self.leaving.iter().map(|leaving| self.status_of_leaving(leaving, now));
        let services: Vec<ServiceStatus> =
            self.services.iter().map(|(id, service)| self.status_of_service(*id, service)).collect();
        let deaths = services.iter().map(|service| service.deaths).sum();
        let heals = services.iter().map(|service| service.heals.count()).sum();
        Status { replicas: slots.chain(leaving).collect(), services, deaths, heals }
    }

    pub(super) fn status_of(&self, slot: &Slot, now: Tick) -> ReplicaStatus {
        let condition = slot.condition();
        ReplicaStatus {
            name: slot.name.clone(),
            service: self.services.get(&slot.service).map_or_else(|| "".into(), |service| service.config.name.clone()),
            address: slot.last_instance.map(|_| address(slot)),
            weight: slot.weight(),
            state: condition.as_str(),
            weight_percent: slot.ramp().per_mille() / 10,
            drained: slot.decision.is_drained,
            why: why(slot, condition).or_else(|| self.why_replaced(slot)),
            state_ms: now.ms_since(slot.condition_since),
            requests: slot.load.total(),
            in_flight: slot.load.in_flight(),
            failures: slot.failures,
            handle: slot.handle.clone(),
        }
    }

    fn why_replaced(&self, slot: &Slot) -> Option<Arc<str>> {
        let id = self.slots.named(&slot.name)?;
        let why = match () {
            () if self.successions.is_replaced(id) => "it has earlier settings: its replacement starts",
            () if slot.is_outdated(self.services.get(&slot.service)?.revision) => "it has earlier settings",
            () => return None,
        };
        Some(why.into())
    }

    fn status_of_leaving(&self, leaving: &Leaving, now: Tick) -> ReplicaStatus {
        let service = self.services.get(&leaving.service);
        ReplicaStatus {
            name: leaving.name.clone(),
            service: service.map_or_else(|| "".into(), |service| service.config.name.clone()),
            address: None,
            weight: 0,
            state: Condition::Draining.as_str(),
            weight_percent: 100,
            drained: false,
            why: None,
            state_ms: now.ms_since(leaving.since),
            requests: leaving.replica().map_or(0, |replica| replica.load.total()),
            in_flight: leaving.requests_in_flight(),
            failures: 0,
            handle: String::new(),
        }
    }

    fn status_of_service(&self, id: ServiceId, service: &ServiceState) -> ServiceStatus {
        ServiceStatus {
            id,
            name: service.config.name.clone(),
            deaths: service.deaths,
            heals: service.heals.clone(),
            ejections: service.ejections,
            outdated: if self.is_rolling(id) { self.outdated(id).len() } else { 0 },
            refused: service.refused.clone(),
            runtime: "",
            source: None,
            is_removed: service.is_removed,
            replicas: service.members().len(),
            up: service.up(),
            drained: service.drained(),
        }
    }
}

fn why(slot: &Slot, condition: Condition) -> Option<Arc<str>> {
    let failure = slot.last_failure.clone();
    match (condition, failure) {
        (Condition::Up, _) => None,
        (Condition::Drained, _) => Some(DRAINED.into()),
        (_, Some(failure)) if slot.decision.is_drained => Some(format!("{DRAINED}; {failure}").into()),
        (_, None) if slot.decision.is_drained => Some(DRAINED.into()),
        (_, failure) => failure,
    }
}
