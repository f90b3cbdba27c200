//! Idle upstream connections of one worker, per replica, last in first out: the connection used last is the warm one.
//! Connections in use, and sockets, never enter.

use crate::core::snapshot::{ReplicaId, ServiceId, Snapshot};
use crate::core::tick::Tick;

use super::slab::UpstreamId;

/// By service and member, as the snapshot numbers them.
#[derive(Debug, Default)]
pub struct Pools {
    services: Vec<Vec<ReplicaPool>>,
}

#[derive(Debug)]
struct ReplicaPool {
    replica: ReplicaId,
    limit: usize,
    /// Its replica may take requests.
    keeps: bool,
    idle: Vec<UpstreamId>,
    /// The connection on which this turn's requests are pipelined.
    pipelined: Option<UpstreamId>,
    /// No request is pipelined before this.
    pipelining_suspended_until: Tick,
}

/// Which pool a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolKey {
    pub service: ServiceId,
    /// The replica's index in the service, as the snapshot had it when the connection was opened.
    pub member: usize,
    pub replica: ReplicaId,
}

impl Pools {
    /// Arranges the pools as in `snapshot`, and returns the connections whose replica takes no more requests.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Vec<UpstreamId> {
        let mut before: Vec<ReplicaPool> = std::mem::take(&mut self.services).into_iter().flatten().collect();
        before.retain(|pool| !pool.idle.is_empty());
        for service in &snapshot.services {
            let pools = service.replicas.iter().map(|replica| {
                let keeps = replica.state.may_take_requests();
                let kept = before.iter_mut().find(|pool| keeps && pool.replica == replica.id);
                ReplicaPool {
                    replica: replica.id,
                    limit: service.limits.pool_size,
                    keeps,
                    idle: kept.map(|pool| std::mem::take(&mut pool.idle)).unwrap_or_default(),
                    pipelined: None,
                    pipelining_suspended_until: Tick::default(),
                }
            });
            self.services.push(pools.collect());
        }
        before.into_iter().flat_map(|pool| pool.idle).collect()
    }

    /// The idle connection used last.
    pub fn take(&mut self, key: PoolKey) -> Option<UpstreamId> {
        self.find(key)?.idle.pop()
    }

    /// The connection on which requests for this replica are pipelined now, unless pipelining is suspended.
    pub fn pipelined(&mut self, key: PoolKey, now: Tick) -> Option<&mut Option<UpstreamId>> {
        let pool = self.find(key)?;
        (pool.pipelining_suspended_until <= now).then_some(&mut pool.pipelined)
    }

    /// Pipelining to this replica cost more than it saved: not again before `until`.
    pub fn suspend_pipelining(&mut self, key: PoolKey, until: Tick) {
        if let Some(pool) = self.find(key) {
            pool.pipelining_suspended_until = until;
        }
    }

    /// Keeps a connection that became idle; false if it should be closed instead.
    pub fn give(&mut self, key: PoolKey, upstream: UpstreamId) -> bool {
        let Some(pool) = self.find(key) else { return false };
        let keep = pool.keeps && pool.idle.len() < pool.limit;
        if keep {
            pool.idle.push(upstream);
        }
        keep
    }

    /// An idle connection was closed by its replica.
    pub fn forget(&mut self, key: PoolKey, upstream: UpstreamId) {
        if let Some(pool) = self.find(key)
            && let Some(at) = pool.idle.iter().rposition(|idle| *idle == upstream)
        {
            pool.idle.remove(at);
        }
    }

    /// The idle connection of the largest pool that was unused for longest: its descriptor is needed elsewhere.
    pub fn evict(&mut self) -> Option<UpstreamId> {
        let largest = self.services.iter_mut().flatten().max_by_key(|pool| pool.idle.len())?;
        if largest.idle.is_empty() { None } else { Some(largest.idle.remove(0)) }
    }

    /// Removes the idle connections that are stale, oldest first.
    pub fn expire(&mut self, is_stale: impl Fn(UpstreamId) -> bool) -> Vec<UpstreamId> {
        let mut stale = Vec::new();
        for pool in self.services.iter_mut().flatten() {
            let n = pool.idle.iter().take_while(|idle| is_stale(**idle)).count();
            stale.extend(pool.idle.drain(..n));
        }
        stale
    }

    fn find(&mut self, key: PoolKey) -> Option<&mut ReplicaPool> {
        let pools = self.services.get_mut(key.service.0 as usize)?;
        let stays = pools.get(key.member).is_some_and(|pool| pool.replica == key.replica);
        let moved = || pools.iter().position(|pool| pool.replica == key.replica);
        let at = if stays { key.member } else { moved()? };
        pools.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::super::slab::Key;
    use super::*;
    use crate::core::balance::Ramp;
    use crate::core::limits::Limits;
    use crate::core::ring::{Ring, RingKind};
    use crate::core::snapshot::{Endpoint, KeyPolicy, Mode, Replica, ReplicaLoad, Service, State};

    const SERVICE: ServiceId = ServiceId(0);

    fn snapshot(states: &[State], pool_size: usize) -> Snapshot {
        let replica = |(number, state): (usize, &State)| Replica {
            id: ReplicaId(number as u64),
            name: "a".into(),
            endpoint: Endpoint::Tcp(SocketAddr::from(([10, 0, 0, 2], 80))),
            weight: 1,
            state: *state,
            ramp: Ramp::WHOLE,
            sticky: None,
            load: Arc::new(ReplicaLoad::new(1)),
        };
        let service = Service {
            name: "service".into(),
            mode: Mode::Http,
            policy: Default::default(),
            key: KeyPolicy::Request,
            limits: Arc::new(Limits { pool_size, ..Limits::DEFAULT }),
            replicas: states.iter().enumerate().map(replica).collect(),
            send_proxy: None,
            tls: None,
            max_5xx_in_a_row: None,
            queue_heads: Arc::default(),
            is_removed: false,
            ring: Arc::new(Ring::build(RingKind::Ketama, &[])),
        };
        Snapshot::of_service(1, service)
    }

    fn key(member: usize) -> PoolKey {
        PoolKey { service: SERVICE, member, replica: ReplicaId(member as u64) }
    }

    fn upstreams<const N: usize>() -> [UpstreamId; N] {
        std::array::from_fn(|index| UpstreamId::from_index(index as u32))
    }

    #[test]
    fn a_pool_keeps_as_many_connections_as_its_limit_and_none_of_a_replica_that_takes_no_requests() {
        let mut pools = Pools::default();
        let [a, b, c] = upstreams();
        pools.follow(&snapshot(&[State::Up, State::Ejected, State::Draining, State::Down], 2));
        assert_eq!([a, b, c].map(|id| pools.give(key(0), id)), [true, true, false]);
        assert_eq!([1, 2, 3].map(|member| pools.give(key(member), a)), [true, false, false]);
        assert_eq!([(); 3].map(|()| pools.take(key(0))), [Some(b), Some(a), None], "last in, first out");
        assert!(!pools.give(PoolKey { service: ServiceId(7), ..key(0) }, a), "a service that is gone");
    }

    #[test]
    fn a_connection_that_its_replica_closed_is_not_taken() {
        let mut pools = Pools::default();
        let [a, b, c] = upstreams();
        pools.follow(&snapshot(&[State::Up], 3));
        assert!([a, b, c].into_iter().all(|id| pools.give(key(0), id)));
        pools.forget(key(0), b);
        assert_eq!([(); 3].map(|()| pools.take(key(0))), [Some(c), Some(a), None]);
    }

    #[test]
    fn connections_follow_their_replica_and_are_returned_when_it_takes_no_requests() {
        let mut pools = Pools::default();
        let [a, b] = upstreams();
        pools.follow(&snapshot(&[State::Up, State::Up], 2));
        assert!(pools.give(key(0), a) && pools.give(key(1), b));
        assert_eq!(pools.follow(&snapshot(&[State::Up, State::Down], 2)), [b]);
        assert_eq!((pools.take(key(0)), pools.take(key(1))), (Some(a), None));
    }
}
