//! A service of Docker Swarm: its running tasks, at their addresses on one of its networks, listed again and again. A manager's
//! engine is asked. It is not asked by bollard, whose tasks have no addresses: the description of the API that it is made
//! from leaves `NetworksAttachments` out.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::follow::{FoundServer, SourceAnswer};
use super::http::{ApiClient, CALL_TIMEOUT, HttpFault};
use crate::control::runtime::Failure;
use crate::settings::{SourceApi, SourceSettings};

/// The engine sends no events about tasks.
const POLL_MS: u64 = 1_000;
/// Where every engine of a Swarm publishes ports: its addresses are no task's own.
const INGRESS: &str = "ingress";

pub struct SwarmSource {
    client: ApiClient,
    path: String,
    name: String,
    network: Option<String>,
    port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmTask {
    #[serde(rename = "NodeID", default)]
    node: String,
    /// Of a replicated service.
    slot: Option<u64>,
    status: SwarmTaskStatus,
    networks_attachments: Option<Vec<TaskNetwork>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmTaskStatus {
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskNetwork {
    network: SwarmNetwork,
    addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmNetwork {
    spec: SwarmNetworkSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmNetworkSpec {
    name: String,
}

impl SwarmSource {
    pub fn open(settings: &SourceSettings) -> Result<SwarmSource, Failure> {
        let name = settings.name.clone().unwrap_or_default();
        let socket = SourceApi::Unix("/var/run/docker.sock".into());
        let api = settings.api.clone().unwrap_or(socket);
        let filters = format!("%7B%22service%22%3A%5B%22{name}%22%5D%2C%22desired-state%22%3A%5B%22running%22%5D%7D");
        Ok(SwarmSource {
            client: ApiClient::open(&api, settings.ca.as_deref(), None)?,
            path: format!("/v1.41/tasks?filters={filters}"),
            name,
            network: settings.network.clone(),
            port: settings.port_number().unwrap_or_default(),
        })
    }

    pub async fn ask(&mut self) -> Result<SourceAnswer, String> {
        self.list().await.map_err(HttpFault::text)
    }

    async fn list(&self) -> Result<SourceAnswer, HttpFault> {
        let tasks: Vec<SwarmTask> = self.client.get(&self.path, CALL_TIMEOUT).await?.json(CALL_TIMEOUT).await?;
        let (servers, note) = self.servers(&tasks);
        Ok(SourceAnswer { note, ..SourceAnswer::whole(servers, POLL_MS) })
    }

    /// Also why a task is left out.
    fn servers(&self, tasks: &[SwarmTask]) -> (Vec<FoundServer>, Option<String>) {
        let (mut found, mut note) = (Vec::new(), None);
        for task in tasks.iter().filter(|task| task.status.state == "running") {
            let place = task.slot.map_or_else(|| task.node.clone(), |slot| slot.to_string());
            let name = format!("{}.{place}", self.name);
            match self.address(task) {
                Some(address) => found.push(FoundServer { name: name.into(), ..FoundServer::at(address, 1) }),
                None => {
                    let wanted = self.network.as_deref().unwrap_or("a network of its own");
                    note = Some(format!("task {name} has no address on {wanted}: it is left out"));
                }
            }
        }
        (found, note)
    }

    fn address(&self, task: &SwarmTask) -> Option<SocketAddr> {
        let is_wanted = |attached: &&TaskNetwork| {
            let name = &attached.network.spec.name;
            self.network.as_ref().map_or(name != INGRESS, |wanted| name == wanted)
        };
        let attached = task.networks_attachments.iter().flatten().find(is_wanted)?;
        let first = attached.addresses.as_ref()?.first()?;
        let ip: IpAddr = first.split_once('/').map_or(&**first, |(ip, _)| ip).parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SourcePort;

    fn found(network: Option<&str>, tasks: &str) -> (Vec<(String, String)>, bool) {
        let port = Some(SourcePort::Number(80));
        let (name, network) = (Some("shop".into()), network.map(Into::into));
        let source = SwarmSource::open(&SourceSettings { name, port, network, ..SourceSettings::default() }).unwrap();
        let (servers, note) = source.servers(&serde_json::from_str::<Vec<SwarmTask>>(tasks).unwrap());
        let servers = servers.into_iter().map(|server| (server.name.to_string(), server.address.to_string()));
        (servers.collect(), note.is_some())
    }

    #[test]
    fn running_tasks_are_servers_at_their_addresses() {
        let tasks = r#"[
            {"ID":"a","Slot":1,"NodeID":"n","Status":{"State":"running"},"NetworksAttachments":[
                {"Network":{"Spec":{"Name":"ingress"}},"Addresses":["10.0.0.9/24"]},
                {"Network":{"Spec":{"Name":"back"}},"Addresses":["10.0.1.3/24"]}]},
            {"ID":"b","Slot":2,"NodeID":"n","Status":{"State":"starting"},"NetworksAttachments":[
                {"Network":{"Spec":{"Name":"back"}},"Addresses":["10.0.1.4/24"]}]},
            {"ID":"c","NodeID":"n7","Status":{"State":"running"},"NetworksAttachments":[
                {"Network":{"Spec":{"Name":"back"}},"Addresses":["10.0.1.5/24"]}]}]"#;
        let both = [("shop.1".into(), "10.0.1.3:80".into()), ("shop.n7".into(), "10.0.1.5:80".into())];
        assert_eq!(found(None, tasks), (both.to_vec(), false));
        assert_eq!(found(Some("back"), tasks).0, both);
        assert_eq!(found(Some("front"), tasks), (Vec::new(), true), "and that is told");
    }
}
