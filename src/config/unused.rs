//! Settings that have no effect beside the others: each is named in a warning.

use super::sources::{SourcedSetting, Sources};
use super::{Config, RuntimeKind, error};
use crate::core::balance::BalancePolicy;
use crate::core::snapshot::Mode;
use crate::settings::{AccessLogTarget, AdminListen, TlsSettings};

/// Limits that an HTTP connection has and a tunnel has not.
const HTTP_LIMITS: [&str; 9] = [
    "response-timeout",
    "stall-timeout",
    "min-body-rate",
    "pool-size",
    "pool-idle-timeout",
    "upstream-pipelining",
    "line-limit",
    "head-limit",
    "field-limit",
];
/// What a heartbeat asks over HTTP.
const HTTP_HEARTBEAT: [&str; 5] = ["health-path", "health-method", "health-host", "health-header", "health-status"];
/// Settings about replicas that this balancer starts.
const STARTS: [&str; 3] = ["replicas", "max-replicas", "health-replace-after"];

/// `services` are those that the settings are for, or are defaults of.
pub fn warnings(config: &Config, services: &[&Config], sources: &Sources) -> Vec<String> {
    let why = |setting: &SourcedSetting| {
        let in_each = || services.iter().map(|service| reason_in_service(service, setting)).collect::<Option<Vec<_>>>();
        reason(config, setting).or_else(|| in_each()?.first().copied())
    };
    let unused = |setting: &SourcedSetting| Some(format!("{} has no effect {}", setting.name(), why(setting)?));
    let unused = sources.set().iter().filter_map(unused);
    let unknown = sources.unknown_variables().iter();
    unused
        .chain(
            unknown.map(|name| {
                format!("{} in the environment is no setting: see ringway run --help", error::visible(name))
            }),
        )
        .collect()
}

fn reason(config: &Config, SourcedSetting { long, table, .. }: &SourcedSetting) -> Option<&'static str> {
    if table == "Access log" && long != "access-log" && config.access_log.target == AccessLogTarget::Off {
        Some("without --access-log")
    } else if (table == "ACME" || long == "tls-challenge") && !has_acme(config) {
        Some("without --tls-acme")
    } else if table == "TLS" && !has_tls(config) {
        Some("without --tls")
    } else if long == "handshake-timeout" && !has_tls(config) && !passes_tls_through(config) {
        Some("without --tls and --mode tls-passthrough")
    } else if table == "Admin" && long != "admin" && config.admin.listen == AdminListen::Off {
        Some("with --admin off")
    } else {
        None
    }
}

fn has_tls(config: &Config) -> bool {
    tls(config).any(TlsSettings::is_on)
}

fn has_acme(config: &Config) -> bool {
    tls(config).any(|tls| !tls.acme.is_empty())
}

fn tls(config: &Config) -> impl Iterator<Item = &TlsSettings> {
    let named = config.named.listeners.iter().map(|listener| &listener.settings.tls);
    std::iter::once(&config.tls).chain(named)
}

fn passes_tls_through(config: &Config) -> bool {
    let named = config.named.listeners.iter().map(|listener| listener.settings.mode);
    std::iter::once(config.mode).chain(named).any(|mode| mode == Mode::TlsPassthrough)
}

fn reason_in_service(config: &Config, SourcedSetting { long, table, .. }: &SourcedSetting) -> Option<&'static str> {
    let (runtime, is_tcp) = (config.runtime(), config.mode != Mode::Http);
    let is_one_of = |longs: &[&str]| longs.contains(&long.as_str());
    if table == "Docker" && runtime != RuntimeKind::Docker {
        Some("without --runtime docker")
    } else if table == "Source" && runtime.source().is_none() {
        Some("without a --runtime that is a source: file, dns, consul, kubernetes or swarm")
    } else if table == "Source" && !runtime.source().is_some_and(|source| source.has(long)) {
        Some("with this --runtime: another source has it")
    } else if is_one_of(&STARTS) && runtime == RuntimeKind::Fixed {
        Some("with --replica: those servers are all there is")
    } else if is_one_of(&STARTS) && !runtime.starts_replicas() {
        Some("with this --runtime: the servers that it lists are all there is")
    } else if table == "Hash" && config.policy().name() != BalancePolicy::Hash.name() {
        Some("without --policy hash")
    } else if is_tcp && (table == "Forwarded" || is_one_of(&["tls-hsts", "sticky-cookie"]) || is_one_of(&HTTP_LIMITS)) {
        Some("with --mode tcp")
    } else if is_tcp && is_one_of(&HTTP_HEARTBEAT) {
        Some("with --mode tcp: a heartbeat is a connection that is accepted")
    } else if is_one_of(&HTTP_HEARTBEAT) && !config.replicas_are_ours() && config.health.path.is_none() {
        Some("without --health-path: a heartbeat is a connection that is accepted")
    } else {
        None
    }
}
