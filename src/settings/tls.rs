//! The table `[tls]`: what the clients of a listener are offered. No file is opened here.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{ChallengeKind, units, values};
use crate::core::limits::Unit;
use crate::core::tls::TlsVersion;
use crate::core::tls::client_auth::ClientAuthMode;

/// Where a certificate and its private key come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Made at the start, for this machine's own clients.
    SelfSigned,
    /// A folder of `NAME.crt` and `NAME.key`, or of `NAME.pem` with both; or one such `.pem` file.
    Path(PathBuf),
    Pair {
        cert: PathBuf,
        key: PathBuf,
    },
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "TLS")]
pub struct TlsSettings {
    /// Clients speak TLS, and these are the certificates: a folder of NAME.crt and NAME.key, or of NAME.pem with both; one
    /// such file; or cert=FILE,key=FILE. In a file the latter is { cert = "FILE", key = "FILE" }, and several are a list.
    /// Which of them a client gets is decided by their DNS names. A response of OCSP in NAME.ocsp, in DER, is stapled. What
    /// changes in these files is taken in within seconds. `self-signed`, or the flag alone, makes one for localhost,
    /// 127.0.0.1 and ::1
    #[arg(id = "tls", long, alias = "tls-certificates", value_name = "WHERE", num_args = 0..=1, action = ArgAction::Append,
        default_missing_value = "self-signed", value_parser = values::certificates)]
    pub certificates: Vec<CertificateSource>,
    /// Names whose certificate an ACME server issues, Let's Encrypt unless --acme-directory says another: one certificate for
    /// all of them, asked for when there is none, and again after two thirds of its time. Until it is there, clients get one of
    /// our own. It is called by the first name
    #[arg(id = "tls-acme", long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_parser = values::acme_name)]
    pub acme: Vec<String>,
    /// How the ACME server checks these names: tls-alpn-01, by a handshake with this listener at port 443; or http-01, by a
    /// request that any listener of mode http answers, at port 80
    #[arg(id = "tls-challenge", long, value_name = "CHALLENGE", default_value = "tls-alpn-01",
        value_parser = values::challenge)]
    pub challenge: ChallengeKind,
    /// The file of the certificate for `acme`: from `[acme]`.
    #[arg(skip)]
    pub acme_pair: Option<PathBuf>,
    /// The pair for clients that name no host, or one that is in no certificate: the NAME of its files [default: the first by
    /// NAME, or of the list]
    #[arg(id = "tls-default", long, value_name = "NAME")]
    pub default: Option<String>,
    /// The oldest version of TLS that is spoken: 1.2 or 1.3
    #[arg(id = "tls-min-version", long, value_name = "VERSION", default_value = "1.2", value_parser = values::tls_version)]
    pub min_version: TlsVersion,
    /// Responses tell browsers to use https only for so long from now on, with Strict-Transport-Security (RFC 6797), unless the
    /// replica says it; 8760h is a year
    #[arg(id = "tls-hsts", long, value_name = "DURATION", value_parser = units::parser(Unit::Duration, 0..=HSTS_MAX_MS))]
    pub hsts_ms: Option<u64>,
    /// Whether clients need a certificate of their own: off, optional or required. Replicas of http get it in Client-Cert
    /// (RFC 9440). Connections that are open when this changes stay as they are
    #[arg(id = "tls-client-auth", long, value_name = "WHEN", default_value = "off", value_parser = values::client_auth)]
    pub client_auth: ClientAuthMode,
    /// The authorities that issue the certificates of clients, in PEM
    #[arg(id = "tls-client-ca", long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Certificates of clients that their authorities revoked: lists (X509 CRL) in PEM, one of each authority. One that is out
    /// of date refuses all clients of its authority
    #[arg(id = "tls-crl", long, value_name = "FILE")]
    pub crl: Option<PathBuf>,
}

/// Ten years.
const HSTS_MAX_MS: u64 = 10 * 365 * 24 * 3_600_000;

impl TlsSettings {
    /// Clients speak TLS.
    pub fn is_on(&self) -> bool {
        !self.certificates.is_empty() || !self.acme.is_empty()
    }

    pub fn is_self_signed(&self) -> bool {
        self.certificates.contains(&CertificateSource::SelfSigned)
    }

    pub fn is_from_files(&self) -> bool {
        self.is_on() && !self.is_self_signed()
    }

    /// Clients are asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.is_on() && self.client_auth != ClientAuthMode::Off
    }

    /// Certificates, or those that issue them to clients, are in files.
    pub fn has_files(&self) -> bool {
        self.is_from_files() || self.asks_clients()
    }
}
