//! Certificates, and what tells those of clients, that changed in their files while the configuration did not: looked for every
//! few seconds, and taken in pair by pair. Nothing is published here.

use std::collections::BTreeSet;

use super::tls::{TlsListener, TlsPolicies};
use crate::config::certificates::{self, CertificateSet, FileStamp};
use crate::config::named::NamedListener;
use crate::config::{Config, client_auth_files};

const STAY: &str = "; the certificates before stay in force";

/// What the last looks at the files of a listener found.
#[derive(Clone, Debug, Default)]
pub struct FileWatch {
    /// When they were read last.
    read: Vec<FileStamp>,
    /// At the last look.
    seen: Vec<FileStamp>,
    /// What cannot be used of what was read last, a line each.
    faults: Vec<String>,
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Listeners whose certificates changed.
    pub listeners: BTreeSet<String>,
    pub changed: Vec<String>,
    pub warnings: Vec<String>,
    pub faults: Vec<String>,
}

impl FileWatch {
    pub fn new(listener: &NamedListener) -> FileWatch {
        let now = certificates::stamps(&listener.settings.tls);
        FileWatch { read: now.clone(), seen: now, faults: Vec::new() }
    }

    /// Whether the files are to be read: they are others than those that were, and the same in two looks, so that a writer is
    /// not met between certificate and key.
    fn is_due(&mut self, now: Vec<FileStamp>) -> bool {
        let (is_settled, is_new) = (now == self.seen, now != self.read);
        self.seen = now;
        if is_settled && is_new {
            self.read.clone_from(&self.seen);
        }
        is_settled && is_new
    }

    pub fn faults(&self) -> usize {
        self.faults.len()
    }
}

impl TlsPolicies {
    /// Looks at the files of `config`, which is in force.
    pub fn renew(&mut self, config: &Config, unix_seconds: u64) -> Renewal {
        let before = self.clone();
        let mut renewal = Renewal::default();
        for listener in config.named.listeners.iter().filter(|listener| listener.settings.tls.has_files()) {
            let Some(tls) = self.listener_mut(&listener.name) else { continue };
            // What is stapled goes out of date by itself.
            let is_stale =
                tls.set.certificates.iter().any(|one| one.ocsp_until.is_some_and(|until| until <= unix_seconds));
            if !tls.watch.is_due(certificates::stamps(&listener.settings.tls)) && !is_stale {
                continue;
            }
            let (set, faults) = read(listener, &tls.set, unix_seconds);
            let mut faults = certificates::located(listener, faults);
            let client_auth = client_auth_files::of_listener(listener).unwrap_or_else(|fault| {
                faults.push(format!("{fault}; what was read before stays in force"));
                tls.client_auth.clone()
            });
            renewal.faults.extend(faults.iter().cloned());
            tls.watch.faults = faults;
            if set.is_none() && client_auth == tls.client_auth {
                continue;
            }
            let set = set.unwrap_or_else(|| tls.set.clone());
            if let Ok(renewed) = TlsListener::new(listener, set, client_auth, tls.watch.clone(), Some(tls)) {
                renewal.warnings.extend(renewed.warnings(listener, unix_seconds));
                *tls = renewed;
                renewal.listeners.insert(listener.name.clone());
            }
        }
        renewal.changed = self.changes(&before);
        renewal
    }
}

/// Each pair that can be used, and in the place of one that cannot the one before. `None`: all stay as they are.
fn read(listener: &NamedListener, before: &CertificateSet, unix_seconds: u64) -> (Option<CertificateSet>, Vec<String>) {
    let settings = &listener.settings.tls;
    if settings.is_self_signed() {
        return (None, Vec::new());
    }
    let mut files = certificates::read(settings, unix_seconds);
    files.refuse_expired(&before.certificates, unix_seconds);
    if !files.faults.is_empty() {
        return (None, files.faults.into_iter().map(|fault| fault + STAY).collect());
    }
    let (mut faults, mut certificates) = (Vec::new(), Vec::new());
    for pair in files.pairs {
        let former = before.certificates.iter().find(|certificate| certificate.pair == pair.name);
        match (pair.outcome, former) {
            (Ok(certificate), _) => certificates.push(certificate),
            (Err(fault), Some(former)) => {
                faults.push(format!("{fault}; the certificate before stays in force"));
                certificates.push(former.clone());
            }
            (Err(fault), None) => faults.push(format!("{fault}; it is left out")),
        }
    }
    match CertificateSet::new(certificates, settings) {
        // The ACME server has issued none yet.
        Ok(set) if set.certificates.is_empty() => (None, faults),
        Ok(set) => (Some(set), faults),
        Err(fault) => {
            faults.push(fault + STAY);
            (None, faults)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_once_when_they_are_the_same_in_two_looks() {
        let stamps = |size: u64| vec![("shop.crt".into(), Some((1, size, 0, 0)))];
        let mut watch = FileWatch { read: stamps(1), seen: stamps(1), faults: Vec::new() };
        let mut due = |size: u64| watch.is_due(stamps(size));
        assert_eq!([due(1), due(2), due(3)], [false; 3], "it is being written");
        assert_eq!([due(3), due(3)], [true, false]);
        assert_eq!([due(1), due(3), due(3)], [false; 3], "what was read is there again");
    }
}
