//! Turns the registry's state into snapshots. A new one appears exactly when workers would see a difference; the
//! ring is built again only when its members or their weights change.

use std::sync::Arc;

use super::Registry;
use super::command::{Effect, Plan};
use super::leaving::Leaving;
use super::slot::Slot;
use crate::core::ring::{Member, Ring};
use crate::core::snapshot::{Replica, ReplicaId, Service, Snapshot, State};

#[derive(Debug)]
pub struct Press {
    epoch: u64,
    ring: Arc<Ring>,
    /// The ring's members changed since it was built.
    reshaped: bool,
    /// What the last snapshot showed.
    shown: Vec<(ReplicaId, State)>,
    stopping: bool,
}

impl Press {
    pub fn new(plan: &Plan) -> Press {
        let ring = Arc::new(Ring::build(plan.ring, &[]));
        Press { epoch: 1, ring, reshaped: false, shown: Vec::new(), stopping: false }
    }

    pub fn first(&self, plan: &Plan) -> Snapshot {
        self.print(plan, Vec::new())
    }

    pub fn reshape(&mut self) {
        self.reshaped = true;
    }

    pub fn reshape_if(&mut self, changed: bool) {
        self.reshaped |= changed;
    }

    /// The epoch that a change made now becomes visible with.
    pub fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    fn print(&self, plan: &Plan, replicas: Vec<Replica>) -> Snapshot {
        let ours = Service {
            name: plan.service.clone(),
            mode: plan.mode,
            key: plan.key.clone(),
            limits: plan.limits.clone(),
            send_proxy: plan.send_proxy,
            replicas,
            ring: self.ring.clone(),
        };
        let services = std::iter::once(Arc::new(ours)).chain(plan.others.iter().cloned()).collect();
        Snapshot { epoch: self.epoch, stopping: self.stopping, services, routes: plan.routes.clone() }
    }
}

impl Registry {
    pub(super) fn publish_changes(&mut self) {
        let same = self.seen().eq(self.press.shown.iter().copied());
        if same && !self.press.reshaped && self.press.stopping == self.stopping {
            return;
        }
        if std::mem::take(&mut self.press.reshaped) {
            let members: Vec<Member> = self.members.iter().map(|slot| Member::new(&*slot.name, slot.weight)).collect();
            self.press.ring = Arc::new(Ring::build(self.plan.ring, &members));
        }
        self.press.shown = self.seen().collect();
        self.press.stopping = self.stopping;
        self.press.epoch += 1;
        let snapshot = self.press.print(&self.plan, self.replicas().collect());
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
