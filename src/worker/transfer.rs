//! Carries out a session's transfers: which transport, which call, and the outcome back to the session. Connections are
//! opened and closed elsewhere.

use crate::core::context::Context;
use crate::core::step::{Flush, Io, Leg, Ready, SpliceIn, Step};
use crate::kernel::Kernel;

use super::Worker;
use super::clients::{Client, ClientIo};
use super::resources::PIPE;
use super::slab::SessionId;
use super::transport::Transport;
use super::upstreams::{CUT, GONE};

impl<K: Kernel> Worker<K> {
    /// Returns how many bytes moved.
    pub(super) fn transfer(&mut self, id: SessionId, step: Step) -> u64 {
        match step {
            Step::Recv(leg) => self.recv(id, leg),
            Step::Send { leg, flush } => self.send(id, leg, flush),
            Step::SpliceIn(leg, len) => self.splice_in(id, leg, len),
            Step::SpliceOut(leg, len) => self.splice_out(id, leg, len),
            Step::ShutdownWrite(leg) => self.shutdown_write(id, leg),
            Step::Connect(_) | Step::ReleaseUpstream | Step::CloseUpstream | Step::Close(_) => 0,
        }
    }

    #[inline]
    fn recv(&mut self, id: SessionId, leg: Leg) -> u64 {
        let Some(Client { session, io, upstream, .. }) = self.clients.get_mut(id) else { return 0 };
        let kernel = &mut self.kernel;
        let space = session.lane_from(leg).space(&mut self.cx.pool);
        let pool = &mut self.cx.pool;
        let ClientIo::Transport(transport) = io;
        let (mut outcome, more) = match leg {
            Leg::Client => (transport.recv(kernel, space, pool), transport.has_more()),
            Leg::Upstream => self.upstreams.recv(*upstream, id, kernel, space, pool),
        };
        read_stamp(&mut self.cx, kernel);
        if matches!(outcome, Io::Ended | CUT) {
            let is_cut = outcome == CUT || leg == Leg::Client && transport.was_truncated();
            // A tunnel passes it on as the end that it may be. A message shows itself whether it is whole.
            if session.is_tunnel() || leg == Leg::Client {
                outcome = Io::Ended;
                self.counters.tls_truncated.add(u64::from(is_cut && session.is_tunnel()));
            }
        }
        session.received(leg, outcome, &mut self.cx);
        if more {
            // A read of plaintext that did not fill its space says nothing about the next one.
            session.on_ready(leg, Ready::READABLE, &self.cx);
        }
        outcome.moved()
    }

    #[inline]
    fn send(&mut self, id: SessionId, leg: Leg, flush: Flush) -> u64 {
        let Some(Client { session, io, upstream, .. }) = self.clients.get_mut(id) else { return 0 };
        let kernel = &mut self.kernel;
        let bytes = session.lane_to(leg).pending();
        let pool = &mut self.cx.pool;
        let outcome = match (leg, io) {
            (Leg::Client, ClientIo::Transport(transport)) => transport.send(kernel, bytes, flush, pool),
            (Leg::Upstream, _) => self.upstreams.send(*upstream, id, kernel, bytes, flush, pool),
        };
        match leg {
            Leg::Client => self.counters.copied_down.add(outcome.moved()),
            Leg::Upstream => self.counters.copied_up.add(outcome.moved()),
        }
        read_stamp(&mut self.cx, kernel);
        session.sent(leg, flush, outcome, &mut self.cx);
        outcome.moved()
    }

    fn splice_in(&mut self, id: SessionId, leg: Leg, len: u64) -> u64 {
        let may_open = self.has_room(PIPE);
        let Some(Client { session, io, upstream, pipes, .. }) = self.clients.get_mut(id) else { return 0 };
        let kernel = &mut self.kernel;
        let ClientIo::Transport(transport) = io;
        let is_bare = |transport: &Transport<K>| transport.bare().is_some();
        if !is_bare(transport) || !self.upstreams.transport(*upstream).is_none_or(|upstream| is_bare(upstream)) {
            session.spliced_in(leg, SpliceIn::Unsupported, &mut self.cx);
            return 0;
        }
        let pipe = pipes.from(leg);
        if pipe.is_none() {
            *pipe = self.pipes.take_spare();
        }
        if pipe.is_none() && may_open {
            *pipe = self.pipes.open(kernel);
        }
        let outcome = match (pipe, leg) {
            (None, _) => SpliceIn::NoPipe,
            (Some(pipe), Leg::Client) => transport.splice_in(kernel, &pipe.pipe, len),
            (Some(pipe), Leg::Upstream) => self.upstreams.splice_in(*upstream, id, kernel, &pipe.pipe, len),
        };
        read_stamp(&mut self.cx, kernel);
        session.spliced_in(leg, outcome, &mut self.cx);
        outcome.moved()
    }

    fn splice_out(&mut self, id: SessionId, leg: Leg, len: u64) -> u64 {
        let Some(Client { session, io, upstream, pipes, .. }) = self.clients.get_mut(id) else { return 0 };
        let transport = match (leg, io) {
            (Leg::Client, ClientIo::Transport(transport)) => Some(transport),
            (Leg::Upstream, _) => self.upstreams.transport(*upstream),
        };
        let outcome = match (transport, pipes.from(leg.other())) {
            (Some(transport), Some(pipe)) => transport.splice_out(&mut self.kernel, &pipe.pipe, len),
            _ => GONE,
        };
        match leg {
            Leg::Client => self.counters.spliced_down.add(outcome.moved()),
            Leg::Upstream => self.counters.spliced_up.add(outcome.moved()),
        }
        read_stamp(&mut self.cx, &mut self.kernel);
        session.spliced_out(leg, outcome, &mut self.cx);
        outcome.moved()
    }

    fn shutdown_write(&mut self, id: SessionId, leg: Leg) -> u64 {
        let Some(Client { session, io, upstream, .. }) = self.clients.get_mut(id) else { return 0 };
        let transport = match (leg, io) {
            (Leg::Client, ClientIo::Transport(transport)) => Some(transport),
            (Leg::Upstream, _) => self.upstreams.transport(*upstream),
        };
        if let Some(transport) = transport {
            transport.shutdown_write(&mut self.kernel, &mut self.cx.pool);
        }
        session.write_shut_down(leg, &mut self.cx);
        0
    }

    /// Gives back pipes that hold nothing: an idle connection owns none.
    pub(super) fn release_pipes(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.pipes.is_empty() {
            return;
        }
        for leg in [Leg::Client, Leg::Upstream] {
            if client.session.piped(leg) == 0
                && let Some(pipe) = client.pipes.from(leg).take()
            {
                self.pipes.give(pipe);
            }
        }
    }
}

/// What the session does next is at this time, where exchanges are recorded.
#[inline]
pub(super) fn read_stamp<K: Kernel>(cx: &mut Context, kernel: &mut K) {
    if cx.records.is_on() {
        cx.records.now = kernel.stamp();
    }
}
