//! One replica of three gets a fault while 64 connections send requests without a pause. No GET may fail, and the replica is
//! replaced. Each test prints a row: requests sent, failed, the slowest, and the time until the slot answers again.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::balancer::Balancer;
use crate::lab::{Lab, Rule, docker, try_docker};
use crate::load::{SteadyClient, Wrk, failures};

/// The longest a request may take: the connect timeout (500 ms) and one retry, under load on a busy machine.
const SLOWEST_MS: f64 = 1000.0;
/// Limit of a replacement, which takes a second.
const HEAL_LIMIT: Duration = Duration::from_secs(15);
const LOAD_S: u32 = 6;

/// Runs load, injects the fault into one replica, and waits until its slot answers again. What `inject` returns is dropped
/// after the load, which undoes the fault.
fn no_get_fails<Undo>(topic: &str, inject: impl FnOnce(&Victim) -> Undo) {
    let lab = Lab::new(topic);
    let mut balancer = Balancer::start(&lab, 3, &[]);
    let victim = Victim::of(&balancer, &lab);
    let (wrk, client) = (Wrk::start(balancer.data, LOAD_S), SteadyClient::start(balancer.data));
    let begun = Instant::now();
    let undo = inject(&victim);
    // From here on the victim answers nothing: an answer with its name is from its replacement.
    let injected = Instant::now();
    let tally = wrk.finish();
    let id = format!("Server ID: {}", victim.name);
    balancer.wait("the slot to answer again", || balancer.get("/home").is_some_and(|answer| answer.body == id));
    let late = begun.elapsed();
    drop(undo);
    let samples = client.finish();
    let again = samples.iter().find(|sample| sample.sent_at > injected && sample.body.as_ref() == Some(&id));
    let heal = again.map_or(late, |sample| sample.sent_at + sample.took - begun);
    let failed = tally.failed + failures(&samples) as u64;
    let slowest_ms = samples.iter().map(|sample| sample.took.as_secs_f64() * 1000.0).fold(tally.slowest_ms, f64::max);
    let sent = tally.sent + samples.len() as u64;
    println!("| {topic} | {sent} | {failed} | {slowest_ms:.0} ms | {:.2} s |", heal.as_secs_f64());
    let log = balancer.log();
    assert_eq!(failed, 0, "requests failed\n{log}");
    assert!(slowest_ms < SLOWEST_MS, "a request took {slowest_ms} ms\n{log}");
    assert!(heal < HEAL_LIMIT, "healed after {heal:?}\n{log}");
    balancer.wait("docker ps to show what /rep says", || lab.serving() == balancer.names());
    assert_eq!(balancer.stop(), Some(0));
    assert_eq!(lab.containers(), Vec::<String>::new(), "nothing stays behind");
}

/// The replica that gets the fault.
struct Victim {
    name: String,
    container: String,
    address: String,
    network: String,
}

impl Victim {
    fn of(balancer: &Balancer, lab: &Lab) -> Victim {
        let name = balancer.names().remove(1);
        let format = format!("{{{{.Id}}}} {{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", lab.network);
        let found = docker(&["inspect", "-f", &format, &name]);
        let (container, address) = found.split_once(' ').unwrap();
        Victim { name, container: container.into(), address: address.into(), network: lab.network.clone() }
    }

    fn process(&self) -> String {
        docker(&["inspect", "-f", "{{.State.Pid}}", &self.container])
    }
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn kill() {
    no_get_fails("kill", |victim| docker(&["kill", &victim.container]));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn stop() {
    no_get_fails("stop", |victim| docker(&["stop", &victim.container]));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn remove() {
    no_get_fails("rm-f", |victim| {
        let removed = try_docker(&["rm", "-f", &victim.container]);
        let stderr = String::from_utf8_lossy(&removed.stderr);
        // The engine may still write into the directory that it removes ("directory not empty"); it is killed all the same.
        let killed = removed.status.success() || stderr.contains("unable to remove filesystem");
        assert!(killed, "docker rm -f {}: {stderr}", victim.container);
    });
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn pause() {
    no_get_fails("pause", |victim| docker(&["pause", &victim.container]));
}

/// The engine reports no event: only heartbeats and requests that wait reveal it.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn freeze() {
    no_get_fails("sigstop", |victim| Command::new("kill").args(["-STOP", &victim.process()]).status().unwrap());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn disconnect() {
    no_get_fails("disconnect", |victim| docker(&["network", "disconnect", &victim.network, &victim.container]));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn drop_packets() {
    no_get_fails("drop", |victim| Rule::add(&victim.address, &["DROP"]));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn reject_packets() {
    no_get_fails("reject", |victim| Rule::add(&victim.address, &["REJECT", "--reject-with", "tcp-reset"]));
}

/// The request of a heartbeat is lost, while the connection stands and other requests pass: so it looks where a server
/// works on one request at a time.
fn lose_heartbeats(victim: &Victim) -> Rule {
    Rule::add(&victim.address, &["DROP", "-m", "string", "--algo", "bm", "--string", "ringway-heartbeat"])
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn late_heartbeats_of_a_replica_that_answers_change_nothing() {
    let lab = Lab::new("busy");
    let balancer = Balancer::start(&lab, 3, &["--health-replace-after", "2s"]);
    let (before, victim) = (lab.identities(), Victim::of(&balancer, &lab));
    let client = SteadyClient::start(balancer.data);
    let rule = lose_heartbeats(&victim);
    let missed = || balancer.log().matches("heartbeat missed, but it sends").count();
    balancer.wait("ten heartbeats to be missed", || missed() >= 10);
    drop(rule);
    let samples = client.finish();
    let id = format!("Server ID: {}", victim.name);
    let answered = samples.iter().rev().take(50).any(|sample| sample.body.as_ref() == Some(&id));
    assert_eq!((failures(&samples), lab.identities()), (0, before), "{}", balancer.log());
    assert!(answered, "it takes requests all the time: {}", balancer.log());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_silent_replica_is_passed_over_and_replaced_late_and_gently() {
    let lab = Lab::new("silent");
    let balancer = Balancer::start(&lab, 3, &["--health-replace-after", "4s"]);
    let (before, victim) = (lab.identities(), Victim::of(&balancer, &lab));
    let rule = lose_heartbeats(&victim);
    let slow = format!("{}: slow: no answer within 500 ms", victim.name);
    balancer.wait("it to be slow", || balancer.log().contains(&slow));
    assert_eq!(lab.identities(), before, "nothing is ended for that");
    let others = (0..20).filter_map(|_| balancer.get("/home")).filter(|answer| !answer.body.ends_with(&victim.name));
    assert_eq!(others.count(), 20, "{}", balancer.log());
    balancer.wait("its end", || balancer.log().contains("it is stopped and replaced; 2 of 3 live"));
    drop(rule);
    balancer.wait("its replacement", || {
        balancer.replicas_answering(3) && !lab.identities().iter().any(|id| victim.container.starts_with(id))
    });
    let kept = before.iter().filter(|identity| lab.identities().contains(identity)).count();
    assert_eq!(kept, 2, "one, and no other: {}", balancer.log());
}
