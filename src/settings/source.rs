//! The table `[source]`: where the replicas of a service are found that others start. Which of its keys a source has is stated
//! here; no file is opened and nothing is asked.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::{units, unset, values};
use crate::core::limits::Unit;

/// What lists the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    File,
    Dns,
    Consul,
    Kubernetes,
    Swarm,
}

/// Where the API of a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceApi {
    Unix(PathBuf),
    /// `base` stands before each path.
    Http {
        host: String,
        port: u16,
        base: String,
    },
    Https {
        host: String,
        port: u16,
        base: String,
    },
}

/// The port of the replicas: a number, or what a source calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePort {
    Number(u16),
    Name(String),
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
    /// What the source calls the service: a service of Consul, Kubernetes or Swarm. --runtime dns: a name that has addresses,
    /// or one of SRV records, as _http._tcp.shop.internal
    #[arg(id = "source-name", long, value_name = "NAME")]
    pub name: Option<String>,
    /// The port of each replica, where the source does not tell it (dns, swarm); its name or number, where there are several
    /// (kubernetes)
    #[arg(id = "source-port", long, value_name = "PORT", value_parser = values::source_port)]
    pub port: Option<SourcePort>,
    /// Where the source is asked: http://HOST:PORT, https://HOST:PORT or unix:/PATH [default: the Consul agent at
    /// http://127.0.0.1:8500; the API server of the Kubernetes cluster that Ringway runs in; unix:/var/run/docker.sock]
    #[arg(id = "source-api", long, value_name = "URL", value_parser = values::source_api)]
    pub api: Option<SourceApi>,
    /// A file with the authorities that issued the certificate of an API over https [default: that of the service account in
    /// a Kubernetes cluster]
    #[arg(id = "source-ca", long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A file with the token that is sent to the source (consul, kubernetes), read for each question [default: that of the
    /// service account in a Kubernetes cluster]
    #[arg(id = "source-token-file", long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The namespace of a service of Kubernetes [default: that of the service account, else default]
    #[arg(id = "source-namespace", long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// A tag that instances in Consul must have
    #[arg(id = "source-tag", long, value_name = "TAG")]
    pub tag: Option<String>,
    /// The network of a Swarm service on which its tasks are dialled [default: the first that is not ingress]
    #[arg(id = "source-network", long, value_name = "NAME")]
    pub network: Option<String>,
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
            SourceKind::Consul => "consul",
            SourceKind::Kubernetes => "kubernetes",
            SourceKind::Swarm => "swarm",
        }
    }

    /// Whether it has the setting of this flag.
    pub fn has(self, long: &str) -> bool {
        let own: &[&str] = match self {
            SourceKind::File => &["source-path"],
            SourceKind::Dns => {
                &["source-name", "source-port", "source-resolver", "source-family", "source-ttl-min", "source-ttl-max"]
            }
            SourceKind::Consul => {
                &["source-name", "source-api", "source-ca", "source-token-file", "source-tag", "source-family"]
            }
            SourceKind::Kubernetes => &[
                "source-name",
                "source-port",
                "source-api",
                "source-ca",
                "source-token-file",
                "source-namespace",
                "source-family",
            ],
            SourceKind::Swarm => &["source-name", "source-port", "source-api", "source-network"],
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
            SourceKind::Consul | SourceKind::Kubernetes | SourceKind::Swarm => self.check_api(kind),
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
            (true, None) | (false, Some(SourcePort::Number(_))) => Ok(()),
            (false, None) => Err(format!("--source-name {name} needs --source-port PORT: its addresses have none")),
            (false, Some(port)) => {
                Err(format!("--source-port {port}: want a number from 1 to 65535 with --runtime dns"))
            }
        }
    }

    /// The name becomes a part of a URL.
    fn check_api(&self, kind: SourceKind) -> Result<(), String> {
        let word = kind.word();
        match &self.name {
            None => return Err(format!("--runtime {word} needs --source-name NAME: what {word} calls the service")),
            Some(name) if !is_plain(name) => {
                return Err(format!("--source-name {name}: want the name of a service in {word}, like shop"));
            }
            Some(_) => {}
        }
        if let Some(namespace) = self.namespace.as_ref().filter(|namespace| !is_plain(namespace)) {
            return Err(format!("--source-namespace {namespace}: want the name of a namespace, like default"));
        }
        match (kind, &self.port, &self.api) {
            (SourceKind::Swarm, None, _) => {
                Err("--runtime swarm needs --source-port PORT: the port of each task".into())
            }
            (SourceKind::Swarm, Some(SourcePort::Name(port)), _) => {
                Err(format!("--source-port {port}: want a number from 1 to 65535 with --runtime swarm"))
            }
            (_, _, Some(SourceApi::Https { .. })) if self.ca.is_none() => {
                Err("--source-api https needs --source-ca FILE: the authorities that issued its certificate".into())
            }
            _ => Ok(()),
        }
    }

    /// The name is one of SRV records: `_SERVICE._PROTOCOL.NAME` (RFC 2782).
    pub fn is_srv(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.starts_with('_'))
    }

    pub fn port_number(&self) -> Option<u16> {
        match &self.port {
            Some(SourcePort::Number(number)) => Some(*number),
            _ => None,
        }
    }
}

impl AddressFamily {
    pub fn takes(self, ip: IpAddr) -> bool {
        match self {
            AddressFamily::Any => true,
            AddressFamily::Ipv4 => ip.is_ipv4(),
            AddressFamily::Ipv6 => ip.is_ipv6(),
        }
    }
}

impl Display for SourcePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourcePort::Number(number) => number.fmt(f),
            SourcePort::Name(name) => name.fmt(f),
        }
    }
}

impl Display for SourceApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceApi::Unix(path) => write!(f, "unix:{}", path.display()),
            SourceApi::Http { host, port, base } => write!(f, "http://{host}:{port}{base}"),
            SourceApi::Https { host, port, base } => write!(f, "https://{host}:{port}{base}"),
        }
    }
}

impl FromStr for SourceApi {
    type Err = ();

    fn from_str(text: &str) -> Result<SourceApi, ()> {
        match text.split_once(':').ok_or(())? {
            ("unix", path) if path.starts_with('/') => Ok(SourceApi::Unix(path.into())),
            (scheme @ ("http" | "https"), rest) => {
                let rest = rest.strip_prefix("//").ok_or(())?;
                let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let default = if scheme == "http" { 80 } else { 443 };
                let bracket = authority.rfind(']').map_or(0, |at| at + 1);
                let (host, port) = match authority[bracket..].rsplit_once(':') {
                    Some((_, port)) => (&authority[..authority.len() - port.len() - 1], port.parse().map_err(drop)?),
                    None => (authority, default),
                };
                let (host, base) = (host.to_owned(), base.trim_end_matches('/').to_owned());
                let is_base = base.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
                if !is_host(&host) || !is_base || port == 0 {
                    return Err(());
                }
                Ok(if scheme == "http" {
                    SourceApi::Http { host, port, base }
                } else {
                    SourceApi::Https { host, port, base }
                })
            }
            _ => Err(()),
        }
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => values::host_name(host).is_ok(),
    }
}

/// Letters, digits, '-', '_' and '.', and not only those.
fn is_plain(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&name.len()) && name.bytes().all(is_allowed) && name.starts_with(|c: char| c.is_alphanumeric())
}

fn is_dns_name(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(is_allowed)
    };
    bare.len() <= 253 && bare.split('.').all(is_label) && bare.parse::<IpAddr>().is_err()
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
        let dns = |name: &str, port: Option<SourcePort>| {
            checked(SourceKind::Dns, SourceSettings { name: Some(name.into()), port, ..default() })
        };
        let number = || Some(SourcePort::Number(80));
        assert!(checked(SourceKind::Dns, default()).contains("--source-name"));
        assert_eq!((dns("shop.internal", number()), dns("_http._tcp.shop", None)), (String::new(), String::new()));
        assert!(dns("shop.internal", None).contains("--source-port"));
        assert!(dns("shop.internal", Some(SourcePort::Name("http".into()))).contains("want a number"));
        assert!(dns("_http._tcp.shop", number()).contains("SRV records have the ports"));
        for name in ["shop..internal", "10.0.0.1", "a b", ""] {
            assert_ne!(dns(name, number()), "", "{name}");
        }
    }

    #[test]
    fn an_api_is_asked_for_a_service_by_name() {
        for kind in [SourceKind::Consul, SourceKind::Kubernetes, SourceKind::Swarm] {
            let with = |name: &str, api: &str| {
                let port = Some(SourcePort::Number(80));
                let api = api.parse().ok();
                SourceSettings { name: Some(name.into()), port, api, ..SourceSettings::default() }.check(kind)
            };
            assert!(SourceSettings::default().check(kind).is_err_and(|why| why.contains("--source-name")));
            assert_eq!(with("shop", "http://127.0.0.1:8500"), Ok(()));
            assert!(with("../shop", "http://127.0.0.1:8500").is_err() && with("a/b?c", "").is_err());
            assert!(with("shop", "https://consul.internal").is_err_and(|why| why.contains("--source-ca")));
        }
    }

    #[test]
    fn an_api_is_a_url_or_a_socket() {
        for (text, read) in [
            ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("https://consul.internal/base/", "https://consul.internal:443/base"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://[::1]:8001", "http://[::1]:8001"),
            ("unix:/run/docker.sock", "unix:/run/docker.sock"),
        ] {
            assert_eq!(text.parse::<SourceApi>().map(|api| api.to_string()), Ok(read.into()));
        }
        for wrong in [
            "",
            "127.0.0.1:8500",
            "http:/x",
            "http://",
            "http://a:x",
            "http://a:0",
            "unix:run",
            "ftp://a",
            "http://a/?b",
        ] {
            assert!(wrong.parse::<SourceApi>().is_err(), "{wrong}");
        }
    }
}
