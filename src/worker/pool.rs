//! Idle upstream connections of one worker, per replica, last in first out: the one used last is the warm one.

use crate::core::snapshot::{ReplicaId, ServiceId, Snapshot, State};
use crate::core::tick::Tick;

/// By service and member, as the snapshot numbers them.
#[derive(Debug, Default)]
pub struct Pools {
    services: Vec<Vec<Pool>>,
}

#[derive(Debug)]
struct Pool {
    replica: ReplicaId,
    limit: usize,
    up: bool,
    idle: Vec<u32>,
    /// The connection on which requests gather.
    gathering: Option<u32>,
    /// Requests go one by one until then.
    suspended_until: Tick,
}

/// Where a connection waits between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolKey {
    pub service: ServiceId,
    /// The replica's number, as the snapshot had it when the connection was opened.
    pub member: usize,
    pub replica: ReplicaId,
}

impl Pools {
    /// Lays the pools out as `snapshot` has them, and returns the connections whose replica takes no more requests.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Vec<u32> {
        let mut before: Vec<Pool> = std::mem::take(&mut self.services).into_iter().flatten().collect();
        before.retain(|pool| !pool.idle.is_empty());
        for service in &snapshot.services {
            let pools = service.replicas.iter().map(|replica| {
                let kept = before.iter_mut().find(|pool| pool.replica == replica.id && replica.state == State::Up);
                Pool {
                    replica: replica.id,
                    limit: service.limits.pool_size,
                    up: replica.state == State::Up,
                    idle: kept.map(|pool| std::mem::take(&mut pool.idle)).unwrap_or_default(),
                    gathering: None,
                    suspended_until: Tick::default(),
                }
            });
            self.services.push(pools.collect());
        }
        before.into_iter().flat_map(|pool| pool.idle).collect()
    }

    /// The idle connection used last.
    pub fn take(&mut self, key: PoolKey) -> Option<u32> {
        self.find(key)?.idle.pop()
    }

    /// Where requests for this replica gather, if they may.
    pub fn gathering(&mut self, key: PoolKey, now: Tick) -> Option<&mut Option<u32>> {
        let pool = self.find(key)?;
        (pool.suspended_until <= now).then_some(&mut pool.gathering)
    }

    /// Standing in queue at this replica cost more than it saved: not again before `until`.
    pub fn suspend_pipelining(&mut self, key: PoolKey, until: Tick) {
        if let Some(pool) = self.find(key) {
            pool.suspended_until = until;
        }
    }

    /// Keeps `conn` for later; false if it should be closed instead.
    pub fn give(&mut self, key: PoolKey, conn: u32) -> bool {
        let Some(pool) = self.find(key) else { return false };
        let keep = pool.up && pool.idle.len() < pool.limit;
        if keep {
            pool.idle.push(conn);
        }
        keep
    }

    /// `conn` died while it was idle.
    pub fn forget(&mut self, key: PoolKey, conn: u32) {
        if let Some(pool) = self.find(key)
            && let Some(at) = pool.idle.iter().rposition(|c| *c == conn)
        {
            pool.idle.remove(at);
        }
    }

    /// Any idle connection, the coldest of the largest pool: its descriptor is needed elsewhere.
    pub fn evict(&mut self) -> Option<u32> {
        let largest = self.services.iter_mut().flatten().max_by_key(|pool| pool.idle.len())?;
        if largest.idle.is_empty() { None } else { Some(largest.idle.remove(0)) }
    }

    /// The coldest connections, as long as `is_stale` says so.
    pub fn expire(&mut self, is_stale: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut stale = Vec::new();
        for pool in self.services.iter_mut().flatten() {
            let n = pool.idle.iter().take_while(|conn| is_stale(**conn)).count();
            stale.extend(pool.idle.drain(..n));
        }
        stale
    }

    fn find(&mut self, key: PoolKey) -> Option<&mut Pool> {
        let pools = self.services.get_mut(key.service.0 as usize)?;
        let stays = pools.get(key.member).is_some_and(|pool| pool.replica == key.replica);
        let moved = || pools.iter().position(|pool| pool.replica == key.replica);
        let at = if stays { key.member } else { moved()? };
        pools.get_mut(at)
    }
}
