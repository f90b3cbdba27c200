//! Authorities whose certificates are trusted, of replicas or of clients. Who is verified against them is decided elsewhere; no
//! file is opened here.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

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

    pub fn into_store(self) -> Arc<RootCertStore> {
        self.0
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Roots) -> bool {
        self.0.roots == other.0.roots
    }
}
