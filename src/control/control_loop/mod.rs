//! The admin thread: brings the control core what happens and carries out what it answers. It owns the clock, the tasks
//! and the channels, and decides nothing.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | `ControlInit`, `ControlLoop`, its `Turn`s: tokio's select over clock, channels, signals and requests; effects carried out: tasks for starts, stops and probes (a silent instance's process looked at), tickets answered; the runtime closed at the end; a signal during the start; SIGUSR1 passed on, or why it does nothing |
//! | `reloads` | certificates renewed, challenges of ACME servers published; turns of a reload: begun by SIGHUP or a call (or why not now), runtimes prepared in a task (`Prepared`), handed to the registry, heartbeats and configuration exchanged, answered; a dry run |
//! | `tasks` | runtime events forwarded as commands, the admin API served and its address named where it ends, worker threads joined |
//! | `replacement` | turns of an upgrade, on either side: begun by SIGUSR2, held while it waits, the successor started, handed over or failed; `Announcer`: when the service manager is told what, watchdog pings |

mod reloads;
mod replacement;
mod tasks;

use std::collections::HashMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use log::Level;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::acme::{AcmePlan, AcmeTask, ChallengeUpdate};
use super::admin::{AdminRequest, AdminState, DryRun};
use super::admin_access::SharedAccess;
use super::admin_listener::AdminListener;
use super::control_core::{ControlAction, ControlCore, End, WorkerEnd};
use super::heartbeats::{HeartbeatTable, Heartbeats};
use super::metrics::rings::RingWatch;
use super::operations::OperationCounters;
use super::orphans;
use super::page::Recent;
use super::predecessor::PredecessorLink;
use super::probe::{Heartbeat, ProbeError, probe};
use super::registry::{Answer, Command, Effect, ProbeFailure, ProbeFault};
use super::reload::{Configuration, PendingReload, Requester};
use super::runtime::per_service::PerService;
use super::runtime::{Failure, InstanceId, Runtime, Spec};
use super::signals::{SignalRequest, Signals};
use super::successor::SuccessorEvent;
use super::upgrade::Upgrade;
use crate::core::snapshot::Endpoint;
use crate::core::tick::Tick;
use crate::shared::access_log::AccessLog;
use crate::shared::counters::Counters;
use crate::shared::publish::Wake;
use reloads::Prepared;
use replacement::Announcer;
use tasks::{forward, serve_admin, watch_workers};

/// Worker events taken in between two looks at everything else.
const EVENTS_PER_TURN: usize = 1024;

/// How long the runtime may take to clean up when all is drained.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Wakes the admin thread from any other: workers call it when they report an event or acknowledge a snapshot.
#[derive(Clone, Default)]
pub struct Wakeup(Arc<Notify>);

impl Wakeup {
    pub fn wake(&self) -> Wake {
        let notify = self.0.clone();
        Arc::new(move || notify.notify_one())
    }
}

/// All that the admin thread runs on; the workers run already.
pub struct ControlInit {
    /// Printed once signals are handled and the runtime answers: who reads it may go on.
    pub banner: String,
    /// What is served, in one line, for the log.
    pub summary: String,
    pub core: ControlCore,
    pub wakeup: Wakeup,
    pub listener: Option<AdminListener>,
    pub access: SharedAccess,
    pub heartbeats: Heartbeats,
    pub configuration: Box<dyn Configuration>,
    pub acme: Option<AcmePlan>,
    pub counters: Vec<Arc<Counters>>,
    pub workers: Vec<JoinHandle<()>>,
    pub access_log: Option<AccessLog>,
    pub upgrade: Upgrade,
    /// The process that this one replaces.
    pub predecessor: Option<PredecessorLink>,
}

/// Runs the control plane on this thread until it ends. `open` makes the runtime, on the admin thread's own tokio.
/// `Err`: it never began; what, where, what to do, in one line.
pub fn serve(open: impl AsyncFnOnce() -> Result<PerService, Failure>, init: ControlInit) -> Result<End, String> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(|error| format!("the admin thread cannot start: {error}"))?;
    let end = LocalSet::new().block_on(&tokio, async {
        let mut signals = Signals::register().map_err(|error| format!("signals cannot be handled: {error}"))?;
        let access_log = init.access_log.clone();
        let start = async {
            let runtime = open().await.map_err(|failure| failure.message)?;
            ControlLoop::new(runtime, init).await
        };
        tokio::select! {
            begun = start => Ok(begun?.run(signals).await),
            signal = stop_signal(&mut signals, access_log.as_ref()) => {
                write(Level::Warn, &format!("{signal} during the start: stopping at once"));
                Ok(End::AtOnce)
            }
        }
    });
    // A worker that hangs is not waited for.
    tokio.shutdown_background();
    end
}

const NO_LOG_FILE: &str =
    "SIGUSR1: there is no log file to open again: the log goes to stderr, and --access-log is off";

/// The next signal that asks for the end.
async fn stop_signal(signals: &mut Signals, access_log: Option<&AccessLog>) -> &'static str {
    loop {
        match (signals.next().await, access_log) {
            (SignalRequest::Stop(name), _) => return name,
            (SignalRequest::Reload, _) => write(Level::Warn, "SIGHUP during the start: the settings are being read"),
            (SignalRequest::ReopenLog, Some(log)) => log.reopen(),
            (SignalRequest::ReopenLog, None) => write(Level::Warn, NO_LOG_FILE),
            (SignalRequest::Upgrade, _) => {
                write(Level::Warn, "SIGUSR2 during the start: there is nothing to replace yet")
            }
        }
    }
}

struct ControlLoop {
    core: ControlCore,
    runtime: Rc<PerService>,
    configuration: Box<dyn Configuration>,
    /// The reload under way.
    reload: Option<PendingReload>,
    /// The next look at the files of certificates.
    certificates_due: Tick,
    acme: AcmeTask,
    /// Until this process takes connections.
    first_acme: Option<AcmePlan>,
    challenges: UnboundedReceiver<ChallengeUpdate>,
    prepared: UnboundedReceiver<Prepared>,
    prepared_in: UnboundedSender<Prepared>,
    wakeup: Wakeup,
    heartbeats: HeartbeatTable,
    recent: Recent,
    rings: RingWatch,
    operations: Arc<OperationCounters>,
    began: Instant,
    commands: UnboundedSender<Command>,
    inbox: UnboundedReceiver<Command>,
    requests: UnboundedReceiver<AdminRequest>,
    /// Where the answers to calls go, by ticket.
    replies: HashMap<u64, oneshot::Sender<Answer>>,
    next_ticket: u64,
    worker_ends: UnboundedReceiver<WorkerEnd>,
    access_log: Option<AccessLog>,
    announcer: Announcer,
    upgrade: Upgrade,
    /// The process that this one replaces, until this one is ready.
    predecessor: Option<PredecessorLink>,
    /// Accepts admin connections.
    admin: Option<AbortHandle>,
}

/// What one turn of the loop is about.
enum Turn {
    Apply(Command),
    Request(AdminRequest),
    Workers,
    WorkerEnded(WorkerEnd),
    Signal(SignalRequest),
    Prepared(Prepared),
    Certificates,
    Challenges(ChallengeUpdate),
    Successor(SuccessorEvent),
    Ping,
}

impl ControlLoop {
    async fn new(runtime: PerService, init: ControlInit) -> Result<ControlLoop, String> {
        let (commands, inbox) = unbounded_channel();
        let (events, runtime_events) = unbounded_channel();
        spawn_local(forward(runtime_events, commands.clone()));
        let found = runtime.attach(events).await.map_err(|failure| failure.message)?;
        let (version, process) = (env!("CARGO_PKG_VERSION"), std::process::id());
        write(Level::Info, &format!("version {version}, process {process}: {}", init.summary));
        // Nothing depends on it: a closed stdout stops nothing.
        let _ = writeln!(std::io::stdout(), "{}", init.banner);
        let _ = commands.send(Command::Found(found));
        let (requests_in, requests) = unbounded_channel();
        let (recent, rings, started) = (Recent::default(), RingWatch::default(), SystemTime::now());
        let operations = Arc::<OperationCounters>::default();
        let state = AdminState {
            requests: requests_in,
            snapshots: init.core.publisher().view(),
            counters: init.counters.into(),
            dropped: init.core.worker_events().drop_count(),
            recent: recent.clone(),
            access: init.access,
            rings: rings.clone(),
            operations: operations.clone(),
            started,
        };
        let (acme, challenges) = AcmeTask::start(operations.clone());
        let admin = init.listener.map(|listener| spawn_local(serve_admin(listener, state)).abort_handle());
        let runtime = Rc::new(runtime);
        let children = runtime.clone();
        spawn_local(orphans::reap(move |child| children.is_own_child(child)));
        let (prepared_in, prepared) = unbounded_channel();
        Ok(ControlLoop {
            configuration: init.configuration,
            reload: None,
            certificates_due: Tick(0),
            acme,
            first_acme: init.acme,
            challenges,
            prepared,
            prepared_in,
            core: init.core.with_stop_limit(runtime.stop_limit()),
            runtime,
            wakeup: init.wakeup,
            heartbeats: HeartbeatTable::new(init.heartbeats),
            recent,
            rings,
            operations,
            began: Instant::now(),
            commands,
            inbox,
            requests,
            replies: HashMap::new(),
            next_ticket: 1,
            worker_ends: watch_workers(init.workers),
            access_log: init.access_log,
            announcer: Announcer::new(),
            upgrade: init.upgrade,
            predecessor: init.predecessor,
            admin,
        })
    }

    async fn run(mut self, mut signals: Signals) -> End {
        loop {
            let turn = self.next_turn(&mut signals).await;
            self.turn(turn);
            if let Some(end) = self.core.end() {
                return self.close(end).await;
            }
        }
    }

    /// Bounded like everything before it: an engine that hangs is not waited for.
    async fn close(&self, end: End) -> End {
        // What it has found and started is its predecessor's, or ends with it.
        if self.core.is_standing_by() {
            return end;
        }
        if end == End::Drained && timeout(CLOSE_LIMIT, self.runtime.close()).await.is_err() {
            write(Level::Error, "what the replicas ran on could not be cleaned up in time");
            return End::LeftBehind;
        }
        let left = self.runtime.left_behind();
        if left.is_empty() {
            return end;
        }
        write(
            Level::Error,
            &format!("left behind, to be removed by hand or by the next balancer: {}", left.join(", ")),
        );
        End::LeftBehind
    }

    async fn next_turn(&mut self, signals: &mut Signals) -> Turn {
        let due = self.instant(self.core.due().min(self.core.log_due()));
        let due = self.upgrade.waits_until().map_or(due, |give_up_at| due.min(give_up_at));
        let certificates = self.instant(self.certificates_due);
        let ping = self.announcer.next_ping().unwrap_or_else(|| self.instant(Tick::NEVER));
        tokio::select! {
            request = signals.next() => Turn::Signal(request),
            Some(prepared) = self.prepared.recv() => Turn::Prepared(prepared),
            Some(command) = self.inbox.recv() => Turn::Apply(command),
            Some(request) = self.requests.recv() => Turn::Request(request),
            () = self.wakeup.0.notified() => Turn::Workers,
            Some(update) = self.challenges.recv() => Turn::Challenges(update),
            Some(end) = self.worker_ends.recv() => Turn::WorkerEnded(end),
            event = self.upgrade.next() => Turn::Successor(event),
            () = sleep_until(certificates) => Turn::Certificates,
            () = sleep_until(ping) => Turn::Ping,
            () = sleep_until(due) => Turn::Apply(Command::Tick),
        }
    }

    /// What the core asks for is begun before anything else is looked at.
    fn turn(&mut self, turn: Turn) {
        let now = self.now();
        match turn {
            Turn::Apply(command) => self.apply(command, now),
            Turn::Request(request) => self.request(request, now),
            Turn::Workers => self.take_worker_events(now),
            Turn::WorkerEnded(end) => {
                let actions = self.core.worker_ended(end, now);
                self.carry_out(actions);
            }
            Turn::Signal(SignalRequest::Stop(name)) => {
                self.announce_stop(name);
                self.acme.stop();
                self.end_upgrade();
                let actions = self.core.signal(name, now);
                self.carry_out(actions);
            }
            Turn::Signal(SignalRequest::Reload) => self.begin_reload(Requester::Signal),
            Turn::Signal(SignalRequest::ReopenLog) => match &self.access_log {
                Some(log) => log.reopen(),
                None => write(Level::Warn, NO_LOG_FILE),
            },
            Turn::Signal(SignalRequest::Upgrade) => self.upgrade(),
            Turn::Prepared(prepared) => self.take_in(prepared, now),
            Turn::Certificates => self.renew_certificates(now),
            Turn::Challenges(update) => self.replace_challenges(update, now),
            Turn::Successor(event) => self.successor(event),
            Turn::Ping => self.ping(),
        }
        let lines = self.core.flush_log(now);
        self.carry_out(lines);
        if self.core.end().is_none() {
            let actions = self.core.take_acks(now);
            self.carry_out(actions);
        }
        self.advance_replacement();
        self.begin_acme();
        self.announce();
    }

    fn apply(&mut self, command: Command, now: Tick) {
        let actions = self.core.apply(command, now);
        self.carry_out(actions);
    }

    fn request(&mut self, request: AdminRequest, now: Tick) {
        match request {
            AdminRequest::Call { service, call, reply } => {
                let ticket = self.next_ticket();
                self.replies.insert(ticket, reply);
                self.apply(Command::Call { ticket, service, call }, now);
            }
            AdminRequest::Status { reply } => {
                let mut status = self.core.status(now);
                for service in &mut status.services {
                    (service.runtime, service.source) =
                        (self.runtime.word(service.id), self.runtime.source(service.id));
                }
                let _ = reply.send(status);
            }
            AdminRequest::Readiness { reply } => {
                let _ = reply.send(self.core.readiness());
            }
            AdminRequest::Reload { dry_run: DryRun::No, reply } => self.begin_reload(Requester::Admin(reply)),
            AdminRequest::Reload { dry_run: DryRun::Yes, reply } => {
                let _ = reply.send(self.try_reload());
            }
            AdminRequest::Configuration { reply } => {
                let refused = self.core.status(now).refused_settings();
                let _ = reply.send(refused + &self.configuration.text());
            }
        }
    }

    fn next_ticket(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        ticket
    }

    fn take_worker_events(&mut self, now: Tick) {
        for _ in 0..EVENTS_PER_TURN {
            let Some(actions) = self.core.take_worker_event(now) else { return };
            self.carry_out(actions);
            if self.core.end().is_some() {
                return;
            }
        }
        self.wakeup.0.notify_one();
    }

    fn carry_out(&mut self, actions: Vec<ControlAction>) {
        for action in actions {
            match action {
                ControlAction::Effect(effect) => self.perform(effect),
                ControlAction::Log(level, line) => write(level, &line),
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start(spec) => self.start(spec),
            Effect::Stop { instance, grace_ms } => self.stop(instance, grace_ms),
            Effect::Resume { instance } => self.runtime.resume(instance),
            Effect::Probe { service, revision, instance, name, endpoint, timeout_ms } => {
                let heartbeat = self.heartbeats.of(service, revision);
                self.probe(heartbeat, instance, name, endpoint, timeout_ms);
            }
            Effect::Reply { ticket, answer } => {
                if self.reload.as_ref().is_some_and(|reload| reload.ticket == Some(ticket)) {
                    return self.end_reload(answer);
                }
                if let Some(reply) = self.replies.remove(&ticket) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Log(level, line) => {
                write(level, &line);
                if level <= Level::Info {
                    self.recent.push(line);
                }
            }
            Effect::Settle { service, revision } => {
                self.runtime.settle(service, revision);
                self.heartbeats.settle(service, revision);
            }
            Effect::GiveUp { service } => self.runtime.give_up(service),
            // The workers have it already.
            Effect::Publish(snapshot) => self.rings.see(&snapshot),
            Effect::Finished => {}
        }
    }

    fn start(&self, spec: Spec) {
        let (runtime, commands, instance) = (self.runtime.clone(), self.commands.clone(), spec.instance);
        spawn_local(async move {
            let _ = commands.send(match runtime.start(&spec).await {
                Ok(started) => Command::Started { instance, started },
                Err(failure) => Command::StartFailed { instance, failure },
            });
        });
    }

    fn stop(&self, instance: InstanceId, grace_ms: u64) {
        let (runtime, commands) = (self.runtime.clone(), self.commands.clone());
        spawn_local(async move {
            let result = runtime.stop(instance, Duration::from_millis(grace_ms)).await;
            let _ = commands.send(Command::Stopped { instance, result });
        });
    }

    fn probe(
        &self,
        heartbeat: Arc<Heartbeat>,
        instance: InstanceId,
        name: Option<Arc<str>>,
        endpoint: Endpoint,
        timeout_ms: u64,
    ) {
        let (commands, runtime) = (self.commands.clone(), self.runtime.clone());
        spawn_local(async move {
            let _ = commands.send(match probe(&heartbeat, timeout_ms, name.as_deref(), &endpoint).await {
                Ok(()) => Command::ProbeOk { instance },
                Err(ProbeError::Failed(failure)) => {
                    runtime.on_probe_failed(instance);
                    Command::ProbeFailed { instance, failure: explain(failure, instance, &*runtime).await }
                }
                Err(ProbeError::Skipped(why)) => Command::ProbeSkipped { instance, why },
            });
        });
    }

    fn now(&self) -> Tick {
        Tick(self.began.elapsed().as_millis() as u64)
    }

    /// Rounded up to the next whole millisecond, so that what is due then is due when it comes.
    fn instant(&self, tick: Tick) -> Instant {
        const FAR_MS: u64 = 3_600_000;
        let ms = tick.ms_since(self.now()).min(FAR_MS);
        Instant::now() + Duration::from_millis(ms + u64::from(ms > 0))
    }
}

/// An instance that does not answer because its process is stopped will not answer later either.
async fn explain<R: Runtime>(failure: ProbeFailure, instance: InstanceId, runtime: &R) -> ProbeFailure {
    match failure.fault {
        ProbeFault::Silent | ProbeFault::ConnectTimedOut => match runtime.suspension(instance).await {
            Some(why) => ProbeFailure { fault: ProbeFault::Dead, why },
            None => failure,
        },
        ProbeFault::Dead | ProbeFault::Unhealthy => failure,
    }
}

fn write(level: Level, line: &str) {
    log::log!(target: "ringway", level, "{line}");
}
