//! Ends connections: all of them when the balancer stops, those of one listener some time after a reload removed it. What is idle is
//! closed at once, what is in progress finishes, and what is left at the drain timeout is reset.

use crate::core::snapshot::{ListenerId, Snapshot};
use crate::core::step::Ending;
use crate::core::tick::Tick;
use crate::kernel::Kernel;

use super::Worker;

/// The drains of one worker, each with the time from which it no longer waits.
#[derive(Debug, Default)]
pub struct Drains {
    stop_by: Option<Tick>,
    /// Those that stop. `Tick::NEVER`: its connections have ended.
    listeners: Vec<(ListenerId, Tick)>,
}

impl Drains {
    /// When a drain ends by force.
    pub fn due(&self) -> Option<Tick> {
        let listeners = self.listeners.iter().map(|(_, by)| *by).filter(|by| *by < Tick::NEVER);
        listeners.chain(self.stop_by).min()
    }

    fn knows(&self, listener: ListenerId) -> bool {
        self.listeners.iter().any(|(known, _)| *known == listener)
    }

    /// Listeners that stop by this snapshot. One that came back has its connections again.
    fn follow(&mut self, snapshot: &Snapshot, by: Tick) -> Vec<ListenerId> {
        let stops = |id: ListenerId| snapshot.listener(id).is_some_and(|listener| listener.lifecycle.is_stopping());
        self.listeners.retain(|(id, _)| stops(*id));
        let ids = (0..snapshot.listeners.len() as u32).map(ListenerId);
        let begun: Vec<ListenerId> = ids.filter(|id| stops(*id) && !self.knows(*id)).collect();
        self.listeners.extend(begun.iter().map(|id| (*id, by)));
        begun
    }

    /// Listeners whose drain does not wait any more.
    fn take_due(&mut self, now: Tick) -> Vec<ListenerId> {
        let due = self.listeners.iter_mut().filter(|(_, by)| *by <= now);
        due.map(|(id, by)| (*id, *by = Tick::NEVER).0).collect()
    }
}

impl<K: Kernel> Worker<K> {
    /// Accepts what is in the listeners' queues, closes them, and lets the sessions finish.
    pub(super) fn begin_drain(&mut self, snapshot: &Snapshot) {
        if self.drains.stop_by.is_some() {
            return;
        }
        self.accept();
        self.close_listeners();
        self.drains.stop_by = Some(self.cx.now.after_ms(snapshot.drain_timeout_ms()));
        self.drain_clients(|_| true);
    }

    /// The sessions of listeners that stop finish.
    pub(super) fn drain_listeners(&mut self, snapshot: &Snapshot) {
        let by = self.cx.now.after_ms(snapshot.drain_timeout_ms());
        let begun = self.drains.follow(snapshot, by);
        if !begun.is_empty() {
            self.drain_clients(|listener| begun.contains(&listener));
        }
    }

    fn drain_clients(&mut self, is_affected: impl Fn(ListenerId) -> bool) {
        for id in self.clients.ids() {
            if let Some(client) = self.clients.get_mut(id)
                && is_affected(client.session.listener())
            {
                client.session.on_drain(&self.cx);
                self.clients.queue(id);
            }
        }
    }

    pub(super) fn close_listeners(&mut self) {
        for listener in self.listeners.take_all() {
            self.kernel.close_listener(listener.socket);
        }
    }

    /// What a removed listener's connections still do at the drain timeout is cut off.
    pub(super) fn end_listener_drains(&mut self) {
        let due = self.drains.take_due(self.cx.now);
        if !due.is_empty() {
            self.reset_clients(|listener| due.contains(&listener));
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.drains.stop_by.is_some_and(|by| self.clients.len() == 0 || self.cx.now >= by)
    }

    /// What is still in progress when a stop no longer waits is reset.
    pub(super) fn end(&mut self) {
        self.reset_clients(|_| true);
    }

    fn reset_clients(&mut self, is_affected: impl Fn(ListenerId) -> bool) {
        for id in self.clients.ids() {
            if self.clients.get(id).is_some_and(|client| is_affected(client.session.listener())) {
                self.close(id, Ending::Reset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::limits::Limits;
    use crate::core::snapshot::{Lifecycle, Listener, Mode, ServiceId};

    const STOPS: ListenerId = ListenerId(1);

    fn snapshot(stops: bool) -> Snapshot {
        let listener = Listener::to(ServiceId(0), "l".into(), Mode::Http, Arc::new(Limits::DEFAULT));
        let other = if stops { listener.removed(Lifecycle::Stopping) } else { listener.clone() };
        Snapshot { listeners: [listener, other].map(Arc::new).into(), ..Snapshot::empty(1) }
    }

    #[test]
    fn a_removed_listener_is_drained_once_and_again_when_it_came_back_meanwhile() {
        let mut drains = Drains::default();
        assert!(drains.follow(&snapshot(false), Tick(10)).is_empty());
        assert_eq!(drains.follow(&snapshot(true), Tick(10)), [STOPS]);
        assert!(drains.follow(&snapshot(true), Tick(20)).is_empty());
        assert_eq!((drains.due(), drains.take_due(Tick(9))), (Some(Tick(10)), Vec::new()));
        assert_eq!((drains.take_due(Tick(10)), drains.due()), (vec![STOPS], None));
        assert!(drains.follow(&snapshot(true), Tick(30)).is_empty());
        assert!(drains.follow(&snapshot(false), Tick(30)).is_empty());
        assert_eq!(drains.follow(&snapshot(true), Tick(40)), [STOPS]);
        assert!(drains.follow(&snapshot(false), Tick(41)).is_empty());
        assert_eq!(drains.due(), None, "it came back");
    }
}
