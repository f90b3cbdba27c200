//! Foreign containers: what their labels ask for, and on which of their addresses they are dialled. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bollard::models::ContainerInspectResponse;

use super::network::Addresses;

pub const ENABLE: &str = "ringway.enable";
const PORT: &str = "ringway.port";
const WEIGHT: &str = "ringway.weight";
const SERVICE: &str = "ringway.service";
const NETWORK: &str = "ringway.network";

/// A higher weight is taken for a typing error.
const WEIGHT_LIMIT: u32 = crate::core::ring::WEIGHT_MAX;

/// A DNS name is not longer.
const NAME_MAX: usize = 253;

/// What the labels of a foreign container ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryLabels {
    /// Its `SERVER_ID`, which it gives in its heartbeats; without one, the container's name.
    pub name: String,
    pub port: u16,
    pub weight: u32,
    pub service: Option<String>,
    pub network: Option<String>,
}

/// Where a foreign container is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialled {
    pub address: SocketAddr,
    /// `None`: on a port of the host.
    pub network: Option<String>,
    pub why: String,
}

/// The networks of this host, for choosing an address.
pub struct HostNetworks<'a> {
    /// The network of the managed replicas.
    pub replicas: &'a str,
    /// Where published ports are dialled.
    pub host: IpAddr,
    /// Whether an address, with the length of its network's prefix in bits, is on a network of this host.
    pub is_attached: &'a dyn Fn(IpAddr, u8) -> bool,
}

impl DiscoveryLabels {
    pub fn is_enabled(labels: &BTreeMap<String, String>) -> bool {
        labels.get(ENABLE).is_some_and(|value| value == "true")
    }

    /// What a container with `ringway.enable=true` asks for, or which label is wrong.
    pub fn read(inspected: &ContainerInspectResponse) -> Result<DiscoveryLabels, String> {
        let config = inspected.config.clone().unwrap_or_default();
        let labels: BTreeMap<String, String> = config.labels.unwrap_or_default().into_iter().collect();
        let name = inspected.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
        let server_id = config.env.unwrap_or_default().into_iter().find_map(|line| {
            let id = line.strip_prefix("SERVER_ID=")?;
            (!id.is_empty()).then(|| id.to_owned())
        });
        let name = server_id.unwrap_or(name);
        if !is_plain(&name) {
            return Err(format!("its SERVER_ID is {name:?}: it has 1 to {NAME_MAX} visible characters of ASCII"));
        }
        let port = match labels.get(PORT) {
            Some(text) => number(PORT, text, u32::from(u16::MAX))?,
            None => only_exposed(config.exposed_ports.as_deref().unwrap_or_default()).ok_or_else(|| {
                format!("label {PORT} is missing, and the image does not expose exactly one TCP port")
            })?,
        };
        Ok(DiscoveryLabels {
            name,
            port: u16::try_from(port).unwrap_or(u16::MAX),
            weight: labels.get(WEIGHT).map_or(Ok(1), |text| number(WEIGHT, text, WEIGHT_LIMIT))?,
            service: labels.get(SERVICE).cloned(),
            network: labels.get(NETWORK).cloned(),
        })
    }

    /// Where it is dialled. `Err` says why it cannot be.
    pub fn address(&self, addresses: &Addresses, from: &HostNetworks) -> Result<Dialled, String> {
        let on = |name: &String, ip: IpAddr, why: &str| Dialled {
            address: SocketAddr::new(ip, self.port),
            network: Some(name.clone()),
            why: format!("network {name}, {why}"),
        };
        let on_host = |port, why| Dialled { address: SocketAddr::new(from.host, port), network: None, why };
        if let Some(name) = &self.network {
            let (ip, _) = addresses.bridge.get(name).ok_or_else(|| self.not_on(name, addresses))?;
            return Ok(on(name, *ip, &format!("as its label {NETWORK} says")));
        }
        if addresses.on_host {
            return Ok(on_host(self.port, "the host's own network".into()));
        }
        let near = |(_, (ip, bits)): &(&String, &(IpAddr, u8))| (from.is_attached)(*ip, *bits);
        let mut reachable = addresses.bridge.iter().filter(near);
        let shared = addresses.bridge.get_key_value(from.replicas).filter(near);
        if let Some((name, (ip, _))) = shared {
            return Ok(on(name, *ip, "that of the replicas"));
        }
        if let Some((name, (ip, _))) = reachable.next() {
            let choice = if reachable.next().is_none() { "the only one" } else { "the first by name" };
            return Ok(on(name, *ip, &format!("{choice} in reach")));
        }
        if let Some(outside) = addresses.published.get(&self.port) {
            return Ok(on_host(*outside, format!("published port {outside}: no network in reach")));
        }
        Err(format!("none of its networks ({}) is in reach, and port {} is not published", list(addresses), self.port))
    }

    fn not_on(&self, network: &str, addresses: &Addresses) -> String {
        format!("label {NETWORK}={network:?}, but it is on {}", list(addresses))
    }
}

fn list(addresses: &Addresses) -> String {
    let names: Vec<&str> = addresses.bridge.keys().map(String::as_str).collect();
    if names.is_empty() { "no network".into() } else { names.join(", ") }
}

fn only_exposed(ports: &[String]) -> Option<u32> {
    let mut tcp = ports.iter().filter_map(|port| port.strip_suffix("/tcp"));
    let only = tcp.next()?.parse().ok()?;
    tcp.next().is_none().then_some(only)
}

/// A name stands in logs, in header fields and on the page.
fn is_plain(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn number(label: &str, text: &str, limit: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|n| (1..=limit).contains(n));
    number.ok_or_else(|| format!("label {label}={text:?} is not a whole number from 1 to {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(labels: &str, env: &str, ports: &str) -> ContainerInspectResponse {
        let text = format!(r#"{{"Name":"/shop-1","Config":{{"Labels":{labels},"Env":{env},"ExposedPorts":{ports}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_labels_are_read() {
        let full = r#"{"ringway.enable":"true","ringway.port":"80","ringway.weight":"3","ringway.service":"shop","ringway.network":"n"}"#;
        let wanted = DiscoveryLabels::read(&inspected(full, "[]", "{}")).unwrap();
        let service = Some("shop".to_owned());
        assert_eq!(
            wanted,
            DiscoveryLabels { name: "shop-1".into(), port: 80, weight: 3, service, network: Some("n".into()) }
        );
        let least =
            DiscoveryLabels::read(&inspected("{}", r#"["SERVER_ID=server4"]"#, r#"{"5000/tcp":{},"53/udp":{}}"#))
                .unwrap();
        assert_eq!((least.name.as_str(), least.port, least.weight), ("server4", 5000, 1));
    }

    #[test]
    fn a_wrong_label_is_named() {
        for (labels, part) in [
            ("{}", "ringway.port is missing"),
            (r#"{"ringway.port":"http"}"#, "ringway.port=\"http\""),
            (r#"{"ringway.port":"0"}"#, "ringway.port=\"0\""),
            (r#"{"ringway.port":"70000"}"#, "ringway.port=\"70000\""),
            (r#"{"ringway.port":"80","ringway.weight":"-1"}"#, "ringway.weight=\"-1\""),
        ] {
            let error = DiscoveryLabels::read(&inspected(labels, "[]", r#"{"1/tcp":{},"2/tcp":{}}"#)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_name_that_could_control_a_terminal_is_refused_and_escaped() {
        let error =
            DiscoveryLabels::read(&inspected("{}", r#"["SERVER_ID=\u001b[2J"]"#, r#"{"80/tcp":{}}"#)).unwrap_err();
        assert!(error.starts_with(r#"its SERVER_ID is "\u{1b}[2J""#), "{error}");
    }

    fn wanted(network: Option<&str>) -> DiscoveryLabels {
        DiscoveryLabels { name: "s".into(), port: 80, weight: 1, service: None, network: network.map(Into::into) }
    }

    fn addresses() -> Addresses {
        let bridge = [("far", [10, 9, 0, 2]), ("near", [10, 1, 0, 2]), ("replicas", [10, 2, 0, 2])];
        Addresses {
            bridge: bridge.map(|(name, ip)| (name.into(), (IpAddr::from(ip), 16))).into(),
            published: BTreeMap::from([(80, 8080)]),
            on_host: false,
        }
    }

    fn chosen(wanted: &DiscoveryLabels, addresses: &Addresses, replicas: &str, reach: &[u8]) -> Result<String, String> {
        let is_attached = |ip: IpAddr, _| matches!(ip, IpAddr::V4(v4) if reach.contains(&v4.octets()[1]));
        let from = HostNetworks { replicas, host: [127, 0, 0, 1].into(), is_attached: &is_attached };
        wanted.address(addresses, &from).map(|Dialled { address, why, .. }| format!("{address} {why}"))
    }

    #[test]
    fn the_label_precedes_the_replicas_network_a_reachable_one_and_a_published_port() {
        let all = &[1, 2, 9];
        let pick = |network: Option<&str>, replicas: &str, reach: &[u8]| {
            chosen(&wanted(network), &addresses(), replicas, reach)
        };
        assert_eq!(
            pick(Some("far"), "replicas", all).unwrap(),
            "10.9.0.2:80 network far, as its label ringway.network says"
        );
        assert_eq!(pick(None, "replicas", all).unwrap(), "10.2.0.2:80 network replicas, that of the replicas");
        assert_eq!(pick(None, "other", &[1]).unwrap(), "10.1.0.2:80 network near, the only one in reach");
        assert_eq!(pick(None, "other", all).unwrap(), "10.9.0.2:80 network far, the first by name in reach");
        assert_eq!(pick(None, "replicas", &[]).unwrap(), "127.0.0.1:8080 published port 8080: no network in reach");
        assert_eq!(
            pick(Some("x"), "replicas", all).unwrap_err(),
            "label ringway.network=\"x\", but it is on far, near, replicas"
        );
        let bare = Addresses::default();
        let error = chosen(&wanted(None), &bare, "replicas", all).unwrap_err();
        assert_eq!(error, "none of its networks (no network) is in reach, and port 80 is not published");
        let on_host = Addresses { on_host: true, ..bare };
        assert_eq!(chosen(&wanted(None), &on_host, "replicas", all).unwrap(), "127.0.0.1:80 the host's own network");
    }
}
