//! An admin call as the registry takes it, and its answer: plain values, no HTTP.

use std::sync::Arc;

use crate::control::runtime::{Failure, FailureKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    List,
    Add(Change),
    Remove(Change),
}

/// The body of `/add` and `/rm`, its shape checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub n: u64,
    pub hostnames: Vec<String>,
    /// The answer says what would be; nothing changes.
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The members after the call, in ring order.
    Replicas(Vec<Arc<str>>),
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
