//! One reload at a time: the configuration is read again, runtimes are prepared, the registry takes it in, and what is no
//! longer wanted is given up. Whole or not at all. How a configuration is read is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::Level;
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::acme::AcmePlan;
use super::heartbeats::Heartbeats;
use super::registry::Topology;
use super::runtime::service_runtime::RuntimeSettings;
use crate::core::snapshot::{Listener, ListenerId, ServiceId};
use crate::core::sticky::StickyKey;

/// Where the configuration comes from. All calls come from the admin thread.
pub trait Configuration {
    /// Reads it again and binds the listeners that are new. `Err`: every mistake, a line each; nothing is bound then.
    fn read(&mut self) -> Result<ReloadPlan, String>;
    /// What was read last is in force: listeners that it does not name are given up.
    fn commit(&mut self);
    /// What was read last is not wanted: listeners that only it names are given up.
    fn discard(&mut self);
    /// Looks for certificates that changed in their files, and takes them in. Cheap where none did.
    fn renew_certificates(&mut self) -> CertificateRenewal;
    /// What a process that takes over needs to know the sessions of this one.
    fn sticky_key(&self) -> StickyKey;
    /// The configuration in force, as a file, without secrets.
    fn text(&self) -> String;
}

/// What a look at the files of certificates came to.
#[derive(Debug)]
pub struct CertificateRenewal {
    /// Those whose certificates changed.
    pub listeners: BTreeMap<ListenerId, Arc<Listener>>,
    pub lines: Vec<(Level, String)>,
    /// Files that cannot be used, since when they were read last.
    pub refused: usize,
}

/// A configuration that was read and may be taken in.
#[derive(Debug)]
pub struct ReloadPlan {
    pub topology: Topology,
    pub heartbeats: Heartbeats,
    pub runtimes: Vec<(ServiceId, RuntimeSettings)>,
    pub acme: Option<AcmePlan>,
    pub report: ReloadReport,
}

/// What a reload does, each as a line for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReloadReport {
    pub changed: Vec<String>,
    /// Services whose replicas are replaced one at a time, by name.
    pub rolling: Vec<String>,
    /// What takes effect only at an upgrade or a restart.
    pub needs_restart: Vec<String>,
}

/// What an admin call that asks for a reload gets.
pub type ReloadAnswer = Result<ReloadReport, ReloadError>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadError {
    /// The configuration is wrong: a line for each mistake.
    Invalid(String),
    /// Another reload is under way, or a runtime failed.
    Unavailable(String),
}

/// Who asked for a reload.
#[derive(Debug)]
pub enum Requester {
    Signal,
    Admin(oneshot::Sender<ReloadAnswer>),
}

/// A reload under way.
#[derive(Debug)]
pub struct PendingReload {
    pub requester: Requester,
    pub report: ReloadReport,
    pub acme: Option<AcmePlan>,
    /// Of the registry's answer, once it was asked.
    pub ticket: Option<u64>,
}

impl ReloadReport {
    /// In one line, for the log.
    pub fn line(&self) -> String {
        let mut changed = if self.changed.is_empty() { "nothing changed".into() } else { self.changed.join("; ") };
        if !self.rolling.is_empty() {
            changed.push_str(&format!("; replicas are replaced one at a time of: {}", self.rolling.join(", ")));
        }
        match &self.needs_restart[..] {
            [] => format!("reload: {changed}"),
            later => format!("reload: {changed}; not before an upgrade or a restart: {}", later.join("; ")),
        }
    }
}

impl Requester {
    /// The log says it too: each mistake is a line.
    pub fn answer(self, answer: ReloadAnswer) {
        match &answer {
            Ok(report) => log::info!(target: "ringway", "{}", report.line()),
            Err(ReloadError::Invalid(lines)) => {
                lines.lines().for_each(|line| log::error!(target: "ringway", "reload: {line}"));
                log::error!(target: "ringway", "reload: refused; the configuration in force stays");
            }
            Err(ReloadError::Unavailable(why)) => {
                log::error!(target: "ringway", "reload: {why}; the configuration in force stays");
            }
        }
        if let Requester::Admin(reply) = self {
            let _ = reply.send(answer);
        }
    }
}
