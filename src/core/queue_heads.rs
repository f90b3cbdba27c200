//! Since when the oldest request that waits for a replica of one service does, in each worker: by this, workers let each
//! other go first. The requests themselves are not here.

use std::sync::atomic::{AtomicU64, Ordering};

use super::tick::Tick;

const NONE: u64 = u64::MAX;

/// Each worker writes its own.
#[derive(Debug, Default)]
pub struct QueueHeads(Box<[AtomicU64]>);

impl QueueHeads {
    pub fn new(workers: usize) -> QueueHeads {
        QueueHeads((0..workers).map(|_| AtomicU64::new(NONE)).collect())
    }

    pub fn set(&self, worker: usize, since: Option<Tick>) {
        if let Some(head) = self.0.get(worker) {
            head.store(since.map_or(NONE, |since| since.0), Ordering::Release);
        }
    }

    /// Other workers in which a request waits for longer than since `since`.
    pub fn earlier(&self, worker: usize, since: Option<Tick>) -> impl Iterator<Item = usize> + '_ {
        let own = since.map_or(NONE, |since| since.0);
        let heads = self.0.iter().map(|head| head.load(Ordering::Acquire)).enumerate();
        heads.filter(move |(other, head)| *other != worker && *head < own).map(|(other, _)| other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_sees_those_that_wait_for_longer() {
        let heads = QueueHeads::new(3);
        let earlier = |worker, since| heads.earlier(worker, since).collect::<Vec<_>>();
        assert!(earlier(0, None).is_empty());
        heads.set(1, Some(Tick(5)));
        heads.set(2, Some(Tick(7)));
        assert_eq!((earlier(0, None), earlier(0, Some(Tick(6)))), (vec![1, 2], vec![1]));
        assert_eq!((earlier(1, Some(Tick(5))), earlier(2, Some(Tick(7)))), (vec![], vec![1]));
        heads.set(1, None);
        assert_eq!(earlier(0, None), [2]);
    }
}
