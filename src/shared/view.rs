//! One publisher, a viewer per worker: the only arrow from the control plane down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::core::snapshot::Snapshot;

pub use crate::kernel::Wake;

/// Held by the control plane alone.
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    seats: Vec<Seat>,
}

struct Seat {
    seen: Arc<AtomicU64>,
    wake: Wake,
}

/// A worker's view: `load` once per turn, `seen` after it acted on what it loaded.
pub struct Viewer {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    seen: Arc<AtomicU64>,
}

impl Publisher {
    pub fn new(first: Snapshot) -> Publisher {
        Publisher { current: Arc::new(ArcSwap::from_pointee(first)), seats: Vec::new() }
    }

    /// A seat for one more worker, woken by `wake` whenever something is published.
    pub fn viewer(&mut self, wake: Wake) -> Viewer {
        let seen = Arc::new(AtomicU64::new(0));
        self.seats.push(Seat { seen: seen.clone(), wake });
        Viewer { cache: Cache::new(self.current.clone()), seen }
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        for seat in &self.seats {
            (seat.wake)();
        }
    }

    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The newest epoch that every worker has acted on.
    pub fn live_epoch(&self) -> u64 {
        self.seats.iter().map(|seat| seat.seen.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }
}

impl Viewer {
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.cache.load()
    }

    /// Says that no later choice of this worker comes from an older snapshot than `epoch`.
    pub fn saw(&self, epoch: u64) {
        self.seen.store(epoch, Ordering::Release);
    }

    /// A worker that ended holds nobody up.
    pub fn left(&self) {
        self.saw(u64::MAX);
    }
}
