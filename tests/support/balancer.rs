//! A running balancer with replicas and an admin API on free ports, used over real sockets.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::{Process, RINGWAY, TIMEOUT, exchange, until};

pub struct Balancer {
    pub process: Process,
    pub data: SocketAddr,
    pub admin: SocketAddr,
}

/// A response; `json` is null where the body is not JSON.
pub struct Response {
    pub status: u16,
    pub head: String,
    pub text: String,
    pub json: Value,
}

impl Balancer {
    /// Starts `ringway run` with the flags `more`; returns once every replica is up.
    pub fn start(more: &[&str]) -> Balancer {
        Balancer::start_as(Command::new(RINGWAY), more)
    }

    /// The same, of a `command` that runs our binary, with its environment and descriptors.
    pub fn start_as(mut command: Command, more: &[&str]) -> Balancer {
        command.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(more);
        let balancer = Balancer::of(Process::spawn(command));
        balancer.await_replicas();
        balancer
    }

    pub fn of(process: Process) -> Balancer {
        Balancer { data: process.address, admin: admin_address(&process), process }
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        ask(self.admin, method, path, body)
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, "")
    }

    /// The names in `/rep`.
    pub fn replicas(&self) -> Vec<String> {
        names(&self.get("/rep").json)
    }

    /// The number of replicas that are up.
    pub fn up(&self) -> usize {
        let page = self.get("/metrics").text;
        page.lines().filter(|line| line.starts_with("ringway_replica_up{") && line.ends_with("} 1")).count()
    }

    /// Over all its labels.
    pub fn metric(&self, name: &str) -> u64 {
        let [value] = self.metrics([name]);
        value
    }

    /// At one time.
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let page = self.get("/metrics").text;
        names.map(|name| {
            let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            let values: Vec<&str> = page.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()).collect();
            assert!(!values.is_empty(), "{name} is not exported");
            values.into_iter().map(|value| value.parse::<u64>().expect("a whole number")).sum()
        })
    }

    pub fn await_replicas(&self) {
        let n = self.replicas().len();
        until(Instant::now() + TIMEOUT, "every replica to be up", || (self.up() == n).then_some(()));
    }

    /// Process ids of the replicas: the balancer's children.
    pub fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = std::fs::read_to_string(path).expect("the balancer runs");
        children.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
    }
}

/// Requests go on while `harm` happens: each must be answered 200. How many were.
pub fn under_load(data: SocketAddr, harm: impl FnOnce()) -> u64 {
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let said = ask(data, "GET", "/home", "");
                    assert_eq!(said.status, 200, "{}", said.head);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A `harm` that fails ends the requests too.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(harm));
        over.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
    answered.into_inner()
}

pub fn admin_address(process: &Process) -> SocketAddr {
    let (_, admin) = process.banner.split_once("admin API at http://").expect("the banner names the admin API");
    admin.trim().parse().expect("an address")
}

pub fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n");
    let answer = exchange(address, format!("{head}Connection: close\r\n\r\n{body}"));
    let (head, text) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let json = serde_json::from_str(text).unwrap_or(Value::Null);
    Response { status, head: head.into(), text: text.into(), json }
}

pub fn names(roster: &Value) -> Vec<String> {
    let names = roster["message"]["replicas"].as_array().unwrap_or_else(|| panic!("a roster: {roster}"));
    assert_eq!(roster["message"]["N"], names.len());
    names.iter().map(|name| name.as_str().expect("a name").into()).collect()
}
