//! Certificates from an ACME server (RFC 8555): asked for when there is none and ahead of their end, written into the storage
//! folder. Who takes them in from there is not known here, and no connection of a client enters.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | `AcmePlan`: what is to be had from which server; `AcmeTask`: the task, its plan exchanged, stopped; `ChallengeUpdate` |
//! | `keeper` | the task: the lock awaited, the next certificate that is due asked for, one at a time; failures and their next attempt; log lines |
//! | `order` | one order: account found or made, challenges published, waited for, chain and key to a pair in PEM; `OrderError` |
//! | `schedule` | when: two thirds of a lifetime, backoff after failures; pure |
//! | `storage` | the folder: account, pairs, lock; files written as a whole |
//! | `http` | HTTPS to the server for instant-acme: hyper's client with our TLS, limits of time and size, Retry-After noted |

mod http;
mod keeper;
mod order;
mod schedule;
mod storage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, spawn_local};

use super::operations::OperationCounters;
use super::registry::Answer;
use crate::core::challenges::Challenges;
use crate::core::tls::roots::Roots;
use crate::settings::ChallengeKind;
use keeper::Keeper;

pub use storage::create_folder;

/// What is to be had from one server.
#[derive(Clone, Debug, PartialEq)]
pub struct AcmePlan {
    /// The URL of its directory.
    pub directory: String,
    pub email: Option<String>,
    /// Of this server alone.
    pub folder: PathBuf,
    /// The authorities that verify the server.
    pub roots: Roots,
    pub certificates: Vec<WantedCertificate>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedCertificate {
    /// At least one; the first is what its file is called.
    pub names: Vec<String>,
    pub challenge: ChallengeKind,
}

/// Workers are to answer ACME servers so; told when all of them do.
pub struct ChallengeUpdate {
    pub challenges: Option<Arc<Challenges>>,
    pub reply: oneshot::Sender<Answer>,
}

/// The task that asks for certificates. It ends with this.
pub struct AcmeTask {
    plan: watch::Sender<Option<Arc<AcmePlan>>>,
    task: AbortHandle,
}

/// Since 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl AcmeTask {
    /// It waits for a plan.
    pub fn start(operations: Arc<OperationCounters>) -> (AcmeTask, UnboundedReceiver<ChallengeUpdate>) {
        let (plan, plans) = watch::channel(None);
        let (challenges, updates) = unbounded_channel();
        let task = spawn_local(Keeper::new(plans, challenges, operations).run()).abort_handle();
        (AcmeTask { plan, task }, updates)
    }

    /// What failed before is tried again now. An order under way is finished first.
    pub fn follow(&self, plan: Option<AcmePlan>) {
        self.plan.send_replace(plan.map(Arc::new));
    }

    /// Another process asks from now on, or none.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for AcmeTask {
    fn drop(&mut self) {
        self.stop();
    }
}

impl WantedCertificate {
    /// What it is called: its first name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}
