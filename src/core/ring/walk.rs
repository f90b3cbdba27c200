//! The members in ring order from one arc on, each once. The first choice does not allocate, a fallback does.

use super::Ring;

pub struct Walk<'a> {
    ring: &'a Ring,
    /// Of the key.
    position: u32,
    /// The current arc.
    at: usize,
    /// Members that were not yielded yet.
    remaining: usize,
    /// One bit per member that was yielded; empty before the first fallback.
    seen: Vec<u64>,
    first: usize,
}

impl<'a> Walk<'a> {
    #[inline]
    pub(super) fn new(ring: &'a Ring, position: u32) -> Walk<'a> {
        let at = ring.arcs.at(position);
        Walk { ring, position, at, remaining: ring.placed, seen: Vec::new(), first: usize::MAX }
    }

    /// The member of the next arc whose member was not yielded yet.
    #[cold]
    fn fallback(&mut self) -> usize {
        if self.seen.is_empty() {
            self.seen = vec![0; self.ring.members.div_ceil(u64::BITS as usize)];
            mark(&mut self.seen, self.first);
        }
        let (step, len) = (self.ring.arcs.step(self.position), self.ring.arcs.len());
        loop {
            self.at = if self.at + step < len { self.at + step } else { self.at + step - len };
            let member = self.ring.arcs.member(self.at);
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
        self.remaining = self.remaining.checked_sub(1)?;
        if self.first == usize::MAX {
            self.first = self.ring.arcs.member(self.at);
            return Some(self.first);
        }
        Some(self.fallback())
    }
}

/// Sets the bit of a member. False: it was set before.
fn mark(seen: &mut [u64], member: usize) -> bool {
    let (word, bit) = (member / u64::BITS as usize, 1 << (member % u64::BITS as usize));
    let new = seen[word] & bit == 0;
    seen[word] |= bit;
    new
}
