//! What process 1 of a container does for others: processes whose parent has ended become its children, and stay zombies
//! until it waits for them. The runtime's own children are left to it.

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// The children of the main thread, which orphans are given to.
const CHILDREN: &str = "/proc/self/task/1/children";

/// Waits for each orphan that ends, for the life of the process; `is_ours` tells the runtime's children. Does nothing where
/// this is not process 1.
pub async fn reap(is_ours: impl Fn(Pid) -> bool) {
    if std::process::id() != 1 {
        return;
    }
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    loop {
        let children = std::fs::read_to_string(CHILDREN).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        for orphan in children.filter(|child| !is_ours(*child)) {
            let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
        }
        if ended.recv().await.is_none() {
            return;
        }
    }
}
