//! TLS of the connections by which an ACME server checks a name (TLS-ALPN-01, RFC 8737): a certificate that proves it, which no
//! other client gets. Certificates for clients never enter.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, ServerConfig};

use super::TlsFault;
use super::certificate::provider;
use super::clock::Clock;

/// The only protocol that such a connection offers (RFC 8737 section 4).
pub const ALPN_ACME: &[u8] = b"acme-tls/1";

/// The certificate that proves one name.
pub struct ChallengeCertificate {
    /// In lower case.
    pub name: String,
    /// In DER.
    pub certificate: Vec<u8>,
    /// In PKCS#8.
    pub key: Vec<u8>,
}

/// Of all names that are checked now.
pub struct ChallengePolicy {
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct ByName(BTreeMap<String, Arc<CertifiedKey>>);

impl ChallengePolicy {
    pub fn new(certificates: Vec<ChallengeCertificate>) -> Result<ChallengePolicy, TlsFault> {
        let keys = certificates.into_iter().map(certified_key).collect::<Result<_, Error>>();
        let made = keys.and_then(|keys| {
            // No time enters: a session is never resumed.
            let builder = ServerConfig::builder_with_details(provider().into(), Arc::new(Clock::default()));
            let builder = builder.with_safe_default_protocol_versions()?;
            let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(ByName(keys)));
            config.alpn_protocols = vec![ALPN_ACME.to_vec()];
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok(ChallengePolicy { config: config.into() })
        });
        made.map_err(|error| TlsFault::Protocol(error.to_string()))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

/// Made without `CertifiedKey::from_der`, which refuses a critical extension that it does not know.
fn certified_key(challenge: ChallengeCertificate) -> Result<(String, Arc<CertifiedKey>), Error> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(challenge.key));
    let key = provider().key_provider.load_private_key(key)?;
    let chain = vec![CertificateDer::from(challenge.certificate)];
    Ok((challenge.name, Arc::new(CertifiedKey::new(chain, key))))
}

impl ResolvesServerCert for ByName {
    /// `None`: no handshake.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }
}

impl fmt::Debug for ChallengePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChallengePolicy").finish_non_exhaustive()
    }
}
