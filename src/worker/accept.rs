//! Taking connections in: in bounded batches, and not at all for a while when descriptors have run out.

use std::io::ErrorKind;

use std::net::SocketAddr;

use crate::core::net::Net;
use crate::core::session::Arrival;
use crate::core::tick::Tick;
use crate::kernel::Kernel;
use crate::shared::report::Fact;

use super::Worker;

/// Connections taken from one listener in one turn.
const BATCH: usize = 64;
/// How long accepting rests when the system has no room for another connection.
const PAUSE_MS: u64 = 100;
/// A pause that goes on is told at most so often.
const TELL_MS: u64 = 1_000;

/// A bound listener and who comes in by it.
pub struct Entry<K: Kernel> {
    pub listener: K::Listener,
    pub local: SocketAddr,
    /// `None`: HTTP, routed by `Routes`. `Some(n)`: bytes, all to service n of the snapshot.
    pub tunnel_to: Option<usize>,
    /// Balancers that name their client by a PROXY header, and must.
    pub proxies: Vec<Net>,
}

/// An entry, and whether somebody stands before it.
pub struct Door<K: Kernel> {
    entry: Entry<K>,
    knocked: bool,
    pause: Option<Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    since: Tick,
    until: Tick,
    told: Tick,
}

impl<K: Kernel> Door<K> {
    pub fn new(entry: Entry<K>) -> Door<K> {
        Door { entry, knocked: false, pause: None }
    }

    fn arrival(&self, peer: SocketAddr) -> Arrival {
        let proxied = self.entry.proxies.iter().any(|net| net.contains(peer.ip()));
        Arrival { peer, local: self.entry.local, proxied, tunnel_to: self.entry.tunnel_to }
    }

    /// The edge: stays until accepting finds nobody left.
    pub fn knock(&mut self) {
        self.knocked = true;
    }

    pub fn is_ready(&self, now: Tick) -> bool {
        self.knocked && self.pause.is_none_or(|pause| pause.until <= now)
    }

    pub fn opens_at(&self) -> Option<Tick> {
        self.pause.map(|pause| pause.until)
    }
}

impl<K: Kernel> Worker<K> {
    pub(super) fn accept(&mut self) {
        for number in 0..self.doors.len() {
            for _ in 0..BATCH {
                let Some(door) = self.doors.get(number).filter(|door| door.is_ready(self.lent.now)) else { break };
                match self.kernel.accept(&door.entry.listener) {
                    Ok((socket, peer)) => {
                        let arrival = door.arrival(peer);
                        self.resume(number);
                        self.welcome(socket, arrival);
                    }
                    Err(error) => self.not_accepted(number, error.kind(), error.raw_os_error()),
                }
            }
        }
    }

    fn not_accepted(&mut self, number: usize, kind: ErrorKind, code: Option<i32>) {
        match kind {
            ErrorKind::WouldBlock => {
                self.resume(number);
                if let Some(door) = self.doors.get_mut(number) {
                    door.knocked = false;
                }
            }
            // The client left before it was taken in; the next one may be fine (accept(2), "Error handling").
            ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
            _ if is_exhaustion(code) && self.evict() => {}
            _ => self.pause(number, kind),
        }
    }

    fn pause(&mut self, number: usize, why: ErrorKind) {
        let now = self.lent.now;
        let Some(door) = self.doors.get_mut(number) else { return };
        let before = door.pause;
        let told = before.map(|pause| pause.told).filter(|told| now.ms_since(*told) < TELL_MS);
        door.pause = Some(Pause {
            since: before.map_or(now, |pause| pause.since),
            until: now.after_ms(PAUSE_MS),
            told: told.unwrap_or(now),
        });
        if told.is_none() {
            self.reporter.report(Fact::AcceptPaused { worker: self.index, why });
        }
    }

    fn resume(&mut self, number: usize) {
        if let Some(pause) = self.doors.get_mut(number).and_then(|door| door.pause.take()) {
            let after_ms = self.lent.now.ms_since(pause.since);
            self.reporter.report(Fact::AcceptResumed { worker: self.index, after_ms });
        }
    }
}

/// EMFILE or ENFILE: an idle upstream connection given up makes room for a client.
pub(super) fn is_exhaustion(code: Option<i32>) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(code, Some(EMFILE | ENFILE))
}
