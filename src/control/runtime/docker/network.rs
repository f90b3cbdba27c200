//! The replicas' network, and where a container is dialled: on its own address, or on a published port.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use bollard::models::{ContainerInspectResponse, Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use ipnet::IpNet;

use super::engine::{Engine, status};
use super::plan;
use crate::control::runtime::{Failure, FailureKind};
use crate::settings::{DockerSettings, Reach};

/// The engine creates this file in every container.
const IN_A_CONTAINER: &str = "/.dockerenv";

/// The network as the engine has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    pub id: String,
    pub subnet: Option<IpNet>,
    /// Created by a Ringway of this cluster.
    pub is_managed: bool,
}

/// The addresses of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By network name.
    pub bridge: BTreeMap<String, (IpAddr, u8)>,
    /// Container port to host port.
    pub published: BTreeMap<u16, u16>,
    /// On the host's own network: it has no address of its own.
    pub on_host: bool,
}

/// The network of `settings`, created if it does not exist.
pub async fn ensure(engine: &Engine, settings: &DockerSettings) -> Result<Network, Failure> {
    if matches!(settings.network.as_str(), "host" | "none") {
        let message =
            format!("containers on the network {:?} have no address: name a bridge network", settings.network);
        return Err(Failure { kind: FailureKind::Refused, message });
    }
    let found = match inspect(engine, settings).await? {
        Some(found) => found,
        None => {
            create(engine, settings).await?;
            inspect(engine, settings).await?.ok_or_else(|| Failure {
                kind: FailureKind::Refused,
                message: format!("the network {} was removed as soon as it was created", settings.network),
            })?
        }
    };
    if let (Some(configured), Some(actual)) = (&settings.subnet, found.subnet)
        && configured.parse().ok() != Some(actual)
    {
        log::warn!("network {} exists with subnet {actual}: {configured} is not used", found.name);
    }
    Ok(found)
}

async fn inspect(engine: &Engine, settings: &DockerSettings) -> Result<Option<Network>, Failure> {
    let name = &settings.network;
    match engine.client.inspect_network(name, None).await {
        Ok(found) => Ok(Some(network(settings, found))),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(engine.failure(&format!("inspect the network {name}"), &error)),
    }
}

async fn create(engine: &Engine, settings: &DockerSettings) -> Result<(), Failure> {
    let pool = |subnet: &String| IpamConfig { subnet: Some(subnet.clone()), ..Default::default() };
    let ipam = |subnet: &String| Ipam { config: Some(vec![pool(subnet)]), ..Default::default() };
    let request = NetworkCreateRequest {
        name: settings.network.clone(),
        driver: Some("bridge".into()),
        ipam: settings.subnet.as_ref().map(ipam),
        labels: Some(HashMap::from([(plan::CLUSTER.into(), settings.cluster.clone())])),
        ..Default::default()
    };
    match engine.client.create_network(request).await {
        Ok(_) => {
            log::info!("created the network {}", settings.network);
            Ok(())
        }
        // Another process created it a moment ago.
        Err(error) if status(&error) == Some(409) => Ok(()),
        Err(error) => Err(engine.failure(&format!("create the network {}", settings.network), &error)),
    }
}

fn network(settings: &DockerSettings, found: NetworkInspect) -> Network {
    let pools = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let subnet = pools.iter().filter_map(|pool| pool.subnet.as_deref()).find_map(|subnet| subnet.parse().ok());
    let cluster = found.labels.unwrap_or_default().remove(plan::CLUSTER);
    Network {
        name: found.name.unwrap_or_else(|| settings.network.clone()),
        id: found.id.unwrap_or_default(),
        subnet,
        is_managed: cluster.as_ref() == Some(&settings.cluster),
    }
}

/// Whether this machine (or container) is on `subnet`: then the kernel's source address for it lies inside it. Nothing is
/// sent. With Docker Desktop, or an engine on another machine, the source address is one of another network.
pub fn is_attached(subnet: IpNet) -> bool {
    let source = |host: IpAddr| {
        let any: IpAddr = if host.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((host, 9))?;
        socket.local_addr()
    };
    // A kernel may refuse the network's own address as a broadcast address; `hosts` begins behind it.
    subnet.hosts().next().is_some_and(|host| source(host).is_ok_and(|local| subnet.contains(&local.ip())))
}

/// Whether an address is one of this machine (or container).
pub fn is_own(address: IpAddr) -> bool {
    !address.is_loopback() && UdpSocket::bind((address, 0)).is_ok()
}

/// Decides at the start how the replicas are dialled, and logs why.
pub fn choose(reach: Reach, network: &Network) -> Result<Reach, Failure> {
    let attached = network.subnet.is_some_and(is_attached);
    let subnet = network.subnet.map_or("no subnet".into(), |subnet| subnet.to_string());
    if reach == Reach::Auto && !attached && std::path::Path::new(IN_A_CONTAINER).exists() {
        let message = format!("this container is not on the network {0}: start it with --network {0}", network.name);
        return Err(Failure { kind: FailureKind::Refused, message });
    }
    let (chosen, why) = match (reach, attached) {
        (Reach::Auto, true) => (Reach::Bridge, format!("this host is on {} ({subnet})", network.name)),
        (Reach::Auto, false) => (Reach::Published, format!("this host is not on {} ({subnet})", network.name)),
        (configured, _) => (configured, "as configured".to_owned()),
    };
    let how = if chosen == Reach::Bridge { "their bridge address" } else { "a published port" };
    log::info!("replicas are dialled on {how}: {why}");
    Ok(chosen)
}

impl Addresses {
    pub fn read(inspected: &ContainerInspectResponse) -> Addresses {
        let settings = inspected.network_settings.clone().unwrap_or_default();
        let mode = inspected.host_config.as_ref().and_then(|host| host.network_mode.as_deref());
        let bridge = settings.networks.unwrap_or_default().into_iter().filter_map(|(name, endpoint)| {
            let address = endpoint.ip_address.filter(|ip| !ip.is_empty())?.parse().ok()?;
            Some((name, (address, u8::try_from(endpoint.ip_prefix_len.unwrap_or(32)).unwrap_or(32))))
        });
        let published = settings.ports.unwrap_or_default().into_iter().filter_map(|(port, bindings)| {
            let inside = port.strip_suffix("/tcp")?.parse().ok()?;
            let outside = bindings?.into_iter().find_map(|binding| binding.host_port?.parse().ok())?;
            Some((inside, outside))
        });
        Addresses { bridge: bridge.collect(), published: published.collect(), on_host: mode == Some("host") }
    }

    /// Where a managed replica is dialled.
    pub fn endpoint(&self, network: &str, port: u16, reach: Reach, host: IpAddr) -> Option<SocketAddr> {
        match reach {
            Reach::Published => self.published.get(&port).map(|outside| SocketAddr::new(host, *outside)),
            Reach::Bridge | Reach::Auto => {
                // One that was kept from a run with another network is on that.
                let on = self.bridge.get(network).or_else(|| self.bridge.values().next());
                on.map(|(ip, _)| SocketAddr::new(*ip, port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_on_the_loopback_net_and_not_on_a_documentation_net() {
        assert!(is_attached("127.0.0.1/8".parse().unwrap()));
        assert!(!is_attached("203.0.113.1/24".parse().unwrap()));
    }

    fn addresses() -> Addresses {
        let inspected = serde_json::from_str(
            r#"{"HostConfig":{"NetworkMode":"net"},"NetworkSettings":{
                "Ports":{"5000/tcp":[{"HostIp":"127.0.0.1","HostPort":"49153"}],"53/udp":null},
                "Networks":{"net":{"IPAddress":"10.1.2.3","IPPrefixLen":24},"off":{"IPAddress":""}}}}"#,
        );
        Addresses::read(&inspected.unwrap())
    }

    #[test]
    fn a_container_is_dialled_on_its_bridge_address_or_its_published_port() {
        let (addresses, host) = (addresses(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(addresses.endpoint("net", 5000, Reach::Bridge, host), Some("10.1.2.3:5000".parse().unwrap()));
        assert_eq!(addresses.endpoint("net", 5000, Reach::Published, host), Some("127.0.0.1:49153".parse().unwrap()));
        assert_eq!(addresses.endpoint("off", 5000, Reach::Bridge, host), Some("10.1.2.3:5000".parse().unwrap()));
        assert_eq!(Addresses::default().endpoint("net", 5000, Reach::Bridge, host), None);
        assert_eq!(addresses.endpoint("net", 80, Reach::Published, host), None);
    }
}
