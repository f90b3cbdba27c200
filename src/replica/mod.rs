//! The small HTTP server that the process runtime and the container image start as a replica. It answers /home and
//! /heartbeat, and 404 to anything else. It knows no balancer: it shares with one the parser of HTTP (`core`) and the signal
//! at the parent's death (`kernel`).
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | `ReplicaSettings`, `ReplicaError`, the server's id (given, or the host name), and the call that runs it |
//! | `server` | the event loop over mio: listen, accept, drive ready connections by token, drain within a fixed time on SIGTERM or SIGINT |
//! | `connection` | one client's connection: heads and bodies consumed, responses appended to its output and flushed, refusals (4xx) and a linger after them; `Shared`, what all connections use (responses, limits, scratch memory) |
//! | `responses` | the rendered responses (/home, /heartbeat, 404; text or JSON; HEAD, close, `Date`), chosen by method and target; no socket |
//! | `check` | `--check`: a blocking client that requests one heartbeat, for the image's HEALTHCHECK; connect, read and write timeouts; an unspecified address becomes localhost |

mod check;
mod connection;
mod responses;
mod server;

use std::io::{self, Write};
use std::net::SocketAddr;

use crate::kernel::parent;

pub use check::check;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// Its name, in `X-Server-ID` and in /home.
    pub id: String,
    pub listen: SocketAddr,
}

/// Why a replica does not run, in one line.
#[derive(Debug)]
pub enum ReplicaError {
    /// The user can correct it: a port in use, a name that is not allowed in a header.
    Usage(String),
    /// An operating system call failed.
    Failed(String),
}

/// Serves until SIGTERM or SIGINT, then until the requests in flight are answered or a short timeout ends.
pub fn run(settings: &ReplicaSettings) -> Result<(), ReplicaError> {
    if !is_header_text(&settings.id) {
        return Err(ReplicaError::Usage(format!(
            "SERVER_ID {:?} is not allowed in a header: use letters and digits",
            settings.id
        )));
    }
    parent::follow(parent::Signal::KILL).map_err(ReplicaError::Usage)?;
    let listener = server::listen(settings.listen).map_err(|why| {
        ReplicaError::Usage(format!("replica cannot listen on {}: {why}; choose another PORT", settings.listen))
    })?;
    let mut server = server::Server::new(&settings.id, listener).map_err(failed)?;
    // Nothing depends on it: a closed stdout stops nothing.
    let _ = writeln!(io::stdout(), "{} listens on {}", settings.id, server.address().map_err(failed)?);
    server.serve().map_err(failed)
}

fn failed(why: io::Error) -> ReplicaError {
    ReplicaError::Failed(format!("replica: {why}"))
}

fn is_header_text(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic())
}

/// The host's name; in a container, the container's.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if is_header_text(name.trim()) { name.trim().into() } else { "replica".into() }
}
