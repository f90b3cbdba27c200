//! From a [`Config`] to running threads: workers and the control plane. It decides nothing.
//!
//! Ports are bound first, so that one in use ends the start before anything runs. Then the workers start; they answer 503
//! until a replica has answered its first heartbeat. Then the control plane runs on this thread.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | [`run`]: what was inherited is taken, admin listener and data sockets bound (and shared with a successor), access log opened, workers and control plane started; `WorkerSettings`; the banner; warnings: few descriptors, inherited sockets that no listener wants |
//! | `reload` | `RunningConfiguration`, the implementation of the trait `Configuration`: reads argv, environment and file again, binds new listeners and gives up others, compares old and new settings (`ReloadReport`: changed, needs a restart); the text of `GET /config` |
//! | `tls` | `TlsPolicies`: certificates read, a policy for each listener with TLS and for each service talked to in TLS, tickets kept over reloads, what stands in for a certificate that an ACME server has not issued yet |
//! | `renewal` | certificates, authorities and revocation lists whose files changed under a configuration in force (`FileWatch`): taken in pair by pair, those that cannot be used named |
//! | `expiry` | log lines 30, 7 and 1 days before a certificate expires, and when a revocation list does (`ExpiryLog`) |
//! | `self_signed` | `SelfSigned`: the certificate of `--tls self-signed`, and the file that curl is told of; the placeholder |
//! | `plan` | `Plan`: a [`Config`] translated to `Topology`, `ServiceConfig`, `HealthPolicy`, `Heartbeat`, `RuntimeSettings`, `AcmePlan`, [`Limits`](crate::core::limits::Limits) and `Routes`; `Ids`: a number for each name, kept over reloads; the admin API as a service of the data port (`ADMIN_PATHS`) |

mod expiry;
mod plan;
mod reload;
mod renewal;
mod self_signed;
mod tls;

pub use reload::{Reader, reader};

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::tables::ListenerSettings;
use crate::config::{Config, certificates, token_file};
use crate::control::acme::{self, AcmePlan};
use crate::control::admin_access::{AdminAccess, SharedAccess};
use crate::control::admin_listener::AdminListener;
use crate::control::registry::{Predecessor, Registry, RegistryConfig};
use crate::control::runtime::Failure;
use crate::control::runtime::docker::DockerPredecessor;
use crate::control::runtime::per_service::PerService;
use crate::control::runtime::service_runtime::{DockerPredecessors, RuntimeSettings};
use crate::control::{self, ControlCore, ControlInit, End, PredecessorLink, Upgrade, Wakeup};
use crate::core::exchange_record::Recording;
use crate::core::snapshot::{Endpoint, Mode, ServiceId};
use crate::core::sticky::StickyKey;
use crate::kernel::inherited::Inherited;
use crate::kernel::listening::{BindError, ListeningSockets};
use crate::settings::AdminListen;
use crate::shared::publish::SnapshotPublisher;
use crate::shared::{access_log, events};
use crate::worker::{self, WorkerSettings};
use plan::{Ids, Plan};
use reload::RunningConfiguration;
use tls::TlsPolicies;

/// What the access log gets at the end to write what waits.
const ACCESS_LOG_LIMIT: Duration = Duration::from_secs(2);

/// Runs until a signal ends it; `read` reads the configuration again at a reload. `Err` is bad usage, in one line: what,
/// where, what to do.
pub fn run(config: Config, read: Reader, mut inherited: Inherited) -> Result<End, String> {
    config.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let access = SharedAccess::new(ArcSwap::from_pointee(access(&config)?));
    let mut predecessor = PredecessorLink::read(&mut inherited)?;
    let lets_clients_wait = inherited.has_listeners();
    let mut listener = AdminListener::bind(&config.admin.listen, &mut inherited)?;
    let wakeup = Wakeup::default();
    let (events, worker_events) = events::channel(wakeup.wake());
    let handed_on = predecessor.as_ref().and_then(|link| StickyKey::from_text(&link.introduction.sticky_key));
    let sticky_key = handed_on.map_or_else(StickyKey::random, Ok)?;
    let (mut ids, admin) = (Ids::with_key(sticky_key), listener.as_ref().map(AdminListener::endpoint).cloned());
    let tls = TlsPolicies::read(&config, &TlsPolicies::default(), certificates::unix_seconds())?;
    tls.summary().iter().for_each(|line| log::info!("{line}"));
    tls.warnings(&config).iter().for_each(|warning| log::warn!("{warning}"));
    let plan = Plan::new(&config, &mut ids, admin.as_ref(), &tls);
    let sockets = Arc::new(ListeningSockets::new(config.workers, inherited));
    bind(&sockets, &plan)?;
    warn_of_unwanted(&sockets);
    let Plan { topology, heartbeats, runtimes, acme, .. } = plan;
    create_acme_folder(acme.as_ref())?;
    let registry = RegistryConfig { topology, workers: config.workers, seed: fastrand::u64(..) };
    let (registry, first) = match &predecessor {
        Some(predecessor) => Registry::starting(registry, predecessor.introduction.replicas.clone()),
        // Clients that came before this process wait for its first replicas.
        None if lets_clients_wait => Registry::starting(registry, Predecessor::default()),
        None => Registry::new(registry),
    };
    let mut publisher = SnapshotPublisher::with_ack_wake(first, wakeup.wake());
    let (access_log, senders) = access_log::start(&config.access_log, config.workers)?.unzip();
    let senders = senders.unwrap_or_default();
    let workers = worker::start(&worker_settings(&config), &sockets, &mut publisher, &events, senders)?;
    warn_if_few_descriptors(workers.descriptors);
    say_how_to_open_the_admin_api(&config, listener.as_ref());
    let admin_socket = listener.as_mut().map(AdminListener::share).transpose();
    let admin_socket = admin_socket.map_err(|error| format!("the admin API's socket cannot be shared: {error}"))?;
    let upgrade_timeout = Duration::from_millis(config.limits.upgrade_timeout_ms);
    let mut docker = predecessor.as_mut().map(docker_predecessors).unwrap_or_default();
    let core = ControlCore::new(registry, publisher, worker_events, workers.threads.len())
        .with_shutdown_delay(config.limits.shutdown_delay_ms);
    let init = ControlInit {
        banner: banner(&config, &sockets, listener.as_ref(), &tls),
        summary: config.summary(),
        core: if predecessor.is_some() { core.with_predecessor() } else { core },
        upgrade: Upgrade::new(sockets.clone(), admin_socket, upgrade_timeout),
        predecessor,
        wakeup,
        listener,
        access: access.clone(),
        heartbeats,
        acme,
        configuration: Box::new(RunningConfiguration::new(read, config, ids, sockets, admin, access, tls)),
        counters: workers.counters,
        workers: workers.threads,
        access_log: access_log.clone(),
    };
    let end = control::serve(async move || open(runtimes, &mut docker).await, init);
    if let Some(log) = access_log {
        log.finish(ACCESS_LOG_LIMIT);
    }
    end
}

fn create_acme_folder(plan: Option<&AcmePlan>) -> Result<(), String> {
    plan.map_or(Ok(()), |plan| acme::create_folder(&plan.folder))
}

/// Who may call the admin API. `Err`: the file of its token is wrong, in one line.
fn access(config: &Config) -> Result<AdminAccess, String> {
    Ok(AdminAccess { token: token_file::token(&config.admin)?, hosts: config.admin.hosts.clone() })
}

/// The runtimes of all services.
async fn open(
    settings: Vec<(ServiceId, RuntimeSettings)>,
    predecessors: &mut DockerPredecessors,
) -> Result<PerService, Failure> {
    let runtimes = PerService::default();
    for (service, settings) in settings {
        runtimes.insert(service, settings.open(predecessors).await?);
    }
    Ok(runtimes)
}

/// What the process that this one replaces passed on for its Docker runtimes, by service.
fn docker_predecessors(predecessor: &mut PredecessorLink) -> DockerPredecessors {
    let mut locks: BTreeMap<String, UnixDatagram> = predecessor.locks.drain(..).collect();
    let run_ids = std::mem::take(&mut predecessor.introduction.docker_run_ids);
    let with_lock = |(service, run_id): (String, String)| {
        let lock = locks.remove(&service);
        (service, DockerPredecessor { run_id: Some(run_id), lock })
    };
    run_ids.into_iter().map(with_lock).collect()
}

/// Nothing accepts on them: a connection would wait for ever.
fn warn_of_unwanted(sockets: &ListeningSockets) {
    for socket in sockets.close_unwanted() {
        log::warn!("this process was started with the socket {socket}, and no listener is configured for it: closed");
    }
}

fn bind(sockets: &ListeningSockets, plan: &Plan) -> Result<(), String> {
    sockets.bind(&plan.bind).map_err(|BindError { address, error }| {
        let why = format!(
            "cannot listen on {address}: {error}; choose another address (--listen, or bind in [listeners.NAME])"
        );
        match &sockets.close_unwanted()[..] {
            [] => why,
            given => format!("{why}; this process was started with sockets for other addresses: {}", given.join(", ")),
        }
    })
}

/// Clients reach this machine or container from outside, and the admin API is on loopback.
fn say_how_to_open_the_admin_api(config: &Config, admin: Option<&AdminListener>) {
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    let mut addresses = config.named.listeners.iter().flat_map(|listener| &listener.settings.bind);
    if let Some(Endpoint::Tcp(address)) = admin.map(AdminListener::endpoint)
        && is_loopback(address.ip())
        && addresses.any(|address| !is_loopback(address.ip()))
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
        max_handshakes: config.limits.tls_max_handshakes,
        // Without an admin API there is no page of metrics to be read.
        recording: if config.admin.listen == AdminListen::Off { Recording::Off } else { Recording::Numbers },
    }
}

/// The lines on stdout. The first has the addresses for clients and for admin calls, the second how curl gets to a listener
/// whose certificate is our own.
fn banner(config: &Config, sockets: &ListeningSockets, admin: Option<&AdminListener>, tls: &TlsPolicies) -> String {
    let bound = bound(config, sockets);
    let shown = |(settings, address): &(&ListenerSettings, SocketAddr)| match (settings.mode, settings.tls.is_on()) {
        (Mode::Http, false) => format!("http://{address}"),
        (Mode::Http, true) => format!("https://{address}"),
        (Mode::Tcp, false) => format!("{address} (tcp)"),
        (Mode::Tcp, true) => format!("{address} (tcp over TLS)"),
        (Mode::TlsPassthrough, _) => format!("{address} (TLS, passed through)"),
    };
    let listeners: Vec<String> = bound.iter().map(shown).collect();
    let admin = match admin.map(AdminListener::endpoint) {
        Some(Endpoint::Tcp(address)) => format!(", admin API at http://{address}"),
        Some(Endpoint::Unix(path)) => format!(", admin API at unix:{}", path.display()),
        None => String::new(),
    };
    let mut ours = bound.iter().filter(|(settings, _)| settings.tls.is_self_signed() && settings.mode == Mode::Http);
    let curl = tls.self_signed().zip(ours.next()).map(|(made, (_, address))| {
        let path = if config.replicas_are_ours() { "/home" } else { "/" };
        let address = on_this_machine(*address);
        format!("\nits certificate is self-signed: curl {} https://{address}{path}", made.curl_flag())
    });
    format!("ringway listens on {}{admin}{}", listeners.join(" and "), curl.unwrap_or_default())
}

fn bound<'c>(config: &'c Config, sockets: &ListeningSockets) -> Vec<(&'c ListenerSettings, SocketAddr)> {
    let listeners = config.named.listeners.iter().map(|listener| &listener.settings);
    let addresses = listeners.flat_map(|settings| settings.bind.iter().map(move |address| (settings, address)));
    addresses.filter_map(|(settings, address)| Some((settings, sockets.local(*address)?))).collect()
}

/// An address of the certificate that leads to the listener.
fn on_this_machine(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
    }
}
