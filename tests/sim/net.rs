//! A network in virtual time: TCP connections with windows, FIN and RST as Linux shows them, edge-triggered readiness,
//! and the queue of everything that is to happen. Nothing here knows HTTP.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;

use ringway::core::step::Ready;
use ringway::kernel::Token;

use super::faults::Faults;
use super::ledger::Ledger;
use super::random::{Random, Streams};

pub type Shared = Rc<RefCell<Net>>;
pub type End = usize;
pub type Actor = usize;

/// What happens at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The next segment of what this end sends arrives.
    Deliver(End),
    /// A connection attempt arrives.
    Arrive(End),
    Wake(Actor),
    /// A worker may turn, if this is still the newest word on it.
    Turn(usize, u64),
    /// An edge that was held back.
    Edge(End),
    /// Something of the control plane's.
    Control(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Worker(usize),
    Actor(Actor),
    /// The program that had it closed it.
    Nobody,
}

/// What stands behind an address.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// A listener of a worker: its number there.
    Door {
        worker: usize,
        listener: usize,
    },
    Replica {
        actor: Actor,
        hung: bool,
    },
}

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    pub owner: Owner,
    pub peer: Option<End>,
    target: Option<SocketAddr>,
    connecting: bool,
    /// Read by nobody yet.
    inbox: VecDeque<u8>,
    inbox_room: usize,
    fin_in: bool,
    /// Gone in both directions.
    dead: bool,
    error: Option<ErrorKind>,
    /// Sent by the program, not at the peer yet.
    outbox: VecDeque<u8>,
    outbox_room: usize,
    fin_out: bool,
    fin_sent: bool,
    rst_out: bool,
    rst_sent: bool,
    linger_zero: bool,
    no_space: bool,
    delivering: bool,
    latency_us: u64,
    segment: u64,
    token: Option<Token>,
    listed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Socket(End),
    Door(usize),
}

#[derive(Debug, Default)]
struct Door {
    backlog: VecDeque<End>,
    open: bool,
    listed: bool,
    token: Option<Token>,
}

/// One worker's epoll.
#[derive(Debug, Default)]
struct Poller {
    listed: VecDeque<Listed>,
    doors: Vec<Door>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    pub sockets_opened: u64,
    pub sockets_closed: u64,
    pub pipes_opened: u64,
    pub pipes_closed: u64,
}

impl Books {
    /// How many are open.
    pub fn descriptors(&self) -> usize {
        (self.sockets_opened - self.sockets_closed + 2 * (self.pipes_opened - self.pipes_closed)) as usize
    }
}

pub struct Net {
    pub now_us: u64,
    pub random: Streams,
    pub faults: Faults,
    /// Requests may stand in line on a connection to a replica.
    pub upstream_pipelining: bool,
    pub ledger: Ledger,
    pub books: Books,
    /// Rises whenever anything really moves.
    pub progress: u64,
    pub loud: bool,
    hash: u64,
    sockets: Vec<Socket>,
    pollers: Vec<Poller>,
    pub bound: BTreeMap<SocketAddr, Bound>,
    /// Connections that wait for an actor to take them up.
    pub arrived: BTreeMap<Actor, VecDeque<End>>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    /// Actors whom an edge will wake.
    roused: BTreeSet<Actor>,
    /// Sockets whose last bytes wait for what is done to them next.
    pub held_back: BTreeSet<End>,
}

impl Net {
    pub fn new(random: Streams, faults: Faults, workers: usize, loud: bool) -> Net {
        Net {
            now_us: 1_000_000,
            random,
            faults,
            upstream_pipelining: false,
            ledger: Ledger::default(),
            books: Books::default(),
            progress: 0,
            loud,
            hash: 0xCBF2_9CE4_8422_2325,
            sockets: Vec::new(),
            pollers: (0..workers).map(|_| Poller::default()).collect(),
            bound: BTreeMap::new(),
            arrived: BTreeMap::new(),
            queue: BinaryHeap::new(),
            number: 0,
            roused: BTreeSet::new(),
            held_back: BTreeSet::new(),
        }
    }

    // The trace.

    /// One line of the trace, which the hash is made of.
    pub fn note(&mut self, what: &'static str, a: u64, b: u64, c: u64) {
        for word in [self.now_us, what.len() as u64, what.as_bytes()[0].into(), a, b, c] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        if self.loud {
            println!("{:>6}.{:06} {what} {a} {b} {c}", self.now_us / 1_000_000, self.now_us % 1_000_000);
        }
    }

    /// For a reader only.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.loud {
            println!("{:>6}.{:06} {}", self.now_us / 1_000_000, self.now_us % 1_000_000, text());
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    // Time.

    pub fn at(&mut self, us: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((us.max(self.now_us), self.number, event)));
    }

    pub fn after(&mut self, us: u64, event: Event) {
        self.at(self.now_us + us, event);
    }

    pub fn next_event(&mut self) -> Option<Event> {
        let Reverse((us, _, event)) = self.queue.pop()?;
        self.now_us = us;
        if let Event::Wake(actor) = event {
            self.roused.remove(&actor);
        }
        Some(event)
    }

    pub fn now_ms(&self) -> u64 {
        let ms = self.now_us / 1000;
        ms - ms % self.faults.clock_ms
    }

    // Connections.

    fn socket(&mut self, owner: Owner) -> End {
        let wide = self.random.network().one_in(2);
        let room = |random: &mut Random| if wide { 256 * 1024 } else { random.range(512, 64 * 1024) as usize };
        let latency_us = self.random.network().range(5, self.faults.latency_us);
        let segment = self.random.network().pick(&[1, 40, 536, 1448, 16_000, 65_536, 65_536]);
        self.sockets.push(Socket {
            owner,
            peer: None,
            target: None,
            connecting: true,
            inbox: VecDeque::new(),
            inbox_room: room(self.random.network()),
            fin_in: false,
            dead: false,
            error: None,
            outbox: VecDeque::new(),
            outbox_room: room(self.random.network()),
            fin_out: false,
            fin_sent: false,
            rst_out: false,
            rst_sent: false,
            linger_zero: false,
            no_space: false,
            delivering: false,
            latency_us,
            segment,
            token: None,
            listed: false,
        });
        self.sockets.len() - 1
    }

    /// Begins to connect. What comes of it is an edge later.
    pub fn connect(&mut self, owner: Owner, target: SocketAddr) -> End {
        let end = self.socket(owner);
        self.sockets[end].target = Some(target);
        let latency = self.sockets[end].latency_us;
        self.after(latency, Event::Arrive(end));
        self.progress += 1;
        end
    }

    /// Windows as narrow as a slow reader's.
    pub fn narrow(&mut self, end: End, room: usize) {
        self.sockets[end].inbox_room = room;
    }

    /// The attempt meets whoever is bound there, or nobody.
    pub fn arrive(&mut self, end: End) {
        let Some(target) = self.sockets[end].target.filter(|_| !self.sockets[end].dead) else { return };
        let upstream = matches!(self.sockets[end].owner, Owner::Worker(_));
        if upstream && self.random.network().per_mille(self.faults.black_hole) {
            self.ledger.trouble(target, self.now_us);
            return self.note("net.lost", end as u64, 0, 0);
        }
        let refuse = upstream && self.random.network().per_mille(self.faults.refused);
        let bound = self.bound.get(&target).copied().filter(|_| !refuse);
        let owner = match bound {
            Some(Bound::Door { worker, listener }) if self.pollers[worker].doors[listener].open => {
                Owner::Worker(worker)
            }
            Some(Bound::Replica { hung: true, .. }) => {
                self.ledger.trouble(target, self.now_us);
                return self.note("net.hung", end as u64, 0, 0);
            }
            Some(Bound::Replica { actor, .. }) => Owner::Actor(actor),
            _ => {
                self.ledger.trouble(target, self.now_us);
                self.note("net.refused", end as u64, 0, 0);
                return self.take_reset(end);
            }
        };
        let other = self.socket(owner);
        for (a, b) in [(end, other), (other, end)] {
            self.sockets[a].peer = Some(b);
            self.sockets[a].connecting = false;
        }
        self.note("net.open", end as u64, other as u64, 0);
        self.progress += 1;
        match (owner, bound) {
            (Owner::Actor(actor), _) => {
                self.arrived.entry(actor).or_default().push_back(other);
                self.wake(actor);
            }
            (_, Some(Bound::Door { worker, listener })) => {
                if let Owner::Actor(client) = self.sockets[end].owner {
                    self.ledger.came(other, client);
                }
                self.pollers[worker].doors[listener].backlog.push_back(other);
                self.list_door(worker, listener);
            }
            _ => {}
        }
        self.edge(end);
        self.pump(end);
    }

    pub fn read(&mut self, end: End, space: &mut [u8]) -> Result<usize, ErrorKind> {
        let n = self.readable(end)?.min(space.len());
        let socket = &mut self.sockets[end];
        let (front, back) = socket.inbox.as_slices();
        let first = n.min(front.len());
        space[..first].copy_from_slice(&front[..first]);
        space[first..n].copy_from_slice(&back[..n - first]);
        socket.inbox.drain(..n);
        self.was_read(end, n);
        Ok(n)
    }

    /// Bytes that came and were not read. To look takes no error away.
    pub fn waiting(&self, end: End) -> usize {
        self.sockets[end].inbox.len()
    }

    /// How much can be read; 0 is the end.
    fn readable(&mut self, end: End) -> Result<usize, ErrorKind> {
        let socket = &mut self.sockets[end];
        match socket.error {
            _ if !socket.inbox.is_empty() => Ok(socket.inbox.len()),
            _ if socket.fin_in => Ok(0),
            Some(error) => {
                socket.error = None;
                Err(error)
            }
            None if socket.dead => Ok(0),
            None => Err(ErrorKind::WouldBlock),
        }
    }

    fn was_read(&mut self, end: End, n: usize) {
        if n > 0 {
            self.progress += 1;
            if let Some(peer) = self.sockets[end].peer {
                self.pump(peer);
            }
        }
    }

    pub fn write(&mut self, end: End, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let socket = &mut self.sockets[end];
        if socket.dead || socket.fin_out {
            return Err(socket.error.take().unwrap_or(ErrorKind::BrokenPipe));
        }
        if socket.connecting {
            return Err(ErrorKind::WouldBlock);
        }
        let n = bytes.len().min(socket.outbox_room.saturating_sub(socket.outbox.len()));
        if n < bytes.len() {
            socket.no_space = true;
        }
        if n == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock);
        }
        socket.outbox.extend(&bytes[..n]);
        self.progress += 1;
        self.pump(end);
        Ok(n)
    }

    /// shutdown(SHUT_WR).
    pub fn finish(&mut self, end: End) {
        self.held_back.remove(&end);
        let socket = &mut self.sockets[end];
        if !socket.fin_out && !socket.dead {
            socket.fin_out = true;
            self.progress += 1;
            self.edge(end);
            self.pump(end);
        }
    }

    pub fn linger_zero(&mut self, end: End) {
        assert!(!self.held_back.contains(&end), "bytes that were held back are cut off");
        self.sockets[end].linger_zero = true;
    }

    pub fn close(&mut self, end: End) {
        self.held_back.remove(&end);
        let socket = &mut self.sockets[end];
        if let Owner::Worker(worker) = socket.owner {
            self.books.sockets_closed += 1;
            self.note("w.close", worker as u64, end as u64, 0);
            self.ledger.closed(end, self.now_us, self.faults.clock_ms);
        }
        let socket = &mut self.sockets[end];
        socket.owner = Owner::Nobody;
        socket.token = None;
        self.progress += 1;
        if socket.dead || socket.connecting {
            socket.dead = true;
            return;
        }
        if socket.linger_zero || !socket.inbox.is_empty() {
            self.reset(end);
        } else {
            socket.fin_out = true;
            self.pump(end);
        }
        self.sockets[end].inbox = VecDeque::new();
    }

    /// Closes so that the other side sees a reset.
    pub fn abort(&mut self, end: End) {
        self.linger_zero(end);
        self.close(end);
    }

    fn reset(&mut self, end: End) {
        let socket = &mut self.sockets[end];
        socket.outbox.clear();
        socket.rst_out = true;
        self.pump(end);
    }

    /// The network itself breaks the connection: both ends see a reset.
    pub fn cut(&mut self, end: End) {
        let peer = self.sockets[end].peer;
        self.take_reset(end);
        if let Some(peer) = peer {
            self.take_reset(peer);
        }
    }

    pub fn is_connected(&self, end: End) -> bool {
        !self.sockets[end].connecting
    }

    pub fn is_dead(&self, end: End) -> bool {
        self.sockets[end].dead
    }

    pub fn peer(&self, end: End) -> Option<End> {
        self.sockets[end].peer
    }

    /// Everything that came was read.
    pub fn is_empty(&self, end: End) -> bool {
        self.waiting(end) == 0
    }

    pub fn owner(&self, end: End) -> Owner {
        self.sockets[end].owner
    }

    /// True while the program at the other end still has its socket.
    pub fn peer_is_open(&self, end: End) -> bool {
        let socket = &self.sockets[end];
        socket.connecting && !socket.dead
            || socket.peer.is_some_and(|peer| self.sockets[peer].owner != Owner::Nobody && !self.sockets[peer].dead)
    }

    /// How many sockets a worker has.
    pub fn worker_sockets(&self) -> Vec<End> {
        (0..self.sockets.len()).filter(|end| matches!(self.sockets[*end].owner, Owner::Worker(_))).collect()
    }

    pub fn describe(&self, end: End) -> String {
        let s = &self.sockets[end];
        format!(
            "#{end} {:?} peer {:?} inbox {} outbox {} fin {}/{} dead {} token {:?}",
            s.owner,
            s.peer,
            s.inbox.len(),
            s.outbox.len(),
            s.fin_in,
            s.fin_out,
            s.dead,
            s.token
        )
    }

    // Segments.

    /// Sees to it that what `end` has to send is on its way.
    fn pump(&mut self, end: End) {
        let socket = &self.sockets[end];
        let Some(peer) = socket.peer else { return };
        let data = !socket.outbox.is_empty() && self.room(peer) > 0;
        let fin = socket.outbox.is_empty() && socket.fin_out && !socket.fin_sent;
        let rst = socket.rst_out && !socket.rst_sent;
        if socket.delivering || !(data || fin || rst) {
            return;
        }
        let jitter = self.random.network().below(1 + socket.latency_us / 4);
        let us = self.sockets[end].latency_us + jitter;
        self.sockets[end].delivering = true;
        self.after(us, Event::Deliver(end));
    }

    fn room(&self, end: End) -> usize {
        let socket = &self.sockets[end];
        if socket.owner == Owner::Nobody || socket.dead {
            return usize::MAX;
        }
        socket.inbox_room.saturating_sub(socket.inbox.len())
    }

    pub fn deliver(&mut self, end: End) {
        self.sockets[end].delivering = false;
        let Some(peer) = self.sockets[end].peer else { return };
        if self.sockets[end].rst_out {
            if !std::mem::replace(&mut self.sockets[end].rst_sent, true) {
                self.take_reset(peer);
            }
            return;
        }
        if self.sockets[end].dead {
            return;
        }
        if self.random.network().below(20_000) < u64::from(self.faults.cut) {
            self.note("net.cut", end as u64, peer as u64, 0);
            if let Some(target) = self.sockets[end].target.or(self.sockets[peer].target) {
                self.ledger.trouble(target, self.now_us);
            }
            return self.cut(end);
        }
        let gone = self.sockets[peer].owner == Owner::Nobody || self.sockets[peer].dead;
        if gone && !self.sockets[end].outbox.is_empty() {
            // Nobody is there to read it: the answer is a reset.
            self.note("net.unwanted", end as u64, peer as u64, 0);
            self.sockets[end].outbox.clear();
            if !self.sockets[peer].rst_out {
                self.reset(peer);
            }
            return;
        }
        let most = self.sockets[end].segment * if self.random.network().one_in(4) { 1 } else { 8 };
        let n = self.sockets[end].outbox.len().min(self.room(peer)).min(most as usize);
        if n > 0 {
            let mut sender = std::mem::take(&mut self.sockets[end].outbox);
            self.sockets[peer].inbox.extend(sender.drain(..n));
            self.sockets[end].outbox = sender;
            // Crumbs at first, but no loaf of them.
            self.sockets[end].segment = (1 + self.sockets[end].segment * 9 / 8).min(65_536);
            self.note("net.data", end as u64, peer as u64, n as u64);
            self.progress += 1;
            self.edge(peer);
            self.space_opened(end);
        }
        let together = n == 0 || self.random.network().one_in(2);
        let socket = &mut self.sockets[end];
        if socket.outbox.is_empty() && socket.fin_out && !socket.fin_sent && together {
            socket.fin_sent = true;
            self.note("net.fin", end as u64, peer as u64, 0);
            self.progress += 1;
            if !self.sockets[peer].dead && self.sockets[peer].owner != Owner::Nobody {
                self.sockets[peer].fin_in = true;
                self.edge(peer);
            }
        }
        self.pump(end);
    }

    fn space_opened(&mut self, end: End) {
        if self.sockets[end].no_space && self.has_space(end) {
            self.sockets[end].no_space = false;
            self.edge(end);
        }
    }

    /// Linux calls a socket writable when a third of its buffer is free.
    fn has_space(&self, end: End) -> bool {
        let socket = &self.sockets[end];
        socket.outbox.len() * 3 <= socket.outbox_room * 2
    }

    fn take_reset(&mut self, end: End) {
        self.progress += 1;
        let eats = self.faults.reset_eats && matches!(self.sockets[end].owner, Owner::Actor(_));
        let socket = &mut self.sockets[end];
        if socket.dead {
            return;
        }
        socket.error = Some(match (socket.connecting, socket.fin_in) {
            (true, _) => ErrorKind::ConnectionRefused,
            (false, true) => ErrorKind::BrokenPipe,
            (false, false) => ErrorKind::ConnectionReset,
        });
        socket.dead = true;
        socket.outbox.clear();
        if eats {
            socket.inbox.clear();
        }
        self.note("net.reset", end as u64, 0, 0);
        self.edge(end);
    }

    // Readiness.

    pub fn add_door(&mut self, worker: usize) -> usize {
        self.pollers[worker].doors.push(Door { open: true, ..Door::default() });
        self.pollers[worker].doors.len() - 1
    }

    pub fn watch_door(&mut self, worker: usize, listener: usize, token: Token) {
        self.pollers[worker].doors[listener].token = Some(token);
        if !self.pollers[worker].doors[listener].backlog.is_empty() {
            self.list_door(worker, listener);
        }
    }

    pub fn accept(&mut self, worker: usize, listener: usize) -> Option<End> {
        let end = self.pollers[worker].doors[listener].backlog.pop_front()?;
        self.progress += 1;
        Some(end)
    }

    /// Those who still wait before it are turned away.
    pub fn close_door(&mut self, worker: usize, listener: usize) {
        self.pollers[worker].doors[listener].open = false;
        self.pollers[worker].doors[listener].token = None;
        for end in std::mem::take(&mut self.pollers[worker].doors[listener].backlog) {
            self.sockets[end].owner = Owner::Nobody;
            self.reset(end);
        }
    }

    pub fn watch(&mut self, end: End, token: Token) {
        self.sockets[end].token = Some(token);
        if self.mask(end) != Mask::default() {
            self.edge(end);
        }
    }

    fn list_door(&mut self, worker: usize, listener: usize) {
        let poller = &mut self.pollers[worker];
        if !std::mem::replace(&mut poller.doors[listener].listed, true) {
            poller.listed.push_back(Listed::Door(listener));
        }
    }

    /// Something changed at `end`: whoever has it hears of it.
    pub fn edge(&mut self, end: End) {
        match self.sockets[end].owner {
            Owner::Worker(worker) => {
                let socket = &mut self.sockets[end];
                if socket.token.is_some() && !std::mem::replace(&mut socket.listed, true) {
                    self.pollers[worker].listed.push_back(Listed::Socket(end));
                }
            }
            Owner::Actor(actor) => self.wake(actor),
            Owner::Nobody => {}
        }
    }

    /// An edge that comes a little later, as if what was left out had only just arrived.
    pub fn edge_later(&mut self, end: End) {
        let us = self.random.network().range(1, 500);
        self.after(us, Event::Edge(end));
    }

    fn wake(&mut self, actor: Actor) {
        if self.roused.insert(actor) {
            let us = self.random.network().range(1, 50);
            self.after(us, Event::Wake(actor));
        }
    }

    pub fn has_edges(&self, worker: usize) -> bool {
        !self.pollers[worker].listed.is_empty()
    }

    /// epoll_wait: at most `most` events; the rest stay for the next call.
    pub fn edges(&mut self, worker: usize, most: usize, out: &mut Vec<ringway::kernel::Event>) {
        while out.len() < most
            && let Some(listed) = self.pollers[worker].listed.pop_front()
        {
            match listed {
                Listed::Door(listener) => {
                    let door = &mut self.pollers[worker].doors[listener];
                    door.listed = false;
                    if let Some(token) = door.token.filter(|_| !door.backlog.is_empty()) {
                        let ready = Ready { readable: true, ..Ready::default() };
                        out.push(ringway::kernel::Event { token, ready });
                    }
                }
                Listed::Socket(end) => {
                    self.sockets[end].listed = false;
                    let mask = self.mask(end);
                    if let Some(token) = self.sockets[end].token.filter(|_| mask != Mask::default()) {
                        out.push(ringway::kernel::Event { token, ready: mask.ready() });
                    }
                }
            }
        }
    }

    /// An event for some open socket of the worker's, with nothing behind it.
    pub fn spurious(&mut self, worker: usize) -> Option<ringway::kernel::Event> {
        let end = self.random.network().below(self.sockets.len() as u64) as usize;
        let socket = self.sockets.get(end)?;
        let token = socket.token.filter(|_| socket.owner == Owner::Worker(worker) && !socket.connecting)?;
        let readable = self.random.network().one_in(2);
        Some(ringway::kernel::Event { token, ready: Ready { readable, writable: !readable, ..Ready::default() } })
    }

    /// What poll(2) would say (tcp_poll in Linux).
    fn mask(&mut self, end: End) -> Mask {
        let space = self.has_space(end);
        let socket = &mut self.sockets[end];
        let receive_over = socket.fin_in || socket.dead;
        let send_over = socket.fin_out || socket.dead;
        let open = !socket.connecting || socket.dead;
        if open && !send_over && !space {
            socket.no_space = true;
        }
        Mask {
            readable: receive_over || (open && !socket.inbox.is_empty()),
            writable: open && (send_over || space),
            read_over: receive_over,
            hangup: receive_over && send_over,
            error: socket.error.is_some(),
        }
    }
}

/// EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mask {
    readable: bool,
    writable: bool,
    read_over: bool,
    hangup: bool,
    error: bool,
}

impl Mask {
    /// As mio and the Linux kernel behind the trait tell it.
    fn ready(self) -> Ready {
        Ready {
            readable: self.readable,
            writable: self.writable,
            hangup: self.hangup || (self.readable && self.read_over),
            dead: self.error || self.hangup,
        }
    }
}
