//! The connections of the admin listener: at most so many at once. When all seats are taken, the oldest connection that has
//! not shown yet that it may call makes room; one that has is never closed for another. It knows no HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Seats for connections.
pub struct AdminSeats {
    free: Arc<Semaphore>,
    strangers: Arc<Mutex<Strangers>>,
}

/// The place of one connection, free again when the last reference is dropped.
pub struct Seat {
    number: u64,
    strangers: Arc<Mutex<Strangers>>,
    _permit: OwnedSemaphorePermit,
}

/// Connections that may be closed for new ones, in the order of their arrival.
#[derive(Default)]
struct Strangers {
    arrived: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

impl AdminSeats {
    pub fn new(count: usize) -> AdminSeats {
        AdminSeats { free: Arc::new(Semaphore::new(count)), strangers: Arc::default() }
    }

    /// Waits only while every seat is kept. `None` cannot happen: the semaphore is never closed.
    pub async fn take(&self) -> Option<Arc<Seat>> {
        if self.free.available_permits() == 0 {
            self.evict_oldest();
        }
        let permit = self.free.clone().acquire_owned().await.ok()?;
        let number = lock(&self.strangers).next_number();
        Some(Arc::new(Seat { number, strangers: self.strangers.clone(), _permit: permit }))
    }

    fn evict_oldest(&self) {
        if let Some((_, task)) = lock(&self.strangers).tasks.pop_first() {
            task.abort();
        }
    }
}

impl Seat {
    /// `task` serves the connection. It is aborted when its seat is needed, until the seat is kept.
    pub fn serve(&self, task: AbortHandle) {
        lock(&self.strangers).tasks.insert(self.number, task);
    }

    /// The connection has shown that it may call.
    pub fn keep(&self) {
        lock(&self.strangers).tasks.remove(&self.number);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.keep();
    }
}

impl Strangers {
    fn next_number(&mut self) -> u64 {
        self.arrived += 1;
        self.arrived
    }
}

/// A panic leaves the table whole: each change is one call.
fn lock(strangers: &Mutex<Strangers>) -> MutexGuard<'_, Strangers> {
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt;
    use tokio::task::JoinHandle;

    use super::*;

    /// A connection that is never done, and what tells that it was closed.
    async fn connect(seats: &AdminSeats) -> (std::sync::Weak<Seat>, JoinHandle<()>) {
        let seat = seats.take().await.unwrap();
        let (weak, held) = (Arc::downgrade(&seat), seat.clone());
        let task = tokio::spawn(async move {
            let _held = held;
            pending().await
        });
        seat.serve(task.abort_handle());
        (weak, task)
    }

    #[tokio::test]
    async fn the_oldest_stranger_makes_room_and_a_kept_one_stays() {
        let seats = AdminSeats::new(3);
        let (kept, _task) = connect(&seats).await;
        kept.upgrade().unwrap().keep();
        let (oldest, _task) = connect(&seats).await;
        let (other, _task) = connect(&seats).await;
        let (newest, _task) = connect(&seats).await;
        let open = [&kept, &oldest, &other, &newest].map(|seat| seat.upgrade().is_some());
        assert_eq!(open, [true, false, true, true]);
    }

    #[tokio::test]
    async fn where_all_are_kept_the_next_waits_for_an_end() {
        let seats = AdminSeats::new(1);
        let (kept, task) = connect(&seats).await;
        kept.upgrade().unwrap().keep();
        assert!(seats.take().now_or_never().is_none());
        task.abort();
        assert!(seats.take().await.is_some());
    }
}
