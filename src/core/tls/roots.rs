//! Authorities whose certificates are trusted, of replicas or of clients. Who is verified against them is decided elsewhere; no
//! file is opened here.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::TlsFault;
use super::certificate::provider;

#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// At least one certificate, all of which can be used.
    pub fn from_pem(text: &[u8]) -> Result<Roots, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|error| format!("this is not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() { Err("no certificate is in it".into()) } else { Ok(Roots(roots.into())) }
    }

    /// Those of them that can be used. `None`: there is none.
    pub fn from_der<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Option<Roots> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.into_iter().map(CertificateDer::from));
        (!roots.is_empty()).then(|| Roots(roots.into()))
    }

    /// For connections to a server that one of them verifies, by the clock of the system.
    pub fn client(&self) -> Result<ClientConfig, TlsFault> {
        let builder = ClientConfig::builder_with_provider(provider().into()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| TlsFault::Protocol(error.to_string()))?;
        Ok(builder.with_root_certificates(self.0.clone()).with_no_client_auth())
    }

    pub fn into_store(self) -> Arc<RootCertStore> {
        self.0
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Roots) -> bool {
        self.0.roots == other.0.roots
    }
}
