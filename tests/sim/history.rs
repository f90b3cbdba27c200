//! The record of a world: all requests, responses, tunnels and snapshots, when replicas had faults, and the oracles
//! that need more than one party's view. It draws nothing and schedules nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ringway::core::balance::BalancePolicy;
use ringway::core::snapshot::{Endpoint, KeyPolicy, Lifecycle, Replica, Service, ServiceId, Snapshot, State};

use super::configuration::{HTTP, SECOND};
use super::http::Framing;
use super::net::{Actor, ProcessId, SocketId};
use super::request::{Malformed, Request};

/// For so long a worker avoids a replica to which it had no free local port.
const NO_PORT_MS: u64 = 10;

/// A response as a replica began to send it. Its index is its `X-Serve` and the number of its body.
#[derive(Clone, Debug)]
pub struct Response {
    pub request: u64,
    pub status: u16,
    pub framing: Framing,
    pub len: u64,
    /// Its head must be refused: no client may receive it.
    pub invalid: bool,
}

/// Bytes sent each way through a tunnel, and which sender ended its direction in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct TunnelRecord {
    pub sent_up: u64,
    pub up_ended: bool,
    pub sent_down: u64,
    pub down_ended: bool,
    /// How often a replica saw it begin.
    pub opened: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Complete responses of replicas.
    pub answered: u64,
    /// Local replies of the balancer.
    pub refused: u64,
    /// Responses that a client missed in part or whole.
    pub cut: u64,
    /// Tunnels whose client saw a FIN.
    pub tunnels: u64,
    /// Heads that reached a replica for the second time or later.
    pub retried: u64,
    /// Connections by TLS that replicas accepted, and whose handshake ended well.
    pub handshakes: u64,
    /// Processes that took over from another, and attempts of which nothing came.
    pub upgrades: u64,
    pub failed_upgrades: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.cut += other.cut;
        self.tunnels += other.tunnels;
        self.retried += other.retried;
        self.handshakes += other.handshakes;
        self.upgrades += other.upgrades;
        self.failed_upgrades += other.failed_upgrades;
    }
}

/// A process of the balancer.
#[derive(Default)]
struct ProcessRecord {
    /// What it published, with the time (us).
    snapshots: Vec<(u64, Arc<Snapshot>)>,
    /// Since when its connections end after their next response (us).
    ends_since_us: Option<u64>,
    /// Since when those that are idle are closed (us).
    stops_since_us: Option<u64>,
    is_killed: bool,
}

#[derive(Default)]
pub struct History {
    pub requests: Vec<Request>,
    pub responses: Vec<Response>,
    pub tunnels: BTreeMap<u64, TunnelRecord>,
    processes: Vec<ProcessRecord>,
    pub totals: Totals,
    /// When the balancer was told to stop (us).
    pub stopping: Option<u64>,
    /// Requests in flight at each replica of requests at most; 0: no limit.
    pub max_connections: u32,
    /// The drain timeout (ms).
    pub drain_ms: u64,
    pub idle_ms: u64,
    /// Nothing is wrong with replicas but that they are slow: no request is run twice. (A pipelined request that would wait
    /// behind a slow one is.)
    pub runs_once: bool,
    /// Replicas are removed at times, by calls or reloads.
    pub has_removals: bool,
    /// When a client's connection was closed at its idle timeout (us).
    pub idle_closed: BTreeMap<Actor, u64>,
    /// By the balancer's socket: when it moved bytes last (us).
    last_transfer: BTreeMap<SocketId, u64>,
    /// From when until when workers may avoid a replica (us).
    replica_faults: BTreeMap<SocketAddr, Vec<(u64, u64)>>,
    clients: BTreeMap<SocketId, Actor>,
}

impl History {
    pub fn client_connected(&mut self, socket: SocketId, client: Actor) {
        self.clients.insert(socket, client);
    }

    pub fn client_of(&self, socket: SocketId) -> Actor {
        self.clients[&socket]
    }

    pub fn bytes_moved(&mut self, socket: SocketId, now_us: u64) {
        self.last_transfer.insert(socket, now_us);
    }

    /// The balancer closed this socket. Its clock may be `clock_step_ms` behind.
    pub fn balancer_closed(&mut self, socket: SocketId, now_us: u64, clock_step_ms: u64) {
        let Some(client) = self.clients.get(&socket) else { return };
        let since = self.last_transfer.remove(&socket).unwrap_or(now_us);
        if now_us >= since + self.idle_ms.saturating_sub(clock_step_ms) * 1_000 {
            self.idle_closed.insert(*client, now_us);
        }
    }

    /// The balancer's sockets of all clients, open or not.
    pub fn client_sockets(&self) -> impl Iterator<Item = SocketId> + '_ {
        self.clients.keys().copied()
    }

    /// The replica at this address had a fault: a request in flight now may go to another one.
    pub fn replica_fault(&mut self, address: SocketAddr, now_us: u64) {
        self.replica_faults.entry(address).or_default().push((now_us, now_us));
    }

    /// A worker had no free local port to this address and avoids it for a while. Its clock may be `clock_step_ms`
    /// behind.
    pub fn no_local_port(&mut self, address: SocketAddr, now_us: u64, clock_step_ms: u64) {
        let until_us = now_us + (NO_PORT_MS + clock_step_ms) * 1_000;
        self.replica_faults.entry(address).or_default().push((now_us, until_us));
    }

    fn had_fault(&self, address: &Endpoint, from: u64, to: u64) -> bool {
        let Endpoint::Tcp(address) = address else { return false };
        self.replica_faults
            .get(address)
            .is_some_and(|times| times.iter().any(|(begin, end)| *begin <= to && from <= *end))
    }

    pub fn add_process(&mut self) {
        self.processes.push(ProcessRecord::default());
    }

    pub fn published(&mut self, process: ProcessId, snapshot: Arc<Snapshot>, now_us: u64) {
        let record = &mut self.processes[process];
        if snapshot.lifecycle > Lifecycle::Serving {
            record.ends_since_us.get_or_insert(now_us);
        }
        if snapshot.lifecycle.is_stopping() {
            record.stops_since_us.get_or_insert(now_us);
        }
        record.snapshots.push((now_us, snapshot));
    }

    /// All that there were and were not killed.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> + '_ {
        (0..self.processes.len()).filter(|process| !self.processes[*process].is_killed)
    }

    pub fn killed(&mut self, process: ProcessId) {
        self.processes[process].is_killed = true;
    }

    pub fn current(&self, process: ProcessId) -> &Arc<Snapshot> {
        let (_, snapshot) = self.processes[process].snapshots.last().expect("there is always a snapshot");
        snapshot
    }

    /// Of the ring of a service that the process has, in its order.
    pub fn member_names(&self, process: ProcessId, service: ServiceId) -> Vec<Arc<str>> {
        let service = self.current(process).service(service).filter(|service| !service.is_removed);
        let members = service.map(|service| &service.replicas[..service.ring.members()]).unwrap_or_default();
        members.iter().map(|replica| replica.name.clone()).collect()
    }

    /// The process serves clients, and sends them to the replica at this address.
    pub fn serves_with(&self, process: ProcessId, address: SocketAddr) -> bool {
        let snapshot = self.current(process);
        let mut replicas = snapshot.services.iter().flat_map(|service| &service.replicas);
        let serves = matches!(snapshot.lifecycle, Lifecycle::Serving | Lifecycle::LameDuck);
        serves && replicas.any(|replica| may_take_at(replica, address))
    }

    /// The process that has a client's connection, or the whole balancer if none has, ends it after its next response.
    pub fn is_ending(&self, process: Option<ProcessId>) -> bool {
        self.stopping.is_some() || process.is_some_and(|process| self.processes[process].ends_since_us.is_some())
    }

    /// Since when the process that has a client's connection, or the whole balancer if none has, closes what is idle (us).
    pub fn stops_since_us(&self, process: Option<ProcessId>) -> Option<u64> {
        match process {
            Some(process) => self.processes[process].stops_since_us,
            None => self.stopping,
        }
    }

    /// Oracle: a worker dials only replicas that are up in its process's current snapshot.
    pub fn check_dial(&self, process: ProcessId, address: SocketAddr) {
        let snapshot = self.current(process);
        let up = snapshot.services.iter().flat_map(|s| &s.replicas).any(|r| may_take_at(r, address));
        assert!(up, "a connection to {address}, which is not up in snapshot {}", snapshot.epoch);
    }

    /// Oracle: a head that reaches a replica is that of a request which a client has begun to send, is well-formed, has
    /// the right replica, and reaches a replica a second time only if its method is idempotent, and not because the first
    /// is slow.
    pub fn head_arrived(
        &mut self,
        process: ProcessId,
        id: u64,
        address: SocketAddr,
        now_us: u64,
    ) -> Result<(), String> {
        let Some(request) = self.requests.get_mut(id as usize) else {
            return Err(format!("no client sends request {id}: bytes of a body were read as a request"));
        };
        request.arrivals += 1;
        if request.arrivals > 1 {
            self.totals.retried += 1;
        }
        let request = &self.requests[id as usize];
        let Some(sent_at_us) = request.sent_at_us else { return Err(format!("request {id} was not sent yet")) };
        if request.malformed == Malformed::Head {
            return Err(format!("request {id} should have been refused"));
        }
        if request.arrivals > 1 && (self.runs_once || !request.is_idempotent()) {
            return Err(format!("{} {id} reached replicas {} times", request.method, request.arrivals));
        }
        let chosen = self.check_choice(process, request, address, sent_at_us, now_us);
        chosen.map_err(|why| format!("request {id}: {why}"))
    }

    /// Oracle: in some snapshot of the process since the request was sent, this replica was up and, where the policy is hash
    /// without a bound, the first on the ring's walk of the request's key that was up and had no fault, or one behind it where each may
    /// have so many requests; or it was ejected, and no replica was up that had no fault or no room.
    fn check_choice(
        &self,
        process: ProcessId,
        request: &Request,
        at: SocketAddr,
        since: u64,
        now: u64,
    ) -> Result<(), String> {
        let snapshots = &self.processes[process].snapshots;
        let first = snapshots.iter().rposition(|(time, _)| *time <= since).unwrap_or(0);
        let mut reasons = String::new();
        for (_, snapshot) in &snapshots[first..] {
            for service in candidates(request.service, &snapshot.services).into_values() {
                match self.choice(request, service, at, since, now) {
                    Choice::Right => return Ok(()),
                    Choice::NotUp => reasons += &format!("; {at} is not up in snapshot {}", snapshot.epoch),
                    Choice::Skipped(name) => reasons += &format!("; {name} was skipped in snapshot {}", snapshot.epoch),
                }
            }
        }
        Err(format!("arrived at {at}{reasons}"))
    }

    fn choice(&self, request: &Request, service: &Service, at: SocketAddr, since: u64, now: u64) -> Choice {
        let Some(chosen) = service.replicas.iter().position(|replica| may_take_at(replica, at)) else {
            return Choice::NotUp;
        };
        let is_ejected = service.replicas[chosen].state == State::Ejected;
        let up = |member: &usize| service.replicas[*member].state == State::Up;
        let before: Vec<usize> = match key_of(request, service) {
            // An ejected replica comes after all that are up, whatever the policy.
            key if is_ejected => service.ring.walk(key.unwrap_or(0)).filter(up).collect(),
            Some(key) => {
                // One that starts slowly declines a part of its keys, as long as another takes them.
                let takes = |member: &usize| {
                    let replica = &service.replicas[*member];
                    replica.ramp.takes(key, replica.id)
                };
                let comes_before = |member: &usize| *member != chosen || !takes(&chosen);
                let before = service.ring.walk(key).take_while(comes_before);
                before.filter(|member| *member != chosen).filter(up).filter(takes).collect()
            }
            None => Vec::new(),
        };
        // One that had no room is passed over.
        let skipped = before.into_iter().filter(|_| self.max_connections == 0).map(|member| &service.replicas[member]);
        let mut skipped = skipped.filter(|replica| !self.had_fault(&replica.endpoint, since, now));
        skipped.next().map_or(Choice::Right, |replica| Choice::Skipped(replica.name.to_string()))
    }

    pub fn add_response(&mut self, response: Response) -> u64 {
        self.responses.push(response);
        self.responses.len() as u64 - 1
    }

    pub fn tunnel(&mut self, id: u64) -> &mut TunnelRecord {
        self.tunnels.entry(id).or_default()
    }
}

/// The services of a snapshot that a request may go to which was sent to `service`.
fn candidates<S>(service: usize, services: &[S]) -> BTreeMap<usize, &S> {
    let is_http = service == HTTP.0 as usize;
    let second = services.get(SECOND.0 as usize).filter(|_| is_http).map(|second| (SECOND.0 as usize, second));
    services.get(service).map(|own| (service, own)).into_iter().chain(second).collect()
}

/// The choice of a replica, judged by one snapshot.
enum Choice {
    Right,
    NotUp,
    /// This replica comes first on the walk.
    Skipped(String),
}

fn may_take_at(replica: &Replica, address: SocketAddr) -> bool {
    replica.state.may_take_requests() && replica.endpoint == Endpoint::Tcp(address)
}

/// The request's ring key, computed independently. `None`: any replica is right.
fn key_of(request: &Request, service: &Service) -> Option<u32> {
    if service.policy != BalancePolicy::Hash {
        return None;
    }
    let path = || request.target.split('?').next().unwrap_or_default();
    let text = match &service.key {
        KeyPolicy::Uri => request.target.clone(),
        KeyPolicy::Path => path().to_string(),
        KeyPolicy::ClientIp => super::kernel::client_ip(request.client).to_string(),
        KeyPolicy::Query(_) => request.target.split_once("k=")?.1.to_string(),
        _ => return None,
    };
    Some(crc32fast::hash(text.as_bytes()))
}
