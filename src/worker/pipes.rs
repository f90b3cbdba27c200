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
