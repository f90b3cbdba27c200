//! The log on stderr, and readers of it that stop or go away: they cost lines, nothing else.

mod support;

use std::io::{BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

use support::balancer::Balancer;
use support::{Log, Process, RINGWAY, TIMEOUT, try_connect, until};

/// A pipe in which there is no room.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let size = rustix::pipe::fcntl_getpipe_size(&writer).expect("a pipe has a size");
    writer.write_all(&b"x\n".repeat(size / 2)).expect("it fits");
    (reader, writer)
}

fn start(stderr: PipeWriter) -> Balancer {
    let mut command = Command::new(RINGWAY);
    command.stderr(stderr);
    Balancer::start_as(command, &[])
}

/// Kills a replica: another takes its place, which costs several lines of log.
fn heal(balancer: &Balancer) {
    let heals = balancer.metric("ringway_heals_total");
    let victim = balancer.children()[0].to_string();
    assert!(Command::new("kill").args(["-KILL", &victim]).status().expect("kill").success());
    let healed = || (balancer.metric("ringway_heals_total") > heals).then_some(());
    until(Instant::now() + TIMEOUT, "the heal", healed);
}

#[test]
fn a_reader_that_has_stopped_reading_holds_nothing_up() {
    let (reader, stderr) = full_pipe();
    let mut balancer = start(stderr);
    heal(&balancer);
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(0), "it ends all the same");
    drop(reader);
}

#[test]
fn lines_that_waited_come_in_order_when_there_is_room_again() {
    let (reader, stderr) = full_pipe();
    let mut balancer = start(stderr);
    heal(&balancer);
    let lines = BufReader::new(reader).lines().map(|line| line.expect("text")).filter(|line| line != "x");
    let lines = std::thread::spawn(move || lines.collect::<Vec<_>>());
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(0));
    let lines = lines.join().expect("the end of the log");
    let at =
        |part: &str| lines.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {lines:#?}"));
    assert!(at("killed by signal 9") < at("SIGTERM: draining"), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("lines dropped")), "{lines:#?}");
}

#[test]
fn a_reader_that_is_gone_ends_nothing_and_its_lines_are_counted() {
    let (reader, stderr) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut balancer = start(stderr);
    heal(&balancer);
    let counted = || (balancer.metric("ringway_log_lines_dropped_total") > 0).then_some(());
    until(Instant::now() + TIMEOUT, "lines to be counted", counted);
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(0));
}

/// No status can be said to a client of a tcp port.
#[test]
fn a_tunnel_that_no_replica_takes_is_logged_as_it_ends() {
    let refusing = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let log = Log::new("tcp-refused");
    let mut command = Command::new(RINGWAY);
    command
        .args(["run", "--listen=127.0.0.1:0", "--admin=off", "--mode=tcp", "--replica", &refusing])
        .stderr(log.file());
    let balancer = Process::spawn(command);
    // The reset may come before the connect returns.
    let end = try_connect(balancer.address).and_then(|mut client| client.read(&mut [0]));
    assert!(end.as_ref().is_ok_and(|n| *n == 0) || end.is_err_and(|why| why.kind() == ErrorKind::ConnectionReset));
    until(Instant::now() + TIMEOUT, "a line", || log.read().contains("127.0.0.1: connection reset: ").then_some(()));
    assert!(!log.read().contains("answered 5"), "{}", log.read());
}
