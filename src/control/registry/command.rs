//! What the registry is told and what it asks for, as plain values.

use std::sync::Arc;

use log::Level;

use super::answer::{Answer, Call};
use crate::control::runtime::{Event, Failure, Spec, Started};
use crate::core::limits::Limits;
use crate::core::proxy::Version;
use crate::core::ring::RingKind;
use crate::core::snapshot::{Endpoint, KeyPolicy, Mode, Routes, Service, Snapshot};
use crate::core::tick::Tick;
use crate::shared::events::WorkerEvent;

/// What is decided once, at the start.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    pub service: Arc<str>,
    pub mode: Mode,
    pub key: KeyPolicy,
    pub ring: RingKind,
    pub limits: Arc<Limits>,
    pub send_proxy: Option<Version>,
    /// How many cells a `ReplicaLoad` has.
    pub workers: usize,
    /// How many replicas there are at first, where we start them.
    pub replicas: usize,
    pub max_replicas: usize,
    pub can_start: bool,
    pub keeps_on_exit: bool,
    pub heartbeat_interval_ms: u64,
    /// So many missed heartbeats in a row and a replica is down.
    pub heartbeat_misses: u32,
    /// Services beside managed, numbered from 1: the admin API's, say.
    pub others: Vec<Arc<Service>>,
    pub routes: Routes,
    /// Chooses what an `/rm` without names takes.
    pub seed: u64,
}

#[derive(Debug)]
pub enum Command {
    /// Once, first: what the runtime had already. Fills up to `RegistryConfig::replicas`.
    Found(Vec<(Spec, Started)>),
    /// An admin call; its answer carries the same ticket.
    Call {
        ticket: u64,
        call: Call,
    },
    Started {
        instance: u64,
        started: Started,
    },
    StartFailed {
        instance: u64,
        failure: Failure,
    },
    Stopped {
        instance: u64,
        result: Result<(), Failure>,
    },
    RuntimeEvent(Event),
    /// A heartbeat was answered.
    ProbeOk {
        instance: u64,
    },
    ProbeFailed {
        instance: u64,
        why: String,
    },
    /// A heartbeat could not be asked for, for want of something of our own: it counts for nothing.
    ProbeSkipped {
        instance: u64,
        why: String,
    },
    WorkerEvent(WorkerEvent),
    /// Every worker acts on this epoch or a newer one.
    Acked(u64),
    /// Time passed: `Registry::due` came.
    Tick,
    /// Drain and end.
    Stop,
    /// The workers have ended.
    WorkersEnded,
}

#[derive(Debug)]
pub enum Effect {
    Publish(Snapshot),
    Start(Spec),
    Stop {
        instance: u64,
        grace_ms: u64,
    },
    /// Ask for a heartbeat, answered by `ProbeOk`, `ProbeFailed` or `ProbeSkipped`. One per instance is under way at a time.
    Probe {
        instance: u64,
        /// Who has to answer, where we started it. A server of others may call itself what it likes.
        name: Option<Arc<str>>,
        endpoint: Endpoint,
        limit_ms: u64,
    },
    Reply {
        ticket: u64,
        answer: Answer,
    },
    Log(Level, String),
    /// After `WorkersEnded`: every instance that is managed has ended.
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
