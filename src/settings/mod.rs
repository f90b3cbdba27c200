//! What can be set: one struct for each table of the configuration file. A field states its flag, key, default, range and
//! unit once; flags, environment, file and help are made from it by clap's derive. [`config`](crate::config) reads them.
//! Nothing here reads argv, the environment or a file.
//!
//! | file | what it holds |
//! |---|---|
//! | `admin` | `[admin]`: where the admin API answers and who may call it |
//! | `container` | `[docker]`: what each container runs and may do |
//! | `docker` | `[docker]`: the engine, and how replicas run as containers |
//! | `health` | `[health]`, `[ejection]`: heartbeats and how replicas are judged by them |
//! | `limits` | `[limits]`: connection caps, and flags for each of [`Limits`](crate::core::limits::Limits) |
//! | `service` | `[hash]`, `[forwarded]`, `[proxy protocol]`, and servers given by address |
//! | `values` | parsers of single values, each of which says what it expects |

mod admin;
mod container;
mod docker;
mod health;
mod limits;
mod service;
pub mod values;

pub use admin::{AdminListen, AdminSettings};
pub use container::ContainerSettings;
pub use docker::{DockerSettings, OnExit, Reach};
pub use health::{EjectionSettings, HealthSettings};
pub use limits::LimitSettings;
pub use service::{FixedReplica, ForwardedSettings, HashSettings, HostPort, ProxySettings};

/// A table as it is when nothing sets it.
fn unset<T: clap::Args>() -> T {
    let command = T::augment_args(clap::Command::new("ringway"));
    let matches = command.try_get_matches_from(["ringway"]);
    let table = matches.and_then(|matches| T::from_arg_matches(&matches));
    table.unwrap_or_else(|wrong| unreachable!("every setting of a table has a default: {wrong}"))
}
