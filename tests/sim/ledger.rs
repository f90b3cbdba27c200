//! What was meant and what came of it: every request with the answer it is to get, every answer a replica gave, and
//! the oracles that need both sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ringway::core::snapshot::{Endpoint, KeyPolicy, Replica, Service, Snapshot, State};

use super::net::{Actor, End};
use super::script::{Bad, Flaw, Plan, Upload};
use super::wire::Framing;

#[derive(Clone, Debug)]
pub struct Request {
    pub id: u64,
    pub client: Actor,
    pub service: usize,
    pub method: &'static str,
    pub minor: u8,
    pub text: Vec<u8>,
    /// As a replica must see them.
    pub target: String,
    pub host: String,
    pub upload: Upload,
    pub expect: bool,
    pub upgrade: bool,
    pub bad: Bad,
    pub plan: Plan,
    /// When its first byte was written.
    pub sent_at: Option<u64>,
    /// Its last byte was written.
    pub sent_whole: bool,
    pub sent_whole_at: u64,
    /// When a replica read it to its end.
    pub heard_whole_at: Option<u64>,
    /// Heads that reached a replica.
    pub heads: u32,
}

impl Request {
    pub fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    /// What is wrong with the answer this time.
    pub fn flaw(&self) -> Flaw {
        if self.heads <= self.plan.flawed_tries { self.plan.flaw } else { Flaw::None }
    }
}

/// One answer, as a replica gave it.
#[derive(Clone, Debug)]
pub struct Serve {
    pub id: u64,
    pub status: u16,
    pub framing: Framing,
    pub len: u64,
    /// No client may see a byte of it.
    pub poisoned: bool,
}

/// Both directions of a tunnel: what was sent, and whether it ended cleanly there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tunnel {
    pub up: u64,
    pub up_over: bool,
    pub down: u64,
    pub down_over: bool,
    pub dials: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub refused: u64,
    pub cut: u64,
    pub tunnels: u64,
    pub retried: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.cut += other.cut;
        self.tunnels += other.tunnels;
        self.retried += other.retried;
    }
}

#[derive(Default)]
pub struct Ledger {
    pub requests: Vec<Request>,
    pub serves: Vec<Serve>,
    pub tunnels: BTreeMap<u64, Tunnel>,
    pub snapshots: Vec<(u64, Arc<Snapshot>)>,
    pub tally: Tally,
    /// When the balancer was told to stop, and how long it may take.
    pub stopping: Option<(u64, u64)>,
    /// How long what is under way may go on at a replica that was removed.
    pub drain_ms: u64,
    /// How long a client may be idle.
    pub idle_ms: u64,
    /// By the balancer's end: when it moved a byte last.
    moved: BTreeMap<End, u64>,
    /// When a client's connection was closed for being idle.
    pub let_go: BTreeMap<Actor, u64>,
    troubles: BTreeMap<SocketAddr, Vec<(u64, u64)>>,
    clients: BTreeMap<End, Actor>,
}

impl Ledger {
    pub fn came(&mut self, end: End, client: Actor) {
        self.clients.insert(end, client);
    }

    pub fn client_of(&self, end: End) -> Actor {
        self.clients[&end]
    }

    pub fn moved(&mut self, end: End, now_us: u64) {
        self.moved.insert(end, now_us);
    }

    /// The balancer closed this end, by a clock as coarse as that.
    pub fn closed(&mut self, end: End, now_us: u64, clock_ms: u64) {
        let Some(client) = self.clients.get(&end) else { return };
        let since = self.moved.remove(&end).unwrap_or(now_us);
        if now_us >= since + self.idle_ms.saturating_sub(clock_ms) * 1_000 {
            self.let_go.insert(*client, now_us);
        }
    }

    /// The balancer's ends of all that clients ever opened.
    pub fn client_sockets(&self) -> impl Iterator<Item = End> + '_ {
        self.clients.keys().copied()
    }

    /// Something went wrong at this address: a request that comes now may go elsewhere.
    pub fn trouble(&mut self, address: SocketAddr, now_us: u64) {
        self.troubles.entry(address).or_default().push((now_us, now_us));
    }

    /// No local port was left to it: the worker that learned it looks elsewhere for a while, by a clock as coarse as that.
    pub fn barred(&mut self, address: SocketAddr, now_us: u64, clock_ms: u64) {
        const BARRED_MS: u64 = 10;
        self.troubles.entry(address).or_default().push((now_us, now_us + (BARRED_MS + clock_ms) * 1_000));
    }

    fn had_trouble(&self, address: &Endpoint, from: u64, to: u64) -> bool {
        let Endpoint::Tcp(address) = address else { return false };
        self.troubles.get(address).is_some_and(|times| times.iter().any(|(begun, over)| *begun <= to && from <= *over))
    }

    /// Oracle: workers connect to nobody but a replica that the snapshot in force has up.
    pub fn may_dial(&self, address: SocketAddr) {
        let (_, snapshot) = self.snapshots.last().expect("there is always a snapshot");
        let up = snapshot.services.iter().flat_map(|s| &s.replicas).any(|r| is_up_at(r, address));
        assert!(up, "a connection to {address}, which is not up in snapshot {}", snapshot.epoch);
    }

    /// Oracle: a request that reached the replica at `address` was sent by a client, may be there, and was not there
    /// before unless it may be done twice.
    pub fn head_came(&mut self, id: u64, address: SocketAddr, now_us: u64) -> Result<(), String> {
        let Some(request) = self.requests.get_mut(id as usize) else {
            return Err(format!("request {id} was never sent: something was read in two ways"));
        };
        request.heads += 1;
        if request.heads > 1 {
            self.tally.retried += 1;
        }
        let request = &self.requests[id as usize];
        let Some(sent_at) = request.sent_at else { return Err(format!("request {id} was not sent yet")) };
        if request.bad == Bad::Head {
            return Err(format!("request {id} should have been refused"));
        }
        if request.heads > 1 && !request.is_idempotent() {
            return Err(format!("{} {id} reached replicas {} times", request.method, request.heads));
        }
        self.choice_is_allowed(request, address, sent_at, now_us).map_err(|why| format!("request {id}: {why}"))
    }

    /// Oracle: in some snapshot since the request was sent, this replica was the first on the walk of the request's
    /// key that was up and had not failed.
    fn choice_is_allowed(&self, request: &Request, at: SocketAddr, since: u64, now: u64) -> Result<(), String> {
        let in_force = self.snapshots.iter().rposition(|(time, _)| *time <= since).unwrap_or(0);
        let mut why = String::new();
        for (_, snapshot) in &self.snapshots[in_force..] {
            let Some(service) = snapshot.services.get(request.service) else { continue };
            match self.passed_over(request, service, at, since, now) {
                None => why = format!("{why}; {at} is not up in snapshot {}", snapshot.epoch),
                Some(None) => return Ok(()),
                Some(Some(other)) => why = format!("{why}; {other} was passed over in snapshot {}", snapshot.epoch),
            }
        }
        Err(format!("came to {at}{why}"))
    }

    /// `None`: the replica takes no requests. `Some(Some(name))`: that one was to be asked first.
    fn passed_over(
        &self,
        request: &Request,
        service: &Service,
        at: SocketAddr,
        since: u64,
        now: u64,
    ) -> Option<Option<String>> {
        let chosen = service.replicas.iter().position(|replica| is_up_at(replica, at))?;
        let Some(key) = key_of(request, service) else { return Some(None) };
        let walk = service.ring.walk(key).take_while(|member| *member != chosen);
        let before = walk.map(|member| &service.replicas[member]).filter(|replica| replica.state == State::Up);
        let mut sound = before.filter(|replica| !self.had_trouble(&replica.endpoint, since, now));
        Some(sound.next().map(|replica| replica.name.to_string()))
    }

    pub fn serve(&mut self, serve: Serve) -> u64 {
        self.serves.push(serve);
        self.serves.len() as u64 - 1
    }

    pub fn tunnel(&mut self, id: u64) -> &mut Tunnel {
        self.tunnels.entry(id).or_default()
    }
}

fn is_up_at(replica: &Replica, address: SocketAddr) -> bool {
    replica.state == State::Up && replica.endpoint == Endpoint::Tcp(address)
}

/// The routing key worked out again, or `None` where every request has a fresh one.
fn key_of(request: &Request, service: &Service) -> Option<u32> {
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
