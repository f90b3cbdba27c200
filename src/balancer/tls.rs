//! TLS of one configuration, from its settings and files: a policy for each listener, which says what its clients are offered
//! and asked for, and one for each service that is talked to in TLS. Tickets of a listener live as long as its name, and as
//! long as the same is asked of its clients. Nothing is bound or published here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::expiry::date;
use super::renewal::FileWatch;
use super::self_signed::{self, SelfSigned};
use crate::config::certificates::{self, CertificateSet};
use crate::config::named::NamedListener;
use crate::config::{Config, acme, client_auth_files, upstream_files};
use crate::core::snapshot::Mode;
use crate::core::tls::TlsFault;
use crate::core::tls::certificate::Certificate;
use crate::core::tls::client_auth::ClientAuth;
use crate::core::tls::policy::{ALPN_HTTP, Policy, PolicySettings, Tickets};
use crate::core::tls::roots::Roots;
use crate::core::tls::upstream::UpstreamPolicy;

/// Those of one configuration.
#[derive(Clone, Debug, Default)]
pub struct TlsPolicies {
    by_name: BTreeMap<String, TlsListener>,
    /// The same for all listeners, for as long as one of them has it.
    self_signed: Option<Arc<SelfSigned>>,
    /// TLS towards replicas, by service.
    upstream: BTreeMap<String, Arc<UpstreamPolicy>>,
    /// The authorities that verify the ACME server. `None`: no certificate is asked for.
    pub acme_roots: Option<Roots>,
}

#[derive(Clone, Debug)]
pub struct TlsListener {
    pub set: CertificateSet,
    pub client_auth: Option<ClientAuth>,
    tickets: Tickets,
    pub watch: FileWatch,
    policy: Arc<Policy>,
}

impl TlsPolicies {
    /// Reads the files of `config`. A certificate that expired does not take the place of a valid one before it. Tickets are
    /// those of the configuration before. `Err`: every mistake, a line each.
    pub fn read(config: &Config, before: &TlsPolicies, unix_seconds: u64) -> Result<TlsPolicies, String> {
        let mut policies = TlsPolicies::default();
        let mut faults = Vec::new();
        for listener in config.named.listeners.iter().filter(|listener| listener.settings.tls.is_on()) {
            match policies.read_one(listener, before, unix_seconds) {
                Ok(read) => drop(policies.by_name.insert(listener.name.clone(), read)),
                Err(lines) => faults.extend(lines),
            }
        }
        for service in &config.named.services {
            match upstream_files::of_service(service) {
                Ok(Some(policy)) => {
                    // Connections and sessions of an unchanged one stay.
                    let former = before.upstream(&service.name).filter(|former| former.checksum == policy.checksum);
                    policies.upstream.insert(service.name.clone(), former.unwrap_or_else(|| policy.into()));
                }
                Ok(None) => {}
                Err(line) => faults.push(line),
            }
        }
        match acme::roots(config) {
            Ok(roots) => policies.acme_roots = roots,
            Err(line) => faults.push(line),
        }
        if faults.is_empty() { Ok(policies) } else { Err(faults.join("\n")) }
    }

    /// `None`: the service's replicas are talked to in plain text.
    pub fn upstream(&self, service: &str) -> Option<Arc<UpstreamPolicy>> {
        self.upstream.get(service).cloned()
    }

    fn read_one(
        &mut self,
        listener: &NamedListener,
        before: &TlsPolicies,
        unix_seconds: u64,
    ) -> Result<TlsListener, Vec<String>> {
        let watch = FileWatch::new(listener);
        let former = before.by_name.get(&listener.name);
        let set = match listener.settings.tls.is_self_signed() {
            true => self.self_signed_set(before).map_err(|fault| vec![fault])?,
            false => {
                let certificates = former.map_or(&[][..], |former| &former.set.certificates);
                let set = certificates::of_listener(listener, certificates, unix_seconds)?;
                with_stand_in(set, listener, certificates).map_err(|fault| vec![fault])?
            }
        };
        let client_auth = client_auth_files::of_listener(listener).map_err(|fault| vec![fault])?;
        let made = TlsListener::new(listener, set, client_auth, watch, former);
        made.map_err(|fault| certificates::located(listener, vec![fault.to_string()]))
    }

    fn self_signed_set(&mut self, before: &TlsPolicies) -> Result<CertificateSet, String> {
        if self.self_signed.is_none() {
            self.self_signed = before.self_signed.clone();
        }
        let made = match &self.self_signed {
            Some(made) => made,
            None => self.self_signed.insert(Arc::new(SelfSigned::new()?)),
        };
        Ok(CertificateSet { certificates: vec![made.certificate.clone()], default: 0 })
    }

    /// `None`: its clients speak in plain text.
    pub fn policy(&self, listener: &str) -> Option<Arc<Policy>> {
        self.by_name.get(listener).map(|listener| listener.policy.clone())
    }

    /// What each offers, a line each.
    pub fn summary(&self) -> Vec<String> {
        let line = |(name, TlsListener { set, .. }): (&String, &TlsListener)| {
            let CertificateSet { certificates, default } = set;
            let default = certificates.get(*default).map_or("", |certificate| &certificate.pair);
            let expires = certificates.iter().map(|certificate| certificate.expires).min().unwrap_or(0);
            let (n, expires) = (certificates.len(), date(expires));
            let plural = if n == 1 { "" } else { "s" };
            format!("listener {name} speaks TLS: {n} certificate{plural}, by default {default}; valid until {expires}")
        };
        self.by_name.iter().map(line).collect()
    }

    /// What an operator should know of certificates that are used all the same, a line each.
    pub fn warnings(&self, config: &Config) -> Vec<String> {
        let of = |listener: &NamedListener| {
            let tls = self.by_name.get(&listener.name);
            tls.map_or_else(Vec::new, |tls| tls.warnings(listener, certificates::unix_seconds()))
        };
        config.named.listeners.iter().flat_map(of).collect()
    }

    pub fn listener_mut(&mut self, name: &str) -> Option<&mut TlsListener> {
        self.by_name.get_mut(name)
    }

    pub fn each(&self) -> impl Iterator<Item = (&String, &TlsListener)> {
        self.by_name.iter()
    }

    /// Certificates that listeners of both configurations have now and had not, or no more: a line each.
    pub fn changes(&self, before: &TlsPolicies) -> Vec<String> {
        let both = self.by_name.iter().filter_map(|(name, now)| Some((name, now, before.by_name.get(name)?)));
        both.flat_map(|(name, now, before)| {
            let asks = (now.client_auth != before.client_auth).then(|| {
                format!("listener {name}: which certificates of clients are taken changed; sessions of before are not resumed")
            });
            let (now, before) = (&now.set.certificates, &before.set.certificates);
            let has = |all: &[Certificate], pair: &str| all.iter().any(|one| one.pair == pair);
            let changed = now.iter().filter(|one| !before.contains(one)).map(|one| {
                let what = if has(before, &one.pair) { "changed" } else { "is new" };
                format!("listener {name}: certificate {} {what}, valid until {}", one.pair, date(one.expires))
            });
            let removed = before.iter().filter(|one| !has(now, &one.pair));
            let removed = removed.map(|one| format!("listener {name}: certificate {} is removed", one.pair));
            changed.chain(removed).chain(asks).collect::<Vec<_>>()
        })
        .collect()
    }

    pub fn self_signed(&self) -> Option<&SelfSigned> {
        self.self_signed.as_deref()
    }
}

/// Until an ACME server has issued one: what was there before for one of its names, or one of our own. Clients that verify it
/// refuse that too, but health checks and those that ask for other names are answered.
fn with_stand_in(
    mut set: CertificateSet,
    listener: &NamedListener,
    former: &[Certificate],
) -> Result<CertificateSet, String> {
    if set.certificates.is_empty() {
        let names = &listener.settings.tls.acme;
        let is_for_one = |one: &&Certificate| one.names.iter().any(|name| names.contains(name));
        set.certificates.extend(former.iter().filter(is_for_one).cloned());
        if set.certificates.is_empty() {
            set.certificates.push(self_signed::placeholder(names)?);
        }
    }
    Ok(set)
}

impl TlsListener {
    /// `former`: the same listener before.
    pub fn new(
        listener: &NamedListener,
        set: CertificateSet,
        client_auth: Option<ClientAuth>,
        watch: FileWatch,
        former: Option<&TlsListener>,
    ) -> Result<TlsListener, TlsFault> {
        let settings = &listener.settings;
        let alike = former.filter(|former| former.client_auth == client_auth);
        let tickets = alike.map_or_else(Tickets::new, |former| Ok(former.tickets.clone()))?;
        let policy = Policy::new(PolicySettings {
            certificates: &set.certificates,
            default: set.default,
            min_version: settings.tls.min_version,
            alpn: if settings.mode == Mode::Http { ALPN_HTTP } else { &[] },
            tickets: tickets.clone(),
            client_auth: client_auth.as_ref(),
        })?;
        Ok(TlsListener { set, client_auth, tickets, watch, policy: policy.into() })
    }

    /// What an operator should know of what is used all the same, a line each.
    pub fn warnings(&self, listener: &NamedListener, unix_seconds: u64) -> Vec<String> {
        let mut lines = certificates::located(listener, self.set.warnings());
        lines.extend(client_auth_files::warnings(listener, self.client_auth.as_ref(), unix_seconds));
        lines
    }
}
