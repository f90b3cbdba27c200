//! Containers of an earlier run of Ringway, found at the start: adopted or removed. One with other settings is adopted too:
//! it serves until its replacement does.

use std::collections::BTreeMap;

use bollard::models::ContainerSummaryStateEnum as State;

use super::driver::{Driver, short};
use super::plan::{self, ManagedLabels};
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::{Failure, InstanceId, Spec, Started};
use crate::core::snapshot::ServiceId;
use crate::settings::OnExit;

impl Driver {
    /// Adopts those that run, and removes the others.
    pub async fn adopt_or_remove(&self) -> Result<Vec<(Spec, Started)>, Failure> {
        let (mut adopted, launch) = (Vec::new(), self.newest());
        for found in self.list(&format!("{}={}", plan::CLUSTER, self.settings.cluster)).await? {
            let labels: BTreeMap<_, _> = found.labels.unwrap_or_default().into_iter().collect();
            let Some(labels) = ManagedLabels::read(&labels, &self.settings.cluster) else { continue };
            let container = found.id.unwrap_or_default();
            let is_slot_name = |name: &String| name.trim_start_matches('/') == labels.slot;
            let has_name = found.names.unwrap_or_default().iter().any(is_slot_name);
            let unfit =
                if has_name { self.unfit(&labels, found.state, &adopted) } else { Some("it was being replaced") };
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
                    adopted.push((spec, Started { endpoint, handle: short(&container).to_owned(), weight: 1 }));
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
