//! What the registry keeps of one service beside its slots: its configuration, its members in ring order, counts of them
//! and what was last published.

use std::sync::Arc;

use super::command::ServiceConfig;
use super::slot::Slot;
use super::slots::{SlotId, Slots, View};
use crate::control::runtime::Origin;
use crate::control::runtime::revisions::Revision;
use crate::core::queue_heads::QueueHeads;
use crate::core::ring::{Member, Ring};
use crate::core::snapshot::{DEFAULT_SERVICE, Replica, Service, State};
use crate::core::tick::Tick;
use crate::shared::histogram::Durations;

#[derive(Debug)]
pub struct ServiceState {
    pub config: ServiceConfig,
    /// What its instances are started with.
    pub revision: Revision,
    /// Ascending, which is ring order: a member's position here is its index on the ring.
    members: Vec<SlotId>,
    /// Members that are up; those of them that take requests; those of them that are ejected; those of them that an operator
    /// drained; those that we start and stop.
    up: usize,
    routable: usize,
    ejected: usize,
    drained: usize,
    managed: usize,
    /// Replicas that died or stopped answering, and how long it took until they were replaced or answered again.
    pub deaths: u64,
    pub heals: Durations,
    /// Why the newest settings of its instances are not used: two in a row did not come up with them.
    pub refused: Option<Arc<str>>,
    /// Times that a replica was ejected.
    pub ejections: u64,
    /// When shares of failed requests were compared last.
    pub errors_compared: Tick,
    /// No replica takes requests, and an operator drained some: it was said.
    is_all_drained: bool,
    /// No configuration names it any more.
    pub is_removed: bool,
    published: Arc<Service>,
    changes: Changes,
}

/// What changed since the last publication, as far as workers can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changes {
    None,
    /// The state of replicas. The ring is shared.
    Replicas,
    /// The ring's members or their weights: it is built again.
    Ring,
}

impl ServiceState {
    pub fn new(config: ServiceConfig, workers: usize) -> ServiceState {
        let ring = Arc::new(Ring::build(config.ring, &[]));
        let queue_heads = Arc::new(QueueHeads::new(workers));
        let published = Arc::new(service(&config, Vec::new(), ring, queue_heads));
        ServiceState {
            config,
            revision: Revision::FIRST,
            members: Vec::new(),
            up: 0,
            routable: 0,
            ejected: 0,
            drained: 0,
            managed: 0,
            deaths: 0,
            heals: Durations::default(),
            ejections: 0,
            errors_compared: Tick::ZERO,
            refused: None,
            is_all_drained: false,
            is_removed: false,
            published,
            changes: Changes::None,
        }
    }

    pub fn members(&self) -> &[SlotId] {
        &self.members
    }

    /// Members that we start and stop: what `--max-replicas` limits.
    pub fn managed(&self) -> usize {
        self.managed
    }

    pub fn routable(&self) -> usize {
        self.routable
    }

    pub fn ejected(&self) -> usize {
        self.ejected
    }

    pub fn drained(&self) -> usize {
        self.drained
    }

    pub fn up(&self) -> usize {
        self.up
    }

    /// What is to be said, once, when no replica takes requests and an operator drained some of them.
    pub fn note_all_drained(&mut self) -> Option<String> {
        let is_all_drained = self.drained > 0 && self.routable == 0 && self.ejected == 0;
        let was = std::mem::replace(&mut self.is_all_drained, is_all_drained);
        (is_all_drained && !was).then(|| {
            let (name, tally) = (&self.config.name, self.tally());
            format!(
                "service {name}: no replica takes requests, they are answered 503: an operator drained them; {tally}"
            )
        })
    }

    /// What snapshots show of it is built again only where that changed.
    pub fn reconfigure(&mut self, config: ServiceConfig) {
        if self.config.ring != config.ring {
            self.mark_ring_changed();
        } else if self.is_removed || shows_another(&self.config, &config) {
            self.mark_replicas_changed();
        }
        // What becomes of containers at the end was decided when the runtime was opened.
        self.config = ServiceConfig { keeps_on_exit: self.config.keeps_on_exit, ..config };
        self.is_removed = false;
    }

    /// No configuration names it any more.
    pub fn set_removed(&mut self) {
        self.is_removed = true;
        self.refused = None;
        self.mark_replicas_changed();
    }

    /// So many members may be ejected at a time.
    pub fn max_ejected(&self) -> usize {
        (self.config.health.ejection.max_share * self.members.len() as f64) as usize
    }

    /// `id` is the newest slot.
    pub fn add_member(&mut self, id: SlotId, slot: &Slot) {
        self.members.push(id);
        self.managed += usize::from(slot.origin == Origin::Managed);
        self.count(View::of(slot));
        self.mark_ring_changed();
    }

    pub fn remove_member(&mut self, id: SlotId, slot: &Slot) {
        if let Ok(at) = self.members.binary_search(&id) {
            self.members.remove(at);
            self.managed -= usize::from(slot.origin == Origin::Managed);
            self.discount(View::of(slot));
            self.mark_ring_changed();
        }
    }

    /// A member changed from what it was.
    pub fn update_member(&mut self, before: View, slot: &Slot) {
        let after = View::of(slot);
        self.discount(before);
        self.count(after);
        if before.weight != after.weight {
            self.mark_ring_changed();
        } else if (before.shown, before.ramp) != (after.shown, after.ramp) {
            self.mark_replicas_changed();
        }
    }

    fn count(&mut self, view: View) {
        self.up += usize::from(view.is_up);
        self.routable += usize::from(view.shown.1 == State::Up);
        self.ejected += usize::from(view.shown.1 == State::Ejected);
        self.drained += usize::from(view.is_drained);
    }

    fn discount(&mut self, view: View) {
        self.up -= usize::from(view.is_up);
        self.routable -= usize::from(view.shown.1 == State::Up);
        self.ejected -= usize::from(view.shown.1 == State::Ejected);
        self.drained -= usize::from(view.is_drained);
    }

    pub fn mark_replicas_changed(&mut self) {
        self.changes = self.changes.max(Changes::Replicas);
    }

    pub fn mark_ring_changed(&mut self) {
        self.changes = Changes::Ring;
    }

    pub fn has_changes(&self) -> bool {
        self.changes != Changes::None
    }

    /// What snapshots show of it: built again where it changed. `draining` are replicas that left the ring.
    pub fn publish<'a>(&mut self, slots: &Slots, draining: impl Iterator<Item = &'a Replica>) -> Arc<Service> {
        let changes = std::mem::replace(&mut self.changes, Changes::None);
        if changes != Changes::None {
            let ring = match changes {
                Changes::Ring => self.build_ring(slots),
                _ => self.published.ring.clone(),
            };
            let members = self.members.iter().filter_map(|id| slots.slot(*id)).map(|slot| self.replica(slot));
            let replicas = members.chain(draining.cloned()).collect();
            let shown = Service {
                is_removed: self.is_removed,
                ..service(&self.config, replicas, ring, self.published.queue_heads.clone())
            };
            self.published = Arc::new(shown);
        }
        self.published.clone()
    }

    fn replica(&self, slot: &Slot) -> Replica {
        let sticky = self.config.limits.sticky.as_ref().map(|policy| policy.value(&self.config.name, &slot.name));
        Replica { sticky, ..slot.replica() }
    }

    fn build_ring(&self, slots: &Slots) -> Arc<Ring> {
        let members = self.members.iter().filter_map(|id| slots.slot(*id));
        let members: Vec<Member> = members.map(|slot| Member::new(&*slot.name, slot.weight())).collect();
        Arc::new(Ring::build(self.config.ring, &members))
    }

    /// "2 of 3 live", for the operator; ", 1 drained" where an operator drained one of the live ones; " in shop" where the
    /// service has a name of its own.
    pub fn tally(&self) -> String {
        let drained = if self.drained == 0 { String::new() } else { format!(", {} drained", self.drained) };
        let name = &*self.config.name;
        let of = if name == DEFAULT_SERVICE { String::new() } else { format!(" in {name}") };
        format!("{} of {} live{drained}{of}", self.up, self.members.len())
    }

    #[cfg(debug_assertions)]
    pub fn check(&self, slots: &Slots) {
        let members: Vec<&Slot> = self.members.iter().filter_map(|id| slots.slot(*id)).collect();
        assert_eq!(members.len(), self.members.len(), "a member has no slot");
        assert!(self.members.is_sorted(), "members are in ring order");
        let count = |counted: fn(&Slot) -> bool| members.iter().filter(|slot| counted(slot)).count();
        assert_eq!(self.up, count(Slot::is_up), "members that are up");
        assert_eq!(self.routable, count(|slot| slot.shown().1 == State::Up), "members that take requests");
        assert_eq!(self.drained, count(Slot::is_drained), "members that an operator drained");
        assert_eq!(self.ejected, count(|slot| slot.shown().1 == State::Ejected), "members that are ejected");
        assert!(self.ejected <= self.max_ejected(), "{} of {} ejected", self.ejected, members.len());
        assert_eq!(self.managed, count(|slot| slot.origin == Origin::Managed), "members that we start");
    }
}

/// What snapshots show of a service is not the same. Each setting stands here, with those that they do not show.
fn shows_another(before: &ServiceConfig, now: &ServiceConfig) -> bool {
    let ServiceConfig { mode, policy, key, ring: _, limits, send_proxy, tls, health, .. } = before;
    let ServiceConfig { name: _, replicas: _, max_replicas: _, can_start: _, keeps_on_exit: _, .. } = before;
    *mode != now.mode
        || *policy != now.policy
        || *key != now.key
        || *limits != now.limits
        || *send_proxy != now.send_proxy
        || tls.as_ref().map(Arc::as_ptr) != now.tls.as_ref().map(Arc::as_ptr)
        || health.ejection != now.health.ejection
}

fn service(config: &ServiceConfig, replicas: Vec<Replica>, ring: Arc<Ring>, queue_heads: Arc<QueueHeads>) -> Service {
    Service {
        name: config.name.clone(),
        mode: config.mode,
        policy: config.policy,
        key: config.key.clone(),
        limits: config.limits.clone(),
        send_proxy: config.send_proxy,
        tls: config.tls.clone(),
        max_5xx_in_a_row: config.health.ejection.max_5xx_in_a_row(),
        queue_heads,
        replicas,
        ring,
        is_removed: false,
    }
}
