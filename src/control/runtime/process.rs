//! Replicas as child processes on free loopback ports: our own binary, or a program of the user's.
//!
//! Each child has a process group of its own, so that Ctrl-C at a terminal signals the balancer only, and so that what a
//! program starts ends with it. Each asks the kernel to kill it when its parent ends in any way (`RINGWAY_PARENT_PID` is
//! the parent); `ringway exec` does that for a program that is not ours.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::revisions::{Revision, Revisions};
use super::{Failure, FailureKind, InstanceId, Runtime, RuntimeEvent, Spec, Started, process_state};
use crate::core::snapshot::{Endpoint, ServiceId};
use crate::kernel::parent::PARENT;

/// The running program, even if its file has been replaced: in the forked child the link still leads to it.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Another process may bind a free port before the child does, or a connection of ours may leave from it; then the child
/// ends. Why it ended is not known of a program that is not ours.
const START_TRIES: usize = 3;
/// How long a start waits for the child to listen. One that neither listens nor ends is left to its heartbeats.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
const LISTEN_PAUSE: Duration = Duration::from_millis(2);

/// A longer line of a replica's output becomes several in the log.
const LINE_MAX: u64 = 8 * 1024;

pub struct Processes {
    /// With its arguments. Empty: our own binary, as a replica.
    programs: RefCell<Revisions<Vec<OsString>>>,
    children: Rc<RefCell<HashMap<InstanceId, Running>>>,
    /// Starts that are still wanted: a stop ends that.
    starting: RefCell<HashSet<InstanceId>>,
    events: OnceCell<UnboundedSender<RuntimeEvent>>,
}

/// In the table until the process is reaped: as long, its process id is not given to another.
#[derive(Clone)]
struct Running {
    pid: Pid,
    /// No other child gets it.
    port: u16,
    /// How it ended, once it has.
    exit: watch::Receiver<Option<String>>,
    /// Set when `start` succeeds: from then on its end is an event. Before, it is a failure of the start.
    started: Rc<Cell<bool>>,
}

impl Processes {
    /// Each replica is `program` with its arguments; or ours, where it is empty.
    pub fn new(program: Vec<OsString>) -> Result<Processes, Failure> {
        check_program(&program)?;
        let (children, starting, events) = Default::default();
        Ok(Processes { programs: RefCell::new(Revisions::new(program)), children, starting, events })
    }

    /// Of another configuration.
    pub fn add_program(&self, program: Vec<OsString>) -> Revision {
        self.programs.borrow_mut().take(program)
    }

    pub fn revision_of(&self, program: &[OsString]) -> Option<Revision> {
        self.programs.borrow().find(|known| known == program)
    }

    fn command(&self, revision: Revision) -> Command {
        let mut command = Command::new(OWN_PROGRAM);
        let programs = self.programs.borrow();
        let program = programs.get(revision).or(programs.newest()).map(Vec::as_slice).unwrap_or_default();
        if program.is_empty() {
            command.arg("replica").env_clear().stdout(Stdio::null());
            return command;
        }
        // The balancer's settings are not the program's, its token is secret, and the service manager is its own business.
        let is_ours = |name: &OsString| {
            let name = name.as_encoded_bytes();
            [&b"RINGWAY_"[..], b"LISTEN_FD", b"WATCHDOG_"].iter().any(|prefix| name.starts_with(prefix))
                || name == b"NOTIFY_SOCKET"
        };
        let ours = std::env::vars_os().map(|(name, _)| name).filter(is_ours);
        for name in ours {
            command.env_remove(name);
        }
        command.args(["exec", "--"]).args(program).stdout(Stdio::piped());
        command
    }

    fn spawn(&self, spec: &Spec, port: u16) -> io::Result<Running> {
        let mut child = self
            .command(spec.revision)
            .env("SERVER_ID", &*spec.name)
            .env("PORT", port.to_string())
            .env(PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
        let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
        if let Some(stderr) = child.stderr.take() {
            spawn_local(log_lines(spec.name.to_string(), stderr));
        }
        if let Some(stdout) = child.stdout.take() {
            spawn_local(log_lines(spec.name.to_string(), stdout));
        }
        let (sender, exit) = watch::channel(None);
        let running = Running { pid, port, exit, started: Rc::default() };
        self.children.borrow_mut().insert(spec.instance, running.clone());
        spawn_local(self.reap(child, spec.instance, running.clone(), sender));
        Ok(running)
    }

    /// On another port if the process ends before it listens, unless it was stopped.
    async fn try_start(&self, spec: &Spec) -> Result<Started, Failure> {
        let mut ended = String::new();
        for _ in 0..START_TRIES {
            let port = self.free_port().map_err(|error| refused(format!("no free port on 127.0.0.1: {error}")))?;
            let spawned = self.spawn(spec, port);
            let mut running = spawned.map_err(|error| refused(format!("a process cannot be started: {error}")))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match listens(&mut running, address).await {
                Ok(()) => {
                    running.started.set(true);
                    let handle = format!("process {}", running.pid.as_raw_nonzero());
                    return Ok(Started { endpoint: Endpoint::Tcp(address), handle, weight: 1 });
                }
                Err(why) => ended = why,
            }
            if !self.starting.borrow().contains(&spec.instance) {
                break;
            }
        }
        Err(refused(format!("its process ended at once: {ended}")))
    }

    /// A port that was free a moment ago, and that no child has which may not have bound it yet.
    fn free_port(&self) -> io::Result<u16> {
        free_port(|port| self.children.borrow().values().any(|child| child.port == port))
    }

    /// Waits for the child's end, removes it from the table at once, and reports it.
    fn reap(
        &self,
        mut child: Child,
        instance: InstanceId,
        running: Running,
        exit: watch::Sender<Option<String>>,
    ) -> impl Future<Output = ()> + 'static {
        let (children, events) = (self.children.clone(), self.events.get().cloned());
        async move {
            let why = match child.wait().await {
                Ok(status) => describe(status),
                Err(error) => format!("it cannot be waited for: {error}"),
            };
            // What it started and left behind is a part of it.
            let _ = kill_process_group(running.pid, Signal::KILL);
            children.borrow_mut().remove(&instance);
            exit.send_replace(Some(why.clone()));
            if let Some(events) = events.filter(|_| running.started.get()) {
                let _ = events.send(RuntimeEvent::Exited { instance, why });
            }
        }
    }
}

impl Runtime for Processes {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        self.starting.borrow_mut().insert(spec.instance);
        let result = self.try_start(spec).await;
        self.starting.borrow_mut().remove(&spec.instance);
        result
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), Failure> {
        self.starting.borrow_mut().remove(&instance);
        let running = self.children.borrow().get(&instance).cloned();
        let Some(mut running) = running else { return Ok(()) };
        if !grace.is_zero() {
            signal(running.pid, Signal::TERM)?;
            if timeout(grace, until_exit(&mut running.exit)).await.is_ok() {
                return Ok(());
            }
        }
        if self.children.borrow().contains_key(&instance) {
            signal(running.pid, Signal::KILL)?;
        }
        until_exit(&mut running.exit).await;
        Ok(())
    }

    async fn attach(&self, events: UnboundedSender<RuntimeEvent>) -> Result<Vec<(Spec, Started)>, Failure> {
        let _ = self.events.set(events);
        Ok(Vec::new())
    }

    fn settle(&self, _: ServiceId, revision: Revision) {
        self.programs.borrow_mut().settle(revision);
    }

    async fn suspension(&self, instance: InstanceId) -> Option<String> {
        let pid = self.children.borrow().get(&instance)?.pid;
        process_state::suspension(pid.as_raw_nonzero().get())
    }

    fn is_own_child(&self, process: Pid) -> bool {
        self.children.borrow().values().any(|child| child.pid == process)
    }
}

/// Its first word can be run. None is our own program.
pub fn check_program(program: &[OsString]) -> Result<(), Failure> {
    match program.first().filter(|name| !is_executable(name)) {
        Some(name) => {
            Err(refused(format!("cannot run {}: there is no such program, or it may not be executed", name.display())))
        }
        None => Ok(()),
    }
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Refused, message }
}

/// With all that it started. Only for a process in the table, which has not been reaped.
fn signal(pid: Pid, signal: Signal) -> Result<(), Failure> {
    kill_process_group(pid, signal)
        .map_err(|error| refused(format!("process {} cannot be signalled: {error}", pid.as_raw_nonzero())))
}

/// The kernel chooses again while those that are taken are held.
fn free_port(is_taken: impl Fn(u16) -> bool) -> io::Result<u16> {
    let mut held = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if !is_taken(port) {
            return Ok(port);
        }
        held.push(listener);
    }
}

/// By its path, or in one of the folders of PATH.
fn is_executable(name: &OsStr) -> bool {
    let is_program =
        |path: &Path| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    let path = Path::new(name);
    if name.as_encoded_bytes().contains(&b'/') {
        return is_program(path);
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| is_program(&folder.join(path)))
}

/// Waits until a connect to `address` succeeds, the child ends (`Err` is how) or the limit passes.
async fn listens(running: &mut Running, address: SocketAddr) -> Result<(), String> {
    let limit = Instant::now() + LISTEN_LIMIT;
    while Instant::now() < limit {
        tokio::select! {
            biased;
            why = until_exit(&mut running.exit) => return Err(why),
            () = sleep(LISTEN_PAUSE) => {}
        }
        // The listener may be another process's; then the child could not bind, and has ended or is about to.
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
    }
    Ok(())
}

async fn until_exit(exit: &mut watch::Receiver<Option<String>>) -> String {
    let exit = exit.wait_for(Option::is_some).await;
    exit.ok().and_then(|why| why.clone()).unwrap_or_else(|| "it was dropped".into())
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    }
}

/// Logs what a replica prints, under its name.
async fn log_lines(name: String, output: impl AsyncRead + Unpin) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while matches!((&mut output).take(LINE_MAX).read_until(b'\n', &mut line).await, Ok(1..)) {
        // It may hold anything; the log shows it as text.
        log::info!(target: "replica", "{name}: {}", String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports are given before they are bound: without a look at those given, some come twice.
    #[test]
    fn a_port_is_not_given_twice() {
        let mut given = HashSet::new();
        for _ in 0..4_000 {
            let port = free_port(|port| given.contains(&port)).unwrap();
            assert!(given.insert(port), "{port}");
        }
    }
}
