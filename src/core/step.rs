//! What a session asks for, and how it went. The session never sees a socket, a pool of them, or the ring.

use std::io::ErrorKind;
use std::net::IpAddr;

use super::snapshot::{ReplicaId, ServiceId};

/// One socket's side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    Client,
    Upstream,
}

/// What the loop learned of a socket: edges, each told once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// The peer will send no more, or the socket is in error: reading says which.
    pub hangup: bool,
    /// The connection is gone in both directions.
    pub dead: bool,
}

/// A replica is wanted for a request or a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub service: ServiceId,
    /// Where on the ring the walk begins.
    pub key: u32,
    /// This replica again, on a new connection: a pooled one of it had gone stale.
    pub again: Option<ReplicaId>,
    /// The request may stand in line with others on one connection: it is safe, short and has no body.
    pub shareable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read into the buffer of the lane whose source this leg is.
    Recv(Leg),
    /// Write what is pending in the lane whose sink this leg is. After the `last` of a connection its end follows in
    /// the same cx, and may leave with it.
    Send { leg: Leg, last: bool },
    /// Splice at most so many bytes from this leg into its lane's pipe.
    SpliceIn(Leg, u64),
    /// Splice from the lane's pipe into this leg.
    SpliceOut(Leg, u64),
    /// Connect to a replica: [`Session::call`](super::session::Session::call) says for what.
    Connect,
    /// The upstream connection is clean: it may serve other requests.
    ReleaseUpstream,
    /// The upstream connection must never be used again.
    CloseUpstream,
    /// Nothing more will be sent to this leg.
    ShutdownWrite(Leg),
    /// The session is over. With `reset`, the client must not take what it got for complete.
    Close { reset: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Moved(u64),
    Blocked,
    /// The source will give no more.
    Ended,
    Failed(ErrorKind),
    /// The kernel will not splice here, or no pipe is left: copy.
    Unspliceable,
    Connected {
        replica: ReplicaId,
        reused: bool,
        /// Others may stand in line on the connection: what comes behind this response is for them.
        shared: bool,
    },
    /// The connection could not even be begun.
    ConnectFailed {
        replica: ReplicaId,
        why: ErrorKind,
    },
    /// This side lacks a descriptor, memory or a local port for another connection: the session waits for room.
    NoResources,
    /// No live replica is left to try.
    NoReplica,
    Done,
}

/// What a session noticed for people and for the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A PROXY header named the client.
    Named {
        client: IpAddr,
    },
    /// Something speaks against a replica.
    Ill {
        replica: ReplicaId,
        kind: FaultKind,
    },
    Refused {
        status: u16,
        why: &'static str,
    },
}

/// What speaks against a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    ConnectFailed(ErrorKind),
    ConnectTimedOut {
        after_ms: u64,
    },
    /// A request waits for its response head for longer than is usual; the replica may be silent.
    Silent {
        after_ms: u64,
    },
    ResponseTimedOut {
        after_ms: u64,
    },
    /// It closed or reset a connection before it answered.
    Hungup,
    BadResponse(&'static str),
}
