//! Turns the registry's state into snapshots. A new one appears exactly when workers can tell a difference; services
//! that did not change are shared with the last one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Registry;
use super::command::Effect;
use super::leaving::Leaving;
use super::service::ServiceState;
use crate::core::snapshot::{Lifecycle, Service, ServiceId, Snapshot};

/// Which snapshot is in force.
#[derive(Debug)]
pub struct Publication {
    epoch: u64,
    lifecycle: Lifecycle,
    /// Listeners or routes changed since.
    is_outdated: bool,
}

impl Publication {
    pub fn first(lifecycle: Lifecycle) -> Publication {
        Publication { epoch: 1, lifecycle, is_outdated: false }
    }

    pub fn mark_changed(&mut self) {
        self.is_outdated = true;
    }

    /// The epoch that a change made now becomes visible with.
    pub fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }
}

impl Registry {
    /// Workers can tell a difference from the last snapshot.
    fn has_changes(&self) -> bool {
        self.services.values().any(ServiceState::has_changes)
            || self.publication.lifecycle != self.lifecycle
            || self.publication.is_outdated
    }

    /// What was changed until now is visible from this epoch on.
    pub(super) fn pending_epoch(&self) -> u64 {
        if self.has_changes() { self.publication.next_epoch() } else { self.publication.epoch }
    }

    pub(super) fn publish_changes(&mut self) {
        if !self.has_changes() {
            return;
        }
        self.warn_of_drained_services();
        self.publication.is_outdated = false;
        self.publication.epoch += 1;
        self.publication.lifecycle = self.lifecycle;
        let snapshot = Arc::new(self.snapshot());
        self.effects.insert(0, Effect::Publish(snapshot));
    }

    pub(super) fn snapshot(&mut self) -> Snapshot {
        let (slots, leaving) = (&self.slots, &self.leaving);
        let services = self.services.iter_mut().map(|(id, service)| {
            let own = leaving.iter().filter(|leaving| leaving.service == *id);
            (*id, service.publish(slots, own.filter_map(Leaving::replica)))
        });
        let fixed = self.static_services.iter().map(|(id, service)| (*id, service.clone()));
        let services: BTreeMap<ServiceId, Arc<Service>> = services.chain(fixed).collect();
        let (services, listeners) = (services.into_values().collect(), self.listeners.values().cloned().collect());
        let Publication { epoch, lifecycle, .. } = self.publication;
        let (routes, challenges) = (self.routes.clone(), self.challenges.clone());
        Snapshot { epoch, lifecycle, services, listeners, routes, challenges }
    }
}
