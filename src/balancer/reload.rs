//! The configuration of a running balancer: read again at each reload, from the same argv, environment and file. It knows
//! what is in force, says what a reload changes, and binds the listeners that are new. It applies nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

use log::Level;

use super::expiry::ExpiryLog;
use super::plan::{Ids, Plan};
use super::renewal::Renewal;
use super::tls::TlsPolicies;
use crate::config::certificates;
use crate::config::{self, Config, EarlyExit, Invocation};
use crate::control::admin_access::{AdminAccess, SharedAccess};
use crate::control::reload::{CertificateRenewal, Configuration, ReloadPlan, ReloadReport};
use crate::core::snapshot::Endpoint;
use crate::core::sticky::StickyKey;
use crate::kernel::listening::{BindError, ListeningSockets};

/// How the configuration is read.
pub type Reader = Box<dyn Fn() -> Result<Config, String>>;

pub struct RunningConfiguration {
    read: Reader,
    in_force: Config,
    ids: Ids,
    sockets: Arc<ListeningSockets>,
    admin: Option<Endpoint>,
    access: SharedAccess,
    tls: TlsPolicies,
    expiry: ExpiryLog,
    /// Read last, and not in force yet.
    next: Option<(Config, Ids, AdminAccess, TlsPolicies)>,
}

/// Reads what `ringway run` was started with.
pub fn reader(argv: Vec<OsString>) -> Reader {
    Box::new(move || match config::read(argv.clone()) {
        Ok(Invocation::Run(config)) => Ok(*config),
        Ok(_) => Err("the command line is not that of run".into()),
        Err(EarlyExit::Usage(lines) | EarlyExit::Help(lines)) => Err(lines),
    })
}

impl RunningConfiguration {
    pub fn new(
        read: Reader,
        in_force: Config,
        ids: Ids,
        sockets: Arc<ListeningSockets>,
        admin: Option<Endpoint>,
        access: SharedAccess,
        tls: TlsPolicies,
    ) -> RunningConfiguration {
        let expiry = ExpiryLog::default();
        RunningConfiguration { read, in_force, ids, sockets, admin, access, tls, expiry, next: None }
    }

    fn retain(&self) {
        let wanted = addresses(&self.in_force);
        self.sockets.retain(|address| wanted.contains(&address));
    }
}

impl Configuration for RunningConfiguration {
    fn read(&mut self) -> Result<ReloadPlan, String> {
        let config = (self.read)()?;
        let access = super::access(&config)?;
        let tls = TlsPolicies::read(&config, &self.tls, certificates::unix_seconds())?;
        config.warnings.iter().chain(&tls.warnings(&config)).for_each(|warning| log::warn!("{warning}"));
        let mut ids = self.ids.clone();
        let plan = Plan::new(&config, &mut ids, self.admin.as_ref(), &tls);
        super::create_acme_folder(plan.acme.as_ref())?;
        self.sockets
            .bind(&plan.bind)
            .map_err(|BindError { address, error }| format!("cannot listen on {address}: {error}"))?;
        let mut report = report(&self.in_force, &config);
        report.changed.extend(tls.changes(&self.tls));
        if access != **self.access.load() {
            report.changed.push("who may call the admin API changed".into());
        }
        self.next = Some((config, ids, access, tls));
        let Plan { topology, heartbeats, runtimes, acme, .. } = plan;
        Ok(ReloadPlan { topology, heartbeats, runtimes, acme, report })
    }

    fn commit(&mut self) {
        if let Some((config, ids, access, tls)) = self.next.take() {
            (self.in_force, self.ids, self.tls) = (config, ids, tls);
            self.access.store(Arc::new(access));
        }
        self.retain();
    }

    fn discard(&mut self) {
        self.next = None;
        self.retain();
    }

    fn renew_certificates(&mut self) -> CertificateRenewal {
        let now = certificates::unix_seconds();
        let Renewal { listeners: renewed, changed, warnings, faults } = self.tls.renew(&self.in_force, now);
        let mut listeners = BTreeMap::new();
        if !renewed.is_empty() {
            let plan = Plan::new(&self.in_force, &mut self.ids, self.admin.as_ref(), &self.tls);
            listeners = plan.topology.listeners;
            listeners.retain(|_, listener| renewed.contains(&*listener.name));
        }
        let mut lines: Vec<(Level, String)> = changed.into_iter().map(|line| (Level::Info, line)).collect();
        lines.extend(warnings.into_iter().map(|line| (Level::Warn, line)));
        lines.extend(faults.into_iter().map(|line| (Level::Error, line)));
        lines.extend(self.expiry.lines(&self.tls, now));
        let refused = self.tls.each().map(|(_, listener)| listener.watch.faults()).sum();
        CertificateRenewal { listeners, lines, refused }
    }

    fn sticky_key(&self) -> StickyKey {
        self.ids.sticky_key
    }

    fn text(&self) -> String {
        self.in_force.shown.clone()
    }
}

fn addresses(config: &Config) -> Vec<SocketAddr> {
    config.named.listeners.iter().flat_map(|listener| listener.settings.bind.iter().copied()).collect()
}

/// What differs, by name.
fn report(before: &Config, after: &Config) -> ReloadReport {
    let services = |config: &Config| -> Vec<(String, String)> {
        config.named.services.iter().map(|service| (service.name.clone(), service.config.identity())).collect()
    };
    let listeners = |config: &Config| -> Vec<(String, String)> {
        let settings = config.named.listeners.iter().map(|one| (one.name.clone(), format!("{:?}", one.settings)));
        settings.collect()
    };
    let routes = |config: &Config| -> Vec<String> {
        config.named.routes.iter().map(|route| format!("{:?}", route.settings)).collect()
    };
    let mut changed = differences("service", &services(before), &services(after));
    changed.extend(differences("listener", &listeners(before), &listeners(after)));
    if routes(before) != routes(after) {
        changed.push(format!("routes changed: {} now", after.named.routes.len()));
    }
    ReloadReport { changed, needs_restart: needs_restart(before, after), ..ReloadReport::default() }
}

fn differences(kind: &str, before: &[(String, String)], after: &[(String, String)]) -> Vec<String> {
    let find = |all: &[(String, String)], name: &str| all.iter().find(|(known, _)| known == name).cloned();
    let new = after.iter().filter_map(|(name, settings)| match find(before, name) {
        None => Some(format!("{kind} {name} is new")),
        Some((_, old)) if old != *settings => Some(format!("{kind} {name} changed")),
        Some(_) => None,
    });
    let removed = before.iter().filter(|(name, _)| find(after, name).is_none());
    new.chain(removed.map(|(name, _)| format!("{kind} {name} is removed"))).collect()
}

/// What the process was started with and keeps.
fn needs_restart(before: &Config, after: &Config) -> Vec<String> {
    let kept = |config: &Config| {
        [
            ("workers", config.workers.to_string()),
            ("pin", config.pin.to_string()),
            ("admin", format!("{:?}", config.admin.listen)),
            ("access_log", format!("{:?}", config.access_log)),
            ("limits.shutdown_delay", config.limits.shutdown_delay_ms.to_string()),
            ("limits.upgrade_timeout", config.limits.upgrade_timeout_ms.to_string()),
            ("limits.max_connections", config.limits.max_connections.to_string()),
            ("limits.max_connections_per_client", config.limits.max_connections_per_client.to_string()),
            ("limits.tls_max_handshakes", config.limits.tls_max_handshakes.to_string()),
        ]
    };
    let pairs = kept(before).into_iter().zip(kept(after));
    pairs.filter(|(before, after)| before != after).map(|((name, _), _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, settings)| ((*name).into(), (*settings).into())).collect()
    }

    #[test]
    fn what_is_new_changed_and_removed_is_named() {
        let before = pairs(&[("shop", "a"), ("blog", "b"), ("old", "c")]);
        let after = pairs(&[("shop", "a"), ("blog", "x"), ("new", "d")]);
        let expected = ["service blog changed", "service new is new", "service old is removed"];
        assert_eq!(differences("service", &before, &after), expected);
        assert!(differences("service", &before, &before).is_empty());
    }
}
