//! What workers noticed: facts over a bounded channel, the only arrow up. A drop is legal and counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::view::Wake;
use crate::core::snapshot::ReplicaId;
use crate::core::step::Symptom;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Something speaks against a replica.
    Ill {
        replica: ReplicaId,
        symptom: Symptom,
    },
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
    Short {
        replica: ReplicaId,
        lack: Lack,
    },
    /// Accepting paused: no descriptor left, say. Resumed says for how long it was.
    AcceptPaused {
        worker: usize,
        lack: Lack,
    },
    AcceptResumed {
        worker: usize,
        after_ms: u64,
    },
}

/// What ran out on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
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

impl Fact {
    /// The replica that this fact speaks against, if it does.
    pub fn suspect(&self) -> Option<ReplicaId> {
        match self {
            Fact::Ill { replica, .. } => Some(*replica),
            _ => None,
        }
    }
}

const CAPACITY: usize = 4096;

/// A worker's end.
#[derive(Clone)]
pub struct Reporter {
    sender: Sender<Fact>,
    dropped: Arc<AtomicU64>,
    bell: Wake,
}

/// The control plane's end.
pub struct Reports {
    pub facts: Receiver<Fact>,
    dropped: Arc<AtomicU64>,
}

/// `bell` is rung after each fact, so that the control plane need not poll.
pub fn channel(bell: Wake) -> (Reporter, Reports) {
    let (sender, facts) = bounded(CAPACITY);
    let dropped = Arc::new(AtomicU64::new(0));
    (Reporter { sender, dropped: dropped.clone(), bell }, Reports { facts, dropped })
}

impl Reporter {
    pub fn report(&self, fact: Fact) {
        match self.sender.try_send(fact) {
            Ok(()) => (self.bell)(),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Reports {
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
