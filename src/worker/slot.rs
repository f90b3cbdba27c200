//! What the worker keeps for each connection: a session with its client socket and pipes, and upstream connections
//! that outlive sessions.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::core::session::Session;
use crate::core::snapshot::ReplicaLoad;
use crate::core::step::Leg;
use crate::core::tick::Tick;
use crate::kernel::Kernel;

use super::pipeline::Batch;
use super::pool::PoolKey;

pub struct Slot<K: Kernel> {
    pub session: Session,
    pub socket: K::Socket,
    pub client: IpAddr,
    /// It counts among the connections of `client`.
    pub counted: bool,
    /// It asked for a replica once.
    pub asked: bool,
    /// The upstream connection in use.
    pub conn: Option<u32>,
    /// Others may stand in queue on it.
    pub shared: bool,
    pub pipes: Pipes<Pipe<K::Pipe>>,
    pub queued: bool,
    /// The client's socket is known to the kernel's poll: from the first time that the session waits for it.
    pub watched: bool,
}

pub struct Conn<K: Kernel> {
    pub socket: K::Socket,
    pub key: PoolKey,
    /// The sessions that use it, in the order of their requests; idle without one. The first is the one that reads.
    pub queue: VecDeque<u32>,
    pub batch: Option<Box<Batch>>,
    pub idle_since: Tick,
    pub load: Arc<ReplicaLoad>,
}

impl<K: Kernel> Slot<K> {
    pub fn new(session: Session, socket: K::Socket, client: IpAddr, counted: bool) -> Slot<K> {
        Slot {
            session,
            socket,
            client,
            counted,
            asked: false,
            conn: None,
            shared: false,
            pipes: Pipes([None, None]),
            queued: false,
            watched: false,
        }
    }
}

/// A pipe, counted for as long as it is open.
pub struct Pipe<P> {
    pub pipe: P,
    pub _open: Arc<()>,
}

/// The pipes of the upload and the download, while they are used.
pub struct Pipes<P>([Option<P>; 2]);

impl<P> Pipes<P> {
    pub fn has(&self, leg: Leg) -> bool {
        let [upload, download] = &self.0;
        if leg == Leg::Client { upload.is_some() } else { download.is_some() }
    }

    /// The pipe of the lane that this leg is the source of.
    pub fn of(&mut self, leg: Leg) -> &mut Option<P> {
        let [upload, download] = &mut self.0;
        match leg {
            Leg::Client => upload,
            Leg::Upstream => download,
        }
    }
}
