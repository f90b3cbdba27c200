//! The hand that makes and unmakes containers: one call after another to the engine, noted in the table.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use tokio::sync::Notify;

use super::cluster_lock::ClusterLock;
use super::engine::{self, Engine, no_image, status};
use super::instance_table::{InstanceTable, Phase};
use super::network::{self, Addresses, Network};
use super::plan::{self, Mark, Plan};
use super::{OnExit, Reach, Settings, watch};
use crate::control::runtime::{Failure, FailureKind, Spec, Started};
use crate::core::snapshot::Endpoint;

/// How often a start tries to free its name, and how long it waits in between: the engine may be removing the holder.
const NAME_TRIES: u32 = 40;
const NAME_PAUSE: Duration = Duration::from_millis(50);
/// A silent container keeps its address this long at most while its replacement starts: the same address would be
/// handed to the replacement, with whatever made it silent.
const ADDRESS_HOLD: Duration = Duration::from_secs(3);
/// How long what is left of an instance stays when no replacement begins: after a failed `/add`, say.
const HEIR_WAIT: Duration = Duration::from_millis(500);
/// What removals under way get when Ringway ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

pub struct Driver {
    pub engine: Engine,
    pub settings: Settings,
    pub network: Network,
    pub plan: Plan,
    pub reach: Reach,
    /// Where published ports are dialled.
    pub host: IpAddr,
    /// A random name for this life of Ringway.
    pub life: String,
    pub _claim: ClusterLock,
    pub table: Mutex<InstanceTable>,
    /// Rung after each change of the table.
    pub turned: Notify,
}

impl Driver {
    pub fn table(&self) -> MutexGuard<'_, InstanceTable> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub async fn start(self: &Arc<Self>, spec: &Spec) -> Result<Started, Failure> {
        let is_heir = !self.table().holders(&spec.name, spec.instance.number()).is_empty();
        let container = match is_heir {
            true => self.create_aside(spec).await?,
            false => self.create(spec).await?,
        };
        self.table().made(spec.instance.number(), &container);
        if let Err(error) = self.engine.client.start_container(&container, None).await {
            if status(&error) != Some(404) {
                return Err(self.engine.failure(&format!("start {}", spec.name), &error));
            }
            // Somebody removed the network.
            network::ensure(&self.engine, &self.settings).await?;
            let again = self.engine.client.start_container(&container, None).await;
            again.map_err(|error| self.engine.failure(&format!("start {}", spec.name), &error))?;
        }
        // An address is worth only as much as the start it was read after: the engine hands them out again at once.
        let endpoint = self.endpoint(&container).await?;
        let alive = self.table().started(spec.instance.number());
        match endpoint {
            Some(endpoint) if alive => {
                let handle = short(&container).to_owned();
                if is_heir {
                    let (hand, spec) = (self.clone(), spec.clone());
                    tokio::spawn(async move { hand.inherit(&spec, &container).await });
                }
                Ok(Started { endpoint, handle, weight: 1 })
            }
            _ => Err(self.stillborn(spec, &container).await),
        }
    }

    /// Creates the container under its slot's name.
    async fn create(&self, spec: &Spec) -> Result<String, Failure> {
        for attempt in 0.. {
            match self.create_as(spec, &spec.name).await {
                Err(error) if status(&error) == Some(409) && attempt < NAME_TRIES => self.free(spec).await?,
                made => return made.map_err(|error| self.not_created(spec, &error)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Creates it under a name of its own while an earlier instance holds the slot's. The engine would let go of that one
    /// only when it has tidied up after it, and a heal need not wait for that.
    async fn create_aside(&self, spec: &Spec) -> Result<String, Failure> {
        let made = self.create_as(spec, &plan::heir_name(&spec.name, spec.instance.number())).await;
        made.map_err(|error| self.not_created(spec, &error))
    }

    async fn create_as(&self, spec: &Spec, name: &str) -> Result<String, Error> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let made = self.engine.client.create_container(Some(options), self.plan.container(spec, &self.life)).await;
        made.map(|made| made.id)
    }

    fn not_created(&self, spec: &Spec, error: &Error) -> Failure {
        match status(error) {
            Some(404) => no_image(&self.engine, &self.settings.image),
            _ => self.engine.failure(&format!("create {}", spec.name), error),
        }
    }

    /// Gives a running heir its slot's name, taken from whatever an earlier instance left.
    async fn inherit(&self, spec: &Spec, container: &str) {
        for _ in 0..NAME_TRIES {
            let holders = self.table().holders(&spec.name, spec.instance.number());
            for (instance, holder) in holders {
                self.retire(&spec.name, instance, &holder).await;
            }
            match self.rename(container, &spec.name).await {
                // It is gone already: its name is nobody's business any more.
                Ok(()) | Err(404) => return,
                Err(_) => tokio::time::sleep(NAME_PAUSE).await,
            }
        }
        let name = plan::heir_name(&spec.name, spec.instance.number());
        log::warn!("{}: {} stays {name}: somebody else's container has that name", spec.name, short(container));
    }

    /// The name is held: by a container of ours that can be put aside, or by one that is not ours to touch.
    async fn free(&self, spec: &Spec) -> Result<(), Failure> {
        let held = match self.engine.client.inspect_container(&spec.name, None).await {
            Ok(held) => held,
            // Gone in the meantime, or being removed.
            Err(error) if matches!(status(&error), Some(404 | 409)) => {
                tokio::time::sleep(NAME_PAUSE).await;
                return Ok(());
            }
            Err(error) => return Err(self.engine.failure(&format!("inspect {}", spec.name), &error)),
        };
        let labels: BTreeMap<_, _> = held.config.and_then(|c| c.labels).unwrap_or_default().into_iter().collect();
        let id = held.id.unwrap_or_default();
        match Mark::read(&labels, &self.settings.cluster) {
            Some(mark) if mark.life == self.life && self.is_left_over(mark.instance) => {
                self.retire(&spec.name, mark.instance, &id).await;
                tokio::time::sleep(NAME_PAUSE).await;
                Ok(())
            }
            _ => Err(Failure {
                kind: FailureKind::NameTaken,
                message: format!(
                    "the name {} is taken by a container ({}) that is not ours: choose another name, or remove it",
                    spec.name,
                    short(&id)
                ),
            }),
        }
    }

    fn is_left_over(&self, instance: u64) -> bool {
        self.table().entry(instance).is_none_or(|entry| matches!(entry.phase, Phase::Ending | Phase::Gone))
    }

    /// Takes the name away from a container that is on its way out.
    async fn retire(&self, name: &str, instance: u64, container: &str) {
        if let Err(status) = self.rename(container, &plan::retired_name(name, instance)).await {
            log::debug!("{name}: {} could not be put aside: status {status}", short(container));
        }
    }

    /// `Err` is the engine's status, 0 if it did not answer.
    async fn rename(&self, container: &str, name: &str) -> Result<(), u16> {
        let options = RenameContainerOptionsBuilder::default().name(name).build();
        let renamed = self.engine.client.rename_container(container, options).await;
        renamed.map_err(|error| status(&error).unwrap_or(0))
    }

    pub async fn endpoint(&self, container: &str) -> Result<Option<Endpoint>, Failure> {
        let inspected = match self.engine.client.inspect_container(container, None).await {
            Ok(inspected) => inspected,
            Err(error) if status(&error) == Some(404) => return Ok(None),
            Err(error) => return Err(self.engine.failure(&format!("inspect {}", short(container)), &error)),
        };
        let running = inspected.state.as_ref().and_then(|state| state.running).unwrap_or(false);
        let found = Addresses::read(&inspected).endpoint(&self.network.name, self.settings.port, self.reach, self.host);
        Ok(found.filter(|_| running).map(Endpoint::Tcp))
    }

    /// Why a container that was started is not there.
    async fn stillborn(&self, spec: &Spec, container: &str) -> Failure {
        let last = watch::last_words(&self.engine, container).await;
        let message = format!("{} ({}) ended as soon as it was started{last}", spec.name, self.settings.image);
        Failure { kind: FailureKind::Refused, message }
    }

    /// After a failed start: nothing of it stays.
    pub async fn clean(&self, instance: u64) {
        let container = self.table().entry(instance).and_then(|entry| entry.container.clone());
        let is_removed = match container {
            Some(id) => self.remove(&id).await.is_ok(),
            None => true,
        };
        self.settle(instance, is_removed);
    }

    pub async fn stop(self: &Arc<Self>, instance: u64, grace: Duration) -> Result<(), Failure> {
        let Some(before) = self.table().end(instance) else { return Ok(()) };
        let Some(container) = before.container.filter(|_| before.phase != Phase::Starting) else {
            return self.gone(instance).await;
        };
        if grace.is_zero() {
            // Silent, by the registry's verdict: its slot need not wait for what is left of it.
            self.clone().bury(instance);
            return Ok(());
        }
        let ended = self.end(instance, &before.name, &container, grace).await;
        self.settle(instance, ended.is_ok());
        ended
    }

    /// Removes what is left of an instance, once its slot has its next one.
    pub fn bury(self: Arc<Driver>, instance: u64) {
        tokio::spawn(async move {
            let Some(entry) = self.table().entry(instance).cloned() else { return };
            let Some(container) = entry.container else { return };
            // Nothing is asked of the engine that the replacement would have to wait for.
            self.hold_address(instance).await;
            let words = watch::last_words(&self.engine, &container).await;
            if !words.is_empty() {
                log::info!("{} ({}){words}", entry.name, short(&container));
            }
            let removed = self.remove(&container).await;
            if let Err(error) = &removed {
                log::debug!("{}: {} stays for now: {error}", entry.name, short(&container));
            }
            self.settle(instance, removed.is_ok());
        });
    }

    pub fn settle(&self, instance: u64, is_removed: bool) {
        match is_removed {
            true => self.table().forget(instance),
            false => self.table().give_up(instance),
        }
        self.turned.notify_waiters();
    }

    async fn end(&self, instance: u64, name: &str, container: &str, grace: Duration) -> Result<(), Failure> {
        let whole = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(whole).build();
        match self.engine.patient(grace).stop_container(container, Some(options)).await {
            Ok(()) => {}
            // It refused (paused, say) or is gone: the removal below settles it.
            Err(error) if status(&error).is_some() => log::debug!("{name}: stop: {error}"),
            Err(error) => return Err(self.engine.failure(&format!("stop {name}"), &error)),
        }
        let removed = self.remove(container).await;
        removed.map_err(|error| self.engine.failure(&format!("remove {name} (instance {instance})"), &error))
    }

    /// Removes by force. One that is not there, or is being removed, is removed.
    pub async fn remove(&self, container: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.engine.client.remove_container(container, Some(options)).await {
            Err(error) if !matches!(status(&error), Some(404 | 409)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the start of `instance`, which sees that it is not wanted, has cleaned up.
    async fn gone(&self, instance: u64) -> Result<(), Failure> {
        self.until(|table| table.entry(instance).is_none_or(|entry| entry.phase == Phase::Gone)).await;
        Ok(())
    }

    /// Waits, within a limit, until the slot's next instance has an address of its own, if there is to be one.
    pub async fn hold_address(&self, instance: u64) {
        let heir = self.until(|table| table.closing || table.has_heir(instance));
        if tokio::time::timeout(HEIR_WAIT, heir).await.is_err() {
            return;
        }
        let _ = tokio::time::timeout(ADDRESS_HOLD, self.until(|table| table.is_replaced(instance))).await;
    }

    /// Waits, within a limit, for removals under way, and takes the network down if it is ours and nobody is on it.
    pub async fn close(&self) {
        self.table().closing = true;
        self.turned.notify_waiters();
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.until(|table| !table.is_clearing())).await;
        if self.network.is_ours && self.settings.on_exit == OnExit::Remove {
            match self.engine.client.remove_network(&self.network.id).await {
                Ok(()) => log::info!("removed the network {}", self.network.name),
                Err(error) => {
                    log::info!("the network {} stays: {}", self.network.name, engine::one_line(&error.to_string()))
                }
            }
        }
    }

    async fn until(&self, is_so: impl Fn(&InstanceTable) -> bool) {
        loop {
            let turned = self.turned.notified();
            tokio::pin!(turned);
            turned.as_mut().enable();
            if is_so(&self.table()) {
                return;
            }
            turned.await;
        }
    }

    pub async fn list(&self, label: &str) -> Result<Vec<ContainerSummary>, Failure> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = self.engine.client.list_containers(Some(options)).await;
        list.map_err(|error| self.engine.failure("list containers", &error))
    }
}

/// As the docker command shows it.
pub fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
