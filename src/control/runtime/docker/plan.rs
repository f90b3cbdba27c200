//! The definition of a replica's container: name, labels, environment, limits. Pure: settings and a spec in, a definition
//! out.
//!
//! Nothing that a client sent enters it but the slot's name, which the registry has checked.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};

use super::confinement::{self, ImageKind, stop_timeout};
use crate::control::runtime::Spec;
use crate::settings::DockerSettings;

pub const CLUSTER: &str = "ringway.cluster";
pub const SLOT: &str = "ringway.slot";
pub const INSTANCE: &str = "ringway.instance";
/// Which run of Ringway created it: two that share a cluster name by mistake do not remove each other's containers.
pub const RUN_ID: &str = "ringway.run-id";
/// The checksum of the definition: a container created with other settings is not adopted.
pub const PLAN: &str = "ringway.plan";

/// A container's log on the engine's disk takes two files of this size at most.
const LOG_SIZE: &str = "1m";

/// The replicas' image, as the engine has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub kind: ImageKind,
    /// What `docker stop` sends its containers, if that is not SIGTERM.
    pub stop_signal: Option<u32>,
}

/// What containers are started with, of one configuration.
#[derive(Clone, Debug)]
pub struct Launch {
    pub settings: DockerSettings,
    pub plan: ContainerPlan,
    pub stop_signal: Option<u32>,
    /// How long a container may take to end by itself.
    pub stop_timeout: Duration,
    image_id: String,
}

/// The settings and the image that they meant.
impl PartialEq for Launch {
    fn eq(&self, other: &Launch) -> bool {
        self.settings == other.settings && self.plan.checksum == other.plan.checksum
    }
}

impl Launch {
    pub fn new(settings: DockerSettings, network: &str, image: &Image, publish: Option<&str>) -> Launch {
        let plan = ContainerPlan::new(&settings, network, image, publish);
        let stop_timeout = stop_timeout(&settings.container, image.kind);
        Launch { plan, stop_signal: image.stop_signal, stop_timeout, image_id: image.id.clone(), settings }
    }

    /// The tag of its image means another one in `newer`: containers of this one are created by the image's id.
    pub fn behind(&self, newer: &Launch) -> Option<Launch> {
        let is_moved = self.settings.image == newer.settings.image && self.image_id != newer.image_id;
        is_moved.then(|| {
            let mut pinned = self.clone();
            pinned.plan.body.image = Some(self.image_id.clone());
            pinned
        })
    }
}

/// All of the definition that the replicas have in common.
#[derive(Clone, Debug)]
pub struct ContainerPlan {
    body: ContainerCreateBody,
    checksum: String,
}

impl ContainerPlan {
    /// The image's id enters the checksum: a rebuilt image under the same tag is another plan.
    pub fn new(settings: &DockerSettings, network: &str, image: &Image, publish: Option<&str>) -> ContainerPlan {
        let body = body(settings, network, image.kind, publish);
        let image_id = &image.id;
        let text = serde_json::to_string(&serde_json::to_value(&body).unwrap_or_default()).unwrap_or_default();
        let checksum = format!("{:08x}", crc32fast::hash(format!("{image_id} {text}").as_bytes()));
        ContainerPlan { body, checksum }
    }

    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// The definition of one instance.
    pub fn container(&self, spec: &Spec, run_id: &str) -> ContainerCreateBody {
        let mut body = self.body.clone();
        let labels = body.labels.get_or_insert_default();
        labels.insert(SLOT.into(), spec.name.to_string());
        labels.insert(INSTANCE.into(), spec.instance.number().to_string());
        labels.insert(RUN_ID.into(), run_id.to_owned());
        labels.insert(PLAN.into(), self.checksum.clone());
        body.env.get_or_insert_default().push(format!("SERVER_ID={}", spec.name));
        body
    }
}

fn body(settings: &DockerSettings, network: &str, image: ImageKind, publish: Option<&str>) -> ContainerCreateBody {
    let port = format!("{}/tcp", settings.port);
    let mut labels: HashMap<String, String> = settings.labels.clone().into_iter().collect();
    labels.insert(CLUSTER.into(), settings.cluster.clone());
    let mut env: Vec<String> = settings.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.push(format!("PORT={}", settings.port));
    let endpoints = HashMap::from([(network.to_owned(), EndpointSettings::default())]);
    ContainerCreateBody {
        image: Some(settings.image.clone()),
        env: Some(env),
        labels: Some(labels),
        exposed_ports: Some(vec![port.clone()]),
        // Ringway probes its replicas itself; the engine would start a process for each check.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() }),
        cmd: (!settings.container.command.is_empty()).then(|| settings.container.command.clone()),
        user: settings.container.user.clone(),
        stop_timeout: i64::try_from(stop_timeout(&settings.container, image).as_millis().div_ceil(1000)).ok(),
        host_config: Some(host_config(settings, image, network, &port, publish)),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..Default::default()
    }
}

fn host_config(
    settings: &DockerSettings,
    image: ImageKind,
    network: &str,
    port: &str,
    publish: Option<&str>,
) -> HostConfig {
    // With an empty host port the engine chooses a free one.
    let binding = |ip: &str| PortBinding { host_ip: Some(ip.to_owned()), host_port: Some(String::new()) };
    HostConfig {
        network_mode: Some(network.to_owned()),
        nano_cpus: (settings.cpu_milli > 0).then(|| i64::from(settings.cpu_milli) * 1_000_000),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), LOG_SIZE.into()), ("max-file".into(), "2".into())])),
        }),
        port_bindings: publish.map(|ip| HashMap::from([(port.to_owned(), Some(vec![binding(ip)]))])),
        ..confinement::host_config(&settings.container, image)
    }
}

/// The port that a container was started with.
pub fn port_of(inspected: &ContainerInspectResponse) -> Option<u16> {
    let env = inspected.config.as_ref()?.env.as_ref()?;
    env.iter().rev().find_map(|line| line.strip_prefix("PORT=")?.parse().ok())
}

/// The name of a replacement until it runs; the container that it replaces still has the slot's name.
pub fn temporary_name(name: &str, instance: u64) -> String {
    format!("{name}.next-{instance}")
}

/// The name of a replaced container until it is removed.
pub fn retired_name(name: &str, instance: u64) -> String {
    format!("{name}.retired-{instance}")
}

/// The labels of a container that Ringway created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedLabels {
    pub slot: String,
    pub instance: u64,
    pub run_id: String,
    pub plan: String,
}

impl ManagedLabels {
    /// `None` for a container of another cluster or of none. An instance that cannot be read is 0, which no instance has.
    pub fn read(labels: &BTreeMap<String, String>, cluster: &str) -> Option<ManagedLabels> {
        let text = |label: &str| labels.get(label).cloned().unwrap_or_default();
        (text(CLUSTER) == cluster).then(|| ManagedLabels {
            slot: text(SLOT),
            instance: text(INSTANCE).parse().unwrap_or(0),
            run_id: text(RUN_ID),
            plan: text(PLAN),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::runtime::InstanceId;
    use crate::control::runtime::revisions::Revision;
    use crate::core::snapshot::ServiceId;
    use crate::settings::ContainerSettings;

    fn settings() -> DockerSettings {
        DockerSettings {
            image: "app:1".into(),
            container: memory(64),
            cpu_milli: 500,
            env: vec![("MODE".into(), "test".into())],
            labels: vec![("team".into(), "blue".into()), (CLUSTER.into(), "forged".into())],
            ..DockerSettings::default()
        }
    }

    fn memory(mib: u64) -> ContainerSettings {
        ContainerSettings {
            memory_bytes: Some(mib << 20),
            command: vec!["serve".into()],
            ..ContainerSettings::default()
        }
    }

    fn own(id: &str) -> Image {
        Image { id: id.into(), kind: ImageKind::Own, stop_signal: None }
    }

    fn spec(instance: u64) -> Spec {
        let (instance, revision) = (InstanceId::Managed(instance), Revision::FIRST);
        Spec { service: ServiceId::default(), name: "server1".into(), instance, revision, replaces: None }
    }

    #[test]
    fn a_container_is_labelled_and_has_few_rights() {
        let body = ContainerPlan::new(&settings(), "net", &own("sha256:1"), None).container(&spec(7), "run");
        let labels: BTreeMap<_, _> = body.labels.unwrap().into_iter().collect();
        let read = ManagedLabels::read(&labels, "ringway").unwrap();
        assert_eq!((read.slot.as_str(), read.instance, read.run_id.as_str()), ("server1", 7, "run"));
        assert_eq!(labels["team"], "blue");
        let env = body.env.unwrap();
        assert_eq!(env, ["MODE=test", "PORT=8080", "SERVER_ID=server1"]);
        assert_eq!((body.cmd, body.stop_timeout), (Some(vec!["serve".into()]), Some(2)));
        let host = body.host_config.unwrap();
        assert_eq!(
            (host.memory, host.memory_swap, host.nano_cpus),
            (Some(64 << 20), Some(64 << 20), Some(500_000_000))
        );
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!((host.privileged, host.binds, host.port_bindings), (None, None, None));
    }

    #[test]
    fn the_engine_chooses_the_published_port() {
        let body =
            ContainerPlan::new(&settings(), "net", &own("sha256:1"), Some("127.0.0.1")).container(&spec(1), "run");
        let ports = body.host_config.unwrap().port_bindings.unwrap();
        let binding = ports["8080/tcp"].as_ref().unwrap()[0].clone();
        assert_eq!((binding.host_ip.as_deref(), binding.host_port.as_deref()), (Some("127.0.0.1"), Some("")));
    }

    #[test]
    fn the_checksum_depends_on_settings_and_image_only() {
        let plan = |settings: &DockerSettings, image: &str| {
            ContainerPlan::new(settings, "net", &own(image), None).checksum().to_owned()
        };
        let first = plan(&settings(), "sha256:1");
        assert_eq!(first, plan(&settings(), "sha256:1"));
        assert_ne!(first, plan(&settings(), "sha256:2"));
        assert_ne!(first, plan(&DockerSettings { container: memory(0), ..settings() }, "sha256:1"));
    }

    #[test]
    fn settings_before_keep_their_image_when_its_tag_moves() {
        let launch = |image: &Image| Launch::new(settings(), "net", image, None);
        let (first, second) = (launch(&own("sha256:1")), launch(&own("sha256:2")));
        assert!(first != second && first == launch(&own("sha256:1")));
        assert_eq!(first.behind(&first), None);
        let pinned = first.behind(&second).expect("the tag moved");
        assert_eq!(pinned.plan.container(&spec(1), "run").image.as_deref(), Some("sha256:1"));
        assert_eq!(pinned, first, "the same settings");
        let other = DockerSettings { image: "app:2".into(), ..settings() };
        assert_eq!(first.behind(&Launch::new(other, "net", &own("sha256:2"), None)), None);
    }

    #[test]
    fn containers_of_other_clusters_have_no_managed_labels() {
        let labels = BTreeMap::from([(CLUSTER.into(), "other".into()), (SLOT.into(), "server1".into())]);
        assert_eq!(ManagedLabels::read(&labels, "ringway"), None);
        assert_eq!(ManagedLabels::read(&BTreeMap::new(), "ringway"), None);
    }
}
