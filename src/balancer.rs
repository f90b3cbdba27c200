//! From a [`Config`] to running threads: workers and the control plane. It decides nothing.
//!
//! Ports are bound first, so that one in use ends the start before anything runs. Then the workers start; they answer 503
//! until a replica has answered its first heartbeat. Then the control plane runs on this thread.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{Config, RuntimeKind};
use crate::control::admin_access::AdminAccess;
use crate::control::admin_listener::AdminListener;
use crate::control::probe::{Heartbeat, HttpHeartbeat};
use crate::control::registry::{
    HealthPolicy, Registry, RegistryConfig, ServiceConfig, ServiceSource, Topology, add_limit_ms,
};
use crate::control::runtime::docker::Docker;
use crate::control::runtime::fixed::Fixed;
use crate::control::runtime::process::Processes;
use crate::control::{self, ControlCore, ControlInit, End, Wakeup};
use crate::core::limits::Limits;
use crate::core::ring::{Member, Ring, RingKind};
use crate::core::routes::Routes;
use crate::core::snapshot::{
    Endpoint, KeyPolicy, Listener as DataListener, ListenerId, Mode, Replica, ReplicaId, ReplicaLoad, Service,
    ServiceId, State,
};
use crate::kernel::linux::SendsFirst;
use crate::kernel::listening::{BindError, ListeningSockets};
use crate::settings::OnExit;
use crate::shared::events;
use crate::shared::publish::SnapshotPublisher;
use crate::worker::{self, WorkerSettings};

/// The name of the replicas' service: in messages, and in the label `ringway.service`.
const SERVICE: &str = "default";
/// What replicas that this balancer starts answer, unless another path is given.
const HEARTBEAT_PATH: &str = "/heartbeat";
/// The admin API on the data port is a service of its own: the data plane forwards its paths to the admin listener like any
/// request, unless a proxy forwarded the request to us: behind one, any stranger could call it.
const ADMIN: &str = "admin";
const ADMIN_PATHS: [&str; 3] = ["/rep", "/add", "/rm"];
/// No runtime's instance has this number.
const ADMIN_INSTANCE: ReplicaId = ReplicaId(u64::MAX);
/// What an admin call gets beyond the limit of an `/add`, the slowest.
const ADMIN_SLACK_MS: u64 = 10_000;

/// Runs until a signal ends it. `Err` is bad usage, in one line: what, where, what to do.
pub fn run(config: Config) -> Result<End, String> {
    config.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let listener = AdminListener::bind(&config.admin.listen)?;
    let wakeup = Wakeup::default();
    let (events, worker_events) = events::channel(wakeup.wake());
    let sockets = Arc::new(ListeningSockets::new(config.workers));
    bind(&config, &sockets)?;
    let (registry, first) = Registry::new(registry_config(&config, listener.as_ref().map(AdminListener::endpoint)));
    let mut publisher = SnapshotPublisher::with_ack_wake(first, wakeup.wake());
    let workers = worker::start(&worker_settings(&config), &sockets, &mut publisher, &events)?;
    warn_if_few_descriptors(workers.descriptors);
    say_how_to_open_the_admin_api(&config, listener.as_ref());
    let init = ControlInit {
        banner: banner(&config, sockets.local(config.listen), listener.as_ref()),
        core: ControlCore::new(registry, publisher, worker_events, workers.threads.len()),
        wakeup,
        listener,
        access: AdminAccess { token: config.admin.token.clone(), hosts: config.admin.hosts.clone() },
        ring: config.hash.ring,
        heartbeat: heartbeat(&config),
        counters: workers.counters,
        workers: workers.threads,
    };
    match config.runtime() {
        RuntimeKind::Process => control::serve(async || Processes::new(config.program), init),
        RuntimeKind::Fixed => control::serve(async || Ok(Fixed::new(config.fixed_replicas)), init),
        RuntimeKind::Docker => control::serve(async || Docker::open(config.docker, SERVICE).await, init),
    }
}

/// Clients reach this machine or container from outside, and the admin API is on loopback.
fn say_how_to_open_the_admin_api(config: &Config, admin: Option<&AdminListener>) {
    if let Some(Endpoint::Tcp(address)) = admin.map(AdminListener::endpoint)
        && address.ip().is_loopback()
        && !config.listen.ip().is_loopback()
    {
        let port = address.port();
        log::info!(
            "the admin API answers on {address} only, not to other machines or outside of a container: open it with \
             --admin 0.0.0.0:{port} and --admin-token, and publish it with docker run -p 127.0.0.1:{port}:{port}"
        );
    }
}

/// Enough for ten thousand clients with a request in flight each.
const DESCRIPTORS_WANTED: u64 = 20_000;

/// `descriptors` is the limit after it was raised as far as this process may.
fn warn_if_few_descriptors(descriptors: u64) {
    if descriptors < DESCRIPTORS_WANTED {
        log::warn!(
            "only {descriptors} files may be open here, two for each client with a request in flight: when all are in \
             use, accepting pauses; raise the hard limit (`ulimit -Hn`, LimitNOFILE=) for more"
        );
    }
}

fn worker_settings(config: &Config) -> WorkerSettings {
    WorkerSettings {
        workers: config.workers,
        pin: config.pin,
        max_connections: config.limits.max_connections,
        max_connections_per_client: config.limits.max_connections_per_client,
    }
}

fn registry_config(config: &Config, admin: Option<&Endpoint>) -> RegistryConfig {
    let admin = admin.filter(|_| config.admin.is_on_data_port() && config.mode == Mode::Http);
    let direct = admin.iter().flat_map(|_| ADMIN_PATHS.map(|path| (path.to_string(), ServiceId(1)))).collect();
    let admin = admin.map(|endpoint| ServiceSource::Static(Arc::new(admin_service(config, endpoint))));
    let services = [ServiceSource::Runtime(service_config(config))].into_iter().chain(admin);
    let topology = Topology {
        services: (0..).map(ServiceId).zip(services).collect(),
        listeners: [(ListenerId(0), Arc::new(data_listener(config)))].into(),
        routes: Arc::new(Routes::default().with_direct(direct)),
    };
    RegistryConfig { topology, workers: config.workers, seed: fastrand::u64(..) }
}

fn data_listener(config: &Config) -> DataListener {
    DataListener {
        name: SERVICE.into(),
        bind: vec![config.listen],
        mode: config.mode,
        service: Some(ServiceId(0)),
        redirect: None,
        proxies: config.proxy.accept_proxy_from.clone(),
        limits: Arc::new(limits(config)),
    }
}

fn bind(config: &Config, sockets: &ListeningSockets) -> Result<(), String> {
    let sends_first = if config.mode == Mode::Tcp { SendsFirst::Either } else { SendsFirst::Client };
    sockets
        .bind(&[(config.listen, sends_first)])
        .map_err(|BindError { address, error }| format!("cannot listen on {address}: {error}; choose another --listen"))
}

fn service_config(config: &Config) -> ServiceConfig {
    ServiceConfig {
        name: SERVICE.into(),
        mode: config.mode,
        key: config.hash.key.clone(),
        ring: config.hash.ring,
        limits: Arc::new(limits(config)),
        send_proxy: config.proxy.send_proxy,
        replicas: config.replicas,
        max_replicas: config.limits.max_replicas,
        can_start: config.runtime() != RuntimeKind::Fixed,
        keeps_on_exit: config.runtime() == RuntimeKind::Docker && config.docker.on_exit == OnExit::Keep,
        health: health_policy(config),
    }
}

fn health_policy(config: &Config) -> HealthPolicy {
    let health = &config.health;
    HealthPolicy {
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        rise: health.rise,
        fall: health.fall,
        start_timeout_ms: health.start_timeout_ms,
        replace_after_ms: health.replace_after_ms,
        max_ejected_share: config.ejection.max_share,
    }
}

/// Servers of others need not know our path: accepting a connection is enough, unless a path was given.
fn heartbeat(config: &Config) -> Heartbeat {
    let health = &config.health;
    let default_path = config.replicas_are_ours().then(|| HEARTBEAT_PATH.to_string());
    match health.path.clone().or(default_path) {
        Some(path) if config.mode == Mode::Http => Heartbeat::Http(HttpHeartbeat {
            method: health.method.clone(),
            path,
            host: health.host.clone(),
            headers: health.headers.clone(),
            status: health.status.clone(),
            send_proxy: config.proxy.send_proxy,
        }),
        _ => Heartbeat::Connect,
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        trust: config.forwarded.trust,
        via: config.forwarded.via,
        abort_on: config.limits.abort_on_client_close,
        ..config.limits.service.clone()
    }
}

/// One replica: the admin listener. Connections are not pooled: a call must not be sent on one that is being closed.
fn admin_service(config: &Config, endpoint: &Endpoint) -> Service {
    let response_timeout_ms = add_limit_ms(&health_policy(config)) + ADMIN_SLACK_MS;
    let limits = Limits { response_timeout_ms, pool_size: 0, attempts: 1, ..limits(config) };
    let replica = Replica {
        id: ADMIN_INSTANCE,
        name: ADMIN.into(),
        endpoint: endpoint.clone(),
        weight: 1,
        state: State::Up,
        load: Arc::new(ReplicaLoad::new(config.workers)),
    };
    Service {
        name: ADMIN.into(),
        mode: Mode::Http,
        key: KeyPolicy::Request,
        limits: Arc::new(limits),
        send_proxy: None,
        replicas: vec![replica],
        ring: Arc::new(Ring::build(RingKind::Ketama, &[Member::new(ADMIN, 1)])),
    }
}

/// The first line on stdout: the addresses for clients and for admin calls.
fn banner(config: &Config, bound: Option<SocketAddr>, admin_listener: Option<&AdminListener>) -> String {
    let listeners: Vec<String> = bound
        .into_iter()
        .map(|address| match config.mode {
            Mode::Http => format!("http://{address}"),
            Mode::Tcp => format!("{address} (tcp)"),
        })
        .collect();
    let admin = match admin_listener.map(AdminListener::endpoint) {
        Some(Endpoint::Tcp(address)) => format!(", admin API at http://{address}"),
        Some(Endpoint::Unix(path)) => format!(", admin API at unix:{}", path.display()),
        None => String::new(),
    };
    format!("ringway listens on {}{admin}", listeners.join(" and "))
}
