//! What the service manager is told (`sd_notify(3)`, `Type=notify`): ready, reloading, stopping, a status line, and signs of
//! life. Without `NOTIFY_SOCKET` nothing is sent. What happens in the balancer is decided elsewhere.
//!
//! The crate `sd-notify` is not used: it opens a socket for each message and waits while the manager's queue is full, and
//! heartbeats must not wait; and it knows no abstract socket, which container managers give.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

/// How long a message is tried to be sent that the manager must not miss: of a new main process, it would take the end of
/// the old one for the end of the service; of a reload, it would wait for its end.
const SEND_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// The connection to the manager, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// A sign of life is wanted at least so often.
    watchdog: Option<Duration>,
    /// Messages that found the manager's queue full, in their order. A task sends them when there is room.
    unsent: RefCell<VecDeque<String>>,
}

impl ServiceManager {
    pub fn from_environment() -> ServiceManager {
        let path = std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty());
        let socket = path.and_then(|path| match connect(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn!("NOTIFY_SOCKET={path}: the service manager cannot be told anything: {error}");
                None
            }
        });
        let watchdog = watchdog(|name| std::env::var(name).ok(), std::process::id());
        ServiceManager { watchdog: watchdog.filter(|_| socket.is_some()), socket, unsent: RefCell::default() }
    }

    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// How often `ping` is wanted: twice as often as the manager asks for.
    pub fn ping_every(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// This process is the service, and serves: for the first time, in place of another, or after a reload.
    pub fn ready(self: &Rc<Self>, status: &str) {
        self.send(format!("MAINPID={}\nREADY=1\nSTATUS={status}\n", std::process::id()));
    }

    /// The configuration is read again. `ready` ends it.
    pub fn reloading(self: &Rc<Self>) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(format!("RELOADING=1\nMONOTONIC_USEC={usec}\n"));
    }

    pub fn stopping(self: &Rc<Self>, status: &str) {
        self.send(format!("STOPPING=1\nSTATUS={status}\n"));
    }

    pub fn status(self: &Rc<Self>, status: &str) {
        self.send(format!("STATUS={status}\n"));
    }

    /// Only now: a manager that reads nothing has signs of life in its queue.
    pub fn ping(&self) {
        if let Err(error) = self.try_send("WATCHDOG=1\n") {
            log::debug!("the service manager got no sign of life: {error}");
        }
    }

    /// Another process is the service from now on.
    pub async fn main_process(&self, process: u32) {
        let by = Instant::now() + SEND_LIMIT;
        while let Err(error) = self.try_send(&format!("MAINPID={process}\n")) {
            if error.kind() != ErrorKind::WouldBlock || Instant::now() >= by {
                return log::warn!("the service manager does not know that process {process} has taken over: {error}");
            }
            sleep(PAUSE).await;
        }
    }

    /// A message that finds the manager's queue full is sent later, behind those before it.
    fn send(self: &Rc<Self>, message: String) {
        let waits = !self.unsent.borrow().is_empty();
        let result = if waits { Err(ErrorKind::WouldBlock.into()) } else { self.try_send(&message) };
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.unsent.borrow_mut().push_back(message);
                if !waits {
                    spawn_local(self.clone().send_unsent());
                }
            }
            Err(error) => log::debug!("the service manager was not told {message:?}: {error}"),
        }
    }

    async fn send_unsent(self: Rc<Self>) {
        let mut by = Instant::now() + SEND_LIMIT;
        loop {
            let Some(message) = self.unsent.borrow().front().cloned() else { return };
            match self.try_send(&message) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < by => {
                    sleep(PAUSE).await;
                    continue;
                }
                Err(error) => log::warn!("the service manager was not told {message:?}: {error}"),
                Ok(()) => by = Instant::now() + SEND_LIMIT,
            }
            self.unsent.borrow_mut().pop_front();
        }
    }

    fn try_send(&self, message: &str) -> io::Result<()> {
        let Some((socket, address)) = &self.socket else { return Ok(()) };
        socket.send_to_addr(message.as_bytes(), address).map(drop)
    }
}

fn connect(path: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// `WATCHDOG_PID` tells whose pings are wanted; unset, those of any process (`sd_watchdog_enabled(3)`).
fn watchdog(variable: impl Fn(&str) -> Option<String>, process: u32) -> Option<Duration> {
    let is_ours = variable("WATCHDOG_PID").is_none_or(|wanted| wanted.parse() == Ok(process));
    let usec = variable("WATCHDOG_USEC")?.parse().ok().filter(|usec| *usec > 0 && is_ours)?;
    Some(Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More messages than a socket's queue holds.
    #[tokio::test(flavor = "local")]
    async fn a_message_that_finds_the_queue_full_comes_later_and_in_order() {
        let path = std::env::temp_dir().join(format!("ringway-notify-queue-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let queue = UnixDatagram::bind(&path).unwrap();
        queue.set_nonblocking(true).unwrap();
        let socket = connect(path.to_str().unwrap()).ok();
        let manager = Rc::new(ServiceManager { socket, ..ServiceManager::default() });
        while manager.try_send("WATCHDOG=1\n").is_ok() {}
        let sent: Vec<String> = (0..20).map(|n| format!("STATUS={n}\n")).collect();
        (0..20).for_each(|n| manager.status(&n.to_string()));
        manager.ping();
        let mut received = Vec::new();
        while received.len() < sent.len() {
            let mut message = [0; 64];
            match queue.recv(&mut message) {
                Ok(len) if message.starts_with(b"WATCHDOG") => assert!(len > 0),
                Ok(len) => received.push(String::from_utf8_lossy(&message[..len]).into_owned()),
                Err(_) => sleep(PAUSE).await,
            }
        }
        let _ = std::fs::remove_file(&path);
        assert_eq!(received, sent);
    }

    #[test]
    fn pings_are_wanted_of_the_process_that_is_named() {
        let wanted = |usec: &str, pid: Option<&str>| {
            watchdog(|name| if name == "WATCHDOG_USEC" { Some(usec.into()) } else { pid.map(Into::into) }, 7)
        };
        assert_eq!(wanted("3000000", None), Some(Duration::from_secs(3)));
        assert_eq!(wanted("3000000", Some("7")), Some(Duration::from_secs(3)));
        assert_eq!(wanted("3000000", Some("8")), None);
        assert_eq!(wanted("0", None), None);
        assert_eq!(wanted("soon", None), None);
    }
}
