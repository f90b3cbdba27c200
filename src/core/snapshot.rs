//! The immutable view of everything a worker needs to choose. The registry builds it; nobody changes it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::key;
use super::limits::Limits;
use super::proxy::Version;
use super::ring::Ring;

/// Where a replica is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

/// One started instance. Never reused: a replacement in the same slot has another id, so that
/// connections and tries of the dead one can never be taken for the new one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// A service, by its place in `Snapshot::services`. It keeps its id in every later snapshot for as long as anything may
/// refer to it, so that an id never means another service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes requests.
    Up,
    /// Takes none, but those in flight finish.
    Draining,
    /// Dead or silent: takes none, idle connections are dropped, and what can be sent again is.
    Down,
}

/// One server instance that requests go to. Its place in `Service::replicas` is its member index on the ring;
/// its name is its identity on the ring, whichever instance fills it.
#[derive(Clone, Debug)]
pub struct Replica {
    pub id: ReplicaId,
    pub name: Arc<str>,
    pub endpoint: Endpoint,
    pub weight: u32,
    pub state: State,
    pub load: Arc<ReplicaLoad>,
}

/// Requests that a slot was chosen for and how many of them are over, one padded cell per worker: single writer each,
/// summed by the reader. A drain waits until all are over.
#[derive(Debug, Default)]
pub struct ReplicaLoad {
    cells: Box<[Cell]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell {
    chosen: AtomicU64,
    over: AtomicU64,
}

impl ReplicaLoad {
    pub fn new(workers: usize) -> ReplicaLoad {
        ReplicaLoad { cells: (0..workers).map(|_| Cell::default()).collect() }
    }

    /// Counts one request. A worker writes only its own cell.
    pub fn start(&self, worker: usize) {
        if let Some(cell) = self.cells.get(worker) {
            bump(&cell.chosen);
        }
    }

    /// Says that a request counted before is over: answered, retried elsewhere or given up.
    pub fn finish(&self, worker: usize) {
        if let Some(cell) = self.cells.get(worker) {
            bump(&cell.over);
        }
    }

    pub fn total(&self) -> u64 {
        self.cells.iter().map(|cell| cell.chosen.load(Ordering::Relaxed)).sum()
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u64 {
        let over: u64 = self.cells.iter().map(|cell| cell.over.load(Ordering::Acquire)).sum();
        self.total().saturating_sub(over)
    }
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Http,
    Tcp,
}

/// What the ring is asked with. A key that a request lacks falls back to `Request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPolicy {
    /// A fresh number per request: spreads everything.
    Request,
    Uri,
    Path,
    Header(String),
    Cookie(String),
    Query(String),
    ClientIp,
}

/// A name, a mode, a ring and its replicas.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: Arc<str>,
    pub mode: Mode,
    pub key: KeyPolicy,
    pub limits: Arc<Limits>,
    /// New upstream connections begin with a PROXY header; none of them is shared by clients.
    pub send_proxy: Option<Version>,
    /// The ring's members first, in ring order; then replicas that left the ring and still drain.
    pub replicas: Vec<Replica>,
    /// Built over the members' names and weights. A health flip shares it.
    pub ring: Arc<Ring>,
}

/// Which service answers a path on the data port. Exact paths first, then the default.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pub exact: Vec<(String, ServiceId)>,
    pub default: ServiceId,
}

impl Routes {
    /// Where a request for this target goes, in origin-form.
    pub fn service(&self, target: &[u8]) -> ServiceId {
        if self.exact.is_empty() {
            return self.default;
        }
        let path = key::path(target);
        self.exact.iter().find(|(p, _)| p.as_bytes() == path).map_or(self.default, |(_, service)| *service)
    }
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Rises by one with each publication.
    pub epoch: u64,
    /// Set once: accept no more, finish what is under way, stop.
    pub stopping: bool,
    pub services: Vec<Arc<Service>>,
    pub routes: Routes,
}

impl Snapshot {
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.0 as usize).map(|service| &**service)
    }

    /// A service that left the snapshot while it was in use leaves the defaults behind.
    pub fn limits(&self, service: ServiceId) -> &Limits {
        self.service(service).map_or(&Limits::DEFAULT, |service| &service.limits)
    }

    /// The limits of who has not asked for a service yet.
    pub fn first_limits(&self) -> &Limits {
        self.limits(self.routes.default)
    }
}

/// How many ring entries a pick looks at before it gives up: the walk is capped.
const WALK_LIMIT: usize = 4096;

impl Service {
    /// The first live replica on the walk from `key` that was not tried before. With every replica down
    /// there is none: the client gets 503 rather than a connection to a server known to be dead.
    pub fn pick(&self, key: u32, was_tried: impl Fn(ReplicaId) -> bool) -> Option<(usize, &Replica)> {
        self.ring
            .walk(key)
            .take(WALK_LIMIT)
            .map(|member| (member, &self.replicas[member]))
            .find(|(_, replica)| replica.state == State::Up && !was_tried(replica.id))
    }
}
