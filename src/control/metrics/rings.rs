//! What is computed of the rings for the metrics: shares, a digest, and how many keys the last change moved. Each ring is
//! computed once, when it is first asked for: with thousands of replicas it takes a while.

use std::sync::{Arc, Mutex, PoisonError};

use crate::core::ring::Ring;
use crate::core::snapshot::{Service, ServiceId, Snapshot};

/// The rings of all services, by their place in the snapshot. The control loop shows each snapshot; a scrape asks.
#[derive(Clone, Default)]
pub struct RingWatch(Arc<Mutex<Vec<Watched>>>);

struct Watched {
    service: Arc<Service>,
    /// The service as its last ring was, until the change is computed.
    before: Option<Arc<Service>>,
    changes: u64,
    facts: Option<Arc<RingFacts>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RingFacts {
    /// CRC-32 of names, weights and points: equal on balancers that send equal keys to equal replicas.
    pub digest: u32,
    /// By member: its part of all keys.
    pub shares: Vec<f64>,
    /// The part of all keys that the last change of the ring moved to another replica.
    pub moved: f64,
    /// How often the ring changed.
    pub changes: u64,
}

impl RingWatch {
    /// Cheap: nothing is computed.
    pub fn see(&self, snapshot: &Snapshot) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.truncate(snapshot.services.len());
        for (at, service) in snapshot.services.iter().enumerate() {
            match watched.get_mut(at) {
                Some(seen) if seen.service.name == service.name => seen.follow(service),
                Some(seen) => *seen = Watched::new(service),
                None => watched.push(Watched::new(service)),
            }
        }
    }

    /// Computes what is new, outside of the lock.
    pub fn facts(&self) -> Vec<Arc<RingFacts>> {
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        (0..count as u32).filter_map(|at| self.facts_of(ServiceId(at))).collect()
    }

    /// Those of one service.
    pub fn facts_of(&self, service: ServiceId) -> Option<Arc<RingFacts>> {
        let at = service.0 as usize;
        let (service, before, changes) = {
            let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = watched.get(at)?;
            if let Some(facts) = &seen.facts {
                return Some(facts.clone());
            }
            (seen.service.clone(), seen.before.clone(), seen.changes)
        };
        let facts = Arc::new(RingFacts {
            digest: digest(&service),
            shares: shares(&service.ring),
            moved: before.map_or(0.0, |before| moved(&before, &service)),
            changes,
        });
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = watched.get_mut(at).filter(|seen| Arc::ptr_eq(&seen.service.ring, &service.ring)) {
            seen.facts = Some(facts.clone());
            seen.before = None;
        }
        Some(facts)
    }
}

impl Watched {
    fn new(service: &Arc<Service>) -> Watched {
        Watched { service: service.clone(), before: None, changes: 0, facts: None }
    }

    /// The ring itself, not an equal one: snapshots that differ in health only share it.
    fn follow(&mut self, service: &Arc<Service>) {
        let before = std::mem::replace(&mut self.service, service.clone());
        if Arc::ptr_eq(&before.ring, &service.ring) {
            return;
        }
        self.facts = None;
        // An empty ring is how every service begins: no key moved.
        if before.ring.members() > 0 {
            self.changes += 1;
            self.before = Some(before);
        }
    }
}

fn shares(ring: &Ring) -> Vec<f64> {
    let shares = ring.shares();
    (0..ring.members()).map(|member| shares.of(member)).collect()
}

fn moved(before: &Service, after: &Service) -> f64 {
    let flows = before.ring.flows(&after.ring);
    let all: u64 = flows.iter().map(|flow| flow.keys).sum();
    let moves = flows.iter().filter(|flow| {
        let (from, to) = (before.replicas.get(flow.from), after.replicas.get(flow.to));
        from.map(|replica| &replica.name) != to.map(|replica| &replica.name)
    });
    let moved: u64 = moves.map(|flow| flow.keys).sum();
    moved as f64 / all.max(1) as f64
}

fn digest(service: &Service) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for replica in service.replicas.iter().take(service.ring.members()) {
        hasher.update(replica.name.as_bytes());
        hasher.update(&[0]);
        hasher.update(&replica.weight.to_le_bytes());
    }
    for (position, member) in service.ring.points() {
        hasher.update(&position.to_le_bytes());
        hasher.update(&(member as u32).to_le_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::core::balance::Ramp;
    use crate::core::limits::Limits;
    use crate::core::ring::{Member, RingKind};
    use crate::core::snapshot::{Endpoint, KeyPolicy, Mode, Replica, ReplicaId, ReplicaLoad, Service, State};

    pub fn service(name: &str, replicas: &[&str]) -> Arc<Service> {
        let replica = |name: &&str| Replica {
            id: ReplicaId(1),
            name: Arc::from(*name),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], 1).into()),
            weight: 1,
            state: State::Up,
            ramp: Ramp::WHOLE,
            sticky: None,
            load: Arc::new(ReplicaLoad::new(1)),
        };
        let members: Vec<Member> = replicas.iter().map(|name| Member::new(*name, 1)).collect();
        Arc::new(Service {
            name: name.into(),
            mode: Mode::Http,
            policy: Default::default(),
            key: KeyPolicy::Request,
            limits: Arc::new(Limits::default()),
            send_proxy: None,
            tls: None,
            max_5xx_in_a_row: None,
            queue_heads: Arc::default(),
            is_removed: false,
            replicas: replicas.iter().map(replica).collect(),
            ring: Arc::new(Ring::build(RingKind::Ketama, &members)),
        })
    }

    pub fn snapshot(services: Vec<Arc<Service>>) -> Snapshot {
        Snapshot { services, ..Snapshot::empty(9) }
    }

    #[test]
    fn a_change_moves_the_keys_of_the_replica_that_left() {
        let watch = RingWatch::default();
        watch.see(&snapshot(vec![service("a", &[])]));
        watch.see(&snapshot(vec![service("a", &["x", "y", "z"])]));
        let first = watch.facts().remove(0);
        assert_eq!((first.moved, first.changes, first.shares.len()), (0.0, 0, 3));
        watch.see(&snapshot(vec![service("a", &["x", "z"])]));
        let second = watch.facts().remove(0);
        assert!((second.moved - first.shares[1]).abs() < 1e-12, "{second:?}");
        assert_eq!((second.changes, second.shares.len()), (1, 2));
        assert_ne!(second.digest, first.digest);
        assert!(Arc::ptr_eq(&watch.facts()[0], &second), "it is computed once");
        watch.see(&snapshot(vec![service("a", &["x", "y", "z"])]));
        let third = watch.facts().remove(0);
        assert_eq!((third.digest, third.changes), (first.digest, 2), "an equal ring has an equal digest");
    }

    #[test]
    fn another_service_in_the_same_place_begins_anew() {
        let watch = RingWatch::default();
        watch.see(&snapshot(vec![service("a", &["x"]), service("b", &["x"])]));
        watch.see(&snapshot(vec![service("c", &["x", "y"])]));
        let facts = watch.facts();
        assert_eq!((facts.len(), facts[0].changes, facts[0].moved), (1, 0, 0.0));
    }
}
