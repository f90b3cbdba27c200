//! What a heartbeat of each instance is: that of the configuration which brought the settings it was started with. A
//! rolling replacement that changes the path of the heartbeat asks earlier instances as before. Nothing is sent here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::probe::Heartbeat;
use super::runtime::revisions::Revision;
use crate::core::snapshot::ServiceId;

/// By service, of one configuration.
pub type Heartbeats = BTreeMap<ServiceId, Arc<Heartbeat>>;

#[derive(Debug, Default)]
pub struct HeartbeatTable {
    newest: Heartbeats,
    /// The revision that the newest configuration brought, where it is not the first.
    revisions: BTreeMap<ServiceId, Revision>,
    /// Of revisions before that one, until they are settled.
    earlier: BTreeMap<(ServiceId, Revision), Arc<Heartbeat>>,
}

impl HeartbeatTable {
    pub fn new(newest: Heartbeats) -> HeartbeatTable {
        HeartbeatTable { newest, ..HeartbeatTable::default() }
    }

    pub fn of(&self, service: ServiceId, revision: Revision) -> Arc<Heartbeat> {
        let earlier = self.earlier.get(&(service, revision));
        earlier.or_else(|| self.newest.get(&service)).cloned().unwrap_or_default()
    }

    /// Another configuration is in force, and brought these revisions. What it does not name keeps its heartbeat: a
    /// removed service may serve until the others are ready, and its instances drain.
    pub fn take_in(&mut self, newest: Heartbeats, revisions: &BTreeMap<ServiceId, Revision>) {
        let before = self.newest.clone();
        self.newest.extend(newest);
        for (service, revision) in revisions {
            let earlier = self.revisions.insert(*service, *revision).unwrap_or(Revision::FIRST);
            if let Some(heartbeat) = before.get(service).filter(|_| earlier != *revision) {
                self.earlier.insert((*service, earlier), heartbeat.clone());
            }
            // Told anew by the newest.
            self.earlier.remove(&(*service, *revision));
        }
    }

    /// All instances of the service have this revision.
    pub fn settle(&mut self, service: ServiceId, revision: Revision) {
        self.earlier.retain(|(known, its), _| *known != service || *its == revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: ServiceId = ServiceId(0);
    const OLD: Revision = Revision::FIRST;
    const NEW: Revision = Revision(2);

    #[test]
    fn an_instance_is_asked_what_its_own_configuration_says_until_all_have_another() {
        let [old, new, newer] = [(), (), ()].map(|()| Arc::new(Heartbeat::default()));
        let of = |heartbeat: &Arc<Heartbeat>| Heartbeats::from([(SHOP, heartbeat.clone())]);
        let is = |table: &HeartbeatTable, revision, heartbeat| Arc::ptr_eq(&table.of(SHOP, revision), heartbeat);
        let mut table = HeartbeatTable::new(of(&old));
        assert!(is(&table, OLD, &old));
        table.take_in(of(&new), &BTreeMap::from([(SHOP, NEW)]));
        assert!(is(&table, OLD, &old) && is(&table, NEW, &new) && is(&table, Revision::UNKNOWN, &new));
        table.settle(SHOP, OLD);
        assert!(is(&table, OLD, &old), "it went back");
        table.take_in(of(&newer), &BTreeMap::from([(SHOP, OLD)]));
        assert!(is(&table, OLD, &newer) && is(&table, NEW, &new));
        table.settle(SHOP, OLD);
        assert!(is(&table, OLD, &newer) && table.earlier.is_empty());
        table.take_in(of(&old), &BTreeMap::from([(SHOP, OLD)]));
        assert!(is(&table, OLD, &old), "the heartbeat alone changed");
    }

    #[test]
    fn a_service_that_was_removed_is_asked_as_before() {
        let old = Arc::new(Heartbeat::default());
        let mut table = HeartbeatTable::new(Heartbeats::from([(SHOP, old.clone())]));
        let other = Heartbeats::from([(ServiceId(1), Arc::new(Heartbeat::default()))]);
        table.take_in(other, &BTreeMap::new());
        assert!(Arc::ptr_eq(&table.of(SHOP, OLD), &old));
    }
}
