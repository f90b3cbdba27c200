//! What starts and stops replicas. A runtime carries out effects and reports events; it owns no desired state.

pub mod docker;
pub mod fixed;
pub mod process;

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::core::snapshot::{Endpoint, ServiceId};

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

/// What the registry asks for: a named slot to be filled with a running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub service: ServiceId,
    /// The slot's name: `SERVER_ID`, container name, ring identity.
    pub name: Arc<str>,
    pub instance: InstanceId,
}

/// A running instance, as its runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub endpoint: Endpoint,
    /// What an operator would look it up by: a process id, a short container id.
    pub handle: String,
    /// Its share of the ring: 1 for all that we start.
    pub weight: u32,
}

/// What a runtime notices by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An instance ended. `why` is for the operator ("killed by signal 9", "exit status 1").
    Exited { instance: InstanceId, why: String },
    /// Somebody else asked it to stop: it leaves the ring now and still answers what is in flight.
    /// `Exited` follows when it is gone, and only then is its slot filled again.
    Stopping { instance: InstanceId, why: String },
    /// A server that we did not start wants to be balanced (discovery), under this instance number.
    Joined { spec: Spec, started: Started, why: String },
    /// A server that we did not start is gone.
    Left { instance: InstanceId, why: String },
}

/// Why a runtime could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// What, where, what to do: one line.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The engine cannot be reached: 503 to an admin call.
    Unavailable,
    /// The engine answered no (image missing, port taken): 502 to an admin call.
    Refused,
    /// The name is taken by something that is not ours: 400 to an admin call.
    NameTaken,
}

/// Implemented by `process`, `docker` and `fixed` (servers given by address). The control plane is generic over it;
/// all calls come from the admin thread, several may be under way at once, none is cancelled half-way.
pub trait Runtime {
    /// Starts one instance and returns when it has an address; it need not answer yet. What an earlier instance of the
    /// same slot left behind (a dead container that holds the name) is cleared first. A start whose `stop` comes
    /// before it returns ends the instance too.
    fn start(&self, spec: &Spec) -> impl Future<Output = Result<Started, Failure>>;
    /// Ends one instance: asked politely, and after `grace` by force (zero: by force at once). Idempotent, and a
    /// no-op for instances that we did not start. Returns when it is gone; with zero, when its slot may be filled again.
    fn stop(&self, instance: InstanceId, grace: Duration) -> impl Future<Output = Result<(), Failure>>;
    /// Called once, before anything else: where events go, and what is there already: instances of an earlier life to
    /// adopt, or the whole list where `can_start` is false.
    fn attach(&self, events: UnboundedSender<Event>) -> impl Future<Output = Result<Vec<(Spec, Started)>, Failure>>;
    /// True where `start` can fill a slot; false for a fixed list of servers.
    fn can_start(&self) -> bool;
    /// True where replicas outlive the balancer: at its end they are left alone.
    fn keeps_on_exit(&self) -> bool {
        false
    }
    /// Called last, when every instance was stopped or is to live on: finishes what is still under way.
    fn close(&self) -> impl Future<Output = ()> {
        async {}
    }
}
