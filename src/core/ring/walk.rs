//! Around the ring from one point on: each member once. It allocates only when a second choice is asked for.

use super::Ring;

pub struct Walk<'a> {
    ring: &'a Ring,
    /// The next point to look at.
    at: usize,
    /// Members still to come.
    left: usize,
    /// One bit per member that was yielded; empty until somebody asks for a fallback.
    seen: Vec<u64>,
    first: usize,
}

impl<'a> Walk<'a> {
    #[inline]
    pub(super) fn new(ring: &'a Ring, at: usize) -> Walk<'a> {
        Walk { ring, at, left: ring.placed, seen: Vec::new(), first: usize::MAX }
    }

    /// A fallback: the next point whose member was not yielded yet.
    #[cold]
    fn fallback(&mut self) -> usize {
        if self.seen.is_empty() {
            self.seen = vec![0; self.ring.members.div_ceil(u64::BITS as usize)];
            mark(&mut self.seen, self.first);
        }
        loop {
            self.at = if self.at + 1 < self.ring.points.len() { self.at + 1 } else { 0 };
            let member = self.ring.points.member(self.at);
            if mark(&mut self.seen, member) {
                return member;
            }
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        if self.first == usize::MAX {
            self.first = self.ring.points.member(self.at);
            return Some(self.first);
        }
        Some(self.fallback())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Sets a member's bit; false when it was set before.
fn mark(seen: &mut [u64], member: usize) -> bool {
    let (word, bit) = (member / u64::BITS as usize, 1 << (member % u64::BITS as usize));
    let new = seen[word] & bit == 0;
    seen[word] |= bit;
    new
}
