//! Follows the engine: events for speed, lists for truth. When the engine goes away nothing is dropped; when it is
//! back, what is there is compared with what we believe.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum, EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptionsBuilder, LogsOptionsBuilder};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc::UnboundedSender;

use super::discovery::{ENABLE, Standpoint, Wish};
use super::driver::{Driver, short};
use super::engine::{Engine, status};
use super::instance_table::{Notice, Seen, Verdict, ending};
use super::network::{self, Addresses};
use super::plan::{self, Mark};
use crate::control::runtime::{Event, Failure, InstanceId, Spec, Started};
use crate::core::snapshot::{Endpoint, ServiceId};

/// How often the list is held against our belief though no event asked for it.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// Between tries to reach an engine that went away.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Somebody asked a replica to stop and it goes on: it takes no requests any more, so it is ended.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Of a dead container's log, for the operator.
const LAST_WORDS_LIMIT: usize = 200;
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

const ACTIONS: [&str; 7] = ["start", "kill", "die", "pause", "unpause", "disconnect", "connect"];

/// Runs until nobody listens.
pub async fn run(hand: Arc<Driver>, events: UnboundedSender<Event>) {
    let watch = Watch { hand, events };
    while !watch.events.is_closed() {
        let why = watch.follow().await;
        if watch.events.is_closed() {
            return;
        }
        log::warn!("the engine's events ended ({why}); replicas keep serving, reconnecting");
        watch.reconnect().await;
    }
}

#[derive(Clone)]
struct Watch {
    hand: Arc<Driver>,
    events: UnboundedSender<Event>,
}

impl Watch {
    /// Subscribes first and lists then, so that nothing falls between the two. Returns why the stream ended.
    async fn follow(&self) -> String {
        let filters = HashMap::from([("type", vec!["container", "network"]), ("event", ACTIONS.to_vec())]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let mut stream = pin!(self.hand.engine.client.events(Some(options)));
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        loop {
            tokio::select! {
                next = next(&mut stream) => match next {
                    Ok(message) => self.hear(message).await,
                    Err(why) => return why,
                },
                _ = compare.tick() => if let Err(failure) = self.compare().await {
                    return failure.message;
                },
                () = self.events.closed() => return "nobody listens".into(),
            }
        }
    }

    async fn reconnect(&self) {
        let (gone, mut pause) = (Instant::now(), RETRY_FIRST);
        while self.hand.engine.ping().await.is_err() {
            if self.events.is_closed() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
        log::info!("the engine is back after {} ms", gone.elapsed().as_millis());
    }

    async fn hear(&self, message: EventMessage) {
        if let Some((container, notice)) = read(&message, &self.hand.network.id) {
            let verdict = self.hand.table().notice(&container, notice);
            self.act(verdict).await;
        }
    }

    async fn compare(&self) -> Result<(), Failure> {
        let hand = &self.hand;
        let mut list = hand.list(&format!("{}={}", plan::CLUSTER, hand.settings.cluster)).await?;
        if hand.settings.discover {
            list.extend(hand.list(&format!("{ENABLE}=true")).await?);
        }
        let seen: Vec<Seen> = list.into_iter().map(|found| seen(found, &hand.settings.cluster)).collect();
        let verdicts = hand.table().compare(&seen, &hand.life);
        for verdict in verdicts {
            self.act(Some(verdict)).await;
        }
        Ok(())
    }

    async fn act(&self, verdict: Option<Verdict>) {
        match verdict {
            None => {}
            Some(Verdict::Exited { instance, why }) => self.exited(instance, why),
            Some(Verdict::Stopping { instance, why }) => self.stopping(instance, why),
            Some(Verdict::Left { instance, why }) => {
                self.hand.table().part(instance);
                self.tell(Event::Left { instance: InstanceId::Foreign(instance), why });
            }
            // Not in line: an engine that is slow to inspect must not hold up the news of a death.
            Some(Verdict::Look { .. }) if !self.hand.settings.discover => {}
            Some(Verdict::Look { container }) => {
                let watch = self.clone();
                tokio::spawn(async move { watch.look(&container).await });
            }
            Some(Verdict::Doubt { instance, container }) => self.doubt(instance, &container).await,
            Some(Verdict::Stray { container }) => self.sweep(&container).await,
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more: `run` ends by itself.
        let _ = self.events.send(event);
    }

    /// Tells at once; what is left of the container is removed when the slot has its next instance.
    fn exited(&self, instance: u64, why: String) {
        self.tell(Event::Exited { instance: InstanceId::Managed(instance), why });
        self.hand.clone().bury(instance);
    }

    fn stopping(&self, instance: InstanceId, why: String) {
        self.tell(Event::Stopping { instance, why });
        let InstanceId::Managed(instance) = instance else { return };
        let watch = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(STOP_PATIENCE).await;
            let why = format!("asked to stop, it went on for {} s", STOP_PATIENCE.as_secs());
            let verdict = watch.hand.table().confirm_gone(instance, why);
            watch.act_late(verdict);
        });
    }

    fn act_late(&self, verdict: Option<Verdict>) {
        if let Some(Verdict::Exited { instance, why }) = verdict {
            self.exited(instance, why);
        }
    }

    /// The list may have been made before a start; the container itself says how it is now.
    async fn doubt(&self, instance: u64, container: &str) {
        let why = match self.hand.engine.client.inspect_container(container, None).await {
            Ok(found) => {
                let state = found.state.unwrap_or_default();
                match (state.running, state.paused) {
                    (Some(true), Some(true)) => "it was paused".to_owned(),
                    (Some(true), _) => return,
                    _ => ending(state.exit_code.unwrap_or(0)),
                }
            }
            Err(error) if status(&error) == Some(404) => "its container was removed".to_owned(),
            // No answer is no death.
            Err(_) => return,
        };
        let verdict = self.hand.table().confirm_gone(instance, why);
        self.act_late(verdict);
    }

    async fn sweep(&self, container: &str) {
        log::info!("removed {}: left over", short(container));
        if let Err(error) = self.hand.remove(container).await {
            log::warn!("{} could not be removed: {error}", short(container));
        }
    }

    /// Somebody's container started: does it want to be balanced, and where?
    async fn look(&self, container: &str) {
        let hand = &self.hand;
        let Ok(found) = hand.engine.client.inspect_container(container, None).await else { return };
        let labels = found.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        let state = found.state.clone().unwrap_or_default();
        let serving = state.running == Some(true) && state.paused != Some(true);
        if !serving || !Wish::is_made(&labels) || labels.contains_key(plan::CLUSTER) {
            return;
        }
        let attached = |ip: IpAddr, bits: u32| network::Subnet::new(ip, bits).is_some_and(network::is_attached);
        let from = Standpoint { network: &hand.network.name, host: hand.host, attached: &attached };
        let wish = Wish::read(&found);
        let place = wish.and_then(|wish| Ok((wish.address(&Addresses::read(&found), &from)?, wish)));
        match place {
            Err(why) => log::warn!("{} is labelled {ENABLE}=true but is not balanced: {why}", short(container)),
            Ok((_, wish)) if wish.service.as_ref().is_some_and(|service| *service != hand.settings.service) => {}
            Ok(((address, _), wish)) if network::is_own(address.ip()) => {
                log::warn!("{} is this balancer itself: not balanced", wish.name);
            }
            Ok(((address, why), wish)) => {
                let Some(instance) = hand.table().welcome(container) else { return };
                log::info!("{} ({}) is dialled at {address}: {why}", wish.name, short(container));
                let started = Started {
                    endpoint: Endpoint::Tcp(address),
                    handle: short(container).to_owned(),
                    weight: wish.weight,
                };
                let instance = InstanceId::Foreign(instance);
                let spec = Spec { service: ServiceId::default(), name: wish.name.into(), instance };
                self.tell(Event::Joined { spec, started, why: format!("label {ENABLE}, {why}") });
            }
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

/// Which container an event is about, and what it says. `None` for what does not concern us.
fn read(message: &EventMessage, network: &str) -> Option<(String, Notice)> {
    let actor = message.actor.clone()?;
    let attributes = actor.attributes.unwrap_or_default();
    let number = |name: &str| attributes.get(name).and_then(|text| text.parse::<i64>().ok());
    let id = actor.id.unwrap_or_default();
    match (message.typ?, message.action.as_deref()?) {
        (EventMessageTypeEnum::CONTAINER, "start" | "unpause") => Some((id, Notice::Started)),
        (EventMessageTypeEnum::CONTAINER, "kill") => {
            Some((id, Notice::Killed { signal: u32::try_from(number("signal")?).ok()? }))
        }
        (EventMessageTypeEnum::CONTAINER, "die") => {
            Some((id, Notice::Died { status: number("exitCode").unwrap_or(0) }))
        }
        (EventMessageTypeEnum::CONTAINER, "pause") => Some((id, Notice::Paused)),
        (EventMessageTypeEnum::NETWORK, action) => {
            let container = attributes.get("container")?.clone();
            match action {
                "disconnect" if id == network => Some((container, Notice::Disconnected)),
                "connect" => Some((container, Notice::Started)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn seen(found: ContainerSummary, cluster: &str) -> Seen {
    let labels: BTreeMap<_, _> = found.labels.unwrap_or_default().into_iter().collect();
    Seen {
        container: found.id.unwrap_or_default(),
        serving: found.state == Some(ContainerSummaryStateEnum::RUNNING),
        mark: Mark::read(&labels, cluster),
    }
}

/// What a dead container said last, and whether its memory limit killed it: for the end of a log line.
pub async fn last_words(engine: &Engine, container: &str) -> String {
    tokio::time::timeout(LAST_WORDS_TIMEOUT, words(engine, container)).await.unwrap_or_default()
}

async fn words(engine: &Engine, container: &str) -> String {
    let state = engine.client.inspect_container(container, None).await.ok().and_then(|found| found.state);
    let Some(state) = state.filter(|state| state.running != Some(true)) else { return String::new() };
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("1").build();
    let mut lines = pin!(engine.client.logs(container, Some(options)));
    let mut said = String::new();
    while let Some(Ok(line)) = lines.next().await {
        said = line.to_string();
    }
    let memory = if state.oom_killed == Some(true) { ", out of memory" } else { "" };
    let said: String = said.trim().chars().filter(|c| !c.is_control()).take(LAST_WORDS_LIMIT).collect();
    let said = if said.is_empty() { String::new() } else { format!("; its last line: {said}") };
    format!(": {}{memory}{said}", ending(state.exit_code.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Option<(String, Notice)> {
        read(&serde_json::from_str(text).unwrap(), "net1")
    }

    #[test]
    fn events_of_the_engine_are_read() {
        let event = |action: &str, attributes: &str| {
            heard(&format!(
                r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"aaa","Attributes":{attributes}}}}}"#
            ))
        };
        let about = |notice| Some(("aaa".to_owned(), notice));
        assert_eq!(event("start", "{}"), about(Notice::Started));
        assert_eq!(event("unpause", "{}"), about(Notice::Started));
        assert_eq!(event("pause", "{}"), about(Notice::Paused));
        assert_eq!(event("kill", r#"{"signal":"15"}"#), about(Notice::Killed { signal: 15 }));
        assert_eq!(event("die", r#"{"exitCode":"137"}"#), about(Notice::Died { status: 137 }));
        assert_eq!(event("exec_create: sh", "{}"), None);
    }

    #[test]
    fn only_our_network_counts_when_it_is_left() {
        let event = |network: &str, action: &str| {
            heard(&format!(
                r#"{{"Type":"network","Action":"{action}","Actor":{{"ID":"{network}","Attributes":{{"container":"aaa"}}}}}}"#
            ))
        };
        assert_eq!(event("net1", "disconnect"), Some(("aaa".to_owned(), Notice::Disconnected)));
        assert_eq!(event("net2", "disconnect"), None);
        assert_eq!(event("net2", "connect"), Some(("aaa".to_owned(), Notice::Started)));
    }
}
