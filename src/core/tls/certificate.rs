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
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A chain in DER with more bytes is refused: its handshake would not fit in the buffers of a connection.
const CHAIN_MAX: usize = 24 * 1024;

#[derive(Clone)]
pub struct Certificate {
    /// DNS names in lower case, `*.` in front of a wildcard's.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub valid_from: u64,
    pub expires: u64,
    pub key: Arc<CertifiedKey>,
}

/// Why a pair cannot be used. Whether it is the certificate's or the key's file is the first word of each message.
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

    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Certificate, PairFault> {
        let first = chain.first().ok_or_else(|| PairFault::Certificate("no certificate is in it".into()))?;
        let len: usize = chain.iter().map(|certificate| certificate.len()).sum();
        if len > CHAIN_MAX {
            let why = format!("its certificates have {len} bytes, and at most {CHAIN_MAX} can be sent");
            return Err(PairFault::Certificate(why));
        }
        let certificate = x509_cert::Certificate::from_der(first)
            .map_err(|error| PairFault::Certificate(format!("this is no X.509 certificate: {error}")))?;
        let certificate = certificate.tbs_certificate();
        let validity = certificate.validity();
        let names = certificate.get_extension::<SubjectAltName>();
        let names = names.map_err(|error| PairFault::Certificate(format!("its names cannot be read: {error}")))?;
        let (valid_from, expires) = (validity.not_before, validity.not_after);
        let names = names.map_or_else(Vec::new, |(_, names)| dns_names(&names));
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| refused(&error))?;
        Ok(Certificate {
            names,
            valid_from: valid_from.to_unix_duration().as_secs(),
            expires: expires.to_unix_duration().as_secs(),
            key: Arc::new(key),
        })
    }
}

/// The names, the time and the key's kind: what differs where two certificates do, in all likelihood.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let der = self.key.cert.first().map_or(&[][..], |der| der);
        let checksum = crc32fast::hash(der);
        write!(f, "{} until {} ({:?}, {checksum:08x})", self.names.join(" "), self.expires, self.key.key.algorithm())
    }
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
