//! The table `[upstream]`: how replicas are talked to. No file is opened here.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser as Number;
use clap::{ArgAction, Args};

use super::{units, values};
use crate::core::limits::Unit;
use crate::core::tls::upstream::PeerName;

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Upstream")]
pub struct UpstreamSettings {
    /// Replicas speak TLS. The flag alone asks for a certificate of their address that an authority of this machine issued;
    /// name=NAME asks for another name, ca=FILE for other authorities, verify=false for none. cert=FILE and key=FILE are ours
    /// for replicas that want one. Several stand behind each other with commas; in a file { name = "NAME", ca = "FILE" }
    #[arg(id = "upstream-tls", long, value_name = "KEY=VALUE", num_args = 0..=1, action = ArgAction::Append,
        value_delimiter = ',', default_missing_value = "true", value_parser = values::upstream_tls)]
    tls: Vec<UpstreamTlsSetting>,
    /// Connections in use at each replica at most, over all workers; 0: no limit. A request that finds all replicas full
    /// waits for the first that has room
    #[arg(id = "upstream-max-connections", long, value_name = "N", default_value = "0",
        value_parser = Number::<u32>::new().range(0..=1_000_000))]
    pub max_connections: u32,
    /// Requests that wait so at most; others are answered 503
    #[arg(id = "upstream-queue", long, value_name = "N", default_value = "1024",
        value_parser = Number::<u32>::new().range(0..=1_000_000))]
    pub queue: u32,
    /// How long a request waits so at most; then it is answered 503
    #[arg(id = "upstream-queue-timeout", long, value_name = "DURATION", default_value = "1s",
        value_parser = units::parser(Unit::Duration, 1..=3_600_000))]
    pub queue_timeout_ms: u64,
    /// Requests that are sent again to another replica, at most so many in 100 requests, behind a burst of 1000. Where all
    /// replicas fail, retries must not add to their load
    #[arg(id = "upstream-retry-budget", long, value_name = "PERCENT", default_value = "20",
        value_parser = Number::<u32>::new().range(0..=1_000))]
    pub retry_budget: u32,
}

/// One of what `--upstream-tls` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTlsSetting {
    On(bool),
    Verify(bool),
    Name(PeerName),
    Ca(PathBuf),
    Cert(PathBuf),
    Key(PathBuf),
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    pub is_unverified: bool,
    pub name: Option<PeerName>,
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl UpstreamSettings {
    /// `None`: replicas are talked to in plain text. `Err`: what contradicts. What is said twice holds as it is said last.
    pub fn tls(&self) -> Result<Option<UpstreamTls>, String> {
        let (mut tls, mut is_on, mut cert, mut key) = (UpstreamTls::default(), !self.tls.is_empty(), None, None);
        for setting in self.tls.iter().cloned() {
            match setting {
                UpstreamTlsSetting::On(on) => is_on = on,
                UpstreamTlsSetting::Verify(verify) => tls.is_unverified = !verify,
                UpstreamTlsSetting::Name(name) => tls.name = Some(name),
                UpstreamTlsSetting::Ca(path) => tls.ca = Some(path),
                UpstreamTlsSetting::Cert(path) => cert = Some(path),
                UpstreamTlsSetting::Key(path) => key = Some(path),
            }
        }
        tls.own = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err("--upstream-tls cert=FILE needs key=FILE, which has its private key".into()),
            (None, Some(_)) => return Err("--upstream-tls key=FILE needs cert=FILE, which has its certificate".into()),
        };
        if tls.is_unverified && tls.ca.is_some() {
            return Err("--upstream-tls ca=FILE has no effect beside verify=false: leave one of them out".into());
        }
        Ok(is_on.then_some(tls))
    }
}
