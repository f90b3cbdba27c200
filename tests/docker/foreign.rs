//! Containers that others start: where they are dialled, who has a name, and how their stop is noticed.

use crate::balancer::{Balancer, call};
use crate::lab::{Lab, docker, try_docker};

/// A labelled container that names itself `id`.
fn labelled(lab: &Lab, container: &str, id: &str) {
    let (owner, id) = (format!("rwtest={}", lab.cluster), format!("SERVER_ID={id}"));
    let flags = ["--name", container, "--network", &lab.network, "--label", &owner, "--label", "ringway.enable=true"];
    docker(&[&["run", "-d"], &flags[..], &["-e", &id, &lab.image]].concat());
}

fn answers(balancer: &Balancer, id: &str) -> bool {
    balancer.get("/home").is_some_and(|answer| answer.body == format!("Server ID: {id}"))
}

fn is_unavailable(balancer: &Balancer) -> bool {
    balancer.get("/home").is_some_and(|answer| answer.status == 503)
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_stranger_at_the_address_of_a_reconnected_container_gets_no_request() {
    let (lab, other) = (Lab::new("reconnect"), Lab::new("elsewhere"));
    docker(&["network", "create", "--subnet", &other.subnet, "--label", "rwtest=elsewhere", &other.network]);
    let balancer = Balancer::spawn(&lab, &["--replicas", "0"]);
    let (name, stranger) = (other.name(1), other.name(2));
    labelled(&other, &name, &name);
    balancer.wait("the container", || answers(&balancer, &name));
    let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", other.network);
    let address = docker(&["inspect", "-f", &format, &name]);
    docker(&["network", "disconnect", &other.network, &name]);
    other.run_foreign(&stranger, &["--ip", &address]);
    let direct = format!("{address}:8080").parse().unwrap();
    balancer.wait("the stranger", || call(direct, "GET", "/home", "").is_some());
    let answer = balancer.get("/home").unwrap();
    assert_eq!(answer.status, 503, "{}\n{}", answer.body, balancer.log());
    docker(&["network", "connect", &other.network, &name]);
    balancer.wait("the container at its new address", || {
        assert!(!answers(&balancer, &stranger), "{}", balancer.log());
        answers(&balancer, &name)
    });
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn the_first_container_of_a_server_id_keeps_it_and_the_second_joins_when_it_leaves() {
    let lab = Lab::new("twins");
    let balancer = Balancer::spawn(&lab, &["--replicas", "0"]);
    balancer.wait("the network", || lab.network_exists());
    let (first, second) = (lab.name(1), lab.name(2));
    labelled(&lab, &first, "twin");
    balancer.wait("the first", || answers(&balancer, "twin"));
    labelled(&lab, &second, "twin");
    balancer.wait("the warning", || balancer.log().contains("has the name twin"));
    docker(&["stop", &second]);
    assert!(answers(&balancer, "twin"), "the first still answers\n{}", balancer.log());
    docker(&["start", &second]);
    docker(&["stop", &first]);
    balancer.wait("the second", || answers(&balancer, "twin"));
    docker(&["start", &first]);
    docker(&["rm", "-f", &second]);
    balancer.wait("the first again", || answers(&balancer, "twin"));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_stop_is_noticed_after_a_hangup() {
    let lab = Lab::new("hangup");
    let balancer = Balancer::spawn(&lab, &["--replicas", "0"]);
    balancer.wait("the network", || lab.network_exists());
    labelled(&lab, &lab.name(1), "hangs");
    balancer.wait("the container", || answers(&balancer, "hangs"));
    docker(&["kill", "--signal", "HUP", &lab.name(1)]);
    assert!(answers(&balancer, "hangs"), "{}", balancer.log());
    docker(&["stop", &lab.name(1)]);
    balancer.wait("the stop", || is_unavailable(&balancer) && balancer.names().is_empty());
    assert!(balancer.log().contains("it was sent signal 15"), "{}", balancer.log());
    assert!(try_docker(&["rm", &lab.name(1)]).status.success());
}
