//! What workers noticed: facts over a bounded channel, the only arrow up. A drop is legal and counted.

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
    /// A request that met a fault went to the next replica on the ring.
    Retried {
        from: ReplicaId,
        to: ReplicaId,
    },
    /// The balancer answered by itself, or closed without an answer (status 0).
    Refused {
        client: IpAddr,
        status: u16,
        why: &'static str,
    },
    /// A connection was refused at accept by a cap.
    Capped {
        client: IpAddr,
        cap: Cap,
    },
    /// A connection to this replica lacked something of ours: a descriptor, memory, a local port.
    Exhausted {
        replica: ReplicaId,
        resource: Resource,
    },
    /// Accepting paused: no descriptor left, say. Resumed says for how long it was.
    AcceptPaused {
        worker: usize,
        resource: Resource,
    },
    AcceptResumed {
        worker: usize,
        after_ms: u64,
    },
}

/// What ran out on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Of this process, or of the whole machine. An idle connection given up makes room.
    Descriptors,
    /// For sockets, or for watching them.
    Memory,
    /// Every local port is in use for connections to this one replica.
    Ports,
    Other(std::io::ErrorKind),
}

/// Which cap on client connections was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    All,
    PerClient,
}

impl WorkerEvent {
    /// The replica that this fact speaks against, if it does.
    pub fn suspect(&self) -> Option<ReplicaId> {
        match self {
            WorkerEvent::Fault(fault) => Some(fault.replica),
            _ => None,
        }
    }
}

const CAPACITY: usize = 4096;

/// A worker's end.
#[derive(Clone)]
pub struct EventSender {
    sender: Sender<WorkerEvent>,
    dropped: Arc<AtomicU64>,
    bell: Wake,
}

/// The control plane's end.
pub struct EventReceiver {
    pub events: Receiver<WorkerEvent>,
    dropped: Arc<AtomicU64>,
}

/// `bell` is rung after each fact, so that the control plane need not poll.
pub fn channel(bell: Wake) -> (EventSender, EventReceiver) {
    let (sender, events) = bounded(CAPACITY);
    let dropped = Arc::new(AtomicU64::new(0));
    (EventSender { sender, dropped: dropped.clone(), bell }, EventReceiver { events, dropped })
}

impl EventSender {
    pub fn send(&self, event: WorkerEvent) {
        match self.sender.try_send(event) {
            Ok(()) => (self.bell)(),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl EventReceiver {
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
