//! What a listener asks of its clients: a certificate that one of its authorities issued and has not revoked. Which listener
//! asks is decided elsewhere; no file is opened here.
//!
//! There is no 421 (Misdirected Request, RFC 9110 section 15.5.20). What is asked belongs to the listener, and so to every host
//! that its connections lead to: a `Host` other than the name of the handshake changes nothing. Hosts that are for clients
//! with certificates alone have routes with `listeners = [...]`: on a connection of another listener they have no route, and
//! are answered with 404. A session resumes at its own listener only, and there only what was asked in the same way: the keys
//! of tickets are new when that changes.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

use super::certificate::provider;
use super::roots::Roots;

/// A client's certificate in DER with more bytes is refused: replicas are told of it in one field.
pub const LEAF_MAX: usize = 4 * 1024;
/// A client's certificates in DER, all together: they are kept for as long as its connection, and its ticket holds them too.
pub const CHAIN_MAX: usize = 12 * 1024;
/// Names of authorities, in bytes, of which clients are told: more would not fit in a handshake, which goes on without them.
const HINTS_MAX: usize = 4 * 1024;

/// What follows where a revocation list is out of date.
pub const LATE_LIST: &str = "its clients are refused until there is a new one";

/// Whether clients need a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthMode {
    Off,
    Optional,
    Required,
}

/// Of one listener.
#[derive(Clone)]
pub struct ClientAuth {
    mode: ClientAuthMode,
    roots: Roots,
    revoked: Vec<RevocationList>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What an authority says of the certificates that it revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    issuer: String,
    /// The next one comes by then. Seconds since 1970.
    until: Option<u64>,
}

/// Why it cannot be used, by the file that is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuthFault {
    Authorities(String),
    RevocationLists(String),
}

impl ClientAuth {
    /// `authorities` are certificates. With lists, each certificate of a client's chain needs one of its issuer that is in date.
    pub fn from_pem(
        mode: ClientAuthMode,
        authorities: &[u8],
        lists: Option<&[u8]>,
    ) -> Result<ClientAuth, ClientAuthFault> {
        let roots = Roots::from_pem(authorities).map_err(ClientAuthFault::Authorities)?;
        let revoked = lists.map_or(Ok(Vec::new()), revocation_lists).map_err(ClientAuthFault::RevocationLists)?;
        let builder = WebPkiClientVerifier::builder_with_provider(roots.clone().into_store(), provider().into());
        let builder = builder.with_crls(revoked.iter().map(|list| list.der.clone())).enforce_revocation_expiration();
        let builder = if mode == ClientAuthMode::Required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder.build().map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(error) => {
                ClientAuthFault::RevocationLists(format!("a list cannot be used: {error:?}"))
            }
            error => ClientAuthFault::Authorities(error.to_string()),
        })?;
        Ok(ClientAuth { mode, roots, revoked, verifier: Arc::new(BoundedVerifier(verifier)) })
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    /// The issuer of each revocation list and when the next one is due, in seconds since 1970.
    pub fn next_updates(&self) -> impl Iterator<Item = (&str, u64)> {
        self.revoked.iter().filter_map(|list| Some((list.issuer.as_str(), list.until?)))
    }

    /// What an operator should know although it can be used.
    pub fn warnings(&self, unix_seconds: u64) -> Vec<String> {
        let is_late = |list: &&RevocationList| list.until.is_some_and(|until| until <= unix_seconds);
        let line =
            |list: &RevocationList| format!("the revocation list of {} is out of date: {LATE_LIST}", list.issuer);
        self.revoked.iter().filter(is_late).map(line).collect()
    }
}

/// Clients are asked for the same.
impl PartialEq for ClientAuth {
    fn eq(&self, other: &ClientAuth) -> bool {
        (self.mode, &self.roots, &self.revoked) == (other.mode, &other.roots, &other.revoked)
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// At least one, all of which can be read.
fn revocation_lists(text: &[u8]) -> Result<Vec<RevocationList>, String> {
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(text) {
        let der = der.map_err(|error| format!("this is not PEM: {error}"))?;
        let list: Result<CertificateList, _> = CertificateList::from_der(&der);
        let list = list.map_err(|error| format!("list {} cannot be parsed: {error}", lists.len() + 1))?;
        let issuer = list.tbs_cert_list.issuer.to_string();
        let until = list.tbs_cert_list.next_update.map(|time| time.to_unix_duration().as_secs());
        lists.push(RevocationList { der, issuer, until });
    }
    if lists.is_empty() { Err("no revocation list (X509 CRL) is in it".into()) } else { Ok(lists) }
}

/// rustls' verifier, for certificates of a bounded length.
#[derive(Debug)]
struct BoundedVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for BoundedVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    /// Clients that are told of no name choose a certificate by themselves (RFC 8446 section 4.2.4).
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        let hints = self.0.root_hint_subjects();
        let len: usize = hints.iter().map(|name| name.as_ref().len()).sum();
        if len > HINTS_MAX { &[] } else { hints }
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = leaf.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>();
        let fault = |fault: TooLong| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))));
        if leaf.len() > LEAF_MAX {
            return Err(fault(TooLong { what: "it has", len: leaf.len(), limit: LEAF_MAX }));
        }
        if chain > CHAIN_MAX {
            return Err(fault(TooLong { what: "with its issuers it has", len: chain, limit: CHAIN_MAX }));
        }
        self.0.verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct TooLong {
    what: &'static str,
    len: usize,
    limit: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} bytes, and at most {} are taken", self.what, self.len, self.limit)
    }
}

impl std::error::Error for TooLong {}
