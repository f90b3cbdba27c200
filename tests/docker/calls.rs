//! What an operator does, and what goes wrong then: storms of /add and /rm, names, limits, images, other people's
//! containers, a balancer that dies.

use std::net::IpAddr;

use crate::balancer::{Balancer, call, names};
use crate::lab::{Lab, docker, try_docker};
use crate::load::{Witness, Wrk, failures, who};

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_storm_of_add_and_rm_fails_no_request() {
    const ROUNDS: usize = 6;
    let lab = Lab::new("storm");
    let balancer = Balancer::start(&lab, 3, &[]);
    let (wrk, witness) = (Wrk::start(balancer.data, 10), Witness::start(balancer.data));
    let hostnames = format!(r#"["{}","{}"]"#, lab.name(1), lab.name(2));
    for _ in 0..ROUNDS {
        let added = balancer.admin("POST", "/add", &format!(r#"{{"n":3,"hostnames":{hostnames}}}"#));
        assert_eq!(added.status, 200, "{}", added.body);
        assert_eq!(balancer.names().len(), 6);
        let removed = balancer.admin("DELETE", "/rm", &format!(r#"{{"n":3,"hostnames":{hostnames}}}"#));
        assert_eq!(removed.status, 200, "{}", removed.body);
        assert_eq!(balancer.names().len(), 3);
    }
    let (tally, notes) = (wrk.finish(), witness.finish());
    let failed = tally.failed + failures(&notes) as u64;
    println!("| add/rm storm | {} | {failed} | {:.0} ms | - |", tally.sent, tally.slowest_ms);
    assert_eq!(failed, 0, "{}", balancer.said());
    balancer.wait("the removed ones to be gone", || lab.serving() == balancer.names());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn the_engine_shows_what_rep_says_after_every_call() {
    let lab = Lab::new("shows");
    let balancer = Balancer::start(&lab, 3, &[]);
    let named = lab.name(5);
    for (method, path, body) in [
        ("GET", "/rep", String::new()),
        ("POST", "/add", format!(r#"{{"n":3,"hostnames":["{named}"]}}"#)),
        ("DELETE", "/rm", format!(r#"{{"n":2,"hostnames":["{named}"]}}"#)),
        ("POST", "/add", format!(r#"{{"n":1,"hostnames":["{named}"]}}"#)),
        ("DELETE", "/rm", r#"{"n":4}"#.to_owned()),
    ] {
        let answer = balancer.admin(method, path, &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let looked = balancer.wait("the engine to show it", || lab.serving() == names(&answer.body));
        println!("| docker ps after {method} {path} | - | - | - | {:.2} s |", looked.as_secs_f64());
    }
}

/// The engine gives a dead container's address to the next that starts. Here that is somebody else's.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn an_address_that_was_given_to_another_is_never_taken_for_the_dead_ones() {
    let lab = Lab::new("reuse");
    let balancer = Balancer::start(&lab, 3, &[]);
    let names = balancer.names();
    let witnesses: Vec<Witness> = (0..8).map(|_| Witness::start(balancer.data)).collect();
    let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", lab.network);
    let address = docker(&["inspect", "-f", &format, &names[0]]);
    docker(&["rm", "-f", &names[0]]);
    // Until the replacement has it, the address is asked for.
    let taken = try_docker(&[
        "run",
        "-d",
        "--name",
        &lab.name(9),
        "--network",
        &lab.network,
        "--ip",
        &address,
        "--label",
        &format!("rwtest={}", lab.cluster),
        "-e",
        "SERVER_ID=impostor",
        &lab.image,
    ]);
    balancer.wait("three replicas again", || balancer.replicas_answering(3));
    let notes: Vec<_> = witnesses.into_iter().flat_map(Witness::finish).collect();
    let expected: Vec<String> = names.iter().map(|name| format!("Server ID: {name}")).collect();
    let taken = if taken.status.success() { "an impostor" } else { "the replacement" };
    println!("| address reuse (by {taken}) | {} | {} | - | - |", notes.len(), failures(&notes));
    assert_eq!(failures(&notes), 0, "{}", balancer.said());
    assert!(who(&notes).into_iter().all(|said| expected.iter().any(|id| id == said)), "{:?}", who(&notes));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_crash_loop_backs_off_and_is_answered_503() {
    let lab = Lab::new("crash");
    let balancer = Balancer::spawn(&lab, &["--docker-env", "RINGWAY_BIND=nonsense"]);
    balancer.wait("a refusal", || balancer.get("/home").is_some_and(|answer| answer.status == 503));
    // A death is told by the start that it fails, or after it, as it happens. A pause of 1.6 s is the fifth.
    let pauses = |said: &str, pause: &str| {
        let told = [format!("next try in {pause}"), format!("replaced in {pause}")];
        said.lines().filter(|line| told.iter().any(|told| line.contains(told))).count()
    };
    balancer.wait("pauses that grow", || pauses(&balancer.said(), "1.6 s") >= 3);
    let said = balancer.said();
    assert!(pauses(&said, "100 ms") == 3 && pauses(&said, "400 ms") == 3, "{said}");
    assert!(lab.containers().len() <= 4, "dead containers pile up: {:?}", lab.containers());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn no_engine_and_no_image_are_one_line_and_exit_2() {
    let mut lab = Lab::new("absent");
    let (status, said) = Balancer::spawn(&lab, &["--docker-host", "unix:///nonexistent/docker.sock"]).fails();
    assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("no Docker engine at unix:///nonexistent/docker.sock"), "{said}");
    lab.image = "rwtest/no-such-image:1".into();
    let (status, said) = Balancer::spawn(&lab, &[]).fails();
    assert_eq!(status, Some(2), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains("rwtest/no-such-image:1") && last.contains("docker pull"), "{said}");
    assert!(lab.containers().is_empty());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn what_cannot_be_added_changes_nothing() {
    let mut lab = Lab::new("refused");
    let original = lab.image.clone();
    lab.image = format!("{original}-moved");
    docker(&["tag", &original, &lab.image]);
    let balancer = Balancer::start(&lab, 3, &["--max-replicas", "4"]);
    let before = balancer.names();
    let refuses = |body: &str, status: u16, part: &str| {
        let answer = balancer.admin("POST", "/add", body);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(part) && answer.body.contains("failure"), "{}", answer.body);
        assert_eq!(balancer.names(), before);
        assert_eq!(lab.serving(), before);
    };
    refuses(r#"{"n":2}"#, 400, "4");
    lab.stranger(&lab.name(9), &[]);
    refuses(&format!(r#"{{"n":1,"hostnames":["{}"]}}"#, lab.name(9)), 400, &lab.name(9));
    docker(&["rmi", &lab.image]);
    refuses(r#"{"n":1}"#, 502, "docker pull");
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn one_that_was_killed_leaves_replicas_that_the_next_adopts() {
    let lab = Lab::new("orphans");
    let mut first = Balancer::start(&lab, 3, &["--on-exit", "keep"]);
    let (names, before) = (first.names(), lab.identities());
    first.kill();
    assert_eq!(lab.identities(), before, "they run on");
    let mut second = Balancer::start(&lab, 3, &["--on-exit", "keep"]);
    assert_eq!((second.names(), lab.identities()), (names, before.clone()), "adopted, not doubled");
    assert_eq!(second.stop(), Some(0));
    assert_eq!(lab.identities(), before, "kept at the exit");
    let mut third = Balancer::start(&lab, 3, &["--on-exit", "remove"]);
    assert!(lab.identities().iter().all(|id| !before.contains(id)), "orphans were removed at the start");
    assert_eq!(third.stop(), Some(0));
    assert_eq!(lab.containers(), Vec::<String>::new());
    assert!(!lab.network_exists());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_second_one_of_the_same_cluster_is_refused_while_the_first_lives() {
    let lab = Lab::new("twice");
    let mut first = Balancer::start(&lab, 2, &["--on-exit", "keep"]);
    let before = lab.identities();
    let (status, said) = Balancer::spawn(&lab, &[]).fails();
    assert_eq!(status, Some(2), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains(&lab.cluster) && last.contains("--docker-cluster"), "{said}");
    assert_eq!(lab.identities(), before, "nothing was touched");
    first.kill();
    let second = Balancer::start(&lab, 2, &["--on-exit", "keep"]);
    assert_eq!(lab.identities(), before, "a crash leaves nothing locked");
    drop(second);
}

/// `docker run --name serverK --network=NET -e SERVER_ID=serverK --rm IMAGE`, found by label.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn servers_that_others_start_are_balanced_by_label() {
    let lab = Lab::new("seed");
    let balancer = Balancer::spawn(&lab, &["--replicas", "0"]);
    balancer.wait("the network", || lab.network_exists());
    for n in 1..=3 {
        lab.stranger(&lab.name(n), &["--rm", "--label", "ringway.enable=true"]);
    }
    balancer.wait("three guests", || balancer.replicas_answering(3));
    assert_eq!(balancer.names(), (1..=3).map(|n| lab.name(n)).collect::<Vec<_>>());
    let witness = Witness::start(balancer.data);
    docker(&["stop", &lab.name(2)]);
    balancer.wait("the guest to leave", || balancer.names().len() == 2);
    let notes = witness.finish();
    assert_eq!(failures(&notes), 0, "{}", balancer.said());
    drop(balancer);
    assert!(!docker(&["ps", "-q", "--filter", &format!("name={}", lab.name(1))]).is_empty(), "left alone");
}

/// The same, by address.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn servers_that_others_start_are_balanced_by_address() {
    let lab = Lab::new("fixed");
    docker(&["network", "create", "--subnet", &lab.subnet, "--label", "rwtest=fixed", &lab.network]);
    let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", lab.network);
    let addresses: Vec<String> = (1..=3)
        .map(|n| {
            lab.stranger(&lab.name(n), &["--rm"]);
            let address: IpAddr = docker(&["inspect", "-f", &format, &lab.name(n)]).parse().unwrap();
            format!("{}={address}:8080", lab.name(n))
        })
        .collect();
    let balancer = Balancer::fixed(&addresses);
    balancer.wait("all three", || balancer.replicas_answering(3));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn published_ports_are_dialled_where_they_are_asked_for() {
    let lab = Lab::new("published");
    let balancer = Balancer::start(&lab, 2, &["--docker-reach", "published"]);
    let ports = docker(&["port", &balancer.names()[0]]);
    let port = ports.rsplit_once("127.0.0.1:").unwrap().1.parse().unwrap();
    let direct = call(([127, 0, 0, 1], port).into(), "GET", "/home", "").unwrap();
    assert_eq!(direct.body, format!("Server ID: {}", balancer.names()[0]));
}
