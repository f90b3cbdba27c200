//! The cluster name and the network of one test, and the removal of both.

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::balancer::TIMEOUT;

/// Every cluster, name and rule of these tests begins with it: scripts/test_docker sweeps by it.
pub const PREFIX: &str = "rwtest";

/// What the engine was doing when a balancer was killed is over by then.
const LEFTOVERS: Duration = Duration::from_secs(10);

pub struct Lab {
    pub image: String,
    pub cluster: String,
    pub network: String,
    pub subnet: String,
    /// The engine, if it is not the machine's.
    pub host: Option<String>,
}

/// The next /24 of 10.231.0.0/16. No two labs of one run share one.
static NEXT_SUBNET: AtomicU8 = AtomicU8::new(1);

impl Lab {
    pub fn new(topic: &str) -> Lab {
        let image = std::env::var("RWTEST_IMAGE").expect("run these tests through scripts/test_docker");
        let cluster = format!("{PREFIX}-{topic}");
        let subnet = format!("10.231.{}.0/24", NEXT_SUBNET.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { image, network: cluster.clone(), cluster, subnet, host: None };
        lab.sweep();
        // When the network is removed, packets to its addresses must not follow the default route out of the machine.
        run("ip", &["route", "add", "unreachable", &lab.subnet, "metric", "9999"]);
        lab
    }

    /// The name of the n-th replica.
    pub fn name(&self, n: u64) -> String {
        format!("{}-s{n}", self.cluster)
    }

    /// Names of the cluster's containers, running or not.
    pub fn containers(&self) -> Vec<String> {
        self.list("ringway.cluster", &["-a", "--format", "{{.Names}}"])
    }

    /// Names of those that run, sorted.
    pub fn serving(&self) -> Vec<String> {
        self.list("ringway.cluster", &["--filter", "status=running", "--format", "{{.Names}}"])
    }

    /// Ids of those that run, sorted.
    pub fn identities(&self) -> Vec<String> {
        self.list("ringway.cluster", &["--filter", "status=running", "--format", "{{.ID}}"])
    }

    /// Names of the cluster's lock and of claims to it.
    pub fn locks(&self) -> Vec<String> {
        self.list("ringway.lock", &["-a", "--format", "{{.Names}}"])
    }

    fn list(&self, label: &str, more: &[&str]) -> Vec<String> {
        let filter = format!("label={label}={}", self.cluster);
        let mut arguments = Vec::new();
        if let Some(host) = &self.host {
            arguments.extend(["-H", host]);
        }
        arguments.extend(["ps", "--filter", &filter]);
        arguments.extend(more);
        let list = docker(&arguments);
        let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    pub fn network_exists(&self) -> bool {
        try_docker(&["network", "inspect", &self.network]).status.success()
    }

    /// A container on the lab's network that Ringway did not start.
    pub fn run_foreign(&self, name: &str, more: &[&str]) -> String {
        let (owner, id) = (format!("{PREFIX}={}", self.cluster), format!("SERVER_ID={name}"));
        let mut arguments = vec!["run", "-d", "--name", name, "--network", &self.network, "--label", &owner, "-e", &id];
        arguments.extend(more);
        arguments.push(&self.image);
        docker(&arguments)
    }

    /// The engine may still carry out a start that a balancer asked for before it was killed: what that leaves is removed
    /// too. It may also keep an endpoint of a container that is gone (Docker 28.2: "has active endpoints", and none is
    /// listed), until it is restarted: such a network stays.
    fn sweep(&self) {
        let begun = Instant::now();
        loop {
            self.remove_containers();
            if !self.network_exists() {
                return;
            }
            let removed = try_docker(&["network", "rm", &self.network]);
            let late = begun.elapsed() > LEFTOVERS;
            if late && docker(&["network", "inspect", "-f", "{{len .Containers}}", &self.network]) == "0" {
                eprintln!("the engine keeps the network {}, which has no container: {removed:?}", self.network);
                return;
            }
            assert!(removed.status.success() || begun.elapsed() < TIMEOUT, "{}: {removed:?}", self.network);
        }
    }

    fn remove_containers(&self) {
        for label in ["ringway.cluster", "ringway.lock", PREFIX] {
            let ids = docker(&["ps", "-aq", "--filter", &format!("label={label}={}", self.cluster)]);
            for id in ids.lines() {
                try_docker(&["rm", "-f", "-v", id]);
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.sweep();
        run("ip", &["route", "del", "unreachable", &self.subnet, "metric", "9999"]);
    }
}

/// A firewall rule between this host and one address, undone when it is dropped.
pub struct Rule(Vec<String>);

impl Rule {
    pub fn add(address: &str, target: &[&str]) -> Rule {
        let fixed = ["OUTPUT", "-d", address, "-p", "tcp", "-m", "comment", "--comment", PREFIX, "-j"];
        let rule = Rule(fixed.iter().chain(target).map(|word| (*word).to_owned()).collect());
        assert!(rule.apply("-I"), "iptables -I {:?}", rule.0);
        rule
    }

    fn apply(&self, verb: &str) -> bool {
        let arguments: Vec<&str> = [verb].into_iter().chain(self.0.iter().map(String::as_str)).collect();
        run("iptables", &arguments)
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        self.apply("-D");
    }
}

/// Runs the docker command; its output, or a panic with its stderr.
pub fn docker(arguments: &[&str]) -> String {
    let output = try_docker(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn try_docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).stdin(Stdio::null()).output().expect("the docker command")
}

/// Runs a command that may fail: it is tidying up.
pub fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
