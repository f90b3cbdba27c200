//! Replicas as child processes of our own binary, on free loopback ports.
//!
//! Each child has a process group of its own, so that Ctrl-C at a terminal signals the balancer only. Each asks the kernel
//! to kill it when its parent ends in any way (`RINGWAY_PARENT_PID` is the parent).

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::{Failure, FailureKind, InstanceId, Runtime, RuntimeEvent, Spec, Started, process_state};
use crate::core::snapshot::Endpoint;
use crate::kernel::parent::PARENT;

/// The running program, even if its file has been replaced: in the forked child the link still leads to it.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Another process may bind a free port before the child does; then another port is tried.
const PORT_TRIES: usize = 5;
/// How long a start waits for the child to listen. One that neither listens nor ends is left to its heartbeats.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
const LISTEN_PAUSE: Duration = Duration::from_millis(2);

pub struct Processes {
    program: PathBuf,
    children: Rc<RefCell<HashMap<InstanceId, Running>>>,
    events: OnceCell<UnboundedSender<RuntimeEvent>>,
}

/// In the table until the process is reaped: as long, its process id is not given to another.
#[derive(Clone)]
struct Running {
    pid: Pid,
    /// How it ended, once it has.
    exit: watch::Receiver<Option<String>>,
    /// Set when `start` succeeds: from then on its end is an event. Before, it is a failure of the start.
    started: Rc<Cell<bool>>,
}

impl Default for Processes {
    fn default() -> Self {
        Processes::of(OWN_PROGRAM.into())
    }
}

impl Processes {
    /// Runs another program that knows the subcommand `replica`.
    pub fn of(program: PathBuf) -> Processes {
        Processes { program, children: Rc::default(), events: OnceCell::new() }
    }

    fn spawn(&self, spec: &Spec, port: u16) -> io::Result<Running> {
        let mut child = Command::new(&self.program)
            .arg("replica")
            // The balancer's settings are not the replica's, and its token is secret.
            .env_clear()
            .env("SERVER_ID", &*spec.name)
            .env("PORT", port.to_string())
            .env(PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
        let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
        if let Some(stderr) = child.stderr.take() {
            spawn_local(log_lines(spec.name.to_string(), stderr));
        }
        let (sender, exit) = watch::channel(None);
        let running = Running { pid, exit, started: Rc::default() };
        self.children.borrow_mut().insert(spec.instance, running.clone());
        spawn_local(self.reap(child, spec.instance, running.started.clone(), sender));
        Ok(running)
    }

    /// Waits for the child's end, removes it from the table at once, and reports it.
    fn reap(
        &self,
        mut child: Child,
        instance: InstanceId,
        started: Rc<Cell<bool>>,
        exit: watch::Sender<Option<String>>,
    ) -> impl Future<Output = ()> + 'static {
        let (children, events) = (self.children.clone(), self.events.get().cloned());
        async move {
            let why = match child.wait().await {
                Ok(status) => describe(status),
                Err(error) => format!("it cannot be waited for: {error}"),
            };
            children.borrow_mut().remove(&instance);
            exit.send_replace(Some(why.clone()));
            if let Some(events) = events.filter(|_| started.get()) {
                let _ = events.send(RuntimeEvent::Exited { instance, why });
            }
        }
    }
}

impl Runtime for Processes {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        let mut last_error = String::new();
        for _ in 0..PORT_TRIES {
            let port = free_port().map_err(|error| refused(format!("no free port on 127.0.0.1: {error}")))?;
            let mut running = self
                .spawn(spec, port)
                .map_err(|error| refused(format!("cannot run {}: {error}", self.program.display())))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match listens(&mut running, address).await {
                Ok(()) => {
                    running.started.set(true);
                    let handle = format!("process {}", running.pid.as_raw_nonzero());
                    return Ok(Started { endpoint: Endpoint::Tcp(address), handle, weight: 1 });
                }
                Err(why) if TcpListener::bind(address).is_ok() => {
                    return Err(refused(format!("its process ended at once: {why}")));
                }
                Err(why) => {
                    last_error = format!("another process took port {port}, and the replica's process ended: {why}")
                }
            }
        }
        Err(refused(last_error))
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), Failure> {
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

    async fn suspension(&self, instance: InstanceId) -> Option<String> {
        let pid = self.children.borrow().get(&instance)?.pid;
        process_state::suspension(pid.as_raw_nonzero().get())
    }

    fn can_start(&self) -> bool {
        true
    }
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Refused, message }
}

/// Only for a process in the table, which has not been reaped.
fn signal(pid: Pid, signal: Signal) -> Result<(), Failure> {
    kill_process(pid, signal)
        .map_err(|error| refused(format!("process {} cannot be signalled: {error}", pid.as_raw_nonzero())))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
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

/// Logs a replica's own log lines under its name.
async fn log_lines(name: String, stderr: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log::info!(target: "replica", "{name}: {line}");
    }
}
