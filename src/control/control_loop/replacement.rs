//! Turns of the control loop in an upgrade, as predecessor and as successor, and the messages to the service manager
//! (`sd_notify(3)`). The handshake of the two processes is in `successor` and `predecessor`.

use std::rc::Rc;

use log::Level;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::{ControlLoop, write};
use crate::control::predecessor::Introduction;
use crate::control::registry::{Command, UPGRADE_UNDER_WAY};
use crate::control::runtime::Runtime;
use crate::control::service_manager::ServiceManager;
use crate::control::successor::SuccessorEvent;
use crate::core::snapshot::Lifecycle;

/// What the service manager knows.
pub(super) struct Announcer {
    manager: Rc<ServiceManager>,
    next_ping: Option<Instant>,
    is_ready: bool,
    /// A worker that had no turn was logged.
    silent: Option<usize>,
    status: String,
}

impl Announcer {
    pub fn new() -> Announcer {
        let manager = Rc::new(ServiceManager::from_environment());
        let next_ping = manager.ping_every().map(|every| Instant::now() + every);
        Announcer { manager, next_ping, is_ready: false, silent: None, status: String::new() }
    }

    pub fn next_ping(&self) -> Option<Instant> {
        self.next_ping
    }
}

impl ControlLoop {
    /// SIGUSR2. It begins when nothing is under way that the new process could not know of.
    pub(super) fn upgrade(&mut self) {
        let refusal = match () {
            () if std::process::id() == 1 => {
                Some("as process 1 its end would be the container's: start another container")
            }
            () if self.core.is_stopping() => Some("this balancer is stopping"),
            () if self.core.is_standing_by() => Some("this balancer has not taken over yet"),
            () if self.upgrade.is_wanted() => Some("an upgrade is under way already"),
            () => None,
        };
        if let Some(why) = refusal {
            return write(Level::Warn, &format!("SIGUSR2: no upgrade: {why}"));
        }
        self.upgrade.want();
        let now = self.now();
        self.apply(Command::Hold(UPGRADE_UNDER_WAY), now);
    }

    /// After each turn.
    pub(super) fn advance_replacement(&mut self) {
        if let Some(give_up_at) = self.upgrade.waits_until() {
            if self.core.is_quiet() && self.reload.is_none() {
                self.start_successor();
            } else if give_up_at <= Instant::now() {
                self.upgrade_failed("an admin call, a reload or the start of a replica is still under way");
            }
        }
        if !self.core.is_standing_by() {
            self.upgrade.own_admin_file();
        } else if self.core.can_take_over()
            && let Some(predecessor) = self.predecessor.take()
        {
            self.core.say_ready();
            let commands = self.commands.clone();
            spawn_local(async move {
                let process = predecessor.introduction.process;
                let predecessor = predecessor.take_over().await;
                write(Level::Info, &format!("taken over from process {process}"));
                let _ = commands.send(Command::Enter(Lifecycle::Serving));
                predecessor.ended().await;
                log::debug!("process {process} has ended");
                let _ = commands.send(Command::PredecessorEnded);
            });
        }
    }

    fn start_successor(&mut self) {
        let (docker_run_ids, locks) = self.runtime.lend_all();
        let introduction = Introduction {
            process: std::process::id(),
            replicas: self.core.for_successor(),
            docker_run_ids,
            sticky_key: self.configuration.sticky_key().to_text(),
        };
        match self.upgrade.start(&introduction, locks) {
            Ok(process) => write(Level::Info, &format!("SIGUSR2: process {process} starts, to replace this one")),
            Err(why) => self.upgrade_failed(&format!("it cannot be started: {why}")),
        }
    }

    fn upgrade_failed(&mut self, why: &str) {
        self.operations.count_failed_upgrade();
        write(Level::Error, &format!("the upgrade failed, this process serves on: {why}"));
        self.end_upgrade();
    }

    /// A successor that is not ready is ended, and all is as before.
    pub(super) fn end_upgrade(&mut self) {
        if !self.upgrade.is_wanted() || self.upgrade.is_committed() {
            return;
        }
        self.upgrade.end();
        self.runtime.take_back();
        let now = self.now();
        self.apply(Command::Release, now);
    }

    pub(super) fn successor(&mut self, event: SuccessorEvent) {
        match event {
            // It was ended already.
            SuccessorEvent::Ready(_) | SuccessorEvent::Failed(_) if !self.upgrade.is_wanted() => {}
            SuccessorEvent::Failed(why) => self.upgrade_failed(&why),
            SuccessorEvent::Ready(successor) => {
                self.upgrade.commit();
                let (manager, events) = (self.announcer.manager.clone(), self.upgrade.events());
                spawn_local(async move {
                    let process = successor.process;
                    manager.main_process(process).await;
                    successor.go().await;
                    let _ = events.send(SuccessorEvent::Went(process));
                });
            }
            SuccessorEvent::Went(process) => {
                if let Some(admin) = self.admin.take() {
                    admin.abort();
                }
                self.acme.stop();
                self.upgrade.release_admin();
                let now = self.now();
                let actions = self.core.hand_over(now);
                self.carry_out(actions);
                // Last: each response that begins after this line ends its connection.
                write(Level::Info, &format!("process {process} has taken over: requests under way finish here"));
            }
        }
    }

    /// After each turn: ready once, then a line whenever it changes. Another process that is the service speaks for itself.
    pub(super) fn announce(&mut self) {
        if !self.announcer.manager.is_connected() || !self.is_the_service() {
            return;
        }
        let status = match self.core.readiness() {
            Ok(()) if self.operations.is_last_reload_refused() => {
                format!("serving: {}; the last reload was refused, see the log", self.core.tally())
            }
            Ok(()) => format!("serving: {}", self.core.tally()),
            Err(why) => why,
        };
        if self.core.has_started() && self.reload.is_none() && !std::mem::replace(&mut self.announcer.is_ready, true) {
            self.announcer.manager.ready(&status);
        } else if status != self.announcer.status {
            self.announcer.manager.status(&status);
        }
        self.announcer.status = status;
    }

    /// Announced as ready again when the reload has ended, whatever came of it.
    pub(super) fn announce_reload(&mut self) {
        if self.is_the_service() {
            self.announcer.manager.reloading();
            self.announcer.is_ready = false;
        }
    }

    pub(super) fn announce_stop(&self, signal: &str) {
        if self.is_the_service() {
            self.announcer.manager.stopping(&format!("stopping: {signal}"));
        }
    }

    fn is_the_service(&self) -> bool {
        !self.core.is_standing_by() && !self.upgrade.is_committed()
    }

    /// A sign of life, unless a worker gave none since the last one.
    pub(super) fn ping(&mut self) {
        let silent = self.core.publisher().first_silent();
        match silent {
            None if self.is_the_service() => self.announcer.manager.ping(),
            Some(worker) if self.announcer.silent != silent => {
                write(
                    Level::Error,
                    &format!("worker {worker} is stuck: the service manager gets no more signs of life"),
                );
            }
            _ => {}
        }
        self.announcer.silent = silent;
        self.core.publisher().call_roll();
        self.announcer.next_ping = self.announcer.manager.ping_every().map(|every| Instant::now() + every);
    }
}
