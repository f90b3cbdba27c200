//! The control plane without its thread: what happens comes in with the time, actions come out. It owns the registry, the
//! publication of snapshots, the workers' events and acknowledgements, and decides when the balancer drains and ends.
//!
//! No clock, task, channel or runtime enters. `control_loop` drives it on the admin thread, `tests/sim` in virtual time.

use log::Level;

use super::log_throttle::LogThrottle;
use super::registry::{Command, Effect, Registry, Status};
use crate::core::tick::Tick;
use crate::shared::events::{EventReceiver, WorkerEvent};
use crate::shared::publish::SnapshotPublisher;

pub struct ControlCore {
    registry: Registry,
    publisher: SnapshotPublisher,
    worker_events: EventReceiver,
    log_throttle: LogThrottle,
    /// Workers that have not ended.
    workers: usize,
    stopping: bool,
    end: Option<End>,
}

/// What the driver carries out, in order.
#[derive(Debug)]
pub enum Action {
    /// The registry's. `Effect::Publish` is carried out already.
    Effect(Effect),
    /// A line of the control plane itself, or about what workers reported.
    Log(Level, String),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every request and every managed replica ended.
    Drained,
    /// A second signal, or every worker ended: nothing was waited for.
    AtOnce,
}

/// How a worker thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    Returned,
    Panicked,
}

impl ControlCore {
    /// `publisher` shows the registry's first snapshot.
    pub fn new(
        registry: Registry,
        publisher: SnapshotPublisher,
        worker_events: EventReceiver,
        workers: usize,
    ) -> ControlCore {
        let log_throttle = LogThrottle::default();
        ControlCore { registry, publisher, worker_events, log_throttle, workers, stopping: false, end: None }
    }

    /// When `Command::Tick` is wanted next.
    pub fn due(&self) -> Tick {
        self.registry.due()
    }

    /// When `flush_log` has lines next.
    pub fn log_due(&self) -> Tick {
        self.log_throttle.due()
    }

    /// Set when the run is over.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    pub fn status(&self) -> Status {
        self.registry.status()
    }

    pub fn publisher(&self) -> &SnapshotPublisher {
        &self.publisher
    }

    /// For readers, before the first command.
    pub fn publisher_mut(&mut self) -> &mut SnapshotPublisher {
        &mut self.publisher
    }

    pub fn worker_events(&self) -> &EventReceiver {
        &self.worker_events
    }

    pub fn apply(&mut self, command: Command, now: Tick) -> Vec<Action> {
        let effects = self.registry.apply(command, now);
        for effect in &effects {
            match effect {
                Effect::Publish(snapshot) => {
                    self.log_throttle.learn(snapshot);
                    self.publisher.publish(snapshot.clone());
                }
                Effect::Finished => self.end = Some(End::Drained),
                _ => {}
            }
        }
        effects.into_iter().map(Action::Effect).collect()
    }

    /// Takes one event that a worker reported. `None`: there is none.
    pub fn take_worker_event(&mut self, now: Tick) -> Option<Vec<Action>> {
        let event: WorkerEvent = self.worker_events.events.try_recv().ok()?;
        let line = self.log_throttle.note(&event, now);
        let mut actions: Vec<Action> = line.into_iter().map(log).collect();
        actions.extend(self.apply(Command::WorkerEvent(event), now));
        Some(actions)
    }

    /// True while something waits until the workers act on a snapshot. Their acknowledgements wake the driver then.
    pub fn awaits_acks(&self) -> bool {
        self.registry.awaits_acks()
    }

    /// Takes the workers' acknowledgements, if any are awaited. Call it after every command.
    pub fn take_acks(&mut self, now: Tick) -> Vec<Action> {
        if !self.registry.awaits_acks() {
            self.publisher.ignore_acks();
            return Vec::new();
        }
        self.publisher.await_acks();
        self.apply(Command::Acked(self.publisher.acked_epoch()), now)
    }

    /// Lines about workers' events that were held back.
    pub fn flush_log(&mut self, now: Tick) -> Vec<Action> {
        self.log_throttle.flush(now).into_iter().map(log).collect()
    }

    /// The first signal begins the drain, the second ends the run. `signal` is its name.
    pub fn signal(&mut self, signal: &str, now: Tick) -> Vec<Action> {
        if std::mem::replace(&mut self.stopping, true) {
            self.end = Some(End::AtOnce);
            return vec![Action::Log(Level::Warn, format!("{signal} again: stopping at once"))];
        }
        let line = format!("{signal}: draining; a second signal stops at once");
        let mut actions = vec![Action::Log(Level::Info, line)];
        actions.extend(self.apply(Command::Stop, now));
        if self.workers == 0 {
            actions.extend(self.apply(Command::WorkersEnded, now));
        }
        actions
    }

    /// One worker has ended: its drain is over, or it failed.
    pub fn worker_ended(&mut self, how: WorkerEnd, now: Tick) -> Vec<Action> {
        self.workers -= 1;
        let mut actions = Vec::new();
        if !self.stopping {
            let how = match how {
                WorkerEnd::Returned => "ended",
                WorkerEnd::Panicked => "panicked",
            };
            actions.push(Action::Log(Level::Error, format!("a worker {how}; {} are left", self.workers)));
        }
        match (self.workers, self.stopping) {
            (0, true) => actions.extend(self.apply(Command::WorkersEnded, now)),
            (0, false) => self.end = Some(End::AtOnce),
            _ => {}
        }
        actions
    }
}

fn log((level, line): (Level, String)) -> Action {
    Action::Log(level, line)
}
