//! Replicas as child processes of our own binary, on free loopback ports. Nothing to install, nothing to configure.
//!
//! Each child is in a process group of its own, so that Ctrl-C at a terminal reaches the balancer alone, and each asks
//! the kernel to be killed when its parent dies, whatever kills that (`RINGWAY_PARENT_PID` tells it who that is).

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

use super::{Event, Failure, FailureKind, InstanceId, Runtime, Spec, Started};
use crate::core::snapshot::Endpoint;
use crate::kernel::parent::PARENT;

/// Our own program, also when its file was replaced meanwhile (in the forked child this link still leads to us).
const OURSELVES: &str = "/proc/self/exe";
/// A free port can be taken before the child binds it; another is tried.
const PORT_TRIES: usize = 5;
/// A child that has neither ended nor listened by then is handed over; its heartbeats decide.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);
const LISTEN_LOOK: Duration = Duration::from_millis(2);

pub struct Processes {
    program: PathBuf,
    children: Rc<RefCell<HashMap<InstanceId, Running>>>,
    events: OnceCell<UnboundedSender<Event>>,
}

/// In the table exactly as long as the process is not reaped: its number is nobody else's.
#[derive(Clone)]
struct Running {
    pid: Pid,
    /// How it ended, once it did.
    gone: watch::Receiver<Option<String>>,
    /// Set when `start` returned it: from then on its end is an event. Before, it is the start's failure.
    handed_over: Rc<Cell<bool>>,
}

impl Default for Processes {
    fn default() -> Self {
        Processes::of(OURSELVES.into())
    }
}

impl Processes {
    /// Children of another binary that knows `replica`: a test's.
    pub fn of(program: PathBuf) -> Processes {
        Processes { program, children: Rc::default(), events: OnceCell::new() }
    }

    fn spawn(&self, spec: &Spec, port: u16) -> io::Result<Running> {
        let mut child = Command::new(&self.program)
            .arg("replica")
            // Our settings are not theirs, and a token in our environment is nobody else's.
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
            spawn_local(pass_on(spec.name.to_string(), stderr));
        }
        let (sender, gone) = watch::channel(None);
        let running = Running { pid, gone, handed_over: Rc::default() };
        self.children.borrow_mut().insert(spec.instance, running.clone());
        spawn_local(self.reap(child, spec.instance, running.handed_over.clone(), sender));
        Ok(running)
    }

    /// Waits for the child's end, takes it out of the table in the same moment, and says so.
    fn reap(
        &self,
        mut child: Child,
        instance: InstanceId,
        handed_over: Rc<Cell<bool>>,
        gone: watch::Sender<Option<String>>,
    ) -> impl Future<Output = ()> + 'static {
        let (children, events) = (self.children.clone(), self.events.get().cloned());
        async move {
            let why = match child.wait().await {
                Ok(status) => readable(status),
                Err(error) => format!("it cannot be waited for: {error}"),
            };
            children.borrow_mut().remove(&instance);
            gone.send_replace(Some(why.clone()));
            if let Some(events) = events.filter(|_| handed_over.get()) {
                let _ = events.send(Event::Exited { instance, why });
            }
        }
    }
}

impl Runtime for Processes {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        let mut last = String::new();
        for _ in 0..PORT_TRIES {
            let port = free_port().map_err(|error| refused(format!("no free port on 127.0.0.1: {error}")))?;
            let mut running = self
                .spawn(spec, port)
                .map_err(|error| refused(format!("cannot run {}: {error}", self.program.display())))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match listens(&mut running, address).await {
                Ok(()) => {
                    running.handed_over.set(true);
                    let handle = format!("process {}", running.pid.as_raw_nonzero());
                    return Ok(Started { endpoint: Endpoint::Tcp(address), handle, weight: 1 });
                }
                Err(why) if TcpListener::bind(address).is_ok() => {
                    return Err(refused(format!("its process ended at once: {why}")));
                }
                Err(why) => last = format!("port {port} was taken by another, and the process ended: {why}"),
            }
        }
        Err(refused(last))
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), Failure> {
        let running = self.children.borrow().get(&instance).cloned();
        let Some(mut running) = running else { return Ok(()) };
        if !grace.is_zero() {
            signal(running.pid, Signal::TERM)?;
            if timeout(grace, until_gone(&mut running.gone)).await.is_ok() {
                return Ok(());
            }
        }
        if self.children.borrow().contains_key(&instance) {
            signal(running.pid, Signal::KILL)?;
        }
        until_gone(&mut running.gone).await;
        Ok(())
    }

    async fn attach(&self, events: UnboundedSender<Event>) -> Result<Vec<(Spec, Started)>, Failure> {
        let _ = self.events.set(events);
        Ok(Vec::new())
    }

    fn can_start(&self) -> bool {
        true
    }
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Refused, message }
}

/// Called only while the process is in the table, so not yet reaped.
fn signal(pid: Pid, signal: Signal) -> Result<(), Failure> {
    kill_process(pid, signal)
        .map_err(|error| refused(format!("process {} takes no signal: {error}", pid.as_raw_nonzero())))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Waits until somebody listens there or the child ended; `Err` is how it ended.
async fn listens(running: &mut Running, address: SocketAddr) -> Result<(), String> {
    let limit = Instant::now() + LISTEN_LIMIT;
    while Instant::now() < limit {
        tokio::select! {
            biased;
            why = until_gone(&mut running.gone) => return Err(why),
            () = sleep(LISTEN_LOOK) => {}
        }
        // Somebody else's listener answers too, but then the child could not bind, and has ended or soon will.
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
    }
    Ok(())
}

async fn until_gone(gone: &mut watch::Receiver<Option<String>>) -> String {
    let ended = gone.wait_for(Option::is_some).await;
    ended.ok().and_then(|why| why.clone()).unwrap_or_else(|| "it was dropped".into())
}

fn readable(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    }
}

/// A replica's own log lines go into ours, under its name.
async fn pass_on(name: String, stderr: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log::info!(target: "replica", "{name}: {line}");
    }
}
