//! The files that tell which clients a listener takes: authorities and revocation lists. They are read at the start, by
//! `ringway check`, at each reload and when they change; which of them is in force is decided elsewhere.

use super::named::NamedListener;
use super::{certificates, error};
use crate::core::tls::client_auth::{ClientAuth, ClientAuthFault};

/// The bundles of all public authorities are shorter.
const AUTHORITIES_MAX_MIB: u64 = 4;
/// Those of large authorities have a million entries.
const LISTS_MAX_MIB: u64 = 64;

/// `None`: its clients are not asked for a certificate. `Err`: the place of the setting, the file, and what is wrong with it.
pub fn of_listener(listener: &NamedListener) -> Result<Option<ClientAuth>, String> {
    let (tls, places) = (&listener.settings.tls, &listener.places);
    let Some(ca) = tls.client_ca.as_ref().filter(|_| tls.asks_clients()) else { return Ok(None) };
    let at = |place: &str, why: String| error::visible(&format!("{place}: {why}"));
    let authorities = certificates::contents(ca, AUTHORITIES_MAX_MIB).map_err(|why| at(&places.client_ca, why))?;
    let lists = tls.crl.as_ref().map(|crl| certificates::contents(crl, LISTS_MAX_MIB)).transpose();
    let lists = lists.map_err(|why| at(&places.crl, why))?;
    let auth = ClientAuth::from_pem(tls.client_auth, &authorities, lists.as_deref());
    auth.map(Some).map_err(|fault| match fault {
        ClientAuthFault::Authorities(why) => at(&places.client_ca, format!("{}: {why}", ca.display())),
        ClientAuthFault::RevocationLists(why) => {
            let crl = tls.crl.as_deref().unwrap_or(ca);
            at(&places.crl, format!("{}: {why}", crl.display()))
        }
    })
}

/// What an operator should know although it is used.
pub fn warnings(listener: &NamedListener, auth: Option<&ClientAuth>, unix_seconds: u64) -> Vec<String> {
    let warnings = auth.map_or_else(Vec::new, |auth| auth.warnings(unix_seconds));
    let line = |warning: String| error::visible(&format!("{}: {warning}", listener.places.crl));
    warnings.into_iter().map(line).collect()
}
