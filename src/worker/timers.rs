//! Hints of when to look at a connection again. The session's own deadline is the truth, so a request that only puts
//! its deadline off costs nothing here; each place has one hint that counts, and a hint that comes early is renewed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::core::tick::Tick;

#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Tick, u32)>>,
    /// The earliest hint of each place.
    hints: Vec<Tick>,
}

impl Timers {
    /// Makes sure that `place` is looked at by `deadline`.
    pub fn hint(&mut self, place: u32, deadline: Tick) {
        let index = place as usize;
        if index >= self.hints.len() {
            self.hints.resize(index + 1, Tick::NEVER);
        }
        if let Some(hint) = self.hints.get_mut(index)
            && deadline < *hint
        {
            *hint = deadline;
            self.heap.push(Reverse((deadline, place)));
        }
    }

    /// A place whose hint has passed. It has none now.
    pub fn due(&mut self, now: Tick) -> Option<u32> {
        while let Some(Reverse((tick, place))) = self.heap.peek().copied() {
            if tick > now {
                return None;
            }
            self.heap.pop();
            if let Some(hint) = self.hints.get_mut(place as usize)
                && *hint == tick
            {
                *hint = Tick::NEVER;
                return Some(place);
            }
        }
        None
    }

    pub fn next(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((tick, _))| *tick)
    }
}
