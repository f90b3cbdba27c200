//! Invariants between a worker's parts, for tests and the simulation: what it lent is held, and what is idle holds
//! nothing.

use crate::kernel::Kernel;

use super::Worker;
use super::clients::{Client, ClientIo, UpstreamIo};
use super::slab::SessionId;

impl<K: Kernel> Worker<K> {
    /// Panics where an invariant is broken. The simulation calls it after every turn.
    pub fn check(&self) {
        let mut held = 0;
        for id in self.clients.ids() {
            if let Some(client) = self.clients.get(id) {
                self.check_client(id, client);
                let ClientIo::Transport(transport) = &client.io;
                held += client.session.buffers() + transport.buffers();
            }
        }
        held += self.upstreams.iter().map(|upstream| upstream.transport.buffers()).sum::<usize>();
        assert_eq!(self.cx.pool.lent(), held, "buffers lent and held");
        let sessions = || self.upstreams.iter().map(|upstream| upstream.mux.sessions());
        assert_eq!(self.upstreams.in_use, sessions().filter(|n| *n > 0).count(), "upstream connections in use");
        let using = self.clients.iter().filter(|client| client.upstream != UpstreamIo::None);
        assert_eq!(sessions().sum::<usize>(), using.count(), "upstream connections used and owned");
    }

    fn check_client(&self, id: SessionId, client: &Client<K>) {
        let session = &client.session;
        session.check(&self.cx.snapshot);
        let ClientIo::Transport(transport) = &client.io;
        transport.check();
        let begun = !client.io.is_handshaking();
        assert!(begun || session.is_idle() && session.buffers() == 0, "a session before its handshake: {session:?}");
        let stuck = begun && !client.is_queued() && transport.has_more() && session.awaits_client_bytes();
        assert!(!stuck, "plaintext waits for an edge: {session:?}");
        let holds = !client.pipes.is_empty() || session.buffers() > 0;
        assert!(!session.is_idle() || !holds, "idle, and holds memory: {session:?}");
        let agreed = (client.upstream != UpstreamIo::None) == session.replica().is_some();
        assert!(agreed || client.is_queued(), "session and worker disagree on the upstream: {session:?}");
        let Some(upstream) = client.upstream.id().and_then(|id| self.upstreams.get(id)) else { return };
        assert!(upstream.mux.contains(id), "the upstream of another session: {session:?}");
        let exclusive = matches!(client.upstream, UpstreamIo::Exclusive(_));
        assert!(!exclusive || upstream.mux.sessions() == 1, "shared, but not pipelined: {session:?}");
    }
}
