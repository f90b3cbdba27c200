//! A child process of ours ends with us, whatever kills us: replicas with their balancer, a balancer with its experiment.

use rustix::process::{Pid, getppid, set_parent_process_death_signal};

pub use rustix::process::Signal;

/// Set by whoever starts a child to its own process id.
pub const PARENT: &str = "RINGWAY_PARENT_PID";

/// Asks the kernel for `signal` when the parent ends. The parent may have ended before that was asked:
/// then this process has another parent by now. (The kernel means the parent's *thread*: the runtime spawns
/// from one that lives as long as its process.)
pub fn follow(signal: Signal) -> Result<(), String> {
    let Ok(parent) = std::env::var(PARENT) else { return Ok(()) };
    let expected = parent.parse().ok().and_then(Pid::from_raw);
    let expected = expected.ok_or_else(|| format!("{PARENT}={parent} is not a process id: leave it unset"))?;
    set_parent_process_death_signal(Some(signal)).map_err(|why| format!("cannot follow process {parent}: {why}"))?;
    if getppid() == Some(expected) { Ok(()) } else { Err(format!("the parent {parent} is gone: nothing to run for")) }
}
