//! The immutable state that a worker routes by: listeners, services, rings, replicas, limits. The registry builds it; workers read it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::balance::{BalancePolicy, Ramp};
use super::challenges::Challenges;
use super::failure_run::FailureRun;
use super::limits::Limits;
use super::net::Net;
use super::proxy::Version;
use super::queue_heads::QueueHeads;
use super::ring::Ring;
use super::routes::{Redirect, RouteKey, RouteTarget, Routes};
use super::tls::policy::Policy;
use super::tls::upstream::UpstreamPolicy;

/// The address of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

/// One started instance. Never reused: a replacement in the same slot has another id, so that its predecessor's
/// connections and attempts are not taken for its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// A service, by its place in `Snapshot::services`. It keeps its id in every later snapshot for as long as anything may
/// refer to it, so that an id never means another service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

impl ServiceId {
    /// No service has this id.
    pub const NONE: ServiceId = ServiceId(u32::MAX);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes requests.
    Up,
    /// Slow: takes new requests only where no replica is up. Its requests in flight go on.
    Ejected,
    /// Takes no new requests; those in flight finish.
    Draining,
    /// Takes no requests: its idle connections are closed, and its requests are retried where that is safe.
    Down,
}

impl State {
    /// A request may be sent to it: its connections are kept.
    pub fn may_take_requests(self) -> bool {
        matches!(self, State::Up | State::Ejected)
    }
}

/// One server instance. Its index in `Service::replicas` is its member index on the ring; its name is what the ring
/// hashes, and stays when the instance is replaced.
#[derive(Clone, Debug)]
pub struct Replica {
    pub id: ReplicaId,
    pub name: Arc<str>,
    pub endpoint: Endpoint,
    pub weight: u32,
    pub state: State,
    /// The part of its weight that it takes: less than the whole while it starts slowly.
    pub ramp: Ramp,
    /// What the cookie of its service says of it.
    pub sticky: Option<Arc<str>>,
    pub load: Arc<ReplicaLoad>,
}

/// Requests that were routed to a slot, how many of them have ended, how often bytes of responses came, and responses by
/// class: one padded cell per worker with a single writer, summed by the reader. A drain waits until all have ended.
///
/// What was counted for the instances before in the same slot is part of the sums that only rise, so that they never fall.
#[derive(Debug, Default)]
pub struct ReplicaLoad {
    cells: Arc<[Cell]>,
    /// Of the instance before, which may still have requests.
    before: Arc<[Cell]>,
    earlier: Totals,
    pub failures: FailureRun,
}

/// Requests routed and responses by class.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    routed: u64,
    responses: [u64; 5],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell {
    routed: AtomicU64,
    ended: AtomicU64,
    received: AtomicU64,
    /// 1xx first.
    responses: [AtomicU64; 5],
}

// Counting a request touches one pair of lines, which no other worker writes.
const _: () = assert!(size_of::<Cell>() == 128);

impl ReplicaLoad {
    pub fn new(workers: usize) -> ReplicaLoad {
        ReplicaLoad { cells: (0..workers).map(|_| Cell::default()).collect(), ..ReplicaLoad::default() }
    }

    /// Of an instance that takes the place of this one's.
    pub fn successor(&self) -> ReplicaLoad {
        let earlier =
            Totals { routed: self.earlier.routed + routed(&self.before), responses: self.responses_of_earlier() };
        ReplicaLoad { before: self.cells.clone(), earlier, ..ReplicaLoad::new(self.cells.len()) }
    }

    /// Counts one request. A worker writes only its own cell.
    pub fn start(&self, worker: usize) {
        if let Some(cell) = self.cells.get(worker) {
            bump(&cell.routed);
        }
    }

    /// Counts the end of a request: answered, retried on another replica, or failed.
    pub fn finish(&self, worker: usize) {
        if let Some(cell) = self.cells.get(worker) {
            bump(&cell.ended);
        }
    }

    /// Counts one read of bytes that the replica sent.
    #[inline]
    pub fn receive(&self, worker: usize) {
        if let Some(cell) = self.cells.get(worker) {
            bump(&cell.received);
        }
    }

    /// Counts responses whose head was read whole, by class: 1xx first.
    pub fn respond(&self, worker: usize, responses: [u64; 5]) {
        if let Some(cell) = self.cells.get(worker) {
            for (counter, n) in cell.responses.iter().zip(responses) {
                counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
            }
        }
    }

    /// Responses by class: 1xx first.
    pub fn responses(&self) -> [u64; 5] {
        sum(self.responses_of_earlier(), responses(&self.cells))
    }

    fn responses_of_earlier(&self) -> [u64; 5] {
        sum(self.earlier.responses, responses(&self.before))
    }

    /// Reads that found bytes of responses. It rises while the replica answers anything.
    pub fn received(&self) -> u64 {
        self.cells.iter().map(|cell| cell.received.load(Ordering::Relaxed)).sum()
    }

    /// Requests that were routed to the slot.
    pub fn total(&self) -> u64 {
        self.earlier.routed + routed(&self.before) + routed(&self.cells)
    }

    /// Requests to this instance that have not ended.
    pub fn in_flight(&self) -> u64 {
        let ended: u64 = self.cells.iter().map(|cell| cell.ended.load(Ordering::Acquire)).sum();
        routed(&self.cells).saturating_sub(ended)
    }
}

fn routed(cells: &[Cell]) -> u64 {
    cells.iter().map(|cell| cell.routed.load(Ordering::Relaxed)).sum()
}

fn responses(cells: &[Cell]) -> [u64; 5] {
    std::array::from_fn(|class| cells.iter().map(|cell| cell.responses[class].load(Ordering::Relaxed)).sum())
}

fn sum(a: [u64; 5], b: [u64; 5]) -> [u64; 5] {
    std::array::from_fn(|class| a[class] + b[class])
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Http,
    Tcp,
    /// Bytes of TLS connections, which go by the name in their ClientHello. Of listeners only: their services have `Tcp`.
    TlsPassthrough,
}

impl Mode {
    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Http => "http",
            Mode::Tcp => "tcp",
            Mode::TlsPassthrough => "tls-passthrough",
        }
    }

    /// Of the services that a listener of this mode leads to.
    pub fn of_service(self) -> Mode {
        match self {
            Mode::Http => Mode::Http,
            Mode::Tcp | Mode::TlsPassthrough => Mode::Tcp,
        }
    }
}

/// What the ring hashes. `Request` stands in for a key that a request lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPolicy {
    /// The host that a TLS client asks for.
    Sni,
    /// A random number per request.
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
    pub policy: BalancePolicy,
    /// Of policies that hash.
    pub key: KeyPolicy,
    pub limits: Arc<Limits>,
    /// New upstream connections begin with a PROXY header; such a connection serves one client only.
    pub send_proxy: Option<Version>,
    /// Its replicas speak TLS.
    pub tls: Option<Arc<UpstreamPolicy>>,
    /// So many responses in a row with a 5xx status are reported. `None`: they are answers like others.
    pub max_5xx_in_a_row: Option<u32>,
    /// Which worker's requests wait for longest, where `Limits::max_upstream_connections` lets them wait.
    pub queue_heads: Arc<QueueHeads>,
    /// The members of the ring, in its order; then replicas that were removed from the ring and still drain.
    pub replicas: Vec<Replica>,
    /// Built from the names and weights of the members. A change of health does not rebuild it.
    pub ring: Arc<Ring>,
    /// No configuration names it any more: nothing new comes to it.
    pub is_removed: bool,
}

/// A listener, by its place in `Snapshot::listeners`. Like a service it keeps its id for as long as anything may refer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u32);

/// Addresses that clients connect to, and what becomes of what they send.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub bind: Vec<SocketAddr>,
    /// `Serving`. Once no configuration names it, it is bound nowhere, and its connections end as those of a process that was
    /// replaced: `HandedOver`, then `Stopping`.
    pub lifecycle: Lifecycle,
    pub mode: Mode,
    /// Where bytes of a tcp listener go, and requests and TLS connections that no route is for. `None`: requests are answered
    /// 404, connections closed.
    pub service: Option<ServiceId>,
    /// Instead of any route.
    pub redirect: Option<Redirect>,
    /// Balancers that must name their client by a PROXY header.
    pub proxies: Vec<Net>,
    /// Of clients that have not sent a request yet, and of heads.
    pub limits: Arc<Limits>,
    /// Its clients speak TLS.
    pub tls: Option<Arc<Policy>>,
}

impl Listener {
    /// One that sends everything to this service.
    pub fn to(service: ServiceId, name: Arc<str>, mode: Mode, limits: Arc<Limits>) -> Listener {
        let (bind, lifecycle, proxies) = Default::default();
        Listener { name, bind, lifecycle, mode, service: Some(service), redirect: None, proxies, limits, tls: None }
    }

    /// As it is once no configuration names it.
    pub fn removed(&self, lifecycle: Lifecycle) -> Listener {
        Listener { bind: Vec::new(), lifecycle, ..self.clone() }
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    Service(ServiceId),
    Redirect(&'a Redirect),
    /// To the ACME server that asks for this content.
    Challenge(&'a str),
}

/// What the balancer does with its clients. Of the balancer as a whole it never goes back; for the clients of one listener
/// it is `Snapshot::lifecycle_of`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// Its listeners are bound, and clients wait in their queues; or the process that it replaces still accepts.
    Starting,
    #[default]
    Serving,
    /// It is about to stop: it accepts, and each response is the last of its connection.
    LameDuck,
    /// Another process accepts on the same sockets: this one's are closed, and each response is the last of its connection.
    HandedOver,
    /// Stop accepting, finish what is in flight, exit.
    Stopping,
}

impl Lifecycle {
    /// A connection may serve another request after its response.
    pub fn keeps_alive(self) -> bool {
        self <= Lifecycle::Serving
    }

    pub fn is_stopping(self) -> bool {
        self == Lifecycle::Stopping
    }
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Rises by one with each publication.
    pub epoch: u64,
    pub lifecycle: Lifecycle,
    pub services: Vec<Arc<Service>>,
    pub listeners: Vec<Arc<Listener>>,
    pub routes: Arc<Routes>,
    /// `None`: no ACME server checks a name now.
    pub challenges: Option<Arc<Challenges>>,
}

impl Snapshot {
    pub fn empty(epoch: u64) -> Snapshot {
        Snapshot {
            epoch,
            lifecycle: Lifecycle::Serving,
            services: Vec::new(),
            listeners: Vec::new(),
            routes: Arc::default(),
            challenges: None,
        }
    }

    /// A service and a listener that sends it everything.
    pub fn of_service(epoch: u64, service: Service) -> Snapshot {
        let (name, limits) = (service.name.clone(), service.limits.clone());
        let listener = Listener::to(ServiceId(0), name, service.mode, limits);
        let (services, listeners) = (vec![Arc::new(service)], vec![Arc::new(listener)]);
        Snapshot { services, listeners, ..Snapshot::empty(epoch) }
    }

    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.0 as usize).map(|service| &**service)
    }

    /// The defaults, if the service is no longer in the snapshot.
    pub fn limits(&self, service: ServiceId) -> &Limits {
        self.service(service).map_or(&Limits::DEFAULT, |service| &service.limits)
    }

    /// Where a request goes. `None`: no route is for it. `random` is drawn where services share a route.
    pub fn destination(&self, request: &RouteKey, random: impl FnOnce() -> u32) -> Option<Destination<'_>> {
        if let Some(service) = self.routes.direct(request) {
            return Some(Destination::Service(service));
        }
        // A reload may have given a listener's name to one of another mode; connections of the one before are left.
        let listener = self.listener(request.listener).filter(|listener| listener.mode == Mode::Http)?;
        if let Some(content) = self.challenges.as_ref().and_then(|challenges| challenges.content(request.request)) {
            return Some(Destination::Challenge(content));
        }
        if let Some(redirect) = &listener.redirect {
            return Some(Destination::Redirect(redirect));
        }
        match self.routes.find(request) {
            Some(RouteTarget::Service(service)) => Some(Destination::Service(*service)),
            Some(RouteTarget::Split(split)) => split.choose(random()).map(Destination::Service),
            Some(RouteTarget::Redirect(redirect)) => Some(Destination::Redirect(redirect)),
            None => listener.service.map(Destination::Service),
        }
    }

    /// Where a TLS connection goes. `None`: no route is for the name in its ClientHello.
    pub fn passthrough_to(&self, hello: &RouteKey, random: impl FnOnce() -> u32) -> Option<ServiceId> {
        let listener = self.listener(hello.listener).filter(|listener| listener.mode == Mode::TlsPassthrough)?;
        match self.routes.find(hello) {
            Some(RouteTarget::Service(service)) => Some(*service),
            Some(RouteTarget::Split(split)) => split.choose(random()),
            Some(RouteTarget::Redirect(_)) => None,
            None => listener.service,
        }
    }

    pub fn listener(&self, id: ListenerId) -> Option<&Listener> {
        self.listeners.get(id.0 as usize).map(|listener| &**listener)
    }

    /// What becomes of connections of this listener after their exchange: the only place that decides.
    #[inline]
    pub fn lifecycle_of(&self, listener: ListenerId) -> Lifecycle {
        self.listener(listener).map_or(self.lifecycle, |listener| listener.lifecycle.max(self.lifecycle))
    }

    /// When a drain that begins now no longer waits.
    pub fn drain_timeout_ms(&self) -> u64 {
        self.services.iter().map(|service| service.limits.drain_timeout_ms).max().unwrap_or(0)
    }

    /// The limits of a client that has not sent a request yet.
    pub fn listener_limits(&self, listener: ListenerId) -> &Limits {
        self.listener(listener).map_or(&Limits::DEFAULT, |listener| &listener.limits)
    }
}

/// The name of the only service of a configuration that names none.
pub const DEFAULT_SERVICE: &str = "default";
/// The name of a service that no configuration names: those begin with a letter or a digit.
pub const INTERNAL_SERVICE: &str = "(admin)";

impl Service {
    /// It is the balancer's own: the admin API on a data port.
    pub fn is_internal(&self) -> bool {
        &*self.name == INTERNAL_SERVICE
    }

    /// An operator knows it, and may ask and change it.
    pub fn is_listed(&self) -> bool {
        !self.is_internal() && !self.is_removed
    }

    /// It has as many requests as it may have.
    #[inline]
    pub fn is_full(&self, replica: &Replica) -> bool {
        let limit = u64::from(self.limits.max_upstream_connections);
        limit > 0 && replica.load.in_flight() >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_go_on_over_replaced_instances_while_the_one_before_still_counts() {
        let one = |load: &ReplicaLoad, class| {
            load.start(0);
            let mut responses = [0; 5];
            responses[class] = 1;
            load.respond(0, responses);
        };
        let first = ReplicaLoad::new(1);
        one(&first, 1);
        let second = first.successor();
        one(&second, 2);
        let third = second.successor();
        one(&second, 3);
        one(&third, 4);
        assert_eq!((third.total(), third.responses()), (4, [0, 1, 1, 1, 1]));
        assert_eq!((second.total(), third.in_flight()), (3, 1));
    }
}
