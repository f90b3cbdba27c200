//! A Service of Kubernetes: the ready endpoints of its EndpointSlices, listed and watched. A slice is a part of the list that
//! changes by itself. Which pods run and how many is Kubernetes' decision.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::follow::{AnswerContent, Cursor, FoundServer, ListParts, SourceAnswer};
use super::http::{AnswerLines, ApiClient, ApiToken, CALL_TIMEOUT, HttpFault};
use crate::control::runtime::{Failure, FailureKind};
use crate::settings::{AddressFamily, SourceApi, SourcePort, SourceSettings};

/// What Kubernetes puts into each container for this.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A watch is asked to end after this and is begun anew where it ended: one that died unnoticed is noticed by then.
const WATCH: Duration = Duration::from_secs(120);
const WATCH_SLACK: Duration = Duration::from_secs(10);

pub struct KubernetesSource {
    client: ApiClient,
    /// With the selector of the service's slices.
    path: String,
    port: Option<SourcePort>,
    family: AddressFamily,
    watch: Option<Watch>,
}

struct Watch {
    lines: AnswerLines,
    until: Instant,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceList {
    metadata: ObjectMeta,
    #[serde(default)]
    items: Vec<EndpointSlice>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ObjectMeta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointSlice {
    metadata: ObjectMeta,
    // A list that is empty may be null.
    endpoints: Option<Vec<SliceEndpoint>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: EndpointConditions,
    target_ref: Option<TargetRef>,
}

#[derive(Deserialize, Default)]
struct EndpointConditions {
    /// Unknown is to be taken for ready.
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct TargetRef {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct SlicePort {
    #[serde(default)]
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

/// One line of a watch.
#[derive(Deserialize)]
struct WatchEvent {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

impl KubernetesSource {
    /// Without `api`, that of the cluster that this process runs in.
    pub fn open(settings: &SourceSettings) -> Result<KubernetesSource, Failure> {
        let SourceSettings { name, namespace, port, family, token_file, ca, .. } = settings;
        let (api, in_cluster) = match &settings.api {
            Some(api) => (api.clone(), None),
            None => (api_of_cluster()?, Some(Path::new(SERVICE_ACCOUNT))),
        };
        let of_account = |file: &str| in_cluster.map(|folder| folder.join(file));
        let token = token_file.clone().or_else(|| of_account("token")).map(ApiToken::bearer);
        let ca = ca.clone().or_else(|| of_account("ca.crt"));
        let own = || of_account("namespace").and_then(|file: PathBuf| std::fs::read_to_string(file).ok());
        let namespace = namespace.clone().or_else(own).map(|namespace| namespace.trim().to_owned());
        let namespace = namespace.unwrap_or_else(|| "default".into());
        let name = name.clone().unwrap_or_default();
        Ok(KubernetesSource {
            client: ApiClient::open(&api, ca.as_deref(), token)?,
            path: format!(
                "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
                 ?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
            ),
            port: port.clone(),
            family: *family,
            watch: None,
        })
    }

    pub async fn ask(&mut self, cursor: Option<&Cursor>) -> Result<SourceAnswer, String> {
        let outcome = match cursor {
            None => self.list().await,
            Some(cursor) => self.change(cursor).await,
        };
        outcome.map_err(|fault| {
            self.watch = None;
            fault.text()
        })
    }

    async fn list(&mut self) -> Result<SourceAnswer, HttpFault> {
        self.watch = None;
        let list: SliceList = self.client.get(&self.path, CALL_TIMEOUT).await?.json(CALL_TIMEOUT).await?;
        let (mut parts, mut note) = (ListParts::new(), None);
        for slice in list.items {
            let (servers, wrong) = self.servers(&slice);
            note = note.or(wrong);
            parts.insert(slice.metadata.name.into(), servers);
        }
        let cursor = Some(Cursor(list.metadata.resource_version));
        Ok(SourceAnswer { content: AnswerContent::Whole(parts), cursor, again_ms: 0, note })
    }

    /// The next event of the watch from the cursor on.
    async fn change(&mut self, cursor: &Cursor) -> Result<SourceAnswer, HttpFault> {
        let mut watch = match self.watch.take() {
            Some(watch) => watch,
            None => match self.begin_watch(cursor).await {
                // It keeps no changes that are so old.
                Err(HttpFault::Status(StatusCode::GONE, _)) => return Ok(unchanged(None)),
                begun => begun?,
            },
        };
        let silent = |_| HttpFault::Other("its watch did not end in time: the connection is dead".into());
        let line = timeout_at(watch.until, watch.lines.next()).await.map_err(silent)??;
        let Some(line) = line else { return Ok(unchanged(Some(cursor.clone()))) };
        let wrong = |error| HttpFault::Other(format!("its watch sent something else than an event: {error}"));
        let event: WatchEvent = serde_json::from_slice(&line).map_err(wrong)?;
        self.watch = Some(watch);
        self.take(event, cursor).map_err(|why| HttpFault::Other(format!("its watch sent an error: {why}")))
    }

    async fn begin_watch(&self, cursor: &Cursor) -> Result<Watch, HttpFault> {
        let (version, seconds) = (&cursor.0, WATCH.as_secs());
        let path = format!(
            "{}&watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}",
            self.path
        );
        let until = Instant::now() + WATCH + WATCH_SLACK;
        Ok(Watch { lines: self.client.get(&path, CALL_TIMEOUT).await?.lines(), until })
    }

    /// `Err`: what the API server says is wrong.
    fn take(&mut self, WatchEvent { kind, object }: WatchEvent, cursor: &Cursor) -> Result<SourceAnswer, String> {
        if kind == "ERROR" {
            self.watch = None;
            let is_gone = object["code"] == StatusCode::GONE.as_u16();
            return if is_gone { Ok(unchanged(None)) } else { Err(object["message"].to_string()) };
        }
        let slice: EndpointSlice = serde_json::from_value(object).map_err(|error| error.to_string())?;
        let version = &slice.metadata.resource_version;
        let cursor = if version.is_empty() { cursor.clone() } else { Cursor(version.clone()) };
        let part = |servers| AnswerContent::Part(Arc::from(slice.metadata.name.as_str()), servers);
        let (content, note) = match &*kind {
            "ADDED" | "MODIFIED" => {
                let (servers, note) = self.servers(&slice);
                (part(servers), note)
            }
            "DELETED" => (part(Vec::new()), None),
            // A bookmark has no more than a version, and other kinds are of later APIs.
            _ => (AnswerContent::Unchanged, None),
        };
        Ok(SourceAnswer { content, cursor: Some(cursor), again_ms: 0, note })
    }

    /// Also why it has none, where no port is the right one.
    fn servers(&self, slice: &EndpointSlice) -> (Vec<FoundServer>, Option<String>) {
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        let Some(port) = port_of(slice.ports.as_deref().unwrap_or_default(), self.port.as_ref()) else {
            let wanted = self.port.as_ref().map_or_else(|| "one port".to_owned(), |port| format!("a TCP port {port}"));
            let note = format!("slice {} has not {wanted}: its endpoints are left out", slice.metadata.name);
            return (Vec::new(), (!endpoints.is_empty()).then_some(note));
        };
        let ready = endpoints.iter().filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
        let server = |endpoint: &SliceEndpoint| {
            // Several addresses of one endpoint are the same server.
            let ip = endpoint.addresses.first()?.parse::<IpAddr>().ok().filter(|ip| self.family.takes(*ip))?;
            let server = FoundServer::at(SocketAddr::new(ip, port), 1);
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod" && !target.name.is_empty());
            Some(match pod {
                Some(pod) => FoundServer { name: pod.name.as_str().into(), ..server },
                None => server,
            })
        };
        (ready.filter_map(server).collect(), None)
    }
}

fn unchanged(cursor: Option<Cursor>) -> SourceAnswer {
    SourceAnswer { content: AnswerContent::Unchanged, cursor, again_ms: 0, note: None }
}

fn port_of(ports: &[SlicePort], wanted: Option<&SourcePort>) -> Option<u16> {
    let is_tcp = |port: &&SlicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let mut tcp = ports.iter().filter(is_tcp);
    let found = match wanted {
        Some(SourcePort::Name(name)) => tcp.find(|port| port.name.as_ref() == Some(name)),
        Some(SourcePort::Number(number)) => tcp.find(|port| port.port == Some(*number)),
        None => tcp.next().filter(|_| tcp.next().is_none()),
    };
    found?.port
}

fn api_of_cluster() -> Result<SourceApi, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"));
    let outside = || Failure {
        kind: FailureKind::Refused,
        message:
            "--runtime kubernetes outside of a cluster needs --source-api URL, as http://127.0.0.1:8001 of kubectl \
                  proxy"
                .into(),
    };
    let host = host.ok_or_else(outside)?;
    let port = port.and_then(|port| port.parse().ok()).unwrap_or(443);
    Ok(SourceApi::Https { host, port, base: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(port: Option<SourcePort>, family: AddressFamily) -> KubernetesSource {
        let api = "http://127.0.0.1:8001".parse().ok();
        let name = Some("shop".into());
        KubernetesSource::open(&SourceSettings { api, name, port, family, ..SourceSettings::default() }).unwrap()
    }

    const SLICE: &str = r#"{"metadata":{"name":"shop-x","resourceVersion":"7"},"addressType":"IPv4",
        "endpoints":[
            {"addresses":["10.0.0.1"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":"shop-0"}},
            {"addresses":["10.0.0.2"],"conditions":{"ready":false},"targetRef":{"kind":"Pod","name":"shop-1"}},
            {"addresses":["10.0.0.3"],"conditions":{}},
            {"addresses":["fd00::4"]}],
        "ports":[{"name":"http","port":8080,"protocol":"TCP"},{"name":"dns","port":53,"protocol":"UDP"}]}"#;

    fn found(source: &KubernetesSource) -> Vec<(String, String)> {
        let (servers, _) = source.servers(&serde_json::from_str(SLICE).unwrap());
        servers.into_iter().map(|server| (server.name.to_string(), server.address.to_string())).collect()
    }

    #[test]
    fn ready_endpoints_are_servers_under_the_names_of_their_pods() {
        let all = found(&source(None, AddressFamily::Any));
        let expected =
            [("shop-0", "10.0.0.1:8080"), ("10.0.0.3:8080", "10.0.0.3:8080"), ("[fd00::4]:8080", "[fd00::4]:8080")];
        assert_eq!(all, expected.map(|(name, address)| (name.to_owned(), address.to_owned())));
        assert_eq!(found(&source(None, AddressFamily::Ipv4)).len(), 2);
    }

    #[test]
    fn a_port_is_named_numbered_or_the_only_one() {
        let named = |name: &str| source(Some(SourcePort::Name(name.into())), AddressFamily::Any);
        assert_eq!((found(&named("http")).len(), found(&named("dns")).len()), (3, 0));
        assert_eq!(found(&source(Some(SourcePort::Number(8080)), AddressFamily::Any)).len(), 3);
        let (_, note) = named("web").servers(&serde_json::from_str(SLICE).unwrap());
        assert!(note.is_some_and(|note| note.contains("shop-x has not a TCP port web")));
    }

    #[test]
    fn events_change_parts_and_an_old_version_asks_for_the_whole_list() {
        let mut source = source(None, AddressFamily::Any);
        let mut take = |kind: &str, object: &str| {
            let event = WatchEvent { kind: kind.into(), object: serde_json::from_str(object).unwrap() };
            source.take(event, &Cursor("1".into()))
        };
        let changed = take("MODIFIED", SLICE).unwrap();
        assert_eq!(changed.cursor, Some(Cursor("7".into())));
        assert!(
            matches!(changed.content, AnswerContent::Part(name, servers) if &*name == "shop-x" && servers.len() == 3)
        );
        let gone = take("DELETED", SLICE).unwrap();
        assert!(matches!(gone.content, AnswerContent::Part(_, servers) if servers.is_empty()));
        let bookmark = take("BOOKMARK", r#"{"metadata":{"resourceVersion":"9"}}"#).unwrap();
        assert_eq!((bookmark.content, bookmark.cursor), (AnswerContent::Unchanged, Some(Cursor("9".into()))));
        assert_eq!(take("ERROR", r#"{"code":410,"message":"too old"}"#).unwrap(), unchanged(None));
        assert!(take("ERROR", r#"{"code":500,"message":"no"}"#).is_err());
    }
}
