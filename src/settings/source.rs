//! The table `[source]`: where the replicas of a service are found that others start. Which of its keys a source has is stated
//! here; no file is opened and nothing is asked.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{units, unset, values};
use crate::core::limits::Unit;

/// What lists the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    File,
    Dns,
}

/// The addresses that are taken of a server that has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AddressFamily {
    Any,
    Ipv4,
    Ipv6,
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Source")]
pub struct SourceSettings {
    /// The file that lists the replicas (--runtime file), which is looked at twice a second. JSON, as
    /// [{ "address": "10.0.0.1:80", "name": "a", "weight": 2 }], name and weight optional, or the same list as "replicas" of an
    /// object; or lines, as NAME=10.0.0.1:80@2. A file that is gone, half-written or wrong leaves the list before in force.
    /// Write another file and rename it over this one
    #[arg(id = "source-path", long, value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// What the source calls the service. --runtime dns: a name that has addresses, or one of SRV records, as
    /// _http._tcp.shop.internal
    #[arg(id = "source-name", long, value_name = "NAME")]
    pub name: Option<String>,
    /// The port of each replica, where the source does not tell it
    #[arg(id = "source-port", long, value_name = "PORT")]
    pub port: Option<String>,
    /// The DNS servers that are asked. Repeat it, or give several separated by commas [default: those of /etc/resolv.conf]
    #[arg(id = "source-resolver", long, value_name = "IP:PORT", value_delimiter = ',', value_parser = values::address)]
    pub resolvers: Vec<SocketAddr>,
    /// The addresses that are taken where there are both: `any`, `ipv4` or `ipv6`
    #[arg(
        id = "source-family",
        long,
        value_enum,
        value_name = "FAMILY",
        default_value = "any",
        hide_possible_values = true
    )]
    pub family: AddressFamily,
    /// A DNS answer is asked for again when its time to live ends, and not before this
    #[arg(id = "source-ttl-min", long, value_name = "DURATION", default_value = "1s",
        value_parser = units::parser(Unit::Duration, 100..=3_600_000))]
    pub ttl_min_ms: u64,
    /// The longest time to live that is kept to
    #[arg(id = "source-ttl-max", long, value_name = "DURATION", default_value = "30s",
        value_parser = units::parser(Unit::Duration, 100..=3_600_000))]
    pub ttl_max_ms: u64,
    /// How long a source that listed replicas must list none, at least three times in a row, before that is believed.
    /// Registries answer so while they restart. 0 believes it at once
    #[arg(id = "source-confirm-empty", long, value_name = "DURATION", default_value = "30s",
        value_parser = units::parser(Unit::Duration, 0..=86_400_000))]
    pub confirm_empty_ms: u64,
    /// Stands before the name of each replica that is found. A name is a place on the ring, and one replica's alone: where two
    /// services have the same servers, one of them needs a prefix
    #[arg(id = "source-name-prefix", long, value_name = "TEXT", default_value = "", value_parser = values::name_prefix)]
    pub name_prefix: String,
}

/// Settings of every source.
const OF_ALL: [&str; 2] = ["source-confirm-empty", "source-name-prefix"];

impl SourceKind {
    /// As `--runtime` has it.
    pub fn word(self) -> &'static str {
        match self {
            SourceKind::File => "file",
            SourceKind::Dns => "dns",
        }
    }

    /// Whether it has the setting of this flag.
    pub fn has(self, long: &str) -> bool {
        let own: &[&str] = match self {
            SourceKind::File => &["source-path"],
            SourceKind::Dns => {
                &["source-name", "source-port", "source-resolver", "source-family", "source-ttl-min", "source-ttl-max"]
            }
        };
        OF_ALL.contains(&long) || own.contains(&long)
    }
}

impl SourceSettings {
    /// What is missing or contradicts.
    pub fn check(&self, kind: SourceKind) -> Result<(), String> {
        match kind {
            SourceKind::File if self.path.is_none() => {
                Err("--runtime file needs --source-path FILE: the file that lists the replicas".into())
            }
            SourceKind::File => Ok(()),
            SourceKind::Dns => self.check_dns(),
        }
    }

    fn check_dns(&self) -> Result<(), String> {
        let Some(name) = &self.name else {
            return Err("--runtime dns needs --source-name NAME: the name whose addresses are the replicas".into());
        };
        if !is_dns_name(name) {
            return Err(format!(
                "--source-name {name}: want a name in DNS, like shop.internal or _http._tcp.shop.internal"
            ));
        }
        if self.ttl_min_ms > self.ttl_max_ms {
            let [min, max] = [self.ttl_min_ms, self.ttl_max_ms].map(|ms| units::show(Unit::Duration, ms));
            return Err(format!("--source-ttl-min {min} is over --source-ttl-max {max}"));
        }
        match (self.is_srv(), &self.port) {
            (true, Some(port)) => Err(format!(
                "--source-port {port} has no place beside --source-name {name}: SRV records have the ports"
            )),
            (true, None) => Ok(()),
            (false, None) => Err(format!("--source-name {name} needs --source-port PORT: its addresses have none")),
            (false, Some(port)) if number(port).is_none() => {
                Err(format!("--source-port {port}: want a number from 1 to 65535"))
            }
            (false, Some(_)) => Ok(()),
        }
    }

    /// The name is one of SRV records: `_SERVICE._PROTOCOL.NAME` (RFC 2782).
    pub fn is_srv(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.starts_with('_'))
    }

    pub fn port_number(&self) -> Option<u16> {
        number(self.port.as_ref()?)
    }
}

fn number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port != 0)
}

fn is_dns_name(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(is_allowed)
    };
    bare.len() <= 253 && bare.split('.').all(is_label) && bare.parse::<std::net::IpAddr>().is_err()
}

impl Default for SourceSettings {
    fn default() -> Self {
        unset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_needs_what_it_is_asked_with() {
        let checked = |kind, settings: SourceSettings| settings.check(kind).err().unwrap_or_default();
        let default = SourceSettings::default;
        assert!(checked(SourceKind::File, default()).contains("--source-path"));
        assert_eq!(checked(SourceKind::File, SourceSettings { path: Some("/a".into()), ..default() }), "");
        let dns = |name: &str, port: Option<&str>| {
            let settings = SourceSettings { name: Some(name.into()), port: port.map(Into::into), ..default() };
            checked(SourceKind::Dns, settings)
        };
        assert!(checked(SourceKind::Dns, default()).contains("--source-name"));
        assert_eq!((dns("shop.internal", Some("80")), dns("_http._tcp.shop", None)), (String::new(), String::new()));
        assert!(dns("shop.internal", None).contains("--source-port"));
        assert!(dns("_http._tcp.shop", Some("80")).contains("SRV records have the ports"));
        for (name, port) in
            [("shop..internal", "80"), ("10.0.0.1", "80"), ("a b", "80"), ("shop", "0"), ("shop", "http")]
        {
            assert_ne!(dns(name, Some(port)), "", "{name} {port}");
        }
    }
}
