//! TLS handshakes of clients, before their sessions begin: one deadline for each, and a share of every turn for all, since a
//! handshake costs as much as many requests. What comes behind a handshake is a session's business.

use std::collections::VecDeque;

use crate::core::proxy::Ends;
use crate::core::snapshot::Mode;
use crate::core::step::Ending;
use crate::core::tick::Tick;
use crate::core::tls::{ClientCertificate, HandshakeInfo, HandshakeSteps, Resumption};
use crate::kernel::Kernel;
use crate::shared::events::WorkerEvent;

use super::Worker;
use super::clients::{Client, ClientIo};
use super::secure::{HandshakeState, SecureStage};
use super::slab::SessionId;

/// Steps of handshakes that a worker takes in one turn. Others wait in the order in which they came.
const STEPS: usize = 16;

/// A client whose session has not begun.
#[derive(Debug)]
pub struct Handshake {
    /// It is over by then.
    pub due: Tick,
    awaits: Awaited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    ProxyHeader,
    Handshake,
    /// While the balancer stops: a client that says nothing behind its handshake would be taken for an idle one.
    Request,
}

/// The steps of this turn, and who waits for the next one.
#[derive(Debug, Default)]
pub struct StepBudget {
    left: usize,
    deferred: VecDeque<SessionId>,
}

/// Handshakes that have begun and not ended. Where they are as many as may be, the next clients wait in the listener's backlog.
#[derive(Debug)]
pub struct HandshakeCap {
    under_way: usize,
    max: usize,
}

/// Whether the session may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStart {
    Begun,
    Waits,
}

impl Handshake {
    pub fn new(due: Tick) -> Handshake {
        Handshake { due, awaits: Awaited::Handshake }
    }

    pub fn behind_proxy_header(self) -> Handshake {
        Handshake { awaits: Awaited::ProxyHeader, ..self }
    }
}

impl HandshakeCap {
    pub fn new(max: usize) -> HandshakeCap {
        HandshakeCap { under_way: 0, max }
    }

    pub fn is_reached(&self) -> bool {
        self.under_way >= self.max
    }

    pub fn under_way(&self) -> usize {
        self.under_way
    }

    pub fn begin(&mut self) {
        self.under_way += 1;
    }

    pub fn end(&mut self) {
        self.under_way -= 1;
    }
}

impl StepBudget {
    /// For handshakes that no client can begin.
    pub fn unlimited() -> StepBudget {
        StepBudget { left: usize::MAX, deferred: VecDeque::new() }
    }

    pub fn take(&mut self) -> HandshakeSteps {
        if self.left == 0 {
            return HandshakeSteps::Deferred;
        }
        self.left -= 1;
        HandshakeSteps::Taken
    }

    pub fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// A turn begins. Returns those that have waited the longest.
    fn renew(&mut self) -> impl Iterator<Item = SessionId> {
        self.left = STEPS;
        let n = self.deferred.len().min(STEPS);
        self.deferred.drain(..n)
    }
}

impl<K: Kernel> Worker<K> {
    /// Handshakes that were deferred are taken up first.
    #[inline]
    pub(super) fn renew_handshakes(&mut self) {
        for id in self.handshakes.renew() {
            self.clients.queue(id);
        }
    }

    /// Goes on with a client's handshake as far as its bytes allow.
    #[cold]
    pub(super) fn shake_hands(&mut self, id: SessionId) -> SessionStart {
        loop {
            let Some(Client { io: ClientIo::Transport(transport), .. }) = self.clients.get_mut(id) else {
                return SessionStart::Waits;
            };
            let Some((tls, socket)) = transport.tls() else { return SessionStart::Begun };
            let Some(handshake) = tls.handshake() else { return SessionStart::Begun };
            let (kernel, pool) = (&mut self.kernel, &mut self.cx.pool);
            let state = match handshake.awaits {
                Awaited::ProxyHeader => tls.read_proxy_header(kernel, socket, pool),
                Awaited::Handshake => tls.shake_hands(kernel, socket, &mut self.handshakes, pool),
                Awaited::Request => tls.await_plaintext(kernel, socket, pool),
            };
            match state {
                HandshakeState::Named(ends) => {
                    tls.handshake().into_iter().for_each(|handshake| handshake.awaits = Awaited::Handshake);
                    if !self.introduce(id, ends) {
                        return SessionStart::Waits;
                    }
                }
                HandshakeState::Established if self.awaits_request(id) => {}
                HandshakeState::Established => return self.begin_session(id),
                HandshakeState::PlainText(bytes) => return self.refuse_plain_text(id, &bytes),
                HandshakeState::Waits => return self.await_handshake(id),
                HandshakeState::Deferred => {
                    self.handshakes.deferred.push_back(id);
                    return self.await_handshake(id);
                }
                HandshakeState::Ended => return self.handshake_failed(id, None),
                HandshakeState::Failed(why) => return self.handshake_failed(id, Some(why)),
            }
        }
    }

    /// `None`: the client closed the connection, which needs no line in the log.
    fn handshake_failed(&mut self, id: SessionId, why: Option<String>) -> SessionStart {
        self.counters.tls_failed.count();
        if let (Some(client), Some(why)) = (self.clients.get(id), why) {
            self.events.send(WorkerEvent::HandshakeFailed { client: client.session.client_address(), why });
        }
        self.close(id, Ending::Clean);
        SessionStart::Waits
    }

    /// Closes a client whose handshake is overdue; false if its session has begun.
    pub(super) fn expire_handshake(&mut self, id: SessionId) -> bool {
        let Some(due) = self.handshake(id).map(|handshake| handshake.due) else { return false };
        if due <= self.cx.now {
            self.counters.tls_timed_out.count();
            self.close(id, Ending::Clean);
        } else {
            self.timers.hint(id, due);
        }
        true
    }

    /// False if the client may not have another connection.
    fn introduce(&mut self, id: SessionId, ends: Option<Ends>) -> bool {
        let Some(client) = self.clients.get_mut(id) else { return false };
        client.session.introduce(ends);
        self.report_notices(id);
        let ending = self.clients.get(id).and_then(|client| client.session.closing());
        let Some(ending) = ending else { return true };
        self.close(id, ending);
        false
    }

    /// The listener's connections end with their next response: a client that has a handshake behind it has one to ask for.
    fn awaits_request(&mut self, id: SessionId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let listener = client.session.listener();
        let is_http = self.cx.snapshot.listener(listener).is_some_and(|listener| listener.mode == Mode::Http);
        if !is_http || !self.cx.snapshot.lifecycle_of(listener).is_stopping() {
            return false;
        }
        self.handshake(id)
            .is_some_and(|handshake| std::mem::replace(&mut handshake.awaits, Awaited::Request) != Awaited::Request)
    }

    fn handshake(&mut self, id: SessionId) -> Option<&mut Handshake> {
        let ClientIo::Transport(transport) = &mut self.clients.get_mut(id)?.io;
        transport.tls()?.0.handshake()
    }

    fn begin_session(&mut self, id: SessionId) -> SessionStart {
        let Some(client) = self.clients.get_mut(id) else { return SessionStart::Waits };
        let ClientIo::Transport(transport) = &mut client.io;
        let info = transport.tls().and_then(|(tls, _)| {
            tls.stage = SecureStage::Open;
            tls.tls().handshake()
        });
        match info.as_ref().map(|info| info.resumption) {
            Some(Resumption::Resumed) => self.counters.tls_resumed.count(),
            Some(Resumption::Full) | None => self.counters.tls_full.count(),
        }
        if info.as_ref().is_some_and(HandshakeInfo::is_check_of_name) {
            self.close(id, Ending::Clean);
            return SessionStart::Waits;
        }
        let certificate = info.map_or(ClientCertificate::NotRequested, |info| info.client_certificate);
        client.session.on_handshake(&certificate, &mut self.cx);
        self.end_handshake();
        SessionStart::Begun
    }

    fn refuse_plain_text(&mut self, id: SessionId, bytes: &[u8]) -> SessionStart {
        self.counters.tls_plain_text.count();
        let Some(client) = self.clients.get_mut(id) else { return SessionStart::Waits };
        let listener = self.cx.snapshot.listener(client.session.listener());
        if listener.is_none_or(|listener| listener.mode != Mode::Http) {
            self.close(id, Ending::Clean);
            return SessionStart::Waits;
        }
        let ClientIo::Transport(transport) = &mut client.io;
        transport.drop_tls(&mut self.cx.pool);
        client.session.refuse_plain_http(bytes, &mut self.cx);
        self.end_handshake();
        SessionStart::Begun
    }

    /// A listener may wait for that.
    fn end_handshake(&mut self) {
        self.handshake_cap.end();
        self.on_freed();
    }

    fn await_handshake(&mut self, id: SessionId) -> SessionStart {
        if let Some(due) = self.handshake(id).map(|handshake| handshake.due) {
            self.timers.hint(id, due);
        }
        if self.clients.get(id).is_some_and(|client| !client.watched) {
            self.watch(id);
        }
        SessionStart::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::slab::{Key, Slab};

    #[test]
    fn a_turn_takes_so_many_steps_and_the_next_begins_with_those_that_waited_longest() {
        let mut slab: Slab<SessionId, ()> = Slab::new();
        let ids: Vec<SessionId> = (0..STEPS + 2).map(|_| slab.insert(())).collect();
        let mut budget = StepBudget::default();
        assert_eq!(budget.take(), HandshakeSteps::Deferred, "no turn has begun");
        budget.deferred.extend(&ids);
        let first: Vec<u32> = budget.renew().map(|id| id.index()).collect();
        assert_eq!(first, (0..STEPS as u32).collect::<Vec<_>>());
        assert!((0..STEPS).all(|_| budget.take() == HandshakeSteps::Taken));
        assert_eq!((budget.take(), budget.has_deferred()), (HandshakeSteps::Deferred, true));
        assert_eq!((budget.renew().count(), budget.has_deferred()), (2, false));
    }
}
