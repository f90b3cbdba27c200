//! Ties the life of a child process to its parent: replicas to their balancer, a balancer to its experiment.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, getppid, set_parent_process_death_signal};

pub use rustix::process::Signal;

/// The variable in which a parent gives a child its own process id.
pub const PARENT: &str = "RINGWAY_PARENT_PID";

/// Asks the kernel to send `signal` when the parent ends (prctl(2), PR_SET_PDEATHSIG). Does nothing without `PARENT`.
///
/// An error: `PARENT` is no process id, the kernel refuses, or the parent has ended before the call. The kernel watches
/// the parent *thread*, so children are started from a thread that lives as long as its process.
pub fn follow(signal: Signal) -> Result<(), String> {
    let Ok(parent) = std::env::var(PARENT) else { return Ok(()) };
    let expected = parent.parse().ok().and_then(Pid::from_raw);
    let expected = expected.ok_or_else(|| format!("{PARENT}={parent} is not a process id: leave it unset"))?;
    set_parent_process_death_signal(Some(signal)).map_err(|why| format!("cannot follow process {parent}: {why}"))?;
    if getppid() == Some(expected) { Ok(()) } else { Err(format!("the parent {parent} is gone: nothing to run for")) }
}

/// Becomes `program` (execve(2)), which ends with the parent although it does not know of one: the kernel keeps the signal.
/// Returns only where that fails, with the reason.
pub fn exec(program: &[OsString]) -> String {
    let [name, arguments @ ..] = program else { return "there is no program to run".into() };
    match follow(Signal::KILL) {
        Ok(()) => {
            format!("cannot run {}: {}", name.display(), Command::new(name).args(arguments).env_remove(PARENT).exec())
        }
        Err(why) => why,
    }
}
