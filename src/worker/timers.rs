//! Lazy timers: hints of when to look at a session. The session's own deadline is the truth, so that a deadline that is
//! only extended costs nothing here. Each session has one valid hint; a hint that comes early is renewed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::core::tick::Tick;

use super::slab::{Key, SessionId};

#[derive(Debug, Default)]
pub struct SessionTimers {
    heap: BinaryHeap<Reverse<(Tick, SessionId)>>,
    /// The earliest hint of each session.
    hints: Vec<Tick>,
}

impl SessionTimers {
    /// Makes sure that the session is looked at by `deadline`.
    pub fn hint(&mut self, id: SessionId, deadline: Tick) {
        let index = id.index() as usize;
        if index >= self.hints.len() {
            self.hints.resize(index + 1, Tick::NEVER);
        }
        if let Some(hint) = self.hints.get_mut(index)
            && deadline < *hint
        {
            *hint = deadline;
            self.heap.push(Reverse((deadline, id)));
        }
    }

    /// A session whose hint has passed; it has none now.
    pub fn due(&mut self, now: Tick) -> Option<SessionId> {
        while let Some(Reverse((tick, id))) = self.heap.peek().copied() {
            if tick > now {
                return None;
            }
            self.heap.pop();
            if let Some(hint) = self.hints.get_mut(id.index() as usize)
                && *hint == tick
            {
                *hint = Tick::NEVER;
                return Some(id);
            }
        }
        None
    }

    pub fn next(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((tick, _))| *tick)
    }
}
