//! The table `[docker]`: how replicas run as containers.

use clap::builder::RangedU64ValueParser as Number;
use clap::{Args, ValueEnum};

use super::{ContainerSettings, unset, values};

/// The address on which a container is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reach {
    /// Its address on the bridge where this host is on that network, else a published port.
    Auto,
    Bridge,
    Published,
}

/// What becomes of our containers when the balancer ends, and of those that it finds when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnExit {
    /// They run on, and the next balancer of the same cluster adopts them.
    Keep,
    /// They are removed. If the balancer was killed, the next one removes them.
    Remove,
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Docker")]
pub struct DockerSettings {
    /// The engine: unix:///PATH or tcp://HOST:PORT [default: DOCKER_HOST, else the engine's own socket]
    #[arg(id = "docker-host", long, value_name = "WHERE")]
    pub host: Option<String>,
    /// The image of each replica
    #[arg(id = "docker-image", long, value_name = "IMAGE", default_value = "ringway")]
    pub image: String,
    /// The network of the replicas, created if absent
    #[arg(id = "docker-network", long, value_name = "NAME", default_value = "ringway")]
    pub network: String,
    /// The network's addresses when it is created [default: the engine chooses]
    #[arg(id = "docker-subnet", long, value_name = "ADDRESS/BITS", value_parser = values::subnet)]
    pub subnet: Option<String>,
    /// Label of the containers that this balancer manages: those of another cluster are never touched
    #[arg(id = "docker-cluster", long, value_name = "NAME", default_value = "ringway")]
    pub cluster: String,
    /// PORT in each container
    #[arg(id = "docker-port", long, value_name = "PORT", default_value = "8080",
        value_parser = Number::<u16>::new().range(1..=65_535))]
    pub port: u16,
    /// How a container is dialled: on its address on the `bridge`, on a `published` port, or `auto`: whichever works
    #[arg(
        id = "docker-reach",
        long,
        value_enum,
        value_name = "HOW",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub reach: Reach,
    /// What becomes of our containers when the balancer ends: `keep` (the next one adopts them) or `remove`
    #[arg(
        id = "on-exit",
        long,
        alias = "docker-on-exit",
        value_enum,
        value_name = "WHAT",
        default_value = "remove",
        hide_possible_values = true
    )]
    pub on_exit: OnExit,
    /// Whether containers started by others and labelled ringway.enable=true are balanced too
    #[arg(id = "docker-discover", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub discover: bool,
    #[command(flatten)]
    pub container: ContainerSettings,
    /// Processors of each container, like 0.5; 0 is no limit
    #[arg(id = "docker-cpus", long, value_name = "N", default_value = "0", value_parser = values::cpus)]
    pub cpu_milli: u32,
    /// More environment for each container, as NAME=VALUE; repeat it for several
    #[arg(id = "docker-env", long, value_name = "NAME=VALUE", value_parser = values::variable)]
    pub env: Vec<(String, String)>,
    /// More labels for each container, as NAME=VALUE; repeat it for several
    #[arg(id = "docker-label", long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub labels: Vec<(String, String)>,
}

impl DockerSettings {
    /// What a runtime that is open keeps, by key: those that `other` has otherwise.
    pub fn kept_differences(&self, other: &DockerSettings) -> Vec<&'static str> {
        let differs = [
            ("host", self.host != other.host),
            ("network", self.network != other.network),
            ("subnet", self.subnet != other.subnet),
            ("cluster", self.cluster != other.cluster),
            ("reach", self.reach != other.reach),
            ("on_exit", self.on_exit != other.on_exit),
            ("discover", self.discover != other.discover),
        ];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// These, with what a runtime that was opened with `open` keeps.
    pub fn within(self, open: &DockerSettings) -> DockerSettings {
        let DockerSettings { host, network, subnet, cluster, reach, on_exit, discover, .. } = open.clone();
        DockerSettings { host, network, subnet, cluster, reach, on_exit, discover, ..self }
    }
}

impl Default for DockerSettings {
    fn default() -> Self {
        unset()
    }
}
