//! `GET /services`: what is known of each service, from status, snapshot, rings and counters. Pure.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::control::metrics::rings::RingFacts;
use crate::control::registry::{ServiceStatus, Status};
use crate::control::runtime::discovery::follow::SourceStatus;
use crate::core::balance::BalanceFactor;
use crate::core::ring::report;
use crate::core::routes::{HostPattern, Route, RouteTarget};
use crate::core::snapshot::{KeyPolicy, ListenerId, Service, ServiceId, Snapshot};
use crate::shared::counters::Counters;

/// As `GET /services` writes it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ServiceReport {
    #[schema(value_type = String)]
    pub name: Arc<str>,
    /// http or tcp.
    pub mode: &'static str,
    /// process, docker, fixed, or the source that lists its replicas: file, dns, consul, kubernetes, swarm.
    pub runtime: &'static str,
    /// `null`: no source lists its replicas.
    pub source: Option<SourceStatus>,
    /// How many replicas it has by `/rep`, how many of them answer, and how many of those an operator drained.
    pub wanted: usize,
    pub up: usize,
    pub drained: usize,
    /// Those that send it what no route is for.
    #[schema(value_type = Vec<String>)]
    pub listeners: Vec<Arc<str>>,
    pub routes: Vec<RouteReport>,
    /// hash, least-request, round-robin or random.
    pub policy: &'static str,
    /// The bound of a replica's load, as a multiple of its share. `null`: there is none.
    pub balance_factor: Option<f64>,
    /// As it is configured: request, uri, path, client-ip, `header:NAME`, `cookie:NAME` or `query:NAME`.
    pub key: String,
    pub ring: &'static str,
    /// Equal on balancers that send equal keys to equal replicas.
    pub ring_digest: String,
    pub ring_changes: u64,
    /// Of the snapshot that this is read from.
    pub epoch: u64,
    /// That ended, since the start.
    pub requests: u64,
    pub in_flight: u64,
    pub deaths: u64,
    pub heals: u64,
    pub ejections: u64,
    /// Replicas that a rolling replacement is still to reach.
    pub outdated: usize,
    /// Why the newest settings of its replicas are not used: two in a row did not come up with them. `null`: they are.
    #[schema(value_type = Option<String>)]
    pub refused: Option<Arc<str>>,
}

/// A route that leads to a service.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RouteReport {
    /// `null`: any.
    pub host: Option<String>,
    pub path: String,
    /// None: all of them.
    pub methods: Vec<String>,
    #[schema(value_type = Vec<String>)]
    pub listeners: Vec<Arc<str>>,
    /// The service's part of a route that several share.
    pub share: f64,
}

pub fn services(
    status: &Status,
    snapshot: &Snapshot,
    rings: &[Arc<RingFacts>],
    counters: &[Arc<Counters>],
) -> Vec<ServiceReport> {
    let known = status.services.iter().filter(|status| !status.is_removed);
    let known = known.filter_map(|status| Some((status, snapshot.service(status.id)?)));
    known
        .map(|(status, service)| {
            let ring = rings.get(status.id.0 as usize).map(|ring| (ring.digest, ring.changes));
            report_of(status, service, snapshot, ring.unwrap_or_default(), counters)
        })
        .collect()
}

fn report_of(
    status: &ServiceStatus,
    service: &Service,
    snapshot: &Snapshot,
    (digest, ring_changes): (u32, u64),
    counters: &[Arc<Counters>],
) -> ServiceReport {
    let ended = counters.iter().filter_map(|worker| worker.services.service(status.id));
    let default_of = snapshot.listeners.iter().filter(|listener| !listener.bind.is_empty());
    let default_of = default_of.filter(|listener| listener.service == Some(status.id) && listener.redirect.is_none());
    ServiceReport {
        name: status.name.clone(),
        mode: service.mode.name(),
        runtime: status.runtime,
        source: status.source.clone(),
        wanted: status.replicas,
        up: status.up,
        drained: status.drained,
        listeners: default_of.map(|listener| listener.name.clone()).collect(),
        routes: snapshot.routes.all().iter().filter_map(|route| route_to(route, status.id, snapshot)).collect(),
        policy: service.policy.name(),
        balance_factor: service.policy.balance_factor().map(BalanceFactor::value),
        key: key(&service.key),
        ring: report::name(service.ring.kind()),
        ring_digest: format!("{digest:08x}"),
        ring_changes,
        epoch: snapshot.epoch,
        requests: ended.map(|worker| worker.exchanges.iter().map(|class| class.value()).sum::<u64>()).sum(),
        in_flight: service.replicas.iter().map(|replica| replica.load.in_flight()).sum(),
        deaths: status.deaths,
        heals: status.heals.count(),
        ejections: status.ejections,
        outdated: status.outdated,
        refused: status.refused.clone(),
    }
}

fn route_to(route: &Route, service: ServiceId, snapshot: &Snapshot) -> Option<RouteReport> {
    let share = match &route.target {
        RouteTarget::Service(target) => (*target == service).then_some(1.0),
        RouteTarget::Split(split) => split.share_of(service),
        RouteTarget::Redirect(_) => None,
    }?;
    let listener = |id: &ListenerId| snapshot.listener(*id).map(|listener| listener.name.clone());
    Some(RouteReport {
        host: match &route.host {
            HostPattern::Any => None,
            HostPattern::Exact(name) => Some(name.clone()),
            HostPattern::Below(parent) => Some(format!("*.{parent}")),
        },
        path: route.path.clone(),
        methods: route.methods.clone(),
        listeners: route.listeners.iter().filter_map(listener).collect(),
        share,
    })
}

fn key(key: &KeyPolicy) -> String {
    match key {
        KeyPolicy::Request => "request".into(),
        KeyPolicy::Uri => "uri".into(),
        KeyPolicy::Path => "path".into(),
        KeyPolicy::Header(name) => format!("header:{name}"),
        KeyPolicy::Cookie(name) => format!("cookie:{name}"),
        KeyPolicy::Query(name) => format!("query:{name}"),
        KeyPolicy::ClientIp => "client-ip".into(),
        KeyPolicy::Sni => "sni".into(),
    }
}
