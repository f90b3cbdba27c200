//! What workers report: events over a bounded channel, the only way from the data plane to the control plane beside
//! counters. An event that finds the channel full is dropped and counted; no worker waits.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::publish::Wake;
use crate::core::snapshot::ReplicaId;
use crate::core::step::ReplicaFault;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// A request met a fault at a replica.
    Fault(ReplicaFault),
    /// The last requests to this replica were all answered with a 5xx status.
    FailuresInARow {
        replica: ReplicaId,
        failures: u32,
    },
    /// A request that met a fault went to the next replica on the ring.
    Retried {
        from: ReplicaId,
        to: ReplicaId,
    },
    /// The balancer answered by itself.
    Refused {
        client: IpAddr,
        status: u16,
        why: &'static str,
    },
    /// It reset a connection to which it could not say this status.
    Reset {
        client: IpAddr,
        status: u16,
        why: &'static str,
    },
    /// A connection was refused at accept by a cap.
    Capped {
        client: IpAddr,
        cap: Cap,
    },
    /// A client and this balancer have no TLS in common, or the client refused ours.
    HandshakeFailed {
        client: IpAddr,
        why: String,
    },
    /// A replica and this balancer have no TLS in common, or its certificate is not the one that it must have.
    UpstreamHandshakeFailed {
        replica: ReplicaId,
        why: String,
    },
    /// No connection to this replica could be opened for lack of a local resource.
    Exhausted {
        replica: ReplicaId,
        resource: Resource,
    },
    /// Accepting paused for lack of a resource. `AcceptResumed` says for how long.
    AcceptPaused {
        worker: usize,
        resource: Resource,
    },
    AcceptResumed {
        worker: usize,
        after_ms: u64,
    },
}

/// A local resource that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Of this process, or of the whole machine. Closing an idle connection frees one.
    Descriptors,
    /// For sockets, or for watching them.
    Memory,
    /// Every local port is in use for connections to this one replica.
    Ports,
    /// As many clients shake hands as may do so at a time.
    Handshakes,
    Other(std::io::ErrorKind),
}

/// Which cap on client connections was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    All,
    PerClient,
}

impl WorkerEvent {
    /// The replica that failed, if the event says so.
    pub fn suspect(&self) -> Option<ReplicaId> {
        match self {
            WorkerEvent::Fault(fault) => Some(fault.replica),
            WorkerEvent::FailuresInARow { replica, .. } => Some(*replica),
            _ => None,
        }
    }
}

const CAPACITY: usize = 4096;

/// A worker's end of the channel.
#[derive(Clone)]
pub struct EventSender {
    sender: Sender<WorkerEvent>,
    dropped: Arc<AtomicU64>,
    wake: Wake,
}

/// The control plane's end of the channel.
pub struct EventReceiver {
    pub events: Receiver<WorkerEvent>,
    dropped: Arc<AtomicU64>,
}

/// `wake` is called after each event, so that the control plane need not poll.
pub fn channel(wake: Wake) -> (EventSender, EventReceiver) {
    let (sender, events) = bounded(CAPACITY);
    let dropped = Arc::new(AtomicU64::new(0));
    (EventSender { sender, dropped: dropped.clone(), wake }, EventReceiver { events, dropped })
}

impl EventSender {
    pub fn send(&self, event: WorkerEvent) {
        match self.sender.try_send(event) {
            Ok(()) => (self.wake)(),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl EventReceiver {
    /// Events that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The counter itself, for a reader that lives elsewhere.
    pub fn drop_count(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ringway_worker_events_dropped_total`.
    #[test]
    fn an_event_that_finds_the_channel_full_is_counted() {
        let (sender, receiver) = channel(Arc::new(|| {}));
        let event = || WorkerEvent::AcceptResumed { worker: 0, after_ms: 1 };
        (0..CAPACITY).for_each(|_| sender.send(event()));
        assert_eq!(receiver.dropped(), 0);
        sender.send(event());
        assert_eq!((receiver.dropped(), receiver.drop_count().load(Ordering::Relaxed)), (1, 1));
    }
}
