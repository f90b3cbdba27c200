//! The small server that the embedded runtime and the container image run. It answers /home and /heartbeat, and
//! knows nothing of balancers: what it shares with one is how HTTP is read (`core`) and how a child follows its parent (`kernel`).

mod answer;
mod check;
mod conn;
mod server;

use std::net::SocketAddr;

use crate::kernel::parent;

pub use check::check;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// What it is called in `X-Server-ID` and in /home.
    pub id: String,
    pub listen: SocketAddr,
}

/// Why a replica does not run, in one line.
#[derive(Debug)]
pub enum ReplicaError {
    /// The user can mend it: a port in use, a name that cannot stand in a header.
    Usage(String),
    /// The machine gave out.
    Failed(String),
}

/// Serves until SIGTERM or SIGINT, then lets what is under way finish.
pub fn run(settings: &ReplicaSettings) -> Result<(), ReplicaError> {
    if !is_header_text(&settings.id) {
        return Err(ReplicaError::Usage(format!(
            "SERVER_ID {:?} cannot stand in a header: use letters and digits",
            settings.id
        )));
    }
    parent::follow(parent::Signal::KILL).map_err(ReplicaError::Usage)?;
    let listener = server::listen(settings.listen).map_err(|why| {
        ReplicaError::Usage(format!("replica cannot listen on {}: {why}; choose another PORT", settings.listen))
    })?;
    let mut server = server::Server::new(&settings.id, listener).map_err(broken)?;
    println!("{} listens on {}", settings.id, server.address().map_err(broken)?);
    server.serve().map_err(broken)
}

fn broken(why: std::io::Error) -> ReplicaError {
    ReplicaError::Failed(format!("replica: {why}"))
}

fn is_header_text(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic())
}

/// The host's name, which in a container is the container's.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if is_header_text(name.trim()) { name.trim().into() } else { "replica".into() }
}
