//! Every flag of the command line, its default and its unit. `--help` is read from here.
//!
//! A flag's heading is its table in the configuration file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser as Number;
use clap::{Args, Parser, Subcommand};

use super::{AdminListen, FixedReplica, Heartbeat, OnExit, Reach, ring_args, values};
use crate::core::head;
use crate::core::limits::{Limits, Trust};
use crate::core::net::Net;
use crate::core::proxy::Version;
use crate::core::ring::RingKind;
use crate::core::snapshot::{KeyPolicy, Mode};

/// A load balancer that owns its replicas.
#[derive(Parser)]
#[command(name = "ringway", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Start replicas and balance requests over them
    #[command(after_help = RUN_NOTES)]
    Run(Box<Run>),
    /// Read a configuration file and say what is wrong with it, or that nothing is
    Check {
        /// The file, as `ringway run` would read it
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Answer as a replica does: /home, /heartbeat, and 404 to anything else
    Replica(Replica),
    /// Say what a ring looks like and why: shares, explanations, what-ifs, flaws
    Ring(ring_args::Ring),
    /// Measure what a balancer does and draw it beside what the ring predicts
    Experiment(ring_args::Experiment),
}

const RUN_NOTES: &str = "\
Every flag can also be set in the environment (RINGWAY_LISTEN for --listen), and in a TOML file given with --config: in \
the table that its heading here names, without that table's name in front (--hash-key is `key` in [hash], \
--head-timeout-ms is `head_timeout_ms` in [limits]). A flag beats the environment, which beats the file.\n\n\
The first SIGTERM or SIGINT drains and stops, a second one stops at once.";

#[derive(Args)]
pub struct Run {
    /// Where clients connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000", value_parser = values::address)]
    pub listen: SocketAddr,
    /// What is balanced: `http` requests, or `tcp` connections
    #[arg(long, value_name = "MODE", default_value = "http", value_parser = values::mode)]
    pub mode: Mode,
    /// What runs the replicas: `process`, `docker`, or `fixed` for those of --replica [default: process, or fixed
    /// where --replica is given]
    #[arg(long, value_enum, value_name = "RUNTIME", hide_possible_values = true)]
    pub runtime: Option<RuntimeKind>,
    /// How many replicas are kept alive; 0 with --runtime docker: only those that others start
    #[arg(long, value_name = "N", default_value = "3", value_parser = Number::<usize>::new().range(0..=10_000))]
    pub replicas: usize,
    /// A server that is running already: HOST:PORT, with a name and weight as NAME=HOST:PORT@WEIGHT. Give several
    /// after one flag, separated by spaces or commas, or repeat it
    #[arg(long, value_name = "HOST:PORT", num_args = 1.., value_delimiter = ',', value_parser = values::replica)]
    pub replica: Vec<FixedReplica>,
    /// Threads that move bytes [default: one per core]
    #[arg(long, value_name = "N", default_value_t = cores(), hide_default_value = true,
        value_parser = Number::<usize>::new().range(1..=1024))]
    pub workers: usize,
    /// Keep worker i on core i
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pin: bool,
    /// A file with settings, in TOML
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub hash: Hash,
    #[command(flatten)]
    pub health: Health,
    #[command(flatten)]
    pub caps: Caps,
    #[command(flatten)]
    pub proxy: Proxy,
    #[command(flatten)]
    pub forwarded: Forwarded,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub docker: Docker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RuntimeKind {
    Process,
    Docker,
    Fixed,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[derive(Args)]
#[command(next_help_heading = "Admin")]
pub struct Admin {
    /// Where the admin API answers: IP:PORT, unix:/PATH or off
    #[arg(long, alias = "admin-listen", value_name = "WHERE", default_value = "127.0.0.1:8001",
        value_parser = values::admin)]
    pub admin: AdminListen,
    /// Whether /rep, /add and /rm answer on the data port too [default: true when that is a loopback address
    /// and no file is given]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub admin_on_data_port: Option<bool>,
    /// Asked of every admin call, as `Authorization: Bearer TOKEN`. Needed where the admin API is not on loopback.
    /// Better given in the environment: a command line can be read by everyone on the machine
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Hash")]
pub struct Hash {
    /// What of a request decides its replica: request (a new number each time: spreads evenly), uri, path,
    /// header:NAME, cookie:NAME, query:NAME or client-ip. A request without it is spread like `request`
    #[arg(long, value_name = "KEY", default_value = "request", value_parser = values::key)]
    pub hash_key: KeyPolicy,
    /// How replicas are laid out: `ketama` (160 points per weight, as nginx does), or `exercise` (512 slots)
    #[arg(long, value_name = "RING", default_value = "ketama", value_parser = values::ring)]
    pub ring: RingKind,
}

#[derive(Args)]
#[command(next_help_heading = "Proxy protocol")]
pub struct Proxy {
    /// Balancers in front of this one, by address or range, that name their client by a PROXY header (version 1 or 2)
    /// on each connection, and must. Repeat it, or give several separated by commas
    #[arg(long, value_name = "NET", value_delimiter = ',', value_parser = values::net)]
    pub accept_proxy_from: Vec<Net>,
    /// Begin each connection to a replica with a PROXY header that names the client: v1 or v2. In http mode such
    /// connections serve one client each
    #[arg(long, value_name = "VERSION", value_parser = values::proxy_version)]
    pub send_proxy: Option<Version>,
}

#[derive(Args)]
#[command(next_help_heading = "Forwarded")]
pub struct Forwarded {
    /// What becomes of X-Forwarded-* and Forwarded that a client sent: `append` (anybody may have sent them: the client's
    /// address is added to X-Forwarded-For, the rest is left out), `replace` (nothing of them goes on), or `keep` (only
    /// where every client is a proxy of yours: they go on, and its address is added to X-Forwarded-For)
    #[arg(long, value_name = "TRUST", default_value = "append", value_parser = values::trust)]
    pub forwarded_trust: Trust,
}

#[derive(Args)]
#[command(next_help_heading = "Health")]
pub struct Health {
    /// Asked of every replica; any 2xx answer is a heartbeat
    #[arg(long, value_name = "PATH", default_value_t = Heartbeat::default().path, value_parser = values::path)]
    pub health_path: String,
    /// Time between two heartbeats, and the longest wait for one, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = Heartbeat::default().interval_ms,
        value_parser = Number::<u64>::new().range(10..=HOUR_MS))]
    pub health_interval_ms: u64,
    /// So many heartbeats missed in a row, and the replica is replaced
    #[arg(long, value_name = "N", default_value_t = Heartbeat::default().misses,
        value_parser = Number::<u32>::new().range(1..=1000))]
    pub health_misses: u32,
}

const HOUR_MS: u64 = 3_600_000;
/// Longer than any deadline makes sense; short enough that no sum of two overflows.
const WEEK_MS: u64 = 7 * 24 * HOUR_MS;

#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub struct Caps {
    /// Client connections in all, shared evenly by the workers; 0 is no cap
    #[arg(long, value_name = "N", default_value = "0")]
    pub max_connections: usize,
    /// Client connections of each client address, in all workers together; 0 is no cap. An IPv6 client is its /64; behind
    /// --accept-proxy-from it is the client that the PROXY header names
    #[arg(long, value_name = "N", default_value = "0")]
    pub max_connections_per_client: usize,
    /// Replicas in all: /add does not go beyond
    #[arg(long, value_name = "N", default_value = "64", value_parser = Number::<usize>::new().range(1..=10_000))]
    pub max_replicas: usize,
}

/// One flag per field of [`Limits`], under the field's own name and with its own default.
macro_rules! limits {
    ($($(#[doc = $help:literal])+ $name:ident: $type:ty, $unit:literal, $range:expr;)+) => {
        #[derive(Args)]
        #[command(next_help_heading = "Limits")]
        pub struct LimitFlags {
            $($(#[doc = $help])+
            #[arg(long, value_name = $unit, default_value_t = Limits::default().$name,
                value_parser = Number::<$type>::new().range($range))]
            $name: $type,)+
        }

        impl LimitFlags {
            pub fn settle(self) -> Limits {
                Limits { $($name: self.$name,)+ ..Limits::DEFAULT }
            }
        }
    };
}

limits! {
    /// A client's whole head, from its first byte, in milliseconds
    head_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// A client connection with no request under way (from accept on), in milliseconds
    idle_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// Connecting to a replica, in milliseconds; then the next replica is tried
    connect_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// From the end of a request to the head of its response, in milliseconds
    response_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// A body of which no byte moves, in milliseconds
    stall_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// A client that sends or takes a body more slowly than this for longer than --stall-timeout-ms is let go, in bytes
    /// a second; 0: any byte will do
    min_body_rate: u64, "BYTES/S", 0..=1_000_000_000;
    /// A tunnel (WebSocket, or --mode tcp) in which no byte moves, in milliseconds
    tunnel_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// What is under way when a replica or the balancer stops gets this long to finish, in milliseconds
    drain_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// An idle connection to a replica is closed after this, in milliseconds
    pool_idle_timeout_ms: u64, "MS", 1..=WEEK_MS;
    /// Idle connections kept to each replica by each worker
    pool_size: usize, "N", 0..=1_000_000;
    /// Replicas that one request is tried on at most
    attempts: u32, "N", 1..=100;
    /// Safe requests without a body that become ready together leave together on one connection to a replica, up to
    /// so many (pipelining, RFC 9112 section 9.3.2); 0 or 1: one after another
    upstream_pipelining: usize, "N", 0..=1024;
    /// A longer request line is answered 414, in bytes
    line_limit: usize, "BYTES", 64..=head::HEAD_MAX as u64;
    /// A longer request head is answered 431, a longer response head 502, in bytes
    head_limit: usize, "BYTES", 256..=head::HEAD_MAX as u64;
    /// A request head with more fields is answered 431, a response head 502
    field_limit: usize, "N", 4..=head::FIELDS_MAX as u64;
}

#[derive(Args)]
#[command(next_help_heading = "Docker")]
pub struct Docker {
    /// The engine: unix:///PATH or tcp://HOST:PORT [default: DOCKER_HOST, else the engine's own socket]
    #[arg(long, value_name = "WHERE")]
    docker_host: Option<String>,
    /// What each replica runs
    #[arg(long, value_name = "IMAGE", default_value = "ringway")]
    docker_image: String,
    /// The network of the replicas, created if absent
    #[arg(long, value_name = "NAME", default_value = "ringway")]
    docker_network: String,
    /// The network's addresses when it is created [default: the engine chooses]
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = values::subnet)]
    docker_subnet: Option<String>,
    /// Which containers are ours, by label: those of another cluster are never touched
    #[arg(long, value_name = "NAME", default_value = "ringway")]
    docker_cluster: String,
    /// PORT in each container
    #[arg(long, value_name = "PORT", default_value = "8080", value_parser = clap::value_parser!(u16).range(1..))]
    docker_port: u16,
    /// How a container is dialled: on its address on the `bridge`, on a `published` port, or `auto`: as it works
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto", hide_possible_values = true)]
    docker_reach: Reach,
    /// What becomes of our containers when the balancer ends: `keep` (the next one adopts them) or `remove`
    #[arg(
        long,
        alias = "docker-on-exit",
        value_enum,
        value_name = "WHAT",
        default_value = "remove",
        hide_possible_values = true
    )]
    on_exit: OnExit,
    /// Whether containers of others labelled ringway.enable=true join by themselves
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
        default_missing_value = "true", action = clap::ArgAction::Set)]
    docker_discover: bool,
    /// Memory of each container, in MiB; 0 is no limit
    #[arg(long, value_name = "MIB", default_value = "256")]
    docker_memory_mib: u64,
    /// Processors of each container, like 0.5; 0 is no limit
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::cpus)]
    docker_cpus: f64,
    /// More environment for each container, as NAME=VALUE; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    docker_env: Vec<String>,
    /// More labels for each container, as NAME=VALUE; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    docker_label: Vec<String>,
}

impl Docker {
    pub fn settle(self) -> super::Docker {
        super::Docker {
            host: self.docker_host,
            image: self.docker_image,
            network: self.docker_network,
            subnet: self.docker_subnet,
            cluster: self.docker_cluster,
            port: self.docker_port,
            reach: self.docker_reach,
            on_exit: self.on_exit,
            discover: self.docker_discover,
            memory_mib: self.docker_memory_mib,
            cpus: self.docker_cpus,
            env: self.docker_env,
            labels: self.docker_label,
        }
    }
}

#[derive(Args)]
pub struct Replica {
    /// The name it answers with [default: the host's name]
    #[arg(long, env = "SERVER_ID", value_name = "NAME")]
    pub id: Option<String>,
    /// The port it listens on; 0 takes a free one
    #[arg(long, env = "PORT", value_name = "PORT", default_value = "8080")]
    pub port: u16,
    /// The address it listens on [default: 127.0.0.1, but 0.0.0.0 as a container's first process]
    #[arg(long, env = "RINGWAY_BIND", value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Ask the replica on this machine's --port for a heartbeat and exit 0 if it gives one, 1 if not
    #[arg(long)]
    pub check: bool,
}
