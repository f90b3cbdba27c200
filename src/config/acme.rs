//! Names whose certificates an ACME server issues, judged against the other settings, and the authorities that verify that
//! server. Certificates and account are read elsewhere; no server is asked here.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::named::NamedListener;
use super::{Config, certificates, error, upstream_files};
use crate::core::snapshot::Mode;
use crate::core::tls::roots::Roots;
use crate::settings::{AcmeSettings, ChallengeKind, TlsSettings};

/// What one certificate may have at Let's Encrypt, and at most others.
const NAMES_MAX: usize = 100;
/// The bundles of all public authorities are shorter.
const AUTHORITIES_MAX_MIB: u64 = 4;

/// Fills in where the certificate of these names is kept. `Err`: what contradicts.
pub fn resolve(tls: &mut TlsSettings, acme: &AcmeSettings) -> Result<(), String> {
    let Some(first) = tls.acme.first() else { return Ok(()) };
    let mut seen = BTreeSet::new();
    if let Some(twice) = tls.acme.iter().find(|name| !seen.insert(*name)) {
        return Err(format!("--tls-acme {twice} is given twice: leave one out"));
    }
    if tls.acme.len() > NAMES_MAX {
        let n = tls.acme.len();
        return Err(format!(
            "--tls-acme has {n} names, and a certificate has {NAMES_MAX} at most: take several listeners"
        ));
    }
    if tls.is_self_signed() {
        return Err("--tls self-signed stands beside --tls-acme, which needs none: leave it out".into());
    }
    let folder = acme
        .folder()
        .ok_or("--tls-acme needs --acme-storage, the folder where account and certificates are kept over a restart")?;
    tls.acme_pair = Some(folder.join(format!("{first}.pem")));
    Ok(())
}

impl NamedListener {
    /// It shares the file of its certificate with another listener, whose names are others.
    pub fn has_names_beside(&self, other: &NamedListener) -> bool {
        let (own, other) = (&self.settings.tls, &other.settings.tls);
        let set = |tls: &TlsSettings| tls.acme.iter().cloned().collect::<BTreeSet<String>>();
        own.acme_pair.is_some() && own.acme_pair == other.acme_pair && set(own) != set(other)
    }
}

/// What keeps an ACME server from reaching us, as far as the configuration tells: a line each.
pub fn warnings(config: &Config) -> Vec<String> {
    let listeners = &config.named.listeners;
    let has_port =
        |listener: &NamedListener, port| listener.settings.bind.iter().map(SocketAddr::port).any(|own| own == port);
    let is_plain_http =
        |listener: &&NamedListener| listener.settings.mode == Mode::Http && !listener.settings.tls.is_on();
    let warning = |listener: &NamedListener| {
        let (challenge, name) = (listener.settings.tls.challenge, &listener.name);
        let port = challenge.port();
        let (is_reached, wanted) = match challenge {
            ChallengeKind::TlsAlpn01 => (has_port(listener, port), "is not bound to"),
            ChallengeKind::Http01 => (
                listeners.iter().filter(is_plain_http).any(|listener| has_port(listener, port)),
                "has no listener of http at",
            ),
        };
        let line = || {
            format!(
                "listener {name} {wanted} port {port}, where an ACME server checks its names ({}): what listens there \
                 must pass connections on to this process",
                challenge.name()
            )
        };
        (!is_reached).then(line)
    };
    let lines = listeners.iter().filter(|listener| !listener.settings.tls.acme.is_empty()).filter_map(warning);
    lines.map(|line| error::visible(&line)).collect()
}

/// The authorities that verify the ACME server. `None`: no certificate is asked for.
pub fn roots(config: &Config) -> Result<Option<Roots>, String> {
    if config.named.listeners.iter().all(|listener| listener.settings.tls.acme.is_empty()) {
        return Ok(None);
    }
    let located = |why: String| error::visible(&format!("acme.ca: {why}"));
    let roots = match &config.acme.ca {
        Some(path) => certificates::contents(path, AUTHORITIES_MAX_MIB)
            .and_then(|pem| Roots::from_pem(&pem).map_err(|why| format!("{}: {why}", path.display()))),
        None => upstream_files::roots_of_this_machine().map_err(|why| why + "; name them with --acme-ca"),
    };
    roots.map(Some).map_err(located)
}
