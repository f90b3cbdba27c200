//! An admin call as the registry takes it, and its answer: plain values, no HTTP.

use std::sync::Arc;

use utoipa::ToSchema;

use super::status::ReplicaStatus;
use crate::control::runtime::{Failure, FailureKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    List,
    Add(Change),
    Remove(Change),
    Patch(ReplicaPatch),
}

/// The body of `/add` and `/rm`, its shape checked.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
#[schema(example = json!({"n": 1}))]
pub struct Change {
    /// How many replicas.
    #[schema(minimum = 1)]
    pub n: u64,
    /// At most n, each once.
    #[schema(required = false)]
    pub hostnames: Vec<String>,
    /// The answer says what would be; nothing changes.
    #[schema(ignore)]
    pub dry_run: bool,
}

/// An operator's decision about one replica. What is `None` stays.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
#[schema(example = json!({"state": "drain", "weight": 2}))]
pub struct ReplicaPatch {
    #[schema(ignore)]
    pub name: String,
    #[schema(value_type = RequestedState, required = false)]
    pub state: Option<RequestedState>,
    /// From 1 to `WEIGHT_MAX`.
    #[schema(value_type = u32, required = false, minimum = 1, maximum = 1000)]
    pub weight: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum RequestedState {
    /// It takes requests when it is healthy.
    Up,
    /// It takes no new requests, and is not stopped.
    Drain,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The members after the call, in ring order.
    Replicas(Vec<Arc<str>>),
    /// One of them, after it was patched.
    Replica(Box<ReplicaStatus>),
    /// Every worker acts on the new configuration.
    Reconfigured,
    Rejected(Rejection),
}

/// A call that changed nothing, and why: `status` is that of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub status: u16,
    pub message: String,
}

impl Rejection {
    pub fn bad_request(message: String) -> Rejection {
        Rejection { status: 400, message }
    }

    pub fn not_found(message: String) -> Rejection {
        Rejection { status: 404, message }
    }

    pub fn unavailable(message: String) -> Rejection {
        Rejection { status: 503, message }
    }

    /// A replica was started and failed.
    pub fn bad_gateway(message: String) -> Rejection {
        Rejection { status: 502, message }
    }

    /// The engine cannot be reached.
    pub fn is_unavailable(&self) -> bool {
        self.status == 503
    }

    pub fn start_failed(name: &str, failure: &Failure) -> Rejection {
        let status = match failure.kind {
            FailureKind::Unavailable => 503,
            FailureKind::Refused => 502,
            FailureKind::NameTaken => 400,
        };
        Rejection { status, message: format!("{name} could not be started: {}", failure.message) }
    }
}
