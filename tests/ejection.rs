//! Passive ejection: a replica that fails requests takes no new ones for a time, whatever its heartbeats say.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;
use support::balancer::{Balancer, ask};
use support::{TIMEOUT, origin, until};

/// A server whose heartbeats are always answered, and its requests with 500 while it is broken.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    is_broken: Arc<AtomicBool>,
}

impl Server {
    fn start() -> Server {
        let is_broken = Arc::new(AtomicBool::new(false));
        let broken = is_broken.clone();
        let address = origin::start(move |_, stream| {
            let status = if broken.load(Ordering::SeqCst) { "500 Internal Server Error" } else { "200 OK" };
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").is_ok()
        });
        Server { address, is_broken }
    }

    fn set_broken(&self, is_broken: bool) {
        self.is_broken.store(is_broken, Ordering::SeqCst);
    }
}

fn start(servers: &[Server], more: &[&str]) -> Balancer {
    let addresses: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    let listed = addresses.iter().flat_map(|address| ["--replica", address]);
    Balancer::start(&listed.chain(more.iter().copied()).collect::<Vec<_>>())
}

fn status(balancer: &Balancer) -> u16 {
    ask(balancer.data, "GET", "/", "").status
}

fn replicas(balancer: &Balancer) -> Vec<Value> {
    balancer.get("/replicas").json["message"].as_array().expect("a list").clone()
}

fn states(balancer: &Balancer) -> Vec<String> {
    replicas(balancer).iter().map(|replica| replica["state"].as_str().expect("a word").to_owned()).collect()
}

/// Requests until a replica has this state. Returns how many were answered with 500.
fn request_until(balancer: &Balancer, state: &str) -> usize {
    let mut failed = 0;
    until(Instant::now() + TIMEOUT, state, || {
        failed += usize::from(status(balancer) == 500);
        states(balancer).iter().any(|its| its == state).then_some(())
    });
    failed
}

#[test]
fn a_replica_that_answers_500_is_ejected_within_five_failures_and_comes_back_by_itself() {
    let servers = [(); 3].map(|()| Server::start());
    let balancer = start(&servers, &["--ejection-count-5xx", "--ejection-base", "1s"]);
    servers[0].set_broken(true);
    let failed = request_until(&balancer, "failing");
    assert_eq!(failed, 5);
    let answered: Vec<u16> = (0..50).map(|_| status(&balancer)).collect();
    assert_eq!(answered, [200; 50]);
    assert_eq!(balancer.metric("ringway_ejections_total"), 1);
    servers[0].set_broken(false);
    until(Instant::now() + TIMEOUT, "all are up", || states(&balancer).iter().all(|state| state == "up").then_some(()));
    let requests = || {
        let of = |replica: &Value| replica["requests"].as_u64().expect("a number");
        replicas(&balancer).iter().map(of).collect::<Vec<_>>()
    };
    let before = requests();
    until(Instant::now() + TIMEOUT, "it takes requests", || {
        assert_eq!(status(&balancer), 200);
        requests().iter().zip(&before).all(|(now, before)| now > before).then_some(())
    });
}

#[test]
fn never_more_than_half_are_out() {
    let servers = [(); 4].map(|()| Server::start());
    let balancer = start(&servers, &["--ejection-count-5xx"]);
    servers.iter().for_each(|server| server.set_broken(true));
    let failing = || states(&balancer).iter().filter(|state| *state == "failing").count();
    until(Instant::now() + TIMEOUT, "half of them are ejected", || {
        assert_eq!(status(&balancer), 500);
        (failing() == 2).then_some(())
    });
    let answered: Vec<u16> = (0..100).map(|_| status(&balancer)).collect();
    assert_eq!((answered, failing()), (vec![500; 100], 2));
}

#[test]
fn a_status_is_no_failure_unless_it_is_said_to_be_one() {
    let servers = [(); 2].map(|()| Server::start());
    let balancer = start(&servers, &[]);
    servers[0].set_broken(true);
    let mut failed = 0;
    until(Instant::now() + TIMEOUT, "many failures", || {
        failed += usize::from(status(&balancer) == 500);
        (failed == 20).then_some(())
    });
    assert_eq!((states(&balancer), balancer.metric("ringway_ejections_total")), (vec!["up".into(), "up".into()], 0));
}
