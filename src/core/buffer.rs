//! Buffers that lanes borrow while bytes are on their way, and the pool they go back to. An idle lane owns none.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Bytes one read can take.
pub const CAPACITY: usize = 32 * 1024;
/// Kept free in front, so that a head can grow to the left in place and leave in one write with its body.
pub const HEADROOM: usize = 1024;

/// What a lane borrows.
pub const STORE: usize = HEADROOM + CAPACITY;
/// Copies above this size are not kept for the next one.
const COPY_KEPT: usize = 2 * 1024;

/// A buffer. Each is mapped by itself, so that the system gets it back when a burst is over: an allocator keeps what
/// lies below anything that is still in use.
#[derive(Debug)]
pub enum Store {
    Mapped(MmapMut),
    /// A process may have so many mappings (vm.max_map_count); then the heap has to do.
    Heap(Box<[u8]>),
}

impl Store {
    fn new() -> Store {
        MmapMut::map_anon(STORE).map_or_else(|_| Store::Heap(vec![0; STORE].into()), Store::Mapped)
    }
}

impl Deref for Store {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Store::Mapped(bytes) => bytes,
            Store::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for Store {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Store::Mapped(bytes) => bytes,
            Store::Heap(bytes) => bytes,
        }
    }
}

/// Last in, first out: the buffer used last is the warm one.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Store>,
    copies: Vec<Vec<u8>>,
    keep: usize,
    lent: usize,
}

impl Pool {
    /// `keep` bounds what stays allocated while nothing is on its way.
    pub fn new(keep: usize) -> Pool {
        Pool { free: Vec::with_capacity(keep), copies: Vec::new(), keep, lent: 0 }
    }

    pub fn take(&mut self) -> Store {
        self.lent += 1;
        self.free.pop().unwrap_or_else(Store::new)
    }

    pub fn give(&mut self, store: Store) {
        self.lent = self.lent.saturating_sub(1);
        if self.free.len() < self.keep {
            self.free.push(store);
        }
    }

    /// How many lanes hold now.
    pub fn lent(&self) -> usize {
        self.lent
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
