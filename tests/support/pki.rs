//! An authority of the test, and folders with certificates that it issued.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use x509_cert::der::Decode;

const DAY: Duration = Duration::from_secs(24 * 3600);

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub key: String,
}

/// The kind of a key.
#[derive(Clone, Copy)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

/// A certificate and its key, in PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let text = key.serialize_pem();
        Authority { issuer: Issuer::new(params, key), pem, key: text }
    }

    /// Valid for so many days from now on; negative: since expired. Its subject is the first of its names.
    pub fn issue(&self, names: &[&str], kind: Kind, days: i64) -> Issued {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).into()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, *names.first().unwrap_or(&"nameless"));
        let now = SystemTime::now();
        let length = DAY * u32::try_from(days.unsigned_abs()).expect("few days");
        let end = if days < 0 { now - length } else { now + length };
        (params.not_before, params.not_after) = ((end - 365 * DAY).into(), end.into());
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate().expect("a key"),
            Kind::Rsa => KeyPair::from_pem(&rsa_key()).expect("a key of OpenSSL"),
        };
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// Of clients that trust it.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a root");
        ClientConfig::builder().with_root_certificates(roots).with_no_client_auth().into()
    }

    /// The list of the certificates that it revoked, in PEM, good for so many days from now on.
    pub fn revocation_list(&self, revoked: &[&Issued], days: u32) -> String {
        let now = SystemTime::now();
        let of = |issued: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&issued.serial()),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + days * DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(of).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

impl Issued {
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("PEM")
    }

    fn serial(&self) -> Vec<u8> {
        let certificate = x509_cert::Certificate::from_der(&self.der()).expect("a certificate");
        certificate.tbs_certificate().serial_number().as_bytes().to_vec()
    }
}

/// A client of the server with this name. The handshake comes with the first bytes.
pub fn connect(
    config: Arc<ClientConfig>,
    name: &'static str,
    stream: TcpStream,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(name).expect("a name");
    StreamOwned::new(ClientConnection::new(config, name).expect("a connection"), stream)
}

/// No library of ours makes RSA keys.
fn rsa_key() -> String {
    let args = ["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let output = Command::new("openssl").args(args.iter().filter(|arg| **arg != "-quiet")).output().expect("openssl");
    String::from_utf8(output.stdout).expect("PEM")
}

/// A folder of one test, removed with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the folder of this test can be written");
        Folder(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path of text")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// As a writer does that is not to be met half-way: under another name first.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.file(&format!(".{name}.new"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, self.file(name)).expect("renamed");
    }

    pub fn add(&self, name: &str, issued: &Issued) {
        self.write(&format!("{name}.crt"), &issued.cert);
        self.write(&format!("{name}.key"), &issued.key);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}
