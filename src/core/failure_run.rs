//! Requests that one replica failed in a row, over all workers. What follows from them is decided elsewhere.

use std::sync::atomic::{AtomicU32, Ordering};

/// Written only when a request fails, and by the next one that succeeds: a replica that answers is read from shared cache
/// lines alone.
#[derive(Debug, Default)]
pub struct FailureRun(AtomicU32);

impl FailureRun {
    /// One more. Returns how many there are now.
    pub fn fail(&self) -> u32 {
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add(1)));
        before.unwrap_or_else(|n| n).saturating_add(1)
    }

    pub fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub fn len(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_counted_until_it_ends() {
        let run = FailureRun::default();
        assert!(run.is_empty());
        assert_eq!([run.fail(), run.fail(), run.len()], [1, 2, 2]);
        run.end();
        assert_eq!((run.is_empty(), run.fail()), (true, 1));
    }
}
