//! A certificate chain and its private key, made from the PEM text of files: the names that it is for, and when it expires.
//! Which one a client gets is decided elsewhere; no file is opened here.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityInfoAccessSyntax, SubjectAltName};

use super::ocsp;

/// A chain in DER with more bytes is refused: its handshake would not fit in the buffers of a connection.
const CHAIN_MAX: usize = 24 * 1024;

const NO_ISSUER: &str =
    "the certificate of its issuer is not behind it: clients that do not have it will refuse the connection";

#[derive(Clone)]
pub struct Certificate {
    /// The NAME of its files; empty where it comes from none.
    pub pair: String,
    /// DNS names in lower case, `*.` in front of a wildcard's.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub valid_from: u64,
    pub expires: u64,
    /// Until when its key has a response of OCSP to staple.
    pub ocsp_until: Option<u64>,
    /// What an operator should know although it can be used.
    pub warnings: Vec<String>,
    pub key: Arc<CertifiedKey>,
}

/// Why a pair cannot be used, by the file that is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairFault {
    Certificate(String),
    Key(String),
}

impl Certificate {
    /// `chain` begins with the certificate itself.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Certificate, PairFault> {
        let chain: Result<Vec<CertificateDer<'static>>, pem::Error> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| PairFault::Certificate(format!("this is not PEM: {error}")))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            PairFault::Key(match error {
                pem::Error::NoItemsFound => "no private key is in it".into(),
                error => format!("this is not PEM: {error}"),
            })
        })?;
        Certificate::from_der(chain, key)
    }

    /// With a response of OCSP, in DER, that is stapled from now on. `Err`: why it is not.
    pub fn staple(&mut self, response: Vec<u8>, unix_seconds: u64) -> Result<(), String> {
        let der = self.key.cert.first().map_or(&[][..], |der| der);
        let certificate = x509_cert::Certificate::from_der(der).map_err(|error| error.to_string())?;
        let serial = certificate.tbs_certificate().serial_number().as_bytes();
        self.ocsp_until = Some(ocsp::good_until(&response, serial, unix_seconds)?);
        self.key = Arc::new(CertifiedKey { ocsp: Some(response), ..CertifiedKey::clone(&self.key) });
        Ok(())
    }

    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Certificate, PairFault> {
        let len: usize = chain.iter().map(|certificate| certificate.len()).sum();
        if len > CHAIN_MAX {
            let why = format!("its certificates have {len} bytes, and at most {CHAIN_MAX} can be sent");
            return Err(PairFault::Certificate(why));
        }
        let parsed = parse(&chain)?;
        let Some(certificate) = parsed.first().map(x509_cert::Certificate::tbs_certificate) else {
            return Err(PairFault::Certificate("no certificate is in it".into()));
        };
        check_order(&parsed)?;
        let lacks_issuer = parsed.len() == 1 && names_issuer(certificate);
        let warnings = if lacks_issuer { vec![NO_ISSUER.to_owned()] } else { Vec::new() };
        let validity = certificate.validity();
        let names = certificate.get_extension::<SubjectAltName>();
        let names = names.map_err(|error| PairFault::Certificate(format!("its names cannot be read: {error}")))?;
        let (valid_from, expires) = (validity.not_before, validity.not_after);
        let names = names.map_or_else(Vec::new, |(_, names)| dns_names(&names));
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| refused(&error))?;
        Ok(Certificate {
            pair: String::new(),
            names,
            valid_from: valid_from.to_unix_duration().as_secs(),
            expires: expires.to_unix_duration().as_secs(),
            ocsp_until: None,
            warnings,
            key: Arc::new(key),
        })
    }
}

impl fmt::Display for PairFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PairFault::Certificate(why) => write!(f, "certificate: {why}"),
            PairFault::Key(why) => write!(f, "private key: {why}"),
        }
    }
}

impl PartialEq for Certificate {
    /// Clients see the same.
    fn eq(&self, other: &Certificate) -> bool {
        (&self.pair, &self.key.cert, &self.key.ocsp) == (&other.pair, &other.key.cert, &other.key.ocsp)
    }
}

/// The names, the time and the key's kind: what differs where two certificates do, in all likelihood.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let der = self.key.cert.first().map_or(&[][..], |der| der);
        let checksum = crc32fast::hash(der);
        let (pair, names, algorithm) = (&self.pair, self.names.join(" "), self.key.key.algorithm());
        write!(f, "{pair} {names} until {} ({algorithm:?}, {checksum:08x})", self.expires)
    }
}

/// It says where its issuer's certificate is to be had (RFC 5280 section 4.2.2.1), as those of public authorities do, whose
/// issuers no client knows.
fn names_issuer(certificate: &x509_cert::TbsCertificate) -> bool {
    let is_foreign = certificate.issuer() != certificate.subject();
    is_foreign && matches!(certificate.get_extension::<AuthorityInfoAccessSyntax>(), Ok(Some(_)))
}

fn parse(chain: &[CertificateDer]) -> Result<Vec<x509_cert::Certificate>, PairFault> {
    let no_certificate = |error| PairFault::Certificate(format!("this is no X.509 certificate: {error}"));
    chain.iter().map(|der| x509_cert::Certificate::from_der(der).map_err(no_certificate)).collect()
}

/// Each certificate of a chain was issued by the one behind it (RFC 5246 section 7.4.2), as far as their names say.
fn check_order(chain: &[x509_cert::Certificate]) -> Result<(), PairFault> {
    let names = |at: usize| {
        let certificate = chain.get(at)?.tbs_certificate();
        Some((certificate.subject().to_string(), certificate.issuer().to_string()))
    };
    for at in 1..chain.len() {
        if let (Some((_, issuer)), Some((subject, _))) = (names(at - 1), names(at))
            && issuer != subject
        {
            return Err(PairFault::Certificate(format!(
                "its chain is incomplete: behind certificate {at} comes not its issuer, {issuer}, but {subject}"
            )));
        }
    }
    Ok(())
}

/// The algorithms: those of ring.
pub fn provider() -> CryptoProvider {
    ring::default_provider()
}

fn dns_names(names: &SubjectAltName) -> Vec<String> {
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        _ => None,
    };
    names.0.iter().filter_map(name).collect()
}

fn refused(error: &Error) -> PairFault {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            PairFault::Key("it is not the key of the certificate".into())
        }
        Error::InvalidCertificate(_) => PairFault::Certificate(error.to_string()),
        _ => PairFault::Key(format!("it cannot be used: {error}")),
    }
}
