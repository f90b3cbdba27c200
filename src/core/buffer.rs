//! Buffers that lanes borrow while bytes are on their way, and the pool they go back to. An idle lane owns none.

/// Bytes one read can take.
pub const CAPACITY: usize = 32 * 1024;
/// Kept free in front, so that a head can grow to the left in place and leave in one write with its body.
pub const HEADROOM: usize = 1024;

/// What a lane borrows.
pub const STORE: usize = HEADROOM + CAPACITY;
/// Copies above this size are not kept for the next one.
const COPY_KEPT: usize = 2 * 1024;

pub type Store = Box<[u8]>;

/// Last in, first out: the buffer used last is the warm one.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Store>,
    copies: Vec<Vec<u8>>,
    keep: usize,
}

impl Pool {
    /// `keep` bounds what stays allocated while nothing is on its way.
    pub fn new(keep: usize) -> Pool {
        Pool { free: Vec::with_capacity(keep), copies: Vec::new(), keep }
    }

    pub fn take(&mut self) -> Store {
        self.free.pop().unwrap_or_else(|| vec![0; STORE].into_boxed_slice())
    }

    pub fn give(&mut self, store: Store) {
        if self.free.len() < self.keep {
            self.free.push(store);
        }
    }

    /// A copy of a few bytes that are kept while their buffer goes back.
    pub fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.copies.pop().unwrap_or_default();
        copy.extend_from_slice(bytes);
        copy
    }

    /// A copy is of no more use.
    pub fn forget(&mut self, mut copy: Vec<u8>) {
        if copy.capacity() > 0 && copy.capacity() <= COPY_KEPT && self.copies.len() < self.keep {
            copy.clear();
            self.copies.push(copy);
        }
    }
}
