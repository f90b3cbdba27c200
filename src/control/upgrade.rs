//! An upgrade in place, seen from the process that is replaced: what it passes on and how far it is. What follows for
//! replicas and clients is decided in `control_core`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::admin_listener::AdminSocket;
use super::predecessor::Introduction;
use super::successor::{NamedSocket, Successor, SuccessorEvent};
use crate::kernel::listening::ListeningSockets;

/// The listening sockets of this process, and its successor if there is one.
pub struct Upgrade {
    /// Of the workers, which close them.
    data: Arc<ListeningSockets>,
    admin: Option<AdminSocket>,
    limit: Duration,
    stage: UpgradeStage,
    events: UnboundedSender<SuccessorEvent>,
    received: UnboundedReceiver<SuccessorEvent>,
}

enum UpgradeStage {
    NotWanted,
    /// It begins when nothing is under way, or is given up.
    Waiting {
        give_up_at: Instant,
    },
    Starting(Successor),
    /// The successor accepts, or is about to: there is no way back.
    Committed,
}

impl Upgrade {
    pub fn new(data: Arc<ListeningSockets>, admin: Option<AdminSocket>, limit: Duration) -> Upgrade {
        let (events, received) = unbounded_channel();
        Upgrade { data, admin, limit, stage: UpgradeStage::NotWanted, events, received }
    }

    pub fn is_wanted(&self) -> bool {
        !matches!(self.stage, UpgradeStage::NotWanted)
    }

    pub fn is_committed(&self) -> bool {
        matches!(self.stage, UpgradeStage::Committed)
    }

    /// It is wanted from now on.
    pub fn want(&mut self) {
        self.stage = UpgradeStage::Waiting { give_up_at: Instant::now() + self.limit };
    }

    /// While it waits: until when.
    pub fn waits_until(&self) -> Option<Instant> {
        match self.stage {
            UpgradeStage::Waiting { give_up_at } => Some(give_up_at),
            _ => None,
        }
    }

    /// The process id of the successor, which is told the rest by itself.
    pub fn start(&mut self, introduction: &Introduction, locks: Vec<NamedSocket>) -> Result<u32, String> {
        let introduction = serde_json::to_string(introduction).map_err(|error| error.to_string())?;
        let mut sockets = self.sockets()?;
        sockets.extend(locks);
        let successor = Successor::start(sockets, introduction, self.limit, self.events.clone())?;
        let process = successor.process().unwrap_or_default();
        self.stage = UpgradeStage::Starting(successor);
        Ok(process)
    }

    /// Copies of all of them. Closing one of those that share an address would drop the connections in its queue.
    fn sockets(&self) -> Result<Vec<NamedSocket>, String> {
        let data = self.data.all().into_iter().map(|(name, socket)| Ok((name, socket.try_clone()?)));
        let admin = self.admin.iter().map(|admin| Ok((admin.name.clone(), admin.descriptor.try_clone()?)));
        let sockets: std::io::Result<Vec<NamedSocket>> = data.chain(admin).collect();
        sockets.map_err(|error| format!("a listening socket cannot be passed on: {error}"))
    }

    pub fn events(&self) -> UnboundedSender<SuccessorEvent> {
        self.events.clone()
    }

    /// What becomes of the successor.
    pub async fn next(&mut self) -> SuccessorEvent {
        // This holds a sender itself.
        self.received.recv().await.unwrap_or(SuccessorEvent::Failed(String::new()))
    }

    /// The successor is to accept.
    pub fn commit(&mut self) {
        self.stage = UpgradeStage::Committed;
    }

    /// This process is the one that removes the admin socket's file.
    pub fn own_admin_file(&mut self) {
        if let Some(AdminSocket { file: Some(file), .. }) = &mut self.admin {
            file.own();
        }
    }

    /// The admin socket and its file are the successor's.
    pub fn release_admin(&mut self) {
        if let Some(AdminSocket { file: Some(file), .. }) = self.admin.take() {
            file.leave();
        }
    }

    /// A successor that is not ready is ended.
    pub fn end(&mut self) {
        if let UpgradeStage::Starting(successor) = &self.stage {
            successor.kill();
        }
        self.stage = UpgradeStage::NotWanted;
    }
}
