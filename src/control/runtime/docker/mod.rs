//! Replicas as Docker containers: started, watched, stopped and adopted over the engine's API. How many there are is the
//! registry's decision.
//!
//! # Files
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | `Docker`, the implementation of the trait `Runtime` by the parts below; opens engine, image, network, plan and lock; asks whether a container is paused; resolves a remote engine's host |
//! | `engine.rs` | the connection to the engine: socket or TLS (`DOCKER_HOST`), ping, version; bollard's errors as failures with a remedy: no engine, no such image; no container; certificate path, a hint where the socket is mounted as a file |
//! | `cluster_lock.rs` | one Ringway per cluster name and engine: the lock container, claims, a bound abstract socket, lists and inspects locks, takeover from a dead holder; network namespaces, the duty of a holder (`Duty`), tended every second |
//! | `network.rs` | the replicas' network: inspected or created, its subnet, whether this machine is on it; a container's `Addresses` and published ports, and which is dialled; bridge, IPAM; `Reach` chosen |
//! | `plan.rs` | `Launch`: what containers of one configuration are started with; the request body that creates a replica's container: name, image, labels (`ringway.*`), environment, memory and CPU; checksum of the settings; temporary and retired names; reads `ManagedLabels`; port bindings, restart policy, log size |
//! | `confinement.rs` | `HostConfig` of a container: capabilities, read-only root, tmpfs, secrets, pids, stop timeout, by settings and image; pure; `ImageKind` (own or other), mounts of volumes and secrets, privileges |
//! | `discovery.rs` | a foreign container's labels (`ringway.enable`, port, weight, service, network) checked, and the address where it is dialled; pure; bridge and host networks, exposed port, why a container is not balanced |
//! | `instance_table.rs` | our containers by instance: phase (starting, running, stopping, ending, gone), replacement and name, `StopPlan`, what an event, an inspection, the list or a stop that was outlived changes, the `Action` that follows; pure |
//! | `instance_table/tests.rs` | tests of that table |
//! | `foreign_table.rs` | foreign containers: inspected after each event, balanced, joined, left, names that clash; pure; `Candidate`, `Balanced`, `Inspected`; signalled, missing in the list |
//! | `driver.rs` | calls on one container, with retries: create under a name or a temporary one, start, rename, find its endpoint, stop, remove later; closes all at the end; lists containers by label; waits on the table until an instance is replaced; a container that ended at its start |
//! | `container_event.rs` | one event of the engine parsed: start, kill with which signal, die with which status, pause, disconnect; reasons in words; pure; signal names and numbers, actor and attributes of the message |
//! | `watch.rs` | the task that follows the engine's event stream, reconnects, lists and compares every 10 s, carries out the tables' actions, emits `RuntimeEvent`s; exit details and last log line of a dead container; `Watcher`; what an event or a list lacks is inspected: paused, exited, out of memory, a foreign candidate judged; strays removed |
//! | `adopt.rs` | at the start: containers of an earlier run adopted or removed, and which are outdated; why one is unfit (not running, broken labels, its slot is filled) |
//!
//! # Security
//!
//! Access to the engine's socket is root access to its machine. Therefore:
//!
//! - Of what a client sends only a slot's name enters a container's definition, and the registry has checked it.
//!   Image, command, environment, labels, limits and network come from the operator's settings.
//! - A replica from Ringway's own image, which its label tells, has no capability, no new privilege, no writable root, no
//!   volume, no socket, and limits on processes and memory. One from another image is confined as the engine does it, and
//!   as the settings say.
//! - The admin API starts containers, up to `--max-replicas`: it listens on loopback or requires a token.
//! - In a container the folder of the socket is mounted, not the socket: an engine that restarts makes a new one.
//! - A remote engine is reached over TLS with client certificates (`DOCKER_HOST=tcp://...`, `DOCKER_TLS_VERIFY=1`,
//!   `DOCKER_CERT_PATH`). Plain `tcp://` gives root on the engine's machine to everyone on that network.
//! - Ringway removes only containers whose label names its cluster. It balances foreign ones, and leaves them as they are.

mod adopt;
mod cluster_lock;
mod confinement;
mod container_event;
mod discovery;
mod driver;
mod engine;
mod foreign_table;
mod instance_table;
mod network;
mod plan;
mod watch;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use self::cluster_lock::ClusterLock;
use self::confinement::ImageKind;
use self::driver::Driver;
use self::engine::{Engine, no_image, status};
use self::instance_table::InstanceTable;
use self::plan::Image;
pub use self::plan::Launch;
use super::revisions::{Revision, Revisions};
use super::{Failure, FailureKind, InstanceId, Lent, Runtime, RuntimeEvent, Spec, Started, process_state};
use crate::core::snapshot::ServiceId;
use crate::settings::{DockerSettings, Reach};

/// How long an engine may take to say how a silent container is.
const SUSPENSION_LIMIT: Duration = Duration::from_millis(500);

/// The Docker runtime.
pub struct Docker {
    driver: Arc<Driver>,
    /// The task that follows the engine, and where it reports.
    watch: RefCell<Option<(AbortHandle, UnboundedSender<RuntimeEvent>)>>,
    /// Instances that were to stop while a successor might use them.
    refused_stops: RefCell<Vec<u64>>,
}

/// What a Ringway passes on to the one that replaces it: both are one run, so that the cluster stays locked and containers
/// keep their labels.
#[derive(Debug, Default)]
pub struct DockerPredecessor {
    pub run_id: Option<String>,
    pub lock: Option<UnixDatagram>,
}

impl Docker {
    /// Containers of others whose label `ringway.service` names another service than `service` are not balanced.
    ///
    /// Connects, and checks for image and network (which it creates), so that their lack ends the start of Ringway.
    pub async fn open(
        settings: DockerSettings,
        service: &str,
        predecessor: Option<DockerPredecessor>,
    ) -> Result<Docker, Failure> {
        let engine = Engine::connect(settings.host.as_deref()).await?;
        let image = image(&engine, &settings.image).await?;
        let image_id = image.id.clone();
        let network = network::ensure(&engine, &settings).await?;
        let reach = network::choose(settings.reach, &network)?;
        let remote = engine.published_host();
        let publish = (reach == Reach::Published).then_some(if remote.is_some() { "0.0.0.0" } else { "127.0.0.1" });
        let host = match remote {
            Some(name) if reach == Reach::Published => resolve(name).await?,
            _ => Ipv4Addr::LOCALHOST.into(),
        };
        let launch = Launch::new(settings.clone(), &network.name, &image, publish);
        let DockerPredecessor { run_id, lock } = predecessor.unwrap_or_default();
        let is_successor = run_id.is_some();
        let run_id = run_id.unwrap_or_else(|| format!("{:016x}", fastrand::u64(..)));
        // Last, so that no start that fails leaves it behind.
        let cluster_lock = ClusterLock::acquire(&engine, &settings.cluster, &image_id, &run_id, lock).await?;
        log::info!("Docker engine at {}, image {}, network {}", engine.host, settings.image, network.name);
        let table = Mutex::new(InstanceTable::new(&network.name));
        Ok(Docker {
            driver: Arc::new(Driver {
                engine,
                settings,
                service: service.to_owned(),
                network,
                launches: Mutex::new(Revisions::new(Arc::new(launch))),
                publish,
                reach,
                host,
                run_id,
                is_successor,
                cluster_lock,
                table,
                changed: Notify::new(),
            }),
            watch: RefCell::default(),
            refused_stops: RefCell::default(),
        })
    }
}

impl Docker {
    pub fn service(&self) -> &str {
        &self.driver.service
    }

    pub fn settings(&self) -> &DockerSettings {
        &self.driver.settings
    }

    /// What containers would be started with by these settings. The engine is asked for the image: the same tag may mean
    /// another one than before. Where that alone could have changed, an engine that does not answer is no failure.
    pub async fn prepare(&self, settings: DockerSettings) -> Result<Arc<Launch>, Failure> {
        let driver = &self.driver;
        let settings = settings.within(&driver.settings);
        let newest = driver.newest();
        match image(&driver.engine, &settings.image).await {
            Ok(image) => Ok(Launch::new(settings, &driver.network.name, &image, driver.publish).into()),
            Err(_) if newest.settings == settings => Ok(newest),
            Err(failure) => Err(failure),
        }
    }

    /// Of another configuration.
    pub fn add(&self, launch: Arc<Launch>) -> Revision {
        self.driver.add_launch(launch)
    }

    /// The image that a tag means is not looked at.
    pub fn revision_of(&self, settings: &DockerSettings) -> Option<Revision> {
        let settings = settings.clone().within(&self.driver.settings);
        self.driver.launches().find(|launch| launch.settings == settings)
    }

    fn watch(&self, events: UnboundedSender<RuntimeEvent>) {
        let task = tokio::spawn(watch::run(self.driver.clone(), events.clone()));
        self.watch.replace(Some((task.abort_handle(), events)));
    }
}

impl Runtime for Docker {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        self.driver.cluster_lock.check()?;
        self.driver.start(spec).await
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), Failure> {
        let InstanceId::Managed(instance) = instance else { return Ok(()) };
        if self.driver.cluster_lock.is_lent() {
            self.refused_stops.borrow_mut().push(instance);
        }
        if self.driver.cluster_lock.check().is_err() {
            return Ok(());
        }
        self.driver.stop(instance, grace).await
    }

    async fn attach(&self, events: UnboundedSender<RuntimeEvent>) -> Result<Vec<(Spec, Started)>, Failure> {
        let adopted = self.driver.adopt_or_remove().await;
        if adopted.is_err() && !self.driver.is_successor {
            self.driver.cluster_lock.release().await;
        }
        let instances = adopted?;
        self.watch(events);
        Ok(instances)
    }

    async fn suspension(&self, instance: InstanceId) -> Option<String> {
        let InstanceId::Managed(number) = instance else { return None };
        let container = self.driver.table().managed(number)?.container.clone()?;
        suspension(&self.driver.engine, &container).await
    }

    fn settle(&self, _: ServiceId, revision: Revision) {
        self.driver.launches().settle(revision);
    }

    fn stop_limit(&self) -> Duration {
        self.driver.launches().all().map(|(_, launch)| launch.stop_timeout).max().unwrap_or_default()
    }

    fn lend(&self) -> Lent {
        if let Some((task, _)) = &*self.watch.borrow() {
            task.abort();
        }
        self.driver.cluster_lock.lend();
        let lock = self.driver.cluster_lock.socket();
        Lent { run_id: Some(self.driver.run_id.clone()), lock }
    }

    /// The engine's list tells what happened meanwhile. What was given up since then ends now.
    fn take_back(&self) {
        self.driver.cluster_lock.take_back();
        for instance in self.refused_stops.take() {
            let driver = self.driver.clone();
            tokio::spawn(async move { driver.stop(instance, Duration::ZERO).await });
        }
        if let Some((_, events)) = self.watch.take() {
            self.watch(events);
        }
    }

    async fn close(&self) {
        if self.driver.cluster_lock.is_lent() {
            return;
        }
        self.driver.close().await;
    }

    fn left_behind(&self) -> Vec<String> {
        if self.driver.cluster_lock.is_lent() {
            return Vec::new();
        }
        self.driver.table().left_behind(self.driver.settings.on_exit)
    }
}

/// Why a container that has not ended cannot run. The state of its process can be read only where the engine runs on this
/// machine and this is not a container itself.
async fn suspension(engine: &Engine, container: &str) -> Option<String> {
    let inspection = timeout(SUSPENSION_LIMIT, engine.client.inspect_container(container, None));
    let state = inspection.await.ok()?.ok()?.state?;
    if state.paused == Some(true) {
        return Some("it is paused".into());
    }
    let pid = i32::try_from(state.pid?).ok()?;
    process_state::runs_in_container(pid, container).then(|| process_state::suspension(pid))?
}

async fn image(engine: &Engine, image: &str) -> Result<Image, Failure> {
    match engine.client.inspect_image(image).await {
        Ok(found) => {
            let stop_signal = found.config.as_ref().and_then(|config| config.stop_signal.as_deref());
            let stop_signal = stop_signal.and_then(container_event::signal_number);
            Ok(Image { kind: ImageKind::of(&found), stop_signal, id: found.id.unwrap_or_default() })
        }
        Err(error) if status(&error) == Some(404) => Err(no_image(engine, image)),
        Err(error) => Err(engine.failure(&format!("inspect the image {image}"), &error)),
    }
}

async fn resolve(name: &str) -> Result<IpAddr, Failure> {
    let host = name.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((host, 0)).await.ok().and_then(|mut list| list.next());
    found.map(|address: SocketAddr| address.ip()).ok_or_else(|| Failure {
        kind: FailureKind::Unavailable,
        message: format!("the engine's host {name} has no address: name it by address in DOCKER_HOST"),
    })
}
