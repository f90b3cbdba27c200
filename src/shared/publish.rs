//! One publisher, a reader per worker: the only arrow from the control plane down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::core::snapshot::Snapshot;

pub use crate::kernel::Wake;

/// Held by the control plane alone.
pub struct SnapshotPublisher {
    current: Arc<ArcSwap<Snapshot>>,
    readers: Vec<ReaderSlot>,
}

struct ReaderSlot {
    seen: Arc<AtomicU64>,
    wake: Wake,
}

/// A worker's view: `load` once per turn, `seen` after it acted on what it loaded.
pub struct SnapshotReader {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    seen: Arc<AtomicU64>,
}

impl SnapshotPublisher {
    pub fn new(first: Snapshot) -> SnapshotPublisher {
        SnapshotPublisher { current: Arc::new(ArcSwap::from_pointee(first)), readers: Vec::new() }
    }

    /// A reader for one more worker, woken by `wake` whenever something is published.
    pub fn reader(&mut self, wake: Wake) -> SnapshotReader {
        let seen = Arc::new(AtomicU64::new(0));
        self.readers.push(ReaderSlot { seen: seen.clone(), wake });
        SnapshotReader { cache: Cache::new(self.current.clone()), seen }
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        for reader in &self.readers {
            (reader.wake)();
        }
    }

    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The newest epoch that every worker has acted on.
    pub fn live_epoch(&self) -> u64 {
        self.readers.iter().map(|reader| reader.seen.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }
}

impl SnapshotReader {
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.cache.load()
    }

    /// Says that no later choice of this worker comes from an older snapshot than `epoch`.
    pub fn ack(&self, epoch: u64) {
        self.seen.store(epoch, Ordering::Release);
    }

    /// A worker that ended holds nobody up.
    pub fn detach(&self) {
        self.ack(u64::MAX);
    }
}
