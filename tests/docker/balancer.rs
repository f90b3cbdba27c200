//! A running balancer of the release build, and a small HTTP client.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, PREFIX};

/// Limit of anything here that takes a second.
pub const TIMEOUT: Duration = Duration::from_secs(60);

pub struct Balancer {
    child: Child,
    /// The process that replaced it last.
    successor: Option<u32>,
    pub data: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

pub struct Answer {
    pub status: u16,
    /// It is the last of its connection.
    pub closes: bool,
    pub body: String,
}

impl Balancer {
    /// Starts one on the lab's network and waits until `n` replicas answer.
    pub fn start(lab: &Lab, n: usize, flags: &[&str]) -> Balancer {
        let count = n.to_string();
        let mut all = vec!["--replicas", &count];
        all.extend(flags);
        let balancer = Balancer::spawn(lab, &all);
        balancer.wait("the first replicas", || balancer.replicas_answering(n));
        balancer
    }

    /// Starts one without waiting for replicas.
    pub fn spawn(lab: &Lab, flags: &[&str]) -> Balancer {
        let mut command = on_docker(lab);
        if let Some(host) = &lab.host {
            command.args(["--docker-host", host]);
        }
        command.args(flags);
        Balancer::run(command)
    }

    /// One in a network namespace of its own: it reaches the engine's socket, and no container.
    pub fn in_a_network_of_its_own(lab: &Lab, flags: &[&str]) -> Balancer {
        let mut on_docker = on_docker(lab);
        let inner = on_docker.args(flags);
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
        command.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
        Balancer::run(command)
    }

    /// One that finds its engine through environment variables.
    pub fn with_environment(lab: &Lab, variables: &[(&str, &str)]) -> Balancer {
        let mut command = on_docker(lab);
        command.envs(variables.iter().copied());
        Balancer::run(command)
    }

    /// One with servers given by address.
    pub fn fixed(replicas: &[String]) -> Balancer {
        let mut command = command();
        command.args(replicas.iter().flat_map(|replica| ["--replica", replica]));
        Balancer::run(command)
    }

    fn run(mut command: Command) -> Balancer {
        let (data, admin) = (free_address(), free_address());
        let log = std::env::temp_dir().join(format!("{PREFIX}-{}.log", data.port()));
        command.args(["--listen", &data.to_string(), "--admin", &admin.to_string()]);
        let child = command.stderr(File::create(&log).unwrap()).spawn().expect("the binary of scripts/test_docker");
        Balancer { child, successor: None, data, admin, log }
    }

    pub fn get(&self, path: &str) -> Option<Answer> {
        call(self.data, "GET", path, "")
    }

    pub fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        call(self.admin, method, path, body).unwrap_or_else(|| panic!("no admin answer\n{}", self.log()))
    }

    /// The names that /rep gives, sorted.
    pub fn names(&self) -> Vec<String> {
        names(&self.admin("GET", "/rep", "").body)
    }

    /// Whether `n` different replicas answer a few requests, and every request is answered.
    pub fn replicas_answering(&self, n: usize) -> bool {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 * n {
            match self.get("/home") {
                Some(answer) if answer.status == 200 => seen.insert(answer.body),
                _ => return false,
            };
        }
        seen.len() == n
    }

    /// Evaluates `condition` until it holds, and returns how long that took.
    pub fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < TIMEOUT, "waited too long for {what}\n{}", self.log());
            std::thread::yield_now();
        }
        begun.elapsed()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends SIGUSR2 and waits until another process has taken over and this one has ended.
    pub fn upgrade(&mut self) {
        let before = self.begin_upgrade();
        self.await_end(before);
    }

    /// Until another process has taken over. The one before may have requests.
    pub fn begin_upgrade(&mut self) -> u32 {
        let before = self.process();
        signal("USR2", before);
        let taken = format!("taken over from process {before}");
        self.wait("the upgrade", || self.log().contains(&taken));
        let log = self.log();
        let starts = log.lines().rev().find_map(|line| line.split("SIGUSR2: process ").nth(1));
        let successor = starts.and_then(|rest| rest.split(' ').next()?.parse().ok());
        self.successor = Some(successor.expect("the log names the process that starts"));
        before
    }

    pub fn await_end(&mut self, process: u32) {
        if process == self.child.id() {
            assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.log());
        }
        // One that is no child of this test may stay as a zombie.
        let stat = || std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        self.wait("the end", || stat().rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z')));
    }

    /// Sends SIGTERM and waits for the end. Returns the exit status, 0 of one that is no child.
    pub fn stop(&mut self) -> Option<i32> {
        let process = self.process();
        signal("TERM", process);
        match self.successor.take() {
            Some(_) => {
                self.await_end(process);
                Some(0)
            }
            None => self.child.wait().unwrap().code(),
        }
    }

    pub fn process(&self) -> u32 {
        self.successor.unwrap_or(self.child.id())
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// For a start that must fail: its exit status and its log.
    pub fn fails(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.log())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the balancer's log\n{}---", self.log());
        }
        if self.successor.is_some() || matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

fn command() -> Command {
    let binary = std::env::var("RWTEST_BINARY").expect("run these tests through scripts/test_docker");
    let mut command = Command::new(binary);
    command.arg("run").env("RUST_LOG", "ringway=debug").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn on_docker(lab: &Lab) -> Command {
    let mut command = command();
    command.args(["--runtime", "docker", "--docker-image", &lab.image, "--docker-network", &lab.network]);
    command.args(["--docker-subnet", &lab.subnet, "--docker-cluster", &lab.cluster]);
    command
}

pub fn signal(name: &str, process: u32) {
    Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The names that an answer lists, sorted.
pub fn names(body: &str) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    let list = json["message"]["replicas"].as_array().unwrap_or_else(|| panic!("no replicas in {body}"));
    let mut names: Vec<String> = list.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// One request on a connection of its own. `None` if there was no whole answer.
pub fn call(to: SocketAddr, method: &str, path: &str, body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).ok()?;
    answer(&mut BufReader::new(stream))
}

/// Reads one answer with a Content-Length.
pub fn answer(stream: &mut BufReader<TcpStream>) -> Option<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let (mut length, mut closes) = (0, false);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        closes |= line.trim().eq_ignore_ascii_case("connection: close");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Answer { status, closes, body: String::from_utf8(body).ok()? })
}
