//! What runs out on our side, and what is done about it: descriptors, memory for sockets, local ports to one replica.
//!
//! A client costs one descriptor, and its request a second one, to a replica. So a client is only taken in while there
//! is room for both, beside those that are inside already, and a share is kept for clients that were quiet and ask
//! again: a request that was taken in does not meet EMFILE. Where something runs out all the same (the limit is shared
//! with the rest of the process, and memory with the rest of the machine), the request waits for it, and no replica is
//! blamed for it.

use std::collections::VecDeque;
use std::io;

use crate::core::snapshot::ReplicaId;
use crate::core::step::Outcome;
use crate::core::tick::Tick;
use crate::kernel::Kernel;
use crate::shared::events::{Resource, WorkerEvent};

use super::Worker;

/// After this long it is tried again, if nothing was given back before.
const RETRY_MS: u64 = 10;
/// So many try again in one turn: with thousands waiting, a turn stays short.
const BATCH: usize = 256;
/// A client and its request.
const PAIR: usize = 2;
/// A pipe's two ends.
pub const PIPE: usize = 2;
/// One part in so many of the descriptors is kept for clients that were quiet.
const KEPT: usize = 8;

/// The codes of Linux: std has names for one or two of them.
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EADDRNOTAVAIL: i32 = 99;
const ENOBUFS: i32 = 105;

/// Why a connection could not be had, where that is no replica's doing.
pub fn resource(error: &io::Error) -> Option<Resource> {
    match error.raw_os_error()? {
        EMFILE | ENFILE => Some(Resource::Descriptors),
        // ENOSPC: no more sockets may be watched (epoll_ctl(2)).
        ENOBUFS | ENOMEM | ENOSPC => Some(Resource::Memory),
        EADDRNOTAVAIL => Some(Resource::Ports),
        _ => None,
    }
}

#[derive(Debug)]
pub struct ResourceLimits {
    /// What this worker may have open.
    descriptors: usize,
    /// Places whose dial waits, oldest first.
    waiting: VecDeque<u32>,
    /// When they try again.
    retry_at: Tick,
    /// Nothing is opened before this.
    until: Tick,
    /// Nor to these replicas before that.
    ports: Vec<(ReplicaId, Tick)>,
    /// Somebody waits for what is given back next.
    felt: bool,
}

impl ResourceLimits {
    pub fn new(descriptors: usize) -> ResourceLimits {
        ResourceLimits {
            descriptors,
            waiting: VecDeque::new(),
            retry_at: Tick::ZERO,
            until: Tick::ZERO,
            ports: Vec::new(),
            felt: false,
        }
    }

    /// When the next look is due, while somebody waits.
    pub fn due(&self) -> Option<Tick> {
        (!self.waiting.is_empty()).then_some(self.retry_at)
    }

    /// No connection to `replica` would get a local port.
    pub fn bars(&self, replica: ReplicaId, now: Tick) -> bool {
        self.ports.iter().any(|(barred, until)| *barred == replica && now < *until)
    }

    pub fn bar(&mut self, replica: ReplicaId, now: Tick) {
        self.ports.retain(|(_, until)| now < *until);
        self.ports.push((replica, now.after_ms(RETRY_MS)));
    }

    /// A try to open something now would fail as the last one did.
    pub fn holds(&self, now: Tick) -> bool {
        now < self.until
    }

    pub fn begin(&mut self, now: Tick) {
        self.until = now.after_ms(RETRY_MS);
        self.felt = true;
    }

    /// Accepting rests.
    pub fn feel(&mut self) {
        self.felt = true;
    }
}

impl<K: Kernel> Worker<K> {
    /// Whether so many descriptors more can be had without taking one that a client inside may need for its request.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let (share, pipes) = (self.resources.descriptors, PIPE * self.open_pipes());
        let inside = self.slots.len() + self.fresh + self.busy + self.resources.waiting.len();
        inside + pipes + more <= share - share / KEPT
    }

    pub(super) fn has_room_for_client(&self) -> bool {
        self.has_room(PAIR)
    }

    /// The dial of `place` is put off until something was given back.
    pub(super) fn put_off(&mut self, place: u32) -> Outcome {
        self.resources.waiting.push_back(place);
        self.resources.felt = true;
        if self.resources.retry_at <= self.cx.now {
            self.resources.retry_at = self.cx.now.after_ms(RETRY_MS);
        }
        Outcome::NoResources
    }

    /// Those who waited longest try again.
    pub(super) fn end_shortage(&mut self) {
        let now = self.cx.now;
        if self.resources.due().is_some_and(|due| due <= now) {
            let first = self.resources.waiting.len().min(BATCH);
            for place in self.resources.waiting.drain(..first).collect::<Vec<_>>() {
                if let Some(slot) = self.slots.at_mut(place) {
                    slot.session.on_room();
                    self.queue(place);
                }
            }
        }
    }

    /// A descriptor, and all that goes with it, is free.
    pub(super) fn gave_back(&mut self) {
        if std::mem::take(&mut self.resources.felt) {
            self.hurry();
        }
    }

    #[cold]
    fn hurry(&mut self) {
        let now = self.cx.now;
        self.resources.until = self.resources.until.min(now);
        self.resources.retry_at = self.resources.retry_at.min(now);
        self.doors.iter_mut().for_each(|door| door.hurry(now));
    }

    /// Gives up what nobody uses now for its descriptor: a pipe, else the coldest idle connection. False: there is none.
    pub(super) fn evict(&mut self) -> bool {
        if self.spare_pipes.pop().is_some() {
            return true;
        }
        let victim = self.pools.evict();
        if let Some(number) = victim {
            self.discard(number);
        }
        victim.is_some()
    }

    pub(super) fn tell_short(&self, replica: ReplicaId, resource: Resource) {
        self.events.send(WorkerEvent::Short { replica, resource });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barred_replica_is_tried_again_after_a_while() {
        let mut resources = ResourceLimits::new(100);
        let (now, later) = (Tick(5), Tick(5).after_ms(RETRY_MS));
        resources.bar(ReplicaId(1), now);
        assert!(resources.bars(ReplicaId(1), now) && !resources.bars(ReplicaId(2), now));
        assert!(!resources.bars(ReplicaId(1), later));
        resources.bar(ReplicaId(2), later);
        assert_eq!(resources.ports.len(), 1, "what has passed is forgotten");
    }

    #[test]
    fn what_is_ours_to_lack_is_told_from_what_a_replica_does() {
        let code = |code| resource(&io::Error::from_raw_os_error(code));
        assert_eq!([code(24), code(23)], [Some(Resource::Descriptors); 2]);
        assert_eq!([code(12), code(105), code(28)], [Some(Resource::Memory); 3]);
        assert_eq!(code(99), Some(Resource::Ports));
        assert_eq!([code(111), code(113), code(110), code(13)], [None; 4], "refused, no route, timed out, forbidden");
    }
}
