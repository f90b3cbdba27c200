//! Turns the registry's state into snapshots. A new one appears exactly when workers would see a difference; the
//! ring is built again only when its members or their weights change.

use std::sync::Arc;

use super::Registry;
use super::command::{Effect, RegistryConfig};
use super::leaving::Leaving;
use super::slot::Slot;
use crate::core::ring::{Member, Ring};
use crate::core::snapshot::{Replica, ReplicaId, Service, Snapshot, State};

#[derive(Debug)]
pub struct SnapshotBuilder {
    epoch: u64,
    ring: Arc<Ring>,
    /// The ring's members changed since it was built.
    ring_dirty: bool,
    /// What the last snapshot showed.
    shown: Vec<(ReplicaId, State)>,
    stopping: bool,
}

impl SnapshotBuilder {
    pub fn new(config: &RegistryConfig) -> SnapshotBuilder {
        let ring = Arc::new(Ring::build(config.ring, &[]));
        SnapshotBuilder { epoch: 1, ring, ring_dirty: false, shown: Vec::new(), stopping: false }
    }

    pub fn first(&self, config: &RegistryConfig) -> Snapshot {
        self.build(config, Vec::new())
    }

    pub fn mark_ring_dirty(&mut self) {
        self.ring_dirty = true;
    }

    pub fn mark_ring_dirty_if(&mut self, changed: bool) {
        self.ring_dirty |= changed;
    }

    /// The epoch that a change made now becomes visible with.
    pub fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    fn build(&self, config: &RegistryConfig, replicas: Vec<Replica>) -> Snapshot {
        let managed = Service {
            name: config.service.clone(),
            mode: config.mode,
            key: config.key.clone(),
            limits: config.limits.clone(),
            send_proxy: config.send_proxy,
            replicas,
            ring: self.ring.clone(),
        };
        let services = std::iter::once(Arc::new(managed)).chain(config.others.iter().cloned()).collect();
        Snapshot { epoch: self.epoch, stopping: self.stopping, services, routes: config.routes.clone() }
    }
}

impl Registry {
    pub(super) fn publish_changes(&mut self) {
        let same = self.seen().eq(self.builder.shown.iter().copied());
        if same && !self.builder.ring_dirty && self.builder.stopping == self.stopping {
            return;
        }
        if std::mem::take(&mut self.builder.ring_dirty) {
            let members: Vec<Member> = self.members.iter().map(|slot| Member::new(&*slot.name, slot.weight)).collect();
            self.builder.ring = Arc::new(Ring::build(self.config.ring, &members));
        }
        self.builder.shown = self.seen().collect();
        self.builder.stopping = self.stopping;
        self.builder.epoch += 1;
        let snapshot = self.builder.build(&self.config, self.replicas().collect());
        // Before anything else: no reply, start or stop overtakes what the workers choose from.
        self.effects.insert(0, Effect::Publish(snapshot));
    }

    /// What workers would tell apart.
    fn seen(&self) -> impl Iterator<Item = (ReplicaId, State)> + '_ {
        let leaving = self.leaving.iter().filter_map(Leaving::replica).map(|replica| (replica.id, replica.state));
        self.members.iter().map(Slot::seen).chain(leaving)
    }

    fn replicas(&self) -> impl Iterator<Item = Replica> + '_ {
        let members = self.members.iter().map(Slot::replica);
        members.chain(self.leaving.iter().filter_map(Leaving::replica).cloned())
    }
}
