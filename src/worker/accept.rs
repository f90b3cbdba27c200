//! Taking connections in: in bounded batches, not over the caps, and not at all while descriptors run short.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use crate::core::net::Net;
use crate::core::session::Arrival;
use crate::core::snapshot::ServiceId;
use crate::core::tick::Tick;
use crate::kernel::Kernel;
use crate::shared::events::{Cap, Resource, WorkerEvent};

use super::Worker;
use super::resources::resource;

/// Connections taken from one listener in one turn.
const BATCH: usize = 64;
/// How long accepting rests when the system has no room for another connection.
const PAUSE_MS: u64 = 100;
/// Pauses are told at most so often, however many there are.
const TELL_MS: u64 = 1_000;

/// A bound listener and who comes in by it.
pub struct BoundListener<K: Kernel> {
    pub listener: K::Listener,
    pub local: SocketAddr,
    /// `None`: HTTP, routed by `Routes`. `Some(n)`: bytes, all to service n of the snapshot.
    pub tunnel_to: Option<ServiceId>,
    /// Balancers that name their client by a PROXY header, and must.
    pub proxies: Vec<Net>,
}

/// An entry, and whether somebody stands before it.
pub struct Door<K: Kernel> {
    entry: BoundListener<K>,
    readable: bool,
    pause: Option<Pause>,
    /// When a pause was told last.
    told: Option<Tick>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    since: Tick,
    until: Tick,
    told: bool,
}

impl<K: Kernel> Door<K> {
    pub fn new(entry: BoundListener<K>) -> Door<K> {
        Door { entry, readable: false, pause: None, told: None }
    }

    fn arrival(&self, peer: SocketAddr) -> Arrival {
        let proxied = self.entry.proxies.iter().any(|net| net.contains(peer.ip()));
        Arrival { peer, local: self.entry.local, proxied, tunnel_to: self.entry.tunnel_to }
    }

    /// The edge: stays until accepting finds nobody left.
    pub fn set_readable(&mut self) {
        self.readable = true;
    }

    pub fn is_ready(&self, now: Tick) -> bool {
        self.readable && self.pause.is_none_or(|pause| pause.until <= now)
    }

    /// What was lacking may be there again.
    pub fn hurry(&mut self, now: Tick) {
        if let Some(pause) = &mut self.pause {
            pause.until = now;
        }
    }

    pub fn opens_at(&self) -> Option<Tick> {
        self.pause.map(|pause| pause.until)
    }
}

impl<K: Kernel> Worker<K> {
    pub(super) fn accept(&mut self) {
        for number in 0..self.doors.len() {
            for _ in 0..BATCH {
                let Some(door) = self.doors.get(number).filter(|door| door.is_ready(self.cx.now)) else { break };
                if !self.has_room_for_client() {
                    self.pause(number, Resource::Descriptors);
                    break;
                }
                match self.kernel.accept(&door.entry.listener) {
                    Ok((socket, peer)) => {
                        let arrival = door.arrival(peer);
                        self.resume(number);
                        self.welcome(socket, arrival);
                    }
                    Err(error) => self.not_accepted(number, &error),
                }
            }
        }
    }

    fn not_accepted(&mut self, number: usize, error: &io::Error) {
        match error.kind() {
            ErrorKind::WouldBlock => {
                self.resume(number);
                if let Some(door) = self.doors.get_mut(number) {
                    door.readable = false;
                }
            }
            // The client left before it was taken in; the next one may be fine (accept(2), "Error handling").
            ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
            _ if resource(error) == Some(Resource::Descriptors) && self.evict() => {}
            kind => self.pause(number, resource(error).unwrap_or(Resource::Other(kind))),
        }
    }

    fn pause(&mut self, number: usize, resource: Resource) {
        let now = self.cx.now;
        self.resources.feel();
        let Some(door) = self.doors.get_mut(number) else { return };
        let before = door.pause;
        let due = door.told.is_none_or(|told| now.ms_since(told) >= TELL_MS);
        door.pause = Some(Pause {
            since: before.map_or(now, |pause| pause.since),
            until: now.after_ms(PAUSE_MS),
            told: due || before.is_some_and(|pause| pause.told),
        });
        if due {
            door.told = Some(now);
            self.events.send(WorkerEvent::AcceptPaused { worker: self.index, resource });
        }
    }

    fn resume(&mut self, number: usize) {
        if let Some(pause) = self.doors.get_mut(number).and_then(|door| door.pause.take()).filter(|pause| pause.told) {
            let after_ms = self.cx.now.ms_since(pause.since);
            self.events.send(WorkerEvent::AcceptResumed { worker: self.index, after_ms });
        }
    }

    /// Whether the caps let another client in, and whether it counts for its address. A balancer that names its client
    /// by a PROXY header counts for nobody: the one that it names does, as soon as it is named.
    pub(super) fn enter(&self, arrival: &Arrival) -> Result<bool, Cap> {
        if self.slots.len() >= self.max_slots {
            return Err(Cap::All);
        }
        match &self.crowd {
            Some(crowd) if !arrival.proxied => {
                if crowd.enter(arrival.peer.ip()) {
                    Ok(true)
                } else {
                    Err(Cap::PerClient)
                }
            }
            _ => Ok(false),
        }
    }

    /// A PROXY header named the client.
    pub(super) fn name(&mut self, place: u32, client: IpAddr) {
        let Some(slot) = self.slots.at_mut(place) else { return };
        slot.client = client;
        if let Some(crowd) = &self.crowd {
            slot.counted = crowd.enter(client);
            if !slot.counted {
                slot.session.on_cap();
                self.counters.capped_per_client.count();
                self.events.send(WorkerEvent::Capped { client, cap: Cap::PerClient });
            }
        }
    }

    /// A client is gone, with all that was counted for it.
    pub(super) fn left(&mut self, client: IpAddr, counted: bool, asked: bool) {
        self.fresh -= usize::from(!asked);
        if let Some(crowd) = self.crowd.as_ref().filter(|_| counted) {
            crowd.leave(client);
        }
        self.gave_back();
    }

    pub(super) fn turn_away(&mut self, socket: K::Socket, client: IpAddr, cap: Cap) {
        match cap {
            Cap::All => self.counters.capped.count(),
            Cap::PerClient => self.counters.capped_per_client.count(),
        }
        self.events.send(WorkerEvent::Capped { client, cap });
        self.counters.closed.count();
        // A refusal, not an end.
        let _ = self.kernel.abort(&socket);
        self.kernel.close(socket);
    }

    /// No more sockets can be watched: the system's own cap.
    pub(super) fn tell_unwatched(&self, error: &io::Error) {
        let resource = resource(error).unwrap_or(Resource::Other(error.kind()));
        self.counters.capped.count();
        self.events.send(WorkerEvent::AcceptPaused { worker: self.index, resource });
    }
}
