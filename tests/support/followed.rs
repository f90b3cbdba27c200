//! A balancer whose replicas a source lists, and what such a test needs beside it: replicas that others start, files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::balancer::{Balancer, under_load};
use super::{Log, Process, RINGWAY, TIMEOUT, run, until};

/// How long an empty list is doubted: long enough for many questions, short enough for a test.
pub const CONFIRM: &str = "1s";

/// The balancer and what it logs.
pub struct Followed {
    pub balancer: Balancer,
    pub log: Log,
}

impl Followed {
    /// With the flags `flags`. It does not wait for replicas.
    pub fn start(name: &str, flags: &[&str]) -> Followed {
        let log = Log::new(name);
        let mut command = Command::new(RINGWAY);
        command.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).stderr(log.file());
        command.args(["--source-confirm-empty", CONFIRM, "--health-interval", "100ms"]).args(flags);
        Followed { balancer: Balancer::of(Process::spawn(command)), log }
    }

    pub fn await_log(&self, line: &str) {
        until(Instant::now() + TIMEOUT, line, || self.log.read().contains(line).then_some(()));
    }

    /// Exactly these replicas are listed, under their addresses, and up.
    pub fn await_replicas(&self, replicas: &[&Replica]) {
        let names: Vec<String> = replicas.iter().map(|replica| replica.name()).collect();
        self.await_names(&names.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub fn await_names(&self, names: &[&str]) {
        let mut names = names.to_vec();
        names.sort_unstable();
        until(Instant::now() + TIMEOUT, &format!("{names:?} to be up"), || {
            let mut listed = self.balancer.replicas();
            listed.sort();
            (listed == names && self.balancer.up() == names.len()).then_some(())
        });
    }

    /// What `GET /services` says of the source.
    pub fn source(&self) -> Value {
        self.balancer.get("/services").json["message"][0]["source"].clone()
    }

    pub fn await_state(&self, state: &str) {
        until(Instant::now() + TIMEOUT, state, || (self.source()["state"] == state).then_some(()));
    }

    /// What `GET /replicas` says of a replica; null where it is not listed.
    pub fn replica(&self, name: &str) -> Value {
        let replicas = self.balancer.get("/replicas").json;
        let all = replicas["message"].as_array().expect("a list");
        all.iter().find(|replica| replica["name"] == name).cloned().unwrap_or_default()
    }

    /// No request fails while `harm` happens.
    pub fn under_load(&self, harm: impl FnOnce()) {
        assert!(under_load(self.balancer.data, harm) > 0);
    }
}

/// A replica that others start.
pub struct Replica(Process);

impl Replica {
    pub fn start() -> Replica {
        Replica::at("127.0.0.1:0".parse().expect("an address"))
    }

    pub fn at(address: SocketAddr) -> Replica {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        Replica(Process::start(&["replica", "--bind", &ip, "--port", &port], &[]))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// As a source without names of its own lists it.
    pub fn name(&self) -> String {
        self.address().to_string()
    }
}

/// A file of a test, removed at its end.
pub struct TestFile(PathBuf);

impl TestFile {
    pub fn new(name: &str) -> TestFile {
        let name = format!("source-{}-{name}", std::process::id());
        TestFile(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    /// Written where it is.
    pub fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("the folder of this test can be written");
    }

    /// `ringway check` refuses a configuration with this text, and says that.
    pub fn expect_refused(&self, text: &str, wrong: &str) {
        self.write(text);
        let ended = run(&["check", "-c", self.path()]);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{text}: {said}");
        assert!(said.contains(wrong), "{text}: {said}");
    }

    /// Another file in its place.
    pub fn replace(&self, text: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, text).expect("the folder of this test can be written");
        std::fs::rename(&new, &self.0).expect("renamed");
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
