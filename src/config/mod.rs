//! How settings are read: from flags, the environment (`RINGWAY_` and the flag's name) and a TOML file. A flag beats the
//! environment, which beats the file, which beats the default. What can be set stands in [`settings`](crate::settings),
//! once. Nothing here starts anything.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | [`Config`]: the settings outside of any table (`listen`, `mode`, `runtime`, `replicas`, `policy`, `slow_start`, `sticky_cookie`, `program`, `workers`, `pin`) and one field for each table; `RuntimeKind` |
//! | `acme` | names whose certificates an ACME server issues: what contradicts, ports that it cannot reach, where the pair is kept; authorities of the server itself |
//! | `args` | clap's command line: the subcommands (`run`, `config`, `check`, `replica`, `exec`, `ring`, `experiment`, `completions`, `man`), `Cli`, [`RunArgs`](args::RunArgs), `ReplicaArgs`, texts of `--help` |
//! | `ring_args` | clap's flags of `ringway ring`, made into a `RingQuery` of [`experiment`](crate::experiment); members, repeated `--remove` and `--add`, JSON |
//! | `file` | parses the TOML file: each key and table to a flag of `run`, unknown keys refused, errors with line numbers; values become defaults of clap's arguments |
//! | `named` | `[services.NAME]`, `[listeners.NAME]`, `[[routes]]`: `NamedResolver`: defaults from the flat settings, each table through clap as if it were flags; names that are no service or listener, of the wrong mode, unused, missing or given twice; addresses and replicas given twice |
//! | `tables` | which keys those tables may hold: `ListenerSettings`, `RouteSettings`, `NamedTarget`; names |
//! | `man` | manual pages (`ringway man`) from clap's command line, printed or written into a folder |
//! | `read` | the order: argv, environment (`RINGWAY_*`), file; to an [`Invocation`] or an [`EarlyExit`] (help, version, usage error); `ringway check`, shell completions; defaults that `RINGWAY_BIND` changes |
//! | `renamed` | old spellings of settings, with their unit in the name: refused with the new spelling and an example |
//! | `resolve` | checks settings against each other (names twice, ports, limits, key and mode, admin on the data port without a token) and fills in what depends on others: [`RunArgs`](args::RunArgs) to [`Config`]; its summary in one line |
//! | `show` | `ringway config`: prints the effective settings as a TOML file with each flag's help as comments; literals, sections, lines commented out, wrapped text |
//! | `source_files` | judges the files of sources for `ringway check`: lists of replicas, tokens, authorities |
//! | `sources` | where each setting comes from (flag, environment variable, line of the file), so that an error or warning names that place |
//! | `token_file` | reads the file of the admin API's token: regular, for its owner and group only, one line |
//! | `unused` | warnings of settings that have no effect beside the others: HTTP limits in TCP mode, heartbeat settings without a path, settings of starts where nothing is started; variables of the environment that are no setting |
//! | `certificates` | reads the files of certificates and keys: the pairs of a folder or a list, which is the default, what is wrong with each; whether a file changed |
//! | `client_auth_files` | reads the authorities and revocation lists of a listener's clients; what is wrong with them |
//! | `upstream_files` | reads the files of TLS towards replicas, those of this machine too, and makes the `Origin` of a service |
//! | `error` | turns a `clap::Error` into one line: what, where, what to do; the environment variable or flag, its invalid value, upper case of names |
//! | `fuzz` | body of the fuzz target for the configuration file: the bytes are the file; asserts what holds for every accepted file: sizes fit, no admin API exposed without a token |

pub mod acme;
mod args;
pub mod certificates;
pub mod client_auth_files;
mod error;
mod file;
pub mod fuzz;
mod man;
pub mod named;
mod read;
mod renamed;
mod resolve;
mod ring_args;
mod show;
mod source_files;
mod sources;
pub mod tables;
pub mod token_file;
mod unused;
pub mod upstream_files;

use std::ffi::OsString;
use std::net::SocketAddr;

use clap::builder::RangedU64ValueParser as Number;

use crate::core::balance::BalancePolicy;
use crate::core::limits::Unit;
use crate::core::snapshot::Mode;

use crate::settings::{
    AccessLogSettings, AcmeSettings, AdminSettings, DockerSettings, EjectionSettings, FixedReplica, ForwardedSettings,
    HashSettings, HealthSettings, LimitSettings, ProxySettings, SourceKind, SourceSettings, TlsSettings,
    UpstreamSettings, units, values,
};

pub use man::write as write_man_pages;
pub use named::Named;
pub use read::{EarlyExit, Invocation, read};

/// Everything that `ringway run` is configured with: the settings outside of any table, and the tables.
#[derive(clap::Args, Clone, Debug)]
pub struct Config {
    /// Where clients connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000", value_parser = values::address)]
    pub listen: SocketAddr,
    /// What is balanced: `http` requests, `tcp` connections, or TLS connections that pass through as they are
    /// (`tls-passthrough`)
    #[arg(long, value_name = "MODE", default_value = "http", value_parser = values::mode)]
    pub mode: Mode,
    /// What runs the replicas: `process`, `docker`, a source that lists servers which others start (`file`, `dns`, `consul`,
    /// `kubernetes`, `swarm`), or `fixed` for those of --replica [default: process, or fixed where --replica is given]
    #[arg(long, value_enum, value_name = "RUNTIME", hide_possible_values = true)]
    runtime: Option<RuntimeKind>,
    /// How many replicas are kept alive; 0 with --runtime docker: only those that others start
    #[arg(long, value_name = "N", default_value = "3", value_parser = Number::<usize>::new().range(0..=10_000))]
    pub replicas: usize,
    /// Which replica a request goes to: `hash` (by its key, on the ring), `least-request` (of two drawn at random the one with
    /// fewer requests in flight for its weight), `round-robin` (each in its turn, by weight), or `random` (by weight)
    #[arg(long, value_name = "POLICY", default_value = "hash", value_parser = values::policy)]
    policy: BalancePolicy,
    /// A replica that is back (healed, readmitted, added beside others) takes a tenth of its share of the requests at first,
    /// and the whole so long after; 0s: at once. At the start of a service all are at their whole share
    #[arg(id = "slow-start", long, value_name = "DURATION", default_value = "0s",
        value_parser = units::parser(Unit::Duration, 0..=3_600_000))]
    pub slow_start_ms: u64,
    /// A cookie of this name, made by the balancer, leads a client back to the replica where its session began, as long as
    /// that is up and has room. Its value tells nothing of the replica, and cannot be made up
    #[arg(long, value_name = "NAME", value_parser = values::cookie_name)]
    pub sticky_cookie: Option<String>,
    /// A server that is running already: HOST:PORT, with a name and weight as NAME=HOST:PORT@WEIGHT. Give several
    /// after one flag, separated by spaces or commas, or repeat it. A host name is looked up again every 10 s and when
    /// the server fails; it is one replica, at the first of its addresses that accepts connections. One that cannot be
    /// looked up joins when it can
    #[arg(id = "replica", long, value_name = "HOST:PORT", num_args = 1.., value_delimiter = ',',
        value_parser = values::replica)]
    pub fixed_replicas: Vec<FixedReplica>,
    /// A program to start as each replica instead of the built-in one, with its arguments. It listens on 127.0.0.1 at the
    /// port in PORT; SERVER_ID is its name. The rest of its environment is the balancer's, without RINGWAY_*. What it
    /// prints goes to the log. A replica is healthy when it accepts a connection, unless --health-path is given. In a file:
    /// program = ["./app", "--flag"]
    #[arg(id = "program", last = true, num_args = 1.., value_name = "PROGRAM", help_heading = None::<&str>)]
    pub program: Vec<OsString>,
    /// Threads that serve connections [default: one per core]
    #[arg(long, value_name = "N", default_value_t = cores(), hide_default_value = true,
        value_parser = Number::<usize>::new().range(1..=1024))]
    pub workers: usize,
    /// Pin worker i to core i
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pin: bool,

    #[command(flatten)]
    pub admin: AdminSettings,
    #[command(flatten)]
    pub tls: TlsSettings,
    #[command(flatten)]
    pub acme: AcmeSettings,
    #[command(flatten)]
    pub upstream: UpstreamSettings,
    #[command(flatten)]
    pub hash: HashSettings,
    #[command(flatten)]
    pub health: HealthSettings,
    #[command(flatten)]
    pub ejection: EjectionSettings,
    #[command(flatten)]
    pub limits: LimitSettings,
    #[command(flatten)]
    pub proxy: ProxySettings,
    #[command(flatten)]
    pub forwarded: ForwardedSettings,
    #[command(flatten)]
    pub access_log: AccessLogSettings,
    #[command(flatten)]
    pub docker: DockerSettings,
    #[command(flatten)]
    pub source: SourceSettings,
    /// Settings that have no effect, one line each.
    #[arg(skip)]
    pub warnings: Vec<String>,
    /// Listeners, services and routes: those that a file names, or those that the settings here are.
    #[arg(skip)]
    pub named: Named,
    /// What `GET /config` shows of it.
    #[arg(skip)]
    pub shown: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RuntimeKind {
    /// Child processes of our own binary.
    Process,
    Docker,
    /// Servers that we do not start: `--replica HOST:PORT`.
    Fixed,
    /// Servers that a file lists.
    File,
    /// Servers that a name in DNS has.
    Dns,
    /// Instances that Consul lists.
    Consul,
    /// Endpoints of a Service of Kubernetes.
    Kubernetes,
    /// Tasks of a service of Docker Swarm.
    Swarm,
}

impl RuntimeKind {
    /// It is a source, which lists servers that others start.
    pub fn source(self) -> Option<SourceKind> {
        match self {
            RuntimeKind::Process | RuntimeKind::Docker | RuntimeKind::Fixed => None,
            RuntimeKind::File => Some(SourceKind::File),
            RuntimeKind::Dns => Some(SourceKind::Dns),
            RuntimeKind::Consul => Some(SourceKind::Consul),
            RuntimeKind::Kubernetes => Some(SourceKind::Kubernetes),
            RuntimeKind::Swarm => Some(SourceKind::Swarm),
        }
    }

    pub fn starts_replicas(self) -> bool {
        matches!(self, RuntimeKind::Process | RuntimeKind::Docker)
    }
}

impl Config {
    /// Equal for equal settings, wherever they stand.
    pub fn identity(&self) -> String {
        let (warnings, named, shown) = Default::default();
        format!("{:?}", Config { warnings, named, shown, ..self.clone() })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
