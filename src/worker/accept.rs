//! Accepts connections: in bounded batches, within the caps, and not while descriptors run short. What a client then sends
//! is a session's business.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use crate::core::session::{Arrival, Session};
use crate::core::snapshot::Lifecycle;
use crate::core::tls::Tls;
use crate::kernel::{Kernel, Token};
use crate::shared::events::{Cap, Resource, WorkerEvent};

use super::Worker;
use super::clients::Client;
use super::handshake::Handshake;
use super::listeners::{OpenListener, Pause};
use super::resources::exhausted;
use super::secure::Secure;
use super::slab::SessionId;
use super::transport::Transport;

/// Connections accepted from one listener in one turn.
const BATCH: usize = 64;
/// Batches accepted from a listener that is closed: more than its queue can hold.
const CLOSING_BATCHES: usize = 128;
/// How long accepting pauses when the system has no room for another connection.
const PAUSE_MS: u64 = 100;
/// Pauses are reported at most this often.
const REPORT_MS: u64 = 1_000;

impl<K: Kernel> Worker<K> {
    pub(super) fn accept(&mut self) {
        if self.cx.snapshot.lifecycle == Lifecycle::Starting {
            return;
        }
        (0..self.listeners.len()).for_each(|place| self.accept_from(place));
    }

    fn accept_from(&mut self, place: usize) {
        for _ in 0..BATCH {
            let ready = self.listeners.get(place).filter(|listener| listener.is_ready(self.cx.now));
            let Some(listener) = ready else { break };
            if let Some(resource) = self.exhausted_for(listener) {
                self.pause(place, resource);
                break;
            }
            match self.kernel.accept(&listener.socket) {
                Ok((socket, peer)) => {
                    let arrival = listener.arrival(peer, &self.cx.snapshot);
                    self.resume(place);
                    self.admit(socket, arrival);
                }
                Err(error) => self.accept_failed(place, &error),
            }
        }
    }

    /// What the next client of a listener would need and cannot have.
    fn exhausted_for(&self, listener: &OpenListener<K::Listener>) -> Option<Resource> {
        if !self.has_room_for_client() {
            return Some(Resource::Descriptors);
        }
        let is_reached = self.handshake_cap.is_reached() && listener.speaks_tls(&self.cx.snapshot);
        is_reached.then_some(Resource::Handshakes)
    }

    /// Opens the listening sockets that the snapshot names, and closes others once their queues are empty.
    pub(super) fn follow_listeners(&mut self) {
        let changes = self.listeners.follow(&self.cx.snapshot);
        for place in changes.closed {
            if let Some(listener) = self.listeners.get_mut(place) {
                listener.readable = true;
            }
            for _ in 0..CLOSING_BATCHES {
                self.accept_from(place);
            }
            if let Some(listener) = self.listeners.remove(place) {
                self.kernel.close_listener(listener.socket);
            }
        }
        for (id, address) in changes.opened {
            for (socket, local) in self.kernel.listeners(address) {
                match self.kernel.watch_listener(&socket, Token::Listener(self.listeners.next_number())) {
                    Ok(()) => self.listeners.insert(id, address, socket, local),
                    Err(error) => self.report_unwatched(&error),
                }
            }
        }
    }

    fn accept_failed(&mut self, place: usize, error: &io::Error) {
        match error.kind() {
            ErrorKind::WouldBlock => {
                self.resume(place);
                if let Some(listener) = self.listeners.get_mut(place) {
                    listener.readable = false;
                }
            }
            // The client closed before it was accepted; the next one may be fine (accept(2), "Error handling").
            ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
            _ if exhausted(error) == Some(Resource::Descriptors) && self.evict() => {}
            kind => self.pause(place, exhausted(error).unwrap_or(Resource::Other(kind))),
        }
    }

    fn pause(&mut self, place: usize, resource: Resource) {
        let now = self.cx.now;
        self.resources.await_next();
        let Some(listener) = self.listeners.get_mut(place) else { return };
        let before = listener.pause;
        let due = listener.reported.is_none_or(|reported| now.ms_since(reported) >= REPORT_MS);
        listener.pause = Some(Pause {
            since: before.map_or(now, |pause| pause.since),
            until: now.after_ms(PAUSE_MS),
            reported: due || before.is_some_and(|pause| pause.reported),
        });
        if due {
            listener.reported = Some(now);
            self.events.send(WorkerEvent::AcceptPaused { worker: self.index, resource });
        }
    }

    fn resume(&mut self, place: usize) {
        let pause = self.listeners.get_mut(place).and_then(|listener| listener.pause.take());
        if let Some(pause) = pause.filter(|pause| pause.reported) {
            let after_ms = self.cx.now.ms_since(pause.since);
            self.events.send(WorkerEvent::AcceptResumed { worker: self.index, after_ms });
        }
    }

    /// A session for an accepted connection, if the caps allow one.
    fn admit(&mut self, socket: K::Socket, mut arrival: Arrival) {
        self.counters.accepted.count();
        let limited = match self.check_caps(&arrival) {
            Ok(limited) => limited,
            Err(cap) => return self.refuse(socket, arrival.peer.ip(), cap),
        };
        let introduces = self.cx.snapshot.services.iter().any(|service| service.send_proxy.is_some());
        if introduces && arrival.local.ip().is_unspecified() {
            arrival.local = self.kernel.local(&socket).unwrap_or(arrival.local);
        }
        let session = Session::new(arrival, &mut self.cx);
        let deadline = session.deadline();
        let Some(transport) = self.transport(socket, &arrival) else {
            if limited {
                self.release_limit(arrival.peer.ip());
            }
            return self.counters.closed.count();
        };
        let mut client = Client::new(session, transport);
        client.limited = limited;
        let id = self.clients.insert(client);
        self.timers.hint(id, deadline);
        self.clients.queue(id);
    }

    /// What carries the bytes of a connection. `None`: TLS cannot be begun.
    fn transport(&mut self, socket: K::Socket, arrival: &Arrival) -> Option<Transport<K>> {
        let listener = self.cx.snapshot.listener(arrival.listener);
        let Some((listener, policy)) = listener.and_then(|listener| Some((listener, listener.tls.as_ref()?))) else {
            return Some(Transport::new(socket));
        };
        let challenges = self.cx.snapshot.challenges.as_ref().and_then(|challenges| challenges.policy()).cloned();
        let Ok(tls) = Tls::server(policy, self.date_seconds).map(|tls| tls.with_challenges(challenges)) else {
            self.counters.tls_failed.count();
            self.kernel.close(socket);
            return None;
        };
        self.handshake_cap.begin();
        let due = self.cx.now.after_ms(listener.limits.handshake_timeout_ms);
        let handshake = Handshake::new(due);
        let handshake = if arrival.proxied { handshake.behind_proxy_header() } else { handshake };
        Some(Transport::secure(socket, Secure::of_client(tls, handshake)))
    }

    /// Whether the caps allow another client, and whether it counts for its address. A balancer that names its client by a
    /// PROXY header does not count: the client that it names does.
    fn check_caps(&self, arrival: &Arrival) -> Result<bool, Cap> {
        if self.clients.len() >= self.max_clients {
            return Err(Cap::All);
        }
        match &self.connection_limiter {
            Some(limiter) if !arrival.proxied => {
                if limiter.enter(arrival.peer.ip()) {
                    Ok(true)
                } else {
                    Err(Cap::PerClient)
                }
            }
            _ => Ok(false),
        }
    }

    /// A PROXY header named the client.
    pub(super) fn name_client(&mut self, id: SessionId, address: IpAddr) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if let Some(limiter) = &self.connection_limiter {
            client.limited = limiter.enter(address);
            if !client.limited {
                client.session.on_connection_limit();
                self.counters.capped_per_client.count();
                self.events.send(WorkerEvent::Capped { client: address, cap: Cap::PerClient });
            }
        }
    }

    /// A client that counted for its address is gone.
    pub(super) fn release_limit(&self, address: IpAddr) {
        if let Some(limiter) = &self.connection_limiter {
            limiter.leave(address);
        }
    }

    fn refuse(&mut self, socket: K::Socket, client: IpAddr, cap: Cap) {
        match cap {
            Cap::All => self.counters.capped.count(),
            Cap::PerClient => self.counters.capped_per_client.count(),
        }
        self.events.send(WorkerEvent::Capped { client, cap });
        self.counters.closed.count();
        // A reset: the client must not take the close for the end of a response.
        let _ = self.kernel.abort(&socket);
        self.kernel.close(socket);
    }

    /// The kernel watches no more sockets.
    pub(super) fn report_unwatched(&self, error: &io::Error) {
        let resource = exhausted(error).unwrap_or(Resource::Other(error.kind()));
        self.counters.capped.count();
        self.events.send(WorkerEvent::AcceptPaused { worker: self.index, resource });
    }
}
