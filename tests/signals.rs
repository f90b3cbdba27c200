//! Signals that operators send by habit: none of them ends the balancer unasked, from its first second on.

mod support;

use std::process::Command;
use std::time::Instant;

use support::balancer::Balancer;
use support::{Log, RINGWAY, TIMEOUT, until};

#[test]
fn sigusr1_without_a_log_file_is_a_line_in_the_log() {
    let log = Log::new("signals");
    let mut command = Command::new(RINGWAY);
    command.stderr(log.file());
    let mut balancer = Balancer::start_as(command, &[]);
    let children = balancer.children();
    balancer.process.signal("USR1");
    let logged = || log.read().contains("SIGUSR1: ").then_some(());
    until(Instant::now() + TIMEOUT, "the line", logged);
    assert!(log.read().contains("no log file"), "{}", log.read());
    assert_eq!(balancer.children(), children, "the replicas run on");
    balancer.process.signal("QUIT");
    assert_eq!(balancer.process.wait().code(), Some(0), "SIGQUIT drains");
}
