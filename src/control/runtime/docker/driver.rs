//! Creates, starts, stops and removes containers: calls to the engine, with their results recorded in the table.

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
use super::instance_table::{InitialName, InstanceTable, StopPlan};
use super::network::{self, Addresses, Network};
use super::plan::{self, Launch, ManagedLabels};
use super::watch;
use crate::control::runtime::revisions::{Revision, Revisions};
use crate::control::runtime::{Failure, FailureKind, Spec, Started};
use crate::core::snapshot::Endpoint;
use crate::settings::{DockerSettings, OnExit, Reach};

/// How often a start tries to get its name, and how long it waits in between: the engine may be removing the container
/// that has it.
const NAME_TRIES: u32 = 40;
const NAME_PAUSE: Duration = Duration::from_millis(50);
/// How long at most a silent container is kept while its replacement starts. Once it is removed the engine may give its
/// address to the replacement, and a firewall rule, say, that made the one silent would make the other so.
const ADDRESS_HOLD: Duration = Duration::from_secs(3);
/// How long an ended container is kept when no replacement begins to start: after a failed `/add`, say.
const REPLACEMENT_WAIT: Duration = Duration::from_millis(500);
/// How long removals under way may take when Ringway ends, and then again what else is to be removed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

pub struct Driver {
    pub engine: Engine,
    /// As it was opened: what of it can change stands in `launches`.
    pub settings: DockerSettings,
    /// The service that its replicas belong to.
    pub service: String,
    pub network: Network,
    pub launches: Mutex<Revisions<Arc<Launch>>>,
    /// Where the engine publishes ports.
    pub publish: Option<&'static str>,
    pub reach: Reach,
    /// Where published ports are dialled.
    pub host: IpAddr,
    /// Random, and new with every start of Ringway but one that replaces another.
    pub run_id: String,
    /// This process goes on with the containers of the one that it replaces.
    pub is_successor: bool,
    pub cluster_lock: ClusterLock,
    pub table: Mutex<InstanceTable>,
    /// Notified after each change of the table that a task may wait for.
    pub changed: Notify,
}

impl Driver {
    pub fn table(&self) -> MutexGuard<'_, InstanceTable> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn launches(&self) -> MutexGuard<'_, Revisions<Arc<Launch>>> {
        self.launches.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Of the newest configuration.
    pub fn newest(&self) -> Arc<Launch> {
        self.launches().newest().cloned().unwrap_or_else(|| unreachable!("there is always one"))
    }

    /// Another configuration's. Those before keep their images, if a tag means another one now.
    pub fn add_launch(&self, launch: Arc<Launch>) -> Revision {
        let mut launches = self.launches();
        let moved = launches.all().filter_map(|(revision, before)| Some((revision, before.behind(&launch)?)));
        for (revision, pinned) in moved.collect::<Vec<_>>() {
            launches.update(revision, Arc::new(pinned));
        }
        launches.take(launch)
    }

    fn launch(&self, revision: Revision) -> Arc<Launch> {
        let known = self.launches().get(revision).cloned();
        known.unwrap_or_else(|| self.newest())
    }

    pub async fn start(self: &Arc<Self>, spec: &Spec) -> Result<Started, Failure> {
        let launch = self.launch(spec.revision);
        let initial_name = self.table().begin(spec, &launch);
        self.changed.notify_waiters();
        let result = self.create_and_start(spec, &launch, initial_name).await;
        if result.is_err() {
            self.remove_failed_start(spec.instance.number()).await;
        }
        self.changed.notify_waiters();
        result
    }

    async fn create_and_start(
        self: &Arc<Self>,
        spec: &Spec,
        launch: &Launch,
        initial_name: InitialName,
    ) -> Result<Started, Failure> {
        let container = match initial_name {
            InitialName::Slot => self.create(spec, launch).await?,
            InitialName::Temporary => self.create_under_temporary_name(spec, launch).await?,
        };
        self.table().created(spec.instance.number(), &container);
        if let Err(error) = self.engine.client.start_container(&container, None).await {
            if status(&error) != Some(404) {
                return Err(self.engine.failure(&format!("start {}", spec.name), &error));
            }
            // The network was removed.
            network::ensure(&self.engine, &self.settings).await?;
            let again = self.engine.client.start_container(&container, None).await;
            again.map_err(|error| self.engine.failure(&format!("start {}", spec.name), &error))?;
        }
        // Read after the start: the engine gives the address of an ended container to the next one at once.
        let endpoint = self.endpoint(&container).await?;
        let alive = self.table().started(spec.instance.number());
        match endpoint {
            Some(endpoint) if alive => {
                let handle = short(&container).to_owned();
                if initial_name == InitialName::Temporary {
                    let (driver, spec) = (self.clone(), spec.clone());
                    tokio::spawn(async move { driver.take_name(&spec, &container).await });
                }
                Ok(Started { endpoint, handle, weight: 1 })
            }
            _ => Err(self.ended_at_start(spec, launch, &container).await),
        }
    }

    /// Creates the container under its slot's name.
    async fn create(&self, spec: &Spec, launch: &Launch) -> Result<String, Failure> {
        for attempt in 0.. {
            match self.create_as(spec, launch, &spec.name).await {
                Err(error) if status(&error) == Some(409) && attempt < NAME_TRIES => self.free_name(spec).await?,
                created => return created.map_err(|error| self.not_created(spec, launch, &error)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// The slot's name is still that of the container which is replaced, until the engine has removed it. The replacement
    /// does not wait for that: it is renamed once it runs.
    async fn create_under_temporary_name(&self, spec: &Spec, launch: &Launch) -> Result<String, Failure> {
        let created = self.create_as(spec, launch, &plan::temporary_name(&spec.name, spec.instance.number())).await;
        created.map_err(|error| self.not_created(spec, launch, &error))
    }

    async fn create_as(&self, spec: &Spec, launch: &Launch, name: &str) -> Result<String, Error> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let body = launch.plan.container(spec, &self.run_id);
        self.engine.client.create_container(Some(options), body).await.map(|created| created.id)
    }

    fn not_created(&self, spec: &Spec, launch: &Launch, error: &Error) -> Failure {
        match status(error) {
            Some(404) => no_image(&self.engine, &launch.settings.image),
            _ => self.engine.failure(&format!("create {}", spec.name), error),
        }
    }

    /// Renames a running replacement to its slot's name, after the instances before it have ended and their containers
    /// have lost it.
    pub async fn take_name(&self, spec: &Spec, container: &str) {
        self.until(|table| table.may_take_name(spec.instance.number())).await;
        for _ in 0..NAME_TRIES {
            let replaced = self.table().replaced_containers(spec.instance.number());
            for (instance, container) in replaced {
                self.rename_retired(&spec.name, instance, &container).await;
            }
            match self.rename(container, &spec.name).await {
                // Renamed, or gone already.
                Ok(()) | Err(404) => return,
                Err(_) => tokio::time::sleep(NAME_PAUSE).await,
            }
        }
        let name = plan::temporary_name(&spec.name, spec.instance.number());
        log::warn!("{}: {} stays {name}: a foreign container has that name", spec.name, short(container));
    }

    /// A container has the slot's name. If an ended instance left it, it is renamed; any other is not touched.
    async fn free_name(&self, spec: &Spec) -> Result<(), Failure> {
        let held = match self.engine.client.inspect_container(&spec.name, None).await {
            Ok(held) => held,
            // Removed in the meantime, or being removed.
            Err(error) if matches!(status(&error), Some(404 | 409)) => {
                tokio::time::sleep(NAME_PAUSE).await;
                return Ok(());
            }
            Err(error) => return Err(self.engine.failure(&format!("inspect {}", spec.name), &error)),
        };
        let labels: BTreeMap<_, _> = held.config.and_then(|c| c.labels).unwrap_or_default().into_iter().collect();
        let id = held.id.unwrap_or_default();
        match ManagedLabels::read(&labels, &self.settings.cluster) {
            Some(labels) if self.table().is_left_over(&id, &labels, &self.run_id) => {
                self.rename_retired(&spec.name, labels.instance, &id).await;
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

    /// Takes the slot's name from the container of an ended instance.
    async fn rename_retired(&self, name: &str, instance: u64, container: &str) {
        if let Err(status) = self.rename(container, &plan::retired_name(name, instance)).await {
            log::debug!("{name}: {} could not be renamed: status {status}", short(container));
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
        // An adopted one may have been started with another port.
        let port = plan::port_of(&inspected).unwrap_or_else(|| self.newest().settings.port);
        let found = Addresses::read(&inspected).endpoint(&self.network.name, port, self.reach, self.host);
        Ok(found.filter(|_| running).map(Endpoint::Tcp))
    }

    /// Why a container that was just started has no address.
    async fn ended_at_start(&self, spec: &Spec, launch: &Launch, container: &str) -> Failure {
        let details = watch::exit_details(&self.engine, container).await;
        let message = format!("{} ({}) ended as soon as it was started{details}", spec.name, launch.settings.image);
        Failure { kind: FailureKind::Refused, message }
    }

    /// After a failed start: removes what it created.
    async fn remove_failed_start(&self, instance: u64) {
        let container = self.table().managed(instance).and_then(|managed| managed.container.clone());
        let removed = match container {
            Some(id) => self.remove(&id).await,
            None => Ok(()),
        };
        self.record_removal(instance, &removed);
    }

    pub async fn stop(self: &Arc<Self>, instance: u64, grace: Duration) -> Result<(), Failure> {
        let plan = self.table().begin_stop(instance, grace);
        match plan {
            StopPlan::Nothing => Ok(()),
            StopPlan::AwaitStart => {
                self.until(|table| table.is_start_cleaned_up(instance)).await;
                Ok(())
            }
            StopPlan::RemoveLater => {
                self.clone().remove_later(instance);
                Ok(())
            }
            StopPlan::StopAndRemove { name, container, timeout } => {
                let grace = if grace.is_zero() { grace } else { timeout };
                let removed = self.stop_and_remove(&name, &container, grace).await;
                self.record_removal(instance, &removed);
                removed
            }
        }
    }

    /// Removes the container of an ended instance, once its replacement runs.
    pub fn remove_later(self: Arc<Driver>, instance: u64) {
        tokio::spawn(async move {
            let Some(managed) = self.table().managed(instance).cloned() else { return };
            let Some(container) = managed.container else { return };
            // The engine is asked for nothing before that: it would keep the replacement waiting.
            self.replaced(instance).await;
            let details = watch::exit_details(&self.engine, &container).await;
            if !details.is_empty() {
                log::info!("{} ({}){details}", managed.name, short(&container));
            }
            let removed = self.remove(&container).await;
            if let Err(error) = &removed {
                log::debug!("{}: {} is not removed yet: {error}", managed.name, short(&container));
            }
            self.record_removal(instance, &removed);
        });
    }

    fn record_removal<E>(&self, instance: u64, result: &Result<(), E>) {
        match result {
            Ok(()) => self.table().removed(instance),
            Err(_) => self.table().removal_failed(instance),
        }
        self.changed.notify_waiters();
    }

    async fn stop_and_remove(&self, name: &str, container: &str, grace: Duration) -> Result<(), Failure> {
        let whole = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(whole).build();
        match self.engine.with_grace(grace).stop_container(container, Some(options)).await {
            Ok(()) => {}
            // The engine refused (it is paused, say) or has removed it: the removal below ends it in any case.
            Err(error) if status(&error).is_some() => log::debug!("{name}: stop: {error}"),
            Err(error) => return Err(self.engine.failure(&format!("stop {name}"), &error)),
        }
        let removed = self.remove(container).await;
        removed.map_err(|error| self.engine.failure(&format!("remove {name} ({})", short(container)), &error))
    }

    /// Removes by force. `Ok` too if it does not exist or is being removed.
    pub async fn remove(&self, container: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.engine.client.remove_container(container, Some(options)).await {
            Err(error) if !matches!(status(&error), Some(404 | 409)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits, within a limit, until the replacement of `instance` has an address of its own, if it gets a replacement.
    async fn replaced(&self, instance: u64) {
        let begun = self.until(|table| table.has_replacement(instance));
        if tokio::time::timeout(REPLACEMENT_WAIT, begun).await.is_err() {
            return;
        }
        let _ = tokio::time::timeout(ADDRESS_HOLD, self.until(|table| table.is_replaced(instance))).await;
    }

    /// Waits, within a limit, for removals under way, removes the network if Ringway created it and no container is on it,
    /// and releases the lock.
    pub async fn close(&self) {
        self.table().close();
        self.changed.notify_waiters();
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.until(|table| !table.has_removals())).await;
        if tokio::time::timeout(CLOSE_LIMIT, self.leave_engine()).await.is_err() {
            let (network, host) = (&self.network.name, &self.engine.host);
            log::warn!("the engine at {host} does not answer: the network {network} and the cluster's lock may stay");
        }
    }

    async fn leave_engine(&self) {
        if self.network.is_managed && self.settings.on_exit == OnExit::Remove {
            match self.engine.client.remove_network(&self.network.id).await {
                Ok(()) => log::info!("removed the network {}", self.network.name),
                Err(error) => {
                    log::info!("the network {} stays: {}", self.network.name, engine::one_line(&error.to_string()))
                }
            }
        }
        self.cluster_lock.release().await;
    }

    async fn until(&self, condition: impl Fn(&InstanceTable) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if condition(&self.table()) {
                return;
            }
            changed.await;
        }
    }

    pub async fn list(&self, label: &str) -> Result<Vec<ContainerSummary>, Failure> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = self.engine.client.list_containers(Some(options)).await;
        list.map_err(|error| self.engine.failure("list containers", &error))
    }
}

/// A container's id as the docker command shows it.
pub fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
