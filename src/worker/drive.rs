//! Driving a session: steps are taken until it waits or is over, and what it noticed is told.

use std::net::IpAddr;

use crate::core::step::{Leg, Notice, Outcome, Step};
use crate::kernel::{Kernel, Token};
use crate::shared::events::WorkerEvent;

use super::Worker;

/// Steps a session may take before others have their turn.
const STEPS: usize = 64;

impl<K: Kernel> Worker<K> {
    pub(super) fn drive_resumed(&mut self) {
        while let Some(place) = self.resumed.pop() {
            self.drive(place);
        }
    }

    /// Takes steps until the session waits, is over, or had its share of this turn.
    pub(super) fn drive(&mut self, place: u32) {
        if let Some(slot) = self.slots.at_mut(place) {
            slot.queued = false;
        }
        let mut budget = STEPS;
        while budget > 0 {
            let Some(step) = self.slots.at_mut(place).and_then(|slot| slot.session.next_step()) else {
                return self.rest(place);
            };
            let outcome = match step {
                Step::Close { reset } => return self.close(place, reset),
                Step::Connect => self.dial(place),
                Step::ReleaseUpstream => self.park(place),
                Step::CloseUpstream => self.hang_up(place),
                _ => self.transfer(place, step),
            };
            if let Some(slot) = self.slots.at_mut(place) {
                slot.session.complete(step, outcome, &mut self.cx);
                if cfg!(debug_assertions) {
                    slot.session.check();
                }
                let shared = slot.shared;
                if slot.session.has_notice() {
                    self.announce(place);
                }
                if shared {
                    self.remind(place);
                }
            }
            // Who joined a batch sends before the batch leaves.
            budget -= usize::from(!matches!(outcome, Outcome::Connected { shared: true, .. }));
        }
        self.rest(place);
        self.queue(place);
    }

    /// The session waits: what it noticed is told, its deadline is hinted, pipes it does not need go back.
    fn rest(&mut self, place: u32) {
        let Some(slot) = self.slots.at_mut(place) else { return };
        self.timers.hint(place, slot.session.deadline());
        let shared = slot.shared;
        let unwatched = !slot.watched && slot.session.wants_client_events();
        if slot.session.has_notice() {
            self.announce(place);
        }
        self.spare(place);
        if unwatched {
            self.watch(place);
        }
        if shared {
            self.requeue_behind(place);
        }
    }

    /// A client is watched from when it is first waited for: one whose only request came with it never is.
    fn watch(&mut self, place: u32) {
        let Some(generation) = self.slots.generation(place) else { return };
        let Some(slot) = self.slots.at_mut(place) else { return };
        slot.watched = true;
        if let Err(error) = self.kernel.watch(&slot.socket, Token::Client { place, generation }) {
            self.tell_unwatched(&error);
            self.close(place, true);
        }
    }

    fn announce(&mut self, place: u32) {
        while let Some((notice, client)) =
            self.slots.at_mut(place).and_then(|slot| Some((slot.session.take_notice()?, slot.client)))
        {
            match notice {
                Notice::Named { client } => self.name(place, client),
                notice => self.tell(notice, client),
            }
        }
    }

    pub(super) fn close(&mut self, place: u32, reset: bool) {
        if reset {
            self.cut_tunnel(place);
        }
        self.hang_up(place);
        let Some(mut slot) = self.slots.remove(place) else { return };
        for leg in [Leg::Client, Leg::Upstream] {
            slot.session.lane_from(leg).drop_all();
            slot.session.lane_from(leg).reclaim(&mut self.cx.pool);
        }
        if reset {
            // A socket that is gone already is as cut as it can be.
            let _ = self.kernel.abort(&slot.socket);
        }
        while let Some(notice) = slot.session.take_notice() {
            self.tell(notice, slot.client);
        }
        self.kernel.close(slot.socket);
        self.counters.closed.count();
        self.left(slot.client, slot.counted, slot.asked);
    }

    /// A tunnel that broke on the client's side must not look to the replica as if it had ended.
    fn cut_tunnel(&mut self, place: u32) {
        if let Some(slot) = self.slots.at(place)
            && slot.session.is_tunnel()
            && let Some(conn) = slot.conn.and_then(|conn| self.conns.at(conn))
        {
            // A socket that is gone already is as cut as it can be.
            let _ = self.kernel.abort(&conn.socket);
        }
    }

    fn tell(&self, notice: Notice, client: IpAddr) {
        let fact = match notice {
            Notice::Named { .. } => return,
            Notice::Ill { replica, kind } => WorkerEvent::Ill { replica, kind },
            Notice::Refused { status, why } => {
                self.counters.refused.count();
                WorkerEvent::Refused { client, status, why }
            }
        };
        self.events.send(fact);
    }
}
