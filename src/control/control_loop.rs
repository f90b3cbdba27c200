//! The admin thread: one loop that brings the registry what happens and carries out what it asks for. It owns the
//! clock, the tasks and the channels, and decides nothing.

use std::collections::HashMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use log::Level;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::admin::{AdminRequest, AdminState, router};
use super::admin_listener::AdminListener;
use super::log_throttle::LogThrottle;
use super::page::Recent;
use super::probe::{Heartbeat, ProbeError, probe};
use super::registry::{Answer, Command, Effect, Registry, Status};
use super::runtime::{Failure, Runtime};
use crate::core::ring::RingKind;
use crate::core::snapshot::{Endpoint, Mode, ServiceId};
use crate::core::tick::Tick;
use crate::shared::counters::Counters;
use crate::shared::events::EventReceiver;
use crate::shared::publish::{SnapshotPublisher, Wake};

/// How often the workers' epoch is looked at while somebody waits for it.
const LIVE_LOOK: Duration = Duration::from_millis(1);
/// Facts taken in between two looks at everything else.
const FACTS_PER_TURN: usize = 1024;

/// Rung by workers when they report something.
#[derive(Clone, Default)]
pub struct Wakeup(Arc<Notify>);

impl Wakeup {
    pub fn wake(&self) -> Wake {
        let bell = self.0.clone();
        Arc::new(move || bell.notify_one())
    }
}

/// All that the admin thread runs on; the workers run already.
pub struct ControlInit {
    /// Printed once signals are heeded and the runtime answers: who reads it may go on.
    pub banner: String,
    pub registry: Registry,
    pub publisher: SnapshotPublisher,
    pub worker_events: EventReceiver,
    pub bell: Wakeup,
    pub door: Option<AdminListener>,
    pub token: Option<String>,
    pub mode: Mode,
    pub ring: RingKind,
    pub heartbeat: Heartbeat,
    pub counters: Vec<Arc<Counters>>,
    pub workers: Vec<JoinHandle<()>>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything under way finished, every replica ended.
    Drained,
    /// A second signal, or every worker died: nothing was waited for.
    AtOnce,
    /// It never began: what, where, what to do.
    NotStarted(String),
}

/// Runs the control plane on this thread until it ends. `open` makes the runtime, on the admin thread's own tokio.
pub fn serve<R: Runtime + 'static>(open: impl AsyncFnOnce() -> Result<R, Failure>, init: ControlInit) -> End {
    let tokio = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(tokio) => tokio,
        Err(error) => return End::NotStarted(format!("the admin thread cannot start: {error}")),
    };
    let end = LocalSet::new().block_on(&tokio, async {
        match begin(open, init).await {
            Ok(plane) => plane.run().await,
            Err(why) => End::NotStarted(why),
        }
    });
    // A worker that hangs is not waited for.
    tokio.shutdown_background();
    end
}

async fn begin<R: Runtime + 'static>(
    open: impl AsyncFnOnce() -> Result<R, Failure>,
    init: ControlInit,
) -> Result<ControlLoop<R>, String> {
    let runtime = open().await.map_err(|failure| failure.message)?;
    ControlLoop::new(runtime, init).await
}

struct ControlLoop<R> {
    runtime: Rc<R>,
    registry: Registry,
    publisher: Arc<SnapshotPublisher>,
    worker_events: EventReceiver,
    bell: Wakeup,
    heartbeat: Rc<Heartbeat>,
    mode: Mode,
    log_throttle: LogThrottle,
    dropped: Arc<AtomicU64>,
    recent: Recent,
    status: watch::Sender<Status>,
    began: Instant,
    commands: UnboundedSender<Command>,
    inbox: UnboundedReceiver<Command>,
    requests: UnboundedReceiver<AdminRequest>,
    replies: HashMap<u64, oneshot::Sender<Answer>>,
    next_ticket: u64,
    signals: [Signal; 2],
    workers: usize,
    worker_ends: UnboundedReceiver<bool>,
    stopping: bool,
}

impl<R: Runtime + 'static> ControlLoop<R> {
    async fn new(runtime: R, init: ControlInit) -> Result<ControlLoop<R>, String> {
        let no_signals = |error: std::io::Error| format!("signals cannot be listened for: {error}");
        let signals = [
            signal(SignalKind::terminate()).map_err(no_signals)?,
            signal(SignalKind::interrupt()).map_err(no_signals)?,
        ];
        let (commands, inbox) = unbounded_channel();
        let (events, mut happened) = unbounded_channel();
        let forward = commands.clone();
        spawn_local(async move {
            while let Some(event) = happened.recv().await {
                let _ = forward.send(Command::RuntimeEvent(event));
            }
        });
        let found = runtime.attach(events).await.map_err(|failure| failure.message)?;
        // Nobody has to read it: a closed stdout stops nothing.
        let _ = writeln!(std::io::stdout(), "{}", init.banner);
        let _ = commands.send(Command::Found(found));
        let (orders_in, requests) = unbounded_channel();
        let (status, status_seen) = watch::channel(Status::default());
        let publisher = Arc::new(init.publisher);
        let dropped = Arc::new(AtomicU64::new(0));
        let recent = Recent::default();
        let state = AdminState {
            requests: orders_in,
            publisher: publisher.clone(),
            counters: init.counters.into(),
            dropped: dropped.clone(),
            status: status_seen,
            ring: init.ring,
            recent: recent.clone(),
            token: init.token.map(Arc::from),
        };
        if let Some(door) = init.door {
            spawn_local(open(door, state));
        }
        Ok(ControlLoop {
            runtime: Rc::new(runtime),
            registry: init.registry,
            publisher,
            worker_events: init.worker_events,
            bell: init.bell,
            heartbeat: Rc::new(init.heartbeat),
            mode: init.mode,
            log_throttle: LogThrottle::default(),
            dropped,
            recent,
            status,
            began: Instant::now(),
            commands,
            inbox,
            requests,
            replies: HashMap::new(),
            next_ticket: 1,
            signals,
            workers: init.workers.len(),
            worker_ends: watch_workers(init.workers),
            stopping: false,
        })
    }

    async fn run(mut self) -> End {
        loop {
            let due = self.instant(self.registry.due().min(self.log_throttle.due()));
            let awaits_acks = self.registry.awaits_acks();
            let bell = self.bell.0.clone();
            let [terminate, interrupt] = &mut self.signals;
            let command = tokio::select! {
                _ = terminate.recv() => Turn::Signal("SIGTERM"),
                _ = interrupt.recv() => Turn::Signal("SIGINT"),
                Some(command) = self.inbox.recv() => Turn::Apply(command),
                Some(order) = self.requests.recv() => Turn::Apply(self.enter(order)),
                () = bell.notified() => Turn::Facts,
                Some(whole) = self.worker_ends.recv() => Turn::WorkerEnded { whole },
                () = sleep(LIVE_LOOK), if awaits_acks => Turn::Look,
                () = sleep_until(due) => Turn::Apply(Command::Tick),
            };
            if let Some(end) = self.turn(command) {
                if !matches!(end, End::AtOnce) {
                    self.runtime.close().await;
                }
                return end;
            }
        }
    }

    fn turn(&mut self, turn: Turn) -> Option<End> {
        let end = match turn {
            Turn::Apply(command) => self.apply(command),
            Turn::Facts => self.take_facts(),
            Turn::Look => None,
            Turn::Signal(name) => self.signalled(name),
            Turn::WorkerEnded { whole } => self.worker_ended(whole),
        };
        let lines = self.log_throttle.flush(self.now());
        lines.into_iter().for_each(write);
        end.or_else(|| self.look_for_live())
    }

    /// What the registry asks for is begun before anything else is looked at. `Some`: it is over.
    fn apply(&mut self, command: Command) -> Option<End> {
        let now = self.now();
        let effects = self.registry.apply(command, now);
        let mut end = None;
        for effect in effects {
            match effect {
                Effect::Finished => end = Some(End::Drained),
                effect => self.perform(effect),
            }
        }
        let status = self.registry.status();
        self.status.send_if_modified(|seen| {
            let changed = *seen != status;
            *seen = status;
            changed
        });
        end
    }

    fn perform(&mut self, effect: Effect) {
        let (runtime, commands) = (self.runtime.clone(), self.commands.clone());
        match effect {
            Effect::Publish(snapshot) => {
                self.log_throttle.learn(&snapshot);
                self.publisher.publish(snapshot);
            }
            Effect::Start(spec) => self.task(async move {
                let instance = spec.instance;
                let _ = commands.send(match runtime.start(&spec).await {
                    Ok(started) => Command::Started { instance, started },
                    Err(failure) => Command::StartFailed { instance, failure },
                });
            }),
            Effect::Stop { instance, grace_ms } => self.task(async move {
                let result = runtime.stop(instance, Duration::from_millis(grace_ms)).await;
                let _ = commands.send(Command::Stopped { instance, result });
            }),
            Effect::Probe { instance, name, endpoint, timeout_ms } => {
                let (heartbeat, mode) = (self.heartbeat.clone(), self.mode);
                self.task(async move {
                    let _ =
                        commands.send(match probe(&heartbeat, timeout_ms, mode, name.as_deref(), &endpoint).await {
                            Ok(()) => Command::ProbeOk { instance },
                            Err(ProbeError::Failed(why)) => Command::ProbeFailed { instance, why },
                            Err(ProbeError::Skipped(why)) => Command::ProbeSkipped { instance, why },
                        });
                });
            }
            Effect::Reply { ticket, answer } => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Log(level, line) => {
                if level <= Level::Info {
                    self.recent.push(line.clone());
                }
                write((level, line));
            }
            Effect::Finished => {}
        }
    }

    fn task(&self, work: impl Future<Output = ()> + 'static) {
        spawn_local(work);
    }

    fn enter(&mut self, request: AdminRequest) -> Command {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.replies.insert(ticket, request.reply);
        Command::Call { ticket, service: ServiceId::default(), call: request.call }
    }

    fn take_facts(&mut self) -> Option<End> {
        self.dropped.store(self.worker_events.dropped(), Ordering::Relaxed);
        let facts: Vec<_> = self.worker_events.events.try_iter().take(FACTS_PER_TURN).collect();
        if facts.len() == FACTS_PER_TURN {
            self.bell.0.notify_one();
        }
        let now = self.now();
        for fact in facts {
            self.log_throttle.note(&fact, now).into_iter().for_each(write);
            if fact.suspect().is_some() {
                let end = self.apply(Command::WorkerEvent(fact));
                if end.is_some() {
                    return end;
                }
            }
        }
        None
    }

    fn look_for_live(&mut self) -> Option<End> {
        if !self.registry.awaits_acks() {
            return None;
        }
        self.apply(Command::Acked(self.publisher.live_epoch()))
    }

    fn signalled(&mut self, name: &str) -> Option<End> {
        if std::mem::replace(&mut self.stopping, true) {
            log::warn!(target: "ringway", "{name} again: stopping at once");
            return Some(End::AtOnce);
        }
        log::info!(target: "ringway", "{name}: draining; a second signal stops at once");
        let end = self.apply(Command::Stop);
        if self.workers == 0 { self.apply(Command::WorkersEnded) } else { end }
    }

    fn worker_ended(&mut self, whole: bool) -> Option<End> {
        self.workers -= 1;
        if !self.stopping {
            let how = if whole { "ended" } else { "panicked" };
            log::error!("a worker {how}; {} are left", self.workers);
        }
        match (self.workers, self.stopping) {
            (0, true) => self.apply(Command::WorkersEnded),
            (0, false) => Some(End::AtOnce),
            _ => None,
        }
    }

    fn now(&self) -> Tick {
        Tick(self.began.elapsed().as_millis() as u64)
    }

    /// Rounded up to the next whole millisecond, so that what is due then is due when it comes.
    fn instant(&self, tick: Tick) -> Instant {
        const FAR: u64 = 3_600_000;
        let ms = tick.ms_since(self.now()).min(FAR);
        Instant::now() + Duration::from_millis(ms + u64::from(ms > 0))
    }
}

enum Turn {
    Apply(Command),
    Facts,
    Look,
    Signal(&'static str),
    WorkerEnded { whole: bool },
}

fn write((level, line): (Level, String)) {
    log::log!(target: "ringway", level, "{line}");
}

async fn open(door: AdminListener, state: AdminState) {
    let place = match door.endpoint() {
        Endpoint::Tcp(address) => address.to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    };
    if let Err(error) = door.serve(router(state)).await {
        log::error!("the admin API at {place} ended: {error}");
    }
}

/// One message for each worker thread that ends: whether it ended whole.
fn watch_workers(workers: Vec<JoinHandle<()>>) -> UnboundedReceiver<bool> {
    let (ends, received) = unbounded_channel();
    for worker in workers {
        let ends = ends.clone();
        spawn_blocking(move || {
            let _ = ends.send(worker.join().is_ok());
        });
    }
    received
}
