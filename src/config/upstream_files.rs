//! The files that TLS towards replicas needs: authorities, and a certificate of our own. They are read at the start, by
//! `ringway check` and at each reload.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::named::NamedService;
use super::{Config, certificates, error};
use crate::core::snapshot::Mode;
use crate::core::tls::certificate::{Certificate, PairFault};
use crate::core::tls::policy::ALPN_HTTP;
use crate::core::tls::roots::Roots;
use crate::core::tls::upstream::{UpstreamPolicy, UpstreamPolicySettings};
use crate::settings::UpstreamTls;

/// The bundles of all public authorities are shorter.
const SIZE_LIMIT_MIB: u64 = 4;

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
    let mut read = |path: &Path| {
        let contents = certificates::contents(path, SIZE_LIMIT_MIB)?;
        contents.hash(&mut hasher);
        Ok::<_, String>(contents)
    };
    let authorities = match &tls.ca {
        Some(path) => Some((path, read(path)?)),
        None => None,
    };
    let own = tls.own.as_ref().map(|(cert, key)| certificate(cert, key, &mut read)).transpose()?;
    let roots = match authorities {
        _ if tls.is_unverified => None,
        Some((path, pem)) => Some(Roots::from_pem(&pem).map_err(|why| of_file(path, &why))?),
        None => Some(roots_of_this_machine().map_err(|why| why + "; say ca=FILE")?),
    };
    let made =
        UpstreamPolicy::new(UpstreamPolicySettings { name: tls.name, roots, own, alpn, checksum: hasher.finish() });
    made.map_err(|fault| fault.to_string())
}

pub fn roots_of_this_machine() -> Result<Roots, String> {
    let found = rustls_native_certs::load_native_certs();
    let roots = Roots::from_der(found.certs.iter().map(|certificate| &**certificate));
    roots.ok_or_else(|| match found.errors.first() {
        Some(error) => format!("the authorities of this machine cannot be read: {error}"),
        None => "this machine has no list of authorities".into(),
    })
}

fn certificate(
    cert: &Path,
    key: &Path,
    mut read: impl FnMut(&Path) -> Result<Vec<u8>, String>,
) -> Result<Certificate, String> {
    Certificate::from_pem(&read(cert)?, &read(key)?).map_err(|fault| match &fault {
        PairFault::Certificate(why) => of_file(cert, why),
        PairFault::Key(why) => of_file(key, why),
    })
}

fn of_file(path: &Path, why: &str) -> String {
    format!("{}: {why}", path.display())
}
