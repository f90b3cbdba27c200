//! The files of certificates and their keys: found, read and judged pair by pair. They are read at the start, by `ringway
//! check`, at each reload and when they change; which of them is in force is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::named::NamedListener;
use super::{Config, client_auth_files, error};
use crate::core::tls::certificate::{Certificate, PairFault};
use crate::settings::{CertificateSource, TlsSettings};

/// A longer file is another one than was meant, in MiB.
const SIZE_LIMIT_MIB: u64 = 1;

/// What was read of one listener's settings.
#[derive(Debug, Default)]
pub struct CertificateFiles {
    /// In the order of the settings, and within a folder in that of names.
    pub pairs: Vec<CertificatePair>,
    /// What keeps us from knowing which pairs there are, a line each.
    pub faults: Vec<String>,
}

#[derive(Debug)]
pub struct CertificatePair {
    pub name: String,
    cert: PathBuf,
    /// `Err`: the file, and what is wrong with it.
    pub outcome: Result<Certificate, String>,
}

/// The certificates of a listener, and which of them is for clients that name none of them. There may be none yet where an ACME
/// server is to bring it.
#[derive(Clone, Debug)]
pub struct CertificateSet {
    pub certificates: Vec<Certificate>,
    pub default: usize,
}

/// Where the files of one pair are. `key` may be the same file.
struct PairFiles {
    name: String,
    cert: PathBuf,
    key: PathBuf,
    /// An ACME server brings it: it may be missing.
    is_awaited: bool,
}

/// Of a file: whether it is still the same, as far as can be seen without reading it.
pub type FileStamp = (PathBuf, Option<(u64, u64, i64, i64)>);

/// Judges the files of all listeners. Returns warnings. `Err`: every mistake, a line each.
pub fn check(config: &Config) -> Result<Vec<String>, String> {
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    for listener in &config.named.listeners {
        if listener.settings.tls.is_from_files() {
            match of_listener(listener, &[], unix_seconds()) {
                Ok(set) => warnings.extend(located(listener, set.warnings())),
                Err(lines) => faults.extend(lines),
            }
        }
        match client_auth_files::of_listener(listener) {
            Ok(auth) => warnings.extend(client_auth_files::warnings(listener, auth.as_ref(), unix_seconds())),
            Err(line) => faults.push(line),
        }
    }
    if faults.is_empty() { Ok(warnings) } else { Err(faults.join("\n")) }
}

/// Now.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Those of a listener, which had others before. `Err`: every mistake, a line each.
pub fn of_listener(
    listener: &NamedListener,
    before: &[Certificate],
    unix_seconds: u64,
) -> Result<CertificateSet, Vec<String>> {
    let settings = &listener.settings.tls;
    let mut files = read(settings, unix_seconds);
    files.refuse_expired(before, unix_seconds);
    files.into_set(settings).map_err(|faults| located(listener, faults))
}

/// Each fault with the place of the setting that names the files.
pub fn located(listener: &NamedListener, faults: Vec<String>) -> Vec<String> {
    let locate = |fault: String| error::visible(&format!("{}: {fault}", listener.places.certificates));
    faults.into_iter().map(locate).collect()
}

pub fn read(settings: &TlsSettings, unix_seconds: u64) -> CertificateFiles {
    let mut faults = Vec::new();
    let read = |files: PairFiles| {
        let remedy = if files.is_awaited { "; remove it, and another is asked for" } else { "" };
        let outcome = files.read(unix_seconds).map_err(|fault| fault + remedy);
        CertificatePair { outcome, name: files.name, cert: files.cert }
    };
    let is_there = |files: &PairFiles| !files.is_awaited || files.cert.exists();
    let pairs: Vec<CertificatePair> = pairs(settings, &mut faults).into_iter().filter(is_there).map(read).collect();
    if pairs.is_empty() && faults.is_empty() && settings.acme.is_empty() {
        let paths: Vec<String> = settings.certificates.iter().map(shown).collect();
        faults.push(format!("{}: no NAME.crt with a NAME.key is in it, and no NAME.pem with both", paths.join(", ")));
    }
    CertificateFiles { pairs, faults }
}

impl CertificateFiles {
    /// One that expired does not take the place of a valid one. At the start it is better than none.
    pub fn refuse_expired(&mut self, before: &[Certificate], unix_seconds: u64) {
        let is_valid = |certificate: &Certificate| certificate.expires > unix_seconds;
        for pair in &mut self.pairs {
            let former = before.iter().find(|former| former.pair == pair.name);
            if former.is_some_and(is_valid) && pair.outcome.as_ref().is_ok_and(|one| !is_valid(one)) {
                pair.outcome = Err(format!("{}: it has expired, and the one in force has not", pair.cert.display()));
            }
        }
    }

    /// `Err`: what is wrong, a line each.
    pub fn into_set(self, settings: &TlsSettings) -> Result<CertificateSet, Vec<String>> {
        let CertificateFiles { pairs, mut faults } = self;
        let mut certificates = Vec::new();
        for pair in pairs {
            match pair.outcome {
                Ok(certificate) => certificates.push(certificate),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        CertificateSet::new(certificates, settings).map_err(|fault| vec![fault])
    }
}

impl CertificateSet {
    pub fn new(certificates: Vec<Certificate>, settings: &TlsSettings) -> Result<CertificateSet, String> {
        let mut names = certificates.iter().map(|certificate| &certificate.pair);
        let default = match &settings.default {
            None => Some(0),
            Some(wanted) => {
                let is_awaited = settings.acme.first() == Some(wanted);
                names.clone().position(|name| name == wanted).or(is_awaited.then_some(0))
            }
        };
        let Some(default) = default else {
            let names: Vec<&str> = names.map(String::as_str).collect();
            let wanted = settings.default.as_deref().unwrap_or_default();
            return Err(format!("default: there is no pair {wanted}; there are {}", names.join(", ")));
        };
        let is_unreachable = |(at, name): &(usize, &String)| {
            *at != default && certificates.get(*at).is_some_and(|one| one.names.is_empty() && one.pair == **name)
        };
        match names.by_ref().enumerate().find(is_unreachable) {
            Some((_, name)) => Err(format!(
                "{name}: no DNS name is in its certificate (subjectAltName), so that no client can ask for it: leave it out, or \
                 make it the default"
            )),
            None => Ok(CertificateSet { certificates, default }),
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        self.certificates.iter().flat_map(|certificate| certificate.warnings.iter().cloned()).collect()
    }
}

/// What there is now, without reading it: another list means that something changed.
pub fn stamps(settings: &TlsSettings) -> Vec<FileStamp> {
    let pairs = pairs(settings, &mut Vec::new());
    let files = pairs.into_iter().flat_map(|pair| [pair.ocsp(), pair.cert, pair.key]);
    let of_clients = [&settings.client_ca, &settings.crl].into_iter().flatten().cloned();
    files
        .chain(of_clients)
        .map(|file| {
            let found = fs::metadata(&file).ok();
            let stamp = found.map(|found| (found.ino(), found.size(), found.mtime(), found.mtime_nsec()));
            (file, stamp)
        })
        .collect()
}

fn shown(source: &CertificateSource) -> String {
    match source {
        CertificateSource::SelfSigned => "self-signed".into(),
        CertificateSource::Path(path) => path.display().to_string(),
        CertificateSource::Pair { cert, .. } => cert.display().to_string(),
    }
}

/// Where two have one name, each goes by its path.
fn pairs(settings: &TlsSettings, faults: &mut Vec<String>) -> Vec<PairFiles> {
    let mut pairs = Vec::new();
    for source in &settings.certificates {
        match source {
            CertificateSource::SelfSigned => {}
            CertificateSource::Pair { cert, key } => pairs.push(PairFiles::new(cert, key)),
            CertificateSource::Path(path) if path.is_dir() => match in_folder(path) {
                Ok(found) => pairs.extend(found),
                Err(error) => faults.push(format!("{}: the folder cannot be read: {error}", path.display())),
            },
            CertificateSource::Path(path) => pairs.push(PairFiles::new(path, path)),
        }
    }
    pairs.extend(settings.acme_pair.iter().map(|path| PairFiles { is_awaited: true, ..PairFiles::new(path, path) }));
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    pairs.iter().for_each(|pair| *count.entry(pair.name.clone()).or_default() += 1);
    for pair in pairs.iter_mut().filter(|pair| count.get(&pair.name).is_some_and(|n| *n > 1)) {
        pair.name = pair.cert.display().to_string();
    }
    pairs
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// `NAME.crt` with `NAME.key`, and `NAME.pem`, which may have its key in `NAME.key` too. What has another ending, or begins
/// with a dot, is none of them.
fn in_folder(folder: &Path) -> io::Result<Vec<PairFiles>> {
    let mut names: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending =
            path.extension().and_then(|ending| ["crt", "key", "pem"].into_iter().find(|known| ending == *known));
        let name = stem(&path);
        if let Some(ending) = ending.filter(|_| !name.starts_with('.')) {
            names.entry(name).or_default().insert(ending);
        }
    }
    let files = |(name, endings): (String, BTreeSet<&str>)| {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let cert = if endings.contains("pem") && !endings.contains("crt") { "pem" } else { "crt" };
        let key = if cert == "pem" && !endings.contains("key") { "pem" } else { "key" };
        PairFiles::new(&file(cert), &file(key))
    };
    Ok(names.into_iter().map(files).collect())
}

impl PairFiles {
    fn new(cert: &Path, key: &Path) -> PairFiles {
        PairFiles { name: stem(cert), cert: cert.to_owned(), key: key.to_owned(), is_awaited: false }
    }

    /// `Err`: the file, and what is wrong with it.
    fn read(&self, unix_seconds: u64) -> Result<Certificate, String> {
        let chain = contents(&self.cert, SIZE_LIMIT_MIB)?;
        let key = if self.key == self.cert { chain.clone() } else { contents(&self.key, SIZE_LIMIT_MIB)? };
        let certificate = Certificate::from_pem(&chain, &key).map_err(|fault| match fault {
            PairFault::Certificate(why) => format!("{}: {why}", self.cert.display()),
            PairFault::Key(why) => format!("{}: {why}", self.key.display()),
        })?;
        let mut certificate = Certificate { pair: self.name.clone(), ..certificate };
        certificate.warnings.iter_mut().for_each(|warning| *warning = format!("{}: {warning}", self.cert.display()));
        certificate.warnings.extend(exposure(&self.key));
        let response = self.ocsp();
        if response.exists() {
            let stapled = contents(&response, SIZE_LIMIT_MIB).and_then(|bytes| {
                let stapled = certificate.staple(bytes, unix_seconds);
                stapled.map_err(|why| format!("{}: {why}", response.display()))
            });
            certificate.warnings.extend(stapled.err().map(|why| why + "; it is not stapled"));
        }
        Ok(certificate)
    }

    fn ocsp(&self) -> PathBuf {
        self.cert.with_extension("ocsp")
    }
}

/// A private key that is not private, as a warning.
fn exposure(key: &Path) -> Option<String> {
    const OTHERS: u32 = 0o006;
    let mode = fs::metadata(key).ok()?.mode() & 0o7777;
    let shown = key.display();
    (mode & OTHERS != 0).then(|| {
        format!("{shown}: its mode is {mode:04o}, every user of the machine can read or change it: chmod 640 {shown}")
    })
}

/// `Err`: the file, and why.
pub fn contents(path: &Path, limit_mib: u64) -> Result<Vec<u8>, String> {
    let fault = |why: String| format!("{}: {why}", path.display());
    let unreadable = |error: io::Error| fault(format!("it cannot be read: {error}"));
    // Before it is opened: a pipe would be waited for.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(fault("it is not a regular file".into()));
    }
    let (mut bytes, limit) = (Vec::new(), limit_mib * 1024 * 1024);
    File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(fault(format!("it is longer than {limit_mib} MiB: another file is meant")));
    }
    Ok(bytes)
}
