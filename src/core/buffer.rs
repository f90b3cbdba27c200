//! Buffers that lanes borrow while bytes are in transit, and the pool they go back to. An idle lane owns none. What the
//! bytes mean never enters.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Bytes one read can take.
pub const CAPACITY: usize = 32 * 1024;
/// Bytes kept free at the front, so that a rewritten head can grow to the left and leave in one write with its body.
pub const HEADROOM: usize = 1024;

/// Size of a buffer, in bytes.
pub const STORE: usize = HEADROOM + CAPACITY;

/// Size of the buffer that a head of up to `head_limit` bytes needs, in bytes: one byte more tells that it is longer.
pub const fn store_for(head_limit: usize) -> usize {
    if head_limit < CAPACITY { STORE } else { HEADROOM + head_limit + 1 }
}
/// Copies with a larger capacity, in bytes, are freed instead of kept.
const COPY_KEPT: usize = 2 * 1024;

/// A buffer. Each is a mapping of its own, so that the system gets it back after a burst: an allocator's heap does not
/// shrink below memory that is still in use.
#[derive(Debug)]
pub enum Store {
    Mapped(MmapMut),
    /// Where the process has as many mappings as it may have (vm.max_map_count).
    Heap(Box<[u8]>),
}

impl Store {
    fn new(len: usize) -> Store {
        MmapMut::map_anon(len).map_or_else(|_| Store::Heap(vec![0; len].into()), Store::Mapped)
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
pub struct BufferPool {
    free: Vec<Store>,
    copies: Vec<Vec<u8>>,
    keep: usize,
    lent: usize,
}

impl BufferPool {
    /// At most `keep` buffers, and as many copies, stay allocated while no bytes are in transit.
    pub fn new(keep: usize) -> BufferPool {
        BufferPool { free: Vec::with_capacity(keep), copies: Vec::new(), keep, lent: 0 }
    }

    pub fn take(&mut self) -> Store {
        self.lent += 1;
        self.free.pop().unwrap_or_else(|| Store::new(STORE))
    }

    /// A buffer of `len` bytes that begins with the content of `store`. It is freed when it is given back.
    pub fn exchange(&mut self, store: Store, len: usize) -> Store {
        let mut large = Store::new(len);
        if let Some(begin) = large.get_mut(..store.len()) {
            begin.copy_from_slice(&store);
        }
        self.lent += 1;
        self.give(store);
        large
    }

    pub fn give(&mut self, store: Store) {
        self.lent = self.lent.saturating_sub(1);
        if self.free.len() < self.keep && store.len() == STORE {
            self.free.push(store);
        }
    }

    /// Buffers that lanes hold now.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// A copy of bytes that are needed after their buffer was given back.
    pub fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.copies.pop().unwrap_or_default();
        copy.extend_from_slice(bytes);
        copy
    }

    /// Takes a copy back.
    pub fn forget(&mut self, mut copy: Vec<u8>) {
        if copy.capacity() > 0 && copy.capacity() <= COPY_KEPT && self.copies.len() < self.keep {
            copy.clear();
            self.copies.push(copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_keeps_so_many_buffers_and_copies_and_no_large_ones() {
        let mut pool = BufferPool::new(1);
        let (first, second) = (pool.take(), pool.take());
        assert_eq!(pool.lent(), 2);
        let large = pool.exchange(second, 2 * STORE);
        assert_eq!((large.len(), pool.lent(), pool.free.len()), (2 * STORE, 2, 1));
        pool.give(large);
        pool.give(first);
        assert_eq!((pool.lent(), pool.free.len()), (0, 1));
        pool.forget(Vec::with_capacity(COPY_KEPT + 1));
        pool.forget(Vec::new());
        assert!(pool.copies.is_empty(), "too large, and nothing");
        pool.forget(Vec::with_capacity(2 * 1024));
        pool.forget(vec![2]);
        let kept: Vec<usize> = pool.copies.iter().map(Vec::capacity).collect();
        assert_eq!(kept, [2 * 1024], "as many as buffers, and no more");
        assert_eq!(pool.copy(b"new"), b"new", "a copy that is used again is empty before");
    }
}
