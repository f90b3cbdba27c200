//! As process 1, as in a container: processes that lost their parent are waited for. Needs the right to make a PID
//! namespace; without it the test says so and passes.

mod support;

use std::fs::read_to_string;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use support::balancer::Balancer;
use support::{RINGWAY, TIMEOUT, until};

const NAMESPACE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

fn children(process: u32) -> Vec<u32> {
    let listed = read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    listed.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
}

fn is_zombie(process: u32) -> bool {
    let stat = read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().expect("kill").success());
}

#[test]
fn process_1_waits_for_orphans_and_leaves_its_replicas_to_their_runtime() {
    let tried = Command::new("unshare").args(NAMESPACE).arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return eprintln!("no right to make a PID namespace: NOT TESTED");
    }
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("orphan-{}", std::process::id()));
    // A grandchild that ends after its parent.
    let script = format!("(echo ended > {} &); exec {RINGWAY} replica", trace.display());
    let mut command = Command::new("unshare");
    command.args(NAMESPACE).arg(RINGWAY);
    let balancer = Balancer::start_as(command, &["--replicas", "2", "--", "sh", "-c", &script]);
    let process_1 = children(balancer.process.id())[0];
    until(Instant::now() + TIMEOUT, "an orphan to end", || trace.exists().then_some(()));
    let reaped = || (children(process_1).len() == 2 && !children(process_1).into_iter().any(is_zombie)).then_some(());
    until(Instant::now() + TIMEOUT, "the orphans to be waited for", reaped);
    kill(children(process_1)[0]);
    until(Instant::now() + TIMEOUT, "the heal", || (balancer.metric("ringway_heals_total") == 1).then_some(()));
    until(Instant::now() + TIMEOUT, "the orphans to be waited for", reaped);
    let _ = std::fs::remove_file(trace);
}
