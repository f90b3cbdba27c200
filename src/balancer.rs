//! Wires the threads: workers, the admin thread, signals. It decides nothing.
//!
//! Ports are bound first, so that one in use ends the start before anything runs; then the workers start, and answer
//! 503 until the first replica answers its heartbeat; then the control plane takes this thread over.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{self, Config, Runtime};
use crate::control::admin_listener::AdminListener;
use crate::control::registry::{ADD_TIMEOUT_MS, Registry, RegistryConfig, ServiceConfig};
use crate::control::runtime::docker;
use crate::control::runtime::fixed::Fixed;
use crate::control::runtime::process::Processes;
use crate::control::{self, ControlCore, ControlInit, End, Wakeup};
use crate::core::limits::Limits;
use crate::core::ring::{Member, Ring, RingKind};
use crate::core::snapshot::{
    Endpoint, KeyPolicy, Mode, Replica, ReplicaId, ReplicaLoad, Routes, Service, ServiceId, State,
};
use crate::shared::events;
use crate::shared::publish::SnapshotPublisher;
use crate::worker::{self, Listen, Settings};

/// What `ringway.service` names, and what messages call the replicas' service.
const SERVICE: &str = "default";
/// The admin API, as a service of its own: the data plane hands its paths to the admin thread like any request.
const ADMIN: &str = "admin";
const ADMIN_PATHS: [&str; 3] = ["/rep", "/add", "/rm"];
/// No instance of any runtime has this number.
const ADMIN_INSTANCE: ReplicaId = ReplicaId(u64::MAX);
/// An `/add` answers within its own limit; the data plane waits a little longer than that.
const ADMIN_PATIENCE_MS: u64 = 2 * ADD_TIMEOUT_MS;

/// Runs until a signal ends it. `Err` is bad usage, in one line: what, where, what to do.
pub fn run(config: Config) -> Result<End, String> {
    let listener = AdminListener::bind(&config.admin.listen)?;
    let wakeup = Wakeup::default();
    let (events, worker_events) = events::channel(wakeup.wake());
    let (registry, first) = Registry::new(registry_config(&config, listener.as_ref().map(AdminListener::endpoint)));
    let mut publisher = SnapshotPublisher::with_ack_wake(first, wakeup.wake());
    let workers = worker::start(&settings(&config), &mut publisher, &events)?;
    warn_of_few(workers.descriptors);
    let init = ControlInit {
        banner: banner(&config, &workers.bound, listener.as_ref()),
        core: ControlCore::new(registry, publisher, worker_events, workers.threads.len()),
        wakeup,
        listener,
        token: config.admin.token.clone(),
        mode: config.mode,
        ring: config.ring,
        heartbeat: config.heartbeat.clone(),
        counters: workers.counters,
        workers: workers.threads,
    };
    match config.runtime {
        Runtime::Process => control::serve(async || Ok(Processes::default()), init),
        Runtime::Fixed(replicas) => control::serve(async || Ok(Fixed::new(replicas)), init),
        Runtime::Docker(docker) => control::serve(async || docker::Docker::open(containers(docker)).await, init),
    }
}

/// Fewer descriptors than this is fewer than ten thousand clients with a request under way each.
const DESCRIPTORS: u64 = 20_000;

/// The limit was raised as far as this process may.
fn warn_of_few(descriptors: u64) {
    if descriptors < DESCRIPTORS {
        log::warn!(
            "only {descriptors} files may be open here, two for each client with a request under way: when they are in \
             use, accepting pauses; raise the hard limit (`ulimit -Hn`, LimitNOFILE=) for more"
        );
    }
}

fn settings(config: &Config) -> Settings {
    let tunnel_to = (config.mode == Mode::Tcp).then_some(ServiceId(0));
    Settings {
        listen: vec![Listen { address: config.listen, tunnel_to, proxies: config.accept_proxy_from.clone() }],
        workers: config.workers,
        pin: config.pin,
        max_connections: config.max_connections,
        max_connections_per_client: config.max_connections_per_client,
    }
}

fn registry_config(config: &Config, admin: Option<&Endpoint>) -> RegistryConfig {
    let admin = admin.filter(|_| config.admin.on_data_port && config.mode == Mode::Http);
    let exact = admin.iter().flat_map(|_| ADMIN_PATHS.map(|path| (path.to_string(), ServiceId(1)))).collect();
    RegistryConfig {
        services: vec![service_config(config)],
        static_services: admin.map(|endpoint| Arc::new(admin_service(config, endpoint))).into_iter().collect(),
        routes: Routes { exact, default: ServiceId(0) },
        workers: config.workers,
        seed: fastrand::u64(..),
    }
}

fn service_config(config: &Config) -> ServiceConfig {
    ServiceConfig {
        name: SERVICE.into(),
        mode: config.mode,
        key: config.key.clone(),
        ring: config.ring,
        limits: Arc::new(config.limits.clone()),
        send_proxy: config.send_proxy,
        replicas: config.replicas,
        max_replicas: config.max_replicas,
        can_start: !matches!(config.runtime, Runtime::Fixed(_)),
        keeps_on_exit: keeps_on_exit(&config.runtime),
        heartbeat_interval_ms: config.heartbeat.interval_ms,
        heartbeat_misses: config.heartbeat.misses,
    }
}

fn keeps_on_exit(runtime: &Runtime) -> bool {
    matches!(runtime, Runtime::Docker(docker) if docker.on_exit == config::OnExit::Keep)
}

/// One replica: the admin listener. A connection each, since a call must not meet one that is just being closed.
fn admin_service(config: &Config, endpoint: &Endpoint) -> Service {
    let limits = Limits { response_timeout_ms: ADMIN_PATIENCE_MS, pool_size: 0, attempts: 1, ..config.limits.clone() };
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

fn containers(said: config::Docker) -> docker::Settings {
    let pair = |pair: String| match pair.split_once('=') {
        Some((name, value)) => (name.to_string(), value.to_string()),
        None => (pair, String::new()),
    };
    docker::Settings {
        host: said.host,
        image: said.image,
        discover: said.discover,
        network: said.network,
        subnet: said.subnet,
        cluster: said.cluster,
        port: said.port,
        memory_bytes: (said.memory_mib > 0).then_some(said.memory_mib << 20),
        cpu_milli: (said.cpus > 0.0).then_some((said.cpus * 1000.0) as u32),
        env: said.env.into_iter().map(pair).collect(),
        labels: said.labels.into_iter().map(pair).collect(),
        reach: match said.reach {
            config::Reach::Auto => docker::Reach::Auto,
            config::Reach::Bridge => docker::Reach::Bridge,
            config::Reach::Published => docker::Reach::Published,
        },
        on_exit: match said.on_exit {
            config::OnExit::Keep => docker::OnExit::Keep,
            config::OnExit::Remove => docker::OnExit::Remove,
        },
        service: SERVICE.into(),
    }
}

/// The first line of every run: where to point a client. Nobody reading it is no reason to end.
fn banner(config: &Config, bound: &[SocketAddr], door: Option<&AdminListener>) -> String {
    let listeners: Vec<String> = bound
        .iter()
        .map(|address| match config.mode {
            Mode::Http => format!("http://{address}"),
            Mode::Tcp => format!("{address} (tcp)"),
        })
        .collect();
    let admin = match door.map(AdminListener::endpoint) {
        Some(Endpoint::Tcp(address)) => format!(", admin API at http://{address}"),
        Some(Endpoint::Unix(path)) => format!(", admin API at unix:{}", path.display()),
        None => String::new(),
    };
    format!("ringway listens on {}{admin}", listeners.join(" and "))
}
