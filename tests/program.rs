//! `ringway run -- PROGRAM`: a program that is not ours as the replicas.

mod support;

use std::process::Command;
use std::time::Instant;

use support::balancer::{Balancer, ask};
use support::{Log, RINGWAY, TIMEOUT, field, run, until};

/// Runs `script` by a shell as each of `n` replicas; `$RINGWAY` in it is our binary.
fn start(n: &str, script: &str, log: &Log) -> Balancer {
    let script = script.replace("$RINGWAY", RINGWAY);
    let mut command = Command::new(RINGWAY);
    command
        .stderr(log.file())
        .env("RINGWAY_ADMIN_TOKEN", "")
        .env("RINGWAY_LINE_LIMIT", "8000B")
        .env("MARK", "inherited");
    Balancer::start_as(command, &["--replicas", n, "--", "sh", "-c", &script])
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().expect("kill").success());
}

fn is_gone(process: u32) -> bool {
    !std::path::Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn it_serves_is_replaced_and_ends_with_the_balancer() {
    let log = Log::new("program");
    let script =
        r#"echo "$MARK, limit ${RINGWAY_LINE_LIMIT-unset}, parent ${RINGWAY_PARENT_PID-unset}"; exec $RINGWAY replica"#;
    let mut balancer = start("2", script, &log);
    let home = ask(balancer.data, "GET", "/home", "");
    assert_eq!(home.status, 200, "{}", home.text);
    assert!(field(&home.head, "x-server-id").is_some_and(|id| id.starts_with("server")), "{}", home.head);
    let greeted = || log.read().contains("server2: inherited, limit unset, parent unset").then_some(());
    until(Instant::now() + TIMEOUT, "its output in the log", greeted);
    let victim = balancer.children()[0];
    kill(victim);
    let healed = || (balancer.metric("ringway_heals_total") == 1).then_some(());
    until(Instant::now() + TIMEOUT, "its replacement", healed);
    let children = balancer.children();
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(0));
    assert!(children.into_iter().all(is_gone), "all were waited for");
}

/// It answers 503 to whatever is requested: to accept is enough.
#[test]
fn it_need_not_know_our_heartbeat() {
    let log = Log::new("program-health");
    let script = "exec $RINGWAY run --listen 127.0.0.1:$PORT --admin off --replica 127.0.0.1:1";
    let balancer = start("1", script, &log);
    assert_eq!(balancer.up(), 1);
    assert_eq!(ask(balancer.data, "GET", "/heartbeat", "").status, 503);
    let admin = ask(balancer.data, "POST", "/add", r#"{"n":1}"#);
    assert_eq!(admin.status, 503, "its paths are its own: {}", admin.text);
}

#[test]
fn what_it_started_ends_with_it() {
    let log = Log::new("program-group");
    let mut balancer = start("1", "$RINGWAY replica & wait", &log);
    let shell = balancer.children()[0];
    let below = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("the shell runs");
    let server: u32 = below.trim().parse().expect("one child");
    kill(shell);
    until(Instant::now() + TIMEOUT, "the server to end with its shell", || is_gone(server).then_some(()));
    let whole = || (balancer.up() == 1).then_some(());
    until(Instant::now() + TIMEOUT, "its replacement", whole);
    balancer.process.signal("TERM");
    assert_eq!(balancer.process.wait().code(), Some(0));
}

#[test]
fn it_ends_when_the_balancer_is_killed() {
    let log = Log::new("program-orphan");
    let mut balancer = start("1", "exec $RINGWAY replica", &log);
    let child = balancer.children()[0];
    balancer.process.signal("KILL");
    balancer.process.wait();
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    until(Instant::now() + TIMEOUT, "the program to end", || (is_gone(child) || is_zombie()).then_some(()));
}

/// As when a port was taken in between.
#[test]
fn a_start_that_fails_once_is_repeated_on_another_port() {
    let log = Log::new("program-port");
    let first = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("first-{}", std::process::id()));
    let first = first.display();
    let script = format!("mkdir {first} 2>/dev/null && exit 3; rmdir {first}; exec $RINGWAY replica");
    let balancer = start("1", &script, &log);
    assert_eq!(balancer.metric("ringway_deaths_total"), 0, "{}", log.read());
    assert!(!log.read().contains("could not be started"), "{}", log.read());
}

#[test]
fn mistakes_are_one_line_with_exit_status_2() {
    let mistakes: [(&[&str], &str); 3] = [
        (&["--", "/nowhere/app"], "/nowhere/app"),
        (&["--replica", "127.0.0.1:1", "--", "sh"], "--replica"),
        (&["--runtime", "docker", "--", "sh"], "--runtime docker"),
    ];
    for (flags, part) in mistakes {
        let ended = run(&[&["run", "--listen", "127.0.0.1:0", "--admin", "off"], flags].concat());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.lines().count() == 1 && said.contains(part), "{said}");
    }
}
