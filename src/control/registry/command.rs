//! What the registry is configured with, what it takes in and what it asks for, as plain values.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::Level;

use super::answer::{Answer, Call};
use super::health::{HealthPolicy, ProbeFailure};
use super::topology::{Reconfiguration, Topology};
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::{Failure, InstanceId, RuntimeEvent, Spec, Started};
use crate::core::balance::BalancePolicy;
use crate::core::challenges::Challenges;
use crate::core::limits::Limits;
use crate::core::proxy::Version;
use crate::core::ring::RingKind;
use crate::core::snapshot::{Endpoint, KeyPolicy, Lifecycle, Listener, ListenerId, Mode, ServiceId, Snapshot};
use crate::core::tick::Tick;
use crate::core::tls::upstream::UpstreamPolicy;
use crate::shared::events::WorkerEvent;

/// What is decided once, at the start.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    pub topology: Topology,
    /// How many cells a `ReplicaLoad` has.
    pub workers: usize,
    /// Chooses what an `/rm` without names takes.
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub name: Arc<str>,
    pub mode: Mode,
    pub policy: BalancePolicy,
    pub key: KeyPolicy,
    pub ring: RingKind,
    pub limits: Arc<Limits>,
    pub send_proxy: Option<Version>,
    /// Its replicas speak TLS.
    pub tls: Option<Arc<UpstreamPolicy>>,
    /// How many replicas there are at first, where the runtime can start them.
    pub replicas: usize,
    pub max_replicas: usize,
    pub can_start: bool,
    pub keeps_on_exit: bool,
    pub health: HealthPolicy,
}

#[derive(Debug)]
pub enum Command {
    /// Once, first: what the runtimes had already. Every service is filled up to `ServiceConfig::replicas`.
    Found(Vec<(Spec, Started)>),
    /// Services, listeners and routes become these.
    Reconfigure(Box<Reconfiguration>),
    /// These listeners offer other certificates now.
    ReplaceListeners(BTreeMap<ListenerId, Arc<Listener>>),
    /// ACME servers are answered so; the answer with this ticket comes when every worker does.
    ReplaceChallenges {
        ticket: u64,
        challenges: Option<Arc<Challenges>>,
    },
    /// An admin call about one service; its answer carries the same ticket.
    Call {
        ticket: u64,
        service: ServiceId,
        call: Call,
    },
    Started {
        instance: InstanceId,
        started: Started,
    },
    StartFailed {
        instance: InstanceId,
        failure: Failure,
    },
    Stopped {
        instance: InstanceId,
        result: Result<(), Failure>,
    },
    RuntimeEvent(RuntimeEvent),
    ProbeOk {
        instance: InstanceId,
    },
    ProbeFailed {
        instance: InstanceId,
        failure: ProbeFailure,
    },
    /// No probe was sent, for lack of a descriptor, say: it counts neither for nor against the replica.
    ProbeSkipped {
        instance: InstanceId,
        why: String,
    },
    WorkerEvent(WorkerEvent),
    /// Every worker acts on this epoch or a newer one.
    Acked(u64),
    /// `Registry::due` came.
    Tick,
    /// What comes before an end: see `Lifecycle`. It never goes back.
    Enter(Lifecycle),
    /// No change is taken until `Release`: this is why.
    Hold(&'static str),
    Release,
    /// Drain and end.
    Stop,
    WorkersEnded,
    /// The process that this one has replaced is gone.
    PredecessorEnded,
}

#[derive(Debug)]
pub enum Effect {
    /// Always the first: no reply, start or stop overtakes what the workers choose from.
    Publish(Arc<Snapshot>),
    Start(Spec),
    /// Ask it to stop; after `grace_ms` end it by force.
    Stop {
        instance: InstanceId,
        grace_ms: u64,
    },
    /// A server that was stopped, and that Ringway does not start, is a replica again.
    Resume {
        instance: InstanceId,
    },
    /// Answered by `ProbeOk`, `ProbeFailed` or `ProbeSkipped`. At most one of an instance is in flight.
    Probe {
        service: ServiceId,
        /// What it was started with.
        revision: Revision,
        instance: InstanceId,
        /// Who has to answer, if it is managed. A foreign server may call itself what it likes.
        name: Option<Arc<str>>,
        endpoint: Endpoint,
        timeout_ms: u64,
    },
    Reply {
        ticket: u64,
        answer: Answer,
    },
    /// Every instance of the service has these settings, and goes back to no others.
    Settle {
        service: ServiceId,
        revision: Revision,
    },
    /// No configuration names the service any more: servers that it finds are not its replicas.
    GiveUp {
        service: ServiceId,
    },
    Log(Level, String),
    /// After `WorkersEnded`: every managed instance has ended.
    Finished,
}

/// A duration as an operator reads it: "412 ms", "3.4 s", "2 h 5 min".
pub fn readable(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

pub(super) fn since(now: Tick, then: Tick) -> String {
    readable(now.ms_since(then))
}
