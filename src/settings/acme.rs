//! The table `[acme]`: which ACME server (RFC 8555) issues certificates, and where they are kept. Which names they are for is a
//! listener's; no file is opened here.

use std::path::PathBuf;

use clap::Args;

use super::values;

/// How an ACME server checks that a name leads to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeKind {
    /// A request for a file, at port 80.
    Http01,
    /// A TLS handshake, at port 443.
    TlsAlpn01,
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "ACME")]
pub struct AcmeSettings {
    /// The ACME server that issues the certificates of --tls-acme: the URL of its directory. To use it is to agree to the terms
    /// of service of its operator. Try things out with the one of acme-staging-v02.api.letsencrypt.org
    #[arg(id = "acme-directory", long, value_name = "URL", default_value = "https://acme-v02.api.letsencrypt.org/directory",
        value_parser = values::acme_directory)]
    pub directory: String,
    /// Where its operator can reach you
    #[arg(id = "acme-email", long, value_name = "ADDRESS", value_parser = values::email)]
    pub email: Option<String>,
    /// The folder where account key, certificates and their keys are kept. It must survive a restart; it is made if it is not
    /// there. Two processes with the same folder ask for each certificate once
    #[arg(id = "acme-storage", long, value_name = "FOLDER")]
    pub storage: Option<PathBuf>,
    /// The authorities that issued the server's own certificate, in PEM [default: those of this machine]
    #[arg(id = "acme-ca", long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl AcmeSettings {
    /// Of each server its own: a certificate of one is not taken for that of another. `None`: no folder is set.
    pub fn folder(&self) -> Option<PathBuf> {
        let name = self.directory.strip_prefix("https://").unwrap_or(&self.directory);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let name = name.trim_end_matches('/').replace(|c| !is_plain(c), "-");
        self.storage.as_ref().map(|storage| storage.join(name))
    }
}

impl ChallengeKind {
    /// As the protocol calls it.
    pub fn name(self) -> &'static str {
        match self {
            ChallengeKind::Http01 => "http-01",
            ChallengeKind::TlsAlpn01 => "tls-alpn-01",
        }
    }

    /// Where an ACME server connects to.
    pub fn port(self) -> u16 {
        match self {
            ChallengeKind::Http01 => 80,
            ChallengeKind::TlsAlpn01 => 443,
        }
    }
}
