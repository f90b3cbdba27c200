//! The laws of a worker's books, for tests: what it lent is held by somebody, and who is idle holds nothing.

use crate::core::step::Leg;
use crate::kernel::Kernel;

use super::Worker;

impl<K: Kernel> Worker<K> {
    /// Panics where a law is broken; the simulation calls it after every turn.
    pub fn check(&self) {
        let mut held = 0;
        for (place, slot) in self.slots.taken().filter_map(|place| Some((place, self.slots.at(place)?))) {
            let session = &slot.session;
            session.check();
            held += session.buffers();
            let piped = [Leg::Client, Leg::Upstream].into_iter().any(|leg| slot.pipes.has(leg));
            assert!(!session.is_idle() || !piped && session.buffers() == 0, "idle, and holds memory: {session:?}");
            let agreed = slot.conn.is_some() == session.replica().is_some();
            assert!(agreed || slot.queued, "an upstream that one side knows nothing of: {session:?}");
            let queue = slot.conn.and_then(|conn| self.conns.at(conn)).map(|conn| &conn.queue);
            assert!(queue.is_none_or(|queue| queue.contains(&place)), "somebody else's upstream: {session:?}");
            assert!(
                slot.shared || queue.is_none_or(|queue| queue.len() == 1),
                "pipelined without knowing: {session:?}"
            );
        }
        assert_eq!(self.cx.pool.lent(), held, "buffers lent and held");
        let lines = || self.conns.taken().filter_map(|conn| Some(self.conns.at(conn)?.queue.len()));
        let used: usize = lines().sum();
        assert_eq!(self.busy, lines().filter(|len| *len > 0).count(), "upstream connections in use");
        let using = self.slots.taken().filter(|place| self.slots.at(*place).is_some_and(|slot| slot.conn.is_some()));
        assert_eq!(used, using.count(), "upstream connections used and owned");
    }
}
