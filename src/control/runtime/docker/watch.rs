//! Follows the engine's events, and compares its list of containers with the table now and then. While the engine cannot
//! be reached no instance is given up; when it is back, its list is compared with the table.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::models::{ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, EventMessage};
use bollard::query_parameters::{EventsOptionsBuilder, LogsOptionsBuilder};
use futures_util::{Stream, StreamExt};
use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;

use super::container_event::{self, exit_reason};
use super::discovery::{Dialled, DiscoveryLabels, ENABLE, HostNetworks};
use super::driver::{Driver, short};
use super::engine::{Engine, status};
use super::foreign_table::{Candidate, Inspected};
use super::instance_table::{Action, ListedContainer};
use super::network::{self, Addresses};
use super::plan::{self, ManagedLabels};
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::{Failure, InstanceId, RuntimeEvent, Spec, Started};
use crate::core::snapshot::{Endpoint, ServiceId};

/// How often the list is compared with the table.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// Pauses between attempts to reach the engine again: the first, then twice as long each time up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// How long a replica may run on after a stop signal that we did not send. It takes no requests any more: ours is ended,
/// and one of others is asked whether it answers.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of an ended container's last log line that are logged.
const LAST_LINE_LIMIT: usize = 200;
const EXIT_DETAILS_TIMEOUT: Duration = Duration::from_secs(2);

const ACTIONS: [&str; 7] = ["start", "kill", "die", "pause", "unpause", "disconnect", "connect"];

/// Runs until the receiver of `events` is dropped.
pub async fn run(driver: Arc<Driver>, events: UnboundedSender<RuntimeEvent>) {
    let watcher = Watcher { driver, events };
    while !watcher.events.is_closed() {
        let why = watcher.follow().await;
        if watcher.events.is_closed() {
            return;
        }
        log::warn!("the engine's events ended ({why}); replicas keep serving, reconnecting");
        watcher.reconnect().await;
    }
}

#[derive(Clone)]
struct Watcher {
    driver: Arc<Driver>,
    events: UnboundedSender<RuntimeEvent>,
}

impl Watcher {
    /// Subscribes before it lists, so that no change is missed between the two. Returns why the stream ended.
    async fn follow(&self) -> String {
        let filters = HashMap::from([("type", vec!["container", "network"]), ("event", ACTIONS.to_vec())]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let mut stream = pin!(self.driver.engine.client.events(Some(options)));
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        loop {
            tokio::select! {
                next = next(&mut stream) => match next {
                    Ok(message) => self.on_message(message).await,
                    Err(why) => return why,
                },
                _ = compare.tick() => if let Err(failure) = self.compare().await {
                    return failure.message;
                },
                () = self.events.closed() => return "no receiver".into(),
            }
        }
    }

    async fn reconnect(&self) {
        let (lost_at, mut pause) = (Instant::now(), RETRY_FIRST);
        while self.driver.engine.ping().await.is_err() {
            if self.events.is_closed() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
        log::info!("the engine is back after {} ms", lost_at.elapsed().as_millis());
    }

    async fn on_message(&self, message: EventMessage) {
        if let Some((container, event)) = container_event::parse(&message) {
            let actions = self.driver.table().on_event(&container, &event);
            self.perform_all(actions).await;
        }
    }

    async fn compare(&self) -> Result<(), Failure> {
        let driver = &self.driver;
        let mut list = driver.list(&format!("{}={}", plan::CLUSTER, driver.settings.cluster)).await?;
        if driver.settings.discover {
            list.extend(driver.list(&format!("{ENABLE}=true")).await?);
        }
        let listed: Vec<ListedContainer> =
            list.into_iter().map(|found| listed(found, &driver.settings.cluster)).collect();
        let actions = driver.table().compare(&listed, &driver.run_id);
        self.perform_all(actions).await;
        Ok(())
    }

    async fn perform_all(&self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Confirm { instance, container } => self.confirm(instance, &container).await,
                Action::Remove { container } => self.remove_stray(&container).await,
                other => self.perform(other),
            }
        }
    }

    /// What needs no answer of the engine.
    fn perform(&self, action: Action) {
        match action {
            Action::Exited { instance, why } => self.exited(instance, why),
            Action::Stopping { instance, why } => self.stopping(instance, why),
            Action::Left { instance, why } => {
                self.emit(RuntimeEvent::Left { instance: InstanceId::Foreign(instance), why })
            }
            Action::Join { instance, candidate } => self.join(instance, candidate),
            Action::Refuse { container, why } => {
                log::warn!("{} is labelled {ENABLE}=true but is not balanced: {why}", short(&container));
            }
            Action::Inspect { container, inspection } => self.inspect_foreign(container, inspection),
            Action::Confirm { .. } | Action::Remove { .. } => {}
        }
    }

    fn emit(&self, event: RuntimeEvent) {
        // Without a receiver `run` ends.
        let _ = self.events.send(event);
    }

    /// Reports it at once; the container is removed when the replacement runs.
    fn exited(&self, instance: u64, why: String) {
        self.emit(RuntimeEvent::Exited { instance: InstanceId::Managed(instance), why });
        self.driver.clone().remove_later(instance);
    }

    fn stopping(&self, instance: InstanceId, why: String) {
        self.emit(RuntimeEvent::Stopping { instance, why });
        let watcher = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(STOP_TIMEOUT).await;
            let why = format!("still running {} s after a stop signal", STOP_TIMEOUT.as_secs());
            let actions = watcher.driver.table().outlived_its_stop(instance, why);
            actions.into_iter().for_each(|action| watcher.perform(action));
        });
    }

    fn exited_if(&self, action: Option<Action>) {
        if let Some(Action::Exited { instance, why }) = action {
            self.exited(instance, why);
        }
    }

    /// The list may be older than a start: asks for the container's state of now.
    async fn confirm(&self, instance: u64, container: &str) {
        let why = match self.driver.engine.client.inspect_container(container, None).await {
            Ok(found) => {
                let state = found.state.unwrap_or_default();
                match (state.running, state.paused) {
                    (Some(true), Some(true)) => "it was paused".to_owned(),
                    (Some(true), _) => return,
                    _ => exit_reason(state.exit_code.unwrap_or(0)),
                }
            }
            Err(error) if status(&error) == Some(404) => "its container was removed".to_owned(),
            // An engine that does not answer says nothing about the container.
            Err(_) => return,
        };
        let action = self.driver.table().confirm_gone(instance, why);
        self.exited_if(action);
    }

    async fn remove_stray(&self, container: &str) {
        log::info!("removed {}: no instance needs it", short(container));
        if let Err(error) = self.driver.remove(container).await {
            log::warn!("{} could not be removed: {error}", short(container));
        }
    }

    /// In a task of its own: an engine that is slow to inspect must not delay the report of an exit.
    fn inspect_foreign(&self, container: String, inspection: u64) {
        if !self.driver.settings.discover {
            return;
        }
        let watcher = self.clone();
        tokio::spawn(async move {
            let found = match watcher.driver.engine.client.inspect_container(&container, None).await {
                Ok(found) => watcher.driver.judge_foreign(&container, &found),
                Err(error) if status(&error) == Some(404) => Inspected::Uninterested,
                Err(_) => Inspected::Unanswered,
            };
            let actions = watcher.driver.table().on_inspected(&container, inspection, found);
            actions.into_iter().for_each(|action| watcher.perform(action));
        });
    }

    fn join(&self, instance: u64, candidate: Candidate) {
        let Candidate { container, name, address, weight, why, .. } = candidate;
        let (endpoint, handle) = (Endpoint::Tcp(address), short(&container).to_owned());
        let instance = InstanceId::Foreign(instance);
        let spec = Spec { service: ServiceId::default(), name, instance, revision: Revision::FIRST, replaces: None };
        let why = format!("label {ENABLE}, dialled at {address}: {why}");
        self.emit(RuntimeEvent::Joined { spec, started: Started { endpoint, handle, weight }, why });
    }
}

impl Driver {
    /// Whether a container that we did not start is to be balanced, and where it is dialled.
    fn judge_foreign(&self, container: &str, found: &ContainerInspectResponse) -> Inspected {
        let labels = found.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        let state = found.state.clone().unwrap_or_default();
        let serving = state.running == Some(true) && state.paused != Some(true);
        if !serving || !DiscoveryLabels::is_enabled(&labels) || labels.contains_key(plan::CLUSTER) {
            return Inspected::Uninterested;
        }
        let wanted = match DiscoveryLabels::read(found) {
            Ok(wanted) if wanted.service.as_ref().is_some_and(|service| *service != self.service) => {
                return Inspected::Uninterested;
            }
            Ok(wanted) => wanted,
            Err(why) => return Inspected::Unfit(why),
        };
        let is_attached = |ip: IpAddr, bits: u8| IpNet::new(ip, bits).is_ok_and(network::is_attached);
        let from = HostNetworks { replicas: &self.network.name, host: self.host, is_attached: &is_attached };
        match wanted.address(&Addresses::read(found), &from) {
            Ok(dialled) if network::is_own(dialled.address.ip()) => {
                Inspected::Unfit("it is this balancer itself".into())
            }
            Ok(Dialled { address, network, why }) => {
                let stop_signal = found.config.as_ref().and_then(|config| config.stop_signal.as_deref());
                Inspected::Fit(Candidate {
                    container: container.to_owned(),
                    name: wanted.name.into(),
                    address,
                    network,
                    weight: wanted.weight,
                    stop_signal: stop_signal.and_then(container_event::signal_number),
                    why,
                })
            }
            Err(why) => Inspected::Unfit(why),
        }
    }
}

async fn next<S>(stream: &mut S) -> Result<EventMessage, String>
where
    S: Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin,
{
    match stream.next().await {
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the stream was closed".into()),
    }
}

fn listed(found: ContainerSummary, cluster: &str) -> ListedContainer {
    let labels: BTreeMap<_, _> = found.labels.unwrap_or_default().into_iter().collect();
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    ListedContainer {
        container: found.id.unwrap_or_default(),
        serving: found.state == Some(ContainerSummaryStateEnum::RUNNING),
        labels: ManagedLabels::read(&labels, cluster),
        addresses: networks.into_iter().filter_map(|(name, at)| Some((name, at.ip_address?.parse().ok()?))).collect(),
    }
}

/// How a container ended, whether its memory limit killed it, and its last log line: for the end of a log line of ours.
/// Empty for one that runs.
pub async fn exit_details(engine: &Engine, container: &str) -> String {
    tokio::time::timeout(EXIT_DETAILS_TIMEOUT, read_exit_details(engine, container)).await.unwrap_or_default()
}

async fn read_exit_details(engine: &Engine, container: &str) -> String {
    let state = engine.client.inspect_container(container, None).await.ok().and_then(|found| found.state);
    let Some(state) = state.filter(|state| state.running != Some(true)) else { return String::new() };
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("1").build();
    let mut lines = pin!(engine.client.logs(container, Some(options)));
    let mut last_line = String::new();
    while let Some(Ok(line)) = lines.next().await {
        last_line = line.to_string();
    }
    let memory = if state.oom_killed == Some(true) { ", out of memory" } else { "" };
    let last_line: String = last_line.trim().chars().filter(|c| !c.is_control()).take(LAST_LINE_LIMIT).collect();
    let last_line = if last_line.is_empty() { String::new() } else { format!("; its last line: {last_line}") };
    format!(": {}{memory}{last_line}", exit_reason(state.exit_code.unwrap_or(0)))
}
