//! Admin calls and starts, and their failures: many /add and /rm, names, limits, images, foreign containers, a balancer
//! that is killed.

use std::net::IpAddr;

use crate::balancer::{Balancer, call, names};
use crate::lab::{Lab, docker, try_docker};
use crate::load::{SteadyClient, Wrk, bodies, failures};

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn no_request_fails_during_many_adds_and_removes() {
    const ROUNDS: usize = 6;
    let lab = Lab::new("storm");
    let balancer = Balancer::start(&lab, 3, &[]);
    let (wrk, client) = (Wrk::start(balancer.data, 10), SteadyClient::start(balancer.data));
    let hostnames = format!(r#"["{}","{}"]"#, lab.name(1), lab.name(2));
    for _ in 0..ROUNDS {
        let added = balancer.admin("POST", "/add", &format!(r#"{{"n":3,"hostnames":{hostnames}}}"#));
        assert_eq!(added.status, 200, "{}", added.body);
        assert_eq!(balancer.names().len(), 6);
        let removed = balancer.admin("DELETE", "/rm", &format!(r#"{{"n":3,"hostnames":{hostnames}}}"#));
        assert_eq!(removed.status, 200, "{}", removed.body);
        assert_eq!(balancer.names().len(), 3);
    }
    let (tally, samples) = (wrk.finish(), client.finish());
    let failed = tally.failed + failures(&samples) as u64;
    println!("| add/rm storm | {} | {failed} | {:.0} ms | - |", tally.sent, tally.slowest_ms);
    assert_eq!(failed, 0, "{}", balancer.log());
    balancer.wait("the removed ones to be gone", || lab.serving() == balancer.names());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn the_engine_lists_the_same_replicas_as_rep_after_each_call() {
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

/// The engine gives an ended container's address to the next one that starts. Here that is a foreign container.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_foreign_container_at_a_replicas_former_address_gets_no_request() {
    let lab = Lab::new("reuse");
    let balancer = Balancer::start(&lab, 3, &[]);
    let names = balancer.names();
    let clients: Vec<SteadyClient> = (0..8).map(|_| SteadyClient::start(balancer.data)).collect();
    let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", lab.network);
    let address = docker(&["inspect", "-f", &format, &names[0]]);
    docker(&["rm", "-f", &names[0]]);
    // The foreign container asks for that address; the replacement may have it already.
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
    let samples: Vec<_> = clients.into_iter().flat_map(SteadyClient::finish).collect();
    let expected: Vec<String> = names.iter().map(|name| format!("Server ID: {name}")).collect();
    let taken = if taken.status.success() { "an impostor" } else { "the replacement" };
    println!("| address reuse (by {taken}) | {} | {} | - | - |", samples.len(), failures(&samples));
    assert_eq!(failures(&samples), 0, "{}", balancer.log());
    assert!(bodies(&samples).into_iter().all(|body| expected.iter().any(|id| id == body)), "{:?}", bodies(&samples));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn starts_that_fail_back_off_and_requests_are_answered_503() {
    let lab = Lab::new("crash");
    let balancer = Balancer::spawn(&lab, &["--docker-env", "RINGWAY_BIND=nonsense"]);
    balancer.wait("a refusal", || balancer.get("/home").is_some_and(|answer| answer.status == 503));
    // A container ends before its start returns or after; each has its log line. A pause of 1.6 s is the fifth.
    let pauses = |log: &str, pause: &str| {
        let lines = [format!("next try in {pause}"), format!("replaced in {pause}")];
        log.lines().filter(|line| lines.iter().any(|part| line.contains(part))).count()
    };
    balancer.wait("pauses that grow", || pauses(&balancer.log(), "1.6 s") >= 3);
    let log = balancer.log();
    assert!(pauses(&log, "100 ms") == 3 && pauses(&log, "400 ms") == 3, "{log}");
    assert!(lab.containers().len() <= 4, "dead containers pile up: {:?}", lab.containers());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn no_engine_and_no_image_are_one_line_and_exit_2() {
    let mut lab = Lab::new("absent");
    let (status, log) = Balancer::spawn(&lab, &["--docker-host", "unix:///nonexistent/docker.sock"]).fails();
    assert_eq!((status, log.lines().count()), (Some(2), 1), "{log}");
    assert!(log.contains("no Docker engine at unix:///nonexistent/docker.sock"), "{log}");
    lab.image = "rwtest/no-such-image:1".into();
    let (status, log) = Balancer::spawn(&lab, &[]).fails();
    assert_eq!(status, Some(2), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains("rwtest/no-such-image:1") && last.contains("docker pull"), "{log}");
    assert!(lab.containers().is_empty());
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn an_add_that_is_refused_changes_nothing() {
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
    lab.run_foreign(&lab.name(9), &[]);
    refuses(&format!(r#"{{"n":1,"hostnames":["{}"]}}"#, lab.name(9)), 400, &lab.name(9));
    docker(&["rmi", &lab.image]);
    refuses(r#"{"n":1}"#, 502, "docker pull");
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn replicas_of_a_killed_balancer_are_adopted_or_removed_by_the_next() {
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
fn a_second_balancer_of_the_same_cluster_is_refused_while_the_first_runs() {
    let lab = Lab::new("twice");
    let mut first = Balancer::start(&lab, 2, &["--on-exit", "keep"]);
    let before = lab.identities();
    let (status, log) = Balancer::spawn(&lab, &[]).fails();
    assert_eq!(status, Some(2), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains(&lab.cluster) && last.contains("--docker-cluster"), "{log}");
    assert_eq!(lab.identities(), before, "nothing was touched");
    first.kill();
    let second = Balancer::start(&lab, 2, &["--on-exit", "keep"]);
    assert_eq!(lab.identities(), before, "a crash leaves nothing locked");
    drop(second);
}

/// One at a time, and each leaves when its replacement answers: with one replica too.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn kept_replicas_with_other_settings_are_replaced_without_a_failed_request() {
    for n in [1, 3] {
        let lab = Lab::new("rolling");
        let before = kept(&lab, n);
        let replaced = replaced_while_they_serve(&lab, &["--docker-memory", "64MiB"], &before);
        for container in lab.identities() {
            assert_eq!(docker(&["inspect", "-f", "{{.HostConfig.Memory}}", &container]), (64 << 20).to_string());
        }
        drop(replaced);
    }
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn kept_replicas_on_another_network_are_replaced_without_a_failed_request() {
    let (lab, mut other) = (Lab::new("rolling"), Lab::new("rolling-on"));
    let before = kept(&lab, 2);
    other.cluster.clone_from(&lab.cluster);
    drop(replaced_while_they_serve(&other, &[], &before));
}

/// Replicas that a balancer left running, by identity.
fn kept(lab: &Lab, n: usize) -> Vec<String> {
    let mut first = Balancer::start(lab, n, &["--on-exit", "keep"]);
    let before = lab.identities();
    assert_eq!(first.stop(), Some(0));
    before
}

fn replaced_while_they_serve(lab: &Lab, flags: &[&str], before: &[String]) -> Balancer {
    let count = before.len().to_string();
    let all = [&["--replicas", &count, "--on-exit", "keep"], flags].concat();
    let second = Balancer::spawn(lab, &all);
    second.wait("an answer", || second.get("/home").is_some_and(|answer| answer.status == 200));
    let client = SteadyClient::start(second.data);
    second.wait("the replacements", || {
        let now = lab.identities();
        now.len() == before.len() && now.iter().all(|id| !before.contains(id)) && second.names() == lab.serving()
    });
    let samples = client.finish();
    println!("| other settings, {count} kept | {} | {} | - | - |", samples.len(), failures(&samples));
    let log = second.log();
    assert_eq!(failures(&samples), 0, "{log}");
    for id in before {
        // A request may be answered after the last replacement: the log has the order.
        let at = |line: &str| log.find(line).unwrap_or_else(|| panic!("no line has {line:?}: {log}"));
        let id = &id[..12];
        assert!(at(&format!("adopted {id}")) < at(&format!("replaced {id}")), "they were removed first: {log}");
    }
    second
}

/// A lock on this machine alone does not see a balancer in another network namespace, a container's, say.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_second_balancer_in_another_network_namespace_is_refused_while_the_first_runs() {
    let lab = Lab::new("apart");
    let mut first = Balancer::start(&lab, 2, &["--on-exit", "keep"]);
    let before = lab.identities();
    let published = ["--docker-reach", "published", "--replicas", "2"];
    let (status, log) = Balancer::in_a_network_of_its_own(&lab, &published).fails();
    assert_eq!(status, Some(2), "{log}");
    let last = log.lines().last().unwrap();
    let holder = format!("process {}", first.process());
    assert!([&lab.cluster, "--docker-cluster", &holder].iter().all(|part| last.contains(*part)), "{log}");
    assert_eq!(lab.identities(), before, "nothing was touched");
    assert!(first.log().contains("it was refused"), "{}", first.log());
    first.kill();
    let second = Balancer::in_a_network_of_its_own(&lab, &published);
    second.wait("the cluster of a killed balancer", || {
        let now = lab.identities();
        now.len() == 2 && now.iter().all(|id| !before.contains(id))
    });
    assert!(second.log().contains("left by a Ringway that is gone"), "{}", second.log());
    drop(second);
    assert_eq!(lab.locks(), Vec::<String>::new(), "nothing stays behind");
}

/// `docker container prune` removes what does not run.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_lock_that_was_removed_is_created_again_and_one_that_was_taken_over_is_given_up() {
    let lab = Lab::new("prune");
    let balancer = Balancer::start(&lab, 1, &[]);
    let lock = lab.locks();
    assert_eq!(lock.len(), 1);
    docker(&["rm", &lock[0]]);
    balancer.wait("the lock", || lab.locks() == lock);
    let label = format!("ringway.lock={}", lab.cluster);
    // The balancer may create it again between the two; and the engine lists a container before it can be removed.
    let another = ["create", "--name", &lock[0], "--label", &label, "--label", "ringway.run-id=another", &lab.image];
    balancer.wait("the lock to be another's", || {
        try_docker(&["rm", &lock[0]]);
        try_docker(&another).status.success()
    });
    balancer.wait("the loss", || balancer.log().contains("another Ringway runs the cluster"));
    let answer = balancer.admin("POST", "/add", r#"{"n":1}"#);
    assert_eq!(answer.status, 502, "{}", answer.body);
    let before = lab.identities();
    drop(balancer);
    assert_eq!((lab.identities(), lab.locks()), (before, lock), "they are the other one's");
}

/// `docker run --name serverK --network=NET -e SERVER_ID=serverK --rm IMAGE`, found by label.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn foreign_containers_are_balanced_by_label() {
    let lab = Lab::new("seed");
    let balancer = Balancer::spawn(&lab, &["--replicas", "0"]);
    balancer.wait("the network", || lab.network_exists());
    for n in 1..=3 {
        lab.run_foreign(&lab.name(n), &["--rm", "--label", "ringway.enable=true"]);
    }
    balancer.wait("three foreign replicas", || balancer.replicas_answering(3));
    assert_eq!(balancer.names(), (1..=3).map(|n| lab.name(n)).collect::<Vec<_>>());
    let client = SteadyClient::start(balancer.data);
    docker(&["stop", &lab.name(2)]);
    balancer.wait("the foreign replica to leave", || balancer.names().len() == 2);
    let samples = client.finish();
    assert_eq!(failures(&samples), 0, "{}", balancer.log());
    drop(balancer);
    assert!(!docker(&["ps", "-q", "--filter", &format!("name={}", lab.name(1))]).is_empty(), "left alone");
}

/// The same, by address.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn foreign_containers_are_balanced_by_address() {
    let lab = Lab::new("fixed");
    docker(&["network", "create", "--subnet", &lab.subnet, "--label", "rwtest=fixed", &lab.network]);
    let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", lab.network);
    let addresses: Vec<String> = (1..=3)
        .map(|n| {
            lab.run_foreign(&lab.name(n), &["--rm"]);
            let address: IpAddr = docker(&["inspect", "-f", &format, &lab.name(n)]).parse().unwrap();
            format!("{}={address}:8080", lab.name(n))
        })
        .collect();
    let balancer = Balancer::fixed(&addresses);
    balancer.wait("all three", || balancer.replicas_answering(3));
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn replicas_are_dialled_on_published_ports_if_configured() {
    let lab = Lab::new("published");
    let balancer = Balancer::start(&lab, 2, &["--docker-reach", "published"]);
    let ports = docker(&["port", &balancer.names()[0]]);
    let port = ports.rsplit_once("127.0.0.1:").unwrap().1.parse().unwrap();
    let direct = call(([127, 0, 0, 1], port).into(), "GET", "/home", "").unwrap();
    assert_eq!(direct.body, format!("Server ID: {}", balancer.names()[0]));
}
