//! Containers of an earlier run of Ringway, found at the start: adopted or removed. One with other settings is adopted too:
//! it serves until its replacement does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State};

use super::driver::{Driver, short};
use super::plan::{self, ManagedLabels};
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::{Failure, InstanceId, Spec, Started};
use crate::core::snapshot::ServiceId;
use crate::settings::OnExit;

/// A container of an earlier run.
struct FoundContainer {
    container: String,
    labels: ManagedLabels,
    state: Option<State>,
    name: ContainerName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ContainerName {
    Slot,
    /// Of a replacement that has not got its slot's name yet.
    Temporary,
    /// Of one that was replaced, say.
    Other,
}

impl Driver {
    /// Adopts those that run, and removes the others. Of two in one slot, that is the one that has the slot's name.
    pub async fn adopt_or_remove(self: &Arc<Self>) -> Result<Vec<(Spec, Started)>, Failure> {
        let (mut adopted, launch) = (Vec::new(), self.newest());
        let list = self.list(&format!("{}={}", plan::CLUSTER, self.settings.cluster)).await?;
        let mut found: Vec<FoundContainer> = list.into_iter().filter_map(|found| self.found(found)).collect();
        found.sort_by_key(|found| found.name);
        for FoundContainer { container, labels, state, name } in found {
            let unfit = match name {
                ContainerName::Other => Some("it was being replaced"),
                ContainerName::Slot | ContainerName::Temporary => self.unfit(&labels, state, &adopted),
            };
            match (unfit, self.endpoint(&container).await?) {
                (None, Some(endpoint)) => {
                    let is_same = labels.plan == launch.plan.checksum();
                    let spec = Spec {
                        service: ServiceId::default(),
                        name: labels.slot.into(),
                        instance: InstanceId::Managed(labels.instance),
                        revision: if is_same { Revision::FIRST } else { Revision::UNKNOWN },
                        replaces: None,
                    };
                    self.table().adopt(&spec, &launch, &container);
                    let started = Started { endpoint, handle: short(&container).to_owned(), weight: 1 };
                    adopted.push((spec.clone(), started));
                    if name == ContainerName::Temporary {
                        let driver = self.clone();
                        tokio::spawn(async move { driver.take_name(&spec, &container).await });
                    }
                }
                (unfit, _) => {
                    log::info!(
                        "{}: removed {}: {}",
                        labels.slot,
                        short(&container),
                        unfit.unwrap_or("it has no address")
                    );
                    let tried = format!("remove {}", short(&container));
                    self.remove(&container).await.map_err(|error| self.engine.failure(&tried, &error))?;
                }
            }
        }
        Ok(adopted)
    }

    /// `None`: it is not of this cluster.
    fn found(&self, found: ContainerSummary) -> Option<FoundContainer> {
        let labels: BTreeMap<_, _> = found.labels.unwrap_or_default().into_iter().collect();
        let labels = ManagedLabels::read(&labels, &self.settings.cluster)?;
        let names = found.names.unwrap_or_default();
        let has = |name: &str| names.iter().any(|own| own.trim_start_matches('/') == name);
        let name = match () {
            () if has(&labels.slot) => ContainerName::Slot,
            () if has(&plan::temporary_name(&labels.slot, labels.instance)) => ContainerName::Temporary,
            () => ContainerName::Other,
        };
        Some(FoundContainer { container: found.id.unwrap_or_default(), labels, state: found.state, name })
    }

    /// Why a container is not adopted.
    fn unfit(&self, labels: &ManagedLabels, state: Option<State>, adopted: &[(Spec, Started)]) -> Option<&'static str> {
        let same_slot = |(spec, _): &(Spec, Started)| {
            *spec.name == *labels.slot || spec.instance == InstanceId::Managed(labels.instance)
        };
        match () {
            () if self.settings.on_exit == OnExit::Remove && !self.is_successor => {
                Some("left by a Ringway that was killed")
            }
            () if state != Some(State::RUNNING) => Some("it is not running"),
            () if labels.instance == 0 || labels.slot.is_empty() => Some("its labels are broken"),
            () if adopted.iter().any(same_slot) => Some("its slot is filled"),
            () => None,
        }
    }
}
