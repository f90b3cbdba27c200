//! Requests that wait until a replica of their service has room (`--upstream-max-connections`): first come, first served, in
//! each worker and as far as they see of each other. How a request is sent is not decided here.

use std::collections::VecDeque;

use crate::core::snapshot::{Service, ServiceId, State};
use crate::core::step::Connect;
use crate::core::tick::Tick;
use crate::kernel::Kernel;

use super::Worker;
use super::slab::SessionId;

/// Room that another worker made is looked for this often, should its wake-up have come too early.
const RETRY_MS: u64 = 10;

#[derive(Debug)]
struct Waiting {
    session: SessionId,
    since: Tick,
    /// It was told that there is room, and has not connected yet.
    resumed: bool,
}

/// Of one worker, by service.
#[derive(Debug, Default)]
pub struct RequestQueues {
    queues: Vec<VecDeque<Waiting>>,
    /// In all of them.
    len: usize,
    retry_at: Tick,
}

impl RequestQueues {
    pub fn len(&self) -> usize {
        self.len
    }

    /// When requests that wait look for room.
    pub fn due(&self) -> Option<Tick> {
        (self.len > 0).then_some(self.retry_at)
    }

    /// There are so many services.
    pub fn follow(&mut self, services: usize) {
        self.queues.resize_with(services.max(self.queues.len()), VecDeque::new);
    }

    fn of(&mut self, service: ServiceId) -> Option<&mut VecDeque<Waiting>> {
        self.queues.get_mut(service.0 as usize)
    }

    fn head(&self, service: ServiceId) -> Option<Tick> {
        Some(self.queues.get(service.0 as usize)?.front()?.since)
    }

    /// It was told that there is room: it goes before those that come now.
    fn is_resumed(&self, service: ServiceId, session: SessionId) -> bool {
        let queue = self.queues.get(service.0 as usize);
        let mut resumed = queue.into_iter().flatten().take_while(|waiting| waiting.resumed);
        resumed.any(|waiting| waiting.session == session)
    }

    fn remove(&mut self, service: ServiceId, session: SessionId) {
        let Some(queue) = self.of(service) else { return };
        if let Some(at) = queue.iter().position(|waiting| waiting.session == session) {
            queue.remove(at);
            self.len -= 1;
        }
    }
}

/// Requests that its replicas have room for. Where none may take requests, those that wait are to hear of it.
fn room(service: &Service) -> usize {
    let limit = u64::from(service.limits.max_upstream_connections);
    let of = |state| {
        let replicas = service.replicas.iter().filter(move |replica| replica.state == state);
        replicas.map(|replica| limit.saturating_sub(replica.load.in_flight()) as usize)
    };
    match () {
        () if limit == 0 => usize::MAX,
        () if of(State::Up).next().is_some() => of(State::Up).sum(),
        () if of(State::Ejected).next().is_some() => of(State::Ejected).sum(),
        () => usize::MAX,
    }
}

impl<K: Kernel> Worker<K> {
    /// Whether the request has to wait before it looks for a replica: others came earlier.
    pub(super) fn waits_behind_others(&self, session: SessionId, id: ServiceId) -> bool {
        let Some(service) = self.cx.snapshot.service(id).filter(|s| s.limits.max_upstream_connections > 0) else {
            return false;
        };
        if self.queues.is_resumed(id, session) {
            return false;
        }
        self.queues.head(id).is_some() || service.queue_heads.earlier(self.index, None).next().is_some()
    }

    /// No replica has room: the request waits, in the place that it has.
    #[cold]
    pub(super) fn enqueue(&mut self, session: SessionId, id: ServiceId) -> Connect {
        let (now, limit) = (self.cx.now, self.cx.snapshot.limits(id).queue);
        let Some(queue) = self.queues.of(id) else { return Connect::NoReplica };
        if let Some(waiting) = queue.iter_mut().find(|waiting| waiting.session == session) {
            waiting.resumed = false;
            return Connect::Queued;
        }
        if queue.len() >= limit {
            return Connect::QueueFull;
        }
        queue.push_back(Waiting { session, since: now, resumed: false });
        if self.queues.len == 0 {
            self.queues.retry_at = now.after_ms(RETRY_MS);
        }
        self.queues.len += 1;
        self.show_head(id);
        Connect::Queued
    }

    /// The request waits no longer: it was sent, or is over.
    #[inline]
    pub(super) fn leave_queue(&mut self, session: SessionId, id: ServiceId) {
        if self.queues.len > 0 {
            self.queues.remove(id, session);
            self.show_head(id);
        }
    }

    /// A replica of this service has room for one request more.
    #[inline]
    pub(super) fn on_room(&mut self, id: ServiceId) {
        if self.cx.snapshot.limits(id).max_upstream_connections > 0 {
            self.pass_room_on(id);
        }
    }

    #[cold]
    fn pass_room_on(&mut self, id: ServiceId) {
        let Some(service) = self.cx.snapshot.service(id) else { return };
        let own = self.queues.head(id);
        for other in service.queue_heads.earlier(self.index, own) {
            self.reader.wake_peer(other);
        }
        if own.is_some() {
            self.queues.retry_at = self.cx.now;
        }
    }

    /// Those that waited longest look for a replica again, as many as there is room for.
    pub(super) fn retry_queues(&mut self) {
        if self.queues.len == 0 {
            return;
        }
        self.queues.retry_at = self.cx.now.after_ms(RETRY_MS);
        let snapshot = self.cx.snapshot.clone();
        for (index, service) in snapshot.services.iter().enumerate() {
            self.retry_queue(ServiceId(index as u32), service);
        }
    }

    fn retry_queue(&mut self, id: ServiceId, service: &Service) {
        let Some(mut queue) = self.queues.of(id).map(std::mem::take).filter(|queue| !queue.is_empty()) else { return };
        let before = queue.len();
        // Those whose client is gone, or whose time is over.
        queue.retain(|waiting| self.clients.get(waiting.session).is_some_and(|client| client.session.wants_replica()));
        let earlier = service.queue_heads.earlier(self.index, queue.front().map(|waiting| waiting.since)).count();
        let room = room(service).saturating_sub(earlier);
        for waiting in queue.iter_mut().take(room).filter(|waiting| !waiting.resumed) {
            waiting.resumed = true;
            if let Some(client) = self.clients.get_mut(waiting.session) {
                client.session.on_room();
                self.clients.queue(waiting.session);
            }
        }
        self.queues.len -= before - queue.len();
        if let Some(place) = self.queues.of(id) {
            *place = queue;
        }
        self.show_head(id);
    }

    fn show_head(&self, id: ServiceId) {
        if let Some(service) = self.cx.snapshot.service(id) {
            service.queue_heads.set(self.index, self.queues.head(id));
        }
    }
}
