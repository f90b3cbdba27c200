//! Certificates of our own, for trying TLS out on this machine, and for names whose certificate is still to come: made at the
//! start, and gone with the process. Their private keys are never written.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::core::tls::certificate::Certificate;

/// What a client on this machine may call us.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Valid for little more than a year from the start on: Apple's clients accept no longer time.
const DAYS: u32 = 397;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Only the owner reads it.
const MODE: u32 = 0o600;

#[derive(Debug)]
pub struct SelfSigned {
    pub certificate: Certificate,
    /// The certificate alone, in PEM, where a client can read it. `None`: it could not be written.
    ca_file: Option<PathBuf>,
}

impl SelfSigned {
    /// `Err`: one line.
    pub fn new() -> Result<SelfSigned, String> {
        let (certificate, pem) = make("self-signed", &NAMES.map(String::from))?;
        Ok(SelfSigned { certificate, ca_file: write(&pem).ok() })
    }

    /// How curl is told that this certificate is to be trusted.
    pub fn curl_flag(&self) -> String {
        match &self.ca_file {
            Some(path) => format!("--cacert {}", path.display()),
            None => "-k".into(),
        }
    }
}

/// For clients that come before an ACME server has issued a certificate for these names.
pub fn placeholder(names: &[String]) -> Result<Certificate, String> {
    make("placeholder", names).map(|(certificate, _)| certificate)
}

/// Also in PEM. `Err`: one line.
fn make(pair: &str, names: &[String]) -> Result<(Certificate, String), String> {
    let made = || -> Result<(String, String), rcgen::Error> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("ringway {pair}"));
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - DAY).into(), (now + DAYS * DAY).into());
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    let (pem, key) = made().map_err(|error| format!("{pair}: no certificate can be made: {error}"))?;
    let certificate = Certificate::from_pem(pem.as_bytes(), key.as_bytes());
    let certificate = certificate.map_err(|fault| format!("{pair}: {fault}"))?;
    Ok((Certificate { pair: pair.into(), ..certificate }, pem))
}

impl Drop for SelfSigned {
    fn drop(&mut self) {
        if let Some(path) = &self.ca_file {
            let _ = fs::remove_file(path);
        }
    }
}

fn write(pem: &str) -> io::Result<PathBuf> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
    let path = folder.unwrap_or_else(std::env::temp_dir).join(format!("ringway-{}.crt", std::process::id()));
    create(&path, pem)?;
    Ok(path)
}

/// What lies there is of a process that had our number and was killed, or not ours: then it cannot be removed.
fn create(path: &Path, pem: &str) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
    let file = match create() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => fs::remove_file(path).and_then(|()| create()),
        created => created,
    };
    file?.write_all(pem.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_for_localhost_and_its_file_is_the_owners_and_goes_with_it() {
        let made = SelfSigned::new().unwrap();
        assert_eq!(made.certificate.names, ["localhost"]);
        let path = made.ca_file.clone().unwrap();
        assert_eq!(made.curl_flag(), format!("--cacert {}", path.display()));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-----BEGIN CERTIFICATE-----") && !text.contains("PRIVATE"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_replaced() {
        let path = std::env::temp_dir().join(format!("ringway-left-{}.crt", std::process::id()));
        fs::write(&path, "left").unwrap();
        create(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::remove_file(&path).unwrap();
    }
}
