//! TLS towards the replicas of a service: what their certificate must be, and ours if they ask for one. It is immutable and
//! shared by all workers, as are the sessions that can be resumed; connections never enter.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::{Certificate, provider};
use super::clock::Clock;
use super::roots::Roots;
use super::{Tls, TlsFault};
use crate::core::buffer::BufferPool;
use crate::core::snapshot::Endpoint;

/// A host name or an address that a certificate may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(ServerName<'static>);

/// What such a policy is made of.
pub struct UpstreamPolicySettings {
    /// The name that the certificate must have, and that is asked for. `None`: the address of the replica.
    pub name: Option<PeerName>,
    /// Who may have issued it. `None`: any certificate is taken.
    pub roots: Option<Roots>,
    /// Our own, for replicas that ask for one.
    pub own: Option<Certificate>,
    /// In the order of our preference.
    pub alpn: &'static [&'static [u8]],
    pub checksum: u64,
}

/// Of one service.
#[derive(Clone)]
pub struct UpstreamPolicy {
    /// Of the settings and files that it was made of.
    pub checksum: u64,
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    clock: Arc<Clock>,
}

impl FromStr for PeerName {
    type Err = ();

    fn from_str(text: &str) -> Result<PeerName, ()> {
        ServerName::try_from(text.to_owned()).map(PeerName).map_err(drop)
    }
}

impl UpstreamPolicy {
    pub fn new(settings: UpstreamPolicySettings) -> Result<UpstreamPolicy, TlsFault> {
        let (clock, provider) = (Arc::new(Clock::default()), Arc::new(provider()));
        let builder = ClientConfig::builder_with_details(provider.clone(), clock.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(fault)?;
        let builder = match settings.roots {
            Some(roots) => builder.with_root_certificates(roots.into_store()),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
        };
        let mut config = match settings.own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = settings.alpn.iter().map(|name| name.to_vec()).collect();
        Ok(UpstreamPolicy {
            checksum: settings.checksum,
            config: config.into(),
            name: settings.name.map(|PeerName(name)| name),
            clock,
        })
    }

    /// Our end of a connection to a replica, which begins now.
    pub fn connect(&self, replica: &Endpoint, unix_seconds: u64, pool: &mut BufferPool) -> Result<Tls, TlsFault> {
        let (config, name) = self.client(replica, unix_seconds)?;
        Tls::client(config, name, pool)
    }

    /// What such a connection is made of.
    pub fn client(
        &self,
        replica: &Endpoint,
        unix_seconds: u64,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsFault> {
        let name = match (&self.name, replica) {
            (Some(name), _) => name.clone(),
            (None, Endpoint::Tcp(address)) => ServerName::IpAddress(address.ip().into()),
            (None, Endpoint::Unix(_)) => return Err(TlsFault::Protocol("a Unix socket has no name to verify".into())),
        };
        self.clock.set(unix_seconds);
        Ok((self.config.clone(), name))
    }
}

/// Whether connections are of the same kind, and share their sessions.
impl PartialEq for UpstreamPolicy {
    fn eq(&self, other: &UpstreamPolicy) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl Eq for UpstreamPolicy {}

impl fmt::Debug for UpstreamPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamPolicy").field("name", &self.name).finish_non_exhaustive()
    }
}

fn fault(error: Error) -> TlsFault {
    TlsFault::Protocol(error.to_string())
}

/// Takes any certificate whose key its owner has.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
