//! The runtime of servers that others start and a source lists: a file, DNS, Consul, Kubernetes, Docker Swarm. They are probed like listed servers, and never
//! started or stopped. What an answer means for the members is decided in [`follow`]; here a source is asked when that says
//! so, and instances get their numbers.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | `Discovery`, the implementation of the trait `Runtime`: the first answer awaited, the task that asks, another source taken in; `SourceClient`: each source's question |
//! | `dns` | A, AAAA and SRV records of a name: asked for when their time to live ends, the lowest priority, weights on the ring |
//! | `follow` | `Follow`: listing, following, lost; which answers are believed, emptiness doubted, backoff, `SourceStatus`; pure |
//! | `consul` | instances of a service that pass their checks: blocking queries, the rules of the index |
//! | `kubernetes` | ready endpoints of a Service's EndpointSlices: list and watch, an expired version, ports by name, the service account |
//! | `swarm` | running tasks of a Swarm service at their addresses on a network |
//! | `http` | `ApiClient` of those three: TCP, TLS or a Unix socket, a token from a file, whole answers and lines |
//! | `weights` | weights of a source made small, in proportion |
//! | `file` | a list as JSON or lines: parsed, wrong lines named, looked at for changes |

mod consul;
mod dns;
pub mod file;
pub mod follow;
pub mod http;
mod kubernetes;
mod swarm;
mod weights;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use self::consul::ConsulSource;
use self::dns::DnsSource;
use self::file::FileSource;
use self::follow::{AnswerContent, Cursor, Follow, FollowEvent, FollowPolicy, FoundServer, SourceAnswer, SourceStatus};
use self::kubernetes::KubernetesSource;
use self::swarm::SwarmSource;
use super::revisions::Revision;
use super::{Failure, FailureKind, InstanceId, Runtime, RuntimeEvent, Spec, Started};
use crate::core::snapshot::{Endpoint, ServiceId};
use crate::core::tick::Tick;
use crate::settings::{SourceKind, SourceSettings};

/// How long a start or a reload waits for the first answer. Without it the service begins with no replica.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Which source, and what it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoverySettings {
    pub kind: SourceKind,
    pub source: SourceSettings,
}

/// Follows the source of one service.
pub struct Discovery {
    found: Rc<FoundServers>,
    /// The first question, which is asked while other runtimes are opened.
    first: RefCell<Option<JoinHandle<(SourceClient, Outcome)>>>,
    task: RefCell<Option<AbortHandle>>,
}

/// What a source answered, or why it did not.
type Outcome = Result<SourceAnswer, String>;

/// What the runtime and its task share.
struct FoundServers {
    service: String,
    settings: RefCell<DiscoverySettings>,
    follow: RefCell<Follow>,
    instances: RefCell<BTreeMap<Arc<str>, FoundInstance>>,
    next_number: Cell<u64>,
    events: OnceCell<UnboundedSender<RuntimeEvent>>,
    began: Instant,
}

struct FoundInstance {
    number: u64,
    address: SocketAddr,
}

/// What is asked for a list.
enum SourceClient {
    File(FileSource),
    Dns(Box<DnsSource>),
    Consul(ConsulSource),
    Kubernetes(KubernetesSource),
    Swarm(SwarmSource),
}

impl SourceClient {
    fn open(settings: &DiscoverySettings) -> Result<SourceClient, Failure> {
        let source = &settings.source;
        match settings.kind {
            SourceKind::File => Ok(SourceClient::File(FileSource::new(source.path.clone().unwrap_or_default()))),
            SourceKind::Dns => DnsSource::open(source).map(|dns| SourceClient::Dns(Box::new(dns))),
            SourceKind::Consul => ConsulSource::open(source).map(SourceClient::Consul),
            SourceKind::Kubernetes => KubernetesSource::open(source).map(SourceClient::Kubernetes),
            SourceKind::Swarm => SwarmSource::open(source).map(SourceClient::Swarm),
        }
    }

    /// The answer to the next question: a change from the cursor on, or the whole list. It may take as long as nothing
    /// changes. Dropped before its end, it leaves nothing undone.
    async fn ask(&mut self, cursor: Option<&Cursor>) -> Outcome {
        match self {
            SourceClient::File(file) => file.ask(cursor).await,
            SourceClient::Dns(dns) => dns.ask().await,
            SourceClient::Consul(consul) => consul.ask(cursor).await,
            SourceClient::Kubernetes(kubernetes) => kubernetes.ask(cursor).await,
            SourceClient::Swarm(swarm) => swarm.ask().await,
        }
    }
}

impl DiscoverySettings {
    fn policy(&self) -> FollowPolicy {
        // A look at a file costs nothing; a server that is overloaded gets time.
        let backoff_max_ms = match self.kind {
            SourceKind::File => 1_000,
            SourceKind::Dns => 10_000,
            SourceKind::Consul | SourceKind::Kubernetes | SourceKind::Swarm => 30_000,
        };
        FollowPolicy { confirm_empty_ms: self.source.confirm_empty_ms, backoff_max_ms }
    }

    /// What is asked, for the operator.
    fn from(&self) -> String {
        let SourceSettings { path, name, api, .. } = &self.source;
        let what = match self.kind {
            SourceKind::File => path.as_ref().map(|path| path.display().to_string()),
            _ => name.clone(),
        };
        let at = api.as_ref().map_or_else(String::new, |api| format!(" at {api}"));
        format!("{} {}{at}", self.kind.word(), what.unwrap_or_default())
    }
}

impl Discovery {
    pub fn new(settings: DiscoverySettings, service: String) -> Result<Discovery, Failure> {
        let mut source = SourceClient::open(&settings)?;
        let first = spawn_local(async move {
            let first = timeout(FIRST_ANSWER, source.ask(None)).await;
            let late = |_| Err(format!("no answer within {} s", FIRST_ANSWER.as_secs()));
            (source, first.unwrap_or_else(late))
        });
        let follow = Follow::new(settings.policy(), fastrand::u64(..), Tick::ZERO);
        let found = FoundServers {
            service,
            settings: RefCell::new(settings),
            follow: RefCell::new(follow),
            instances: RefCell::default(),
            next_number: Cell::default(),
            events: OnceCell::new(),
            began: Instant::now(),
        };
        Ok(Discovery { found: Rc::new(found), first: RefCell::new(Some(first)), task: RefCell::default() })
    }

    pub fn kind(&self) -> SourceKind {
        self.found.settings.borrow().kind
    }

    pub fn status(&self) -> SourceStatus {
        let from = self.found.settings.borrow().from();
        self.found.follow.borrow().status(from, self.found.now())
    }

    /// Why a source cannot be asked as `settings` say.
    pub fn check(settings: &DiscoverySettings) -> Result<(), Failure> {
        SourceClient::open(settings).map(drop)
    }

    /// Another source, or another question. What both list stays.
    pub fn set_settings(&self, settings: DiscoverySettings) {
        let is_known = *self.found.settings.borrow() == settings;
        if is_known && self.task.borrow().is_some() {
            return;
        }
        match SourceClient::open(&settings) {
            Ok(source) => {
                self.found.follow.borrow_mut().restart(settings.policy(), self.found.now());
                self.found.settings.replace(settings);
                self.follow(source);
            }
            Err(failure) => self.found.log(log::Level::Error, &failure.message),
        }
    }

    /// Its service is removed: its members were given up.
    pub fn give_up(&self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.found.follow.borrow_mut().forget();
        self.found.instances.borrow_mut().clear();
    }

    fn follow(&self, source: SourceClient) {
        let task = spawn_local(self.found.clone().run(source));
        if let Some(before) = self.task.replace(Some(task.abort_handle())) {
            before.abort();
        }
    }
}

impl FoundServers {
    fn now(&self) -> Tick {
        Tick(self.began.elapsed().as_millis() as u64)
    }

    fn log(&self, level: log::Level, line: &str) {
        let from = self.settings.borrow().from();
        log::log!(target: "ringway", level, "service {}: source {from}: {line}", self.service);
    }

    async fn run(self: Rc<Self>, mut source: SourceClient) {
        loop {
            let due = self.follow.borrow().due();
            sleep_until(self.began + Duration::from_millis(due.0)).await;
            let cursor = self.follow.borrow().cursor().cloned();
            let outcome = source.ask(cursor.as_ref()).await;
            for event in self.take(outcome) {
                if let Some(events) = self.events.get() {
                    let _ = events.send(event);
                }
            }
        }
    }

    /// What the answer changes.
    fn take(&self, outcome: Outcome) -> Vec<RuntimeEvent> {
        let now = self.now();
        let mut follow = self.follow.borrow_mut();
        let events = match outcome {
            Ok(answer) => follow.answered(self.named(answer), now),
            Err(why) => follow.failed(&why, now),
        };
        drop(follow);
        events.into_iter().filter_map(|event| self.runtime_event(event)).collect()
    }

    /// With the prefix of their names.
    fn named(&self, mut answer: SourceAnswer) -> SourceAnswer {
        let prefix = self.settings.borrow().source.name_prefix.clone();
        if !prefix.is_empty() {
            let servers: Vec<&mut FoundServer> = match &mut answer.content {
                AnswerContent::Whole(parts) => parts.values_mut().flatten().collect(),
                AnswerContent::Part(_, servers) => servers.iter_mut().collect(),
                AnswerContent::Unchanged => Vec::new(),
            };
            servers.into_iter().for_each(|server| server.name = format!("{prefix}{}", server.name).into());
        }
        answer
    }

    fn runtime_event(&self, event: FollowEvent) -> Option<RuntimeEvent> {
        match event {
            FollowEvent::Log(level, line) => {
                self.log(level, &line);
                None
            }
            FollowEvent::Joined(server) => Some(self.joined(self.number_of(&server), &server)),
            FollowEvent::Left(server) => {
                let instance = InstanceId::Foreign(self.instances.borrow_mut().remove(&server.name)?.number);
                Some(RuntimeEvent::Delisted { instance, why: "its source does not list it any more".into() })
            }
        }
    }

    /// Of its instance, which is another one at another address.
    fn number_of(&self, server: &FoundServer) -> u64 {
        let mut instances = self.instances.borrow_mut();
        let known = instances.get(&server.name).filter(|known| known.address == server.address);
        let number = known.map(|known| known.number);
        let number = number.unwrap_or_else(|| self.next_number.replace(self.next_number.get() + 1));
        instances.insert(server.name.clone(), FoundInstance { number, address: server.address });
        number
    }

    fn joined(&self, number: u64, server: &FoundServer) -> RuntimeEvent {
        let word = self.settings.borrow().kind.word();
        let spec = Spec {
            service: ServiceId::default(),
            name: server.name.clone(),
            instance: InstanceId::Foreign(number),
            revision: Revision::FIRST,
            replaces: None,
        };
        let (endpoint, handle) = (Endpoint::Tcp(server.address), format!("a server found by {word}"));
        let started = Started { endpoint, handle, weight: server.weight };
        RuntimeEvent::Joined { spec, started, why: format!("{word} lists it at {}", server.address) }
    }
}

impl Runtime for Discovery {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        let from = self.found.settings.borrow().from();
        let message = format!("{} cannot be started: the replicas are those that {from} lists", spec.name);
        Err(Failure { kind: FailureKind::Refused, message })
    }

    async fn stop(&self, _instance: InstanceId, _grace: Duration) -> Result<(), Failure> {
        Ok(())
    }

    async fn attach(&self, events: UnboundedSender<RuntimeEvent>) -> Result<Vec<(Spec, Started)>, Failure> {
        let _ = self.found.events.set(events);
        let Some(first) = self.first.take() else { return Ok(Vec::new()) };
        let Ok((source, first)) = first.await else { return Ok(Vec::new()) };
        let joined =
            |event| if let RuntimeEvent::Joined { spec, started, .. } = event { Some((spec, started)) } else { None };
        let found = self.found.take(first).into_iter().filter_map(joined).collect();
        self.follow(source);
        Ok(found)
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        if let Some(first) = self.first.take() {
            first.abort();
        }
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
