//! The runtime of one service: which kind it is, what it is made from, and what settings change of it while it runs. How an
//! instance is started is not known here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;
use tokio::sync::mpsc::UnboundedSender;

use super::discovery::follow::SourceStatus;
use super::discovery::{Discovery, DiscoverySettings};
use super::docker::{Docker, DockerPredecessor, Launch};
use super::fixed::Fixed;
use super::process::{self, Processes};
use super::revisions::Revision;
use super::{Failure, FailureKind, InstanceId, Lent, Runtime, RuntimeEvent, Spec, Started};
use crate::core::snapshot::ServiceId;
use crate::settings::{DockerSettings, FixedReplica};

const PROCESS: &str = "process";
const DOCKER: &str = "docker";
const FIXED: &str = "fixed";

/// What runs the replicas of one service.
pub enum ServiceRuntime {
    Process(Processes),
    Docker(Docker),
    Fixed(Fixed),
    Discovery(Discovery),
}

/// What a service's runtime is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum RuntimeSettings {
    /// Our own program, or another one with its arguments.
    Process {
        program: Vec<OsString>,
    },
    Docker {
        settings: Box<DockerSettings>,
        service: String,
    },
    Fixed(Vec<FixedReplica>),
    Discovery {
        settings: Box<DiscoverySettings>,
        service: String,
    },
}

/// By the name of the service.
pub type DockerPredecessors = BTreeMap<String, DockerPredecessor>;

impl RuntimeSettings {
    /// As `--runtime` has it.
    pub fn word(&self) -> &'static str {
        match self {
            RuntimeSettings::Process { .. } => PROCESS,
            RuntimeSettings::Docker { .. } => DOCKER,
            RuntimeSettings::Fixed(_) => FIXED,
            RuntimeSettings::Discovery { settings, .. } => settings.kind.word(),
        }
    }

    /// `predecessors` are the Docker runtimes of the process that this one replaces, by service.
    pub async fn open(self, predecessors: &mut DockerPredecessors) -> Result<ServiceRuntime, Failure> {
        Ok(match self {
            RuntimeSettings::Process { program } => ServiceRuntime::Process(Processes::new(program)?),
            RuntimeSettings::Docker { settings, service } => {
                let predecessor = predecessors.remove(&service);
                ServiceRuntime::Docker(Docker::open(*settings, &service, predecessor).await?)
            }
            RuntimeSettings::Fixed(replicas) => ServiceRuntime::Fixed(Fixed::new(replicas)),
            RuntimeSettings::Discovery { settings, service } => {
                ServiceRuntime::Discovery(Discovery::new(*settings, service)?)
            }
        })
    }
}

/// Settings that a runtime can take in.
pub enum SettingsChange {
    Process(Vec<OsString>),
    Docker(Arc<Launch>),
    Fixed(Vec<FixedReplica>),
    Discovery(Box<DiscoverySettings>),
}

impl ServiceRuntime {
    /// As `--runtime` has it.
    pub fn word(&self) -> &'static str {
        match self {
            ServiceRuntime::Process(_) => PROCESS,
            ServiceRuntime::Docker(_) => DOCKER,
            ServiceRuntime::Fixed(_) => FIXED,
            ServiceRuntime::Discovery(discovery) => discovery.kind().word(),
        }
    }

    /// Whether a reload can give it these settings. One source may become another.
    pub fn takes(&self, settings: &RuntimeSettings) -> bool {
        matches!(
            (self, settings),
            (ServiceRuntime::Process(_), RuntimeSettings::Process { .. })
                | (ServiceRuntime::Docker(_), RuntimeSettings::Docker { .. })
                | (ServiceRuntime::Fixed(_), RuntimeSettings::Fixed(_))
                | (ServiceRuntime::Discovery(_), RuntimeSettings::Discovery { .. })
        )
    }

    pub fn source(&self) -> Option<SourceStatus> {
        match self {
            ServiceRuntime::Discovery(discovery) => Some(discovery.status()),
            _ => None,
        }
    }

    /// `Err`: why it cannot take these settings in.
    pub async fn prepare(&self, settings: RuntimeSettings) -> Result<SettingsChange, Failure> {
        match (self, settings) {
            (ServiceRuntime::Process(_), RuntimeSettings::Process { program }) => {
                process::check_program(&program)?;
                Ok(SettingsChange::Process(program))
            }
            (ServiceRuntime::Docker(docker), RuntimeSettings::Docker { settings, .. }) => {
                Ok(SettingsChange::Docker(docker.prepare(*settings).await?))
            }
            (ServiceRuntime::Fixed(_), RuntimeSettings::Fixed(replicas)) => Ok(SettingsChange::Fixed(replicas)),
            (ServiceRuntime::Discovery(_), RuntimeSettings::Discovery { settings, .. }) => {
                Discovery::check(&settings)?;
                Ok(SettingsChange::Discovery(settings))
            }
            _ => Err(Failure {
                kind: FailureKind::Refused,
                message: "a service is to have another runtime: give it another name, or upgrade or restart".into(),
            }),
        }
    }

    /// What its instances are to be started with.
    pub fn take_in(&self, change: SettingsChange) -> Option<Revision> {
        match (self, change) {
            (ServiceRuntime::Process(processes), SettingsChange::Process(program)) => {
                Some(processes.add_program(program))
            }
            (ServiceRuntime::Docker(docker), SettingsChange::Docker(launch)) => Some(docker.add(launch)),
            (ServiceRuntime::Fixed(fixed), SettingsChange::Fixed(replicas)) => {
                fixed.set_servers(replicas);
                None
            }
            (ServiceRuntime::Discovery(discovery), SettingsChange::Discovery(settings)) => {
                discovery.set_settings(*settings);
                None
            }
            _ => None,
        }
    }

    /// `None`: no instance was started with them, as far as is known.
    pub fn revision_of(&self, settings: &RuntimeSettings) -> Option<Revision> {
        match (self, settings) {
            (ServiceRuntime::Process(processes), RuntimeSettings::Process { program }) => {
                processes.revision_of(program)
            }
            (ServiceRuntime::Docker(docker), RuntimeSettings::Docker { settings, .. }) => docker.revision_of(settings),
            _ => Some(Revision::FIRST),
        }
    }

    /// What it keeps for as long as the balancer runs, and these settings have otherwise.
    pub fn needs_restart(&self, settings: &RuntimeSettings) -> Vec<String> {
        let (ServiceRuntime::Docker(docker), RuntimeSettings::Docker { settings, service }) = (self, settings) else {
            return Vec::new();
        };
        let kept = docker.settings().kept_differences(settings);
        kept.iter().map(|name| format!("docker.{name} of service {service}")).collect()
    }

    /// Its service is removed.
    pub fn give_up(&self) {
        match self {
            ServiceRuntime::Fixed(fixed) => fixed.set_servers(Vec::new()),
            ServiceRuntime::Discovery(discovery) => discovery.give_up(),
            ServiceRuntime::Process(_) | ServiceRuntime::Docker(_) => {}
        }
    }
}

/// Each method is that of the runtime inside.
impl Runtime for ServiceRuntime {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        match self {
            ServiceRuntime::Process(processes) => processes.start(spec).await,
            ServiceRuntime::Docker(docker) => docker.start(spec).await,
            ServiceRuntime::Fixed(fixed) => fixed.start(spec).await,
            ServiceRuntime::Discovery(discovery) => discovery.start(spec).await,
        }
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), Failure> {
        match self {
            ServiceRuntime::Process(processes) => processes.stop(instance, grace).await,
            ServiceRuntime::Docker(docker) => docker.stop(instance, grace).await,
            ServiceRuntime::Fixed(fixed) => fixed.stop(instance, grace).await,
            ServiceRuntime::Discovery(discovery) => discovery.stop(instance, grace).await,
        }
    }

    async fn attach(&self, events: UnboundedSender<RuntimeEvent>) -> Result<Vec<(Spec, Started)>, Failure> {
        match self {
            ServiceRuntime::Process(processes) => processes.attach(events).await,
            ServiceRuntime::Docker(docker) => docker.attach(events).await,
            ServiceRuntime::Fixed(fixed) => fixed.attach(events).await,
            ServiceRuntime::Discovery(discovery) => discovery.attach(events).await,
        }
    }

    fn resume(&self, instance: InstanceId) {
        if let ServiceRuntime::Fixed(fixed) = self {
            fixed.resume(instance);
        }
    }

    async fn suspension(&self, instance: InstanceId) -> Option<String> {
        match self {
            ServiceRuntime::Process(processes) => processes.suspension(instance).await,
            ServiceRuntime::Docker(docker) => docker.suspension(instance).await,
            ServiceRuntime::Fixed(_) | ServiceRuntime::Discovery(_) => None,
        }
    }

    fn on_probe_failed(&self, instance: InstanceId) {
        if let ServiceRuntime::Fixed(fixed) = self {
            fixed.on_probe_failed(instance);
        }
    }

    fn settle(&self, service: ServiceId, revision: Revision) {
        match self {
            ServiceRuntime::Process(processes) => processes.settle(service, revision),
            ServiceRuntime::Docker(docker) => docker.settle(service, revision),
            ServiceRuntime::Fixed(_) | ServiceRuntime::Discovery(_) => {}
        }
    }

    fn stop_limit(&self) -> Duration {
        match self {
            ServiceRuntime::Docker(docker) => docker.stop_limit(),
            ServiceRuntime::Process(_) | ServiceRuntime::Fixed(_) | ServiceRuntime::Discovery(_) => Duration::ZERO,
        }
    }

    fn lend(&self) -> Lent {
        match self {
            ServiceRuntime::Process(processes) => processes.lend(),
            ServiceRuntime::Docker(docker) => docker.lend(),
            ServiceRuntime::Fixed(fixed) => fixed.lend(),
            ServiceRuntime::Discovery(discovery) => discovery.lend(),
        }
    }

    fn take_back(&self) {
        match self {
            ServiceRuntime::Process(processes) => processes.take_back(),
            ServiceRuntime::Docker(docker) => docker.take_back(),
            ServiceRuntime::Fixed(fixed) => fixed.take_back(),
            ServiceRuntime::Discovery(discovery) => discovery.take_back(),
        }
    }

    fn is_own_child(&self, process: Pid) -> bool {
        matches!(self, ServiceRuntime::Process(processes) if processes.is_own_child(process))
    }

    async fn close(&self) {
        if let ServiceRuntime::Docker(docker) = self {
            docker.close().await;
        }
    }

    fn left_behind(&self) -> Vec<String> {
        match self {
            ServiceRuntime::Docker(docker) => docker.left_behind(),
            ServiceRuntime::Process(_) | ServiceRuntime::Fixed(_) | ServiceRuntime::Discovery(_) => Vec::new(),
        }
    }
}
