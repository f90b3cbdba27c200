//! There are always N: replicas are killed, stopped and made to hang under a real balancer, and no request fails.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::balancer::{Balancer, under_load};
use support::{TIMEOUT, run, until};

/// What the product promises: N live again so soon after a kill.
const WHOLE_AGAIN: Duration = Duration::from_secs(1);

fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(status.expect("kill").success());
}

fn await_heals(balancer: &Balancer, heals: u64) {
    until(Instant::now() + TIMEOUT, "the heal", || (balancer.metric("ringway_heals_total") >= heals).then_some(()));
}

#[test]
fn a_killed_replica_is_replaced_within_a_second_and_no_get_fails() {
    let balancer = Balancer::start(&[]);
    let answered = under_load(balancer.data, || {
        for round in 1..=5 {
            let victim = balancer.children()[0];
            let killed = Instant::now();
            signal("KILL", victim);
            await_heals(&balancer, round);
            let took = killed.elapsed();
            assert!(took < WHOLE_AGAIN, "{took:?}");
        }
    });
    assert!(answered > 0);
    assert_eq!(balancer.replicas(), ["server1", "server2", "server3"], "the slots stay");
    assert_eq!((balancer.up(), balancer.children().len()), (3, 3));
}

#[test]
fn a_hung_replica_is_noticed_by_its_heartbeats_and_replaced() {
    let balancer = Balancer::start(&["--health-interval", "100ms"]);
    let hung = balancer.children()[1];
    under_load(balancer.data, || {
        signal("STOP", hung);
        await_heals(&balancer, 1);
    });
    assert!(!balancer.children().contains(&hung), "it was ended by force");
}

#[test]
fn add_and_rm_in_a_loop_cost_no_request() {
    let balancer = Balancer::start(&[]);
    let answered = under_load(balancer.data, || {
        for _ in 0..10 {
            assert_eq!(balancer.ask("POST", "/add", r#"{"n":2}"#).status, 200);
            assert_eq!(balancer.ask("DELETE", "/rm", r#"{"n":2}"#).status, 200);
        }
    });
    assert!(answered > 0);
    assert_eq!(balancer.replicas().len(), 3);
    until(Instant::now() + TIMEOUT, "the removed to end", || (balancer.children().len() == 3).then_some(()));
}

#[test]
fn replicas_die_with_their_parent_whatever_kills_it() {
    let mut balancer = Balancer::start(&[]);
    let children = balancer.children();
    balancer.process.signal("KILL");
    balancer.process.wait();
    let gone = |id: &u32| !std::path::Path::new(&format!("/proc/{id}")).exists() || is_zombie(*id);
    until(Instant::now() + TIMEOUT, "the children to end", || children.iter().all(gone).then_some(()));
}

fn is_zombie(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
}

#[test]
fn a_first_signal_drains_and_ends_well() {
    for name in ["TERM", "INT"] {
        let mut balancer = Balancer::start(&[]);
        let children = balancer.children();
        balancer.process.signal(name);
        assert_eq!(balancer.process.wait().code(), Some(0));
        assert!(
            children.iter().all(|id| !std::path::Path::new(&format!("/proc/{id}")).exists()),
            "all were waited for"
        );
    }
}

#[test]
fn a_port_in_use_is_one_line_and_exit_2() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    for flags in [["--listen", &taken, "--admin", "127.0.0.1:0"], ["--listen", "127.0.0.1:0", "--admin", &taken]] {
        let ended = run(&[&["run"], &flags[..]].concat());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&taken), "{said}");
    }
}
