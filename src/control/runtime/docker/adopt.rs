//! What an earlier life of Ringway left on the engine: adopted, or removed.

use std::collections::BTreeMap;

use bollard::models::ContainerSummaryStateEnum as State;

use super::OnExit;
use super::driver::{Driver, short};
use super::plan::{self, Mark};
use crate::control::runtime::{Failure, InstanceId, Spec, Started};
use crate::core::snapshot::ServiceId;

impl Driver {
    /// What an earlier life left: adopted if it serves and is what we would start, removed if not.
    pub async fn take_over(&self) -> Result<Vec<(Spec, Started)>, Failure> {
        let mut adopted: Vec<(Spec, Started)> = Vec::new();
        for found in self.list(&format!("{}={}", plan::CLUSTER, self.settings.cluster)).await? {
            let labels: BTreeMap<_, _> = found.labels.unwrap_or_default().into_iter().collect();
            let Some(mark) = Mark::read(&labels, &self.settings.cluster) else { continue };
            let container = found.id.unwrap_or_default();
            let is_called = |name: &String| name.trim_start_matches('/') == mark.slot;
            let has_name = found.names.unwrap_or_default().iter().any(is_called);
            let unfit = if has_name { self.unfit(&mark, found.state, &adopted) } else { Some("it was being replaced") };
            match (unfit, self.endpoint(&container).await?) {
                (None, Some(endpoint)) => {
                    let instance = InstanceId::Managed(mark.instance);
                    let spec = Spec { service: ServiceId::default(), name: mark.slot.into(), instance };
                    log::info!("{}: adopted {} at {endpoint:?}", spec.name, short(&container));
                    self.table().adopt(mark.instance, spec.name.clone(), container.clone());
                    adopted.push((spec, Started { endpoint, handle: short(&container).to_owned(), weight: 1 }));
                }
                (unfit, _) => {
                    log::info!(
                        "{}: removed {}: {}",
                        mark.slot,
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

    /// Why a container of an earlier life is not adopted.
    fn unfit(&self, mark: &Mark, state: Option<State>, adopted: &[(Spec, Started)]) -> Option<&'static str> {
        let same_slot = |(spec, _): &(Spec, Started)| {
            *spec.name == *mark.slot || spec.instance == InstanceId::Managed(mark.instance)
        };
        match () {
            () if self.settings.on_exit == OnExit::Remove => Some("left by a Ringway that was killed"),
            () if state != Some(State::RUNNING) => Some("it is not running"),
            () if mark.plan != self.plan.checksum() => Some("it was made to other settings or from another image"),
            () if mark.instance == 0 || mark.slot.is_empty() => Some("its labels are broken"),
            () if adopted.iter().any(same_slot) => Some("its slot is filled"),
            () => None,
        }
    }
}
