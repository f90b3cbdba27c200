//! A real balancer as a child process on free ports, what it logs, and the faults that are done to its replicas.
//!
//! It ends with the lab, whatever ends the lab: dropped, it drains; killed with us, the kernel tells it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Client, Reply};
use super::{RuntimeChoice, Settings, interrupted};
use crate::kernel::parent::PARENT;

pub struct Lab {
    balancer: Child,
    pub data: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Log>,
    runtime: RuntimeChoice,
}

/// What is done to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, or `docker kill`.
    Kill,
    /// SIGSTOP, or `docker pause`: it is there and never answers.
    Pause,
}

/// What became of a replica that was harmed.
#[derive(Clone, Debug)]
pub struct Wound {
    pub name: String,
    pub harmed: Instant,
    /// It left the ring.
    pub noticed: Instant,
    /// Another took its place.
    pub healed: Instant,
}

/// Lines that the balancer logged, and when each came.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<(Instant, String)>>,
    more: Condvar,
}

/// A start, a heal: generous, since a container's takes longer than a process's.
const PATIENCE: Duration = Duration::from_secs(30);
/// A balancer that drains, removes its containers and ends: twenty of them take a busy engine half a minute.
const GRACE: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(50);

impl Lab {
    /// A balancer with all its replicas up.
    pub fn start(settings: &Settings, replicas: usize, more: &[&str]) -> Result<Lab, String> {
        let mut balancer = spawn(settings, replicas, more)?;
        let log = Arc::new(Log::default());
        if let Some(stderr) = balancer.stderr.take() {
            let log = log.clone();
            thread::spawn(move || log.follow(stderr));
        }
        let announced = balancer.stdout.take().map(announced).unwrap_or_default();
        let [data, admin] = announced.ok_or_else(|| ended(&mut balancer, &log))?;
        let lab = Lab { balancer, data, admin, log, runtime: settings.runtime };
        lab.wait(0, &[&format!("{replicas} of {replicas} live")])
            .map_err(|why| format!("the balancer did not get its {replicas} replicas up: {why}"))?;
        Ok(lab)
    }

    /// A call of the admin API.
    pub fn call(&self, method: &str, target: &str, body: &str) -> Result<Reply, String> {
        let asked = Client::connect(self.admin).and_then(|mut client| client.ask(method, target, &[], body.as_bytes()));
        asked.map_err(|why| format!("{method} {target}: {why}"))
    }

    /// The replicas' names, in order.
    pub fn names(&self) -> Result<Vec<String>, String> {
        let reply = self.call("GET", "/rep", "")?;
        let body: serde_json::Value = serde_json::from_slice(&reply.body).map_err(|why| format!("/rep: {why}"))?;
        let names = body["message"]["replicas"].as_array().ok_or("/rep names no replicas")?;
        Ok(names.iter().filter_map(|name| name.as_str().map(String::from)).collect())
    }

    /// Does it, and says when.
    fn harm(&self, name: &str, fault: Fault) -> Result<Instant, String> {
        match self.runtime {
            RuntimeChoice::Process => self.signal(name, fault),
            RuntimeChoice::Docker => engine(name, fault),
        }
    }

    /// Harms a replica and waits until another stands in its place.
    pub fn wound(&self, name: &str, fault: Fault) -> Result<Wound, String> {
        let mark = self.mark();
        let harmed = self.harm(name, fault)?;
        let [died, down, healed] = ["died", "down", ""].map(|word| format!(" {name}: {word}"));
        let noticed = self.wait(mark, &[&died, &down])?;
        let healed = self.wait_all(mark, &[&healed, "healed"])?;
        Ok(Wound { name: name.into(), harmed, noticed, healed })
    }

    /// A mark in the log: what comes after it is waited for.
    fn mark(&self) -> usize {
        self.log.lines().len()
    }

    /// When the first line after `mark` came that holds one of `words`.
    fn wait(&self, mark: usize, words: &[&str]) -> Result<Instant, String> {
        self.line(mark, words, |line| words.iter().any(|word| line.contains(word)))
    }

    /// When the first line after `mark` came that holds each of `words`.
    fn wait_all(&self, mark: usize, words: &[&str]) -> Result<Instant, String> {
        self.line(mark, words, |line| words.iter().all(|word| line.contains(word)))
    }

    fn line(&self, mark: usize, words: &[&str], is_it: impl Fn(&str) -> bool) -> Result<Instant, String> {
        let begin = Instant::now();
        let mut lines = self.log.lines();
        loop {
            if let Some((at, _)) = lines.iter().skip(mark).find(|(_, line)| is_it(line)) {
                return Ok(*at);
            }
            interrupted()?;
            if begin.elapsed() > PATIENCE {
                let last = lines.last().map_or("nothing was logged", |(_, line)| line.as_str());
                let words = words.join(" ");
                return Err(format!("no word of `{words}` within {} s; the last: {last}", PATIENCE.as_secs()));
            }
            lines = self.log.more.wait_timeout(lines, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn signal(&self, name: &str, fault: Fault) -> Result<Instant, String> {
        let children = children(self.balancer.id());
        let pid = children.get(name).ok_or_else(|| format!("no process of {name} is there to {fault:?}"))?;
        let signal = if fault == Fault::Kill { Signal::KILL } else { Signal::STOP };
        let now = Instant::now();
        kill_process(*pid, signal).map_err(|why| format!("cannot signal {name}: {why}"))?;
        Ok(now)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        end(&mut self.balancer);
    }
}

fn end(child: &mut Child) {
    let pid = Pid::from_child(child);
    let _ = kill_process(pid, Signal::TERM);
    let begin = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begin.elapsed() > GRACE {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        thread::sleep(GLANCE);
    }
}

/// Its own group: Ctrl-C is for us, who then end it in order.
fn spawn(settings: &Settings, replicas: usize, more: &[&str]) -> Result<Child, String> {
    let binary = std::env::current_exe().map_err(|why| format!("cannot find my own binary: {why}"))?;
    let mut command = Command::new(binary);
    command.args(["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--admin-on-data-port=true"]);
    command.arg(format!("--replicas={replicas}")).args(more);
    if settings.runtime == RuntimeChoice::Docker {
        let own = format!("ringway-experiment-{}", std::process::id());
        command.args(["--runtime=docker", "--on-exit=remove", "--docker-discover=false"]);
        command.args([format!("--docker-image={}", settings.docker_image), format!("--docker-network={own}")]);
        command.arg(format!("--docker-cluster={own}"));
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGWAY_")) {
        command.env_remove(name);
    }
    command.env(PARENT, std::process::id().to_string()).env("RUST_LOG", "info");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().map_err(|why| format!("cannot start a balancer: {why}"))
}

/// Where its first line says that it listens: data and admin. A balancer that says nothing is not waited for.
fn announced(stdout: impl Read + Send + 'static) -> Option<[SocketAddr; 2]> {
    let (sender, first) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(line);
    });
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE && interrupted().is_ok() {
        match first.recv_timeout(GLANCE) {
            Ok(line) => return addresses(&line),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

fn addresses(line: &str) -> Option<[SocketAddr; 2]> {
    let mut named = line.split("http://").skip(1).map(|rest| rest.split([',', ' ', '\n']).next().unwrap_or_default());
    Some([named.next()?.parse().ok()?, named.next()?.parse().ok()?])
}

/// Why there is no balancer.
fn ended(balancer: &mut Child, log: &Log) -> String {
    end(balancer);
    // Its last word is on the way: the pipe ends after it.
    let begin = Instant::now();
    while log.lines().is_empty() && begin.elapsed() < GLANCE * 10 {
        thread::sleep(GLANCE / 10);
    }
    let lines = log.lines();
    format!("the balancer did not start: {}", lines.last().map_or("it said nothing", |(_, line)| line.as_str()))
}

impl Log {
    fn follow(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            self.lines().push((Instant::now(), line));
            self.more.notify_all();
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The child processes of `parent` that have a `SERVER_ID`.
fn children(parent: u32) -> BTreeMap<String, Pid> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let listed = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let listed: String = listed.collect();
    listed.split_whitespace().filter_map(|pid| Some((server_id(pid)?, Pid::from_raw(pid.parse().ok()?)?))).collect()
}

fn server_id(pid: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let found = environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"SERVER_ID="))?;
    Some(String::from_utf8_lossy(found).into_owned())
}

fn engine(name: &str, fault: Fault) -> Result<Instant, String> {
    let socket = std::env::var("DOCKER_HOST").ok().and_then(|host| Some(host.strip_prefix("unix://")?.to_string()));
    let socket = socket.unwrap_or_else(|| "/var/run/docker.sock".into());
    let verb = if fault == Fault::Kill { "kill" } else { "pause" };
    let now = Instant::now();
    let asked = UnixStream::connect(&socket).and_then(|stream| {
        Client::over(stream, "docker".into()).ask(
            "POST",
            &format!("/containers/{name}/{verb}"),
            &[("Content-Length", "0")],
            b"",
        )
    });
    match asked {
        Ok(reply) if reply.status < 300 => Ok(now),
        Ok(reply) => Err(format!("cannot {verb} {name}: {}", reply.text().trim())),
        Err(why) => Err(format!("cannot {verb} {name} over {socket}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_stand_in_one_line() {
        let line = "ringway listens on http://127.0.0.1:8000, admin API at http://127.0.0.1:8001\n";
        assert_eq!(addresses(line), Some(["127.0.0.1:8000".parse().unwrap(), "127.0.0.1:8001".parse().unwrap()]));
        assert_eq!(addresses("ringway listens on 127.0.0.1:8000 (tcp)\n"), None);
        assert_eq!(addresses(""), None);
    }
}
