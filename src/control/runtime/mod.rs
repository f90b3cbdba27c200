//! What starts and stops replicas. A runtime carries out the registry's effects and reports events; how many replicas
//! there should be is not known here.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the trait [`Runtime`] (start, stop, attach, resume, suspension, close) and its values: [`InstanceId`], [`Origin`] (managed, foreign), [`Spec`] (service, name, revision, what it replaces), [`Started`] (endpoint, handle, weight), [`RuntimeEvent`] (exited, stopping, joined, left, delisted), [`Failure`] and its kind; defaults of the trait |
//! | [`discovery`] | servers that a source lists (file, DNS, Consul, Kubernetes, Swarm): followed, never started |
//! | [`docker`] | containers, managed or foreign |
//! | [`fixed`] | servers given by address or host name: never started; names looked up again and again, the replica moved to the first address that accepts; `ListedServer`, `NameWatch`, its triggers (refresh, failed probe) |
//! | [`process`] | child processes: free loopback ports, environment (`PORT`, `SERVER_ID`), process groups, exit status in words, the child's output to the log; free port, program or our own binary, signals to the group, awaited until it listens, several tries |
//! | `process_state` | `/proc/PID/stat`: whether a process is stopped (SIGSTOP), whether it runs in a given container; cgroups of a process |
//! | [`per_service`] | `PerService`: the runtimes of all services as one, each call passed on by the instance's service; opened, changed and closed at a reload; numbers of foreign instances made unique (inward, outward) |
//! | [`service_runtime`] | `ServiceRuntime` (process, docker, fixed, discovery), `RuntimeSettings`: what it is opened from; `SettingsChange`: which settings a running one takes in, whether instances have others |
//! | [`revisions`] | `Revision`, `Revisions`: the settings that instances are started with, of each configuration that is still needed; numbered, settled when a rolling replacement has ended |
//! | [`resolver`] | host names to addresses by getaddrinfo on threads, with a timeout |

pub mod discovery;
pub mod docker;
pub mod fixed;
pub mod per_service;
pub mod process;
mod process_state;
pub mod resolver;
pub mod revisions;
pub mod service_runtime;

use std::fmt::{self, Display, Formatter};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;
use tokio::sync::mpsc::UnboundedSender;

use crate::core::snapshot::{Endpoint, ServiceId};
use revisions::Revision;

/// One instance of a replica. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstanceId {
    /// Started and stopped by its runtime; the registry numbers it, above every number found by `attach`.
    Managed(u64),
    /// A server that its runtime neither starts nor stops (a fixed list, discovery); the runtime numbers it.
    Foreign(u64),
}

/// Who starts and stops an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Managed,
    Foreign,
}

impl InstanceId {
    pub fn origin(self) -> Origin {
        match self {
            InstanceId::Managed(_) => Origin::Managed,
            InstanceId::Foreign(_) => Origin::Foreign,
        }
    }

    /// Unique among instances of the same origin.
    pub fn number(self) -> u64 {
        match self {
            InstanceId::Managed(number) | InstanceId::Foreign(number) => number,
        }
    }
}

impl Display for InstanceId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            InstanceId::Managed(number) => write!(f, "{number}"),
            InstanceId::Foreign(number) => write!(f, "foreign {number}"),
        }
    }
}

/// What the registry asks for: an instance that fills a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub service: ServiceId,
    /// The slot's name: `SERVER_ID`, container name, ring identity.
    pub name: Arc<str>,
    pub instance: InstanceId,
    /// Which settings it is started with.
    pub revision: Revision,
    /// The instance that filled the slot before and has ended or fallen silent, or fills it until this one answers. What
    /// is left of it need not be gone.
    pub replaces: Option<InstanceId>,
}

/// A running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub endpoint: Endpoint,
    /// What an operator looks it up by: a process id, a short container id.
    pub handle: String,
    /// Its share of the ring, relative to other replicas: 1 for a managed one.
    pub weight: u32,
}

/// What a runtime reports without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// An instance ended. `why` is for the operator ("killed by signal 9", "exit status 1").
    Exited { instance: InstanceId, why: String },
    /// It was signalled to stop, not by us: it leaves the ring now and finishes the requests in flight.
    /// `Exited` follows when it has ended; only then is its slot filled again.
    Stopping { instance: InstanceId, why: String },
    /// A server that we did not start was found; it is balanced under this instance number. Under a name that is known, it
    /// is the same server at another address.
    Joined { spec: Spec, started: Started, why: String },
    /// A server that we did not start has ended.
    Left { instance: InstanceId, why: String },
    /// A server that we did not start is listed no more. It may still answer: it finishes its requests, and takes new ones
    /// where no other can yet.
    Delisted { instance: InstanceId, why: String },
}

/// What a runtime passes on to a successor of this process.
#[derive(Debug, Default)]
pub struct Lent {
    pub run_id: Option<String>,
    pub lock: Option<OwnedFd>,
}

/// Why a start or a stop failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// One line: what failed, where, what to do.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The engine cannot be reached. An admin call is answered 503.
    Unavailable,
    /// The engine refused it (no such image, a port in use). An admin call is answered 502.
    Refused,
    /// A container that Ringway did not create has the name. An admin call is answered 400.
    NameTaken,
}

/// Implemented by `process`, `docker`, `fixed` (servers given by address) and `discovery` (servers that a source lists). All calls come from the admin thread.
/// Several may be under way at once; none is cancelled.
pub trait Runtime {
    /// Starts one instance and returns when it has an address; it need not answer yet. What the instance that it replaces
    /// left is no obstacle. A `stop` before the start returns ends the instance, and the start fails.
    fn start(&self, spec: &Spec) -> impl Future<Output = Result<Started, Failure>>;
    /// Ends one instance: by SIGTERM, and after `grace` by force (zero: by force at once). Idempotent, and without effect
    /// on instances that we did not start. Returns when it has ended; with zero, when its slot may be filled again.
    fn stop(&self, instance: InstanceId, grace: Duration) -> impl Future<Output = Result<(), Failure>>;
    /// Called once, before anything else, with the channel for events. Returns what runs already: instances of an earlier
    /// run to adopt, or all servers of a fixed list.
    fn attach(
        &self,
        events: UnboundedSender<RuntimeEvent>,
    ) -> impl Future<Output = Result<Vec<(Spec, Started)>, Failure>>;
    /// A server that was stopped, and that cannot be started, is a replica again.
    fn resume(&self, _instance: InstanceId) {}
    /// Why an instance that has not ended cannot run now: its process is stopped, say. `None`: it can, or that is not known.
    fn suspension(&self, _instance: InstanceId) -> impl Future<Output = Option<String>> {
        async { None }
    }
    /// A heartbeat failed at an instance. A runtime that knows names may find it elsewhere (`Joined` under the same name).
    fn on_probe_failed(&self, _instance: InstanceId) {}
    /// How long an instance may take to end after its stop signal.
    fn stop_limit(&self) -> Duration {
        Duration::ZERO
    }
    /// A successor of this process is about to start: until `take_back`, nothing is started, stopped or removed here that a
    /// successor would find. What it needs beside the replicas' names.
    fn lend(&self) -> Lent {
        Lent::default()
    }
    /// There is no successor after all.
    fn take_back(&self) {}
    /// Whether it waits for this child of ours itself.
    fn is_own_child(&self, _process: Pid) -> bool {
        false
    }
    /// Every instance has these settings now: no others will be asked for.
    fn settle(&self, _service: ServiceId, _revision: Revision) {}
    /// Called last, when every instance was stopped or is to run on: waits for what is still under way.
    fn close(&self) -> impl Future<Output = ()> {
        async {}
    }
    /// Instances that should have ended and will run on, or are not cleaned up, when the balancer ends now; each as the
    /// operator finds it.
    fn left_behind(&self) -> Vec<String> {
        Vec::new()
    }
}
