//! Simulated TCP connections: windows, segments, FIN and RST with the results that Linux gives. Events and time come
//! from the parent module; what bytes mean never enters.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;

use ringway::kernel::Token;

use super::super::random::Random;
use super::{Bound, Closing, Event, Net, Owner, ProcessId, SocketId};

/// Segments grow by an eighth with each delivery, up to this.
const SEGMENT_MAX: u64 = 65_536;
/// `Faults::broken_connection` is a rate per so many segments.
const BREAK_RATE_BASE: u64 = 20_000;

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    pub(super) owner: Owner,
    /// The balancer's process that opened or accepted it.
    pub(super) process: Option<ProcessId>,
    peer: Option<SocketId>,
    target: Option<SocketAddr>,
    pub(super) connecting: bool,
    /// Received and not read.
    pub(super) inbox: VecDeque<u8>,
    inbox_capacity: usize,
    /// When the last byte that had been received was read (us).
    emptied_at_us: u64,
    pub(super) fin_received: bool,
    /// Closed in both directions.
    pub(super) dead: bool,
    /// Reported by the next call that meets it.
    pub(super) error: Option<ErrorKind>,
    /// Written and not delivered.
    pub(super) outbox: VecDeque<u8>,
    pub(super) outbox_capacity: usize,
    /// Write side shut down.
    pub(super) fin_queued: bool,
    fin_sent: bool,
    reset_queued: bool,
    reset_sent: bool,
    linger_zero: bool,
    /// A write met a full buffer: an edge follows once there is space.
    pub(super) wants_space: bool,
    delivery_scheduled: bool,
    latency_us: u64,
    segment: u64,
    pub(super) token: Option<Token>,
    /// In its worker's list of edges.
    pub(super) queued: bool,
}

impl Net {
    fn new_socket(&mut self, owner: Owner) -> SocketId {
        let wide = self.random.network().one_in(2);
        let window = |random: &mut Random| if wide { 256 * 1024 } else { random.range(512, 64 * 1024) as usize };
        let latency_us = self.random.network().range(5, self.faults.max_latency_us);
        let segment = self.random.network().pick(&[1, 40, 536, 1448, 16_000, 65_536, 65_536]);
        let process = match owner {
            Owner::Worker(worker) => Some(self.pollers[worker].process),
            _ => None,
        };
        self.sockets.push(Socket {
            owner,
            process,
            peer: None,
            target: None,
            connecting: true,
            inbox: VecDeque::new(),
            inbox_capacity: window(self.random.network()),
            emptied_at_us: 0,
            fin_received: false,
            dead: false,
            error: None,
            outbox: VecDeque::new(),
            outbox_capacity: window(self.random.network()),
            fin_queued: false,
            fin_sent: false,
            reset_queued: false,
            reset_sent: false,
            linger_zero: false,
            wants_space: false,
            delivery_scheduled: false,
            latency_us,
            segment,
            token: None,
            queued: false,
        });
        self.sockets.len() - 1
    }

    // Connecting.

    /// Begins to connect. The result is an edge later.
    pub fn connect(&mut self, owner: Owner, target: SocketAddr) -> SocketId {
        let id = self.new_socket(owner);
        self.sockets[id].target = Some(target);
        let latency = self.sockets[id].latency_us;
        self.after(latency, Event::ConnectArrives(id));
        self.progress += 1;
        id
    }

    pub fn set_receive_window(&mut self, id: SocketId, len: usize) {
        self.sockets[id].inbox_capacity = len;
    }

    /// A connection attempt is accepted, refused or lost.
    ///
    /// Oracle: the balancer refuses no client before its end.
    pub fn connect_arrives(&mut self, id: SocketId) {
        let Some(target) = self.sockets[id].target.filter(|_| !self.sockets[id].dead) else { return };
        let upstream = matches!(self.sockets[id].owner, Owner::Worker(_));
        if upstream && self.random.network().per_mille(self.faults.black_hole) {
            self.history.replica_fault(target, self.now_us);
            return self.note("net.lost", id as u64, 0, 0);
        }
        let refuse = upstream && self.random.network().per_mille(self.faults.refused);
        let bound = self.bound.get(&target).copied().filter(|_| !refuse);
        let owner = match bound {
            Some(Bound::Listener(listening)) if self.listening[listening].is_open() => Owner::Queue,
            Some(Bound::Replica { hung: true, .. }) => {
                self.history.replica_fault(target, self.now_us);
                return self.note("net.hung", id as u64, 0, 0);
            }
            Some(Bound::Replica { actor, .. }) => Owner::Actor(actor),
            _ => {
                let is_ours = matches!(bound, Some(Bound::Listener(_)));
                assert!(!is_ours || self.history.stopping.is_some(), "a client is refused by {target}");
                self.history.replica_fault(target, self.now_us);
                self.note("net.refused", id as u64, 0, 0);
                return self.receive_reset(id);
            }
        };
        let other = self.new_socket(owner);
        for (a, b) in [(id, other), (other, id)] {
            self.sockets[a].peer = Some(b);
            self.sockets[a].connecting = false;
        }
        self.note("net.open", id as u64, other as u64, 0);
        self.progress += 1;
        self.enqueue_accepted(id, other, bound);
        self.edge(id);
        self.schedule_delivery(id);
    }

    fn enqueue_accepted(&mut self, connecting: SocketId, accepted: SocketId, bound: Option<Bound>) {
        match bound {
            Some(Bound::Replica { actor, .. }) => {
                self.backlogs.entry(actor).or_default().push_back(accepted);
                self.wake(actor);
            }
            Some(Bound::Listener(listening)) => {
                if let Owner::Actor(client) = self.sockets[connecting].owner {
                    self.history.client_connected(accepted, client);
                }
                self.enqueue_client(listening, accepted);
            }
            None => {}
        }
    }

    // Reading and writing.

    pub fn read(&mut self, id: SocketId, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let n = self.readable_len(id)?.min(buffer.len());
        let socket = &mut self.sockets[id];
        let (front, back) = socket.inbox.as_slices();
        let first = n.min(front.len());
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..n].copy_from_slice(&back[..n - first]);
        socket.inbox.drain(..n);
        self.on_read(id, n);
        Ok(n)
    }

    /// Bytes received and not read. Unlike a read, this does not clear the socket's error.
    pub fn unread_len(&self, id: SocketId) -> usize {
        self.sockets[id].inbox.len()
    }

    /// How much can be read; 0 is the end of the stream.
    fn readable_len(&mut self, id: SocketId) -> Result<usize, ErrorKind> {
        let socket = &mut self.sockets[id];
        match socket.error {
            _ if !socket.inbox.is_empty() => Ok(socket.inbox.len()),
            _ if socket.fin_received => Ok(0),
            Some(error) => {
                socket.error = None;
                Err(error)
            }
            None if socket.dead => Ok(0),
            None => Err(ErrorKind::WouldBlock),
        }
    }

    fn on_read(&mut self, id: SocketId, n: usize) {
        if n > 0 {
            self.progress += 1;
            if self.sockets[id].inbox.is_empty() {
                self.sockets[id].emptied_at_us = self.now_us;
            }
            if let Some(peer) = self.sockets[id].peer {
                self.schedule_delivery(peer);
            }
        }
    }

    pub fn write(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let socket = &mut self.sockets[id];
        if socket.dead || socket.fin_queued {
            return Err(socket.error.take().unwrap_or(ErrorKind::BrokenPipe));
        }
        if socket.connecting {
            return Err(ErrorKind::WouldBlock);
        }
        let n = bytes.len().min(socket.outbox_capacity.saturating_sub(socket.outbox.len()));
        if n < bytes.len() {
            socket.wants_space = true;
        }
        if n == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock);
        }
        socket.outbox.extend(&bytes[..n]);
        self.progress += 1;
        self.schedule_delivery(id);
        Ok(n)
    }

    // Closing.

    /// shutdown(SHUT_WR).
    pub fn shutdown_write(&mut self, id: SocketId) {
        self.corked.remove(&id);
        let socket = &mut self.sockets[id];
        if !socket.fin_queued && !socket.dead {
            socket.fin_queued = true;
            self.progress += 1;
            self.edge(id);
            self.schedule_delivery(id);
        }
    }

    /// Oracle: a socket is not reset while bytes sent with MSG_MORE wait in it.
    pub fn set_linger_zero(&mut self, id: SocketId) {
        assert!(!self.corked.contains(&id), "a reset discards bytes that were sent with MSG_MORE");
        self.sockets[id].linger_zero = true;
    }

    pub fn close_by(&mut self, id: SocketId, closing: Closing) {
        if closing == Closing::Reset {
            self.set_linger_zero(id);
        }
        self.close(id);
    }

    pub fn close(&mut self, id: SocketId) {
        self.corked.remove(&id);
        if let Owner::Worker(worker) = self.sockets[id].owner {
            self.resources[self.pollers[worker].process].sockets_closed += 1;
            self.note("w.close", worker as u64, id as u64, 0);
            self.history.balancer_closed(id, self.now_us, self.faults.clock_step_ms);
        }
        let socket = &mut self.sockets[id];
        socket.owner = Owner::Closed;
        socket.token = None;
        self.progress += 1;
        if socket.dead || socket.connecting {
            socket.dead = true;
            return;
        }
        if socket.linger_zero || !socket.inbox.is_empty() {
            self.send_reset(id);
        } else {
            socket.fin_queued = true;
            self.schedule_delivery(id);
        }
        self.sockets[id].inbox = VecDeque::new();
    }

    /// Resets a connection that was never accepted.
    pub(super) fn refuse_accepted(&mut self, id: SocketId) {
        self.sockets[id].owner = Owner::Closed;
        self.send_reset(id);
    }

    fn send_reset(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        socket.outbox.clear();
        socket.reset_queued = true;
        self.schedule_delivery(id);
    }

    fn receive_reset(&mut self, id: SocketId) {
        self.progress += 1;
        let discard = self.faults.reset_discards_unread && matches!(self.sockets[id].owner, Owner::Actor(_));
        let socket = &mut self.sockets[id];
        if socket.dead {
            return;
        }
        socket.error = Some(match (socket.connecting, socket.fin_received) {
            (true, _) => ErrorKind::ConnectionRefused,
            (false, true) => ErrorKind::BrokenPipe,
            (false, false) => ErrorKind::ConnectionReset,
        });
        socket.dead = true;
        socket.outbox.clear();
        if discard {
            socket.inbox.clear();
        }
        self.note("net.reset", id as u64, 0, 0);
        self.edge(id);
    }

    // State, for actors and oracles.

    pub fn is_connected(&self, id: SocketId) -> bool {
        !self.sockets[id].connecting
    }

    pub fn is_dead(&self, id: SocketId) -> bool {
        self.sockets[id].dead
    }

    pub fn peer(&self, id: SocketId) -> Option<SocketId> {
        self.sockets[id].peer
    }

    /// No received byte is unread.
    pub fn is_empty(&self, id: SocketId) -> bool {
        self.unread_len(id) == 0
    }

    /// Since when the peer has read all that was written (us). `None`: it has not.
    pub fn read_whole_since_us(&self, id: SocketId) -> Option<u64> {
        let peer = &self.sockets[self.sockets[id].peer?];
        (self.sockets[id].outbox.is_empty() && peer.inbox.is_empty()).then_some(peer.emptied_at_us)
    }

    pub fn owner(&self, id: SocketId) -> Owner {
        self.sockets[id].owner
    }

    /// The balancer's process that has or had this end of a connection.
    pub fn process(&self, id: SocketId) -> Option<ProcessId> {
        self.sockets[id].process
    }

    /// The peer's program has not closed its socket.
    pub fn peer_is_open(&self, id: SocketId) -> bool {
        let socket = &self.sockets[id];
        socket.connecting && !socket.dead
            || socket.peer.is_some_and(|peer| self.sockets[peer].owner != Owner::Closed && !self.sockets[peer].dead)
    }

    /// Sockets that workers of this process have open.
    pub fn worker_sockets(&self, process: ProcessId) -> Vec<SocketId> {
        let has = |socket: &Socket| socket.process == Some(process) && matches!(socket.owner, Owner::Worker(_));
        (0..self.sockets.len()).filter(|id| has(&self.sockets[*id])).collect()
    }

    pub fn describe(&self, id: SocketId) -> String {
        let s = &self.sockets[id];
        format!(
            "#{id} {:?} peer {:?} inbox {} outbox {} fin {}/{} dead {} token {:?}",
            s.owner,
            s.peer,
            s.inbox.len(),
            s.outbox.len(),
            s.fin_received,
            s.fin_queued,
            s.dead,
            s.token
        )
    }

    // Segments.

    /// Schedules the next segment of `id` if there is one to send and none on its way.
    fn schedule_delivery(&mut self, id: SocketId) {
        let socket = &self.sockets[id];
        let Some(peer) = socket.peer else { return };
        let data = !socket.outbox.is_empty() && self.window(peer) > 0;
        let fin = socket.outbox.is_empty() && socket.fin_queued && !socket.fin_sent;
        let reset = socket.reset_queued && !socket.reset_sent;
        if socket.delivery_scheduled || !(data || fin || reset) {
            return;
        }
        let jitter = self.random.network().below(1 + socket.latency_us / 4);
        let us = self.sockets[id].latency_us + jitter;
        self.sockets[id].delivery_scheduled = true;
        self.after(us, Event::Deliver(id));
    }

    /// How many bytes `id` can receive.
    fn window(&self, id: SocketId) -> usize {
        let socket = &self.sockets[id];
        if socket.owner == Owner::Closed || socket.dead {
            return usize::MAX;
        }
        socket.inbox_capacity.saturating_sub(socket.inbox.len())
    }

    /// A segment of `id` arrives at its peer.
    pub fn deliver(&mut self, id: SocketId) {
        self.sockets[id].delivery_scheduled = false;
        let Some(peer) = self.sockets[id].peer else { return };
        if self.sockets[id].reset_queued {
            if !std::mem::replace(&mut self.sockets[id].reset_sent, true) {
                self.receive_reset(peer);
            }
            return;
        }
        if self.sockets[id].dead || self.breaks(id, peer) || self.meets_closed(id, peer) {
            return;
        }
        let max = self.sockets[id].segment * if self.random.network().one_in(4) { 1 } else { 8 };
        let n = self.sockets[id].outbox.len().min(self.window(peer)).min(max as usize);
        if n > 0 {
            self.deliver_data(id, peer, n);
        }
        // A FIN may come with the last bytes or in a segment of its own.
        let with_data = n == 0 || self.random.network().one_in(2);
        let socket = &self.sockets[id];
        if socket.outbox.is_empty() && socket.fin_queued && !socket.fin_sent && with_data {
            self.deliver_fin(id, peer);
        }
        self.schedule_delivery(id);
    }

    /// The network breaks the connection in some worlds: both ends receive a reset.
    fn breaks(&mut self, id: SocketId, peer: SocketId) -> bool {
        if self.random.network().below(BREAK_RATE_BASE) >= u64::from(self.faults.broken_connection) {
            return false;
        }
        self.note("net.cut", id as u64, peer as u64, 0);
        if let Some(target) = self.sockets[id].target.or(self.sockets[peer].target) {
            self.history.replica_fault(target, self.now_us);
        }
        self.receive_reset(id);
        self.receive_reset(peer);
        true
    }

    /// Data for a closed socket is answered with a reset.
    fn meets_closed(&mut self, id: SocketId, peer: SocketId) -> bool {
        let closed = self.sockets[peer].owner == Owner::Closed || self.sockets[peer].dead;
        if !closed || self.sockets[id].outbox.is_empty() {
            return false;
        }
        self.note("net.unwanted", id as u64, peer as u64, 0);
        self.sockets[id].outbox.clear();
        if !self.sockets[peer].reset_queued {
            self.send_reset(peer);
        }
        true
    }

    fn deliver_data(&mut self, id: SocketId, peer: SocketId, n: usize) {
        let mut outbox = std::mem::take(&mut self.sockets[id].outbox);
        self.sockets[peer].inbox.extend(outbox.drain(..n));
        self.sockets[id].outbox = outbox;
        // Small segments at first only: a large transfer in single bytes would take too many events.
        self.sockets[id].segment = (1 + self.sockets[id].segment * 9 / 8).min(SEGMENT_MAX);
        self.note("net.data", id as u64, peer as u64, n as u64);
        self.progress += 1;
        self.edge(peer);
        self.edge_if_space(id);
    }

    fn deliver_fin(&mut self, id: SocketId, peer: SocketId) {
        self.sockets[id].fin_sent = true;
        self.note("net.fin", id as u64, peer as u64, 0);
        self.progress += 1;
        if !self.sockets[peer].dead && self.sockets[peer].owner != Owner::Closed {
            self.sockets[peer].fin_received = true;
            self.edge(peer);
        }
    }
}
