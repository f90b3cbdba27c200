//! What a balancer is told at its start, as plain data. Nothing here starts anything.
//!
//! A setting has one definition, its flag in [`flags`]. The environment (`RINGWAY_` and the flag's name) and the
//! configuration file ([`mod@file`]) are other ways to write the same flag: a flag beats the environment, which beats
//! the file, which beats the default.

mod error;
mod file;
mod flags;
pub mod fuzz;
mod read;
mod ring_args;
mod settle;
mod values;

use std::net::SocketAddr;

pub use crate::control::admin::AdminListen;
pub use crate::control::probe::Heartbeat;
pub use crate::control::runtime::fixed::FixedReplica;
use crate::core::limits::Limits;
use crate::core::net::Net;
use crate::core::proxy::Version;
use crate::core::ring::RingKind;
use crate::core::snapshot::{KeyPolicy, Mode};

pub use read::{Command, Stop, read};

/// Everything that `ringway run` is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub mode: Mode,
    pub key: KeyPolicy,
    pub ring: RingKind,
    pub limits: Limits,
    pub workers: usize,
    /// Worker i runs on core i.
    pub pin: bool,
    /// Client connections in all. 0: no cap.
    pub max_connections: usize,
    /// Client connections of each client address. 0: no cap.
    pub max_connections_per_client: usize,
    /// How many replicas are kept alive. Ignored where they are a fixed list.
    pub replicas: usize,
    pub max_replicas: usize,
    pub runtime: Runtime,
    pub heartbeat: Heartbeat,
    /// Balancers that name their client by a PROXY header, and must.
    pub accept_proxy_from: Vec<Net>,
    /// Connections to replicas begin with a PROXY header.
    pub send_proxy: Option<Version>,
    pub admin: Admin,
}

#[derive(Clone, Debug)]
pub enum Runtime {
    /// Child processes of our own binary.
    Process,
    Docker(Docker),
    /// `--replica HOST:PORT`: servers that we do not start.
    Fixed(Vec<FixedReplica>),
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: AdminListen,
    /// The admin paths also answer on the data port.
    pub on_data_port: bool,
    /// Asked for as `Authorization: Bearer TOKEN` on every admin call.
    pub token: Option<String>,
}

/// How replicas are run as containers.
#[derive(Clone, Debug)]
pub struct Docker {
    /// Where the engine listens, as `DOCKER_HOST` writes it. `None`: the engine's default socket.
    pub host: Option<String>,
    pub image: String,
    pub network: String,
    /// For the network when it has to be created, as `10.1.0.0/24`. `None`: the engine chooses.
    pub subnet: Option<String>,
    /// Told apart by label: containers of another cluster are never touched.
    pub cluster: String,
    /// `PORT` in each container.
    pub port: u16,
    pub reach: Reach,
    pub on_exit: OnExit,
    /// Containers of others that carry the label `ringway.enable=true` join by themselves.
    pub discover: bool,
    /// 0: no limit.
    pub memory_mib: u64,
    /// 0: no limit.
    pub cpus: f64,
    /// More of the container's environment, each `NAME=VALUE`.
    pub env: Vec<String>,
    /// More labels, each `NAME=VALUE`.
    pub labels: Vec<String>,
}

/// On which address a container is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Reach {
    /// The bridge address where it can be reached, else a published port.
    Auto,
    Bridge,
    Published,
}

/// What becomes of our containers when the balancer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnExit {
    /// They run on, and the next balancer of the same cluster adopts them.
    Keep,
    Remove,
}

impl Default for Config {
    /// What `ringway run` without flags, environment and file is told.
    fn default() -> Self {
        read::defaults()
    }
}
