//! The control plane without its thread: what happens comes in with the time, actions come out. It owns the registry, the
//! publication of snapshots, the workers' events and acknowledgements, and decides when the balancer drains and ends.
//!
//! No clock, task, channel or runtime enters. `control_loop` drives it on the admin thread, `tests/sim` in virtual time.

use std::time::Duration;

use log::Level;

use super::log_throttle::LogThrottle;
use super::registry::{Command, Effect, IDLE_CLIENTS_MS, Predecessor, Registry, STOP_GRACE_MS, Status};
use super::runtime::revisions::Revision;
use crate::core::snapshot::{Lifecycle, ServiceId};
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
    /// There is another process to take over from.
    has_predecessor: bool,
    /// It was told that this one is ready: it lets go of its clients soon.
    has_said_ready: bool,
    /// The signal that asked for the end before the take-over.
    early_signal: Option<String>,
    /// The first start is over.
    started: bool,
    /// The end has begun, or begins at `drain_at`.
    stopping: bool,
    /// A signal asked for it: the next one does not wait.
    signalled: bool,
    shutdown_delay_ms: u64,
    drain_at: Tick,
    /// How long an instance may take to end.
    stop_limit_ms: u64,
    /// Nothing is waited for any more from then on.
    give_up_at: Tick,
    end: Option<End>,
}

/// What the end may take beyond the drain timeout and the time that instances get to end: for a worker or an engine that
/// hangs.
pub const END_GRACE_MS: u64 = 5_000;

/// What the driver carries out, in order.
#[derive(Debug)]
pub enum ControlAction {
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
    /// A second signal, every worker ended, or the end took too long: nothing was waited for.
    AtOnce,
    /// Instances of ours run on, or are not cleaned up. The log names them.
    LeftBehind,
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
        ControlCore {
            registry,
            publisher,
            worker_events,
            log_throttle,
            workers,
            has_predecessor: false,
            has_said_ready: false,
            early_signal: None,
            started: false,
            stopping: false,
            signalled: false,
            shutdown_delay_ms: 0,
            drain_at: Tick::NEVER,
            stop_limit_ms: STOP_GRACE_MS,
            give_up_at: Tick::NEVER,
            end: None,
        }
    }

    /// For instances that may take longer to end than others.
    pub fn with_stop_limit(mut self, limit: Duration) -> ControlCore {
        self.raise_stop_limit(limit);
        self
    }

    pub fn raise_stop_limit(&mut self, limit: Duration) {
        self.stop_limit_ms = self.stop_limit_ms.max(limit.as_millis() as u64);
    }

    /// How long it serves on after the signal to stop, so that those who balance over it see it leave.
    pub fn with_shutdown_delay(mut self, delay_ms: u64) -> ControlCore {
        self.shutdown_delay_ms = delay_ms;
        self
    }

    /// It accepts when its driver says so, not when it can.
    pub fn with_predecessor(mut self) -> ControlCore {
        self.has_predecessor = true;
        self
    }

    /// When `Command::Tick` is wanted next.
    pub fn due(&self) -> Tick {
        self.registry.due().min(self.give_up_at).min(self.drain_at)
    }

    /// Of each replica that there was at first it is known whether it answers.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// A successor may take over: its start is over, and a replica takes requests.
    pub fn can_take_over(&self) -> bool {
        self.started && self.registry.can_serve()
    }

    /// The process before this one is told that this one is ready.
    pub fn say_ready(&mut self) {
        self.has_said_ready = true;
    }

    /// It takes over from another process, and has not yet.
    pub fn is_standing_by(&self) -> bool {
        self.has_predecessor && self.registry.lifecycle() == Lifecycle::Starting
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// What is under way would be lost to a successor.
    pub fn is_quiet(&self) -> bool {
        self.registry.is_quiet()
    }

    pub fn for_successor(&self) -> Predecessor {
        self.registry.for_successor()
    }

    /// The service's replicas were started with other settings than these, or would be.
    pub fn rolls_out(&self, service: ServiceId, to: Option<Revision>) -> bool {
        self.registry.rolls_out(service, to)
    }

    /// How it is, for the operator.
    pub fn tally(&self) -> String {
        self.registry.tally()
    }

    /// `Err` is why a balancer or prober in front is to send its clients elsewhere.
    pub fn readiness(&self) -> Result<(), String> {
        match self.registry.lifecycle() {
            Lifecycle::Serving if self.started => Ok(()),
            Lifecycle::Starting | Lifecycle::Serving => Err(format!("starting: {}", self.tally())),
            Lifecycle::LameDuck => Err("about to stop: requests are still served".into()),
            Lifecycle::HandedOver => Err("another process has taken over".into()),
            Lifecycle::Stopping => Err("stopping: requests under way finish".into()),
        }
    }

    /// When `flush_log` has lines next.
    pub fn log_due(&self) -> Tick {
        self.log_throttle.due()
    }

    /// Set when the run is over.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    pub fn status(&self, now: Tick) -> Status {
        self.registry.status(now)
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

    pub fn apply(&mut self, command: Command, now: Tick) -> Vec<ControlAction> {
        let mut actions = self.reduce(command, now);
        self.started = self.started || self.registry.is_settled();
        if self.lets_clients_wait() && (self.started || self.registry.can_serve_all()) {
            actions.extend(self.reduce(Command::Enter(Lifecycle::Serving), now));
        }
        if !self.is_standing_by()
            && let Some(signal) = self.early_signal.take()
        {
            actions.extend(self.begin_stop(&signal, now));
        }
        if self.drain_at <= now {
            actions.extend(self.drain(now));
        }
        if self.end.is_none() && self.give_up_at <= now {
            self.end = Some(End::AtOnce);
            actions.push(ControlAction::Log(Level::Error, "the end took too long: stopping at once".into()));
        }
        actions
    }

    /// Its sockets were there before it: their clients wait for its first replicas.
    fn lets_clients_wait(&self) -> bool {
        !self.has_predecessor && self.registry.lifecycle() == Lifecycle::Starting
    }

    fn reduce(&mut self, command: Command, now: Tick) -> Vec<ControlAction> {
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
        effects.into_iter().map(ControlAction::Effect).collect()
    }

    fn drain(&mut self, now: Tick) -> Vec<ControlAction> {
        self.drain_at = Tick::NEVER;
        self.give_up_after(self.drain_timeout_ms(), now);
        let mut actions = self.reduce(Command::Stop, now);
        if self.workers == 0 {
            actions.extend(self.reduce(Command::WorkersEnded, now));
        }
        actions
    }

    /// The workers have so long for their requests, the process before this one as long as it may take, and the instances to
    /// end after them.
    fn give_up_after(&mut self, requests_ms: u64, now: Tick) {
        let requests_end = now.after_ms(requests_ms).max(self.registry.predecessor_until());
        self.give_up_at = self.give_up_at.min(requests_end.after_ms(self.stop_limit_ms + END_GRACE_MS));
    }

    fn drain_timeout_ms(&self) -> u64 {
        self.publisher.view().current().drain_timeout_ms()
    }

    /// Takes one event that a worker reported. `None`: there is none.
    pub fn take_worker_event(&mut self, now: Tick) -> Option<Vec<ControlAction>> {
        let event: WorkerEvent = self.worker_events.events.try_recv().ok()?;
        let line = self.log_throttle.note(&event, now);
        let mut actions: Vec<ControlAction> = line.into_iter().map(log).collect();
        actions.extend(self.apply(Command::WorkerEvent(event), now));
        Some(actions)
    }

    /// True while something waits until the workers act on a snapshot. Their acknowledgements wake the driver then.
    pub fn awaits_acks(&self) -> bool {
        self.registry.awaits_acks()
    }

    /// Takes the workers' acknowledgements, if any are awaited. Call it after every command.
    pub fn take_acks(&mut self, now: Tick) -> Vec<ControlAction> {
        if !self.registry.awaits_acks() {
            self.publisher.ignore_acks();
            return Vec::new();
        }
        self.publisher.await_acks();
        self.apply(Command::Acked(self.publisher.acked_epoch()), now)
    }

    /// Lines about workers' events that were held back.
    pub fn flush_log(&mut self, now: Tick) -> Vec<ControlAction> {
        self.log_throttle.flush(now).into_iter().map(log).collect()
    }

    /// The first signal begins the drain, or the delay before it; the second ends the run. `signal` is its name.
    pub fn signal(&mut self, signal: &str, now: Tick) -> Vec<ControlAction> {
        if std::mem::replace(&mut self.signalled, true) {
            self.end = Some(End::AtOnce);
            return vec![ControlAction::Log(Level::Warn, format!("{signal} again: stopping at once"))];
        }
        if self.is_standing_by() && self.has_said_ready {
            self.early_signal = Some(signal.into());
            let line = format!("{signal} before the take-over: draining after it; a second signal stops at once");
            return vec![ControlAction::Log(Level::Info, line)];
        }
        if self.is_standing_by() {
            self.end = Some(End::AtOnce);
            return vec![ControlAction::Log(Level::Warn, format!("{signal} before the take-over: stopping at once"))];
        }
        self.begin_stop(signal, now)
    }

    fn begin_stop(&mut self, signal: &str, now: Tick) -> Vec<ControlAction> {
        let delay_ms = if self.stopping { 0 } else { self.shutdown_delay_ms };
        let is_draining = self.stopping && self.drain_at == Tick::NEVER;
        self.stopping = true;
        let (line, command) = match delay_ms {
            _ if is_draining => (format!("{signal}: draining already; a second signal stops at once"), Command::Tick),
            0 => (format!("{signal}: draining; a second signal stops at once"), Command::Tick),
            ms => (
                format!("{signal}: draining in {ms} ms, not ready from now on; a second signal stops at once"),
                Command::Enter(Lifecycle::LameDuck),
            ),
        };
        if !is_draining {
            self.drain_at = now.after_ms(delay_ms);
        }
        let mut actions = vec![ControlAction::Log(Level::Info, line)];
        actions.extend(self.apply(command, now));
        actions
    }

    /// A successor accepts from now on, on the same sockets.
    pub fn hand_over(&mut self, now: Tick) -> Vec<ControlAction> {
        self.stopping = true;
        self.drain_at = now.after_ms(IDLE_CLIENTS_MS);
        self.apply(Command::Enter(Lifecycle::HandedOver), now)
    }

    /// One worker has ended: its drain is over, or it failed.
    pub fn worker_ended(&mut self, how: WorkerEnd, now: Tick) -> Vec<ControlAction> {
        self.workers -= 1;
        let mut actions = Vec::new();
        if !self.stopping {
            let how = match how {
                WorkerEnd::Returned => "ended",
                WorkerEnd::Panicked => "panicked",
            };
            actions.push(ControlAction::Log(Level::Error, format!("a worker {how}; {} are left", self.workers)));
        }
        match (self.workers, self.stopping) {
            (0, true) => {
                self.give_up_after(0, now);
                actions.extend(self.apply(Command::WorkersEnded, now));
            }
            (0, false) => self.end = Some(End::AtOnce),
            _ => {}
        }
        actions
    }
}

fn log((level, line): (Level, String)) -> ControlAction {
    ControlAction::Log(level, line)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::control::registry::tests::{SERVICE, add, config, started};
    use crate::core::limits::Limits;
    use crate::core::snapshot::{ReplicaId, Snapshot};
    use crate::core::step::{FaultKind, ReplicaFault};
    use crate::shared::events::{self, EventSender};
    use crate::shared::publish::SnapshotReader;

    const NOW: Tick = Tick(1);

    /// A core with replicas that are up, one worker that acknowledges what it reads, and how often it woke the driver.
    struct Fixture {
        core: ControlCore,
        events: EventSender,
        reader: SnapshotReader,
        wakes: Arc<AtomicU64>,
    }

    impl Fixture {
        fn new() -> Fixture {
            let mut fixture = Fixture::with(Registry::new(config()));
            fixture.apply(Command::Found(Vec::new()));
            fixture
        }

        /// Of a process that does not accept yet and knows of no replica.
        fn starting() -> Fixture {
            Fixture::with(Registry::starting(config(), Predecessor::default()))
        }

        fn with((registry, first): (Registry, Snapshot)) -> Fixture {
            let wakes = Arc::new(AtomicU64::new(0));
            let counted = wakes.clone();
            let wake = Arc::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            });
            let (events, worker_events) = events::channel(Arc::new(|| {}));
            let publisher = SnapshotPublisher::with_ack_wake(first, wake);
            let mut core = ControlCore::new(registry, publisher, worker_events, 1);
            let reader = core.publisher_mut().reader(Arc::new(|| {}));
            Fixture { core, events, reader, wakes }
        }

        /// The command, and what the runtime and the replicas answer at once.
        fn apply(&mut self, command: Command) -> Vec<ControlAction> {
            let mut actions = self.core.apply(command, NOW);
            let mut at = 0;
            while let Some(action) = actions.get(at) {
                let answer = match action {
                    ControlAction::Effect(Effect::Start(spec)) => {
                        Some(Command::Started { instance: spec.instance, started: started(spec.instance) })
                    }
                    ControlAction::Effect(Effect::Probe { instance, .. }) => {
                        Some(Command::ProbeOk { instance: *instance })
                    }
                    ControlAction::Effect(Effect::Stop { instance, .. }) => {
                        Some(Command::Stopped { instance: *instance, result: Ok(()) })
                    }
                    _ => None,
                };
                actions.extend(answer.into_iter().flat_map(|answer| self.core.apply(answer, NOW)));
                at += 1;
            }
            actions
        }

        fn ack(&mut self) {
            let epoch = self.reader.load().epoch;
            self.reader.ack(epoch);
        }

        fn replies(actions: &[ControlAction]) -> usize {
            actions.iter().filter(|action| matches!(action, ControlAction::Effect(Effect::Reply { .. }))).count()
        }
    }

    #[test]
    fn snapshots_are_published_before_their_effects_are_carried_out() {
        let mut fixture = Fixture::new();
        let shown = fixture.reader.load().clone();
        assert_eq!(shown.services[0].replicas.len(), 3);
        assert_eq!(shown.epoch, fixture.core.publisher().view().current().epoch);
    }

    #[test]
    fn an_ack_wakes_the_driver_while_a_call_waits_for_it() {
        let mut fixture = Fixture::new();
        fixture.ack();
        assert!(fixture.core.take_acks(NOW).is_empty(), "nothing waits");
        let actions = fixture.apply(Command::Call { ticket: 1, service: SERVICE, call: add(1, &[]) });
        assert_eq!(Fixture::replies(&actions), 0);
        assert!(fixture.core.awaits_acks());
        assert_eq!(Fixture::replies(&fixture.core.take_acks(NOW)), 0, "not acknowledged");
        assert_eq!(fixture.wakes.load(Ordering::Relaxed), 0);
        fixture.ack();
        assert_eq!(fixture.wakes.load(Ordering::Relaxed), 1);
        assert_eq!(Fixture::replies(&fixture.core.take_acks(NOW)), 1);
        assert!(!fixture.core.awaits_acks());
    }

    #[test]
    fn a_workers_event_is_logged_and_brings_a_probe() {
        let mut fixture = Fixture::new();
        assert!(fixture.core.take_worker_event(NOW).is_none());
        fixture
            .events
            .send(WorkerEvent::Fault(ReplicaFault { replica: ReplicaId(1), kind: FaultKind::ConnectionClosed }));
        let later = NOW.after_ms(60);
        let actions = fixture.core.take_worker_event(later).expect("an event");
        assert!(
            matches!(&actions[0], ControlAction::Log(Level::Warn, line) if line.starts_with("server1: ")),
            "{actions:?}"
        );
        assert!(
            actions.iter().any(|action| matches!(action, ControlAction::Effect(Effect::Probe { .. }))),
            "{actions:?}"
        );
        assert!(fixture.core.take_worker_event(later).is_none());
        assert_eq!(fixture.core.log_due(), later.after_ms(1_000));
        fixture
            .events
            .send(WorkerEvent::Fault(ReplicaFault { replica: ReplicaId(1), kind: FaultKind::ConnectionClosed }));
        fixture.core.take_worker_event(later);
        assert_eq!(fixture.core.flush_log(later.after_ms(1_000)).len(), 1, "the second, held back");
    }

    #[test]
    fn a_signal_drains_and_the_end_of_the_last_worker_ends_the_run() {
        let mut fixture = Fixture::new();
        let actions = fixture.core.signal("SIGTERM", NOW);
        assert!(matches!(&actions[0], ControlAction::Log(Level::Info, line) if line.starts_with("SIGTERM: draining")));
        assert!(fixture.reader.load().lifecycle.is_stopping());
        assert_eq!(fixture.core.end(), None);
        let actions = fixture.core.worker_ended(WorkerEnd::Returned, NOW);
        assert_eq!(fixture.core.end(), None, "its replicas have not ended");
        for action in actions {
            if let ControlAction::Effect(Effect::Stop { instance, .. }) = action {
                fixture.apply(Command::Stopped { instance, result: Ok(()) });
            }
        }
        assert_eq!(fixture.core.end(), Some(End::Drained));
    }

    /// An engine that hangs answers no stop.
    #[test]
    fn an_end_that_takes_too_long_is_given_up() {
        let mut fixture = Fixture::new();
        fixture.core.signal("SIGTERM", NOW);
        fixture.core.worker_ended(WorkerEnd::Returned, NOW);
        let due = fixture.core.due();
        assert_eq!(due, NOW.after_ms(STOP_GRACE_MS + END_GRACE_MS));
        let actions = fixture.core.apply(Command::Tick, due);
        assert!(matches!(&actions[..], [ControlAction::Log(Level::Error, _)]), "{actions:?}");
        assert_eq!(fixture.core.end(), Some(End::AtOnce));
    }

    /// A worker that hangs does not end after the drain timeout either.
    #[test]
    fn a_worker_that_does_not_end_is_given_up() {
        let mut fixture = Fixture::new();
        fixture.core.signal("SIGTERM", NOW);
        let last = NOW.after_ms(Limits::default().drain_timeout_ms + STOP_GRACE_MS + END_GRACE_MS);
        while fixture.core.end().is_none() {
            let due = fixture.core.due();
            assert!(due <= last, "the run never ends");
            fixture.core.apply(Command::Tick, due);
        }
        assert_eq!(fixture.core.end(), Some(End::AtOnce));
    }

    #[test]
    fn a_second_signal_ends_the_run_at_once() {
        let mut fixture = Fixture::new();
        fixture.core.signal("SIGTERM", NOW);
        fixture.core.signal("SIGINT", NOW);
        assert_eq!(fixture.core.end(), Some(End::AtOnce));
    }

    #[test]
    fn a_delay_before_the_drain_is_a_lame_ducks() {
        let mut fixture = Fixture::new();
        fixture.core.shutdown_delay_ms = 500;
        assert_eq!(fixture.core.readiness(), Ok(()));
        fixture.core.signal("SIGTERM", NOW);
        assert_eq!(fixture.reader.load().lifecycle, Lifecycle::LameDuck);
        assert!(fixture.core.readiness().is_err());
        let due = NOW.after_ms(500);
        assert_eq!(fixture.core.due(), due);
        fixture.core.apply(Command::Tick, due);
        assert!(fixture.reader.load().lifecycle.is_stopping());
        assert_eq!(fixture.core.end(), None, "requests under way finish");
    }

    #[test]
    fn a_process_that_was_replaced_drains_by_itself_and_at_once_after_a_signal() {
        let mut fixture = Fixture::new();
        fixture.core.hand_over(NOW);
        assert_eq!(fixture.reader.load().lifecycle, Lifecycle::HandedOver);
        assert!(fixture.core.due() <= NOW.after_ms(IDLE_CLIENTS_MS));
        assert_eq!(fixture.core.end(), None, "connections without a request stay open");
        fixture.core.signal("SIGTERM", NOW);
        assert!(fixture.reader.load().lifecycle.is_stopping());
        assert_eq!(fixture.core.end(), None);
        fixture.core.signal("SIGTERM", NOW);
        assert_eq!(fixture.core.end(), Some(End::AtOnce));
    }

    #[test]
    fn a_process_that_has_not_taken_over_ends_at_once_and_stops_nothing() {
        let mut fixture = Fixture::starting();
        fixture.core.has_predecessor = true;
        fixture.apply(Command::Found(Vec::new()));
        assert!(fixture.core.can_take_over() && fixture.core.is_standing_by());
        let actions = fixture.core.signal("SIGTERM", NOW);
        assert!(matches!(&actions[..], [ControlAction::Log(Level::Warn, _)]), "{actions:?}");
        assert_eq!(fixture.core.end(), Some(End::AtOnce));
    }

    /// The other process has let go of its clients, or is about to: without this one they have nothing.
    #[test]
    fn a_signal_after_ready_is_carried_out_when_it_has_taken_over() {
        let mut fixture = Fixture::starting();
        fixture.core.has_predecessor = true;
        fixture.apply(Command::Found(Vec::new()));
        fixture.core.say_ready();
        fixture.core.signal("SIGTERM", NOW);
        assert_eq!((fixture.core.end(), fixture.core.is_standing_by()), (None, true));
        fixture.apply(Command::Enter(Lifecycle::Serving));
        assert!(fixture.reader.load().lifecycle.is_stopping());
        assert_eq!(fixture.core.end(), None, "its replicas end first");
        fixture.core.signal("SIGTERM", NOW);
        assert_eq!(fixture.core.end(), Some(End::AtOnce), "the second one");
    }

    #[test]
    fn clients_that_were_there_first_wait_for_replicas() {
        let mut fixture = Fixture::starting();
        assert_eq!(fixture.reader.load().lifecycle, Lifecycle::Starting);
        fixture.apply(Command::Found(Vec::new()));
        assert_eq!(fixture.reader.load().lifecycle, Lifecycle::Serving);
    }

    #[test]
    fn without_workers_the_run_ends_at_once() {
        let mut fixture = Fixture::new();
        let actions = fixture.core.worker_ended(WorkerEnd::Panicked, NOW);
        let [ControlAction::Log(Level::Error, line)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(line, "a worker panicked; 0 are left");
        assert_eq!(fixture.core.end(), Some(End::AtOnce));
    }
}
