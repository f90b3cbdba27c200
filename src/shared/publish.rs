//! The way of snapshots from the control plane to the workers: one publisher, one reader for each worker, and the
//! workers' acknowledgements back. Nothing else goes this way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::core::snapshot::Snapshot;

pub use crate::kernel::Wake;

/// The epoch acknowledged by a worker that has ended.
const DETACHED: u64 = u64::MAX;

/// Owned by the control plane: the only writer.
pub struct SnapshotPublisher {
    view: SnapshotView,
    readers: Vec<ReaderSlot>,
    acks: Arc<Acks>,
    /// The number of the newest call of the roll.
    roll: Arc<AtomicU64>,
    peers: Peers,
}

/// How each reader is woken, in the order in which they were made.
type Peers = Arc<ArcSwap<Vec<Wake>>>;

struct ReaderSlot {
    acked: Arc<AtomicU64>,
    /// The newest call of the roll that it answered.
    answered: Arc<AtomicU64>,
    wake: Wake,
}

/// How workers tell the control plane that they acknowledged a snapshot.
struct Acks {
    /// While it is set, each acknowledgement calls `wake`.
    awaited: AtomicBool,
    wake: Wake,
}

/// Reads the snapshot in force, from any thread.
#[derive(Clone)]
pub struct SnapshotView(Arc<ArcSwap<Snapshot>>);

/// A worker's reader: `load` once per turn, `ack` after it acted on what it loaded.
pub struct SnapshotReader {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    acked: Arc<AtomicU64>,
    acks: Arc<Acks>,
    roll: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    peers: Peers,
}

impl SnapshotPublisher {
    /// Acknowledgements wake nothing: they have to be polled.
    pub fn new(first: Snapshot) -> SnapshotPublisher {
        SnapshotPublisher::with_ack_wake(first, Arc::new(|| {}))
    }

    /// While acknowledgements are awaited, each calls `wake`.
    pub fn with_ack_wake(first: Snapshot, wake: Wake) -> SnapshotPublisher {
        SnapshotPublisher {
            view: SnapshotView(Arc::new(ArcSwap::from_pointee(first))),
            readers: Vec::new(),
            acks: Arc::new(Acks { awaited: AtomicBool::new(false), wake }),
            roll: Arc::default(),
            peers: Arc::default(),
        }
    }

    /// A reader for one more worker, woken by `wake` whenever something is published.
    pub fn reader(&mut self, wake: Wake) -> SnapshotReader {
        let acked = Arc::new(AtomicU64::new(0));
        let answered = Arc::new(AtomicU64::new(0));
        self.readers.push(ReaderSlot { acked: acked.clone(), answered: answered.clone(), wake });
        self.peers.store(Arc::new(self.readers.iter().map(|reader| reader.wake.clone()).collect()));
        let (cache, roll, peers) = (Cache::new(self.view.0.clone()), self.roll.clone(), self.peers.clone());
        SnapshotReader { cache, acked, acks: self.acks.clone(), roll, answered, peers }
    }

    /// Wakes every worker, each of which answers in its next turn.
    pub fn call_roll(&self) {
        self.roll.fetch_add(1, Ordering::Relaxed);
        self.readers.iter().for_each(|reader| (reader.wake)());
    }

    /// The first worker that has not had a turn since the last `call_roll`.
    pub fn first_silent(&self) -> Option<usize> {
        let roll = self.roll.load(Ordering::Relaxed);
        let is_silent = |reader: &ReaderSlot| {
            reader.answered.load(Ordering::Relaxed) != roll && reader.acked.load(Ordering::SeqCst) != DETACHED
        };
        self.readers.iter().position(is_silent)
    }

    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.view.0.store(snapshot);
        for reader in &self.readers {
            (reader.wake)();
        }
    }

    pub fn view(&self) -> SnapshotView {
        self.view.clone()
    }

    /// From now on each acknowledgement wakes the control plane. Call it before `acked_epoch`: an acknowledgement is
    /// then either in that epoch or wakes.
    pub fn await_acks(&self) {
        self.acks.awaited.store(true, Ordering::SeqCst);
    }

    pub fn ignore_acks(&self) {
        self.acks.awaited.store(false, Ordering::SeqCst);
    }

    /// The newest epoch that every worker has acted on.
    pub fn acked_epoch(&self) -> u64 {
        self.readers.iter().map(|reader| reader.acked.load(Ordering::SeqCst)).min().unwrap_or(DETACHED)
    }
}

impl SnapshotView {
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }
}

impl SnapshotReader {
    pub fn load(&mut self) -> &Arc<Snapshot> {
        let roll = self.roll.load(Ordering::Relaxed);
        if self.answered.load(Ordering::Relaxed) != roll {
            self.answered.store(roll, Ordering::Relaxed);
        }
        self.cache.load()
    }

    /// Says that no later choice of this worker comes from an older snapshot than `epoch`.
    pub fn ack(&self, epoch: u64) {
        // Sequentially consistent with `await_acks` and `acked_epoch`: of the two stores each side makes before its load,
        // at least one is seen by the other side.
        let before = self.acked.swap(epoch, Ordering::SeqCst);
        if before != epoch && self.acks.awaited.load(Ordering::SeqCst) {
            (self.acks.wake)();
        }
    }

    /// Ends the wait of another worker.
    pub fn wake_peer(&self, worker: usize) {
        if let Some(wake) = self.peers.load().get(worker) {
            wake();
        }
    }

    /// The worker has ended: it delays no acknowledgement any more.
    pub fn detach(&self) {
        self.ack(DETACHED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(epoch: u64) -> Snapshot {
        Snapshot::empty(epoch)
    }

    /// A publisher of two readers, and how often it was woken by them.
    fn publisher() -> (SnapshotPublisher, [SnapshotReader; 2], Arc<AtomicU64>) {
        let wakes = Arc::new(AtomicU64::new(0));
        let counted = wakes.clone();
        let wake = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let mut publisher = SnapshotPublisher::with_ack_wake(snapshot(1), wake);
        let readers = [publisher.reader(Arc::new(|| {})), publisher.reader(Arc::new(|| {}))];
        (publisher, readers, wakes)
    }

    #[test]
    fn an_epoch_is_acked_when_every_reader_has_acked_it() {
        let (publisher, [mut first, second], _) = publisher();
        publisher.publish(Arc::new(snapshot(2)));
        assert_eq!((first.load().epoch, publisher.view().current().epoch), (2, 2));
        first.ack(2);
        assert_eq!(publisher.acked_epoch(), 0);
        second.ack(1);
        assert_eq!(publisher.acked_epoch(), 1);
        second.detach();
        assert_eq!(publisher.acked_epoch(), 2, "a worker that ended delays nothing");
    }

    #[test]
    fn a_worker_without_a_turn_is_silent_until_it_ends() {
        let (publisher, [mut first, mut second], _) = publisher();
        assert_eq!(publisher.first_silent(), None, "the roll was not called");
        publisher.call_roll();
        assert_eq!(publisher.first_silent(), Some(0));
        first.load();
        assert_eq!(publisher.first_silent(), Some(1));
        second.load();
        assert_eq!(publisher.first_silent(), None);
        publisher.call_roll();
        first.load();
        second.detach();
        assert_eq!(publisher.first_silent(), None, "a worker that ended has no turns");
    }

    #[test]
    fn a_new_ack_wakes_while_acks_are_awaited() {
        let (publisher, [reader, other], wakes) = publisher();
        reader.ack(1);
        assert_eq!(wakes.load(Ordering::Relaxed), 0, "not awaited");
        publisher.await_acks();
        reader.ack(1);
        assert_eq!(wakes.load(Ordering::Relaxed), 0, "the same epoch again");
        reader.ack(2);
        other.detach();
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
        publisher.ignore_acks();
        reader.ack(3);
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }
}
