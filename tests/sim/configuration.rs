//! What a process of the balancer is configured with: services, listeners and routes, drawn for a world. Reloads change
//! it in `reloads`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ringway::control::registry::{EjectionPolicy, HealthPolicy, ServiceConfig, ServiceSource, Topology};
use ringway::core::balance::{BalanceFactor, BalancePolicy, Ramp};
use ringway::core::limits::{AbortOn, Limits};
use ringway::core::ring::{Member, Ring, RingKind};
use ringway::core::routes::{HostPattern, Route, RouteTarget, Routes};
use ringway::core::snapshot::{
    Endpoint, KeyPolicy, Lifecycle, Listener, ListenerId, Mode, Replica as Entry, ReplicaId, ReplicaLoad, Service,
    ServiceId, State,
};

use super::kernel::listening_addresses;
use super::net::Net;
use super::random::Random;
use super::tls::{NAME, ReplicaTls, Spoken, WorldTls};

/// Replicas of the service that is bytes only: they are always there.
pub const TCP_REPLICAS: u64 = 2;

/// The service of HTTP that is always there, that of bytes, and the one that comes and goes.
pub const HTTP: ServiceId = ServiceId(0);
pub const TCP: ServiceId = ServiceId(1);
pub const SECOND: ServiceId = ServiceId(2);

/// Listeners.
pub const HTTP_LISTENER: ListenerId = ListenerId(0);
pub const TCP_LISTENER: ListenerId = ListenerId(1);

/// Of HTTP and of the second one. As long as the other: bytes are counted in the trace.
pub const HTTP_NAME: &str = "http";
pub const SECOND_NAME: &str = "more";

/// What instances of HTTP are started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceSettings(pub u64);

impl InstanceSettings {
    /// No replica starts with these.
    pub const BROKEN: InstanceSettings = InstanceSettings(4);
    pub const FIRST: InstanceSettings = InstanceSettings(1);
}

#[derive(Clone)]
pub struct Configuration {
    pub http: ServiceConfig,
    pub second: Option<ServiceConfig>,
    /// Those of requests. TLS that passes through has one of its own.
    pub routes: Vec<Route>,
    pub instance_settings: InstanceSettings,
    /// Services may balance by other policies than hash.
    pub draws_policies: bool,
    workers: usize,
    tcp_policy: BalancePolicy,
    tcp_limits: Arc<Limits>,
    listener_limits: Arc<Limits>,
    tls: Option<WorldTls>,
    replica_tls: Option<ReplicaTls>,
}

impl Configuration {
    /// The first of a world. The network and the history learn what oracles need of it.
    pub fn draw(
        net: &mut Net,
        workers: usize,
        tls: Option<WorldTls>,
        replica_tls: Option<ReplicaTls>,
        draws_policies: bool,
    ) -> Configuration {
        let tcp_limits = Arc::new(with_replica_tls(draw_limits(net), replica_tls.as_ref()));
        net.aborts_on_close = tcp_limits.abort_on == AbortOn::Close;
        let is_secure = replica_tls.as_ref().is_some_and(|replicas| replicas.http != Spoken::Plain);
        net.upstream_pipelining = tcp_limits.upstream_pipelining > 1 && !is_secure;
        net.cuts_bodies = is_secure && !net.faults.calm;
        net.history.drain_ms = tcp_limits.drain_timeout_ms;
        net.history.max_connections = tcp_limits.max_upstream_connections;
        net.history.idle_ms = tcp_limits.idle_timeout_ms;
        let http = draw_http(net, tcp_limits.clone());
        let http = with_slowness(http, net);
        let policy = replica_tls.as_ref().and_then(|replicas| replicas.policy(Mode::Http));
        let mut http = ServiceConfig { tls: policy, ..http };
        let mut tcp_policy = BalancePolicy::Hash;
        if draws_policies {
            let random = net.random.balance();
            (http.policy, tcp_policy) = (draw_policy(random), draw_policy(random));
            http.ring = if random.one_in(8) { RingKind::Maglev } else { http.ring };
            // Of a copy: what is drawn later stays as it was.
            http.health = with_ramps_and_rates(http.health, &mut random.clone());
        }
        let mut listener_limits = Limits::clone(&http.limits);
        if let Some(tls) = &tls {
            listener_limits.handshake_timeout_ms = tls.handshake_timeout_ms;
        }
        let listener_limits = Arc::new(listener_limits);
        let (second, routes, instance_settings) = (None, Vec::new(), InstanceSettings::FIRST);
        Configuration {
            http,
            second,
            routes,
            instance_settings,
            draws_policies,
            workers,
            tcp_policy,
            tcp_limits,
            listener_limits,
            tls,
            replica_tls,
        }
    }

    /// Replicas of HTTP are connected to by TLS, made of the same certificates again.
    pub fn renew_replica_tls(&mut self) {
        self.replica_tls = self.replica_tls.take().map(ReplicaTls::renewed);
        self.http.tls = self.replica_tls.as_ref().and_then(|replicas| replicas.policy(Mode::Http));
    }

    fn passes_tls(&self) -> bool {
        self.replica_tls.as_ref().is_some_and(|replicas| replicas.tcp == Spoken::PassedThrough)
    }

    /// A listener of HTTP and one of bytes, each with the addresses of all workers.
    pub fn topology(&self, tcp: Arc<Service>) -> Topology {
        let runtime = |config: &ServiceConfig| ServiceSource::Runtime(config.clone());
        let second = self.second.as_ref().map(|second| (SECOND, runtime(second)));
        let services = [(HTTP, runtime(&self.http)), (TCP, ServiceSource::Static(tcp))].into_iter().chain(second);
        let of_bytes = if self.passes_tls() { Mode::TlsPassthrough } else { Mode::Tcp };
        let listeners = [Mode::Http, of_bytes].into_iter().enumerate().map(|(at, mode)| self.listener(at, mode));
        Topology {
            listeners: (0..).map(ListenerId).zip(listeners.map(Arc::new)).collect(),
            services: services.collect(),
            routes: Routes::new(self.routes.iter().cloned().chain(self.passes_tls().then(passthrough))).into(),
        }
    }

    fn listener(&self, at: usize, mode: Mode) -> Listener {
        Listener {
            name: "listener".into(),
            bind: (0..self.workers).map(|worker| listening_addresses(worker)[at]).collect(),
            lifecycle: Lifecycle::Serving,
            mode,
            service: (mode != Mode::TlsPassthrough).then_some(ServiceId(at as u32)),
            redirect: None,
            proxies: Vec::new(),
            tls: self.tls.as_ref().and_then(|tls| tls.policy(mode)),
            limits: self.listener_limits.clone(),
        }
    }

    /// The service of bytes of one process, which counts its own requests.
    pub fn tcp_service(&self) -> Arc<Service> {
        let members: Vec<Member> = (0..TCP_REPLICAS).map(|n| Member::new(tcp_name(n), 1)).collect();
        let entry = |n: u64| Entry {
            id: ReplicaId(tcp_instance(n)),
            name: tcp_name(n).into(),
            endpoint: Endpoint::Tcp(tcp_address(n)),
            weight: 1,
            state: State::Up,
            ramp: Ramp::WHOLE,
            sticky: None,
            load: Arc::new(ReplicaLoad::new(self.workers)),
        };
        Arc::new(Service {
            name: "tcp".into(),
            mode: Mode::Tcp,
            policy: self.tcp_policy,
            key: KeyPolicy::ClientIp,
            limits: self.tcp_limits.clone(),
            send_proxy: None,
            tls: self.replica_tls.as_ref().and_then(|replicas| replicas.policy(Mode::Tcp)),
            max_5xx_in_a_row: None,
            queue_heads: Arc::default(),
            is_removed: false,
            replicas: (0..TCP_REPLICAS).map(entry).collect(),
            ring: Arc::new(Ring::build(RingKind::Ketama, &members)),
        })
    }
}

pub fn tcp_name(number: u64) -> String {
    format!("tcp{number}")
}

pub fn tcp_instance(number: u64) -> u64 {
    u64::MAX - number
}

pub fn tcp_address(number: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 2, 0, 1), number as u16 + 1))
}

/// The name of the ClientHello leads to the service of bytes.
fn passthrough() -> Route {
    Route {
        host: HostPattern::Exact(NAME.into()),
        path: String::new(),
        methods: Vec::new(),
        listeners: vec![TCP_LISTENER],
        target: RouteTarget::Service(TCP),
    }
}

/// A replica may have a certificate that is not taken: another one is tried.
fn with_replica_tls(limits: Limits, tls: Option<&ReplicaTls>) -> Limits {
    let Some(tls) = tls else { return limits };
    let attempts = limits.attempts.max(2);
    Limits { connect_timeout_ms: tls.connect_timeout_ms, attempts, ..limits }
}

fn draw_limits(net: &mut Net) -> Limits {
    let c = net.random.control();
    let mut limits = Limits {
        head_timeout_ms: c.range(2_000, 10_000),
        idle_timeout_ms: c.range(3_000, 10_000),
        connect_timeout_ms: c.range(300, 1_000),
        response_timeout_ms: c.range(1_500, 4_000),
        stall_timeout_ms: c.range(5_000, 10_000),
        tunnel_timeout_ms: c.range(8_000, 15_000),
        drain_timeout_ms: c.range(3_000, 8_000),
        pool_idle_timeout_ms: c.range(500, 5_000),
        pool_size: c.pick(&[0, 1, 2, 1024]),
        attempts: c.range(1, 5) as u32,
        upstream_pipelining: c.pick(&[0, 0, 2, 8, 32]),
        ..Limits::DEFAULT
    };
    // Not drawn: what a seed draws after it stays what it was.
    limits.min_body_rate = if limits.stall_timeout_ms.is_multiple_of(2) { 100 } else { 0 };
    limits.max_upstream_connections = match limits.connect_timeout_ms % 6 {
        0 => 1,
        1 => 3,
        _ => 0,
    };
    limits.queue = if limits.idle_timeout_ms.is_multiple_of(4) { 2 } else { 1_024 };
    limits.queue_timeout_ms = 4 * limits.connect_timeout_ms;
    limits.retry_budget = if limits.tunnel_timeout_ms.is_multiple_of(8) { 0 } else { 20 };
    limits.abort_on = match limits.response_timeout_ms % 4 {
        0 => AbortOn::Nothing,
        1 => AbortOn::Close,
        _ => AbortOn::Reset,
    };
    limits
}

/// Half of them are by hash without a bound, which oracles can follow.
pub fn draw_policy(random: &mut Random) -> BalancePolicy {
    match random.below(8) {
        0 => BalanceFactor::new(random.pick(&[1.0, 1.25, 2.0])).map_or(BalancePolicy::Hash, BalancePolicy::BoundedHash),
        1 => BalancePolicy::LeastRequest,
        2 => BalancePolicy::RoundRobin,
        3 => BalancePolicy::Random,
        _ => BalancePolicy::Hash,
    }
}

fn draw_http(net: &mut Net, limits: Arc<Limits>) -> ServiceConfig {
    let c = net.random.control();
    let key = match c.pick(&[0, 1, 2, 3, 4]) {
        0 => KeyPolicy::Request,
        1 => KeyPolicy::Uri,
        2 => KeyPolicy::Path,
        3 => KeyPolicy::Query("k".into()),
        _ => KeyPolicy::ClientIp,
    };
    ServiceConfig {
        name: HTTP_NAME.into(),
        mode: Mode::Http,
        policy: BalancePolicy::Hash,
        key,
        ring: if c.one_in(6) { RingKind::Exercise } else { RingKind::Ketama },
        limits,
        send_proxy: None,
        tls: None,
        replicas: c.range(1, 5) as usize,
        max_replicas: 8,
        can_start: true,
        keeps_on_exit: false,
        health: HealthPolicy {
            interval_ms: c.range(100, 1_000),
            fall: c.range(1, 3) as u32,
            ..HealthPolicy::default()
        },
    }
}

/// Replicas that are back start slowly, and those that fail more than others are ejected.
fn with_ramps_and_rates(health: HealthPolicy, random: &mut Random) -> HealthPolicy {
    let slow_start_ms = if random.one_in(3) { random.range(1, 5_000) } else { 0 };
    let ejection = EjectionPolicy {
        error_rate: random.pick(&[0.0, 0.2, 0.5]),
        interval_ms: random.range(100, 5_000),
        min_requests: random.range(1, 20),
        ..health.ejection
    };
    HealthPolicy { slow_start_ms, ejection, ..health }
}

/// A service of slow replicas leaves requests as long as they take. The rest is how silence is judged.
fn with_slowness(config: ServiceConfig, net: &mut Net) -> ServiceConfig {
    const PATIENT_MS: u64 = 300_000;
    net.history.runs_once = net.faults.serial && !net.upstream_pipelining;
    let serial = net.faults.serial;
    let random = net.random.health();
    let health = HealthPolicy {
        timeout_ms: random.range(50, 1_000),
        rise: random.range(1, 2) as u32,
        // A slow replica sends nothing while it works on requests whose clients have left.
        replace_after_ms: if serial { 30_000 } else { random.pick(&[5_000, 30_000]) },
        ..config.health
    };
    let mut limits = Limits::clone(&config.limits);
    if serial {
        limits = Limits { response_timeout_ms: PATIENT_MS, drain_timeout_ms: PATIENT_MS, ..limits };
        net.history.drain_ms = PATIENT_MS;
    }
    ServiceConfig { health, limits: Arc::new(limits), ..config }
}
