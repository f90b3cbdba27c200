//! Replicas as Docker containers: started, watched, ended and adopted over the engine's API. It decides nothing about
//! how many there are; the registry does.
//!
//! # Security
//!
//! Whoever may speak to the engine is root on its machine: the socket is that power. So:
//!
//! - Nothing that a client sends reaches a container's definition but the slot's name, which the registry has checked.
//!   Image, command, environment, labels, limits and network come from the operator's settings alone.
//! - A replica gets no capability, no new privilege, no writable root, no volume, no socket, a cap on processes, and
//!   the memory and CPU limits of the settings.
//! - The admin API starts containers, up to `--max-replicas`: it listens on loopback or asks for a token.
//! - A remote engine is spoken to over TLS with client certificates (`DOCKER_HOST=tcp://...`, `DOCKER_TLS_VERIFY=1`,
//!   `DOCKER_CERT_PATH`). Plain `tcp://` is for networks that you trust with root.
//! - Ringway removes only containers whose label names its cluster. Those of others it balances at most.

mod adopt;
mod cluster_lock;
mod discovery;
mod driver;
mod engine;
mod instance_table;
mod network;
mod plan;
mod watch;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use self::cluster_lock::ClusterLock;
use self::driver::Driver;
use self::engine::{Engine, no_image, status};
use self::plan::Plan;
use super::{Event, Failure, FailureKind, InstanceId, Runtime, Spec, Started};

/// What an operator says about the containers. Plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `DOCKER_HOST` if it is not given.
    pub host: Option<String>,
    pub image: String,
    pub network: String,
    /// For a network that does not exist yet: `10.1.2.0/24`.
    pub subnet: Option<String>,
    /// Whose containers these are. One Ringway per cluster name and engine.
    pub cluster: String,
    /// `PORT` inside the containers.
    pub port: u16,
    pub memory_bytes: Option<u64>,
    pub cpu_milli: Option<u32>,
    pub env: Vec<(String, String)>,
    pub labels: BTreeMap<String, String>,
    pub reach: Reach,
    pub on_exit: OnExit,
    /// Whether containers of others that carry the label `ringway.enable=true` are balanced.
    pub discover: bool,
    /// The service whose guests (`ringway.service`) are balanced. A guest that names none is for any.
    pub service: String,
}

/// How containers are dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By bridge address if this host is on the network, by published port if not.
    Auto,
    Bridge,
    Published,
}

/// What becomes of the replicas when Ringway ends, and of those that it finds when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// They run on, and the next Ringway adopts them.
    Keep,
    /// They are removed; if Ringway was killed, the next one removes them.
    Remove,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            host: None,
            image: "ringway".into(),
            network: "ringway".into(),
            subnet: None,
            cluster: "ringway".into(),
            port: 8080,
            memory_bytes: None,
            cpu_milli: None,
            env: Vec::new(),
            labels: BTreeMap::new(),
            reach: Reach::Auto,
            on_exit: OnExit::Remove,
            discover: true,
            service: "default".into(),
        }
    }
}

/// The Docker runtime.
pub struct Docker {
    hand: Arc<Driver>,
}

impl Docker {
    /// Connects, and makes sure of the network and the image, so that a first start cannot fail for want of them.
    pub async fn open(settings: Settings) -> Result<Docker, Failure> {
        let engine = Engine::connect(settings.host.as_deref()).await?;
        let claim = ClusterLock::stake(&engine, &settings.cluster).await?;
        let image = image_id(&engine, &settings.image).await?;
        let network = network::ensure(&engine, &settings).await?;
        let reach = network::choose(settings.reach, &network)?;
        let remote = engine.published_host();
        let publish = (reach == Reach::Published).then_some(if remote.is_some() { "0.0.0.0" } else { "127.0.0.1" });
        let host = match remote {
            Some(name) if reach == Reach::Published => resolve(name).await?,
            _ => Ipv4Addr::LOCALHOST.into(),
        };
        let plan = Plan::new(&settings, &network.name, &image, publish);
        let life = format!("{:016x}", fastrand::u64(..));
        log::info!("Docker engine at {}, image {}, network {}", engine.host, settings.image, network.name);
        let (table, turned) = Default::default();
        Ok(Docker {
            hand: Arc::new(Driver { engine, settings, network, plan, reach, host, life, _claim: claim, table, turned }),
        })
    }
}

impl Runtime for Docker {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        self.hand.table().begin(spec.instance.number(), spec.name.clone());
        self.hand.turned.notify_waiters();
        let result = self.hand.start(spec).await;
        if result.is_err() {
            self.hand.clean(spec.instance.number()).await;
        }
        self.hand.turned.notify_waiters();
        result
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), Failure> {
        let InstanceId::Managed(instance) = instance else { return Ok(()) };
        self.hand.stop(instance, grace).await
    }

    async fn attach(&self, events: UnboundedSender<Event>) -> Result<Vec<(Spec, Started)>, Failure> {
        let adopted = self.hand.take_over().await?;
        tokio::spawn(watch::run(self.hand.clone(), events));
        Ok(adopted)
    }

    fn can_start(&self) -> bool {
        true
    }

    fn keeps_on_exit(&self) -> bool {
        self.hand.settings.on_exit == OnExit::Keep
    }

    async fn close(&self) {
        self.hand.close().await;
    }
}

async fn image_id(engine: &Engine, image: &str) -> Result<String, Failure> {
    match engine.client.inspect_image(image).await {
        Ok(found) => Ok(found.id.unwrap_or_default()),
        Err(error) if status(&error) == Some(404) => Err(no_image(engine, image)),
        Err(error) => Err(engine.failure(&format!("inspect the image {image}"), &error)),
    }
}

async fn resolve(name: &str) -> Result<IpAddr, Failure> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((bare, 0)).await.ok().and_then(|mut list| list.next());
    found.map(|address: SocketAddr| address.ip()).ok_or_else(|| Failure {
        kind: FailureKind::Unavailable,
        message: format!("the engine's host {name} has no address: name it by address in DOCKER_HOST"),
    })
}
