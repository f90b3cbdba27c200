//! Signals that operators send by habit: none of them ends the balancer unasked, from its first second on.

mod support;

use std::process::Command;
use std::time::Instant;

use support::balancer::Balancer;
use support::{Log, RINGWAY, TIMEOUT, until};

#[test]
fn signals_for_what_does_not_exist_yet_are_a_line_in_the_log() {
    let log = Log::new("signals");
    let mut command = Command::new(RINGWAY);
    command.stderr(log.file());
    let mut balancer = Balancer::start_as(command, &[]);
    let children = balancer.children();
    for (name, line) in [("USR1", "no log file"), ("USR2", "no upgrade in place")] {
        balancer.process.signal(name);
        let logged = || log.read().contains(&format!("SIG{name}: ")).then_some(());
        until(Instant::now() + TIMEOUT, "the line", logged);
        assert!(log.read().contains(line), "{}", log.read());
    }
    assert_eq!(balancer.children(), children, "the replicas run on");
    balancer.process.signal("QUIT");
    assert_eq!(balancer.process.wait().code(), Some(0), "SIGQUIT drains");
}
