//! The process that replaces this one: started with every listening socket, told what it takes over, waited for, and
//! ended if it does not get ready. When one is wanted, and what follows, the control loop decides.
//!
//! The two speak over a pair of sockets, a line each: what is taken over (JSON); `ready` from the new process, which has
//! adopted the sockets and whose replicas answer; `go` from the old one, which accepts no more from then on. An end of the
//! connection counts as `go`: a process that has died serves nothing. After `go` it is the end of the old process: until
//! then the new one ends no replica at which the old one may have requests.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command as StdCommand;
use std::rc::Rc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::kernel::inherited::{self, FIRST};
use crate::kernel::parent::PARENT;

pub const READY: &str = "ready\n";
pub const GO: &str = "go\n";

/// A socket and the name under which the successor finds it.
pub type NamedSocket = (String, OwnedFd);

/// What becomes of a successor.
#[derive(Debug)]
pub enum SuccessorEvent {
    /// It waits for `go`.
    Ready(SuccessorLink),
    /// It was told to go.
    Went(u32),
    /// It has ended. Why, for the operator.
    Failed(String),
}

/// A successor that is ready.
#[derive(Debug)]
pub struct SuccessorLink {
    pub process: u32,
    stream: UnixStream,
}

/// A successor that is not ready yet.
#[derive(Debug)]
pub struct Successor {
    /// Until it was waited for.
    process: Rc<Cell<Option<Pid>>>,
}

impl Successor {
    /// Starts this program again, as it was started: what lies at its path now, with the same arguments. `limit` bounds the
    /// time until it is ready. Inside a `LocalSet` only.
    pub fn start(
        mut sockets: Vec<NamedSocket>,
        introduction: String,
        limit: Duration,
        events: UnboundedSender<SuccessorEvent>,
    ) -> Result<Successor, String> {
        let why = |error: io::Error| error.to_string();
        let (ours, theirs) = StdUnixStream::pair().map_err(why)?;
        ours.set_nonblocking(true).map_err(why)?;
        let stream = UnixStream::from_std(ours).map_err(why)?;
        sockets.push((inherited::HANDSHAKE.into(), theirs.into()));
        let mut command = Command::from(command(std::env::args_os().collect(), sockets)?);
        let child = command.spawn().map_err(|error| format!("{:?}: {error}", command.as_std().get_program()))?;
        // It holds our copies of the sockets.
        drop(command);
        let process = Rc::new(Cell::new(child.id().and_then(|id| Pid::from_raw(id as i32))));
        spawn_local(follow(child, stream, introduction, limit, process.clone(), events));
        Ok(Successor { process })
    }

    /// Ends it by force: as long as it is not told to go, it has no client.
    pub fn kill(&self) {
        if let Some(process) = self.process.get() {
            kill(process);
        }
    }

    pub fn process(&self) -> Option<u32> {
        self.process.get().map(|process| process.as_raw_nonzero().get() as u32)
    }
}

impl SuccessorLink {
    /// It accepts from now on. The connection is left to be closed by the end of this process, which is how the successor
    /// learns of that.
    pub async fn go(mut self) {
        let _ = self.stream.write_all(GO.as_bytes()).await;
        if let Ok(stream) = self.stream.into_std() {
            let _ = stream.into_raw_fd();
        }
    }
}

/// With what it started, which has the sockets too.
fn kill(process: Pid) {
    let _ = kill_process_group(process, Signal::KILL);
}

fn command(argv: Vec<OsString>, sockets: Vec<NamedSocket>) -> Result<StdCommand, String> {
    let mut argv = argv.into_iter();
    let program = argv.next().ok_or("this process does not know its program")?;
    let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
    let mut command = StdCommand::new(program);
    command
        .args(argv)
        .process_group(0)
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .env_remove("LISTEN_PID")
        .env_remove("WATCHDOG_PID")
        .env_remove(PARENT);
    let mappings = (FIRST..).zip(sockets).map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).map_err(|error| error.to_string())?;
    Ok(command)
}

async fn follow(
    mut child: Child,
    stream: UnixStream,
    introduction: String,
    limit: Duration,
    process: Rc<Cell<Option<Pid>>>,
    events: UnboundedSender<SuccessorEvent>,
) {
    let id = child.id().unwrap_or_default();
    let answered = tokio::select! {
        ended = child.wait() => Err(ended.map_or_else(|error| error.to_string(), |status| status.to_string())),
        stream = timeout(limit, converse(stream, introduction)) => Ok(stream.ok()),
    };
    let event = match answered {
        Ok(Some(Some(stream))) => SuccessorEvent::Ready(SuccessorLink { process: id, stream }),
        Ok(unanswered) => {
            if let Some(process) = process.get() {
                kill(process);
            }
            let _ = child.wait().await;
            process.set(None);
            let why = match unanswered {
                Some(_) => "it does not answer as a Ringway does".into(),
                None => format!("it was not ready within {} ms (--upgrade-timeout)", limit.as_millis()),
            };
            SuccessorEvent::Failed(format!("process {id}: {why}"))
        }
        Err(ended) => {
            process.set(None);
            SuccessorEvent::Failed(format!("process {id} ended before it was ready: {ended}"))
        }
    };
    let is_ready = matches!(event, SuccessorEvent::Ready(_));
    let _ = events.send(event);
    if is_ready {
        // Nothing but its end is left to be noticed: a child that is not waited for stays a zombie.
        let _ = child.wait().await;
        process.set(None);
    }
}

/// The connection, once the other process says that it is ready. One that never does so does not return here: its end or
/// the limit comes.
async fn converse(stream: UnixStream, introduction: String) -> Option<UnixStream> {
    let mut stream = BufReader::new(stream);
    if stream.write_all(format!("{introduction}\n").as_bytes()).await.is_err() {
        return std::future::pending().await;
    }
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(1..) if line == READY => Some(stream.into_inner()),
        Ok(0) | Err(_) => std::future::pending().await,
        Ok(_) => None,
    }
}
