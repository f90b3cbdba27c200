//! The files that TLS towards replicas needs: authorities, and a certificate of our own. They are read at the start, by
//! `ringway check` and at each reload.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::named::NamedService;
use super::{Config, error};
use crate::core::snapshot::Mode;
use crate::core::tls::certificate::{Certificate, PairFault};
use crate::core::tls::policy::ALPN_HTTP;
use crate::core::tls::roots::Roots;
use crate::core::tls::upstream::{UpstreamPolicy, UpstreamPolicySettings};
use crate::settings::UpstreamTls;

/// Judges the files of all services. `Err`: every mistake, a line each.
pub fn check(config: &Config) -> Result<(), String> {
    let faults = config.named.services.iter().filter_map(|service| of_service(service).err());
    let faults: Vec<String> = faults.collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// `None`: its replicas are talked to in plain text.
pub fn of_service(service: &NamedService) -> Result<Option<UpstreamPolicy>, String> {
    let located = |why: String| error::visible(&format!("services.{}.upstream.tls: {why}", service.name));
    let Some(tls) = service.config.upstream.tls().map_err(located)? else { return Ok(None) };
    let alpn = if service.config.mode == Mode::Http { ALPN_HTTP } else { &[] };
    policy(tls, alpn).map(Some).map_err(located)
}

fn policy(tls: UpstreamTls, alpn: &'static [&'static [u8]]) -> Result<UpstreamPolicy, String> {
    let mut hasher = DefaultHasher::new();
    format!("{tls:?} {alpn:?}").hash(&mut hasher);
    let paths = tls.ca.iter().chain(tls.own.iter().flat_map(|(cert, key)| [cert, key]));
    for path in paths {
        read(path)?.hash(&mut hasher);
    }
    let roots = match (&tls.ca, tls.is_unverified) {
        (_, true) => None,
        (Some(path), false) => Some(Roots::from_pem(&read(path)?).map_err(|why| of_file(path, &why))?),
        (None, false) => Some(roots_of_this_machine()?),
    };
    let own = match &tls.own {
        Some((cert, key)) => Some(certificate(cert, key)?),
        None => None,
    };
    let made =
        UpstreamPolicy::new(UpstreamPolicySettings { name: tls.name, roots, own, alpn, checksum: hasher.finish() });
    made.map_err(|fault| fault.to_string())
}

fn roots_of_this_machine() -> Result<Roots, String> {
    let found = rustls_native_certs::load_native_certs();
    let roots = Roots::from_der(found.certs.iter().map(|certificate| &**certificate));
    roots.ok_or_else(|| match found.errors.first() {
        Some(error) => format!("the authorities of this machine cannot be read: {error}; say ca=FILE"),
        None => "this machine has no list of authorities: say ca=FILE".into(),
    })
}

fn certificate(cert: &Path, key: &Path) -> Result<Certificate, String> {
    Certificate::from_pem(&read(cert)?, &read(key)?).map_err(|fault| match &fault {
        PairFault::Certificate(why) => of_file(cert, why),
        PairFault::Key(why) => of_file(key, why),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| of_file(path, &error.to_string()))
}

fn of_file(path: &Path, why: &str) -> String {
    format!("{}: {why}", path.display())
}
