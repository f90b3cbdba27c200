//! Pipes for splicing: a session's two, and the pool that idle ones go back to.

use std::sync::Arc;

use crate::core::step::Leg;
use crate::kernel::Kernel;

/// Pipes kept while no splice is in progress.
const SPARE_PIPES: usize = 64;

/// A pipe, counted for as long as it is open.
pub struct Pipe<P> {
    pub pipe: P,
    _open: Arc<()>,
}

pub struct PipePool<P> {
    spare: Vec<Pipe<P>>,
    /// Each open pipe holds one more reference.
    open: Arc<()>,
}

/// The pipes of one session's lanes, while they are used.
pub struct Pipes<P> {
    upload: Option<Pipe<P>>,
    download: Option<Pipe<P>>,
}

impl<P> PipePool<P> {
    pub fn new() -> PipePool<P> {
        PipePool { spare: Vec::new(), open: Arc::new(()) }
    }

    pub fn take_spare(&mut self) -> Option<Pipe<P>> {
        self.spare.pop()
    }

    pub fn open<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K) -> Option<Pipe<P>> {
        let pipe = kernel.pipe().ok()?;
        Some(Pipe { pipe, _open: Arc::clone(&self.open) })
    }

    /// Takes back an empty pipe.
    pub fn give(&mut self, pipe: Pipe<P>) {
        if self.spare.len() < SPARE_PIPES {
            self.spare.push(pipe);
        }
    }

    /// Closes an idle pipe; false if there is none.
    pub fn evict(&mut self) -> bool {
        self.spare.pop().is_some()
    }

    /// Pipes that are open, idle ones included.
    pub fn count(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }
}

impl<P> Pipes<P> {
    pub fn new() -> Pipes<P> {
        Pipes { upload: None, download: None }
    }

    pub fn is_empty(&self) -> bool {
        self.upload.is_none() && self.download.is_none()
    }

    /// The pipe of the lane whose source this leg is.
    pub fn from(&mut self, leg: Leg) -> &mut Option<Pipe<P>> {
        match leg {
            Leg::Client => &mut self.upload,
            Leg::Upstream => &mut self.download,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(pool: &PipePool<()>) -> Pipe<()> {
        Pipe { pipe: (), _open: Arc::clone(&pool.open) }
    }

    #[test]
    fn a_session_with_one_pipe_still_holds_one() {
        let pool = PipePool::new();
        for leg in [Leg::Client, Leg::Upstream] {
            let mut pipes = Pipes::new();
            assert!(pipes.is_empty());
            *pipes.from(leg) = Some(pipe(&pool));
            assert!(!pipes.is_empty(), "{leg:?}");
            *pipes.from(leg.other()) = Some(pipe(&pool));
            assert_eq!((pipes.is_empty(), pool.count()), (false, 2));
        }
        assert_eq!(pool.count(), 0, "dropped with their session");
    }

    #[test]
    fn idle_pipes_are_counted_kept_up_to_a_limit_and_closed_on_demand() {
        let mut pool = PipePool::new();
        for _ in 0..=SPARE_PIPES {
            let pipe = pipe(&pool);
            pool.give(pipe);
        }
        assert_eq!(pool.count(), SPARE_PIPES);
        assert!(pool.evict());
        assert_eq!(pool.count(), SPARE_PIPES - 1);
        assert!(pool.take_spare().is_some());
    }
}
