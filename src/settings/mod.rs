//! What can be set: one struct for each table of the configuration file. A field states its flag, key, default, range and
//! unit once; flags, environment, file and help are made from it by clap's derive. [`config`](crate::config) reads them.
//! Nothing here reads argv, the environment or a file.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | re-exports of the structs; `unset`, the defaults of a struct's flags |
//! | `acme` | `[acme]`: directory, contact, storage, authorities of the ACME server; `ChallengeKind` |
//! | `admin` | `[admin]`: `AdminListen` (address, Unix socket, off), answers on the data port, `hosts`, `token` |
//! | `container` | `[docker]`, what one container runs and may do: command, user, read-only root, tmpfs, volumes, secrets, capabilities, memory, pids, stop timeout |
//! | `docker` | `[docker]`, the engine and the replicas: `host`, `image`, `network`, `subnet`, `cluster`, `port`, `Reach` (address or published port), `OnExit`, `discover`, CPU share, environment, labels |
//! | `health` | `[health]`, `[ejection]`: path, method, headers, status, interval, timeout, rise, fall, start timeout, replacement of a silent replica, the largest ejected share; parsers of these |
//! | `limits` | `[limits]`: caps on connections and replicas, `AbortOn`, and clap arguments made from each of [`Limits`](crate::core::limits::Limits) |
//! | `service` | `[hash]` (key, ring, bound of loads), `[proxy protocol]`, `[forwarded]` (trust, Via), and `--replica`: `FixedReplica`, `HostPort` |
//! | `source` | `[source]`: `SourceKind` (file, dns, consul, kubernetes, swarm), what is asked: path, name, `SourcePort`, resolvers, family, times to live, `SourceApi` (URL or socket), authorities, token, namespace, tag, network, how long emptiness is doubted, the prefix of names; which key belongs to which |
//! | `tls` | `[tls]`: `CertificateSource` (self-signed, a folder or file, a pair of files), names for ACME, the default pair, the oldest version, HSTS |
//! | `units` | numbers with a unit, text to value and back: durations (ms, s, m, h), sizes (B, KiB, MiB, GiB), rates |
//! | `upstream` | `[upstream]`: TLS towards replicas: name, authorities, our own certificate, whether it is verified |
//! | `values` | clap's value parsers of the other files' fields, text to one value or `want ...`: address, path, admin, mode, net, trust, policy, key, ring, replica, member, weight, host and port, subnet, CPUs, tmpfs, volume, secret |
//! | `access_log` | `[access_log]`: `AccessLogTarget` (off, stdout, a file), format (json, common, combined), the share of exchanges that is logged (`LoggedShare`) |

mod access_log;
mod acme;
mod admin;
mod container;
mod docker;
mod health;
mod limits;
mod service;
mod source;
mod tls;
pub mod units;
mod upstream;
pub mod values;

pub use access_log::{AccessLogFormat, AccessLogSettings, AccessLogTarget, LoggedShare};
pub use acme::{AcmeSettings, ChallengeKind};
pub use admin::{AdminListen, AdminSettings};
pub use container::ContainerSettings;
pub use docker::{DockerSettings, OnExit, Reach};
pub use health::{EjectionSettings, HealthSettings};
pub use limits::LimitSettings;
pub use service::{FixedReplica, ForwardedSettings, HashSettings, HostPort, ProxySettings};
pub use source::{AddressFamily, SourceApi, SourceKind, SourcePort, SourceSettings};
pub use tls::{CertificateSource, TlsSettings};
pub use upstream::{UpstreamSettings, UpstreamTls, UpstreamTlsSetting};

/// A table as it is when nothing sets it.
fn unset<T: clap::Args>() -> T {
    let command = T::augment_args(clap::Command::new("ringway"));
    let matches = command.try_get_matches_from(["ringway"]);
    let table = matches.and_then(|matches| T::from_arg_matches(&matches));
    table.unwrap_or_else(|wrong| unreachable!("every setting of a table has a default: {wrong}"))
}
