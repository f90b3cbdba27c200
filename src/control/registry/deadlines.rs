//! One deadline for each key, in order: the next one and those that are due are found without a scan.

use std::collections::BTreeSet;

use crate::core::tick::Tick;

/// A sorted set rather than a heap: a deadline that moves leaves no stale entry, so `due` is exact.
#[derive(Debug)]
pub struct Deadlines<K> {
    queue: BTreeSet<(Tick, K)>,
}

impl<K: Copy + Ord> Deadlines<K> {
    pub fn new() -> Deadlines<K> {
        Deadlines { queue: BTreeSet::new() }
    }

    /// Moves the deadline of `key`. `Tick::NEVER` is no deadline.
    pub fn reschedule(&mut self, key: K, from: Tick, to: Tick) {
        if from == to {
            return;
        }
        if from < Tick::NEVER {
            self.queue.remove(&(from, key));
        }
        if to < Tick::NEVER {
            self.queue.insert((to, key));
        }
    }

    /// The next deadline.
    pub fn due(&self) -> Tick {
        self.queue.first().map_or(Tick::NEVER, |(due, _)| *due)
    }

    /// Keys whose deadline is `now` or earlier, in no useful order. They stay until they are rescheduled.
    pub fn due_at(&self, now: Tick) -> impl Iterator<Item = K> + '_ {
        self.queue.iter().take_while(move |(due, _)| *due <= now).map(|(_, key)| *key)
    }
}

#[cfg(debug_assertions)]
impl<K: Copy + Ord> Deadlines<K> {
    pub fn contains(&self, key: K, due: Tick) -> bool {
        self.queue.contains(&(due, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_last_deadline_only() {
        let mut deadlines = Deadlines::new();
        deadlines.reschedule('a', Tick::NEVER, Tick(5));
        deadlines.reschedule('b', Tick::NEVER, Tick(3));
        deadlines.reschedule('a', Tick(5), Tick(2));
        assert_eq!((deadlines.due(), deadlines.due_at(Tick(2)).collect::<Vec<_>>()), (Tick(2), vec!['a']));
        assert_eq!(deadlines.due_at(Tick(9)).collect::<Vec<_>>(), ['a', 'b']);
        deadlines.reschedule('a', Tick(2), Tick::NEVER);
        assert_eq!((deadlines.due(), deadlines.due_at(Tick(9)).count()), (Tick(3), 1));
        deadlines.reschedule('b', Tick(3), Tick::NEVER);
        assert_eq!((deadlines.due(), deadlines.due_at(Tick::NEVER).count()), (Tick::NEVER, 0));
    }
}
