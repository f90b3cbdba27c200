//! A whole balancer with replicas and an admin API, on free ports, asked over real sockets.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::{PATIENCE, Process, exchange, until};

pub struct House {
    pub process: Process,
    pub data: SocketAddr,
    pub admin: SocketAddr,
}

/// An answer: its status, its head and its body as JSON (null where it is none).
pub struct Said {
    pub status: u16,
    pub head: String,
    pub text: String,
    pub json: Value,
}

impl House {
    /// `ringway run` with these flags more, once every replica is up.
    pub fn open(more: &[&str]) -> House {
        let mut args = vec!["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        args.extend(more);
        let process = Process::start(&args, &[]);
        let house = House { data: process.address, admin: admin_address(&process), process };
        house.await_whole();
        house
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Said {
        ask(self.admin, method, path, body)
    }

    pub fn get(&self, path: &str) -> Said {
        self.ask("GET", path, "")
    }

    /// The names that /rep lists.
    pub fn replicas(&self) -> Vec<String> {
        names(&self.get("/rep").json)
    }

    /// How many replicas take requests.
    pub fn up(&self) -> usize {
        let page = self.get("/metrics").text;
        page.lines().filter(|line| line.starts_with("ringway_replica_up{") && line.ends_with("} 1")).count()
    }

    pub fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics").text;
        let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).expect("the metric is there");
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    pub fn await_whole(&self) {
        let n = self.replicas().len();
        until(Instant::now() + PATIENCE, "every replica to be up", || (self.up() == n).then_some(()));
    }

    /// Process ids of the replicas: the balancer's children.
    pub fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = std::fs::read_to_string(path).expect("the balancer runs");
        children.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
    }
}

pub fn admin_address(process: &Process) -> SocketAddr {
    let (_, admin) = process.banner.split_once("admin API at http://").expect("the banner names the admin API");
    admin.trim().parse().expect("an address")
}

pub fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Said {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n");
    let answer = exchange(address, format!("{head}Connection: close\r\n\r\n{body}"));
    let (head, text) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let json = serde_json::from_str(text).unwrap_or(Value::Null);
    Said { status, head: head.into(), text: text.into(), json }
}

pub fn names(roster: &Value) -> Vec<String> {
    let names = roster["message"]["replicas"].as_array().unwrap_or_else(|| panic!("a roster: {roster}"));
    assert_eq!(roster["message"]["N"], names.len());
    names.iter().map(|name| name.as_str().expect("a name").into()).collect()
}
