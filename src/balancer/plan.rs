//! From a [`Config`] to what the parts of a balancer are given: services, listeners and routes with their ids, heartbeats,
//! runtimes and addresses to bind. It is made at the start and at each reload, and starts nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::tls::TlsPolicies;
use crate::config::named::{NamedListener, NamedRoute};
use crate::config::tables::NamedTarget;
use crate::config::{Config, Named, RuntimeKind};
use crate::control::Heartbeats;
use crate::control::acme::{AcmePlan, WantedCertificate};
use crate::control::probe::{Heartbeat, HttpHeartbeat};
use crate::control::registry::{EjectionPolicy, HealthPolicy, ServiceConfig, ServiceSource, Topology, add_limit_ms};
use crate::control::runtime::discovery::DiscoverySettings;
use crate::control::runtime::service_runtime::RuntimeSettings;
use crate::core::balance::{BalancePolicy, Ramp};
use crate::core::limits::Limits;
use crate::core::ring::{Member, Ring, RingKind};
use crate::core::routes::{HostPattern, Redirect, Route, RouteTarget, Routes, Split};
use crate::core::snapshot::{
    Endpoint, INTERNAL_SERVICE, KeyPolicy, Lifecycle, Listener, ListenerId, Mode, Replica, ReplicaId, ReplicaLoad,
    Service, ServiceId, State,
};
use crate::core::sticky::{StickyKey, StickyPolicy};
use crate::core::tls::upstream::UpstreamPolicy;
use crate::kernel::linux::SendsFirst;
use crate::kernel::listening::Listen;
use crate::settings::{AcmeSettings, OnExit};

/// What replicas that this balancer starts answer, unless another path is given.
const HEARTBEAT_PATH: &str = "/heartbeat";
/// The admin API on a data port is a service of its own: the data plane forwards its paths to the admin listener like any
/// request, unless a proxy forwarded the request to us: behind one, any stranger could call it.
const ADMIN_PATHS: [&str; 3] = ["/rep", "/add", "/rm"];
const HTTPS_PORT: u16 = 443;
/// No runtime's instance has this number.
const ADMIN_INSTANCE: ReplicaId = ReplicaId(u64::MAX);
/// What an admin call gets beyond the limit of an `/add`, the slowest.
const ADMIN_SLACK_MS: u64 = 10_000;

/// What all configurations of a process share: names and their ids, by position, and the key of sticky cookies. A name keeps
/// its id, whatever configurations do without it.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    pub sticky_key: StickyKey,
    services: Vec<Arc<str>>,
    listeners: Vec<Arc<str>>,
}

#[derive(Debug)]
pub struct Plan {
    pub topology: Topology,
    pub heartbeats: Heartbeats,
    pub runtimes: Vec<(ServiceId, RuntimeSettings)>,
    pub bind: Vec<Listen>,
    pub acme: Option<AcmePlan>,
}

impl Ids {
    pub fn with_key(sticky_key: StickyKey) -> Ids {
        Ids { sticky_key, ..Ids::default() }
    }

    fn service(&mut self, name: &str) -> ServiceId {
        ServiceId(id(&mut self.services, name))
    }

    fn listener(&mut self, name: &str) -> ListenerId {
        ListenerId(id(&mut self.listeners, name))
    }
}

fn id(names: &mut Vec<Arc<str>>, name: &str) -> u32 {
    let at = names.iter().position(|known| &**known == name).unwrap_or_else(|| {
        names.push(name.into());
        names.len() - 1
    });
    at as u32
}

impl Plan {
    /// `admin` is where the admin API answers.
    pub fn new(config: &Config, ids: &mut Ids, admin: Option<&Endpoint>, tls: &TlsPolicies) -> Plan {
        let mut topology = Topology::default();
        let (mut heartbeats, mut runtimes) = (BTreeMap::new(), Vec::new());
        for service in &config.named.services {
            let id = ids.service(&service.name);
            let tls = tls.upstream(&service.name);
            let settings =
                ServiceConfig { tls: tls.clone(), ..service_config(&service.name, &service.config, ids.sticky_key) };
            topology.services.insert(id, ServiceSource::Runtime(settings));
            heartbeats.insert(id, Arc::new(heartbeat(&service.config, tls.as_deref())));
            runtimes.push((id, runtime_settings(&service.name, &service.config)));
        }
        let admin = admin.filter(|_| config.admin.is_on_data_port());
        let admin = admin.map(|endpoint| {
            let id = ids.service(INTERNAL_SERVICE);
            topology.services.insert(id, ServiceSource::Static(Arc::new(admin_service(config, endpoint))));
            id
        });
        for named in &config.named.listeners {
            let listener = Listener { tls: tls.policy(&named.name), ..listener(config, named, ids) };
            topology.listeners.insert(ids.listener(&named.name), Arc::new(listener));
        }
        let routes = config.named.routes.iter().filter_map(|named| route(&config.named, named, ids));
        let routes = Routes::new(routes.collect::<Vec<_>>());
        let direct = admin.iter().flat_map(|id| ADMIN_PATHS.map(|path| (path.to_owned(), *id))).collect();
        topology.routes = Arc::new(routes.with_direct(direct));
        Plan { topology, heartbeats, runtimes, bind: addresses(config), acme: acme(config, tls) }
    }
}

/// One certificate for each list of names. `None`: there is none.
fn acme(config: &Config, tls: &TlsPolicies) -> Option<AcmePlan> {
    let mut certificates: Vec<WantedCertificate> = Vec::new();
    for NamedListener { settings, .. } in &config.named.listeners {
        let wanted = WantedCertificate { names: settings.tls.acme.clone(), challenge: settings.tls.challenge };
        if !wanted.names.is_empty() && certificates.iter().all(|other| other.name() != wanted.name()) {
            certificates.push(wanted);
        }
    }
    let AcmeSettings { directory, email, .. } = config.acme.clone();
    let (folder, roots) = config.acme.folder().zip(tls.acme_roots.clone())?;
    Some(AcmePlan { directory, email, folder, roots, certificates })
}

/// Each address of a listener has a name, by which a process that replaces this one finds its sockets.
fn addresses(config: &Config) -> Vec<Listen> {
    let of = |listener: &NamedListener| {
        let may_wait = listener.settings.mode == Mode::Tcp && !listener.settings.tls.is_on();
        let sends_first = if may_wait { SendsFirst::Either } else { SendsFirst::Client };
        let name = |at: usize| if at == 0 { listener.name.clone() } else { format!("{}.{at}", listener.name) };
        let listen = |(at, address): (usize, &SocketAddr)| Listen { name: name(at), address: *address, sends_first };
        listener.settings.bind.iter().enumerate().map(listen).collect::<Vec<_>>()
    };
    config.named.listeners.iter().flat_map(of).collect()
}

fn listener(config: &Config, named: &NamedListener, ids: &mut Ids) -> Listener {
    let settings = &named.settings;
    let https = || Redirect { status: 308, location: format!("https://{{host}}{}{{uri}}", https_port(config)) };
    let forwarded = &settings.forwarded;
    Listener {
        name: named.name.as_str().into(),
        bind: settings.bind.clone(),
        lifecycle: Lifecycle::Serving,
        mode: settings.mode,
        service: settings.service.as_ref().map(|name| ids.service(name)),
        redirect: settings.redirect_to_https.then(https),
        proxies: settings.proxy.accept_proxy_from.clone(),
        tls: None,
        limits: Arc::new(Limits {
            trust: forwarded.trust,
            via: forwarded.via,
            hsts_seconds: settings.tls.hsts_ms.map(|ms| ms / 1_000),
            request_id: forwarded.request_id,
            ..settings.limits.clone()
        }),
    }
}

/// What stands behind the host in a URL of a listener with TLS, where that has another port than 443. Without such a listener
/// TLS ends before us.
fn https_port(config: &Config) -> String {
    let is_https = |listener: &&NamedListener| listener.settings.tls.is_on() && listener.settings.mode == Mode::Http;
    let listeners = config.named.listeners.iter().filter(is_https);
    let ports: Vec<u16> = listeners.flat_map(|listener| &listener.settings.bind).map(SocketAddr::port).collect();
    match ports.first() {
        Some(port) if *port != 0 && !ports.contains(&HTTPS_PORT) => format!(":{port}"),
        _ => String::new(),
    }
}

fn route(all: &Named, named: &NamedRoute, ids: &mut Ids) -> Option<Route> {
    let settings = &named.settings;
    let modes = all.modes();
    let own = all.listeners.iter().filter(|listener| settings.is_for(&listener.name, listener.settings.mode, &modes));
    let mut listeners: Vec<ListenerId> = own.map(|listener| ids.listener(&listener.name)).collect();
    if listeners.len() == all.listeners.len() {
        listeners.clear();
    }
    let target = match settings.target()? {
        NamedTarget::Service(name) => RouteTarget::Service(ids.service(name)),
        NamedTarget::Redirect(redirect) => RouteTarget::Redirect(redirect),
        NamedTarget::Split(weights) => {
            let weights: Vec<_> = weights.iter().map(|(name, weight)| (ids.service(name), *weight)).collect();
            RouteTarget::Split(Split::new(&weights)?)
        }
    };
    Some(Route {
        host: settings.host.clone().unwrap_or(HostPattern::Any),
        path: settings.path.clone().unwrap_or_default(),
        methods: settings.methods.clone(),
        listeners,
        target,
    })
}

fn service_config(name: &str, config: &Config, key: StickyKey) -> ServiceConfig {
    let sticky = config.sticky_cookie.clone().map(|cookie| StickyPolicy { cookie, key }.into());
    ServiceConfig {
        name: name.into(),
        mode: config.mode.of_service(),
        policy: config.policy(),
        key: config.hash.key.clone(),
        ring: config.hash.ring,
        limits: Arc::new(Limits { sticky, ..limits(config) }),
        send_proxy: config.proxy.send_proxy,
        tls: None,
        replicas: config.replicas,
        max_replicas: config.limits.max_replicas,
        can_start: config.runtime().starts_replicas(),
        keeps_on_exit: config.runtime() == RuntimeKind::Docker && config.docker.on_exit == OnExit::Keep,
        health: health_policy(config),
    }
}

fn runtime_settings(name: &str, config: &Config) -> RuntimeSettings {
    let runtime = config.runtime();
    if let Some(kind) = runtime.source() {
        let settings = DiscoverySettings { kind, source: config.source.clone() };
        return RuntimeSettings::Discovery { settings: settings.into(), service: name.to_owned() };
    }
    match runtime {
        RuntimeKind::Process => RuntimeSettings::Process { program: config.program.clone() },
        RuntimeKind::Docker => {
            RuntimeSettings::Docker { settings: config.docker.clone().into(), service: name.to_owned() }
        }
        _ => RuntimeSettings::Fixed(config.fixed_replicas.clone()),
    }
}

fn health_policy(config: &Config) -> HealthPolicy {
    let (health, ejection) = (&config.health, &config.ejection);
    HealthPolicy {
        interval_ms: health.interval_ms,
        jitter_percent: health.jitter_percent,
        timeout_ms: health.timeout_ms,
        rise: health.rise,
        fall: health.fall,
        start_timeout_ms: health.start_timeout_ms,
        replace_after_ms: health.replace_after_ms,
        slow_start_ms: config.slow_start_ms,
        ejection: EjectionPolicy {
            consecutive_failures: ejection.consecutive_failures,
            counts_5xx: ejection.count_5xx,
            base_ms: ejection.base_ms,
            max_ms: ejection.max_ms,
            error_rate: ejection.error_rate,
            interval_ms: ejection.interval_ms,
            min_requests: ejection.min_requests,
            max_share: ejection.max_share,
        },
    }
}

/// Servers of others need not know our path: accepting a connection is enough, unless a path was given.
fn heartbeat(config: &Config, tls: Option<&UpstreamPolicy>) -> Heartbeat {
    let health = &config.health;
    let default_path = config.replicas_are_ours().then(|| HEARTBEAT_PATH.to_string());
    match health.path.clone().or(default_path) {
        Some(path) if config.mode == Mode::Http => Heartbeat::Http(Box::new(HttpHeartbeat {
            method: health.method.clone(),
            path,
            host: health.host.clone(),
            headers: health.headers.clone(),
            status: health.status.clone(),
            body: health.body.clone(),
            send_proxy: config.proxy.send_proxy,
            tls: tls.cloned(),
        })),
        _ => Heartbeat::Connect,
    }
}

fn limits(config: &Config) -> Limits {
    let upstream = &config.upstream;
    Limits {
        trust: config.forwarded.trust,
        via: config.forwarded.via,
        request_id: config.forwarded.request_id,
        abort_on: config.limits.abort_on_client_close,
        max_upstream_connections: upstream.max_connections,
        queue: (upstream.queue as usize).div_ceil(config.workers.max(1)),
        queue_timeout_ms: upstream.queue_timeout_ms,
        retry_budget: upstream.retry_budget,
        ..config.limits.service.clone()
    }
}

/// One replica: the admin listener. Connections are not pooled: a call must not be sent on one that is being closed.
fn admin_service(config: &Config, endpoint: &Endpoint) -> Service {
    let slowest = config.named.services.iter().map(|service| add_limit_ms(&health_policy(&service.config))).max();
    let response_timeout_ms = slowest.unwrap_or(0) + ADMIN_SLACK_MS;
    let limits =
        Limits { response_timeout_ms, pool_size: 0, attempts: 1, max_upstream_connections: 0, ..limits(config) };
    let replica = Replica {
        id: ADMIN_INSTANCE,
        name: INTERNAL_SERVICE.into(),
        endpoint: endpoint.clone(),
        weight: 1,
        state: State::Up,
        ramp: Ramp::WHOLE,
        sticky: None,
        load: Arc::new(ReplicaLoad::new(config.workers)),
    };
    Service {
        name: INTERNAL_SERVICE.into(),
        mode: Mode::Http,
        policy: BalancePolicy::Hash,
        key: KeyPolicy::Request,
        limits: Arc::new(limits),
        send_proxy: None,
        tls: None,
        max_5xx_in_a_row: None,
        queue_heads: Arc::default(),
        is_removed: false,
        replicas: vec![replica],
        ring: Arc::new(Ring::build(RingKind::Ketama, &[Member::new(INTERNAL_SERVICE, 1)])),
    }
}
