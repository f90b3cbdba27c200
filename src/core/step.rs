//! The steps that a session asks for and their outcomes, one outcome type for each kind of step. A session never sees
//! a socket, a pool of them, or the ring; no I/O is done here.

use std::io::ErrorKind;
use std::net::IpAddr;

use super::exchange::Attempts;
use super::snapshot::{ReplicaId, ServiceId};

/// One of the two connections of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    Client,
    Upstream,
}

impl Leg {
    pub fn other(self) -> Leg {
        match self {
            Leg::Client => Leg::Upstream,
            Leg::Upstream => Leg::Client,
        }
    }
}

/// What the event loop learned of a socket. Each edge is reported once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// The peer sends no more, or the socket is in error: a read says which.
    pub hangup: bool,
    /// The connection is closed in both directions.
    pub dead: bool,
}

impl Ready {
    pub const READABLE: Ready = Ready { readable: true, writable: false, hangup: false, dead: false };
    pub const HANGUP: Ready = Ready { readable: true, writable: false, hangup: true, dead: false };

    /// A read may find bytes, the end of the stream or an error.
    pub fn may_read(self) -> bool {
        self.readable || self.hangup || self.dead
    }
}

/// What a replica is picked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    pub service: ServiceId,
    /// Where the walk on the ring begins.
    pub key: u32,
    /// Replicas that this request was tried on.
    pub tried: Attempts,
    /// This replica again, on a new connection: the pooled connection to it was stale.
    pub again: Option<ReplicaId>,
    /// The replica of its session: it is picked while it is up and has room.
    pub preferred: Option<ReplicaId>,
    /// The request may share a connection with other requests in flight: it is safe, short and has no content.
    pub pipelinable: bool,
}

/// When bytes that were sent leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    Now,
    /// With what is done to the socket next, in the same turn: a shutdown or a close, so that the end of the stream may
    /// leave in the same segment (MSG_MORE).
    WithNext,
}

/// How a client's connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Clean,
    /// The client must not take what it received for complete.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read into the buffer of the lane whose source this leg is: [`Io`].
    Recv(Leg),
    /// Write what is pending in the lane whose sink this leg is: [`Io`].
    Send { leg: Leg, flush: Flush },
    /// Splice at most this many bytes from this leg into its lane's pipe: [`SpliceIn`].
    SpliceIn(Leg, u64),
    /// Splice at most this many bytes from the lane's pipe into this leg: [`Io`].
    SpliceOut(Leg, u64),
    /// Connect to a replica: [`Connect`].
    Connect(Pick),
    /// The upstream connection is clean: it may serve other requests.
    ReleaseUpstream,
    /// The upstream connection must not be used again.
    CloseUpstream,
    /// Send no more to this leg (shutdown(2), SHUT_WR).
    ShutdownWrite(Leg),
    /// The session is over.
    Close(Ending),
}

/// The outcome of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Moved(u64),
    /// The socket is not ready: an edge follows.
    Blocked,
    /// The source sends no more.
    Ended,
    Failed(ErrorKind),
}

impl Io {
    /// How many bytes moved.
    pub fn moved(self) -> u64 {
        match self {
            Io::Moved(n) => n,
            Io::Blocked | Io::Ended | Io::Failed(_) => 0,
        }
    }
}

/// The outcome of a splice from a socket into a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpliceIn {
    Io(Io),
    /// No pipe can be had now: this read is copied.
    NoPipe,
    /// The kernel does not splice from this socket: all reads are copied.
    Unsupported,
}

impl SpliceIn {
    /// How many bytes moved.
    pub fn moved(self) -> u64 {
        match self {
            SpliceIn::Io(io) => io.moved(),
            SpliceIn::NoPipe | SpliceIn::Unsupported => 0,
        }
    }
}

/// The outcome of `Step::Connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    Connected {
        replica: ReplicaId,
        connection: Connection,
    },
    /// The connection could not be begun.
    Failed {
        replica: ReplicaId,
        why: ErrorKind,
    },
    /// The balancer lacks a descriptor, memory or a local port for another connection: the session waits.
    NoResources,
    /// Every replica has as many requests as it may have: the session waits, for a limited time.
    Queued,
    /// The same, and as many wait already as may.
    QueueFull,
    /// Too many requests were sent again already.
    NoRetry,
    /// No live replica is left to try.
    NoReplica,
}

/// What kind of connection a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Begun now; not established yet.
    New,
    /// From the pool, for this session alone.
    Reused,
    /// From the pool, and other requests may be in flight on it: bytes behind this response belong to them.
    Pipelined,
}

impl Connection {
    pub fn is_reused(self) -> bool {
        self != Connection::New
    }
}

/// What a session reports to its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A PROXY header named the client.
    ClientNamed {
        client: IpAddr,
    },
    Fault(ReplicaFault),
    /// The balancer answered by itself.
    Refused {
        status: u16,
        why: &'static str,
    },
    /// The same, but this status cannot be said, since this is a tunnel, a response is under way or no request was read: the
    /// connection is reset.
    Reset {
        status: u16,
        why: &'static str,
    },
}

/// A fault that a request met at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaFault {
    pub replica: ReplicaId,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    ConnectFailed(ErrorKind),
    ConnectTimedOut {
        after_ms: u64,
    },
    /// The response head is overdue; the request still waits for it.
    Slow {
        after_ms: u64,
    },
    ResponseTimedOut {
        after_ms: u64,
    },
    /// The replica closed or reset a connection before it answered.
    ConnectionClosed,
    BadResponse(&'static str),
}

impl FaultKind {
    /// The request failed, at this replica at least.
    pub fn ends_request(self) -> bool {
        !matches!(self, FaultKind::Slow { .. })
    }
}
