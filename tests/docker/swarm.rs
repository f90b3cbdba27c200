//! A service of Docker Swarm whose tasks are the replicas: this engine is a Swarm of its own for the time of the test, and the
//! balancer a container on the network of the tasks, which is where their addresses are reached.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crate::balancer::{self, TIMEOUT};
use crate::lab::{Lab, PREFIX, docker, run, try_docker};
use crate::load::{SteadyClient, failures};

const NETWORK: &str = "rwtest-swarm";
const SERVICE: &str = "rwtest-shop";
const BALANCER: &str = "rwtest-swarm-balancer";
const TOKEN: &str = "rwtest-token";

/// A Swarm of one engine, which it leaves when this is dropped.
struct Swarm;

impl Swarm {
    fn begin() -> Swarm {
        let state = docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]);
        assert_eq!(state, "inactive", "this engine is in a Swarm: its test needs one that is not");
        docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        let swarm = Swarm;
        docker(&["network", "create", "--driver", "overlay", "--attachable", NETWORK]);
        swarm
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the balancer's log\n{}---", log());
        }
        run("docker", &["rm", "-f", BALANCER]);
        run("docker", &["service", "rm", SERVICE]);
        run("docker", &["swarm", "leave", "--force"]);
        run("docker", &["network", "rm", NETWORK]);
    }
}

fn log() -> String {
    let output = try_docker(&["logs", BALANCER]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "waited too long for {what}");
        std::thread::yield_now();
    }
}

/// What an admin call answers to one that has the token.
fn admin_get(admin: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    Some(balancer::answer(&mut BufReader::new(stream))?.body)
}

/// The names in `/rep`, sorted, where all of them are up.
fn names(admin: SocketAddr) -> Option<Vec<String>> {
    let metrics = admin_get(admin, "/metrics")?;
    let up = metrics.lines().filter(|line| line.starts_with("ringway_replica_up{") && line.ends_with("} 1")).count();
    let names = balancer::names(&admin_get(admin, "/rep")?);
    (names.len() == up).then_some(names)
}

fn published(port: &str) -> SocketAddr {
    docker(&["port", BALANCER, port]).lines().next().expect("a published port").parse().expect("an address")
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn tasks_of_a_swarm_service_are_followed_and_no_request_fails() {
    let lab = Lab::new("swarm");
    let _swarm = Swarm::begin();
    let service = ["--name", SERVICE, "--network", NETWORK, "--replicas", "2", "--env", "PORT=8080"];
    let order = ["--update-order", "start-first", "--update-parallelism", "1", "--update-delay", "2s"];
    let create = ["service", "create", "--detach", "--no-resolve-image"];
    docker(&[&create[..], &service, &order, &[&lab.image, "replica"]].concat());
    let owner = format!("{PREFIX}={}", lab.cluster);
    let container = ["run", "-d", "--name", BALANCER, "--label", &owner, "--network", NETWORK, "--user", "0"];
    let ports = ["-p", "127.0.0.1::8000", "-p", "127.0.0.1::8001", "-v", "/var/run:/var/run"];
    let listen = ["run", "--listen", "0.0.0.0:8000", "--admin", "0.0.0.0:8001", "--admin-token", TOKEN];
    let source =
        ["--runtime", "swarm", "--source-name", SERVICE, "--source-port", "8080", "--source-confirm-empty", "2s"];
    docker(&[&container[..], &ports, &[&lab.image], &listen, &source].concat());
    let (data, admin) = (published("8000"), published("8001"));
    let task = |n: u32| format!("{SERVICE}.{n}");
    let of = |n: u32| (1..=n).map(task).collect::<Vec<_>>();
    wait("two tasks", || names(admin).is_some_and(|names| names == of(2)));
    let client = SteadyClient::start(data);
    docker(&["service", "scale", "--detach", &format!("{SERVICE}=3")]);
    wait("three tasks", || names(admin).is_some_and(|names| names == of(3)));
    let before = docker(&["service", "ps", SERVICE, "-q", "--filter", "desired-state=running"]);
    docker(&["service", "update", "--detach", "--no-resolve-image", "--force", SERVICE]);
    wait("other tasks in their places", || {
        let now = docker(&["service", "ps", SERVICE, "-q", "--filter", "desired-state=running"]);
        let is_old = now.lines().any(|id| before.contains(id));
        !is_old && now.lines().count() == 3 && names(admin).is_some_and(|names| names == of(3))
    });
    docker(&["service", "scale", "--detach", &format!("{SERVICE}=1")]);
    wait("one task", || names(admin).is_some_and(|names| names == of(1)));
    let samples = client.finish();
    assert_eq!(failures(&samples), 0, "of {}\n{}", samples.len(), log());
    docker(&["service", "scale", "--detach", &format!("{SERVICE}=0")]);
    wait("no task", || names(admin).is_some_and(|names| names.is_empty()));
    assert!(log().contains("it lists nothing, and had 1 server"), "{}", log());
}
