//! What a replica's container is made of: name, labels, environment, limits. Pure: settings and a slot in, a definition out.
//!
//! Nothing a client sent gets in here but the slot's name, which the registry has checked.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, NetworkingConfig,
    PortBinding, RestartPolicy, RestartPolicyNameEnum,
};

use super::Settings;
use crate::control::runtime::Spec;

pub const CLUSTER: &str = "ringway.cluster";
pub const SLOT: &str = "ringway.slot";
pub const INSTANCE: &str = "ringway.instance";
/// Which life of Ringway made it: two that share a cluster name by mistake leave each other's containers alone.
pub const LIFE: &str = "ringway.life";
/// A checksum of the definition: a container made to other settings is not adopted.
pub const PLAN: &str = "ringway.plan";

/// Processes and threads in one container: a fork bomb stays inside.
const PIDS_LIMIT: i64 = 512;
/// A container's log on the engine's disk: two files of this size at most.
const LOG_SIZE: &str = "1m";

/// Everything about a replica's container but whose it is.
#[derive(Clone, Debug)]
pub struct Plan {
    body: ContainerCreateBody,
    checksum: String,
}

impl Plan {
    /// `image_id` enters the checksum, so that a rebuilt image under the same tag is a new plan.
    pub fn new(settings: &Settings, network: &str, image_id: &str, publish: Option<&str>) -> Plan {
        let body = body(settings, network, publish);
        let text = serde_json::to_string(&serde_json::to_value(&body).unwrap_or_default()).unwrap_or_default();
        let checksum = format!("{:08x}", crc32fast::hash(format!("{image_id} {text}").as_bytes()));
        Plan { body, checksum }
    }

    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// The definition of one instance.
    pub fn container(&self, spec: &Spec, life: &str) -> ContainerCreateBody {
        let mut body = self.body.clone();
        let labels = body.labels.get_or_insert_default();
        labels.insert(SLOT.into(), spec.name.to_string());
        labels.insert(INSTANCE.into(), spec.instance.number().to_string());
        labels.insert(LIFE.into(), life.to_owned());
        labels.insert(PLAN.into(), self.checksum.clone());
        body.env.get_or_insert_default().push(format!("SERVER_ID={}", spec.name));
        body
    }
}

fn body(settings: &Settings, network: &str, publish: Option<&str>) -> ContainerCreateBody {
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
        // Ringway probes its replicas itself; the engine would fork a process for each check.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() }),
        host_config: Some(limits(settings, network, &port, publish)),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..Default::default()
    }
}

fn limits(settings: &Settings, network: &str, port: &str, publish: Option<&str>) -> HostConfig {
    // An empty host port: the engine chooses a free one.
    let binding = |ip: &str| PortBinding { host_ip: Some(ip.to_owned()), host_port: Some(String::new()) };
    HostConfig {
        network_mode: Some(network.to_owned()),
        memory: settings.memory_bytes.map(clamped),
        // Equal to memory: no swap on top of it.
        memory_swap: settings.memory_bytes.map(clamped),
        nano_cpus: settings.cpu_milli.map(|milli| clamped(u64::from(milli) * 1_000_000)),
        pids_limit: Some(PIDS_LIMIT),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), LOG_SIZE.into()), ("max-file".into(), "2".into())])),
        }),
        port_bindings: publish.map(|ip| HashMap::from([(port.to_owned(), Some(vec![binding(ip)]))])),
        ..Default::default()
    }
}

fn clamped(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The name of a container that starts while an earlier instance holds its slot's.
pub fn heir_name(name: &str, instance: u64) -> String {
    format!("{name}.next-{instance}")
}

/// The name a container gets when another instance takes its slot before it is gone.
pub fn retired_name(name: &str, instance: u64) -> String {
    format!("{name}.retired-{instance}")
}

/// What the labels of a container of ours say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub slot: String,
    pub instance: u64,
    pub life: String,
    pub plan: String,
}

impl Mark {
    /// `None` for a container that is not of this cluster. One with broken labels gets instance 0, which nobody else has.
    pub fn read(labels: &BTreeMap<String, String>, cluster: &str) -> Option<Mark> {
        let text = |label: &str| labels.get(label).cloned().unwrap_or_default();
        (text(CLUSTER) == cluster).then(|| Mark {
            slot: text(SLOT),
            instance: text(INSTANCE).parse().unwrap_or(0),
            life: text(LIFE),
            plan: text(PLAN),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::runtime::InstanceId;
    use crate::core::snapshot::ServiceId;

    fn settings() -> Settings {
        Settings {
            image: "app:1".into(),
            memory_bytes: Some(64 << 20),
            cpu_milli: Some(500),
            env: vec![("MODE".into(), "test".into())],
            labels: BTreeMap::from([("team".into(), "blue".into()), (CLUSTER.into(), "forged".into())]),
            ..Settings::default()
        }
    }

    fn spec(instance: u64) -> Spec {
        Spec { service: ServiceId::default(), name: "server1".into(), instance: InstanceId::Managed(instance) }
    }

    #[test]
    fn a_container_says_whose_it_is_and_gets_little() {
        let body = Plan::new(&settings(), "net", "sha256:1", None).container(&spec(7), "life");
        let labels: BTreeMap<_, _> = body.labels.unwrap().into_iter().collect();
        let mark = Mark::read(&labels, "ringway").unwrap();
        assert_eq!((mark.slot.as_str(), mark.instance, mark.life.as_str()), ("server1", 7, "life"));
        assert_eq!(labels["team"], "blue");
        let env = body.env.unwrap();
        assert_eq!(env, ["MODE=test", "PORT=8080", "SERVER_ID=server1"]);
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
    fn a_published_port_is_one_of_the_engines_choice() {
        let body = Plan::new(&settings(), "net", "sha256:1", Some("127.0.0.1")).container(&spec(1), "life");
        let ports = body.host_config.unwrap().port_bindings.unwrap();
        let binding = ports["8080/tcp"].as_ref().unwrap()[0].clone();
        assert_eq!((binding.host_ip.as_deref(), binding.host_port.as_deref()), (Some("127.0.0.1"), Some("")));
    }

    #[test]
    fn the_checksum_follows_settings_and_image_but_not_the_instance() {
        let plan = |settings: &Settings, image: &str| Plan::new(settings, "net", image, None).checksum().to_owned();
        let first = plan(&settings(), "sha256:1");
        assert_eq!(first, plan(&settings(), "sha256:1"));
        assert_ne!(first, plan(&settings(), "sha256:2"));
        assert_ne!(first, plan(&Settings { memory_bytes: None, ..settings() }, "sha256:1"));
    }

    #[test]
    fn others_containers_carry_no_mark() {
        let labels = BTreeMap::from([(CLUSTER.into(), "other".into()), (SLOT.into(), "server1".into())]);
        assert_eq!(Mark::read(&labels, "ringway"), None);
        assert_eq!(Mark::read(&BTreeMap::new(), "ringway"), None);
    }
}
