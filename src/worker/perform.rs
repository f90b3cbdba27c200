//! Carries out one step of a session: which socket, which verb, and what the answer means.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::core::step::{Leg, Outcome, Step};
use crate::kernel::Kernel;

use super::Worker;
use super::resources::PIPE;
use super::slot::{Pipe, Slot};

/// Pipes kept while no splice is under way.
const SPARE_PIPES: usize = 64;

impl<K: Kernel> Worker<K> {
    /// Everything but `Dial`, `Park` and `Close`, which are about connections rather than bytes.
    pub(super) fn transfer(&mut self, place: u32, step: Step) -> Outcome {
        if self.slots.at(place).is_some_and(|slot| slot.shared)
            && let Some(outcome) = self.transfer_pipelined(place, step)
        {
            return outcome;
        }
        let may_open = matches!(step, Step::SpliceIn(..)) && self.has_room(PIPE);
        let Some(Slot { session, socket, conn, pipes, .. }) = self.slots.at_mut(place) else { return gone() };
        let upstream = conn.and_then(|conn| self.conns.at(conn)).map(|conn| &conn.socket);
        let socket_of = |leg| if leg == Leg::Client { Some(&*socket) } else { upstream };
        let kernel = &mut self.kernel;
        match step {
            Step::Recv(leg) => {
                let Some(socket) = socket_of(leg) else { return gone() };
                let space = session.lane_from(leg).space(&mut self.cx.pool);
                taken(uninterrupted(|| kernel.recv(socket, space)))
            }
            Step::Send { leg, last } => {
                let bytes = session.lane_to(leg).pending();
                let Some(socket) = socket_of(leg) else { return gone() };
                let outcome = given(uninterrupted(|| kernel.send(socket, bytes, last)).map(|n| n as u64));
                self.count_bytes(leg, outcome);
                outcome
            }
            Step::SpliceIn(leg, most) => {
                if pipes.of(leg).is_none() {
                    *pipes.of(leg) = self.spare_pipes.pop().or_else(|| {
                        let pipe = if may_open { kernel.pipe().ok() } else { None };
                        pipe.map(|pipe| Pipe { pipe, _open: Arc::clone(&self.pipes) })
                    });
                }
                let (Some(socket), Some(pipe)) = (socket_of(leg), pipes.of(leg).as_ref()) else {
                    return Outcome::Unspliceable;
                };
                let outcome =
                    spliced(taken(uninterrupted(|| kernel.splice_in(socket, &pipe.pipe, most)).map(|n| n as usize)));
                if leg == Leg::Upstream && self.slots.at(place).is_some_and(|slot| slot.shared) {
                    self.spliced_pipelined(place, outcome);
                }
                outcome
            }
            Step::SpliceOut(leg, most) => {
                let source = if leg == Leg::Client { Leg::Upstream } else { Leg::Client };
                let (Some(socket), Some(pipe)) = (socket_of(leg), pipes.of(source).as_ref()) else {
                    return gone();
                };
                let outcome = given(uninterrupted(|| kernel.splice_out(&pipe.pipe, socket, most)));
                self.count_bytes(leg, outcome);
                outcome
            }
            Step::ShutdownWrite(leg) => {
                // A socket that is gone already needs no farewell.
                let _ = socket_of(leg).map(|socket| kernel.shutdown_write(socket));
                Outcome::Done
            }
            Step::Connect | Step::ReleaseUpstream | Step::CloseUpstream | Step::Close { .. } => Outcome::Done,
        }
    }

    /// After a drive: an idle connection owns no pipe.
    pub(super) fn spare(&mut self, place: u32) {
        let Some(slot) = self.slots.at_mut(place) else { return };
        for leg in [Leg::Client, Leg::Upstream] {
            if slot.session.lane_from(leg).piped() == 0
                && let Some(pipe) = slot.pipes.of(leg).take()
                && self.spare_pipes.len() < SPARE_PIPES
            {
                self.spare_pipes.push(pipe);
            }
        }
    }

    pub(super) fn open_pipes(&self) -> usize {
        Arc::strong_count(&self.pipes) - 1
    }

    fn count_bytes(&self, leg: Leg, outcome: Outcome) {
        if let Outcome::Moved(n) = outcome {
            match leg {
                Leg::Client => self.counters.bytes_down.add(n),
                Leg::Upstream => self.counters.bytes_up.add(n),
            }
        }
    }
}

/// A signal that came between is no answer (EINTR): the call is made again.
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

pub(super) fn gone() -> Outcome {
    Outcome::Failed(ErrorKind::NotConnected)
}

pub(super) fn taken(result: io::Result<usize>) -> Outcome {
    match result {
        Ok(0) => Outcome::Ended,
        other => given(other.map(|n| n as u64)),
    }
}

pub(super) fn given(result: io::Result<u64>) -> Outcome {
    match result {
        Ok(n) => Outcome::Moved(n),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock => Outcome::Blocked,
            kind => Outcome::Failed(kind),
        },
    }
}

/// A kind of socket that cannot be spliced says so by EINVAL.
fn spliced(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(ErrorKind::InvalidInput | ErrorKind::Unsupported) => Outcome::Unspliceable,
        other => other,
    }
}
