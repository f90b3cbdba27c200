//! The balancer under test: a child process on free ports, its log, and the faults injected into its replicas. It measures
//! nothing but when faults were injected and repaired.
//!
//! The balancer never outlives the testbed: dropped, the testbed drains it; if this process is killed, the kernel signals it.

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

use super::client::{HttpClient, HttpResponse};
use super::{ExperimentRuntime, ExperimentSettings, check_interrupted, is_interrupted};
use crate::kernel::parent::PARENT;

pub struct Testbed {
    balancer: Child,
    pub data: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<BalancerLog>,
    runtime: ExperimentRuntime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// SIGKILL, or `docker kill`.
    Kill,
    /// SIGSTOP, or `docker pause`: its connections stay open and it never answers.
    Pause,
}

/// How a replica was replaced after an injected fault.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub replica: String,
    pub injected_at: Instant,
    /// It left the ring.
    pub removed_at: Instant,
    /// Its replacement joined the ring.
    pub replaced_at: Instant,
}

/// Lines that the balancer logged, and when each came.
#[derive(Default)]
struct BalancerLog {
    lines: Mutex<Vec<(Instant, String)>>,
    changed: Condvar,
}

/// For a start or a replacement. Generous: a container takes longer than a process.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// For the balancer to drain and remove its containers: a busy engine takes half a minute for twenty.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Testbed {
    /// A balancer with all its replicas up. `flags` are added to those of `ringway run`.
    pub fn start(settings: &ExperimentSettings, replicas: usize, flags: &[&str]) -> Result<Testbed, String> {
        Testbed::over(settings, replicas, &[own_replicas(settings, replicas), owned(flags)].concat())
    }

    /// A balancer in front of servers that run already, with all of them up.
    pub fn in_front_of(
        settings: &ExperimentSettings,
        servers: &[SocketAddr],
        flags: &[&str],
    ) -> Result<Testbed, String> {
        let listed = servers.iter().map(|server| format!("--replica={server}"));
        Testbed::over(settings, servers.len(), &[listed.collect(), owned(flags)].concat())
    }

    fn over(settings: &ExperimentSettings, replicas: usize, flags: &[String]) -> Result<Testbed, String> {
        let mut balancer = spawn(flags)?;
        let log = Arc::new(BalancerLog::default());
        if let Some(stderr) = balancer.stderr.take() {
            let log = log.clone();
            thread::spawn(move || log.follow(stderr));
        }
        let addresses = balancer.stdout.take().and_then(read_addresses);
        let [data, admin] = addresses.ok_or_else(|| start_error(&mut balancer, &log))?;
        let testbed = Testbed { balancer, data, admin, log, runtime: settings.runtime };
        testbed
            .await_any(0, &[&format!("{replicas} of {replicas} live")])
            .map_err(|why| format!("the balancer did not get its {replicas} replicas up: {why}"))?;
        Ok(testbed)
    }

    /// A call of the admin API.
    pub fn call(&self, method: &str, target: &str, body: &str) -> Result<HttpResponse, String> {
        let response =
            HttpClient::connect(self.admin).and_then(|mut client| client.request(method, target, &[], body.as_bytes()));
        response.map_err(|why| format!("{method} {target}: {why}"))
    }

    /// The replicas' names, in order.
    pub fn names(&self) -> Result<Vec<String>, String> {
        let response = self.call("GET", "/rep", "")?;
        let body: serde_json::Value = serde_json::from_slice(&response.body).map_err(|why| format!("/rep: {why}"))?;
        let names = body["message"]["replicas"].as_array().ok_or("/rep names no replicas")?;
        Ok(names.iter().filter_map(|name| name.as_str().map(String::from)).collect())
    }

    /// Every line that the balancer logged so far, and when each came.
    pub fn logged(&self) -> Vec<(Instant, String)> {
        self.log.lines().clone()
    }

    /// Injects a fault into a replica and waits until it is replaced.
    pub fn inject(&self, name: &str, fault: InjectedFault) -> Result<Recovery, String> {
        let start = self.log.lines().len();
        let injected_at = match self.runtime {
            ExperimentRuntime::Process => self.signal(name, fault),
            ExperimentRuntime::Docker => call_engine(name, fault),
        }?;
        let [died, down, any] = ["died", "down", ""].map(|word| format!(" {name}: {word}"));
        let removed_at = self.await_any(start, &[&died, &down])?;
        let replaced_at = self.await_all(start, &[&any, "healed"])?;
        Ok(Recovery { replica: name.into(), injected_at, removed_at, replaced_at })
    }

    /// When the first log line from number `start` on came that contains one of `words`.
    fn await_any(&self, start: usize, words: &[&str]) -> Result<Instant, String> {
        self.await_line(start, words, |line| words.iter().any(|word| line.contains(word)))
    }

    /// When the first log line from number `start` on came that contains each of `words`.
    fn await_all(&self, start: usize, words: &[&str]) -> Result<Instant, String> {
        self.await_line(start, words, |line| words.iter().all(|word| line.contains(word)))
    }

    fn await_line(&self, start: usize, words: &[&str], matches: impl Fn(&str) -> bool) -> Result<Instant, String> {
        let begin = Instant::now();
        let mut lines = self.log.lines();
        loop {
            if let Some((at, _)) = lines.iter().skip(start).find(|(_, line)| matches(line)) {
                return Ok(*at);
            }
            check_interrupted()?;
            if begin.elapsed() > START_TIMEOUT {
                let last = lines.last().map_or("nothing was logged", |(_, line)| line.as_str());
                let (words, limit_s) = (words.join(" "), START_TIMEOUT.as_secs());
                return Err(format!("`{words}` was not logged within {limit_s} s; the last line: {last}"));
            }
            lines = self.log.changed.wait_timeout(lines, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn signal(&self, name: &str, fault: InjectedFault) -> Result<Instant, String> {
        let children = children(self.balancer.id());
        let pid = children.get(name).ok_or_else(|| format!("there is no process of {name} to signal"))?;
        let signal = if fault == InjectedFault::Kill { Signal::KILL } else { Signal::STOP };
        let now = Instant::now();
        kill_process(*pid, signal).map_err(|why| format!("cannot signal {name}: {why}"))?;
        Ok(now)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        stop(&mut self.balancer);
    }
}

fn stop(child: &mut Child) {
    let pid = Pid::from_child(child);
    let _ = kill_process(pid, Signal::TERM);
    let begin = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begin.elapsed() > STOP_TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// In a process group of its own: Ctrl-C signals this process alone, which then stops the balancer in order.
fn spawn(flags: &[String]) -> Result<Child, String> {
    let binary = std::env::current_exe().map_err(|why| format!("cannot find my own binary: {why}"))?;
    let mut command = Command::new(binary);
    command.args(["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--admin-on-data-port=true"]).args(flags);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGWAY_")) {
        command.env_remove(name);
    }
    command.env(PARENT, std::process::id().to_string()).env("RUST_LOG", "info");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().map_err(|why| format!("cannot start a balancer: {why}"))
}

/// The flags by which a balancer starts its replicas itself.
fn own_replicas(settings: &ExperimentSettings, replicas: usize) -> Vec<String> {
    let mut flags = vec![format!("--replicas={replicas}")];
    if settings.runtime == ExperimentRuntime::Docker {
        let own = format!("ringway-experiment-{}", std::process::id());
        flags.extend(owned(&["--runtime=docker", "--on-exit=remove", "--docker-discover=false"]));
        flags.push(format!("--docker-image={}", settings.docker_image));
        flags.extend([format!("--docker-network={own}"), format!("--docker-cluster={own}")]);
    }
    flags
}

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| flag.to_string()).collect()
}

/// The data and admin addresses of the balancer's first line, or `None` if it does not come in time.
fn read_addresses(stdout: impl Read + Send + 'static) -> Option<[SocketAddr; 2]> {
    let (sender, first_line) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(line);
    });
    let begin = Instant::now();
    while begin.elapsed() < START_TIMEOUT && !is_interrupted() {
        match first_line.recv_timeout(POLL_INTERVAL) {
            Ok(line) => return parse_addresses(&line),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

fn parse_addresses(line: &str) -> Option<[SocketAddr; 2]> {
    let mut named = line.split("http://").skip(1).map(|rest| rest.split([',', ' ', '\n']).next().unwrap_or_default());
    Some([named.next()?.parse().ok()?, named.next()?.parse().ok()?])
}

/// Why the balancer did not start: the last line of its log.
fn start_error(balancer: &mut Child, log: &BalancerLog) -> String {
    stop(balancer);
    // The thread that follows the log may not have read it yet.
    let begin = Instant::now();
    while log.lines().is_empty() && begin.elapsed() < POLL_INTERVAL * 10 {
        thread::sleep(POLL_INTERVAL / 10);
    }
    let lines = log.lines();
    format!("the balancer did not start: {}", lines.last().map_or("it logged nothing", |(_, line)| line.as_str()))
}

impl BalancerLog {
    fn follow(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            self.lines().push((Instant::now(), line));
            self.changed.notify_all();
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

/// Kills or pauses a container through the Docker engine's API.
fn call_engine(name: &str, fault: InjectedFault) -> Result<Instant, String> {
    let socket = std::env::var("DOCKER_HOST").ok().and_then(|host| Some(host.strip_prefix("unix://")?.to_string()));
    let socket = socket.unwrap_or_else(|| "/var/run/docker.sock".into());
    let verb = if fault == InjectedFault::Kill { "kill" } else { "pause" };
    let target = format!("/containers/{name}/{verb}");
    let now = Instant::now();
    let response = UnixStream::connect(&socket).and_then(|stream| {
        HttpClient::over(stream, "docker".into()).request("POST", &target, &[("Content-Length", "0")], b"")
    });
    match response {
        Ok(response) if response.status < 300 => Ok(now),
        Ok(response) => Err(format!("cannot {verb} {name}: {}", response.text().trim())),
        Err(why) => Err(format!("cannot {verb} {name} over {socket}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_both_addresses() {
        let line = "ringway listens on http://127.0.0.1:8000, admin API at http://127.0.0.1:8001\n";
        assert_eq!(parse_addresses(line), Some(["127.0.0.1:8000".parse().unwrap(), "127.0.0.1:8001".parse().unwrap()]));
        assert_eq!(parse_addresses("ringway listens on 127.0.0.1:8000 (tcp)\n"), None);
        assert_eq!(parse_addresses(""), None);
    }
}
