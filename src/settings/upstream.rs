//! The table `[upstream]`: how replicas are talked to. No file is opened here.

use std::path::PathBuf;

use super::values;
use crate::core::tls::upstream::PeerName;
use clap::{ArgAction, Args};

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Upstream")]
pub struct UpstreamSettings {
    /// Replicas speak TLS. The flag alone asks for a certificate of their address that an authority of this machine issued;
    /// name=NAME asks for another name, ca=FILE for other authorities, verify=false for none. cert=FILE and key=FILE are ours
    /// for replicas that want one. Several stand behind each other with commas; in a file { name = "NAME", ca = "FILE" }
    #[arg(id = "upstream-tls", long, value_name = "KEY=VALUE", num_args = 0..=1, action = ArgAction::Append,
        value_delimiter = ',', default_missing_value = "true", value_parser = values::upstream_tls)]
    tls: Vec<UpstreamTlsSetting>,
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
