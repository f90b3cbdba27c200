//! What the clients of a listener are offered: certificates by name, protocol versions, ALPN and tickets; and whether they are
//! asked for a certificate. It is immutable and shared by all workers; connections never enter.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, ServerConfig, SignatureAlgorithm, version};

use super::certificate::{Certificate, provider};
use super::challenge::ALPN_ACME;
use super::client_auth::ClientAuth;
use super::clock::Clock;
use super::{TlsFault, TlsVersion};

/// The names of ALPN (RFC 7301) that an HTTP listener answers to.
pub const ALPN_HTTP: &[&[u8]] = &[b"http/1.1"];

/// What a policy is made of.
pub struct PolicySettings<'a> {
    pub certificates: &'a [Certificate],
    /// Which of them a client gets that names none of them.
    pub default: usize,
    pub min_version: TlsVersion,
    /// In the order of our preference. Empty: ALPN is not answered.
    pub alpn: &'a [&'a [u8]],
    pub tickets: Tickets,
    /// `None`: clients are not asked for a certificate.
    pub client_auth: Option<&'a ClientAuth>,
}

/// Of one listener.
pub struct Policy {
    config: Arc<ServerConfig>,
    clock: Arc<Clock>,
    certificates: Vec<ServedCertificate>,
    client_request: ClientRequest,
}

/// What is asked of clients in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRequest {
    Nothing,
    Certificate,
}

/// What an operator wants to know of a certificate in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedCertificate {
    /// The NAME of its files.
    pub pair: String,
    /// Seconds since 1970.
    pub expires: u64,
}

/// The keys of session tickets. They live as long as their listener asks the same of its clients, over reloads, so that a client
/// can resume at any worker: what a resumed session proved is not verified again.
/// They are exchanged every six hours, by the clock of the system.
#[derive(Clone, Debug)]
pub struct Tickets(Arc<dyn ProducesTickets>);

/// Certificates by what a client asks for.
#[derive(Debug, Default)]
struct Certificates {
    /// By exact name.
    names: BTreeMap<String, KeyPairs>,
    /// By what stands behind `*.`: the wildcard covers one label.
    wildcards: BTreeMap<String, KeyPairs>,
    default: KeyPairs,
}

/// Certificates for the same name, by kind of key, the cheapest for us first.
type KeyPairs = Vec<Arc<CertifiedKey>>;

impl Policy {
    pub fn new(settings: PolicySettings<'_>) -> Result<Policy, TlsFault> {
        let clock = Arc::new(Clock::default());
        let versions: &[_] = match settings.min_version {
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        let builder = ServerConfig::builder_with_details(provider().into(), clock.clone());
        let builder = builder.with_protocol_versions(versions).map_err(fault)?;
        let certificates = Certificates::new(settings.certificates, settings.default);
        let builder = match settings.client_auth {
            Some(auth) => builder.with_client_cert_verifier(auth.verifier()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        let mut client_request = ClientRequest::Nothing;
        if settings.client_auth.is_some() {
            // Such a ticket holds the client's certificates, and two may be longer than a buffer has room.
            (client_request, config.send_tls13_tickets) = (ClientRequest::Certificate, 1);
        }
        config.alpn_protocols = settings.alpn.iter().map(|name| name.to_vec()).collect();
        config.ticketer = settings.tickets.0;
        // Tickets resume sessions of both versions: nothing is kept for those of clients that know none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        // All suites are strong; scanners call an order that the client chooses a finding.
        config.ignore_client_order = true;
        let served = |one: &Certificate| ServedCertificate { pair: one.pair.clone(), expires: one.expires };
        let certificates = settings.certificates.iter().map(served).collect();
        Ok(Policy { config: config.into(), clock, certificates, client_request })
    }

    pub fn certificates(&self) -> &[ServedCertificate] {
        &self.certificates
    }

    pub(super) fn client_request(&self) -> ClientRequest {
        self.client_request
    }

    /// For a connection that begins now.
    pub(super) fn config(&self, unix_seconds: u64) -> Arc<ServerConfig> {
        self.clock.set(unix_seconds);
        self.config.clone()
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").finish_non_exhaustive()
    }
}

impl Tickets {
    pub fn new() -> Result<Tickets, TlsFault> {
        rustls::crypto::ring::Ticketer::new().map(Tickets).map_err(fault)
    }
}

impl Certificates {
    fn new(all: &[Certificate], default: usize) -> Certificates {
        let mut certificates = Certificates::default();
        for certificate in all {
            for name in &certificate.names {
                let keys = match name.strip_prefix("*.") {
                    Some(parent) => certificates.wildcards.entry(parent.to_owned()).or_default(),
                    None => certificates.names.entry(name.clone()).or_default(),
                };
                add(keys, &certificate.key);
            }
        }
        // What has the same names as the default, but another kind of key, stands beside it.
        if let Some(default) = all.get(default) {
            let same = all.iter().filter(|other| !default.names.is_empty() && other.names == default.names);
            let keys = &mut certificates.default;
            std::iter::once(default).chain(same).for_each(|certificate| add(keys, &certificate.key));
        }
        certificates
    }

    fn of(&self, name: Option<&str>) -> &KeyPairs {
        let exact = |name: &str| self.names.get(name).or_else(|| self.wildcards.get(name.split_once('.')?.1));
        let lower = |name: &str| exact(name).or_else(|| exact(&name.to_ascii_lowercase()));
        name.map(|name| name.strip_suffix('.').unwrap_or(name)).and_then(lower).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // No challenge is pending: a handshake would tell the ACME server of another certificate.
        if hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN_ACME)) {
            return None;
        }
        let offered = hello.signature_schemes();
        let keys = self.of(hello.server_name());
        // Where none fits, the handshake fails as one that has no cipher suite in common does.
        let fitting = keys.iter().find(|key| key.key.choose_scheme(offered).is_some());
        fitting.or_else(|| keys.first()).cloned()
    }
}

/// The first certificate with a kind of key is the one that counts.
fn add(keys: &mut KeyPairs, key: &Arc<CertifiedKey>) {
    if keys.iter().all(|known| known.key.algorithm() != key.key.algorithm()) {
        keys.push(key.clone());
        // To sign with RSA costs ten times as much.
        keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
    }
}

fn fault(error: Error) -> TlsFault {
    TlsFault::Protocol(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::certificate;
    use super::*;

    fn named(names: &[&[&str]]) -> Vec<Certificate> {
        names.iter().map(|names| certificate(names)).collect()
    }

    fn chosen(all: &[Certificate], default: usize, name: Option<&str>) -> Option<usize> {
        let certificates = Certificates::new(all, default);
        let key = certificates.of(name).first()?;
        all.iter().position(|certificate| Arc::ptr_eq(&certificate.key, key))
    }

    #[test]
    fn an_exact_name_comes_before_a_wildcard_of_one_label_and_that_before_the_default() {
        let all = named(&[&["other.org"], &["*.example.com", "example.com"], &["a.example.com"]]);
        let cases = [
            (Some("a.example.com"), 2),
            (Some("A.Example.COM."), 2),
            (Some("b.example.com"), 1),
            (Some("example.com"), 1),
            (Some("x.b.example.com"), 0),
            (Some("nowhere.org"), 0),
            (None, 0),
        ];
        for (name, expected) in cases {
            assert_eq!(chosen(&all, 0, name), Some(expected), "{name:?}");
        }
        assert_eq!(chosen(&all, 2, None), Some(2));
    }

    #[test]
    fn the_first_certificate_of_a_name_and_a_kind_of_key_counts() {
        let all = named(&[&["a.org"], &["a.org"]]);
        assert_eq!(chosen(&all, 1, Some("a.org")), Some(0));
        let certificates = Certificates::new(&all, 1);
        assert_eq!((certificates.names["a.org"].len(), certificates.default.len()), (1, 1));
    }
}
